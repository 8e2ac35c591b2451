//! Messages as they are stored, and how they become what callers see.
//!
//! A message is one row: content, attachments, reactions, edit history, delete mark. The row is the unit of sync, of
//! archiving and of moving.

use twox_hash::XxHash3_64;

use crate::db::{Connection, Row, Value, rows_of, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, MessageId, Rev, Seq, UserId};
use crate::model::{
    DeliveryStatus, Message, MessagePreview, MessageType, NewMessage, RawJson, Timestamp,
};
use crate::settings::LimitSettings;

/// Longest client message id in bytes.
pub const CLIENT_MSG_ID_MAX_BYTES: usize = 64;

/// How many characters of the newest message a list shows.
const PREVIEW_CHARACTERS: usize = 100;

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
    /// A JSON list of earlier contents.
    pub edit_history: Option<String>,
    /// When it was stored, or for imported messages sent.
    pub created_at: Timestamp,
    /// When its content changed last.
    pub edited_at: Option<Timestamp>,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

/// The columns of a message after `conversation_id`, in the order that [`StoredMessage::from_row`] reads them.
macro_rules! message_columns {
    () => {
        "seq, rev, sender_id, client_msg_id, body_digest, message_type, content, reply_to, attachments, reactions, \
         metadata, edit_history, created_at, edited_at, deleted_at"
    };
}
pub(crate) use message_columns;
const COLUMN_COUNT: usize = 15;

/// Most rows in one INSERT.
const INSERT_ROWS: usize = 128;

const INSERT: &str = concat!(
    "INSERT INTO messages (conversation_id, ",
    message_columns!(),
    ") VALUES "
);

/// For messages that have nothing but text, which most are when they are sent: half as many values.
const INSERT_PLAIN: &str = "INSERT INTO messages (conversation_id, seq, rev, sender_id, client_msg_id, body_digest, message_type, content, \
     created_at) VALUES ";
const PLAIN_COLUMN_COUNT: usize = 9;

impl StoredMessage {
    /// Reads a row whose columns from `first` on are those of a message.
    ///
    /// # Errors
    /// When a stored value does not have its form.
    pub fn from_row(row: &Row, first: usize) -> Result<Self> {
        let client_msg_id = row.opt_bytes(first + 3)?.map(String::from_utf8).transpose();
        Ok(Self {
            seq: Seq::from_i64(row.int(first)?),
            rev: Rev::from_i64(row.int(first + 1)?),
            sender: row.user(first + 2)?,
            client_msg_id: client_msg_id
                .map_err(|_| Error::Corrupt("a client message id".into()))?,
            body_digest: row.opt_int(first + 4)?,
            message_type: message_type_of(row.int(first + 5)?)?,
            content: row.text(first + 6)?,
            reply_to: row.opt_int(first + 7)?.map(Seq::from_i64),
            attachments: row.opt_text(first + 8)?,
            reactions: row.opt_text(first + 9)?,
            metadata: row.opt_text(first + 10)?,
            edit_history: row.opt_text(first + 11)?,
            created_at: Timestamp(row.int(first + 12)?),
            edited_at: row.opt_int(first + 13)?.map(Timestamp),
            deleted_at: row.opt_int(first + 14)?.map(Timestamp),
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
        ]
    }

    /// Whether every column that [`INSERT_PLAIN`] leaves out is NULL.
    fn is_plain(&self) -> bool {
        let texts = [
            &self.attachments,
            &self.reactions,
            &self.metadata,
            &self.edit_history,
        ];
        texts.iter().all(|text| text.is_none())
            && self.reply_to.is_none()
            && self.edited_at.is_none()
            && self.deleted_at.is_none()
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

    /// The message as callers see it; the edit history stays behind.
    ///
    /// # Errors
    /// When stored JSON is damaged.
    pub fn into_message(
        self,
        conversation: ConversationId,
        status: DeliveryStatus,
    ) -> Result<Message> {
        Ok(Message {
            id: MessageId {
                conversation,
                seq: self.seq,
            },
            conversation_id: conversation,
            seq: self.seq,
            rev: self.rev,
            sender_id: self.sender,
            content: self.content,
            message_type: self.message_type,
            client_msg_id: self.client_msg_id,
            reply_to: self.reply_to.map(|seq| MessageId { conversation, seq }),
            attachments: json_or(self.attachments, "[]")?,
            reactions: json_or(self.reactions, "{}")?,
            metadata: json_or(self.metadata, "{}")?,
            created_at: self.created_at,
            edited_at: self.edited_at,
            deleted_at: self.deleted_at,
            status,
            edit_history: None,
        })
    }

    /// What lists show of it.
    #[must_use]
    pub fn preview(&self) -> MessagePreview {
        MessagePreview {
            seq: self.seq,
            sender_id: self.sender.clone(),
            content: self.content.chars().take(PREVIEW_CHARACTERS).collect(),
            message_type: self.message_type,
            created_at: self.created_at,
        }
    }
}

fn json_or(stored: Option<String>, empty: &str) -> Result<RawJson> {
    RawJson::parse(stored.unwrap_or_else(|| empty.to_owned()))
        .map_err(|error| Error::Corrupt(format!("a message's JSON: {error}")))
}

/// Inserts rows, in as few statements as the sizes allow.
///
/// # Errors
/// When the database refuses one; the transaction is then to be rolled back.
pub async fn insert(
    connection: &mut Connection,
    rows: &[(ConversationId, StoredMessage)],
) -> Result<()> {
    for chunk in rows.chunks(INSERT_ROWS) {
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
        connection
            .execute(&format!("{insert}{rows}"), &args)
            .await?;
    }
    Ok(())
}

/// A message that was checked and can be stored.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(crate) content: String,
    pub(crate) message_type: MessageType,
    pub(crate) client_msg_id: Option<String>,
    pub(crate) reply_to: Option<Seq>,
    pub(crate) attachments: Option<String>,
    pub(crate) metadata: Option<String>,
    pub(crate) body_digest: Option<i64>,
}

impl Draft {
    /// Checks `new` against the limits and the conversation it goes to.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field and the rule.
    pub fn check(
        new: NewMessage,
        conversation: ConversationId,
        limits: &LimitSettings,
    ) -> Result<Self> {
        if new.message_type == MessageType::System {
            return Err(Error::invalid(
                "messageType",
                "system messages cannot be sent by clients",
            ));
        }
        let attachments = new
            .attachments
            .map(|json| check_attachments(&json, limits))
            .transpose()?
            .flatten();
        if new.content.is_empty() && attachments.is_none() {
            return Err(Error::invalid(
                "content",
                "a message needs text or attachments",
            ));
        }
        check_content(&new.content, limits)?;
        let metadata = new
            .metadata
            .map(|json| check_object("metadata", &json, limits.metadata_bytes))
            .transpose()?
            .flatten();
        let reply_to = match new.reply_to {
            Some(id) if id.conversation != conversation => {
                return Err(Error::invalid(
                    "replyTo",
                    "the message answered must be in the same conversation",
                ));
            }
            other => other.map(|id| id.seq),
        };
        if let Some(id) = &new.client_msg_id {
            check_client_msg_id(id)?;
        }
        let mut draft = Self {
            content: new.content,
            message_type: new.message_type,
            client_msg_id: new.client_msg_id,
            reply_to,
            attachments,
            metadata,
            body_digest: None,
        };
        draft.body_digest = draft.client_msg_id.is_some().then(|| draft.digest());
        Ok(draft)
    }

