//! A user's conversation list: entries on the user's own shard, kept up to date by [`crate::relay`].
//!
//! Every change to an entry takes the user's next rev, so one number says which conversations changed since. Entries of
//! conversations too large to be relayed hold no current head; reading them fetches the heads from the conversations'
//! shards, one query a range.
//!
//! Other people decide how many large conversations a user is in, so reading a list costs no more for them than a page of
//! the longest list (INV-BOUND): [`FOLLOWED_MAX`] of them stand where their latest activity puts them, those whose entries
//! changed last. The others stand where their entries put them, which is where their latest activity was when the user
//! joined. No entry is left out, and each that is on a page shows the conversation as it is now.

mod entry;

pub use entry::{Entry, EntryUpdate, ListOrder};

use std::collections::HashMap;

use crate::blocks;
use crate::db::WRITE_ROWS;
use crate::db::{Row, Value, in_rows, padded, rows_of, values};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, Rev, UserId, UserKey};
use crate::map::ShardMap;
use crate::model::Timestamp;
use crate::owned::{Entity, OwnedReader, OwnedTransaction, WriteScope};
use crate::user_revs;
use entry::{ENTRY_COLUMN_COUNT, entry_columns};

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
     pinned = {new pinned}, muted = {new muted}, removed = {new removed}, rev = {new rev}, \
     mentions = {new mentions}";
/// The entries of a page, in list order: relayed ones as far as the page goes, and those that are not relayed, the first of
/// all and as many after the cursor. One statement, so that an entry whose conversation becomes large or small meanwhile
/// comes once. By the index `list_entries_activity`.
macro_rules! select_part {
    ($relayed:literal, $after:literal) => {
        concat!(
            "{part}(SELECT ",
            entry_columns!(),
            " FROM list_entries WHERE user_key = ? AND user_id = ? AND relayed = ",
            $relayed,
            " AND removed = 0",
            $after,
            " ORDER BY pinned DESC, last_at DESC, conversation_id DESC LIMIT ?)"
        )
    };
    ($relayed:literal, after) => {
        select_part!(
            $relayed,
            " AND (pinned < ? OR (pinned = ? AND (last_at < ? OR (last_at = ? AND conversation_id < ?))))"
        )
    };
}
const SELECT_FIRST: &str = concat!(select_part!("1", ""), " UNION ALL ", select_part!("0", ""));
const SELECT_AFTER: &str = concat!(
    select_part!("1", after),
    " UNION ALL ",
    select_part!("0", ""),
    " UNION ALL ",
    select_part!("0", after)
);
/// By the index `list_entries_rev`.
const SELECT_CHANGED: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM list_entries WHERE user_key = ? AND user_id = ? AND rev > ? ORDER BY rev LIMIT ?"
);
/// The sums over the relayed entries, and beside them the first entries that are not relayed, or NULLs; one statement for
/// the same reason. By the index `list_entries_activity`.
const UNREAD: &str = concat!(
    "SELECT s.messages, s.conversations, s.mentions, e.* FROM (SELECT CAST(COALESCE(SUM(CASE WHEN head_seq > read_seq THEN head_seq - read_seq ELSE 0 END), 0) AS {signed}) \
     AS messages, COUNT(CASE WHEN head_seq > read_seq THEN 1 END) AS conversations, \
     CAST(COALESCE(SUM(1 + LENGTH(mentions) - LENGTH(REPLACE(mentions, ',', ''))), 0) AS {signed}) AS mentions FROM list_entries \
     WHERE user_key = ? AND user_id = ? AND relayed = 1 AND removed = 0) s \
     LEFT JOIN (SELECT ",
    entry_columns!(),
    " FROM list_entries WHERE user_key = ? AND user_id = ? AND relayed = 0 AND removed = 0 \
     ORDER BY pinned DESC, last_at DESC, conversation_id DESC LIMIT ?) e ON 1 = 1"
);
const SET_REMOVED: &str = "UPDATE list_entries SET removed = 1, rev = ? WHERE user_key = ? AND user_id = ? AND conversation_id = ?";
/// By the primary key.
const ACTIVITIES: &str = "SELECT conversation_id, last_at FROM list_entries {by PRIMARY} WHERE user_key = ? AND user_id = ? AND removed = 0 \
     ORDER BY last_at DESC, conversation_id DESC LIMIT ?";
const SET_FLAGS: &str = "UPDATE list_entries SET pinned = ?, muted = ?, rev = ? WHERE user_key = ? AND user_id = ? AND conversation_id = ?";

/// Most large conversations of one user whose place in the list follows their latest activity, and whose unread messages are
/// counted.
pub const FOLLOWED_MAX: usize = 100;

/// The users of updates, as the map has them.
#[must_use]
pub fn scope<'m>(map: &'m ShardMap, updates: &[EntryUpdate]) -> WriteScope<'m> {
    let mut scope = WriteScope::default();
    for update in updates {
        let entity = Entity::User(update.key, update.user.clone());
        scope.add(map.locate(update.key), entity);
    }
    scope
}

