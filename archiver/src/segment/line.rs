//! A message as a JSON line: inside a frame, where its place, time and rev are told by difference, and by itself, as an export
//! of a deployment has it. A round trip gives the same message, byte for byte.

use std::borrow::Cow;

use backscroll_shard::archive::About;
use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId};
use backscroll_shard::message::{Pin, StoredMessage};
use backscroll_shard::model::{MessageType, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The one line of the first frame.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FileLine<'a> {
    pub(super) backscroll: &'a str,
    pub(super) version: u32,
    pub(super) name: &'a str,
    pub(super) generation: u64,
    pub(super) created_at: i64,
}

/// The value of [`FileLine::backscroll`].
pub(super) const FILE_KIND: &str = "segment";

/// Enough of any version's first line to tell which it is.
#[derive(Debug, Deserialize)]
pub(super) struct AnyFileLine<'a> {
    pub(super) backscroll: &'a str,
    pub(super) version: u32,
}

/// The line before a run's messages.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunLine {
    pub(super) conversation: ConversationId,
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) at: i64,
    pub(super) rev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) about: Option<About>,
}

/// A message's line. `seq` and `at` are those of a line by itself, `after` is that of a line in a frame.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MessageLine<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    after: i64,
    #[serde(borrow)]
    by: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    text: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rev: Option<u64>,
    #[serde(default, rename = "type", skip_serializing_if = "is_text")]
    message_type: MessageType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    client_msg_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body_digest: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pinned_at: Option<i64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pinned_by: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    attachments: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    attachments_text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    edits: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    edits_text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reactions: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reactions_text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    metadata_text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    mentions: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    mentions_text: Option<Cow<'a, str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_text(kind: &MessageType) -> bool {
    *kind == MessageType::Text
}

/// Where a run stands: what the next line differs from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) seq: Seq,
    at: i64,
    rev: u64,
}

impl Cursor {
    /// Before the first line of a run with this header.
    pub(super) fn before(run: &RunLine) -> Self {
        Self {
            seq: Seq(run.first.wrapping_sub(1)),
            at: run.at,
            rev: run.rev.wrapping_sub(1),
        }
    }

    /// Before a run that begins with `message`.
    pub(super) fn before_message(message: &StoredMessage) -> Self {
        Self {
            seq: Seq(message.seq.0.wrapping_sub(1)),
            at: message.created_at.0,
            rev: message.rev.0.wrapping_sub(1),
        }
    }
}

/// Appends `message`'s line to `out`, and moves on to it.
pub(super) fn write(
    message: &StoredMessage,
    cursor: &mut Cursor,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let line = MessageLine {
        // Wrapping differences come out right again, whatever the times are.
        after: message.created_at.0.wrapping_sub(cursor.at),
        rev: (message.rev.0 != cursor.rev.wrapping_add(1)).then_some(message.rev.0),
        ..line_of(message)
    };
    append(&line, out)?;
    *cursor = Cursor {
        seq: message.seq,
        at: message.created_at.0,
        rev: message.rev.0,
    };
    Ok(())
}

/// Appends `message`'s line by itself to `out`, with its place, time and rev.
///
/// # Errors
/// Never for a message that was stored.
pub fn write_whole(message: &StoredMessage, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let line = MessageLine {
        seq: Some(message.seq.0),
        at: Some(message.created_at.0),
        rev: Some(message.rev.0),
        ..line_of(message)
    };
    append(&line, out)
}

/// Reads a line by itself.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_whole(line: &str) -> Result<StoredMessage, String> {
    let line: MessageLine<'_> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let missing = |field: &str| format!("{field}: is missing");
    let place = Cursor {
        seq: Seq(line.seq.ok_or_else(|| missing("seq"))?),
        at: line.at.ok_or_else(|| missing("at"))?,
        rev: line.rev.ok_or_else(|| missing("rev"))?,
    };
    to_message(line, place)
}

