//! A user's conversation list: entries on the user's own shard, kept up to date by [`crate::relay`].
//!
//! Every change to an entry takes the user's next rev, so one number says which conversations changed since. Entries of
//! conversations too large to be relayed hold no current head; reading them fetches the heads from the conversations'
//! shards, one query a shard.

use std::collections::HashMap;

use crate::conversation::{Head, WRITE_ROWS, kind_code, kind_of};
use crate::db::{Connection, Row, Value, in_rows, list_size, padded, rows_of, values};
use crate::error::{Error, Result};
use crate::fence;
use crate::ids::{ConversationId, Rev, Seq, ShardName, UserId, UserKey};
use crate::map::{Assignment, ShardMap};
use crate::member::Membership;
use crate::message::{message_type_code, message_type_of};
use crate::model::{ConversationKind, ListEntry, MessagePreview, Timestamp};

/// An entry as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub(crate) conversation: ConversationId,
    pub(crate) kind: ConversationKind,
    pub(crate) title: Option<String>,
    pub(crate) member_count: u64,
    pub(crate) first_members: String,
    pub(crate) head_seq: Seq,
    pub(crate) conversation_rev: Rev,
    pub(crate) read_seq: Seq,
    pub(crate) last: Option<MessagePreview>,
    pub(crate) last_at: Timestamp,
    pub(crate) relayed: bool,
    pub(crate) pinned: bool,
    pub(crate) muted: bool,
    pub(crate) removed: bool,
    pub(crate) rev: Rev,
}

/// What the relay tells to one entry.
#[derive(Clone, Debug)]
pub struct EntryUpdate {
    user: UserId,
    key: UserKey,
    entry: Entry,
}

macro_rules! entry_columns {
    () => {
        "conversation_id, kind, title, member_count, first_members, head_seq, conversation_rev, read_seq, last_sender, \
         last_type, last_preview, last_at, relayed, pinned, muted, removed, rev"
    };
}
const ENTRY_COLUMN_COUNT: usize = 17;

/// By the primary key `(user_key, user_id, conversation_id)`.
const SELECT_PAIRS: &str = concat!(
    "SELECT user_id, ",
    entry_columns!(),
    " FROM list_entries {by PRIMARY} WHERE "
);
const SAVE: &str = concat!(
    "INSERT INTO list_entries (user_key, user_id, ",
    entry_columns!(),
    ") VALUES "
);
const SAVE_UPDATE: &str = " {on_duplicate user_key, user_id, conversation_id} title = {new title}, \
     member_count = {new member_count}, first_members = {new first_members}, head_seq = {new head_seq}, \
     conversation_rev = {new conversation_rev}, read_seq = {new read_seq}, last_sender = {new last_sender}, \
     last_type = {new last_type}, last_preview = {new last_preview}, last_at = {new last_at}, relayed = {new relayed}, \
     pinned = {new pinned}, muted = {new muted}, removed = {new removed}, rev = {new rev}";
/// Takes revs for a user, and with them the row's lock: two relays of one user's entries come one after the other.
const BUMP_USERS: &str = "INSERT INTO users (user_key, user_id, rev) VALUES ";
const BUMP_USERS_UPDATE: &str = " {on_duplicate user_key, user_id} rev = rev + {new rev}";
const USER_REVS: &str = "SELECT user_id, rev FROM users {by PRIMARY} WHERE ";
/// By the index `list_entries_activity`.
const SELECT_FIRST: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM list_entries WHERE user_key = ? AND user_id = ? AND relayed = 1 AND removed = 0 \
     ORDER BY pinned DESC, last_at DESC, conversation_id DESC LIMIT ?"
);
const SELECT_AFTER: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM list_entries WHERE user_key = ? AND user_id = ? AND relayed = 1 AND removed = 0 \
     AND (pinned < ? OR (pinned = ? AND (last_at < ? OR (last_at = ? AND conversation_id < ?)))) \
     ORDER BY pinned DESC, last_at DESC, conversation_id DESC LIMIT ?"
);
const SELECT_LARGE: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM list_entries WHERE user_key = ? AND user_id = ? AND relayed = 0 AND removed = 0 LIMIT ?"
);
/// By the index `list_entries_rev`.
const SELECT_CHANGED: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM list_entries WHERE user_key = ? AND user_id = ? AND rev > ? ORDER BY rev LIMIT ?"
);
const UNREAD: &str = "SELECT CAST(COALESCE(SUM(CASE WHEN head_seq > read_seq THEN head_seq - read_seq ELSE 0 END), 0) AS {signed}), \
     COUNT(CASE WHEN head_seq > read_seq THEN 1 END) FROM list_entries \
     WHERE user_key = ? AND user_id = ? AND relayed = 1 AND removed = 0";
