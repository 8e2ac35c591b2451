//! Taking in what an export has. Everything is done in transactions that may be repeated: a row that is there as it comes is
//! left, one that is there in another version gives way to the newer one.

use std::collections::{BTreeMap, HashMap};

use super::{DumpRow, Part, Taken, exported};
use crate::archive::{self, RUN_MAX};
use crate::db::values;
use crate::error::{Error, Result};
use crate::head::{self, Head};
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::mentions;
use crate::message::{self, Cut, Room, StoredMessage};
use crate::model::Timestamp;
use crate::moves::rows::{self, Cell, Record};
use crate::moves::scope::Scope;
use crate::moves::tables::{Owner, Table};
use crate::owned::{Entity, OwnedTransaction};
use crate::pins;
use crate::settings::StoreSettings;
use crate::threads;

/// By the primary key.
const COPIED: &str = "SELECT rev, head_rev FROM copied_conversations WHERE conversation_id = ?";
const SET_COPIED: &str = "INSERT INTO copied_conversations (conversation_id, rev, head_rev) VALUES (?, ?, ?) \
     {on_duplicate conversation_id} rev = {new rev}, head_rev = {new head_rev}";
/// By the primary key.
const NEWEST_HOT: &str =
    "SELECT seq FROM messages WHERE conversation_id = ? ORDER BY seq DESC LIMIT 1";
/// By the primary key.
const OLDEST_HOT: &str =
    "SELECT created_at FROM messages WHERE conversation_id = ? ORDER BY seq LIMIT 1";
/// By the index `messages_rev`.
const GREATEST_REV: &str =
    "SELECT MAX(rev) FROM messages {by messages_rev} WHERE conversation_id = ?";

/// Rows of a conversation without a head that are deleted in one statement.
const DELETED_ROWS: usize = 1024;

const NOT_COPIED: &str = "a conversation with this id is here that no export has brought";
const DELETED: &str = "it was deleted here";
const CHANGED: &str = "it was changed here since it was imported";
const OTHER_MESSAGE: Error =
    Error::Conflict("a message with the same number is here that is another one");
const NOT_WHOLE: Error = Error::Conflict(
    "messages of it are missing: this export has only what was changed since a time; import the one that it follows first",
);

