//! Messages as they are stored, and how they become what callers see.
//!
//! A message is one row: content, attachments, reactions, edit history, delete mark. The row is the unit of sync, of
//! archiving and of moving.

pub(crate) mod attachments;
mod draft;
mod page;
mod reactions;
mod shown;

use crate::db::{Columns, Value, rows_of, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::model::{MessagePreview, MessageType, Timestamp};
use crate::owned::{OwnedReader, OwnedTransaction};

pub(crate) use attachments::has_attachment;
pub use draft::{CLIENT_MSG_ID_MAX_BYTES, Draft};
pub(crate) use draft::{
    check_attachments, check_content, check_mentions, check_object, mentions_json,
};
pub use page::{Cut, MessageRow, PAGE, Room, Shown, latest_seqs, rows};
pub(crate) use reactions::{EMOJI_RULE, Reactions};
pub(crate) use shown::{left_out, stored_json, stored_mentions, stored_reactions};

/// That a message is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Since when.
    pub at: Timestamp,
    /// By whom.
    pub by: UserId,
}

/// A message as its row (or its line in the archive) holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// Its place in the conversation.
    pub seq: Seq,
    /// The change that touched it last.
    pub rev: Rev,
    /// Who sent it.
    pub sender: UserId,
    /// The sender's own id for it.
    pub client_msg_id: Option<String>,
    /// What was sent under that id, so that another body under it is a conflict (INV-IDEM).
    pub body_digest: Option<i64>,
    /// What it carries.
    pub message_type: MessageType,
    /// The text; empty once deleted.
    pub content: String,
    /// The message it answers.
    pub reply_to: Option<Seq>,
    /// A JSON list.
    pub attachments: Option<String>,
    /// A JSON object: emoji to user ids.
    pub reactions: Option<String>,
    /// A JSON object.
    pub metadata: Option<String>,
    /// A JSON list of the ids of the members that it mentions.
    pub mentions: Option<String>,
    /// A JSON list of earlier contents.
    pub edit_history: Option<String>,
    /// When it was stored, or for imported messages sent.
    pub created_at: Timestamp,
    /// When its content changed last.
    pub edited_at: Option<Timestamp>,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// Whether it is pinned.
    pub pin: Option<Pin>,
}

/// What is selected of a message, in the order that [`StoredMessage::read`] reads it; `shown` without its earlier versions.
macro_rules! message_columns {
    () => {
        message_columns!("edit_history")
    };
    (shown) => {
        message_columns!("NULL")
    };
    ($edits:literal) => {
        concat!(
            "seq, rev, sender_id, COALESCE(client_msg_id, archived_client_msg_id), body_digest, message_type, content, \
             reply_to, attachments, reactions, metadata, ",
            $edits,
            ", created_at, edited_at, deleted_at, pinned_at, pinned_by, mentions"
        )
    };
}
pub(crate) use message_columns;
const COLUMN_COUNT: usize = 18;

/// By the unique key of client message ids, which begins with these two.
const SENT_BY: &str = "SELECT seq FROM messages {by messages_client_msg_id} WHERE conversation_id = ? AND sender_id = ? LIMIT 1";
/// By the primary key. A row that is locked does not leave for the archive until it is changed or the transaction ends.
const LOCK_ROW: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM messages WHERE conversation_id = ? AND seq = ? {for_update}"
);

/// Most rows in one INSERT.
const INSERT_ROWS: usize = 128;

/// Most bytes of messages in one INSERT, far below the smallest `max_allowed_packet` that a server has by default (4 MiB).
const INSERT_BYTES: usize = 2 << 20;

const INSERT: &str = "INSERT INTO messages (conversation_id, seq, rev, sender_id, client_msg_id, body_digest, message_type, content, \
     reply_to, attachments, reactions, metadata, edit_history, created_at, edited_at, deleted_at, pinned_at, pinned_by, mentions) VALUES ";

/// For messages that were archived: their client message ids do not stand in the way of newer messages under the same id,
/// and sends do not find them.
const INSERT_AGAIN: &str = "INSERT INTO messages (conversation_id, seq, rev, sender_id, archived_client_msg_id, body_digest, message_type, \
     content, reply_to, attachments, reactions, metadata, edit_history, created_at, edited_at, deleted_at, pinned_at, pinned_by, mentions) VALUES ";