const SET_FLAGS: &str = "UPDATE list_entries SET pinned = ?, muted = ?, rev = ? WHERE user_key = ? AND user_id = ? AND conversation_id = ?";

/// Most large conversations one user's list merges in.
pub const LARGE_MAX: i64 = 1000;

impl Entry {
    fn from_row(row: &Row, first: usize) -> Result<Self> {
        let head_seq = Seq::from_i64(row.int(first + 5)?);
        let last_at = Timestamp(row.int(first + 11)?);
        let last = match (
            row.opt_user(first + 8)?,
            row.opt_int(first + 9)?,
            row.opt_text(first + 10)?,
        ) {
            (Some(sender_id), Some(code), Some(content)) => Some(MessagePreview {
                seq: head_seq,
                sender_id,
                content,
                message_type: message_type_of(code)?,
                created_at: last_at,
            }),
            _ => None,
        };
        Ok(Self {
            conversation: row.conversation(first)?,
            kind: kind_of(row.int(first + 1)?)?,
            title: row.opt_text(first + 2)?,
            member_count: u64::try_from(row.int(first + 3)?).unwrap_or(0),
            first_members: row.text(first + 4)?,
            head_seq,
            conversation_rev: Rev::from_i64(row.int(first + 6)?),
            read_seq: Seq::from_i64(row.int(first + 7)?),
            last,
            last_at,
            relayed: row.int(first + 12)? != 0,
            pinned: row.int(first + 13)? != 0,
            muted: row.int(first + 14)? != 0,
            removed: row.int(first + 15)? != 0,
            rev: Rev::from_i64(row.int(first + 16)?),
        })
    }

    /// Takes the current head and watermark of a conversation that is not relayed.
    pub(crate) fn follow(&mut self, head: &Head, read_seq: Seq) {
        self.head_seq = head.head_seq;
        self.conversation_rev = head.rev;
        self.last.clone_from(&head.last);
        self.last_at = head.last_at;
        self.read_seq = read_seq;
        self.member_count = head.member_count;
    }

    /// Where it stands in the list.
    pub(crate) fn order(&self) -> ListOrder {
        ListOrder {
            pinned: self.pinned,
            last_at: self.last_at,
            conversation: self.conversation,
        }
    }

    /// The entry as its user sees it.
    pub(crate) fn into_list_entry(self) -> Result<ListEntry> {
        let members = serde_json::from_str(&self.first_members);
        Ok(ListEntry {
            id: self.conversation,
            kind: self.kind,
            title: self.title,
            head_seq: self.head_seq,
            rev: self.conversation_rev,
            read_seq: self.read_seq,
            unread_count: self.head_seq.0.saturating_sub(self.read_seq.0),
            member_count: self.member_count,
            members: members.map_err(|error| Error::Corrupt(format!("first_members: {error}")))?,
            last_message: self.last,
            last_activity_at: self.last_at,
            pinned: self.pinned,
            muted: self.muted,
            removed: self.removed,
        })
    }
}

