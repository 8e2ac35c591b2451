//! Bulk append of messages with their own times, and reading a conversation back as records.
//!
//! An imported conversation knows, in the transaction that stores a batch, how many records are stored (`imports`), and
//! which of them are which messages (`import_batches`): people may talk in it between two imports. Each batch has a digest
//! of all records up to its end. So an import is resumed after a crash without a duplicate, a longer input is appended, and
//! one that does not begin with what was imported is refused, whatever has become of the messages since.
//!
//! Two imports of one channel at once: the second finds records stored that it did not see, and is refused.

mod batches;
mod notifications;
mod record;
mod watermarks;

use std::collections::{BTreeMap, BTreeSet};

use crate::db::values;
use crate::error::{Error, Result};
use crate::head::{self, FIRST_MEMBERS, Head};
use crate::ids::{ConversationId, Seq, UserId};
use crate::list_marks;
use crate::member::{self, Membership};
use crate::mentions;
use crate::message::{self, StoredMessage};
use crate::model::{ConversationKind, HistoryRecord, Role, Timestamp};
use crate::owned::OwnedTransaction;
use crate::pins;
use crate::settings::StoreSettings;
use crate::threads;

pub(crate) use batches::batches;
pub use batches::{ImportedBatch, digest};
use batches::{message_of, unknown};
pub(crate) use notifications::add_notifications;
pub use notifications::check_notification;
pub use record::check_record;
use record::to_stored;
pub(crate) use record::{check_channel, to_record};

const POSITION: &str = "SELECT position FROM imports WHERE conversation_id = ?";
const SET_POSITION: &str = "INSERT INTO imports (conversation_id, position) VALUES (?, ?) {on_duplicate conversation_id} position = {new position}";
/// Members looked up in one statement.
const AT_ONCE: usize = 1000;
const OTHER_KIND: &str = "this channel was imported as another kind of conversation";
/// Why an append is refused that does not follow what is stored.
const NOT_NEXT: &str = "other records of this channel were stored since this import began; run it again when no other import of it is running";

/// What there is of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// So many of its records are stored.
    Stored(u64),
    /// Its conversation was deleted.
    Deleted,
}

/// What a channel of an input becomes.
#[derive(Clone, Debug)]
pub struct ImportedAs {
    /// The sort of conversation.
    pub kind: ConversationKind,
    /// Its members besides those who write, with their roles; of a direct conversation all.
    pub members: Vec<(UserId, Role)>,
}

impl ImportedAs {
    /// A channel whose members are those who write.
    #[must_use]
    pub fn channel() -> Self {
        Self {
            kind: ConversationKind::Channel,
            members: Vec::new(),
        }
    }
}

/// Makes the conversation for an imported channel unless it is there, lets the named members in, and says how many of its
/// records are stored.
///
/// # Errors
/// [`Error::Conflict`] when a conversation of this id exists that is not an import, or is of another kind.
pub(crate) async fn begin(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    (channel, owner): (&str, &UserId),
    (wanted, settings): (&ImportedAs, &StoreSettings),
) -> Result<Begun> {
    let head = head::lock(transaction, &[id]).await?.pop();
    if head.as_ref().is_some_and(|head| head.deleted_at.is_some()) {
        return Ok(Begun::Deleted);
    }
    let stored = transaction.fetch_optional(POSITION, &values![&id]).await?;
    let stored = stored.map(|row| row.int(0)).transpose()?;
    let now = Timestamp::now();
    let joining = wanted
        .members
        .iter()
        .map(|(user, role)| (user, (*role, now)));
    if let Some(mut head) = head {
        if head.kind != wanted.kind {
            return Err(Error::Conflict(OTHER_KIND));
        }
        if stored.is_none() {
            adopt(transaction, &head, wanted).await?;
        }
        let joined = add_members(transaction, &mut head, joining.collect(), settings).await?;
        if !joined.is_empty() {
            head.marked |= head.relayed;
            head::save(transaction, &[&head]).await?;
            mark_lists(transaction, &head, &joined).await?;
        }
        return Ok(Begun::Stored(
            u64::try_from(stored.unwrap_or(0)).unwrap_or(0),
        ));
    }
    let mut head = Head::new(id, wanted.kind, owner.clone(), now);
    let is_direct = wanted.kind == ConversationKind::Direct;
    head.title = (!is_direct).then(|| channel.to_owned());
    head.last_at = Timestamp(0);
    head.marked = true;
    let role = if is_direct { Role::Member } else { Role::Owner };
    let mut members = BTreeMap::from([(owner, (role, now))]);
    for (user, (role, at)) in joining {
        members.entry(user).or_insert((role, at));
    }
    add_members(transaction, &mut head, members, settings).await?;
    // Whoever made it stands first.
    head.first_members.retain(|member| member != owner);
    head.first_members.insert(0, owner.clone());
    head.first_members.truncate(FIRST_MEMBERS);
    head::save(transaction, &[&head]).await?;
    transaction.execute(SET_POSITION, &values![&id, 0]).await?;
    Ok(Begun::Stored(0))
}

