//! Who may run a job on a range.

use std::time::Duration;

use crate::db::{Connection, values};
use crate::error::{Error, Result};
use crate::fence;
use crate::ids::ShardName;
use crate::map::Assignment;
use crate::model::Timestamp;

/// The right to run a job on a range, until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The shard and the range.
    pub assignment: Assignment,
    /// Greater than that of every holder before; also that of the segments written under it.
    pub generation: u64,
}

/// Locks the row, so that two who want the lease come one after the other.
const LEASE: &str = "SELECT holder, generation, expires_at FROM leases WHERE range_start = ?";
const TAKE: &str = "INSERT INTO leases (range_start, holder, generation, expires_at) VALUES (?, ?, ?, ?) \
     {on_duplicate range_start} holder = {new holder}, generation = {new generation}, expires_at = {new expires_at}";
const RENEW: &str = "UPDATE leases SET expires_at = ? WHERE range_start = ? AND generation = ?";

/// In a write transaction: takes the lease unless somebody else has it. `holder` is for people.
///
/// # Errors
/// [`Error::Busy`] while another holds it, [`Error::NotOwner`].
pub async fn take_lease(
    connection: &mut Connection,
    assignment: &Assignment,
    holder: &str,
    (now, ttl): (Timestamp, Duration),
) -> Result<Lease> {
    fence::require_write(connection, &assignment.shard, assignment).await?;
    let start = assignment.range.start.to_be_bytes();
    let row = connection
        .fetch_optional(&format!("{LEASE} {{for_update}}"), &values![&start])
        .await?;
    let mut generation = now.0.max(0).cast_unsigned();
    if let Some(row) = row {
        let (other, before, expires_at) = (row.text(0)?, row.int(1)?.cast_unsigned(), row.int(2)?);
        if expires_at > now.0 {
            return Err(Error::Busy(format!(
                "range {} of shard {} is being worked on by {other}; its lease ends in {} s",
                assignment.range,
                assignment.shard,
                (expires_at - now.0 + 999) / 1000
            )));
        }
        // Milliseconds, so that it also grows when the range has moved to another shard.
        generation = generation.max(before + 1);
    }
    let expires_at = expiry(now, ttl);
    connection
        .execute(
            TAKE,
            &values![&start, holder, generation.cast_signed(), expires_at],
        )
        .await?;
    Ok(Lease {
        assignment: assignment.clone(),
        generation,
    })
}

/// In a job's transaction: whether the lease is still the job's, and the range the shard's. Held until the commit.
///
/// # Errors
/// [`Error::LeaseLost`], [`Error::NotOwner`].
pub async fn check_lease(connection: &mut Connection, lease: &Lease) -> Result<()> {
    fence::require_write(connection, &lease.assignment.shard, &lease.assignment).await?;
    let start = lease.assignment.range.start.to_be_bytes();
    let row = connection
        .fetch_optional(&format!("{LEASE} {{for_share}}"), &values![&start])
        .await?;
    match row.map(|row| row.int(1)).transpose()? {
        Some(generation) if generation.cast_unsigned() == lease.generation => Ok(()),
        _ => Err(Error::LeaseLost(lease.assignment.shard.clone())),
    }
}

/// Extends the lease; with no time at all, gives it up.
///
/// # Errors
/// [`Error::LeaseLost`] when somebody else has it.
pub async fn renew_lease(
    connection: &mut Connection,
    lease: &Lease,
    (now, ttl): (Timestamp, Duration),
) -> Result<()> {
    let start = lease.assignment.range.start.to_be_bytes();
    let args = values![expiry(now, ttl), &start, lease.generation.cast_signed()];
    // MySQL counts rows that changed: a renewal within the same millisecond changes none.
    let renewed = connection.execute(RENEW, &args).await?;
    if renewed == 0 {
        return check_lease(connection, lease).await;
    }
    Ok(())
}

fn expiry(now: Timestamp, ttl: Duration) -> i64 {
    now.0
        .saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}

/// The shard's name, for messages about the lease.
impl Lease {
    /// The shard it is on.
    #[must_use]
    pub fn shard(&self) -> &ShardName {
        &self.assignment.shard
    }
}