/// The order of a list: pinned first, then the latest activity first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListOrder {
    pinned: bool,
    last_at: Timestamp,
    conversation: ConversationId,
}

impl ListOrder {
    /// The cursor after this entry.
    #[must_use]
    pub fn to_cursor(self) -> String {
        format!(
            "{}.{}.{}",
            u8::from(self.pinned),
            self.last_at.0,
            self.conversation
        )
    }

    /// From a cursor.
    ///
    /// # Errors
    /// When it is not one that [`ListOrder::to_cursor`] made.
    pub fn parse(cursor: &str) -> Result<Self> {
        let parse = || {
            let (pinned, rest) = cursor.split_once('.')?;
            let (last_at, conversation) = rest.split_once('.')?;
            let order = Self {
                pinned: match pinned {
                    "0" => false,
                    "1" => true,
                    _ => return None,
                },
                last_at: Timestamp(last_at.parse().ok()?),
                conversation: conversation.parse().ok()?,
            };
            (order.to_cursor() == cursor).then_some(order)
        };
        parse().ok_or_else(|| Error::invalid("cursor", "pass the `nextCursor` of the page before"))
    }
}

impl EntryUpdate {
    /// What `head` means for the list of `member`, who was read after it.
    #[must_use]
    pub fn new(head: &Head, mut member: Membership, key: UserKey) -> Self {
        head.writers.move_on([&mut member]);
        let entry = Entry {
            conversation: head.id,
            kind: head.kind,
            title: head.title.clone(),
            member_count: head.member_count,
            first_members: crate::conversation::first_members_json(&head.first_members),
            head_seq: head.head_seq,
            conversation_rev: head.rev,
            read_seq: member.read_seq,
            last: head.last.clone(),
            last_at: head.last_at,
            relayed: head.relayed,
            pinned: false,
            muted: false,
            removed: !member.is_active() || head.deleted_at.is_some(),
            rev: Rev(0),
        };
        Self {
            user: member.user,
            key,
            entry,
        }
    }

    /// The entry to store where `stored` is: the greater rev and the greater watermark win. Whoever is no longer a member is
    /// told that once, and of what happens afterwards nothing (INV-MEMBER).
    fn merge(&self, stored: Option<&Entry>) -> Option<Entry> {
        let mut entry = self.entry.clone();
        if let Some(stored) = stored {
            if entry.removed && entry.conversation_rev >= stored.conversation_rev {
                return (!stored.removed).then(|| Entry {
                    removed: true,
                    last: None,
                    conversation_rev: entry.conversation_rev,
                    ..stored.clone()
                });
            }
            if stored.conversation_rev > entry.conversation_rev {
                entry = stored.clone();
            }
            entry.read_seq = stored.read_seq.max(self.entry.read_seq);
            (entry.pinned, entry.muted, entry.rev) = (stored.pinned, stored.muted, stored.rev);
            if entry == *stored {
                return None;
            }
        } else if entry.removed {
            return None;
        }
        Some(entry)
    }
}