    /// XXH3-64 over every part, each with its length before it.
    fn digest(&self) -> i64 {
        let mut body = Vec::with_capacity(self.content.len() + 64);
        body.push(u8::try_from(message_type_code(self.message_type)).unwrap_or(0));
        body.extend_from_slice(&self.reply_to.unwrap_or_default().0.to_le_bytes());
        for part in [
            Some(&self.content),
            self.attachments.as_ref(),
            self.metadata.as_ref(),
        ] {
            let text = part.map_or("", String::as_str);
            body.extend_from_slice(&(text.len() as u64).to_le_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        XxHash3_64::oneshot(&body).cast_signed()
    }

    /// The row it becomes.
    #[must_use]
    pub(crate) fn into_stored(
        self,
        seq: Seq,
        rev: Rev,
        sender: UserId,
        now: Timestamp,
    ) -> StoredMessage {
        StoredMessage {
            seq,
            rev,
            sender,
            client_msg_id: self.client_msg_id,
            body_digest: self.body_digest,
            message_type: self.message_type,
            content: self.content,
            reply_to: self.reply_to,
            attachments: self.attachments,
            reactions: None,
            metadata: self.metadata,
            edit_history: None,
            created_at: now,
            edited_at: None,
            deleted_at: None,
        }
    }
}

/// Whether `content` may be a message's text.
///
/// # Errors
/// When it is too long or has a NUL.
pub(crate) fn check_content(content: &str, limits: &LimitSettings) -> Result<()> {
    let max = limits.message_characters as usize;
    if content.len() > max && content.chars().count() > max {
        return Err(Error::invalid(
            "content",
            format!("at most {max} characters"),
        ));
    }
    if content.contains('\0') {
        return Err(Error::invalid(
            "content",
            "must not contain a NUL character",
        ));
    }
    Ok(())
}

fn check_client_msg_id(id: &str) -> Result<()> {
    if id.is_empty() || id.len() > CLIENT_MSG_ID_MAX_BYTES || id.chars().any(char::is_control) {
        return Err(Error::invalid(
            "clientMsgId",
            "1 to 64 bytes without control characters",
        ));
    }
    Ok(())
}

/// Whether `json` is an object of at most `max` bytes without NUL; `None` for an empty one.
///
/// # Errors
/// When it is not.
pub(crate) fn check_object(field: &str, json: &RawJson, max: u32) -> Result<Option<String>> {
    let text = json.get();
    if text.len() > max as usize {
        return Err(Error::invalid(
            field,
            format!("at most {max} bytes of JSON"),
        ));
    }
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|_| Error::invalid(field, "must be a JSON object"))?;
    reject_nul(field, text)?;
    Ok((!object.is_empty()).then(|| text.to_owned()))
}

/// Whether `json` is a list of objects within the limits; `None` for an empty one.
///
/// # Errors
/// When it is not.
pub(crate) fn check_attachments(json: &RawJson, limits: &LimitSettings) -> Result<Option<String>> {
    let text = json.get();
    if text.len() > limits.attachments_bytes as usize {
        return Err(Error::invalid(
            "attachments",
            format!("at most {} bytes of JSON", limits.attachments_bytes),
        ));
    }
    let list: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(text)
        .map_err(|_| Error::invalid("attachments", "must be a list of JSON objects"))?;
    if list.len() > limits.attachments as usize {
        return Err(Error::invalid(
            "attachments",
            format!("at most {}", limits.attachments),
        ));
    }
    reject_nul("attachments", text)?;
    Ok((!list.is_empty()).then(|| text.to_owned()))
}

/// JSON writes a NUL as `\u0000`; an escaped backslash before `u0000` is text about it, and not worth telling apart.
fn reject_nul(field: &str, json: &str) -> Result<()> {
    if json.contains("\\u0000") {
        return Err(Error::invalid(field, "must not contain a NUL character"));
    }
    Ok(())
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
        _ => return Err(Error::Corrupt(format!("unknown message type {code}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserKey;

    fn check(new: NewMessage) -> Result<Draft> {
        Draft::check(
            new,
            ConversationId::new(UserKey(1), 2),
            &LimitSettings::default(),
        )
    }

    fn text(content: &str) -> NewMessage {
        NewMessage {
            content: content.into(),
            ..NewMessage::default()
        }
    }

    fn json(text: &str) -> Option<RawJson> {
        Some(RawJson::parse(text.into()).unwrap())
    }

    #[test]
    fn what_breaks_a_rule_is_refused_and_named() {
        let other = MessageId {
            conversation: ConversationId::new(UserKey(9), 9),
            seq: Seq(1),
        };
        let cases = [
            (text(""), "content"),
            (text("a\0b"), "content"),
            (text(&"x".repeat(5001)), "content"),
            (
                NewMessage {
                    message_type: MessageType::System,
                    ..text("hi")
                },
                "messageType",
            ),
            (
                NewMessage {
                    client_msg_id: Some(String::new()),
                    ..text("hi")
                },
                "clientMsgId",
            ),
            (
                NewMessage {
                    client_msg_id: Some("x".repeat(65)),
                    ..text("hi")
                },
                "clientMsgId",
            ),
            (
                NewMessage {
                    reply_to: Some(other),
                    ..text("hi")
                },
                "replyTo",
            ),
            (
                NewMessage {
                    metadata: json("[1]"),
                    ..text("hi")
                },
                "metadata",
            ),
            (
                NewMessage {
                    metadata: json(r#"{"a":"\u0000"}"#),
                    ..text("hi")
                },
                "metadata",
            ),
            (
                NewMessage {
                    attachments: json(r#"["a"]"#),
                    ..text("hi")
                },
                "attachments",
            ),
            (
                NewMessage {
                    attachments: json("[{},{},{},{},{},{},{},{},{},{},{}]"),
                    ..text("hi")
                },
                "attachments",
            ),
        ];
        for (new, field) in cases {
            let error = check(new).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn limits_count_characters_not_bytes() {
        assert!(check(text(&"😀".repeat(5000))).is_ok());
        assert!(check(text(&"😀".repeat(5001))).is_err());
        let only_attachment = NewMessage {
            attachments: json(r#"[{"url":"x"}]"#),
            ..text("")
        };
        assert!(check(only_attachment).is_ok());
    }

    #[test]
    fn the_digest_tells_bodies_apart() {
        let with_id = |content: &str, metadata: Option<RawJson>| {
            check(NewMessage {
                client_msg_id: Some("1".into()),
                metadata,
                ..text(content)
            })
            .unwrap()
            .body_digest
        };
        assert_eq!(with_id("a", None), with_id("a", None));
        assert_ne!(with_id("a", None), with_id("b", None));
        assert_ne!(with_id("a", None), with_id("a", json(r#"{"k":1}"#)));
        assert_eq!(check(text("a")).unwrap().body_digest, None);
    }
}