/// For messages that have nothing but text, which most are when they are sent: half as many values.
const INSERT_PLAIN: &str = "INSERT INTO messages (conversation_id, seq, rev, sender_id, client_msg_id, body_digest, message_type, content, \
     created_at) VALUES ";
const PLAIN_COLUMN_COUNT: usize = 9;

/// By the primary key.
const UPDATE: &str = "UPDATE messages SET rev = ?, content = ?, attachments = ?, reactions = ?, metadata = ?, \
     edit_history = ?, edited_at = ?, deleted_at = ?, pinned_at = ?, pinned_by = ?, mentions = ? WHERE conversation_id = ? AND seq = ?";

/// Reads the next columns of a row, which are the sender, type, preview and time of the newest message, `last_seq`, of a
/// head or of a list's entry: the preview, and the time. A deleted message has a sender and no preview.
pub(crate) fn read_preview(
    columns: &mut Columns<'_>,
    last_seq: Seq,
) -> Result<(Option<MessagePreview>, Timestamp)> {
    let (sender, code, content) = (columns.opt_user()?, columns.opt_int()?, columns.opt_text()?);
    let created_at = Timestamp(columns.int()?);
    let (Some(sender_id), Some(code)) = (sender, code) else {
        return Ok((None, created_at));
    };
    let preview = MessagePreview {
        seq: last_seq,
        sender_id,
        deleted: content.is_none(),
        content: content.unwrap_or_default(),
        message_type: message_type_of(code)?,
        created_at,
    };
    Ok((Some(preview), created_at))
}

/// The sender, type and preview of the newest message as [`read_preview`] reads them.
pub(crate) fn preview_values(last: Option<&MessagePreview>) -> [Value<'_>; 3] {
    let content = last.filter(|last| !last.deleted);
    values![
        last.map(|last| &last.sender_id),
        last.map(|last| message_type_code(last.message_type)),
        content.map(|last| last.content.as_str()),
    ]
}

impl StoredMessage {
    /// Removes its content, whatever state it is in: of a deleted message only its place, its sender and its times stay.
    pub fn mark_deleted(&mut self, now: Timestamp) {
        self.remove_content();
        self.deleted_at.get_or_insert(now);
    }

    /// Whether it is deleted and nothing of its content is left. Imports once stored deleted messages with their content.
    pub(crate) fn is_deleted_whole(&self) -> bool {
        let parts = [
            &self.attachments,
            &self.reactions,
            &self.metadata,
            &self.mentions,
            &self.edit_history,
        ];
        let is_empty = self.content.is_empty()
            && self.pin.is_none()
            && parts.iter().all(|part| part.is_none());
        self.deleted_at.is_some() && is_empty
    }

    fn remove_content(&mut self) {
        self.content.clear();
        self.attachments = None;
        self.reactions = None;
        self.metadata = None;
        self.mentions = None;
        self.edit_history = None;
        self.pin = None;
    }

    /// Reads the next columns of a row, which are those of a message.
    ///
    /// # Errors
    /// When a stored value does not have its form.
    pub fn read(columns: &mut Columns<'_>) -> Result<Self> {
        Ok(Self {
            seq: Seq::from_i64(columns.int()?),
            rev: Rev::from_i64(columns.int()?),
            sender: columns.user()?,
            client_msg_id: columns
                .opt_bytes()?
                .map(String::from_utf8)
                .transpose()
                .map_err(|_| Error::corrupt("a client message id"))?,
            body_digest: columns.opt_int()?,
            message_type: message_type_of(columns.int()?)?,
            content: columns.text()?,
            reply_to: columns.opt_int()?.map(Seq::from_i64),
            attachments: columns.opt_text()?,
            reactions: columns.opt_text()?,
            metadata: columns.opt_text()?,
            edit_history: columns.opt_text()?,
            created_at: Timestamp(columns.int()?),
            edited_at: columns.opt_int()?.map(Timestamp),
            deleted_at: columns.opt_int()?.map(Timestamp),
            pin: read_pin(columns)?,
            mentions: columns.opt_text()?,
        })
    }

