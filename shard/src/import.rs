//! Bulk append of messages with their own times, and reading a conversation back as records.
//!
//! An imported conversation knows, in the transaction that stores a batch, how many records are stored (`imports`), and
//! which of them are which messages (`import_batches`): people may talk in it between two imports. Each batch has a digest
//! of all records up to its end. So an import is resumed after a crash without a duplicate, a longer input is appended, and
//! one that does not begin with what was imported is refused, whatever has become of the messages since.
//!
//! Two imports of one channel at once: the second finds records stored that it did not see, and is refused.

use std::collections::{BTreeMap, BTreeSet};

use twox_hash::XxHash3_64;

use crate::clock;
use crate::db::{Row, values};
use crate::error::{Error, Result};
use crate::head::{self, FIRST_MEMBERS, Head};
use crate::ids::{ConversationId, Seq, UserId};
use crate::list_marks;
use crate::member::{self, Membership};
use crate::message::{
    self, Reactions, StoredMessage, check_attachments, check_object, message_type_code, stored_json,
};
use crate::model::{
    AnyObject, ConversationKind, HistoryRecord, MessageType, RawJson, Role, Timestamp,
};
use crate::owned::{OwnedReader, OwnedTransaction};
use crate::settings::{LimitSettings, StoreSettings};

const POSITION: &str = "SELECT position FROM imports WHERE conversation_id = ?";
const SET_POSITION: &str = "INSERT INTO imports (conversation_id, position) VALUES (?, ?) {on_duplicate conversation_id} position = {new position}";
/// By the primary key, as all of these.
const BATCHES_FROM: &str = "SELECT last_record, last_seq, digest FROM import_batches \
     WHERE conversation_id = ? AND last_record >= ? ORDER BY last_record";
const INSERT_BATCH: &str = "INSERT INTO import_batches (conversation_id, last_record, last_seq, digest) VALUES (?, ?, ?, ?)";

/// Why an append is refused that does not follow what is stored.
const NOT_NEXT: &str = "other records of this channel were stored since this import began; run it again when no other import of it is running";

/// Records of an imported channel that were stored together: they follow those of the batch before, and so do their messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedBatch {
    /// The number of its last record.
    pub last_record: u64,
    /// Which message that is.
    pub last_seq: Seq,
    /// The [`digest`] of all records up to it, from the last batch before that has none; none for what a version imported
    /// that kept none.
    pub digest: Option<u64>,
}

/// The digest of records of which the last is `record`, and those before have the digest `before`; 0 for none.
#[must_use]
pub fn digest(before: u64, record: &HistoryRecord) -> u64 {
    let mut bytes = Vec::with_capacity(record.text.len() + 96);
    let json = |json: &Option<RawJson>| json.as_ref().map(|json| json.get().to_owned());
    let (attachments, reactions) = (json(&record.attachments), json(&record.reactions));
    let metadata = json(&record.metadata);
    for text in [
        Some(record.user.as_str()),
        Some(record.text.as_str()),
        attachments.as_deref(),
        reactions.as_deref(),
        metadata.as_deref(),
    ] {
        bytes.push(u8::from(text.is_some()));
        let text = text.unwrap_or_default();
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    let answered = record.reply_to.map(|seq| seq.as_i64());
    let kind = message_type_code(record.message_type);
    for number in [
        Some(record.at),
        Some(kind),
        answered,
        record.edited_at,
        record.deleted_at,
    ] {
        bytes.push(u8::from(number.is_some()));
        bytes.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
    }
    XxHash3_64::oneshot_with_seed(before, &bytes)
}

/// What there is of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// So many of its records are stored.
    Stored(u64),
    /// Its conversation was deleted.
    Deleted,
}

