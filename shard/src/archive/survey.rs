//! Looking over the whole index: for erasing, verifying, restoring and for operators.

use std::collections::BTreeMap;

use serde::Serialize;

use super::SegmentId;
use crate::db::{Connection, Row, values};
use crate::error::{Error, Result};
use crate::head::{self, Head};
use crate::ids::{COUNTER_MAX, ConversationId, Rev, Seq};
use crate::media;
use crate::mentions;
use crate::message::{self, StoredMessage};
use crate::model::Timestamp;
use crate::owned::{OwnedReader, OwnedTransaction};
use crate::pins;
use crate::receipts;
use crate::threads;

/// By the primary key.
const HOT_REVS: &str =
    "SELECT seq, rev FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ?";
/// By the primary key.
const HOT_STATES: &str = "SELECT seq, rev, deleted_at IS NOT NULL FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ?";
/// By the primary key.
const HOT_COUNT: &str =
    "SELECT COUNT(*) FROM messages WHERE conversation_id = ? AND seq BETWEEN ? AND ?";
/// By the primary key.
const PURGE: &str = "DELETE FROM messages WHERE conversation_id = ? AND seq <= ?";
/// By the primary key.
const NEXT_SEQ: &str = "SELECT seq FROM messages WHERE conversation_id = ? ORDER BY seq LIMIT 1";
/// By the primary key.
const EMPTY_HEAD: &str = "UPDATE conversations SET title = NULL, metadata = NULL, last_sender = NULL, last_type = NULL, last_preview = NULL \
     WHERE id = ? AND deleted_at IS NOT NULL";
/// By the index `archive_runs_segment`.
const NEXT_NAMED: &str = "SELECT segment FROM archive_runs {by archive_runs_segment} WHERE segment > ? ORDER BY segment LIMIT 1";
/// By the index `archive_runs_segment`, and for each run found by the primary key: see [`super::Copies::find`].
const OVERTAKEN: &str = "SELECT DISTINCT o.segment FROM archive_runs n {by archive_runs_segment} \
     JOIN archive_runs o ON o.conversation_id = n.conversation_id AND o.last_seq >= n.first_seq \
     AND o.last_seq < n.last_seq + ? AND o.first_seq <= n.last_seq AND o.segment <> n.segment \
     WHERE n.segment = ?";
/// By the primary key.
const NEXT_ARCHIVED: &str = "SELECT r.last_seq FROM archive_runs r WHERE r.conversation_id = ? AND r.last_seq > ? \
     AND r.segment IS NOT NULL ORDER BY r.last_seq LIMIT 1";
/// By the primary key.
const CONVERSATIONS_AFTER: &str = "SELECT id FROM conversations WHERE id > ? ORDER BY id LIMIT ?";
/// By the index `archive_segments_state`.
const SUMS: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS {signed}), CAST(COALESCE(SUM(messages), 0) AS {signed}) FROM archive_segments \
     {by archive_segments_state} WHERE state = ?";
/// By the index `conversations_oldest_hot`.
const OLDEST_HOT: &str = "SELECT oldest_hot_at FROM conversations {by conversations_oldest_hot} \
     WHERE oldest_hot_at IS NOT NULL ORDER BY oldest_hot_at LIMIT 1";

/// A stretch after message `after` that has the next archived messages of a conversation, at most [`super::RUN_MAX`] long;
/// none when nothing after it is archived. Not all of the stretch need be archived.
///
/// # Errors
/// When the database fails.
pub async fn next_archived(
    connection: &mut Connection,
    conversation: ConversationId,
    after: Seq,
) -> Result<Option<(Seq, Seq)>> {
    let row = connection
        .fetch_optional(NEXT_ARCHIVED, &values![&conversation, after])
        .await?;
    let Some(last) = row.map(|row| row.int(0)).transpose()?.map(Seq::from_i64) else {
        return Ok(None);
    };
    // What is archived between ends in this run or in a later one, and so begins no earlier than this.
    let first = Seq((last.0 + 1).saturating_sub(super::RUN_MAX));
    Ok(Some((first.max(after.next()), last)))
}

/// The revs of a conversation's hot rows from `first` to `last`.
///
/// # Errors
/// When the database fails.
pub async fn hot_revs(
    connection: &mut Connection,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
) -> Result<BTreeMap<Seq, Rev>> {
    let rows = connection
        .fetch_all(HOT_REVS, &values![&conversation, first, last])
        .await?;
    rows.iter()
        .map(|row| Ok((Seq::from_i64(row.int(0)?), Rev::from_i64(row.int(1)?))))
        .collect()
}

/// The revs of a conversation's hot rows from `first` to `last`, and whether the messages are deleted.
///
/// # Errors
/// When the database fails.
pub async fn hot_states(
    connection: &mut Connection,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
) -> Result<BTreeMap<Seq, (Rev, bool)>> {
    let rows = connection
        .fetch_all(HOT_STATES, &values![&conversation, first, last])
        .await?;
    let state = |row: &Row| {
        let state = (Rev::from_i64(row.int(1)?), row.int(2)? != 0);
        Ok((Seq::from_i64(row.int(0)?), state))
    };
    rows.iter().map(state).collect()
}

/// How many hot rows a conversation has from `first` to `last`.
///
/// # Errors
/// When the database fails.
pub async fn hot_count(
    connection: &mut Connection,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
) -> Result<u64> {
    let row = connection
        .fetch_optional(HOT_COUNT, &values![&conversation, first, last])
        .await?;
    Ok(row
        .map(|row| row.int(0))
        .transpose()?
        .unwrap_or(0)
        .cast_unsigned())
}