/// In a transaction that may write the [users](scope) of `updates`: applies them to list entries; each that changes takes
/// its user's next rev, none is left out. Gives the changed ones. Whom their users block is listed with them.
///
/// # Errors
/// When the database fails.
pub async fn apply(
    transaction: &mut OwnedTransaction<'_>,
    updates: &[EntryUpdate],
) -> Result<Vec<(UserId, Entry)>> {
    let mut users: HashMap<&UserId, (UserKey, i64)> = HashMap::new();
    for update in updates {
        users.entry(&update.user).or_insert((update.key, 0)).1 += 1;
    }
    let mut next_revs = user_revs::add(transaction, &users).await?;
    let stored = stored_entries(transaction, updates).await?;
    let mut changed: Vec<(&EntryUpdate, Entry)> = Vec::new();
    for update in updates {
        let stored = stored
            .get(&(update.entry.conversation, &update.user))
            .map(|(_, entry)| entry);
        if let Some(block) = update.block.as_ref().filter(|_| update.is_latest(stored)) {
            blocks::list(transaction, (update.key, &update.user), block).await?;
        }
        let Some(mut entry) = update.merge(stored) else {
            continue;
        };
        let next = next_revs
            .get_mut(update.user.as_str())
            .ok_or_else(|| Error::corrupt("a user's rev"))?;
        *next += 1;
        entry.rev = Rev::from_i64(*next);
        if let Some((_, taken)) = users.get_mut(&update.user) {
            *taken -= 1;
        }
        changed.push((update, entry));
    }
    save(transaction, &changed).await?;
    // What was taken and not used is given back, under the same lock: revs have no holes.
    users.retain(|_, (_, unused)| *unused > 0);
    users
        .values_mut()
        .for_each(|(_, unused)| *unused = -*unused);
    if !users.is_empty() {
        user_revs::add(transaction, &users).await?;
    }
    let changed = changed.into_iter();
    Ok(changed
        .map(|(update, entry)| (update.user.clone(), entry))
        .collect())
}

async fn stored_entries<'a>(
    rows: &mut OwnedReader<'_>,
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
    let found = rows
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
    let mut stored = HashMap::with_capacity(found.len());
    for row in &found {
        let mut columns = row.columns();
        let (user, entry) = (columns.user()?, Entry::read(&mut columns)?);
        if let Some(key) = by_id.get(&(entry.conversation, user.as_str())) {
            stored.insert((entry.conversation, *key), (user, entry));
        }
    }
    Ok(stored)
}

async fn save(
    transaction: &mut OwnedTransaction<'_>,
    entries: &[(&EntryUpdate, Entry)],
) -> Result<()> {
    transaction.require_users(entries.iter().map(|(update, _)| &update.user))?;
    for chunk in entries.chunks(WRITE_ROWS) {
        let keys: Vec<[u8; 8]> = padded(chunk)
            .map(|(update, _)| update.key.to_bytes())
            .collect();
        let mentions = padded(chunk).map(|(_, entry)| entry.mentions.to_stored());
        let mentions: Vec<Option<String>> = mentions.collect();
        let mut args = Vec::with_capacity(keys.len() * (ENTRY_COLUMN_COUNT + 2));
        for (((update, entry), key), mentions) in padded(chunk).zip(&keys).zip(&mentions) {
            args.extend(values![key, &update.user]);
            args.extend(entry.values(mentions.as_deref()));
        }
        let rows = rows_of(keys.len(), ENTRY_COLUMN_COUNT + 2);
        transaction
            .execute(&format!("{SAVE}{rows}{SAVE_UPDATE}"), &args)
            .await?;
    }
    Ok(())
}

/// What a page is made of, each in list order.
#[derive(Debug)]
pub struct PageEntries {
    /// Relayed entries after the cursor.
    pub relayed: Vec<Entry>,
    /// The first [`FOLLOWED_MAX`] of those that are not relayed; their places follow from their heads.
    pub followed: Vec<Entry>,
    /// The others that are not relayed, after the cursor; they stand where their entries put them.
    pub others: Vec<Entry>,
}

/// The entries that may be on the page after `after`: at most `limit` of each sort, but for those that are followed.
///
/// # Errors
/// When the database fails.
pub async fn page(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
    after: Option<ListOrder>,
    limit: usize,
) -> Result<PageEntries> {
    let key = key.to_bytes();
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let mut args = values![&key, user].to_vec();
    let statement = match &after {
        None => {
            args.extend(values![count(limit), &key, user]);
            SELECT_FIRST
        }
        Some(after) => {
            let (pinned, at) = (i64::from(after.pinned), after.last_at.0);
            let place = values![pinned, pinned, at, at, &after.conversation];
            args.extend_from_slice(&place);
            args.extend(values![
                count(limit),
                &key,
                user,
                count(FOLLOWED_MAX),
                &key,
                user
            ]);
            args.extend(place);
            SELECT_AFTER
        }
    };
    args.push(Value::from(count(FOLLOWED_MAX + limit)));
    let found = rows.fetch_all(statement, &args).await?;
    let entries = found.iter().map(|row| Entry::read(&mut row.columns()));
    let entries = entries.collect::<Result<Vec<_>>>()?;
    let (relayed, mut followed): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| entry.relayed);
    // Those after the cursor may be among the first of all.
    followed.sort_by_key(|entry| std::cmp::Reverse(entry.order()));
    followed.dedup_by_key(|entry| entry.conversation);
    let mut others = followed.split_off(followed.len().min(FOLLOWED_MAX));
    others.truncate(limit);
    Ok(PageEntries {
        relayed,
        followed,
        others,
    })
}

