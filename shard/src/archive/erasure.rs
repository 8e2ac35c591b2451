//! Deleted content that archived objects still hold, and the receipts of what was removed (INV-ERASE).
//!
//! Once no index names the content, an erasure notes the greatest number of a segment ([`Generation`]). Every object that
//! may still hold the content has at most that number: it was superseded by then, or it is the work of a job that died
//! before. The receipt is given when no such object is left. No clock has a say.

use serde::Serialize;

use super::{Copies, Generation, SegmentState, newest_generation};
use crate::db::{Connection, Row, values};
use crate::error::Result;
use crate::ids::{ConversationId, Seq};
use crate::media;
use crate::model::Timestamp;
use crate::owned::OwnedTransaction;

/// One deleted message, on its way out of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Erasure {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message; 0 is the whole conversation.
    pub seq: Seq,
    /// When it was deleted.
    pub requested_at: Timestamp,
    /// Since when no index names its content.
    pub rewritten_at: Option<Timestamp>,
    /// Since when no object holds its content.
    pub erased_at: Option<Timestamp>,
}

/// How many receipts are looked up at once.
const RECEIPTS: i64 = 256;

macro_rules! erasure_columns {
    () => {
        "conversation_id, seq, requested_at, rewritten_at, erased_at"
    };
}

const REQUEST: &str = "INSERT INTO erasures (conversation_id, seq, requested_at) VALUES (?, ?, ?) \
     {on_duplicate conversation_id, seq} requested_at = erasures.requested_at";
/// By the index `erasures_open`.
const PENDING: &str = concat!(
    "SELECT ",
    erasure_columns!(),
    " FROM erasures {by erasures_open} WHERE erased_at IS NULL AND rewritten_at IS NULL ORDER BY requested_at LIMIT ?"
);
const REWRITTEN: &str = "UPDATE erasures SET rewritten_at = ?, rewritten_generation = ? WHERE conversation_id = ? AND seq = ?";
/// By the indexes `erasures_open` and `media_removed`. Which of a conversation's files a message had is not kept: each receipt
/// waits for all files that are removed by then.
const REWRITTEN_BEFORE: &str = concat!(
    "SELECT ",
    erasure_columns!(),
    " FROM erasures {by erasures_open} WHERE erased_at IS NULL AND rewritten_at IS NOT NULL \
     AND (? IS NULL OR rewritten_generation < ?) \
     AND NOT EXISTS (SELECT 1 FROM media m WHERE m.conversation_id = erasures.conversation_id AND m.state = 4) \
     ORDER BY rewritten_at LIMIT ?"
);
/// By the primary key.
const ERASED: &str = "UPDATE erasures SET erased_at = ? WHERE conversation_id = ? AND seq = ?";
/// By the index `archive_segments_state`: of segments that are no part of the archive there are few.
const FIRST_NOT_GONE: &str = "SELECT MIN(generation) FROM archive_segments {by archive_segments_state} WHERE state IN (?, ?, ?)";
/// By the primary key.
const REOPEN: &str = "UPDATE erasures SET rewritten_at = NULL, rewritten_generation = NULL, erased_at = NULL \
     WHERE conversation_id = ? AND (seq = 0 OR seq BETWEEN ? AND ?) AND rewritten_at IS NOT NULL";
const OPEN: &str =
    "SELECT COUNT(*), MIN(requested_at) FROM erasures {by erasures_open} WHERE erased_at IS NULL";
/// By the primary key.
const OF_CONVERSATION: &str = concat!(
    "SELECT ",
    erasure_columns!(),
    " FROM erasures WHERE conversation_id = ? AND seq > ? ORDER BY seq LIMIT ?"
);

fn erasure(row: &Row) -> Result<Erasure> {
    let mut columns = row.columns();
    Ok(Erasure {
        conversation_id: columns.conversation()?,
        seq: Seq::from_i64(columns.int()?),
        requested_at: Timestamp(columns.int()?),
        rewritten_at: columns.opt_int()?.map(Timestamp),
        erased_at: columns.opt_int()?.map(Timestamp),
    })
}

/// In the transaction that deletes a message: the files that only this message uses go with it; what is in the archive, and on
/// the object store, is put down to be erased there as well.
///
/// # Errors
/// When the database fails.
pub(crate) async fn erase_message(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    seq: Seq,
) -> Result<()> {
    let now = Timestamp::now();
    let had_files = media::release(rows, conversation, seq, now).await?;
    let copies = Copies::find(rows, conversation, (seq, seq)).await?;
    if had_files || !copies.runs().is_empty() {
        request_erasure(rows, conversation, seq, now).await?;
    }
    Ok(())
}