/// In a job's transaction: deletes the first hot rows of a deleted conversation, about `limit` of them. When there are none,
/// removes its files, its pins and the texts from its head, and gives `false`.
///
/// # Errors
/// When the database fails.
pub async fn purge_rows(
    connection: &mut Connection,
    conversation: ConversationId,
    limit: u64,
) -> Result<bool> {
    let Some(row) = connection
        .fetch_optional(NEXT_SEQ, &values![&conversation])
        .await?
    else {
        let args = values![&conversation];
        connection.execute(EMPTY_HEAD, &args).await?;
        media::remove_all(connection, conversation, Timestamp::now()).await?;
        pins::remove_all(connection, conversation).await?;
        receipts::remove_all(connection, conversation).await?;
        let mut rows = OwnedTransaction::for_job(connection);
        mentions::remove_up_to(&mut rows, conversation, Seq(COUNTER_MAX)).await?;
        threads::remove_up_to(&mut rows, conversation, Seq(COUNTER_MAX)).await?;
        return Ok(false);
    };
    let last = Seq(Seq::from_i64(row.int(0)?).0.saturating_add(limit));
    connection
        .execute(PURGE, &values![&conversation, last])
        .await?;
    Ok(true)
}

/// The next segment, by id, that the index names.
///
/// # Errors
/// When the database fails.
pub async fn next_named_segment(
    connection: &mut Connection,
    after: Option<SegmentId>,
) -> Result<Option<SegmentId>> {
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let row = connection
        .fetch_optional(NEXT_NAMED, &values![after])
        .await?;
    row.map(|row| SegmentId::from_bytes(&row.bytes(0)?))
        .transpose()
}

/// The segments of which this one, the newest, has archived messages anew.
///
/// # Errors
/// When the database fails.
pub async fn overtaken_by(
    connection: &mut Connection,
    segment: SegmentId,
) -> Result<Vec<SegmentId>> {
    let rows = connection
        .fetch_all(
            OVERTAKEN,
            &values![super::RUN_MAX.cast_signed(), segment.as_bytes()],
        )
        .await?;
    rows.iter()
        .map(|row| SegmentId::from_bytes(&row.bytes(0)?))
        .collect()
}

/// The next `limit` conversations of a shard, by id, with their heads.
///
/// # Errors
/// When the database fails.
pub async fn heads_after(
    connection: &mut Connection,
    after: Option<ConversationId>,
    limit: usize,
) -> Result<Vec<Head>> {
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = connection
        .fetch_all(CONVERSATIONS_AFTER, &values![after, limit])
        .await?;
    let ids = rows
        .iter()
        .map(|row| row.conversation(0))
        .collect::<Result<Vec<_>>>()?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    head::read(&mut OwnedReader::for_job(connection), &ids).await
}

/// In a job's transaction: makes archived messages hot rows again, as they are; those that are hot already stay. Gives how
/// many there were to restore.
///
/// The rows keep their revs, and the conversation takes its next: who reads hot rows and the index one after the other
/// sees by it that rows have become hot in between.
///
/// # Errors
/// [`Error::NotFound`] without such a conversation.
pub async fn restore_rows(
    connection: &mut Connection,
    conversation: ConversationId,
    messages: Vec<StoredMessage>,
) -> Result<u64> {
    let (Some(first), Some(last)) = (
        messages.first().map(|m| m.seq),
        messages.last().map(|m| m.seq),
    ) else {
        return Ok(0);
    };
    let rows = &mut OwnedTransaction::for_job(connection);
    let head = head::lock(rows, &[conversation])
        .await?
        .pop()
        .filter(|head| head.deleted_at.is_none());
    let mut head = head.ok_or(Error::NotFound("conversation"))?;
    let hot = hot_revs(rows, conversation, (first, last)).await?;
    let cold = messages
        .into_iter()
        .filter(|message| !hot.contains_key(&message.seq));
    let cold: Vec<(ConversationId, StoredMessage)> =
        cold.map(|message| (conversation, message)).collect();
    if cold.is_empty() {
        return Ok(0);
    }
    for (_, message) in &cold {
        head.thaw(message);
    }
    head.next_rev();
    message::insert_again(rows, &cold).await?;
    head::save(rows, &[&head]).await?;
    Ok(cold.len() as u64)
}

/// Segments of one state, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SegmentSums {
    /// How many.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The messages they were written with.
    pub messages: u64,
}

/// The segments of a state, added up.
///
/// # Errors
/// When the database fails.
pub async fn segment_sums(
    connection: &mut Connection,
    state: super::SegmentState,
) -> Result<SegmentSums> {
    let Some(row) = connection
        .fetch_optional(SUMS, &values![state.name()])
        .await?
    else {
        return Ok(SegmentSums::default());
    };
    let mut columns = row.columns();
    Ok(SegmentSums {
        segments: columns.unsigned()?,
        bytes: columns.unsigned()?,
        messages: columns.unsigned()?,
    })
}

/// When the shard's oldest hot message was sent.
///
/// # Errors
/// When the database fails.
pub async fn oldest_hot(connection: &mut Connection) -> Result<Option<Timestamp>> {
    let oldest = connection.fetch_optional(OLDEST_HOT, &[]).await?;
    Ok(oldest.map(|row| row.int(0)).transpose()?.map(Timestamp))
}
