//! Totals of the archive's jobs, those of commands and of the nodes' schedules, from the shards' history of jobs.

use anyhow::Result;
use serde_json::Value;
use sqlx::Row;

use crate::faults::deployment::{Deployment, SHARDS};

const JOBS: &str = "SELECT kind, outcome, figures FROM archive_jobs";

/// The totals of all shards.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobTotals {
    /// Archive runs that began on a shard, and those that finished.
    pub runs: (u64, u64),
    /// The greatest number of segments of one run.
    pub longest: u64,
    /// Segments that were written, by erasing too; those of killed jobs are not counted.
    pub segments: u64,
    /// Messages that were archived, counted likewise.
    pub archived: u64,
    /// Other jobs that began, and those that finished.
    pub others: (u64, u64),
}

/// Counts the jobs.
///
/// # Errors
/// When a database cannot be read.
pub async fn count(deployment: &Deployment) -> Result<JobTotals> {
    let mut totals = JobTotals::default();
    for shard in 0..SHARDS {
        let server = &deployment.databases[Deployment::database_of(shard)];
        let mut connection = server.connect(&format!("shard{}", shard + 1)).await?;
        for job in sqlx::query(JOBS).fetch_all(&mut connection).await? {
            let kind: String = job.try_get(0)?;
            let outcome: Option<String> = job.try_get(1)?;
            let figures: String = job.try_get(2)?;
            let figures: Value = serde_json::from_str(&figures).unwrap_or_default();
            let figure = |name: &str| figures[name].as_u64().unwrap_or(0);
            let is_done = u64::from(outcome.is_some_and(|outcome| outcome == "done"));
            let jobs = match kind.as_str() {
                "run" => {
                    totals.longest = totals.longest.max(figure("segments"));
                    totals.segments += figure("segments");
                    totals.archived += figure("messages");
                    &mut totals.runs
                }
                _ => {
                    totals.segments += figure("rewritten");
                    &mut totals.others
                }
            };
            jobs.0 += 1;
            jobs.1 += is_done;
        }
    }
    Ok(totals)
}
