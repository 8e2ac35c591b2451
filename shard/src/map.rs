//! The checked map from key to shard.
//!
//! A [`ShardMap`] can only be built whole: its ranges cover the key space exactly once. Every router holds one, replaces
//! it when the directory changes, and goes on using it when the directory is away.

use serde::Serialize;

use crate::ids::{Epoch, ShardName, UserKey};
use crate::range::KeyRange;

/// One range of the map: who owns it, and since which epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// The keys.
    pub range: KeyRange,
    /// The shard that owns them.
    pub shard: ShardName,
    /// Counts the owners this range has had.
    pub epoch: Epoch,
}

/// Why a list of assignments is not a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// No range at all.
    #[error("there are no key ranges")]
    Empty,
    /// Keys without an owner.
    #[error("keys {from}..{to} belong to no shard")]
    Gap {
        /// First key without an owner.
        from: u64,
        /// Where the next range begins, or the end of the key space.
        to: String,
    },
    /// Keys with two owners.
    #[error("ranges {first} and {second} overlap")]
    Overlap {
        /// The earlier range.
        first: KeyRange,
        /// The one that begins inside it.
        second: KeyRange,
    },
}

/// Which shard owns which keys: complete and without overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ShardMap {
    assignments: Vec<Assignment>,
}

impl ShardMap {
    /// Builds the map, in any order of `assignments`.
    ///
    /// # Errors
    /// When a key has no owner or two.
    pub fn new(mut assignments: Vec<Assignment>) -> Result<Self, MapError> {
        assignments.sort_by_key(|a| a.range.start);
        let mut covered_to = Some(0u64); // the first key not yet covered; None once the end of the space is
        let mut previous: Option<&Assignment> = None;
        for assignment in &assignments {
            let range = assignment.range;
            match (covered_to, previous) {
                (Some(next), _) if range.start == next => {}
                (Some(next), _) if range.start > next => {
                    return Err(MapError::Gap {
                        from: next,
                        to: range.start.to_string(),
                    });
                }
                (_, Some(previous)) => {
                    return Err(MapError::Overlap {
                        first: previous.range,
                        second: range,
                    });
                }
                (_, None) => return Err(MapError::Empty),
            }
            covered_to = range.end;
            previous = Some(assignment);
        }
        match (covered_to, previous) {
            (_, None) => Err(MapError::Empty),
            (Some(from), _) => Err(MapError::Gap {
                from,
                to: String::new(),
            }),
            (None, _) => Ok(Self { assignments }),
        }
    }

    /// The assignment that `key` falls into.
    #[must_use]
    pub fn locate(&self, key: UserKey) -> &Assignment {
        let after = self.assignments.partition_point(|a| a.range.start <= key.0);
        &self.assignments[after - 1] // the first range starts at 0, so `after` is at least 1
    }

    /// All assignments in key order.
    #[must_use]
    pub fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    /// The ranges of one shard, in key order.
    pub fn ranges_of<'a>(&'a self, shard: &'a ShardName) -> impl Iterator<Item = &'a Assignment> {
        self.assignments.iter().filter(move |a| a.shard == *shard)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{KeyFunction, UserId};

    fn assignment(start: u64, end: Option<u64>, shard: &str) -> Assignment {
        Assignment {
            range: KeyRange { start, end },
            shard: ShardName::new(shard).unwrap(),
            epoch: Epoch(1),
        }
    }

    #[test]
    fn the_range_table_of_a_numeric_deployment() {
        // 0–100,000 → db1, 100,001–200,000 → db2, … 400,001–500,000 → db5, and db5 takes what grows beyond.
        let bounds = [0, 100_001, 200_001, 300_001, 400_001];
        let assignments = (0..5).map(|i| {
            assignment(
                bounds[i],
                bounds.get(i + 1).copied(),
                &format!("db{}", i + 1),
            )
        });
        let map = ShardMap::new(assignments.collect()).unwrap();
        let shard_of = |id: &str| {
            let key = KeyFunction::Numeric.key(&UserId::new(id).unwrap()).unwrap();
            map.locate(key).shard.as_str().to_owned()
        };
        let expected = [
            ("0", "db1"),
            ("100000", "db1"),
            ("100001", "db2"),
            ("200000", "db2"),
            ("200001", "db3"),
            ("300000", "db3"),
            ("300001", "db4"),
            ("400000", "db4"),
            ("400001", "db5"),
            ("500000", "db5"),
            ("9000000", "db5"),
        ];
        for (id, shard) in expected {
            assert_eq!(shard_of(id), shard, "user {id}");
        }
    }

    #[test]
    fn gaps_and_overlaps_are_refused() {
        assert_eq!(ShardMap::new(vec![]), Err(MapError::Empty));
        let gap_at_start = ShardMap::new(vec![assignment(1, None, "a")]);
        assert_eq!(
            gap_at_start,
            Err(MapError::Gap {
                from: 0,
                to: "1".into()
            })
        );
        let gap_at_end = ShardMap::new(vec![assignment(0, Some(7), "a")]);
        assert_eq!(
            gap_at_end,
            Err(MapError::Gap {
                from: 7,
                to: String::new()
            })
        );
        let overlap = ShardMap::new(vec![assignment(0, Some(7), "a"), assignment(6, None, "b")]);
        assert!(matches!(overlap, Err(MapError::Overlap { .. })));
        let after_the_end = ShardMap::new(vec![assignment(0, None, "a"), assignment(6, None, "b")]);
        assert!(matches!(after_the_end, Err(MapError::Overlap { .. })));
        let twice = ShardMap::new(vec![assignment(0, None, "a"), assignment(0, None, "b")]);
        assert!(matches!(twice, Err(MapError::Overlap { .. })));
    }

    proptest! {
        #[test]
        fn every_key_has_the_owner_whose_range_holds_it(mut cuts in prop::collection::btree_set(1u64.., 0..40), key: u64) {
            cuts.insert(0);
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let assignments = (0..cuts.len()).map(|i| assignment(cuts[i], cuts.get(i + 1).copied(), &format!("s{i}")));
            let map = ShardMap::new(assignments.rev().collect()).unwrap();
            prop_assert!(map.locate(UserKey(key)).range.contains(UserKey(key)));
        }
    }
}