/// In a write transaction on the users' shard: applies updates to list entries; each that changes takes its user's next
/// rev, none is left out. Gives the changed ones.
///
/// # Errors
/// [`Error::NotOwner`] when this shard does not own one of the users.
pub async fn apply(
    connection: &mut Connection,
    shard: &ShardName,
    map: &ShardMap,
    updates: &[EntryUpdate],
) -> Result<Vec<(UserId, Entry)>> {
    let mut assignments: Vec<&Assignment> = Vec::new();
    for update in updates {
        let assignment = map.locate(update.key);
        if !assignments.contains(&assignment) {
            assignments.push(assignment);
        }
    }
    if fence::lock_for_write(connection, &assignments)
        .await?
        .contains(&false)
    {
        return Err(Error::NotOwner(shard.clone()));
    }
    let mut users: HashMap<&UserId, (UserKey, i64)> = HashMap::new();
    for update in updates {
        users.entry(&update.user).or_insert((update.key, 0)).1 += 1;
    }
    let mut next_revs = add_revs(connection, &users).await?;
    let stored = stored_entries(connection, updates).await?;
    let mut changed: Vec<(&EntryUpdate, Entry)> = Vec::new();
    for update in updates {
        let stored = stored
            .get(&(update.entry.conversation, &update.user))
            .map(|(_, entry)| entry);
        let Some(mut entry) = update.merge(stored) else {
            continue;
        };
        let next = next_revs
            .get_mut(update.user.as_str())
            .ok_or_else(|| Error::Corrupt("a user's rev".into()))?;
        *next += 1;
        entry.rev = Rev::from_i64(*next);
        if let Some((_, taken)) = users.get_mut(&update.user) {
            *taken -= 1;
        }
        changed.push((update, entry));
    }
    save(connection, &changed).await?;
    // What was taken and not used is given back, under the same lock: revs have no holes.
    users.retain(|_, (_, unused)| *unused > 0);
    users
        .values_mut()
        .for_each(|(_, unused)| *unused = -*unused);
    if !users.is_empty() {
        add_revs(connection, &users).await?;
    }
    let told = changed.into_iter();
    Ok(told
        .map(|(update, entry)| (update.user.clone(), entry))
        .collect())
}

/// Adds to each user's rev, and locks it; gives the revs before that.
async fn add_revs(
    connection: &mut Connection,
    users: &HashMap<&UserId, (UserKey, i64)>,
) -> Result<HashMap<String, i64>> {
    let mut users: Vec<([u8; 8], &UserId, i64)> = users
        .iter()
        .map(|(user, (key, n))| (key.to_bytes(), *user, *n))
        .collect();
    users.sort_unstable(); // every relay locks users in the same order
    let mut args: Vec<Value<'_>> = users
        .iter()
        .flat_map(|(key, user, n)| values![key, *user, *n])
        .collect();
    let rows = list_size(users.len());
    if let Some((key, user, _)) = users.last() {
        for _ in users.len()..rows {
            args.extend(values![key, *user, 0]); // takes no rev
        }
    }
    connection
        .execute(
            &format!("{BUMP_USERS}{}{BUMP_USERS_UPDATE}", rows_of(rows, 3)),
            &args,
        )
        .await?;
    let keyed: Vec<([u8; 8], &UserId)> = users.iter().map(|(key, user, _)| (*key, *user)).collect();
    let taken: HashMap<&str, i64> = users
        .iter()
        .map(|(_, user, n)| (user.as_str(), *n))
        .collect();
    let rows = rows_of_users(connection, USER_REVS, &keyed).await?;
    rows.iter()
        .map(|row| {
            let user = row.user(0)?;
            let before = row.int(1)? - taken.get(user.as_str()).copied().unwrap_or(0);
            Ok((user.as_str().to_owned(), before))
        })
        .collect()
}

async fn stored_entries<'a>(
    connection: &mut Connection,
    updates: &'a [EntryUpdate],
) -> Result<HashMap<(ConversationId, &'a UserId), (UserId, Entry)>> {
    let keys: Vec<([u8; 8], &EntryUpdate)> = updates
        .iter()
        .map(|update| (update.key.to_bytes(), update))
        .collect();
    let args: Vec<Value<'_>> = padded(&keys)
        .flat_map(|(key, update)| values![key, &update.user, &update.entry.conversation])
        .collect();
    let columns = ["user_key", "user_id", "conversation_id"];
    let condition = in_rows(columns, args.len() / 3);
    let rows = connection
        .fetch_all(&format!("{SELECT_PAIRS}{condition}"), &args)
        .await?;
    let by_id: HashMap<(ConversationId, &str), &'a UserId> = updates
        .iter()
        .map(|update| {
            (
                (update.entry.conversation, update.user.as_str()),
                &update.user,
            )
        })
        .collect();
    let mut stored = HashMap::with_capacity(rows.len());
    for row in &rows {
        let (user, entry) = (row.user(0)?, Entry::from_row(row, 1)?);
        if let Some(key) = by_id.get(&(entry.conversation, user.as_str())) {
            stored.insert((entry.conversation, *key), (user, entry));
        }
    }
    Ok(stored)
}