    fn values<'a>(&'a self, conversation: &'a ConversationId) -> [Value<'a>; COLUMN_COUNT + 1] {
        values![
            conversation,
            self.seq,
            self.rev,
            &self.sender,
            self.client_msg_id.as_deref().map(str::as_bytes),
            self.body_digest,
            message_type_code(self.message_type),
            self.content.as_str(),
            self.reply_to,
            self.attachments.as_deref(),
            self.reactions.as_deref(),
            self.metadata.as_deref(),
            self.edit_history.as_deref(),
            self.created_at.0,
            self.edited_at.map(|at| at.0),
            self.deleted_at.map(|at| at.0),
            self.pin.as_ref().map(|pin| pin.at.0),
            self.pin.as_ref().map(|pin| &pin.by),
            self.mentions.as_deref(),
        ]
    }

    /// About how many bytes its row takes in a statement.
    fn bytes(&self) -> usize {
        256 + self.content_bytes()
    }

    /// How many bytes its content, its earlier contents, its attachments, reactions and metadata take.
    pub(crate) fn content_bytes(&self) -> usize {
        let texts = [
            &self.attachments,
            &self.reactions,
            &self.metadata,
            &self.mentions,
            &self.edit_history,
        ];
        let texts = texts.into_iter().flatten().map(String::len);
        self.content.len() + texts.sum::<usize>()
    }

    /// Whether every column that [`INSERT_PLAIN`] leaves out is NULL.
    fn is_plain(&self) -> bool {
        let texts = [
            &self.attachments,
            &self.reactions,
            &self.metadata,
            &self.mentions,
            &self.edit_history,
        ];
        texts.iter().all(|text| text.is_none())
            && self.reply_to.is_none()
            && self.edited_at.is_none()
            && self.deleted_at.is_none()
            && self.pin.is_none()
    }

    fn plain_values<'a>(
        &'a self,
        conversation: &'a ConversationId,
    ) -> [Value<'a>; PLAIN_COLUMN_COUNT] {
        values![
            conversation,
            self.seq,
            self.rev,
            &self.sender,
            self.client_msg_id.as_deref().map(str::as_bytes),
            self.body_digest,
            message_type_code(self.message_type),
            self.content.as_str(),
            self.created_at.0,
        ]
    }
}

fn read_pin(columns: &mut Columns<'_>) -> Result<Option<Pin>> {
    let (at, by) = (columns.opt_int()?, columns.opt_user()?);
    Ok(at.zip(by).map(|(at, by)| Pin {
        at: Timestamp(at),
        by,
    }))
}

/// `rows` in batches for one statement each: at most [`INSERT_ROWS`] rows and, unless one alone is larger, [`INSERT_BYTES`].
fn batches(
    rows: &[(ConversationId, StoredMessage)],
) -> impl Iterator<Item = &[(ConversationId, StoredMessage)]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(_, message): &&(ConversationId, StoredMessage)| {
            bytes += message.bytes();
            bytes <= INSERT_BYTES
        };
        let fitting = rest.iter().take(INSERT_ROWS).take_while(fits).count();
        let batch;
        (batch, rest) = rest.split_at(fitting.max(1).min(rest.len()));
        (!batch.is_empty()).then_some(batch)
    })
}

/// In a write transaction that has locked the head: one hot row, locked.
///
/// # Errors
/// When the database fails.
pub async fn lock_row(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    seq: Seq,
) -> Result<Option<StoredMessage>> {
    let row = transaction
        .fetch_optional(LOCK_ROW, &values![&id, seq])
        .await?;
    row.map(|row| StoredMessage::read(&mut row.columns()))
        .transpose()
}

/// Whether `user` has sent one of the messages that have a hot row.
///
/// # Errors
/// When the database fails.
pub async fn has_sent(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    user: &UserId,
) -> Result<bool> {
    let row = rows.fetch_optional(SENT_BY, &values![&id, user]).await?;
    Ok(row.is_some())
}

/// Inserts new messages, in as few statements as the sizes allow.
///
/// # Errors
/// When the database refuses one; the transaction is then to be rolled back.
pub async fn insert(
    transaction: &mut OwnedTransaction<'_>,
    rows: &[(ConversationId, StoredMessage)],
) -> Result<()> {
    transaction.require_conversations(rows.iter().map(|(id, _)| *id))?;
    for chunk in batches(rows) {
        let plain = chunk.iter().all(|(_, message)| message.is_plain());
        let (insert, columns) = if plain {
            (INSERT_PLAIN, PLAIN_COLUMN_COUNT)
        } else {
            (INSERT, COLUMN_COUNT + 1)
        };
        let mut args: Vec<Value<'_>> = Vec::with_capacity(chunk.len() * columns);
        for (conversation, message) in chunk {
            if plain {
                args.extend(message.plain_values(conversation));
            } else {
                args.extend(message.values(conversation));
            }
        }
        let rows = rows_of(chunk.len(), columns);
        transaction
            .execute(&format!("{insert}{rows}"), &args)
            .await?;
    }
    Ok(())
}

