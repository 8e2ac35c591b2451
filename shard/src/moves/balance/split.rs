//! Where a range is cut so that both halves hold about the same.

use std::time::Instant;

use super::weight::Part;
use super::{PATIENCE, PlanOptions, weigh};
use crate::error::{Error, Result};
use crate::ids::UserKey;
use crate::moves::mover::Mover;
use crate::moves::shard_of;
use crate::range::KeyRange;

/// The smaller half holds at least one of so many rows.
const SMALLER: u64 = 10;

impl Mover {
    /// The upper half of a range, by rows: from about the median on. Changes nothing; what is moved is cut out of its range by
    /// [`Mover::begin`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a range without rows, and for one that holds little beside one key: a key, which is a user with the
    /// conversations that the user owns, cannot be split. When a database fails.
    pub async fn upper_half(&self, range: KeyRange) -> Result<KeyRange> {
        let map = self.current_map().await?;
        let owner = map.locate(UserKey(range.start));
        let shard = shard_of(self.router(), &owner.shard)?;
        let mut connection = shard.reader(Instant::now() + PATIENCE).await?;
        let counted = PlanOptions::default().counted;
        let weighed = weigh(&mut connection, range, counted).await?;
        let at = median(&weighed.parts)
            .map_err(|why| Error::invalid("range", format!("{range} {why}")))?;
        KeyRange::new(at, range.end).ok_or(Error::Unexpected("a median at the end of its range"))
    }
}

/// The key from which on there is about half of what `parts` hold.
fn median(parts: &[Part]) -> Result<u64, String> {
    let total: u64 = parts.iter().map(|part| part.weight.rows).sum();
    let mut before = 0;
    let mut best: Option<(u64, u64)> = None;
    for part in parts {
        let smaller = before.min(total - before);
        if best.is_none_or(|(rows, _)| smaller > rows) {
            best = Some((smaller, part.range.start));
        }
        before += part.weight.rows;
    }
    match best {
        Some((rows, at)) if rows > 0 && rows >= total / SMALLER => Ok(at),
        _ if total == 0 => Err("has no rows: give the key where it is to be cut".into()),
        _ => {
            let largest = parts.iter().max_by_key(|part| part.weight.rows);
            let key = largest.map_or(0, |part| part.range.start);
            Err(format!(
                "cannot be split in halves: nearly all of its {total} rows belong to key {key}, one user with the conversations that the \
                 user owns"
            ))
        }
    }
}