/// Entries changed after `rev`, in the order of their revs; also removed ones.
///
/// # Errors
/// When the database fails.
pub async fn changed(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
    rev: Rev,
    limit: u32,
) -> Result<Vec<Entry>> {
    let found = rows
        .fetch_all(
            SELECT_CHANGED,
            &values![&key.to_bytes(), user, rev, i64::from(limit)],
        )
        .await?;
    found
        .iter()
        .map(|row| Entry::read(&mut row.columns()))
        .collect()
}

/// One entry.
///
/// # Errors
/// When the database fails.
pub async fn one(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
    id: ConversationId,
) -> Result<Option<Entry>> {
    let statement = format!("{SELECT_PAIRS}user_key = ? AND user_id = ? AND conversation_id = ?");
    let row = rows
        .fetch_optional(&statement, &values![&key.to_bytes(), user, &id])
        .await?;
    row.map(|row| Entry::read(&mut row.columns_from(1)))
        .transpose()
}

/// The user's conversations with the latest activity of each as its entry has it, the latest first; at most `limit`.
///
/// # Errors
/// When the database fails.
pub async fn activities(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
    limit: usize,
) -> Result<Vec<(ConversationId, Timestamp)>> {
    let key = key.to_bytes();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![&key, user, limit];
    let found = rows.fetch_all(ACTIVITIES, &args).await?;
    let activity = |row: &Row| {
        let mut columns = row.columns();
        Ok((columns.conversation()?, Timestamp(columns.int()?)))
    };
    found.iter().map(activity).collect()
}

/// Unread messages of a user.
#[derive(Debug)]
pub struct Unread {
    /// Messages, over the relayed entries.
    pub messages: u64,
    /// Conversations that have any, over the relayed entries.
    pub conversations: u64,
    /// Those that mention the user, over the relayed entries.
    pub mentions: u64,
    /// The first [`FOLLOWED_MAX`] entries that are not relayed, whose heads are to be asked for.
    pub large: Vec<Entry>,
    /// There are more of them.
    pub partial: bool,
}

/// The user's unread messages, as far as their own shard knows them.
///
/// # Errors
/// When the database fails.
pub async fn unread(rows: &mut OwnedReader<'_>, (key, user): (UserKey, &UserId)) -> Result<Unread> {
    let key = key.to_bytes();
    let most = i64::try_from(FOLLOWED_MAX + 1).unwrap_or(i64::MAX);
    let args = values![&key, user, &key, user, most];
    let found = rows.fetch_all(UNREAD, &args).await?;
    let sums = found.first();
    let sums = sums.ok_or(Error::Unexpected("a sum without a row"))?;
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    let mut large = Vec::with_capacity(found.len());
    for row in &found {
        if row.opt_bytes(3)?.is_some() {
            large.push(Entry::read(&mut row.columns_from(3))?);
        }
    }
    let partial = large.len() > FOLLOWED_MAX;
    large.truncate(FOLLOWED_MAX);
    Ok(Unread {
        messages: count(sums.int(0)?),
        conversations: count(sums.int(1)?),
        mentions: count(sums.int(2)?),
        large,
        partial,
    })
}

/// In a write transaction: puts an entry away, until the conversation's next rev reaches it. None when it is away already, or there
/// is none.
///
/// # Errors
/// When the database fails.
pub async fn put_away(
    transaction: &mut OwnedTransaction<'_>,
    (key, user): (UserKey, &UserId),
    id: ConversationId,
) -> Result<Option<Entry>> {
    let revs = user_revs::add(transaction, &HashMap::from([(user, (key, 1))])).await?;
    let entry = one(transaction, (key, user), id).await?;
    let Some(mut entry) = entry.filter(|entry| !entry.removed) else {
        user_revs::add(transaction, &HashMap::from([(user, (key, -1))])).await?;
        return Ok(None);
    };
    entry.rev = Rev::from_i64(revs.get(user.as_str()).copied().unwrap_or(0) + 1);
    entry.removed = true;
    let key = key.to_bytes();
    let args = values![entry.rev, &key, user, &id];
    transaction.execute(SET_REMOVED, &args).await?;
    Ok(Some(entry))
}

/// In a write transaction: sets what the user decides about their own entry.
///
/// # Errors
/// [`Error::NotFound`] when there is no such entry.
pub async fn set_flags(
    transaction: &mut OwnedTransaction<'_>,
    (key, user): (UserKey, &UserId),
    id: ConversationId,
    (pinned, muted): (Option<bool>, Option<bool>),
) -> Result<Entry> {
    let revs = user_revs::add(transaction, &HashMap::from([(user, (key, 1))])).await?;
    let entry = one(transaction, (key, user), id)
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
    transaction.execute(SET_FLAGS, &args).await?;
    Ok(entry)
}
