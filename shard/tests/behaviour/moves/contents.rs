//! Everything that the ranges of a deployment have, wherever it is.

use std::collections::BTreeMap;

use backscroll_shard::ids::UserKey;
use backscroll_shard::range::KeyRange;
use backscroll_shard::settings::ShardSettings;
use backscroll_testkit::dump;

use crate::bed::Bed;

/// What belongs to databases, and not to what is in their ranges.
const OWN: [&str; 9] = [
    "schema_migrations",
    "identity",
    "fences",
    "leases",
    "archive_jobs",
    "archive_segments",
    "move_marks",
    "arrivals",
    "sqlite_stat1",
];

/// The rows of all shards by table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents(BTreeMap<String, Vec<String>>);

impl Contents {
    pub(super) fn and(mut self, other: Self) -> Self {
        for (table, rows) in other.0 {
            let all = self.0.entry(table).or_default();
            all.extend(rows);
            all.sort();
        }
        self
    }

    pub(super) fn count(&self) -> usize {
        self.0.get("messages").map_or(0, Vec::len)
    }

    pub(super) fn assert_eq(&self, other: &Self) {
        for (table, rows) in &self.0 {
            let there = other.0.get(table).map(Vec::as_slice).unwrap_or_default();
            let missing: Vec<_> = rows.iter().filter(|it| !there.contains(it)).collect();
            let new: Vec<_> = there.iter().filter(|it| !rows.contains(it)).collect();
            assert!(
                missing.is_empty() && new.is_empty() && rows.len() == there.len(),
                "{table}: {} rows, then {}\nmissing: {missing:#?}\nnew: {new:#?}",
                rows.len(),
                there.len()
            );
        }
    }
}

/// As stored now.
pub(super) async fn contents(bed: &Bed) -> Contents {
    of(&bed.settings.shards, None).await
}

/// What some shards have, or of it what is in some ranges.
pub(super) async fn of(shards: &[ShardSettings], ranges: Option<&[KeyRange]>) -> Contents {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for shard in shards {
        for (table, mut rows) in dump(&shard.primary.0).await {
            if OWN.contains(&table.as_str()) {
                continue;
            }
            if let Some(ranges) = ranges {
                rows.retain(|row| ranges.iter().any(|range| range.contains(key_of(row))));
            }
            all.entry(table).or_default().extend(rows);
        }
    }
    all.values_mut().for_each(|rows| rows.sort());
    Contents(all)
}

/// The key with which a dumped row begins: eight bytes, those that are not printable escaped.
fn key_of(row: &str) -> UserKey {
    let (mut key, mut rest) = (Vec::new(), row.as_bytes());
    while key.len() < 8 {
        let (byte, length) = match rest {
            [b'\\', b'x', high, low, ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).unwrap();
                (u8::from_str_radix(digits, 16).unwrap(), 4)
            }
            [b'\\', b't', ..] => (b'\t', 2),
            [b'\\', b'r', ..] => (b'\r', 2),
            [b'\\', b'n', ..] => (b'\n', 2),
            [b'\\', other, ..] => (*other, 2),
            [other, ..] => (*other, 1),
            [] => panic!("no key in {row}"),
        };
        key.push(byte);
        rest = &rest[length..];
    }
    UserKey::from_bytes(&key).unwrap()
}