async fn save(connection: &mut Connection, entries: &[(&EntryUpdate, Entry)]) -> Result<()> {
    for chunk in entries.chunks(WRITE_ROWS) {
        let keys: Vec<[u8; 8]> = padded(chunk)
            .map(|(update, _)| update.key.to_bytes())
            .collect();
        let mut args = Vec::with_capacity(keys.len() * (ENTRY_COLUMN_COUNT + 2));
        for ((update, entry), key) in padded(chunk).zip(&keys) {
            args.extend(values![key, &update.user]);
            args.extend(entry_values(entry));
        }
        let rows = rows_of(keys.len(), ENTRY_COLUMN_COUNT + 2);
        connection
            .execute(&format!("{SAVE}{rows}{SAVE_UPDATE}"), &args)
            .await?;
    }
    Ok(())
}

fn entry_values(entry: &Entry) -> [Value<'_>; ENTRY_COLUMN_COUNT] {
    values![
        &entry.conversation,
        kind_code(entry.kind),
        entry.title.as_deref(),
        i64::try_from(entry.member_count).unwrap_or(i64::MAX),
        entry.first_members.as_str(),
        entry.head_seq,
        entry.conversation_rev,
        entry.read_seq,
        entry.last.as_ref().map(|last| &last.sender_id),
        entry
            .last
            .as_ref()
            .map(|last| message_type_code(last.message_type)),
        entry.last.as_ref().map(|last| last.content.as_str()),
        entry.last_at.0,
        i64::from(entry.relayed),
        i64::from(entry.pinned),
        i64::from(entry.muted),
        i64::from(entry.removed),
        entry.rev,
    ]
}

/// Relayed entries after `after`, in list order.
///
/// # Errors
/// When the database fails.
pub async fn page(
    connection: &mut Connection,
    (key, user): (UserKey, &UserId),
    after: Option<ListOrder>,
    limit: u32,
) -> Result<Vec<Entry>> {
    let key = key.to_bytes();
    let limit = i64::from(limit);
    let rows = match &after {
        None => {
            connection
                .fetch_all(SELECT_FIRST, &values![&key, user, limit])
                .await?
        }
        Some(after) => {
            let (pinned, at) = (i64::from(after.pinned), after.last_at.0);
            let args = values![
                &key,
                user,
                pinned,
                pinned,
                at,
                at,
                &after.conversation,
                limit
            ];
            connection.fetch_all(SELECT_AFTER, &args).await?
        }
    };
    rows.iter().map(|row| Entry::from_row(row, 0)).collect()
}

/// The entries of conversations that are not relayed.
///
/// # Errors
/// When the database fails.
pub async fn large(
    connection: &mut Connection,
    (key, user): (UserKey, &UserId),
) -> Result<Vec<Entry>> {
    let rows = connection
        .fetch_all(SELECT_LARGE, &values![&key.to_bytes(), user, LARGE_MAX])
        .await?;
    rows.iter().map(|row| Entry::from_row(row, 0)).collect()
}

/// Entries changed after `rev`, in the order of their revs; also removed ones.
///
/// # Errors
/// When the database fails.
pub async fn changed(
    connection: &mut Connection,
    (key, user): (UserKey, &UserId),
    rev: Rev,
    limit: u32,
) -> Result<Vec<Entry>> {
    let rows = connection
        .fetch_all(
            SELECT_CHANGED,
            &values![&key.to_bytes(), user, rev, i64::from(limit)],
        )
        .await?;
    rows.iter().map(|row| Entry::from_row(row, 0)).collect()
}

