//! Brakes: what a move waits for, so that it does not hurt those that read and write meanwhile.
//!
//! A runner looks before each unit of its work, once a second at most, and waits as long as one of them is on. Each is a setting, and
//! which one is on is put down in the move's row. Within a freeze nothing waits: writers do. A database that does not answer is no
//! brake: the runner's next statement finds that out.

use std::time::{Duration, Instant};

use super::Sides;
use super::reason::Reason;
use super::work;
use crate::archive::{clock, threads_running};
use crate::db::{Connection, Dialect};
use crate::error::{Error, Result};
use crate::node::Shard;
use crate::settings::RebalanceSettings;

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The size of a database: its tables' data and indexes, as the server knows it, or the file's pages.
const SIZE_MYSQL: &str = "SELECT /*+ SET_VAR(information_schema_stats_expiry = 0) */ CAST(COALESCE(SUM(data_length + index_length), 0) AS SIGNED) \
     FROM information_schema.tables WHERE table_schema = DATABASE()";
const SIZE_SQLITE: &str =
    "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)";
/// Bytes on disk for each byte of a row's columns.
const ON_DISK: u64 = 2;

/// The brake that is on, if one is. `working` says for how long this runner has written to the target.
pub(super) async fn look(sides: &Sides<'_>, working: Duration) -> Option<Reason> {
    for shard in [sides.source, sides.target] {
        match load_of(sides.settings, shard).await {
            Ok(None) => {}
            Ok(Some(reason)) => return Some(reason),
            Err(error) => {
                tracing::debug!(shard = %shard.name(), %error, "how busy a shard is cannot be asked")
            }
        }
    }
    lag(sides, working).await.unwrap_or_default()
}

/// Whether a shard is too slow or too busy for a move.
///
/// # Errors
/// When it does not answer.
pub(super) async fn load_of(settings: &RebalanceSettings, shard: &Shard) -> Result<Option<Reason>> {
    let mut connection = shard.reader(Instant::now() + PATIENCE).await?;
    let asked = Instant::now();
    clock(&mut connection).await?;
    let slowest = asked
        .elapsed()
        .max(shard.foreground_p99().unwrap_or_default());
    if slowest > settings.max_latency.0 {
        return Ok(Some(Reason::Latency {
            shard: shard.name().clone(),
            p99_ms: millis(slowest),
            most_ms: millis(settings.max_latency.0),
        }));
    }
    let running = threads_running(&mut connection).await?;
    let most = u64::from(settings.max_threads_running);
    let running = running.filter(|running| *running > most);
    Ok(running.map(|running| Reason::Load {
        shard: shard.name().clone(),
        running,
        most,
    }))
}

/// How far the target's replicas are behind: what a move writes is what they have to follow.
async fn lag(sides: &Sides<'_>, working: Duration) -> Result<Option<Reason>> {
    let (target, most) = (sides.target, sides.settings.max_replica_lag.0);
    if target.replicas().next().is_none() {
        return Ok(None);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut primary = target.reader(deadline).await?;
    let written = work::beat(&mut primary, sides.job.id).await?;
    drop(primary);
    let Some(written) = written else {
        return Ok(None);
    };
    for replica in target.replicas() {
        // One that is down is no reason to wait: it has to catch up anyway.
        let Ok(mut connection) = replica.reader(deadline).await else {
            continue;
        };
        let lag = match work::beat(&mut connection, sides.job.id).await {
            Ok(Some(seen)) => {
                Duration::from_millis(written.0.saturating_sub(seen.0).max(0).cast_unsigned())
            }
            Ok(None) => working, // it has not seen the beginning
            Err(_) => continue,
        };
        if lag > most {
            return Ok(Some(Reason::ReplicaLag {
                shard: target.name().clone(),
                lag_ms: millis(lag),
                most_ms: millis(most),
            }));
        }
    }
    Ok(None)
}

/// Whether the target would become too large by `bytes` more of columns.
pub(super) async fn room(sides: &Sides<'_>, bytes: u64) -> Result<Option<Reason>> {
    let most = sides.settings.max_shard_bytes;
    if most == 0 {
        return Ok(None);
    }
    let mut target = sides.target.reader(Instant::now() + PATIENCE).await?;
    let expected = size(&mut target)
        .await?
        .saturating_add(bytes.saturating_mul(ON_DISK));
    Ok((expected > most).then(|| Reason::Disk {
        shard: sides.target.name().clone(),
        bytes: expected,
        most,
    }))
}

async fn size(connection: &mut Connection) -> Result<u64> {
    let statement = match connection.dialect() {
        Dialect::MySql => SIZE_MYSQL,
        Dialect::Sqlite => SIZE_SQLITE,
    };
    let row = connection.fetch_optional(statement, &[]).await?;
    let row = row.ok_or(Error::Unexpected("a size without a row"))?;
    Ok(row.int(0)?.max(0).cast_unsigned())
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