/// Takes a direct conversation for an import that was not made by one: nobody has written in it, and it is of the same two.
async fn adopt(
    transaction: &mut OwnedTransaction<'_>,
    head: &Head,
    wanted: &ImportedAs,
) -> Result<()> {
    if head.kind != ConversationKind::Direct {
        return Err(Error::Conflict(
            "a conversation with this id exists already and was not imported",
        ));
    }
    let users: Vec<&UserId> = wanted.members.iter().map(|(user, _)| user).collect();
    let present = member::some(transaction, head.id, &users).await?;
    if present.len() < users.len() || head.member_count != users.len() as u64 {
        return Err(Error::Conflict(
            "a conversation of others has the id of these two",
        ));
    }
    if head.head_seq > Seq(0) {
        return Err(Error::Conflict(
            "the two have written to each other here already, and what is imported would come after that",
        ));
    }
    transaction
        .execute(SET_POSITION, &values![&head.id, 0])
        .await?;
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
    let batches = batches::batches(transaction, id, (from.unwrap_or(0), stored)).await?;
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
    if batches == [unknown(stored)] {
        batches::insert_unknown(transaction, id, stored).await?;
    }

    let mut senders = BTreeMap::new();
    for record in records {
        let sender = senders.entry(&record.user);
        sender.or_insert((Role::Member, Timestamp(record.at)));
    }
    let joined = add_members(transaction, &mut head, senders, settings).await?;
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
    mentions::insert(transaction, &rows).await?;
    let messages = rows.iter().map(|(id, message)| (*id, message));
    threads::insert_of(transaction, messages).await?;
    pin(transaction, id, &rows, settings).await?;
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
    batches::insert(transaction, id, batch).await?;
    mark_lists(transaction, &head, &joined).await?;
    watermarks::save(transaction, id, (records, first_seq)).await?;
    Ok(end)
}

/// Enters the pins of the messages, which are stored.
async fn pin(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    rows: &[(ConversationId, StoredMessage)],
    settings: &StoreSettings,
) -> Result<()> {
    let mut pinned = rows.iter().filter(|(_, message)| message.pin.is_some());
    let Some((_, first)) = pinned.next() else {
        return Ok(());
    };
    pins::follow(transaction, id, first).await?;
    for (_, message) in pinned {
        pins::follow(transaction, id, message).await?;
    }
    let max = settings.limits.pins;
    match pins::count(transaction, id).await? > max as usize {
        true => Err(Error::LimitReached {
            what: "pinned messages",
            max: u64::from(max),
        }),
        false => Ok(()),
    }
}

/// Lists of large conversations are told of new members one by one.
async fn mark_lists(
    transaction: &mut OwnedTransaction<'_>,
    head: &Head,
    joined: &[UserId],
) -> Result<()> {
    if !head.relayed {
        let marks: Vec<_> = joined.iter().map(|user| (head.id, user)).collect();
        list_marks::mark(transaction, &marks).await?;
    }
    Ok(())
}

/// Makes users members, if they are not and never were.
async fn add_members(
    transaction: &mut OwnedTransaction<'_>,
    head: &mut Head,
    users: BTreeMap<&UserId, (Role, Timestamp)>,
    settings: &StoreSettings,
) -> Result<Vec<UserId>> {
    let named: Vec<&UserId> = users.keys().copied().collect();
    let mut present: BTreeSet<UserId> = BTreeSet::new();
    for named in named.chunks(AT_ONCE) {
        let found = member::some(transaction, head.id, named).await?;
        present.extend(found.into_iter().map(|member| member.user));
    }
    let new: Vec<(&UserId, (Role, Timestamp))> = users
        .into_iter()
        .filter(|(user, _)| !present.contains(*user))
        .collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    if head.kind == ConversationKind::Direct && head.member_count > 0 {
        return Err(Error::invalid(
            "user",
            format!(
                "{} is not one of the two of this direct conversation",
                new[0].0
            ),
        ));
    }
    head.member_count += new.len() as u64;
    settings
        .limits
        .check_members(head.kind, head.member_count)?;
    let was_relayed = head.relayed;
    head.set_relayed(settings.relay.max_members);
    if was_relayed && !head.relayed {
        head.marked = true; // every entry learns that it must look for the head itself
    }
    let rev = head.change_members();
    let membership = |(user, (role, at)): &(&UserId, (Role, Timestamp))| Membership {
        user: (*user).clone(),
        role: Some(*role),
        read_seq: Seq(0),
        delivered_seq: Seq(0),
        rev,
        joined_at: *at,
    };
    let memberships: Vec<Membership> = new.iter().map(membership).collect();
    member::save(transaction, head.id, &memberships).await?;
    let room = FIRST_MEMBERS.saturating_sub(head.first_members.len());
    let joined: Vec<UserId> = new.into_iter().map(|(user, _)| user.clone()).collect();
    head.first_members.extend(joined.iter().take(room).cloned());
    Ok(joined)
}
