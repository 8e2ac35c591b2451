//! Asking the shards of many keys at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;

use super::Store;
use crate::error::Result;
use crate::ids::UserKey;
use crate::map::Assignment;
use crate::node::Shard;

/// Most keys in one statement.
const BATCH: usize = 256;

/// Items of one range, each with its key; at least one.
pub(super) type Batch<T> = Arc<[(UserKey, T)]>;

impl Store {
    /// Makes one call for the items of each range, at most [`BATCH`] of them in one, all at the same time; gives each batch
    /// with what came of it. Every item of a call belongs to the range that its fence is asked for: where a range has been
    /// split since this process read the map, its batches are cut anew (INV-OWNER). Items without a key are left out.
    pub(super) async fn in_batches<T: Clone, R, F: Future<Output = Result<R>>>(
        &self,
        items: &[T],
        key: impl Fn(&T) -> Option<UserKey>,
        deadline: Instant,
        work: impl Fn(Arc<Shard>, Assignment, Batch<T>) -> F,
    ) -> Vec<(Batch<T>, Result<R>)> {
        let keyed = items.iter().filter_map(|item| Some((key(item)?, item)));
        let mut left: Vec<(UserKey, T)> = keyed.map(|(key, item)| (key, item.clone())).collect();
        let work = &work;
        let mut outcomes = Vec::new();
        while !left.is_empty() {
            let calls = self.cut(left).into_iter().map(async |batch: Batch<T>| {
                let items = &batch;
                let call = |shard: Arc<Shard>, assignment: Assignment| async move {
                    let mut keys = items.iter().map(|(key, _)| *key);
                    if !keys.all(|key| assignment.range.contains(key)) {
                        return Ok(None);
                    }
                    work(shard, assignment, Arc::clone(items)).await.map(Some)
                };
                let outcome = self.router.call(batch[0].0, deadline, call).await;
                (batch, outcome)
            });
            left = Vec::new();
            for (batch, outcome) in join_all(calls).await {
                match outcome.transpose() {
                    Some(outcome) => outcomes.push((batch, outcome)),
                    None => left.extend(batch.iter().cloned()),
                }
            }
        }
        outcomes
    }

    /// Groups items by the range that holds their key, as this process knows the map.
    fn cut<T: Clone>(&self, items: Vec<(UserKey, T)>) -> Vec<Batch<T>> {
        let map = self.map();
        let mut by_range: BTreeMap<u64, Vec<(UserKey, T)>> = BTreeMap::new();
        for (key, item) in items {
            let range = map.locate(key).range;
            by_range.entry(range.start).or_default().push((key, item));
        }
        let groups = by_range.values();
        groups
            .flat_map(|items| items.chunks(BATCH).map(Arc::from))
            .collect()
    }
}
