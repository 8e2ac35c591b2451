//! Bulk append of messages with their own times, and reading a conversation back as records.
//!
//! An imported conversation counts, in the transaction that stores a batch, how many records are stored (`imports`). That
//! makes an import resumable after a crash without a duplicate: a repeated batch is found to be counted already.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock;
use crate::db::values;
use crate::error::{Error, Result};
use crate::head::{self, FIRST_MEMBERS, Head};
use crate::ids::{ConversationId, Seq, UserId};
use crate::list_marks;
use crate::member::{self, Membership};
use crate::message::{
    self, Reactions, StoredMessage, check_attachments, check_object, stored_json,
};
use crate::model::{
    AnyObject, ConversationKind, HistoryRecord, MessageType, RawJson, Role, Timestamp,
};
use crate::owned::OwnedTransaction;
use crate::settings::{LimitSettings, StoreSettings};

const POSITION: &str = "SELECT position FROM imports WHERE conversation_id = ?";
const SET_POSITION: &str = "INSERT INTO imports (conversation_id, position) VALUES (?, ?) {on_duplicate conversation_id} position = {new position}";

/// Makes the conversation for an imported channel unless it is there, and says how many of its
/// records are stored.
///
/// # Errors
/// [`Error::Conflict`] when a conversation of this id exists that is not an import.
pub async fn begin(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    (channel, owner): (&str, &UserId),
) -> Result<u64> {
    let stored = transaction.fetch_optional(POSITION, &values![&id]).await?;
    if let Some(row) = stored {
        return Ok(u64::try_from(row.int(0)?).unwrap_or(0));
    }
    if !head::lock(transaction, &[id]).await?.is_empty() {
        return Err(Error::Conflict(
            "a conversation with this id exists already and was not imported",
        ));
    }
    let now = Timestamp::now();
    let mut head = Head::new(id, ConversationKind::Channel, owner.clone(), now);
    head.title = Some(channel.to_owned());
    head.last_at = Timestamp(0);
    head.member_count = 1;
    head.first_members = vec![owner.clone()];
    let rev = head.change_members();
    head.marked = true;
    let membership = Membership {
        user: owner.clone(),
        role: Some(Role::Owner),
        read_seq: Seq(0),
        delivered_seq: Seq(0),
        rev,
        joined_at: now,
    };
    head::save(transaction, &[&head]).await?;
    member::save(transaction, id, &[membership]).await?;
    transaction.execute(SET_POSITION, &values![&id, 0]).await?;
    Ok(0)
}

/// Appends the records after `position` that are not stored yet; gives the new position.
///
/// # Errors
/// [`Error::Invalid`] about a record; [`Error::Conflict`] when records between are missing.
pub async fn append(
    transaction: &mut OwnedTransaction<'_>,
    (id, position): (ConversationId, u64),
    records: &[HistoryRecord],
    settings: &StoreSettings,
) -> Result<u64> {
    let mut head = head::lock(transaction, &[id])
        .await?
        .pop()
        .ok_or(Error::NotFound("imported conversation"))?;
    let stored = transaction.fetch_optional(POSITION, &values![&id]).await?;
    let stored = stored
        .map(|row| row.int(0))
        .transpose()?
        .ok_or(Error::NotFound("imported conversation"))?;
    let stored = u64::try_from(stored).unwrap_or(0);
    let end = position + records.len() as u64;
    if stored < position {
        return Err(Error::Conflict("records before these are not stored yet"));
    }
    let skip = usize::try_from(stored - position).unwrap_or(usize::MAX);
    let Some(fresh) = records.get(skip..).filter(|fresh| !fresh.is_empty()) else {
        return Ok(stored.max(end));
    };

    let joined = add_members(transaction, &mut head, fresh, settings).await?;
    // A record's reply counts within the import; live messages may have come between.
    let offset = head.head_seq.0 - stored;
    let mut rows = Vec::with_capacity(fresh.len());
    for (number, record) in (stored + 1..).zip(fresh) {
        check_record(record, number, &settings.limits)?;
        let message = to_stored(record, &mut head, offset, &settings.limits)?;
        head.append(&message);
        rows.push((id, message));
    }
    message::insert(transaction, &rows).await?;
    head.marked |= head.relayed;
    head::save(transaction, &[&head]).await?;
    transaction
        .execute(
            SET_POSITION,
            &values![&id, i64::try_from(end).unwrap_or(i64::MAX)],
        )
        .await?;
    if !head.relayed {
        let marks: Vec<_> = joined.iter().map(|user| (id, user)).collect();
        list_marks::mark(transaction, &marks).await?;
    }
    Ok(end)
}

