//! `backscroll shards drain`: all ranges of a shard to others, one move after the other.
//!
//! Nothing is kept of it but the moves: the next one follows from the map and from the moves that are under way, so a process that
//! dies in between is followed by another run of the same command.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::job::{Move, MoveState, Order};
use super::mover::Mover;
use crate::directory;
use crate::error::{Error, Result};
use crate::ids::ShardName;
use crate::map::ShardMap;
use crate::model::Timestamp;
use crate::range::KeyRange;

/// A range, and the shard that gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// The keys.
    pub range: KeyRange,
    /// The shard that gets them.
    pub target: ShardName,
}

/// How far a shard is that owns no keys any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing of it is needed.
    Empty,
    /// Moves have yet to delete rows on it, from this time on by the directory's clock.
    KeepsRows(Timestamp),
}

impl Mover {
    /// The moves that would empty `shard`, in order: the widest range first, each to the shard of `to` that has the fewest keys
    /// then; with an empty `to`, of all other shards. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a shard that is not part of the deployment, and when there is no shard to move to; when the directory
    /// is away.
    pub async fn plan_drain(&self, shard: &ShardName, to: &[ShardName]) -> Result<Vec<Transfer>> {
        let targets = self.targets(shard, to).await?;
        let map = self.current_map().await?;
        let mut keys = keys_of(&map, &targets);
        let planned = widest_first(&map, shard).into_iter().filter_map(|range| {
            let target = fewest_first(&keys).into_iter().next()?;
            *keys.entry(target.clone()).or_default() += range.width();
            Some(Transfer { range, target })
        });
        Ok(planned.collect())
    }

    /// The move that `shard` has to be emptied by next: one that is under way, or else one that is put down by this as
    /// [`Mover::plan_drain`] says, leaving out shards that do not answer or take part in another move. Nothing when the shard owns
    /// no keys.
    ///
    /// # Errors
    /// As [`Mover::plan_drain`]; [`Error::Busy`] while another move has all that is left, or the shard.
    pub async fn drain(
        &self,
        shard: &ShardName,
        to: &[ShardName],
        order: &Order,
    ) -> Result<Option<Move>> {
        let mut targets = self.targets(shard, to).await?;
        let is_leaving = |it: &Move| it.source == *shard && it.state != MoveState::Draining;
        let mut under_way = self.unfinished().await?.into_iter();
        if let Some(job) = under_way.find(is_leaving) {
            return Ok(Some(job));
        }
        let map = self.current_map().await?;
        let ranges = widest_first(&map, shard);
        if ranges.is_empty() {
            return Ok(None);
        }
        let mut refused = None;
        for target in std::mem::take(&mut targets) {
            match self.check_shard(&target).await {
                Ok(()) => targets.push(target),
                Err(error) => refused = Some(error),
            }
        }
        let targets = fewest_first(&keys_of(&map, &targets));
        for range in ranges {
            for target in &targets {
                match self.begin(range, target, order).await {
                    Ok(job) => return Ok(Some(job)),
                    Err(error @ Error::Busy(_)) => refused = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(refused.unwrap_or(Error::Unexpected("a range that no shard was asked to take")))
    }

    /// Whether the database of a shard that owns no keys is still needed.
    ///
    /// # Errors
    /// When the directory is away.
    pub async fn drained(&self, shard: &ShardName) -> Result<Drained> {
        let under_way = self.unfinished().await?.into_iter();
        let of_shard = under_way.filter(|it| it.source == *shard || it.target == *shard);
        let last = of_shard.map(|it| it.keep_until.unwrap_or(it.now)).max();
        Ok(last.map_or(Drained::Empty, Drained::KeepsRows))
    }

    /// The map as the directory has it now.
    ///
    /// # Errors
    /// When the directory is away.
    pub async fn current_map(&self) -> Result<Arc<ShardMap>> {
        self.router().refresh(&self.router().map()).await?;
        Ok(self.router().map())
    }

    /// The shards that keys of `shard` may be moved to.
    async fn targets(&self, shard: &ShardName, to: &[ShardName]) -> Result<Vec<ShardName>> {
        let entries = directory::joined(&mut self.reader().await?).await?;
        let is_joined = |name: &ShardName| entries.iter().any(|(joined, _)| joined == name);
        for name in std::iter::once(shard).chain(to) {
            if !is_joined(name) {
                let rule = format!("{name} is no shard of this deployment");
                return Err(Error::invalid("shard", rule));
            }
        }
        if to.contains(shard) {
            let rule = format!("{shard} is the shard that is drained");
            return Err(Error::invalid("to", rule));
        }
        let mut targets = to.to_vec();
        if targets.is_empty() {
            let names = self.router().shards().map(|it| it.name());
            targets.extend(
                names
                    .filter(|name| *name != shard && is_joined(name))
                    .cloned(),
            );
        }
        if targets.is_empty() {
            return Err(Error::invalid("to", "there is no other shard"));
        }
        Ok(targets)
    }
}

fn widest_first(map: &ShardMap, shard: &ShardName) -> Vec<KeyRange> {
    let mut ranges: Vec<KeyRange> = map.ranges_of(shard).map(|it| it.range).collect();
    ranges.sort_by_key(|range| (Reverse(range.width()), range.start));
    ranges
}

fn keys_of(map: &ShardMap, shards: &[ShardName]) -> BTreeMap<ShardName, u128> {
    let keys = |name: &ShardName| map.ranges_of(name).map(|it| it.range.width()).sum();
    shards
        .iter()
        .map(|name| (name.clone(), keys(name)))
        .collect()
}

fn fewest_first(keys: &BTreeMap<ShardName, u128>) -> Vec<ShardName> {
    let mut names: Vec<&ShardName> = keys.keys().collect();
    names.sort_by_key(|name| keys[*name]);
    names.into_iter().cloned().collect()
}
