//! Whether anybody else uses a shard's database.
//!
//! MySQL and MariaDB count the statements they are sent, whoever sends them: other routers, other programs, other databases
//! of the same server. What is not the job's own is somebody else's. Where the database does not count (SQLite) it is this
//! process's statements that are compared, so what other processes do is not seen there.

use std::time::Instant;

use backscroll_shard::archive::questions;
use backscroll_shard::error::Result;
use backscroll_shard::node::Shard;

/// Nobody waits for so few statements a second: what nodes do when nobody uses them, and who watches a database.
const UNNOTICED: f64 = 50.0;

/// Statements so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// By everybody.
    pub(super) all: u64,
    /// By the job.
    pub(super) own: u64,
}

impl Counts {
    /// The counts of a shard that was opened for the job ([`Shard::with_separate_statement_count`]).
    pub(super) async fn of(shard: &Shard) -> Result<Self> {
        let mut connection = shard.reader(Instant::now() + super::STEP).await?;
        let asked = questions(&mut connection).await?;
        let counted = shard.statements();
        Ok(Self {
            all: asked.unwrap_or(counted.all),
            own: counted.own,
        })
    }
}

/// Says from one count to the next whether there are others.
#[derive(Debug)]
pub(super) struct Others {
    since: Option<(Instant, Counts)>,
    active: Option<bool>,
}

impl Others {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self {
            since: None,
            active: None,
        }
    }

    /// Whether there were any between the last two counts.
    pub(super) fn are_active(&self) -> Option<bool> {
        self.active
    }

    /// Takes the counts as they are at `now`.
    pub(super) fn count(&mut self, now: Instant, counts: Counts) {
        let Some((since, before)) = self.since.replace((now, counts)) else {
            return;
        };
        let all = counts.all.saturating_sub(before.all);
        let own = counts.own.saturating_sub(before.own);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let others = all.saturating_sub(own) as f64;
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        self.active = Some(others > UNNOTICED * seconds);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use backscroll_shard::migrate::migrate_all;
    use backscroll_shard::routing::Router;
    use backscroll_shard::settings::StoreSettings;

    use super::*;

    /// Counts every 100 ms, from figures of the database and of the job.
    fn seen(counts: &[(u64, u64)]) -> Vec<Option<bool>> {
        let mut others = Others::new();
        let mut now = Instant::now();
        let mut seen = Vec::new();
        for &(all, own) in counts {
            others.count(now, Counts { all, own });
            seen.push(others.are_active());
            now += Duration::from_millis(100);
        }
        seen
    }

    #[test]
    fn one_count_says_nothing() {
        assert_eq!(seen(&[(7000, 0)]), [None]);
    }

    #[test]
    fn what_the_job_does_itself_is_not_what_others_do() {
        assert_eq!(
            seen(&[(7000, 5), (9000, 2005), (11_000, 4004)]),
            [None, Some(false), Some(false)]
        );
    }

    #[test]
    fn others_come_and_go() {
        let counts = [
            (100, 0),
            (105, 0),
            (145, 0),
            (345, 200),
            (385, 200),
            (388, 200),
        ];
        let active = [false, true, false, true, false].map(Some);
        assert_eq!(seen(&counts)[1..], active);
    }

    #[test]
    fn a_server_that_was_started_anew_counts_from_zero() {
        assert_eq!(
            seen(&[(9000, 10), (3, 20), (43, 30), (60, 40)]),
            [None, Some(false), Some(true), Some(true)]
        );
    }

    #[tokio::test]
    async fn the_process_counts_where_the_database_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings::embedded(folder.path().to_str().unwrap(), 1);
        migrate_all(&settings, false).await.unwrap();
        let router = Router::open(&settings).await.unwrap();
        let shard = router.shards().next().unwrap();
        let job = shard.with_separate_statement_count();
        let ask = async |shard: &Shard| {
            let mut connection = shard.reader(Instant::now() + super::super::STEP).await?;
            connection.fetch_optional("SELECT 1", &[]).await.map(drop)
        };
        let before = Counts::of(&job).await.unwrap();
        for _ in 0..3 {
            ask(&job).await.unwrap();
        }
        ask(shard).await.unwrap();
        ask(&shard.with_separate_statement_count()).await.unwrap();
        let after = Counts::of(&job).await.unwrap();
        assert_eq!((after.all - before.all, after.own - before.own), (5, 3));
    }
}
