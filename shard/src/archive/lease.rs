//! Who may run a job on a shard's ranges.

use std::time::Duration;

use super::newest_generation;
use crate::db::{Connection, Value, placeholders, values};
use crate::error::{Error, Result};
use crate::fence;
use crate::ids::ShardName;
use crate::map::Assignment;
use crate::model::Timestamp;

/// The right to run a job on ranges of one shard, until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: ShardName,
    /// The ranges, each of this shard.
    pub ranges: Vec<Assignment>,
    /// Greater than that of every holder before, and than the number of every segment so far.
    pub generation: u64,
}

const LEASES: &str = "SELECT generation, expires_at, holder FROM leases WHERE range_start IN (";
const TAKE: &str = "INSERT INTO leases (range_start, holder, generation, expires_at) VALUES (?, ?, ?, ?) \
     {on_duplicate range_start} holder = {new holder}, generation = {new generation}, expires_at = {new expires_at}";
const RENEW: &str = "UPDATE leases SET expires_at = ? WHERE generation = ? AND range_start IN (";

/// In a write transaction: takes the lease of all of `ranges`, at least one and each of `shard`, unless somebody else has
/// one of them. `holder` is for people.
///
/// # Errors
/// [`Error::Busy`] while another holds one, [`Error::NotOwner`].
pub async fn take_lease(
    connection: &mut Connection,
    (shard, ranges): (&ShardName, Vec<Assignment>),
    holder: &str,
    (now, ttl): (Timestamp, Duration),
) -> Result<Lease> {
    require_owner(connection, shard, &ranges).await?;
    let starts = starts(&ranges);
    let mut generation = newest_generation(connection).await?.next()?.0;
    for row in fetch(connection, &starts, "{for_update}").await? {
        let (before, expires_at, other) = (row.int(0)?.cast_unsigned(), row.int(1)?, row.text(2)?);
        if expires_at > now.0 {
            return Err(Error::Busy(format!(
                "shard {shard} is being worked on by {other}; its lease ends in {} s",
                (expires_at - now.0 + 999) / 1000
            )));
        }
        generation = generation.max(before + 1);
    }
    for start in &starts {
        let args = values![start, holder, generation.cast_signed(), expiry(now, ttl)];
        connection.execute(TAKE, &args).await?;
    }
    Ok(Lease {
        shard: shard.clone(),
        ranges,
        generation,
    })
}

/// In a job's transaction: whether the lease is still the job's, and the ranges the shard's. Both stay so until the
/// commit.
///
/// # Errors
/// [`Error::LeaseLost`], [`Error::NotOwner`].
pub async fn check_lease(connection: &mut Connection, lease: &Lease) -> Result<()> {
    require_owner(connection, &lease.shard, &lease.ranges).await?;
    let starts = starts(&lease.ranges);
    let rows = fetch(connection, &starts, "{for_share}").await?;
    for row in &rows {
        if row.int(0)?.cast_unsigned() != lease.generation {
            return Err(Error::LeaseLost(lease.shard.clone()));
        }
    }
    if rows.len() == starts.len() {
        Ok(())
    } else {
        Err(Error::LeaseLost(lease.shard.clone()))
    }
}

/// In a job's transaction: extends the lease; with no time at all, gives it up.
///
/// # Errors
/// [`Error::LeaseLost`] when somebody else has it.
pub async fn renew_lease(
    connection: &mut Connection,
    lease: &Lease,
    (now, ttl): (Timestamp, Duration),
) -> Result<()> {
    let starts = starts(&lease.ranges);
    let mut args = values![expiry(now, ttl), lease.generation.cast_signed()].to_vec();
    args.extend(starts.iter().map(Value::from));
    let statement = format!("{RENEW}{})", placeholders(starts.len()));
    connection.execute(&statement, &args).await?;
    check_lease(connection, lease).await
}

/// When the lease was renewed last, as this database knows it: a replica that is behind knows an earlier time.
///
/// # Errors
/// When the database fails.
pub async fn lease_expiry(connection: &mut Connection, lease: &Lease) -> Result<Option<Timestamp>> {
    let starts = starts(&lease.ranges);
    let rows = fetch(connection, &starts, "").await?;
    let expiry = rows.first().map(|row| row.int(1)).transpose()?;
    Ok(expiry.map(Timestamp))
}

async fn require_owner(
    connection: &mut Connection,
    shard: &ShardName,
    ranges: &[Assignment],
) -> Result<()> {
    let ranges: Vec<&Assignment> = ranges.iter().collect();
    let owned = fence::lock_for_write(connection, &ranges).await?;
    if owned.iter().all(|owned| *owned) {
        Ok(())
    } else {
        Err(Error::NotOwner(shard.clone()))
    }
}

async fn fetch(
    connection: &mut Connection,
    starts: &[[u8; 8]],
    lock: &str,
) -> Result<Vec<crate::db::Row>> {
    let args: Vec<Value<'_>> = starts.iter().map(Value::from).collect();
    let places = placeholders(args.len());
    let statement = format!("{LEASES}{places}) ORDER BY range_start {lock}");
    connection.fetch_all(&statement, &args).await
}

fn starts(ranges: &[Assignment]) -> Vec<[u8; 8]> {
    let start = |assignment: &Assignment| assignment.range.start.to_be_bytes();
    ranges.iter().map(start).collect()
}

fn expiry(now: Timestamp, ttl: Duration) -> i64 {
    now.0
        .saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}