/// In a write transaction: puts a deleted message down whose content is archived. Again changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn request_erasure(
    connection: &mut Connection,
    conversation: ConversationId,
    seq: Seq,
    now: Timestamp,
) -> Result<()> {
    connection
        .execute(REQUEST, &values![&conversation, seq, now.0])
        .await
        .map(drop)
}

/// In a write transaction: puts a deleted message down whose content is archived, whether or not it was erased before.
///
/// # Errors
/// When the database fails.
pub async fn erase_anew(
    connection: &mut Connection,
    conversation: ConversationId,
    seq: Seq,
    now: Timestamp,
) -> Result<()> {
    reopen_erasures(connection, conversation, (seq, seq)).await?;
    request_erasure(connection, conversation, seq, now).await
}

/// The erasures whose content is still named by the index, the longest waiting first.
///
/// # Errors
/// When the database fails.
pub async fn pending_erasures(connection: &mut Connection, limit: usize) -> Result<Vec<Erasure>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection
        .fetch_all(PENDING, &values![limit])
        .await?
        .iter()
        .map(erasure)
        .collect()
}

/// In a job's transaction: no index names this content any more. Segments that were superseded for it must be so by now,
/// in this transaction or before.
///
/// # Errors
/// When the database fails.
pub async fn erasure_rewritten(
    connection: &mut Connection,
    conversation: ConversationId,
    seq: Seq,
    now: Timestamp,
) -> Result<()> {
    let newest = newest_generation(connection).await?;
    connection
        .execute(REWRITTEN, &values![now.0, newest, &conversation, seq])
        .await
        .map(drop)
}

/// In a job's transaction: content of messages from `first` to `last` may be named again, as when a rebuild has found an old
/// object; what was deleted of it is to be erased once more.
///
/// # Errors
/// When the database fails.
pub async fn reopen_erasures(
    connection: &mut Connection,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
) -> Result<()> {
    let args = values![&conversation, first, last];
    connection.execute(REOPEN, &args).await.map(drop)
}

/// In a write transaction: gives the receipts for what no object holds any more, and says how many.
///
/// # Errors
/// When the database fails.
pub async fn finish_erasures(connection: &mut Connection, now: Timestamp) -> Result<u64> {
    let first = first_not_gone(connection).await?;
    let mut finished = 0;
    loop {
        let rows = connection
            .fetch_all(REWRITTEN_BEFORE, &values![first, first, RECEIPTS])
            .await?;
        if rows.is_empty() {
            return Ok(finished);
        }
        for row in &rows {
            let done = erasure(row)?;
            connection
                .execute(ERASED, &values![now.0, &done.conversation_id, done.seq])
                .await?;
            finished += 1;
        }
    }
}

/// The smallest number of a segment whose object may be there although it is no part of the archive.
async fn first_not_gone(connection: &mut Connection) -> Result<Option<Generation>> {
    let states = [
        SegmentState::Writing,
        SegmentState::Superseded,
        SegmentState::Deleting,
    ];
    let [writing, superseded, deleting] = states.map(SegmentState::name);
    let args = values![writing, superseded, deleting];
    let row = connection.fetch_optional(FIRST_NOT_GONE, &args).await?;
    let stored = row.map(|row| row.opt_int(0)).transpose()?.flatten();
    Ok(stored.map(Generation::from_i64))
}

/// How many erasures have no receipt yet, and when the oldest of them was asked for.
///
/// # Errors
/// When the database fails.
pub async fn open_erasures(connection: &mut Connection) -> Result<(u64, Option<Timestamp>)> {
    let Some(row) = connection.fetch_optional(OPEN, &[]).await? else {
        return Ok((0, None));
    };
    Ok((row.int(0)?.cast_unsigned(), row.opt_int(1)?.map(Timestamp)))
}

/// The erasures of a conversation after message `after`, with their receipts.
///
/// # Errors
/// When the database fails.
pub async fn erasures_of(
    connection: &mut Connection,
    conversation: ConversationId,
    after: Option<Seq>,
    limit: usize,
) -> Result<Vec<Erasure>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let after = after.map_or(-1, Seq::as_i64);
    let rows = connection
        .fetch_all(OF_CONVERSATION, &values![&conversation, after, limit])
        .await?;
    rows.iter().map(erasure).collect()
}
