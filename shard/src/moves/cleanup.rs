//! Deleting the rows of a range on a shard that does not serve it: on the source some time after the commit, on the target when a
//! move is given up.
//!
//! Every transaction checks that the shard serves nothing of the range, and that the work is still this runner's. A crash leaves
//! the rest, and the next runner goes on.

use std::time::Instant;

use super::job::Move;
use super::rows;
use super::scope::Scope;
use super::tables::MOVED;
use super::{Sides, fences, marks, segments, work};
use crate::error::Result;
use crate::node::Shard;

/// Most rows that one transaction deletes.
const ROWS: usize = 500;

/// Deletes everything of the move's range on `shard`, and says how many rows.
///
/// # Errors
/// [`crate::error::Error::LeaseLost`]; [`crate::error::Error::Busy`] when the shard serves part of the range; when the database
/// fails.
pub(crate) async fn all(sides: &Sides<'_>, shard: &Shard) -> Result<u64> {
    let job: &Move = sides.job;
    sides
        .on(shard, async |connection| {
            work::begin(connection, shard.name(), job).await
        })
        .await?;
    let scope = Scope::Range(job.range);
    let mut deleted = 0;
    for table in MOVED.iter().rev() {
        loop {
            let begun = Instant::now();
            let some = sides.on(shard, async |connection| {
                work::check(connection, shard.name(), job).await?;
                let records = rows::read(connection, table, &scope, None, ROWS).await?;
                let keys: Vec<_> = records.iter().map(|it| it.key(table)).collect();
                rows::delete(connection, table, &keys).await?;
                segments::depart(connection, &segments::named(table, &records)?).await?;
                Ok(records.len())
            });
            let some = some.await?;
            deleted += some as u64;
            sides.passed(super::Step::RowsDeleted)?;
            sides.rest(some, begun).await?;
            if some < ROWS {
                break;
            }
        }
    }
    sides
        .on(shard, async |connection| work::end(connection, job).await)
        .await?;
    Ok(deleted)
}

/// Drops the marks of a range that is not moved any more, on its source; nothing once another move has taken the fence.
///
/// # Errors
/// When the database fails.
pub(crate) async fn drop_marks(sides: &Sides<'_>) -> Result<()> {
    let job = sides.job;
    let some = async || {
        sides
            .on(sides.source, async |connection| {
                Ok(fences::has_left(connection, job).await?
                    && marks::drop_some(connection, job.range).await?)
            })
            .await
    };
    while some().await? {}
    Ok(())
}