/// Makes the conversation for an imported channel unless it is there, and says how many of its records are stored.
///
/// # Errors
/// [`Error::Conflict`] when a conversation of this id exists that is not an import.
pub(crate) async fn begin(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    (channel, owner): (&str, &UserId),
) -> Result<Begun> {
    let head = head::lock(transaction, &[id]).await?.pop();
    if head.as_ref().is_some_and(|head| head.deleted_at.is_some()) {
        return Ok(Begun::Deleted);
    }
    let stored = transaction.fetch_optional(POSITION, &values![&id]).await?;
    if let Some(row) = stored.filter(|_| head.is_some()) {
        return Ok(Begun::Stored(u64::try_from(row.int(0)?).unwrap_or(0)));
    }
    if head.is_some() {
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
    Ok(Begun::Stored(0))
}

/// The batches of a channel of which `stored` records are stored, from the one that has record `from` on. What a version
/// imported that kept no batches is the first.
///
/// # Errors
/// When the database fails.
pub(crate) async fn batches(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    (from, stored): (u64, u64),
) -> Result<Vec<ImportedBatch>> {
    let first = i64::try_from(from).unwrap_or(i64::MAX);
    let found = rows.fetch_all(BATCHES_FROM, &values![&id, first]).await?;
    let batch = |row: &Row| {
        Ok(ImportedBatch {
            last_record: u64::try_from(row.int(0)?).unwrap_or(0),
            last_seq: Seq::from_i64(row.int(1)?),
            digest: row.opt_int(2)?.map(i64::cast_unsigned),
        })
    };
    let batches: Vec<ImportedBatch> = found.iter().map(batch).collect::<Result<_>>()?;
    let is_old = batches.is_empty() && stored > 0;
    Ok(if is_old {
        vec![unknown(stored)]
    } else {
        batches
    })
}

/// Records that were imported before batches were kept: as far as anything is known, one import without an interruption.
fn unknown(records: u64) -> ImportedBatch {
    ImportedBatch {
        last_record: records,
        last_seq: Seq(records),
        digest: None,
    }
}

async fn insert_batch(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    batch: ImportedBatch,
) -> Result<()> {
    let last_record = i64::try_from(batch.last_record).unwrap_or(i64::MAX);
    let digest = batch.digest.map(u64::cast_signed);
    let args = values![&id, last_record, batch.last_seq, digest];
    transaction.execute(INSERT_BATCH, &args).await?;
    Ok(())
}

/// Appends records that follow record `position`; gives how many are stored then. The same again changes nothing.
///
/// # Errors
/// [`Error::Invalid`] about a record; [`Error::Conflict`] when they do not follow what is stored.
pub(crate) async fn append(
    transaction: &mut OwnedTransaction<'_>,
    (id, position): (ConversationId, u64),
    records: &[HistoryRecord],
    settings: &StoreSettings,
) -> Result<u64> {
    let head = head::lock(transaction, &[id]).await?.pop();
    let head = head.filter(|head| head.deleted_at.is_none());
    let mut head = head.ok_or(Error::NotFound("imported conversation"))?;
    let stored = transaction.fetch_optional(POSITION, &values![&id]).await?;
    let stored = stored
        .map(|row| row.int(0))
        .transpose()?
        .ok_or(Error::NotFound("imported conversation"))?;
    let stored = u64::try_from(stored).unwrap_or(0);
    let end = position + records.len() as u64;
    // From the batch before, whose digest this one's follows from, and from the first message that is answered.
    let answered = records.iter().filter_map(|record| record.reply_to);
    let from = answered.map(|seq| seq.0).chain([position]).min();
    let batches = batches(transaction, id, (from.unwrap_or(0), stored)).await?;
    let before = batches.iter().find(|batch| batch.last_record == position);
    if before.is_none() && position > 0 {
        return Err(Error::Conflict(NOT_NEXT));
    }
    let before = before.and_then(|batch| batch.digest).unwrap_or(0);
    let digest = records.iter().fold(before, digest);
    if stored != position {
        let is_repeat =
            |batch: &ImportedBatch| batch.last_record == end && batch.digest == Some(digest);
        return match batches.iter().any(is_repeat) {
            true => Ok(end),
            false => Err(Error::Conflict(NOT_NEXT)),
        };
    }
    if records.is_empty() {
        return Ok(stored);
    }
    let is_old = stored > 0 && batches.iter().all(|batch| batch.digest.is_none());
    if is_old && batches == [unknown(stored)] {
        let known = transaction
            .fetch_all(BATCHES_FROM, &values![&id, 0])
            .await?;
        if known.is_empty() {
            insert_batch(transaction, id, unknown(stored)).await?;
        }
    }

    let joined = add_members(transaction, &mut head, records, settings).await?;
    let first_seq = head.head_seq.next();
    let seq_of = |record: u64| match record.checked_sub(position + 1) {
        Some(place) => Seq(first_seq.0 + place),
        None => message_of(&batches, record),
    };
    let mut rows = Vec::with_capacity(records.len());
    for (number, record) in (stored + 1..).zip(records) {
        check_record(record, number, &settings.limits)?;
        let reply_to = record.reply_to.map(|number| seq_of(number.0));
        let message = to_stored(record, &mut head, reply_to, &settings.limits)?;
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
    let batch = ImportedBatch {
        last_record: end,
        last_seq: head.head_seq,
        digest: Some(digest),
    };
    insert_batch(transaction, id, batch).await?;
    if !head.relayed {
        let marks: Vec<_> = joined.iter().map(|user| (id, user)).collect();
        list_marks::mark(transaction, &marks).await?;
    }
    Ok(end)
}

/// Which message a stored record is; `batches` are those from its own on.
fn message_of(batches: &[ImportedBatch], record: u64) -> Seq {
    let batch = batches.iter().find(|batch| batch.last_record >= record);
    batch.map_or(Seq(record), |batch| {
        Seq(batch.last_seq.0.saturating_sub(batch.last_record - record))
    })
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
    reply_to: Option<Seq>,
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
        reply_to,
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
