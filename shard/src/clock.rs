//! Whose clock decides.
//!
//! Several machines with several clocks work on one shard, so what is compared with a stored time is the time of the
//! shard's own database: leases, ages, grace periods. Statements write `{now}` for it; [`now`] reads it. SQLite has no
//! clock but this process's.
//!
//! What deletes for good asks [`agreed_now`]: nothing is deleted while two clocks differ of which nobody knows which one is
//! right. A stored time that is further in the future than [`TOLERANCE`] was written by a wrong clock, and is not believed.

use std::time::Duration;

use crate::db::Connection;
use crate::error::{Error, Result};
use crate::model::Timestamp;

/// How far two clocks may differ before neither is believed.
pub const TOLERANCE: Duration = Duration::from_secs(300);

const NOW: &str = "SELECT {now}";

/// The time by the database's clock.
///
/// # Errors
/// When the database fails.
pub async fn now(connection: &mut Connection) -> Result<Timestamp> {
    let row = connection.fetch_optional(NOW, &[]).await?;
    let row = row.ok_or(Error::Unexpected("a SELECT of the time gave no row"))?;
    row.int(0).map(Timestamp)
}

/// How far this machine's clock is ahead of the database's, in milliseconds; negative when it is behind.
///
/// # Errors
/// When the database fails.
pub async fn offset(connection: &mut Connection) -> Result<i64> {
    Ok(compare(connection).await?.1)
}

/// The time by the database's clock, if this machine's agrees with it.
///
/// # Errors
/// [`Error::ClocksDiffer`] by more than [`TOLERANCE`]; when the database fails.
pub async fn agreed_now(connection: &mut Connection) -> Result<Timestamp> {
    let (theirs, offset) = compare(connection).await?;
    match disagreement(offset) {
        None => Ok(theirs),
        Some(how) => Err(Error::ClocksDiffer(format!(
            "this machine's clock is {how} the database's, and nobody can say which is right; nothing is archived or deleted \
             until they differ by less than {} minutes: synchronise them (NTP)",
            TOLERANCE.as_secs() / 60
        ))),
    }
}

async fn compare(connection: &mut Connection) -> Result<(Timestamp, i64)> {
    let before = Timestamp::now().0;
    let theirs = now(connection).await?;
    let after = Timestamp::now().0;
    Ok((theirs, before.midpoint(after) - theirs.0))
}

/// By how much too much two clocks differ, as `3600 s ahead of`.
fn disagreement(offset: i64) -> Option<String> {
    let off = Duration::from_millis(offset.unsigned_abs());
    let side = if offset > 0 { "ahead of" } else { "behind" };
    (off > TOLERANCE).then(|| format!("{} s {side}", off.as_secs()))
}

/// [`TOLERANCE`] for a statement.
/// The latest stored time that is believed when it is `now`.
#[must_use]
pub fn latest_believed(now: Timestamp) -> Timestamp {
    Timestamp(now.0.saturating_add(tolerance_millis()))
}

pub(crate) fn tolerance_millis() -> i64 {
    i64::try_from(TOLERANCE.as_millis()).unwrap_or(i64::MAX)
}

/// `stored`, or `now` where a clock that was wrong wrote a time that is still to come.
#[must_use]
pub fn believed(stored: Timestamp, now: Timestamp) -> Timestamp {
    if stored > latest_believed(now) {
        now
    } else {
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        assert_eq!(disagreement(0), None);
        assert_eq!(disagreement(300_000), None);
        assert_eq!(disagreement(-300_000), None);
        assert_eq!(disagreement(301_000), Some("301 s ahead of".into()));
        assert_eq!(disagreement(-7_200_000), Some("7200 s behind".into()));
    }

    #[test]
    fn a_time_to_come_is_not_believed() {
        let now = Timestamp(1_000_000_000);
        for (stored, expected) in [
            (0, 0),
            (now.0, now.0),
            (now.0 + 300_000, now.0 + 300_000),
            (now.0 + 300_001, now.0),
            (i64::MAX, now.0),
        ] {
            assert_eq!(believed(Timestamp(stored), now), Timestamp(expected));
        }
        assert_eq!(
            believed(Timestamp(5), Timestamp(i64::MAX)),
            Timestamp(5),
            "no overflow"
        );
    }
}