/// What is here of a conversation.
enum Here {
    /// No head: nothing, or a part.
    Begun,
    /// All that an export had; what is newer may be added to it.
    Whole(Box<Head>),
    /// All of this export, or more.
    Found,
    /// Another log.
    Other(&'static str),
}

async fn look(rows: &mut OwnedTransaction<'_>, part: &Part) -> Result<Here> {
    let Some(head) = head::lock(rows, &[part.id]).await?.pop() else {
        return Ok(Here::Begun);
    };
    let Some(copied) = rows.fetch_optional(COPIED, &values![&part.id]).await? else {
        return Ok(Here::Other(NOT_COPIED));
    };
    let (rev, head_rev) = (Rev::from_i64(copied.int(0)?), Rev::from_i64(copied.int(1)?));
    Ok(match (part.rev <= rev, head.rev == head_rev) {
        _ if head.deleted_at.is_some() => Here::Other(DELETED),
        (_, true) if part.rev > rev => Here::Whole(Box::new(head)),
        (true, _) => Here::Found,
        (false, _) => Here::Other(CHANGED),
    })
}

/// In a transaction on a conversation: takes a part of it.
///
/// # Errors
/// [`Error::Conflict`] when it is here as another one, or does not become whole; when the database fails.
pub(crate) async fn take(
    transaction: &mut OwnedTransaction<'_>,
    part: &Part,
    settings: &StoreSettings,
) -> Result<Taken> {
    let head = match look(transaction, part).await? {
        Here::Begun => None,
        Here::Whole(head) => Some(*head),
        Here::Found => return Ok(Taken::default()),
        Here::Other(why) => {
            let refused = Some(why);
            return Ok(Taken {
                refused,
                ..Taken::default()
            });
        }
    };
    let mut taken = Taken::default();
    transaction.require_conversations([part.id])?;
    taken.rows += merge_rows(transaction, part.rows.iter().collect()).await?;
    if let Some(last) = part.dropped.filter(|_| head.is_none()) {
        drop_up_to(transaction, part.id, last).await?;
    }
    let end = head.as_ref().map(|head| head.head_seq);
    taken.messages += take_messages(transaction, part, end, settings).await?;
    if let Some(row) = &part.head {
        finish(transaction, part, (row, end)).await?;
    }
    Ok(taken)
}

/// Stores messages that are not here, and replaces those that are older here. `end` is the newest message of a conversation
/// that was whole.
async fn take_messages(
    transaction: &mut OwnedTransaction<'_>,
    part: &Part,
    end: Option<Seq>,
    settings: &StoreSettings,
) -> Result<u64> {
    let (Some(first), Some(last)) = (part.messages.first(), part.messages.last()) else {
        return Ok(0);
    };
    let newest = transaction
        .fetch_optional(NEWEST_HOT, &values![&part.id])
        .await?;
    let newest = newest.map(|row| row.int(0)).transpose()?.map(Seq::from_i64);
    let mut here: HashMap<Seq, StoredMessage> = HashMap::new();
    if newest.is_some_and(|newest| newest >= first.seq) {
        let range = (first.seq, last.seq);
        let room = Room::of_all(range);
        let found: Cut<StoredMessage> = message::rows(transaction, part.id, range, room).await?;
        here.extend(
            found
                .messages
                .into_iter()
                .map(|message| (message.seq, message)),
        );
    }
    // Repeats of sends are recognised as long as they were before; older client ids only stay with their messages (INV-IDEM).
    let window = Timestamp::now().minus(settings.limits.idempotency.0);
    let (mut new, mut old) = (Vec::new(), Vec::new());
    let mut replaced = 0;
    for message in &part.messages {
        match here.get(&message.seq) {
            Some(stored) if !is_same(stored, message) => return Err(OTHER_MESSAGE),
            Some(stored) if stored.rev >= message.rev => {}
            Some(stored) => {
                message::update(transaction, part.id, message).await?;
                let mut gone = message::stored_mentions(stored.mentions.as_deref());
                let kept = message::stored_mentions(message.mentions.as_deref());
                gone.retain(|user| !kept.contains(user));
                mentions::remove(transaction, (part.id, message.seq), &gone).await?;
                pins::follow(transaction, part.id, message).await?;
                threads::follow(transaction, part.id, message).await?;
                replaced += 1;
            }
            None => {
                let is_archived = end.is_some_and(|end| message.seq <= end);
                let keeps_id = message.client_msg_id.is_none() || message.created_at >= window;
                match keeps_id && !is_archived {
                    true => new.push((part.id, message.clone())),
                    false => old.push((part.id, message.clone())),
                }
            }
        }
        if end.is_some() && message.deleted_at.is_some() {
            archive::erase_message(transaction, part.id, message.seq).await?;
            mentions::remove_one(transaction, part.id, message.seq).await?;
        }
    }
    message::insert(transaction, &new).await?;
    message::insert_again(transaction, &old).await?;
    let mut unknown = Vec::new();
    for (id, message) in new.iter().chain(&old) {
        let is_archived = end.is_some_and(|end| message.seq <= end);
        if message.pin.is_some() || is_archived {
            pins::follow(transaction, *id, message).await?;
        }
        match is_archived {
            true => threads::follow(transaction, *id, message).await?,
            false => unknown.push((*id, message)),
        }
    }
    threads::insert_of(transaction, unknown.into_iter()).await?;
    Ok(replaced + (new.len() + old.len()) as u64)
}

/// Whether two rows are versions of one message.
fn is_same(one: &StoredMessage, other: &StoredMessage) -> bool {
    one.sender == other.sender
        && one.created_at == other.created_at
        && one.client_msg_id == other.client_msg_id
}

/// Puts down that the messages up to `last` were dropped, as retention does.
async fn drop_up_to(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    last: Seq,
) -> Result<()> {
    let Some(table) = Table::named("archive_runs") else {
        return Ok(());
    };
    let mut runs = Vec::new();
    let mut first = archive::last_dropped(transaction, id).await?.next();
    while first <= last {
        let end = Seq((first.0 + RUN_MAX - 1).min(last.0));
        let cell = |(name, _): &(&str, _)| match *name {
            "conversation_id" => Cell::Bytes(id.as_bytes().to_vec()),
            "first_seq" => Cell::Int(first.as_i64()),
            "last_seq" => Cell::Int(end.as_i64()),
            "segment" | "first_rev" => Cell::Null,
            _ => Cell::Int(0),
        };
        runs.push(Record::new(table.columns.iter().map(cell).collect()));
        first = end.next();
    }
    rows::insert(transaction, table, &runs.iter().collect::<Vec<_>>()).await
}

/// With the head, the conversation is there. `end` is its newest message before, when it was whole.
async fn finish(
    transaction: &mut OwnedTransaction<'_>,
    part: &Part,
    (row, end): (&DumpRow, Option<Seq>),
) -> Result<()> {
    let id = part.id;
    let head_seq = Seq::from_i64(row.int("head_seq").unwrap_or(0));
    let dropped = archive::last_dropped(transaction, id).await?;
    let first = end.unwrap_or(Seq(0)).max(dropped).next();
    let expected = (head_seq.0 + 1).saturating_sub(first.0);
    if archive::hot_count(transaction, id, (first, head_seq)).await? < expected {
        return Err(NOT_WHOLE);
    }
    let mut numbers = [None; 2];
    for (number, statement) in numbers.iter_mut().zip([GREATEST_REV, OLDEST_HOT]) {
        let found = transaction.fetch_optional(statement, &values![&id]).await?;
        *number = found.map_or(Ok(None), |row| row.opt_int(0))?;
    }
    let [greatest, oldest] = numbers;
    // A message may have been changed while the export was written.
    let rev = row.int("rev").max(greatest).unwrap_or(0);
    let is_threaded = threads::any(transaction, id).await?;
    let mut row = row.clone();
    if is_threaded {
        row.set("threaded", Cell::Int(1));
    }
    row.set("rev", Cell::Int(rev));
    row.set("oldest_hot_at", oldest.map_or(Cell::Null, Cell::Int));
    let key = row.record.key(row.table);
    rows::delete(transaction, row.table, &[key]).await?;
    rows::insert(transaction, row.table, &[&row.record]).await?;
    let args = values![&id, part.rev, rev];
    transaction.execute(SET_COPIED, &args).await.map(drop)
}

/// In a transaction on users: takes rows of theirs. Gives how many were stored or replaced.
///
/// # Errors
/// When the database fails.
pub(crate) async fn take_users(
    transaction: &mut OwnedTransaction<'_>,
    users: &[&UserId],
    rows: &[&DumpRow],
) -> Result<u64> {
    transaction.require_users(users.iter().copied())?;
    merge_rows(transaction, rows.to_vec()).await
}

async fn merge_rows(transaction: &mut OwnedTransaction<'_>, all: Vec<&DumpRow>) -> Result<u64> {
    let mut tables: BTreeMap<&str, (&'static Table, Vec<&Record>)> = BTreeMap::new();
    for row in all {
        let of = tables
            .entry(row.table.name)
            .or_insert((row.table, Vec::new()));
        of.1.push(&row.record);
    }
    let mut written = 0;
    for (table, records) in tables.into_values() {
        let keys: Vec<&[Cell]> = records.iter().map(|record| record.key(table)).collect();
        let here = rows::read_keys(transaction, table, &keys).await?;
        let here: HashMap<&[Cell], &Record> = here
            .iter()
            .map(|record| (record.key(table), record))
            .collect();
        let merged: Vec<Record> = records
            .iter()
            .filter_map(|theirs| match here.get(theirs.key(table)) {
                None => Some((*theirs).clone()),
                Some(ours) => {
                    let merged = merge(table, ours, theirs);
                    (merged != **ours).then_some(merged)
                }
            })
            .collect();
        let replaced: Vec<&[Cell]> = merged.iter().map(|record| record.key(table)).collect();
        let replaced: Vec<&[Cell]> = replaced
            .into_iter()
            .filter(|key| here.contains_key(key))
            .collect();
        rows::delete(transaction, table, &replaced).await?;
        rows::insert(transaction, table, &merged.iter().collect::<Vec<_>>()).await?;
        written += merged.len() as u64;
    }
    Ok(written)
}

/// Of two versions of a row the newer one: by its rev where it has one, by what only grows where it has that; else theirs.
fn merge(table: &Table, ours: &Record, theirs: &Record) -> Record {
    let orders: &[&str] = match table.name {
        "members" | "users" | "list_entries" => &["rev"],
        "notification_heads" => &["head"],
        "last_seen" => &["at"],
        _ => &[],
    };
    let grows: &[&str] = match table.name {
        "members" => &["read_seq", "delivered_seq"],
        _ => &[],
    };
    let place = |name: &&str| table.columns.iter().position(|(column, _)| column == name);
    let is_older = |column: usize| theirs.cell(column) < ours.cell(column);
    let keeps_ours = orders.iter().filter_map(place).any(is_older);
    let mut merged = if keeps_ours {
        ours.clone()
    } else {
        theirs.clone()
    };
    for column in grows.iter().filter_map(place) {
        merged.set(column, ours.cell(column).max(theirs.cell(column)).clone());
    }
    merged
}

/// In a transaction on a conversation: it was deleted where it came from. Whole, it is deleted here as well, by the same way;
/// a part of it is removed, `false` when more is left of it.
///
/// # Errors
/// When the database fails.
pub(crate) async fn delete_copy(
    transaction: &mut OwnedTransaction<'_>,
    id: ConversationId,
    at: Timestamp,
) -> Result<bool> {
    transaction.require_conversations([id])?;
    let Some(mut head) = head::lock(transaction, &[id]).await?.pop() else {
        return delete_part(transaction, id).await;
    };
    let copied = transaction.fetch_optional(COPIED, &values![&id]).await?;
    if head.deleted_at.is_some() || copied.is_none() || archive::is_held(transaction, id).await? {
        return Ok(true);
    }
    head.deleted_at = Some(at);
    archive::request_erasure(transaction, id, Seq(0), at).await?;
    head.next_rev();
    head.marked = true;
    head::save(transaction, &[&head]).await?;
    Ok(true)
}

async fn delete_part(transaction: &mut OwnedTransaction<'_>, id: ConversationId) -> Result<bool> {
    let scope = Scope::entity(&Entity::Conversation(id));
    let others = ["messages", "pins", "replies", "threads", "archive_runs"].map(Table::named);
    for table in exported(Owner::Conversation).chain(others.into_iter().flatten()) {
        let found = rows::read(transaction, table, &scope, None, DELETED_ROWS).await?;
        let keys: Vec<&[Cell]> = found.iter().map(|record| record.key(table)).collect();
        rows::delete(transaction, table, &keys).await?;
        if found.len() == DELETED_ROWS {
            return Ok(false);
        }
    }
    Ok(true)
}
