//! Neighbouring ranges of one shard become one (INV-OWNER).
//!
//! Every move of part of a range cuts the map; this makes it short again. No row moves and no owner changes: one transaction of
//! the directory replaces the ranges by one at a greater epoch, and then one transaction of the shard replaces their fences. In
//! between the shard refuses the keys, and requests wait as they do in the freeze of a move. After a crash in between any
//! process makes the fences follow the map ([`Mover::settle`]). What a late process finds is never older than its map, because
//! epochs of keys only grow: then the statement finds nothing to replace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::archive::held_leases;
use crate::audit::{self, Act, Action, Reference};
use crate::directory;
use crate::error::Result;
use crate::fence;
use crate::ids::ShardName;
use crate::map::{Assignment, ShardMap};
use crate::moves::mover::Mover;
use crate::moves::{Order, Step, fences, job, shard_of};
use crate::node::Shard;
use crate::range::KeyRange;
use crate::transaction::Transaction;

/// How long one look at a shard may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ranges that became one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Merged {
    /// The shard that has them.
    pub shard: ShardName,
    /// The new range.
    pub range: KeyRange,
    /// The ranges that it was.
    pub parts: Vec<KeyRange>,
}

impl Mover {
    /// Makes neighbouring ranges of one shard one, except those that a move has, and those of shards on which an archive job works. With
    /// `dry_run`, only says which. What is merged is recorded in the audit log.
    ///
    /// # Errors
    /// When the directory is away, or a shard that would be changed.
    pub async fn merge(&self, dry_run: bool, order: &Order) -> Result<Vec<Merged>> {
        let map = self.current_map().await?;
        let moving = self.unfinished().await?;
        let mut groups = Vec::new();
        for group in neighbours(&map, |range| {
            moving.iter().any(|it| it.range.overlaps(&range))
        }) {
            let shard = shard_of(self.router(), &group[0].shard)?;
            let mut connection = shard.reader(Instant::now() + PATIENCE).await?;
            if held_leases(&mut connection).await?.is_empty() {
                groups.push(group);
            }
        }
        let merged: Vec<Merged> = groups.iter().map(|group| merged(group)).collect();
        if dry_run || groups.is_empty() {
            return Ok(merged);
        }
        self.in_directory(async |it| {
            directory::lock(it, self.router().settings()).await?;
            let moving = job::unfinished(it).await?;
            let mut ranges = Vec::new();
            for group in &groups {
                if moving
                    .iter()
                    .all(|job| group.iter().all(|it| !job.range.overlaps(&it.range)))
                {
                    directory::merge(it, group).await?;
                    ranges.push(self::merged(group).range);
                }
            }
            if !ranges.is_empty() {
                let act = Act::new(Reference::operator(&order.actor), Action::RangeMerge, None);
                let act = act.because(&order.reason).with(json!({ "ranges": ranges }));
                audit::append(it, &act).await?;
            }
            Ok(())
        })
        .await?;
        self.passed(Step::MapMerged)?;
        self.current_map().await?;
        self.settle_merged().await?;
        Ok(merged)
    }

    /// Makes the fences of ranges that were merged follow the map; looked at once for every map.
    pub(in crate::moves) async fn settle_merged(&self) -> Result<()> {
        let map = self.router().map();
        if self
            .settled()
            .is_some_and(|settled| Arc::ptr_eq(&settled, &map))
        {
            return Ok(());
        }
        let mut failed = None;
        for shard in self.router().shards() {
            if let Err(error) = merge_fences(shard, &map).await {
                failed = Some(error); // the other shards do not wait for this one
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.set_settled(map);
        Ok(())
    }
}

/// Makes the fences of a shard follow the map where ranges were merged.
async fn merge_fences(shard: &Shard, map: &ShardMap) -> Result<()> {
    let mut connection = shard.reader(Instant::now() + PATIENCE).await?;
    let there = fence::all(&mut connection).await?;
    drop(connection);
    let agrees = |assignment: &Assignment| {
        let mut there = there.iter();
        there.any(|it| it.range == assignment.range && it.epoch == assignment.epoch)
    };
    for assignment in map.ranges_of(shard.name()).filter(|it| !agrees(it)) {
        let merge = |mut it: Transaction| async move { fences::merge(&mut it, assignment).await };
        let deadline = Instant::now() + PATIENCE;
        shard.patient_transaction(deadline, merge).await?;
    }
    Ok(())
}

/// Neighbours of one shard, two at least, none of which is `kept`.
fn neighbours(map: &ShardMap, kept: impl Fn(KeyRange) -> bool) -> Vec<Vec<Assignment>> {
    let mut groups: Vec<Vec<Assignment>> = vec![Vec::new()];
    for assignment in map.assignments() {
        let is_kept = kept(assignment.range);
        let joins =
            |group: &Vec<Assignment>| group.last().is_none_or(|it| it.shard == assignment.shard);
        match groups.last_mut().filter(|group| !is_kept && joins(group)) {
            Some(group) => group.push(assignment.clone()),
            None if is_kept => groups.push(Vec::new()),
            None => groups.push(vec![assignment.clone()]),
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

fn merged(group: &[Assignment]) -> Merged {
    Merged {
        shard: group[0].shard.clone(),
        range: KeyRange {
            start: group[0].range.start,
            end: group[group.len() - 1].range.end,
        },
        parts: group.iter().map(|it| it.range).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    #[test]
    fn neighbours_of_one_shard_are_found() {
        let owners = ["a", "a", "b", "a", "a", "a", "c"];
        let range = |at: usize| {
            KeyRange::new(at as u64 * 10, (at < 6).then_some(at as u64 * 10 + 10)).unwrap()
        };
        let assignment = |(at, shard): (usize, &&str)| Assignment {
            range: range(at),
            shard: ShardName::new(*shard).unwrap(),
            epoch: Epoch(1),
        };
        let map = ShardMap::new(owners.iter().enumerate().map(assignment).collect()).unwrap();
        let found = |kept: &[usize]| -> Vec<Vec<KeyRange>> {
            let kept: Vec<KeyRange> = kept.iter().map(|at| range(*at)).collect();
            let groups = neighbours(&map, |it| kept.contains(&it));
            groups
                .iter()
                .map(|group| group.iter().map(|it| it.range).collect())
                .collect()
        };
        assert_eq!(
            found(&[]),
            [vec![range(0), range(1)], vec![range(3), range(4), range(5)]]
        );
        assert_eq!(found(&[0, 5]), [vec![range(3), range(4)]]);
        assert!(found(&[1, 4]).is_empty());
    }
}