/// The revs of those users who have one.
///
/// # Errors
/// When the database fails.
pub async fn revs(
    connection: &mut Connection,
    users: &[(UserKey, &UserId)],
) -> Result<Vec<(UserId, Rev)>> {
    let keyed: Vec<([u8; 8], &UserId)> = users
        .iter()
        .map(|(key, user)| (key.to_bytes(), *user))
        .collect();
    let rows = rows_of_users(connection, USER_REVS, &keyed).await?;
    rows.iter()
        .map(|row| Ok((row.user(0)?, Rev::from_i64(row.int(1)?))))
        .collect()
}

/// The rows of some users that `select`, which ends with `WHERE `, finds by the primary key `(user_key, user_id)`.
///
/// # Errors
/// When the database fails.
pub(crate) async fn rows_of_users(
    connection: &mut Connection,
    select: &str,
    users: &[([u8; 8], &UserId)],
) -> Result<Vec<Row>> {
    let args: Vec<Value<'_>> = padded(users)
        .flat_map(|(key, user)| values![key, *user])
        .collect();
    let condition = in_rows(["user_key", "user_id"], args.len() / 2);
    connection
        .fetch_all(&format!("{select}{condition}"), &args)
        .await
}

/// One entry.
///
/// # Errors
/// When the database fails.
pub async fn one(
    connection: &mut Connection,
    (key, user): (UserKey, &UserId),
    id: ConversationId,
) -> Result<Option<Entry>> {
    let statement = format!("{SELECT_PAIRS}user_key = ? AND user_id = ? AND conversation_id = ?");
    let row = connection
        .fetch_optional(&statement, &values![&key.to_bytes(), user, &id])
        .await?;
    row.map(|row| Entry::from_row(&row, 1)).transpose()
}

/// Unread messages, and conversations that have any, over the relayed entries.
///
/// # Errors
/// When the database fails.
pub async fn unread(
    connection: &mut Connection,
    (key, user): (UserKey, &UserId),
) -> Result<(u64, u64)> {
    let row = connection
        .fetch_optional(UNREAD, &values![&key.to_bytes(), user])
        .await?;
    let row = row.ok_or_else(|| Error::Corrupt("a sum without a row".into()))?;
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok((count(row.int(0)?), count(row.int(1)?)))
}

/// In a write transaction: sets what the user decides about their own entry.
///
/// # Errors
/// [`Error::NotFound`] when there is no such entry.
pub async fn set_flags(
    connection: &mut Connection,
    (key, user): (UserKey, &UserId),
    id: ConversationId,
    (pinned, muted): (Option<bool>, Option<bool>),
) -> Result<Entry> {
    let revs = add_revs(connection, &HashMap::from([(user, (key, 1))])).await?;
    let entry = one(connection, (key, user), id)
        .await?
        .filter(|entry| !entry.removed);
    let mut entry = entry.ok_or(Error::NotFound("conversation in your list"))?;
    entry.rev = Rev::from_i64(revs.get(user.as_str()).copied().unwrap_or(0) + 1);
    entry.pinned = pinned.unwrap_or(entry.pinned);
    entry.muted = muted.unwrap_or(entry.muted);
    let key = key.to_bytes();
    let args = values![
        i64::from(entry.pinned),
        i64::from(entry.muted),
        entry.rev,
        &key,
        user,
        &id
    ];
    connection.execute(SET_FLAGS, &args).await?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let order = ListOrder {
            pinned: true,
            last_at: Timestamp(-5),
            conversation: ConversationId::new(UserKey(7), 9),
        };
        assert_eq!(ListOrder::parse(&order.to_cursor()).unwrap(), order);
        for wrong in [
            "",
            "1",
            "2.5.00",
            "1.05.00000000000000070000000000000009",
            "' OR 1=1 --",
        ] {
            assert!(ListOrder::parse(wrong).is_err(), "{wrong}");
        }
    }
}
