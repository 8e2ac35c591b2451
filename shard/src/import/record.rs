//! Records, and how they become messages: checked by the rules for what clients send. And back.

use crate::clock;
use crate::error::{Error, Result};
use crate::head::Head;
use crate::ids::Seq;
use crate::message::{
    self, Pin, Reactions, Shown, StoredMessage, check_attachments, check_mentions, check_object,
    mentions_json, stored_json,
};
use crate::model::{AnyObject, HistoryRecord, MessageType, RawJson, Timestamp};
use crate::settings::LimitSettings;

/// A record as a message, with the next seq and rev.
pub(super) fn to_stored(
    record: &HistoryRecord,
    head: &mut Head,
    reply_to: Option<Seq>,
    limits: &LimitSettings,
) -> Result<StoredMessage> {
    let Content {
        text,
        attachments,
        reactions,
        metadata,
        mentions,
        pin,
    } = Content::of(record, limits)?;
    Ok(StoredMessage {
        seq: head.head_seq.next(),
        rev: head.next_rev(),
        sender: record.user.clone(),
        client_msg_id: None,
        body_digest: None,
        message_type: record.message_type,
        content: text.to_owned(),
        reply_to,
        attachments,
        reactions,
        metadata,
        edit_history: None,
        created_at: Timestamp(record.at),
        edited_at: record.edited_at.map(Timestamp),
        deleted_at: record.deleted_at.map(Timestamp),
        pin,
        mentions,
    })
}

/// What is stored of a record's content, under the rules for what clients send; only the text may be longer and may be
/// empty. Of a message that was deleted there is none.
#[derive(Default)]
struct Content<'a> {
    text: &'a str,
    attachments: Option<String>,
    reactions: Option<String>,
    metadata: Option<String>,
    mentions: Option<String>,
    pin: Option<Pin>,
}

impl<'a> Content<'a> {
    fn of(record: &'a HistoryRecord, limits: &LimitSettings) -> Result<Self> {
        if record.deleted_at.is_some() {
            return Ok(Self::default());
        }
        if record.text.len() > TEXT_MAX_BYTES {
            return Err(Error::invalid("text", "at most 1 MiB"));
        }
        if record.text.contains('\0') {
            return Err(Error::invalid("text", "must not contain a NUL character"));
        }
        let attachments = record.attachments.as_ref();
        let attachments = attachments.map(|json| check_attachments(json, limits));
        let reactions = record.reactions.as_ref();
        let reactions = reactions.map(|json| Reactions::check(json, limits.reactions));
        let metadata = record.metadata.as_ref();
        let metadata = metadata.map(|json| check_object("metadata", json, limits.metadata_bytes));
        let mentions = check_mentions(record.mentions.clone(), limits)?;
        Ok(Self {
            text: &record.text,
            attachments: attachments.transpose()?.flatten(),
            reactions: reactions.transpose()?.and_then(Reactions::into_stored),
            metadata: metadata.transpose()?.flatten(),
            mentions: mentions_json(&mentions),
            pin: pin_of(record)?,
        })
    }
}

fn pin_of(record: &HistoryRecord) -> Result<Option<Pin>> {
    match (record.pinned_at, &record.pinned_by) {
        (None, None) => Ok(None),
        (Some(at), Some(by)) => Ok(Some(Pin {
            at: Timestamp(at),
            by: by.clone(),
        })),
        _ => Err(Error::invalid(
            "pinnedAt",
            "write it together with `pinnedBy`, or neither",
        )),
    }
}

/// Below it a time in milliseconds is before 1973, when there was no chat to import; the same number of seconds is before
/// the year 5138.
const LOOKS_LIKE_SECONDS: i64 = 100_000_000_000;

/// Whether a time may be that of something that happened: nothing that is stored may claim to be from the future, since it
/// would stand above everything that happens until then.
pub(super) fn check_time(field: &str, at: i64, now: Timestamp) -> Result<()> {
    let looks_like = match at {
        ..0 => "is before 1970",
        0..LOOKS_LIKE_SECONDS => "looks like seconds",
        _ if Timestamp(at) > clock::latest_believed(now) => "is in the future",
        _ => return Ok(()),
    };
    Err(Error::invalid(
        field,
        format!("{at} {looks_like}; write milliseconds since 1970"),
    ))
}

/// Longest text of an imported message in bytes: what a row holds.
const TEXT_MAX_BYTES: usize = 1 << 20;
/// Longest name of a channel in characters: what a title holds.
const CHANNEL_MAX: usize = 255;

/// Whether a channel can have this name.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn check_channel(name: &str) -> Result<()> {
    if name.is_empty() || name.chars().count() > CHANNEL_MAX || name.contains('\0') {
        return Err(Error::invalid(
            "channel",
            "1 to 255 characters without a NUL character",
        ));
    }
    Ok(())
}

/// Whether a record can be stored as message `number` of its channel; callers check before they send a batch, so that a
/// bad line is named by its number.
///
/// # Errors
/// [`Error::Invalid`] naming the field.
pub fn check_record(record: &HistoryRecord, number: u64, limits: &LimitSettings) -> Result<()> {
    let now = Timestamp::now();
    check_time("at", record.at, now)?;
    for (field, at) in [
        ("editedAt", record.edited_at),
        ("deletedAt", record.deleted_at),
        ("pinnedAt", record.pinned_at),
    ] {
        at.map_or(Ok(()), |at| check_time(field, at, now))?;
    }
    check_channel(&record.channel)?;
    let users = [("user", &record.user)].into_iter();
    let users = users.chain(record.pinned_by.iter().map(|user| ("pinnedBy", user)));
    let users = users.chain(record.mentions.iter().map(|user| ("mentions", user)));
    for (field, user) in users {
        let checked = user.check_new();
        checked.map_err(|error| Error::invalid(field, error))?;
    }
    if let Some(Seq(answered)) = record.reply_to
        && !(1..number).contains(&answered)
    {
        return Err(Error::invalid(
            "replyTo",
            format!(
                "{answered} is not the number of an earlier message of the channel; this is message {number}"
            ),
        ));
    }
    Content::of(record, limits).map(drop)
}

/// A stored message as a record of `channel`. A stored value that does not have its form is left out.
#[must_use]
pub(crate) fn to_record(message: Shown, channel: &str) -> (Seq, HistoryRecord) {
    let message = message.into_parts();
    let seq = message.seq;
    let compact = |json: RawJson| RawJson::parse(json.compact()).ok();
    let attachments = message.attachments;
    let attachments =
        attachments.map(|json| stored_json::<Vec<AnyObject>>("attachments", Some(json), "[]"));
    let metadata = message.metadata;
    let metadata = metadata.map(|json| stored_json::<AnyObject>("metadata", Some(json), "{}"));
    let reactions = message::stored_reactions(message.reactions.as_deref());
    let (pinned_at, pinned_by) = message.pin.map(|pin| (pin.at.0, pin.by)).unzip();
    let record = HistoryRecord {
        channel: channel.to_owned(),
        user: message.sender,
        at: message.created_at.0,
        text: message.content,
        message_type: if message.deleted_at.is_some() {
            MessageType::Text
        } else {
            message.message_type
        },
        reply_to: message.reply_to,
        attachments: attachments.and_then(compact),
        reactions: (reactions.count() > 0).then(|| reactions.to_json()),
        metadata: metadata.and_then(compact),
        mentions: message::stored_mentions(message.mentions.as_deref()),
        pinned_at,
        pinned_by,
        edited_at: message.edited_at.map(|at| at.0),
        deleted_at: message.deleted_at.map(|at| at.0),
        to: None,
        status: None,
    };
    (seq, record)
}