fn append(line: &MessageLine<'_>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

/// The line of a message, without its place, time and rev.
fn line_of(message: &StoredMessage) -> MessageLine<'_> {
    let (attachments, attachments_text) = value_or_text(message.attachments.as_deref());
    let (edits, edits_text) = value_or_text(message.edit_history.as_deref());
    let (reactions, reactions_text) = value_or_text(message.reactions.as_deref());
    let (metadata, metadata_text) = value_or_text(message.metadata.as_deref());
    let (mentions, mentions_text) = value_or_text(message.mentions.as_deref());
    MessageLine {
        seq: None,
        at: None,
        after: 0,
        by: message.sender.as_str().into(),
        text: message.content.as_str().into(),
        rev: None,
        message_type: message.message_type,
        reply_to: message.reply_to.map(|seq| seq.0),
        client_msg_id: message.client_msg_id.as_deref().map(Into::into),
        body_digest: message
            .body_digest
            .map(|digest| format!("{digest:016x}").into()),
        edited_at: message.edited_at.map(|at| at.0),
        deleted_at: message.deleted_at.map(|at| at.0),
        pinned_at: message.pin.as_ref().map(|pin| pin.at.0),
        pinned_by: message.pin.as_ref().map(|pin| pin.by.as_str().into()),
        attachments,
        attachments_text,
        edits,
        edits_text,
        reactions,
        reactions_text,
        metadata,
        metadata_text,
        mentions,
        mentions_text,
    }
}

/// Reads the next message of a run, and moves on to it. The error says what is wrong.
pub(super) fn read(line: &str, cursor: &mut Cursor) -> Result<StoredMessage, String> {
    let line: MessageLine<'_> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if line.seq.is_some() || line.at.is_some() {
        return Err("a line of an export".to_owned());
    }
    *cursor = Cursor {
        seq: Seq(cursor.seq.0.wrapping_add(1)),
        at: cursor.at.wrapping_add(line.after),
        rev: line.rev.unwrap_or(cursor.rev.wrapping_add(1)),
    };
    to_message(line, *cursor)
}

fn to_message(line: MessageLine<'_>, place: Cursor) -> Result<StoredMessage, String> {
    let digest = |text: Cow<'_, str>| {
        u64::from_str_radix(&text, 16)
            .map(u64::cast_signed)
            .map_err(|_| format!("bodyDigest {text:?}"))
    };
    let pin = |(at, by): (i64, Cow<'_, str>)| {
        let by = UserId::new(by).map_err(|error| error.to_string())?;
        Ok::<_, String>(Pin {
            at: Timestamp(at),
            by,
        })
    };
    Ok(StoredMessage {
        seq: place.seq,
        rev: Rev(place.rev),
        sender: UserId::new(line.by).map_err(|error| error.to_string())?,
        client_msg_id: line.client_msg_id.map(Cow::into_owned),
        body_digest: line.body_digest.map(digest).transpose()?,
        message_type: line.message_type,
        content: line.text.into_owned(),
        reply_to: line.reply_to.map(Seq),
        attachments: text_of(line.attachments, line.attachments_text),
        reactions: text_of(line.reactions, line.reactions_text),
        metadata: text_of(line.metadata, line.metadata_text),
        mentions: text_of(line.mentions, line.mentions_text),
        edit_history: text_of(line.edits, line.edits_text),
        created_at: Timestamp(place.at),
        edited_at: line.edited_at.map(Timestamp),
        deleted_at: line.deleted_at.map(Timestamp),
        pin: line.pinned_at.zip(line.pinned_by).map(pin).transpose()?,
    })
}

/// Stored JSON as itself where it can stand in a line and be read back byte for byte, and as a string elsewhere.
fn value_or_text(json: Option<&str>) -> (Option<&RawValue>, Option<Cow<'_, str>>) {
    let Some(json) = json else {
        return (None, None);
    };
    let value: Option<&RawValue> = serde_json::from_str(json).ok();
    match value
        .filter(|value| value.get() == json && json != "null" && !json.contains(['\n', '\r']))
    {
        Some(value) => (Some(value), None),
        None => (None, Some(json.into())),
    }
}

fn text_of(value: Option<&RawValue>, text: Option<Cow<'_, str>>) -> Option<String> {
    value
        .map(|value| value.get().to_owned())
        .or(text.map(Cow::into_owned))
}