/// Makes the senders of records members, if they are not.
async fn add_members(
    transaction: &mut OwnedTransaction<'_>,
    head: &mut Head,
    records: &[HistoryRecord],
    settings: &StoreSettings,
) -> Result<Vec<UserId>> {
    let mut first_at: BTreeMap<&UserId, i64> = BTreeMap::new();
    for record in records {
        first_at.entry(&record.user).or_insert(record.at);
    }
    let users: Vec<&UserId> = first_at.keys().copied().collect();
    let present = member::some(transaction, head.id, &users).await?;
    let present: BTreeSet<&UserId> = present.iter().map(|member| &member.user).collect();
    let new: Vec<&UserId> = users
        .into_iter()
        .filter(|user| !present.contains(user))
        .collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    head.member_count += new.len() as u64;
    let max = u64::from(settings.limits.channel_members);
    if head.member_count > max {
        return Err(Error::LimitReached {
            what: "members of a channel",
            max,
        });
    }
    let was_relayed = head.relayed;
    head.set_relayed(settings.relay.max_members);
    if was_relayed && !head.relayed {
        head.marked = true; // every entry learns that it must look for the head itself
    }
    let rev = head.change_members();
    let memberships: Vec<Membership> = new
        .iter()
        .map(|user| Membership {
            user: (*user).clone(),
            role: Some(Role::Member),
            read_seq: Seq(0),
            delivered_seq: Seq(0),
            rev,
            joined_at: Timestamp(first_at.get(user).copied().unwrap_or(0)),
        })
        .collect();
    member::save(transaction, head.id, &memberships).await?;
    let room = FIRST_MEMBERS.saturating_sub(head.first_members.len());
    head.first_members
        .extend(new.iter().take(room).map(|user| (*user).clone()));
    Ok(new.into_iter().cloned().collect())
}

/// A record as a message, with the next seq and rev.
fn to_stored(
    record: &HistoryRecord,
    head: &mut Head,
    offset: u64,
    limits: &LimitSettings,
) -> Result<StoredMessage> {
    let Content {
        text,
        attachments,
        reactions,
        metadata,
    } = Content::of(record, limits)?;
    Ok(StoredMessage {
        seq: head.head_seq.next(),
        rev: head.next_rev(),
        sender: record.user.clone(),
        client_msg_id: None,
        body_digest: None,
        message_type: record.message_type,
        content: text.to_owned(),
        reply_to: record.reply_to.map(|seq| Seq(seq.0 + offset)),
        attachments,
        reactions,
        metadata,
        edit_history: None,
        created_at: Timestamp(record.at),
        edited_at: record.edited_at.map(Timestamp),
        deleted_at: record.deleted_at.map(Timestamp),
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
        Ok(Self {
            text: &record.text,
            attachments: attachments.transpose()?.flatten(),
            reactions: reactions.transpose()?.and_then(Reactions::into_stored),
            metadata: metadata.transpose()?.flatten(),
        })
    }
}

/// Below it a time in milliseconds is before 1973, when there was no chat to import; the same number of seconds is before
/// the year 5138.
const LOOKS_LIKE_SECONDS: i64 = 100_000_000_000;

/// Whether a time may be that of something that happened: nothing that is stored may claim to be from the future, since it
/// would stand above everything that happens until then.
fn check_time(field: &str, at: i64, now: Timestamp) -> Result<()> {
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
    ] {
        at.map_or(Ok(()), |at| check_time(field, at, now))?;
    }
    check_channel(&record.channel)?;
    let user = record.user.check_new();
    user.map_err(|error| Error::invalid("user", error))?;
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
pub fn to_record(message: StoredMessage, channel: &str) -> (Seq, HistoryRecord) {
    let message = message.shown();
    let seq = message.seq;
    let compact = |json: RawJson| RawJson::parse(json.compact()).ok();
    let attachments = message.attachments;
    let attachments =
        attachments.map(|json| stored_json::<Vec<AnyObject>>("attachments", Some(json), "[]"));
    let metadata = message.metadata;
    let metadata = metadata.map(|json| stored_json::<AnyObject>("metadata", Some(json), "{}"));
    let reactions = message::stored_reactions(message.reactions.as_deref());
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
        edited_at: message.edited_at.map(|at| at.0),
        deleted_at: message.deleted_at.map(|at| at.0),
    };
    (seq, record)
}
