//! What is put down about a move beside its state: how much it is, how fast it was, how fast it may be, and what it waits for.
//!
//! Nothing of it decides what happens to a row, so nothing of it names an attempt.

use super::job::Move;
use super::move_id::MoveId;
use super::reason::Reason;
use crate::db::{Connection, Row, values};
use crate::error::Result;

const MEASURE: &str = "UPDATE moves SET rows_per_second = ?, freeze_ms = ? WHERE id = ?";
/// The whole table: a row a move that there ever was.
const MEASURED: &str = "SELECT rows_per_second, freeze_ms FROM moves WHERE freeze_ms IS NOT NULL ORDER BY created_at DESC LIMIT ?";
const EXPECT: &str = "UPDATE moves SET expected_rows = ?, expected_bytes = ? WHERE id = ?";
const THROTTLE: &str = "UPDATE moves SET throttle = ? WHERE id = ?";
const TELL: &str = "UPDATE moves SET waits = ? WHERE id = ? AND runner = ?";

/// How fast a move was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    /// From the beginning of the copy to the commit; unknown where little was copied.
    pub(crate) rows_per_second: Option<u64>,
    /// How long writers waited.
    pub(crate) freeze_ms: u64,
}

/// Puts down how fast a move was.
///
/// # Errors
/// When the database fails.
pub(crate) async fn measure(
    connection: &mut Connection,
    id: MoveId,
    figures: Figures,
) -> Result<()> {
    let speed = figures.rows_per_second.map(u64::cast_signed);
    let args = values![speed, figures.freeze_ms.cast_signed(), id.as_bytes()];
    connection.execute(MEASURE, &args).await.map(drop)
}

/// How fast the latest moves were, the newest first.
///
/// # Errors
/// When the database fails.
pub(crate) async fn measured(connection: &mut Connection, limit: i64) -> Result<Vec<Figures>> {
    let figures = |row: &Row| {
        Ok(Figures {
            rows_per_second: row.opt_int(0)?.map(i64::cast_unsigned),
            freeze_ms: row.int(1)?.cast_unsigned(),
        })
    };
    let rows = connection.fetch_all(MEASURED, &values![limit]).await?;
    rows.iter().map(figures).collect()
}

/// Puts down about how many rows and bytes the range has.
///
/// # Errors
/// When the database fails.
pub(crate) async fn expect(
    connection: &mut Connection,
    id: MoveId,
    (rows, bytes): (u64, u64),
) -> Result<()> {
    let args = values![rows.cast_signed(), bytes.cast_signed(), id.as_bytes()];
    connection.execute(EXPECT, &args).await.map(drop)
}

/// Lets a move copy, compare and delete at most so many rows a second, or as many as it can.
///
/// # Errors
/// When the database fails.
pub(crate) async fn throttle(
    connection: &mut Connection,
    id: MoveId,
    rows: Option<u64>,
) -> Result<()> {
    let rows = rows.map(u64::cast_signed);
    let args = values![rows, id.as_bytes()];
    connection.execute(THROTTLE, &args).await.map(drop)
}

/// Puts down what the runner waits for, or that it waits for nothing. A runner that was overtaken changes nothing.
///
/// # Errors
/// When the database fails.
pub(crate) async fn tell(
    connection: &mut Connection,
    job: &Move,
    reason: Option<&Reason>,
) -> Result<()> {
    let reason = reason.and_then(|it| serde_json::to_string(it).ok());
    let args = values![
        reason.as_deref(),
        job.id.as_bytes(),
        job.runner.cast_signed()
    ];
    connection.execute(TELL, &args).await.map(drop)
}
