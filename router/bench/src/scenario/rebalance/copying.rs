//! The copy of one job that is not throttled, while nobody writes: how fast it is, and where its processor time goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sqlx::{MySqlConnection, Row};
use tokio::time::sleep;

use super::operator::Operator;
use crate::harness::databases::Databases;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Watched};
use crate::out;
use crate::report::thousands;

/// The setting with which a move does not pause.
const UNTHROTTLED: (&str, &str) = ("BACKSCROLL_REBALANCE__LOAD", "100");
/// How often the state of the move is read.
const LOOK: Duration = Duration::from_millis(20);
/// The longest time of the copy.
const PATIENCE: Duration = Duration::from_secs(1800);
const STATE: &str = "SELECT HEX(id), state FROM moves ORDER BY created_at DESC LIMIT 1";

/// What the copy of the first shard's range to the second came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Copying {
    /// Rows that were copied.
    pub(super) rows: u64,
    /// Rows a second, of the copy without the comparison.
    pub(super) rate: f64,
    /// Seconds of the whole move, with the comparison.
    pub(super) seconds: f64,
    /// Processor time of the copy for each row, in microseconds, by process.
    pub(super) micros_each: Vec<(&'static str, f64)>,
    /// How long the move back took, whose rows were there.
    pub(super) back_seconds: f64,
}

impl Copying {
    /// Moves the range of the first shard to the second, and back, and waits until it can be moved again.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub(super) async fn measure(
        databases: &Databases,
        router: &Router,
        watched: &[Watched],
    ) -> Result<Self> {
        let operator = Operator(router);
        let ranges = operator.ranges("shard1").await?;
        let range = ranges.first().context("shard1 has no range")?.argument();
        let mut directory = databases.connect("directory").await?;
        let begin = Instant::now();
        let arguments = Operator::run_arguments(&range, "shard2");
        let command = router.begin("rebalance", &arguments, &[UNTHROTTLED])?;
        let mut watched = watched.to_vec();
        watched.push(Watched {
            name: "mover",
            pid: command.id().context("it has ended")?.cast_signed(),
        });
        let meter = Meter::start(&watched)?;
        let id = until_copied(&mut directory).await?;
        let usage = meter.stop()?;
        let ended = command.wait_with_output().await?;
        ensure!(ended.status.success(), "the move failed: {}", ended.status);
        let seconds = begin.elapsed().as_secs_f64();
        let times = operator.times(&id).await?;
        let begin = Instant::now();
        operator.reverse(&id).await?;
        let back_seconds = begin.elapsed().as_secs_f64();
        ensure!(
            operator.wait_for_cleaning().await?,
            "the rows of the move back are not deleted"
        );
        Ok(Self {
            rows: times.rows,
            rate: times.rows as f64 / times.copying.as_secs_f64().max(1e-3),
            seconds,
            micros_each: usage.micros_each(times.rows),
            back_seconds,
        })
    }

    /// Prints it.
    pub(super) fn print(&self) {
        let each: Vec<String> = self
            .micros_each
            .iter()
            .map(|(name, micros)| format!("{name} {micros:.1}"))
            .collect();
        out::line(format_args!(
            "a copy while nobody wrote: {} rows, {} rows/s; processor time of a row in µs: {}",
            thousands(self.rows as f64),
            thousands(self.rate),
            each.join(", ")
        ));
        out::line(format_args!(
            "the whole move took {:.1} s, with the comparison of all rows; the throttled move back, whose rows were there, {:.1} s",
            self.seconds, self.back_seconds
        ));
    }
}

/// Waits until the move is past its copy; gives its name.
async fn until_copied(directory: &mut MySqlConnection) -> Result<String> {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        let row = sqlx::query(STATE).fetch_optional(&mut *directory).await?;
        if let Some(row) = row {
            let (id, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            if state != "copying" {
                return Ok(id.to_lowercase());
            }
        }
        ensure!(Instant::now() < give_up_at, "the copy does not end");
        sleep(LOOK).await;
    }
}
