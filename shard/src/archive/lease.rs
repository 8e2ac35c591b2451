//! Who may run a job on a shard's ranges.
//!
//! Leases are taken, renewed and judged by the database's clock, in the statements themselves: no other clock has a say. A
//! lease's generation, which every transaction of a job compares, is the one before it and one more.

use std::time::Duration;

use serde::Serialize;

use super::newest_generation;
use crate::db::{Connection, Row, Value, placeholders, values};
use crate::error::{Error, Result};
use crate::fence::{self, FenceState};
use crate::ids::ShardName;
use crate::map::Assignment;
use crate::model::Timestamp;
use crate::moves;

/// The longest time for which a lease is taken, and the most that `archive.lease` may be. An end that is further away was
/// written while the clock was wrong, and keeps nobody out.
pub const LONGEST_LEASE: Duration = Duration::from_secs(3600);

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

/// A lease as its database sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldLease {
    /// Who holds it, for people.
    pub holder: String,
    /// When it ends, by the clock of the shard's database.
    pub expires_at: Timestamp,
    /// How long that is from now, by the same clock, in milliseconds.
    pub left_millis: i64,
}

/// By the primary key.
const LEASES: &str =
    "SELECT generation, expires_at, holder, {now} FROM leases WHERE range_start IN (";
/// The whole table: a row a range.
const ALL_LEASES: &str =
    "SELECT generation, expires_at, holder, {now} FROM leases ORDER BY range_start";
const TAKE: &str = "INSERT INTO leases (range_start, holder, generation, expires_at) VALUES (?, ?, ?, {now} + ?) \
     {on_duplicate range_start} holder = {new holder}, generation = {new generation}, expires_at = {new expires_at}";
const RENEW: &str =
    "UPDATE leases SET expires_at = {now} + ? WHERE generation = ? AND range_start IN (";
/// Free, by any clock.
const GIVE_UP: &str = "UPDATE leases SET expires_at = 0 WHERE generation = ? AND range_start IN (";
/// Who holds one loses it: its generation is not the job's any more. The whole table: a row a range.
const CLEAR: &str =
    "UPDATE leases SET expires_at = 0, generation = generation + 1 WHERE expires_at > {now}";

/// In a write transaction: takes the lease of all of `ranges`, at least one and each of `shard`, unless somebody else has
/// one of them. `holder` is for people.
///
/// # Errors
/// [`Error::Busy`] while another holds one, [`Error::NotOwner`].
pub async fn take_lease(
    connection: &mut Connection,
    (shard, ranges): (&ShardName, Vec<Assignment>),
    holder: &str,
    ttl: Duration,
) -> Result<Lease> {
    require_open(connection, shard, &ranges).await?;
    require_no_arrival(connection, shard).await?;
    let starts = starts(&ranges);
    let mut generation = newest_generation(connection).await?.next()?.0;
    for row in fetch(connection, &starts, "{for_update}").await? {
        if let Some(held) = held(&row)? {
            return Err(Error::Busy(busy(shard, &held)));
        }
        generation = generation.max(row.int(0)?.cast_unsigned().saturating_add(1));
    }
    for start in &starts {
        let args = values![start, holder, generation.cast_signed(), millis(ttl)];
        connection.execute(TAKE, &args).await?;
    }
    Ok(Lease {
        shard: shard.clone(),
        ranges,
        generation,
    })
}

fn busy(shard: &ShardName, held: &HeldLease) -> String {
    let (holder, until, left) = (
        &held.holder,
        held.expires_at,
        (held.left_millis + 999) / 1000,
    );
    format!(
        "shard {shard} is being worked on by {holder}; its lease ends at {until} by the clock of the shard's database, {left} s from \
         now. If that job is dead, `backscroll lease clear --shard {shard} --reason TEXT` frees it now"
    )
}

/// In a job's transaction: whether the lease is still the job's, and the ranges the shard's; and that no rows of others come to the
/// shard. All of it stays so until the commit. Gives the time by the database's clock, which is that of everything the job puts down.
///
/// # Errors
/// [`Error::LeaseLost`], [`Error::NotOwner`].
pub async fn check_lease(connection: &mut Connection, lease: &Lease) -> Result<Timestamp> {
    require_open(connection, &lease.shard, &lease.ranges).await?;
    let starts = starts(&lease.ranges);
    let rows = fetch(connection, &starts, "{for_share}").await?;
    for row in &rows {
        if row.int(0)?.cast_unsigned() != lease.generation {
            return Err(Error::LeaseLost(lease.shard.clone()));
        }
    }
    // After the lock that a copy's begin waits for, so that none begins before the commit.
    require_no_arrival(connection, &lease.shard).await?;
    match rows.first() {
        Some(row) if rows.len() == starts.len() => row.int(3).map(Timestamp),
        _ => Err(Error::LeaseLost(lease.shard.clone())),
    }
}