/// Inserts messages that were archived, which makes them hot rows again.
///
/// # Errors
/// When the database refuses one; the transaction is then to be rolled back.
pub async fn insert_again(
    transaction: &mut OwnedTransaction<'_>,
    rows: &[(ConversationId, StoredMessage)],
) -> Result<()> {
    transaction.require_conversations(rows.iter().map(|(id, _)| *id))?;
    for chunk in batches(rows) {
        let args: Vec<Value<'_>> = chunk
            .iter()
            .flat_map(|(conversation, message)| message.values(conversation))
            .collect();
        let rows = rows_of(chunk.len(), COLUMN_COUNT + 1);
        transaction
            .execute(&format!("{INSERT_AGAIN}{rows}"), &args)
            .await?;
    }
    Ok(())
}

/// In a write transaction that has locked the hot row: gives the row what can change of a message.
///
/// # Errors
/// When there is no such row, or the database fails.
pub(crate) async fn update(
    transaction: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    message: &StoredMessage,
) -> Result<()> {
    transaction.require_conversations([conversation])?;
    let args = values![
        message.rev,
        message.content.as_str(),
        message.attachments.as_deref(),
        message.reactions.as_deref(),
        message.metadata.as_deref(),
        message.edit_history.as_deref(),
        message.edited_at.map(|at| at.0),
        message.deleted_at.map(|at| at.0),
        message.pin.as_ref().map(|pin| pin.at.0),
        message.pin.as_ref().map(|pin| &pin.by),
        message.mentions.as_deref(),
        &conversation,
        message.seq,
    ];
    match transaction.execute(UPDATE, &args).await? {
        1 => Ok(()),
        _ => Err(nowhere(conversation, message.seq)),
    }
}

/// A message is neither hot nor archived.
pub(crate) fn nowhere(id: ConversationId, seq: Seq) -> Error {
    Error::corrupt(format_args!("conversation {id} has no message {seq}"))
}

/// As stored.
pub(crate) fn message_type_code(kind: MessageType) -> i64 {
    match kind {
        MessageType::Text => 1,
        MessageType::Image => 2,
        MessageType::Voice => 3,
        MessageType::File => 4,
        MessageType::System => 5,
    }
}

/// From its stored form.
pub(crate) fn message_type_of(code: i64) -> Result<MessageType> {
    Ok(match code {
        1 => MessageType::Text,
        2 => MessageType::Image,
        3 => MessageType::Voice,
        4 => MessageType::File,
        5 => MessageType::System,
        _ => return Err(Error::corrupt(format_args!("unknown message type {code}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserKey;

    #[test]
    fn batches_are_bounded_in_rows_and_in_bytes() {
        let row = |seq: u64, bytes: usize| {
            let message = StoredMessage {
                seq: Seq(seq),
                rev: Rev(seq),
                sender: UserId::new("alice").unwrap(),
                client_msg_id: None,
                body_digest: None,
                message_type: MessageType::Text,
                content: "x".repeat(bytes),
                reply_to: None,
                attachments: None,
                reactions: None,
                metadata: None,
                edit_history: None,
                created_at: Timestamp(1),
                edited_at: None,
                deleted_at: None,
                pin: None,
                mentions: None,
            };
            (ConversationId::new(UserKey(1), 1), message)
        };
        let sizes = |rows: &[_]| batches(rows).map(<[_]>::len).collect::<Vec<_>>();
        let small: Vec<_> = (0..300).map(|seq| row(seq, 10)).collect();
        assert_eq!(sizes(&small), [128, 128, 44]);
        let third = INSERT_BYTES / 3;
        let large = [third, third, third, 3 * INSERT_BYTES, 10, 10];
        let large: Vec<_> = (0..)
            .zip(large)
            .map(|(seq, bytes)| row(seq, bytes))
            .collect();
        assert_eq!(sizes(&large), [2, 1, 1, 2]);
        assert!(sizes(&[]).is_empty());
    }
}
