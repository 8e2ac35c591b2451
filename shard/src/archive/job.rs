//! The history of jobs.

use std::time::Duration;

use serde::Serialize;

use crate::db::{Connection, Row, values};
use crate::error::{Error, Result};
use crate::model::{RawJson, Timestamp};

/// A job as it was put down.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRecord {
    /// Its id.
    #[serde(skip)]
    pub id: [u8; 16],
    /// What it did: `run`, `restore`, `gc` …
    pub kind: String,
    /// Who started it: a user of the machine, or `schedule`.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; none while it runs, or when its process died.
    pub ended_at: Option<Timestamp>,
    /// `done`, or what stopped it.
    pub outcome: Option<String>,
    /// What it did, in numbers: a JSON object.
    pub figures: RawJson,
}

const BEGIN: &str = "INSERT INTO archive_jobs (id, kind, actor, reason, started_at, figures) VALUES (?, ?, ?, ?, {now}, ?)";
const END: &str = "UPDATE archive_jobs SET ended_at = {now}, outcome = ?, figures = ? WHERE id = ?";
/// By the index `archive_jobs_started`.
const LATEST: &str = "SELECT id, kind, actor, reason, started_at, ended_at, outcome, figures FROM archive_jobs \
     {by archive_jobs_started} ORDER BY started_at DESC LIMIT ?";
const FORGET: &str = "DELETE FROM archive_jobs WHERE started_at < {now} - ?";

/// How much of a text a column of the history takes, in characters.
const TEXT_CHARACTERS: usize = 128;

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARACTERS).collect()
}

/// Puts a job down that begins, and gives its id.
///
/// # Errors
/// When the database fails.
pub async fn begin_job(
    connection: &mut Connection,
    (kind, actor, reason): (&str, &str, &str),
) -> Result<[u8; 16]> {
    let id: [u8; 16] = rand::random();
    let (actor, reason) = (shortened(actor), shortened(reason));
    connection
        .execute(
            BEGIN,
            &values![&id, kind, actor.as_str(), reason.as_str(), "{}"],
        )
        .await?;
    Ok(id)
}

/// Puts down how a job ended.
///
/// # Errors
/// When the database fails.
pub async fn end_job(
    connection: &mut Connection,
    id: &[u8; 16],
    (outcome, figures): (&str, &str),
) -> Result<()> {
    let outcome = shortened(outcome);
    connection
        .execute(END, &values![outcome.as_str(), figures, id])
        .await
        .map(drop)
}

/// The latest jobs, the newest first.
///
/// # Errors
/// When the database fails.
pub async fn latest_jobs(connection: &mut Connection, limit: usize) -> Result<Vec<JobRecord>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let job = |row: &Row| {
        let mut columns = row.columns();
        Ok(JobRecord {
            id: columns
                .bytes()?
                .try_into()
                .map_err(|_| Error::corrupt("a job's id"))?,
            kind: columns.text()?,
            actor: columns.text()?,
            reason: columns.text()?,
            started_at: Timestamp(columns.int()?),
            ended_at: columns.opt_int()?.map(Timestamp),
            outcome: columns.opt_text()?,
            figures: RawJson::parse(columns.text()?)
                .map_err(|error| Error::corrupt(format_args!("a job's figures: {error}")))?,
        })
    };
    connection
        .fetch_all(LATEST, &values![limit])
        .await?
        .iter()
        .map(job)
        .collect()
}

/// Forgets jobs that began longer than `keep` ago.
///
/// # Errors
/// When the database fails.
pub async fn forget_jobs(connection: &mut Connection, keep: Duration) -> Result<u64> {
    let millis = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    connection.execute(FORGET, &values![millis]).await
}