/// In a job's transaction: extends the lease to `ttl` from now.
///
/// # Errors
/// [`Error::LeaseLost`] when somebody else has it.
pub async fn renew_lease(connection: &mut Connection, lease: &Lease, ttl: Duration) -> Result<()> {
    let starts = starts(&lease.ranges);
    let mut args = values![millis(ttl), lease.generation.cast_signed()].to_vec();
    args.extend(starts.iter().map(Value::from));
    let statement = format!("{RENEW}{})", placeholders(starts.len()));
    connection.execute(&statement, &args).await?;
    check_lease(connection, lease).await.map(drop)
}

/// In a write transaction: gives the lease up, if it still is the job's. Whoever asks next finds it free.
///
/// # Errors
/// When the database fails.
pub async fn give_up_lease(connection: &mut Connection, lease: &Lease) -> Result<()> {
    let starts = starts(&lease.ranges);
    let mut args = values![lease.generation.cast_signed()].to_vec();
    args.extend(starts.iter().map(Value::from));
    let statement = format!("{GIVE_UP}{})", placeholders(starts.len()));
    connection.execute(&statement, &args).await.map(drop)
}

/// In a write transaction: frees every lease of the shard, and says which were held. A job that holds one finds it lost with
/// its next transaction.
///
/// # Errors
/// When the database fails.
pub async fn clear_leases(connection: &mut Connection) -> Result<Vec<HeldLease>> {
    let held = all(connection, "{for_update}").await?;
    connection.execute(CLEAR, &[]).await?;
    Ok(held)
}

/// The leases of the shard that are held, one for each holder.
///
/// # Errors
/// When the database fails.
pub async fn held_leases(connection: &mut Connection) -> Result<Vec<HeldLease>> {
    all(connection, "").await
}

async fn all(connection: &mut Connection, lock: &str) -> Result<Vec<HeldLease>> {
    let statement = format!("{ALL_LEASES} {lock}");
    let rows = connection.fetch_all(&statement, &[]).await?;
    let held: Vec<Option<HeldLease>> = rows.iter().map(held).collect::<Result<_>>()?;
    let mut held: Vec<HeldLease> = held.into_iter().flatten().collect();
    held.dedup_by(|one, other| one.holder == other.holder);
    Ok(held)
}

/// The lease of a row, if somebody holds it.
fn held(row: &Row) -> Result<Option<HeldLease>> {
    let (expires_at, now) = (row.int(1)?, row.int(3)?);
    let left_millis = expires_at.saturating_sub(now);
    let held = HeldLease {
        holder: row.text(2)?,
        expires_at: Timestamp(expires_at),
        left_millis,
    };
    Ok((1..=millis(LONGEST_LEASE))
        .contains(&left_millis)
        .then_some(held))
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

/// In a write transaction: waits until no transaction of a job is under way on the shard, and keeps others waiting until the commit.
///
/// # Errors
/// When the database fails.
pub(crate) async fn lock_out_jobs(connection: &mut Connection) -> Result<()> {
    all(connection, "{for_update}").await.map(drop)
}

async fn require_open(
    connection: &mut Connection,
    shard: &ShardName,
    ranges: &[Assignment],
) -> Result<()> {
    let ranges: Vec<&Assignment> = ranges.iter().collect();
    // Not one that is being moved either, though users write to it: jobs and moves exclude each other.
    let fences = fence::lock(connection, &ranges).await?;
    if fences.iter().any(|state| *state != Some(FenceState::Open)) {
        return Err(Error::NotOwner(shard.clone()));
    }
    Ok(())
}

async fn require_no_arrival(connection: &mut Connection, shard: &ShardName) -> Result<()> {
    // Jobs look at whole tables, and rows of a range that is copied or deleted are not the shard's.
    match moves::arriving(connection).await?.first() {
        None => Ok(()),
        Some((job, range)) => Err(Error::Busy(format!(
            "move {job} copies {range} to shard {shard}, or deletes it there; jobs of the archive go on when that is done"
        ))),
    }
}

async fn fetch(connection: &mut Connection, starts: &[[u8; 8]], lock: &str) -> Result<Vec<Row>> {
    let args: Vec<Value<'_>> = starts.iter().map(Value::from).collect();
    let places = placeholders(args.len());
    let statement = format!("{LEASES}{places}) ORDER BY range_start {lock}");
    connection.fetch_all(&statement, &args).await
}

fn starts(ranges: &[Assignment]) -> Vec<[u8; 8]> {
    let start = |assignment: &Assignment| assignment.range.start.to_be_bytes();
    ranges.iter().map(start).collect()
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.min(LONGEST_LEASE).as_millis()).unwrap_or(i64::MAX)
}
