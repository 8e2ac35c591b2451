//! Threads: the replies of a message, their number, and when the newest was sent.
//!
//! A message says itself which one it answers ([`StoredMessage::reply_to`]), so pages, sync, the archive, exports and moves have
//! it. Two tables are made from that, in the transaction that inserts or deletes the reply: `replies` finds the replies of a
//! message, in whatever tier they are, and `threads` has a row for each message that is answered, with what is shown of its
//! replies. So the answered message is not touched: it may be archived, and nothing is read of the archive to answer it.
//!
//! Deleted replies do not count. The number takes no rev of its own: each reply that comes or goes has one, and carries the
//! [`Thread`] that it belongs to, so whoever has all changes has the number ([`attach`]).
//!
//! A conversation without replies costs no statement: its head says so.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::cold_tier::ColdTier;
use crate::db::{Connection, Row, Value, WRITE_ROWS, in_rows, padded, rows_of, values};
use crate::error::{Error, Result};
use crate::history;
use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::map::Assignment;
use crate::message::StoredMessage;
use crate::model::{Message, ReplyList, Thread, Timestamp};
use crate::node::Shard;
use crate::owned::{OwnedReader, OwnedTransaction};
use crate::scattered::{self, Order, Wanted};

/// Messages whose threads one statement reads.
const AT_ONCE: usize = 500;

/// By the primary key.
const SELECT: &str =
    "SELECT conversation_id, root, replies, last_at FROM threads {by PRIMARY} WHERE ";
/// By the primary key.
const SAVE: &str = "INSERT INTO threads (conversation_id, root, replies, last_at) VALUES ";
const SAVE_UPDATE: &str =
    " {on_duplicate conversation_id, root} replies = {new replies}, last_at = {new last_at}";
/// By the primary key.
const END: &str = "DELETE FROM threads WHERE conversation_id = ? AND root = ?";
/// By the primary key.
const INSERT: &str = "INSERT INTO replies (conversation_id, root, seq, sent_at) VALUES ";
const INSERT_AGAIN: &str = " {on_duplicate conversation_id, root, seq} sent_at = {new sent_at}";
/// By the primary key.
const IS_THERE: &str = "SELECT 1 FROM replies WHERE conversation_id = ? AND root = ? AND seq = ?";
/// By the primary key.
const REMOVE: &str = "DELETE FROM replies WHERE conversation_id = ? AND root = ? AND seq = ?";
/// By the primary key, backwards.
const NEWEST: &str = "SELECT sent_at FROM replies WHERE conversation_id = ? AND root = ? \
     ORDER BY seq DESC LIMIT 1";
/// By the primary key.
const ANY: &str = "SELECT 1 FROM threads WHERE conversation_id = ? LIMIT 1";
/// By the primary key. What answers a message comes after it, so nothing is left of the replies before it either.
const REMOVE_UP_TO: [&str; 2] = [
    "DELETE FROM replies WHERE conversation_id = ? AND root <= ?",
    "DELETE FROM threads WHERE conversation_id = ? AND root <= ?",
];
/// By the primary key.
const NOTE: &str = "UPDATE conversations SET threaded = 1 WHERE id = ? AND threaded IS NULL";
/// By the primary key.
const RANGE: &str = "SELECT conversation_id, root, replies, last_at FROM threads \
     WHERE conversation_id = ? AND root BETWEEN ? AND ?";
/// By the primary key.
const AFTER: &str = "SELECT seq FROM replies WHERE conversation_id = ? AND root = ? AND seq > ? \
     ORDER BY seq LIMIT ?";

/// A reply that is to be inserted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewReply {
    pub(crate) conversation: ConversationId,
    /// The message that it answers.
    pub(crate) root: Seq,
    pub(crate) seq: Seq,
    pub(crate) sent_at: Timestamp,
}

/// What answered messages show of their replies; those that nothing answers are not in it.
pub(crate) type Threads = HashMap<(ConversationId, Seq), Thread>;

impl Thread {
    /// Takes in a reply that is newer than all others.
    pub(crate) fn add(&mut self, sent_at: Timestamp) {
        self.reply_count += 1;
        self.last_reply_at = Some(sent_at);
    }
}

/// The threads of messages; no statement for no messages. Before a write, the head is to be locked.
///
/// # Errors
/// When the database fails.
pub(crate) async fn read(
    rows: &mut OwnedReader<'_>,
    roots: &BTreeSet<(ConversationId, Seq)>,
) -> Result<Threads> {
    let roots: Vec<(ConversationId, Seq)> = roots.iter().copied().collect();
    let mut threads = Threads::new();
    for chunk in roots.chunks(AT_ONCE) {
        let args: Vec<Value<'_>> = padded(chunk)
            .flat_map(|(id, seq)| values![id, *seq])
            .collect();
        let condition = in_rows(["conversation_id", "root"], args.len() / 2);
        let found = rows
            .fetch_all(&format!("{SELECT}{condition}"), &args)
            .await?;
        for row in found {
            let (key, thread) = thread_of(&row)?;
            threads.insert(key, thread);
        }
    }
    Ok(threads)
}

fn thread_of(row: &Row) -> Result<((ConversationId, Seq), Thread)> {
    let mut columns = row.columns();
    let key = (columns.conversation()?, Seq::from_i64(columns.int()?));
    let thread = Thread {
        reply_count: u64::try_from(columns.int()?).unwrap_or(0),
        last_reply_at: Some(Timestamp(columns.int()?)),
    };
    Ok((key, thread))
}

/// In the transaction that inserts these replies, with the head locked: `threads` has what their threads are with them.
///
/// # Errors
/// When the database fails.
pub(crate) async fn insert(
    rows: &mut OwnedTransaction<'_>,
    replies: &[NewReply],
    threads: &Threads,
) -> Result<()> {
    rows.require_conversations(replies.iter().map(|reply| reply.conversation))?;
    for chunk in replies.chunks(WRITE_ROWS) {
        let args: Vec<Value<'_>> = padded(chunk)
            .flat_map(|it| values![&it.conversation, it.root, it.seq, it.sent_at.0])
            .collect();
        let statement = format!("{INSERT}{}{INSERT_AGAIN}", rows_of(args.len() / 4, 4));
        rows.execute(&statement, &args).await?;
    }
    let roots = replies.iter().map(|reply| (reply.conversation, reply.root));
    let roots: BTreeSet<(ConversationId, Seq)> = roots.collect();
    let changed: Vec<(ConversationId, Seq, &Thread)> = roots
        .into_iter()
        .filter_map(|root| Some((root.0, root.1, threads.get(&root)?)))
        .collect();
    for chunk in changed.chunks(WRITE_ROWS) {
        let args: Vec<Value<'_>> = padded(chunk)
            .flat_map(|(id, root, thread)| {
                let count = i64::try_from(thread.reply_count).unwrap_or(i64::MAX);
                values![id, *root, count, thread.last_reply_at.unwrap_or_default().0]
            })
            .collect();
        let statement = format!("{SAVE}{}{SAVE_UPDATE}", rows_of(args.len() / 4, 4));
        rows.execute(&statement, &args).await?;
    }
    Ok(())
}

/// In the transaction that inserts these messages, none of which is there, with the heads locked: their threads follow.
///
/// # Errors
/// When the database fails.
pub(crate) async fn insert_of(
    rows: &mut OwnedTransaction<'_>,
    messages: impl Iterator<Item = (ConversationId, &StoredMessage)>,
) -> Result<()> {
    let replies = messages.filter_map(|(conversation, message)| {
        let root = message.reply_to.filter(|_| message.deleted_at.is_none())?;
        Some(NewReply {
            conversation,
            root,
            seq: message.seq,
            sent_at: message.created_at,
        })
    });
    let replies: Vec<NewReply> = replies.collect();
    let roots = replies.iter().map(|reply| (reply.conversation, reply.root));
    let mut threads = read(rows, &roots.collect()).await?;
    for reply in &replies {
        let thread = threads.entry((reply.conversation, reply.root)).or_default();
        thread.add(reply.sent_at);
    }
    insert(rows, &replies, &threads).await
}

/// In the transaction that writes `message`, with the head locked: the tables say of it what it says itself.
///
/// # Errors
/// When the database fails.
pub async fn follow(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    message: &StoredMessage,
) -> Result<()> {
    let Some(root) = message.reply_to else {
        return Ok(());
    };
    rows.require_conversations([conversation])?;
    let key = values![&conversation, root, message.seq];
    let is_there = rows.fetch_optional(IS_THERE, &key).await?.is_some();
    if message.deleted_at.is_none() == is_there {
        return Ok(());
    }
    let mut threads = read(rows, &[(conversation, root)].into()).await?;
    let thread = threads.entry((conversation, root)).or_default();
    if is_there {
        rows.execute(REMOVE, &key).await?;
        thread.reply_count = thread.reply_count.saturating_sub(1);
    } else {
        let reply = NewReply {
            conversation,
            root,
            seq: message.seq,
            sent_at: message.created_at,
        };
        thread.reply_count += 1;
        insert(rows, &[reply], &Threads::new()).await?;
    }
    let newest = rows
        .fetch_optional(NEWEST, &values![&conversation, root])
        .await?;
    let Some(newest) = newest else {
        let args = values![&conversation, root];
        return rows.execute(END, &args).await.map(drop);
    };
    let count = i64::try_from(thread.reply_count).unwrap_or(i64::MAX);
    let args = values![&conversation, root, count, newest.int(0)?];
    let statement = format!("{SAVE}{}{SAVE_UPDATE}", rows_of(1, 4));
    rows.execute(&statement, &args).await.map(drop)
}

/// Whether a message of the conversation is answered.
///
/// # Errors
/// When the database fails.
pub(crate) async fn any(rows: &mut OwnedReader<'_>, id: ConversationId) -> Result<bool> {
    let row = rows.fetch_optional(ANY, &values![&id]).await?;
    Ok(row.is_some())
}

/// In a job's transaction: the conversation has replies, whatever its head says.
///
/// # Errors
/// When the database fails.
pub async fn note(connection: &mut Connection, id: ConversationId) -> Result<()> {
    connection.execute(NOTE, &values![&id]).await.map(drop)
}

/// In a job's transaction: the messages up to `last` are no more, or the whole conversation is not.
///
/// # Errors
/// When the database fails.
pub async fn remove_up_to(
    rows: &mut OwnedTransaction<'_>,
    id: ConversationId,
    last: Seq,
) -> Result<()> {
    for statement in REMOVE_UP_TO {
        rows.execute(statement, &values![&id, last]).await?;
    }
    Ok(())
}

/// The threads of messages from `first` to `last`. No statement where the head says that nothing is answered (`is_threaded`).
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_range(
    rows: &mut OwnedReader<'_>,
    (id, is_threaded): (ConversationId, bool),
    (first, last): (Seq, Seq),
) -> Result<Threads> {
    if !is_threaded || first > last {
        return Ok(Threads::new());
    }
    let found = rows.fetch_all(RANGE, &values![&id, first, last]).await?;
    found.iter().map(thread_of).collect()
}

/// Gives messages of a conversation what is shown of their replies, and replies the thread that they are in: for readers that
/// follow changes. No statement where the head says that nothing is answered (`is_threaded`).
///
/// # Errors
/// When the database fails.
pub(crate) async fn attach(
    rows: &mut OwnedReader<'_>,
    (id, is_threaded): (ConversationId, bool),
    messages: &mut [Message],
) -> Result<()> {
    if !is_threaded {
        return Ok(());
    }
    let roots = messages.iter().flat_map(|message| {
        let answered = message.reply_to.map(|root| root.seq);
        [Some(message.seq), answered].into_iter().flatten()
    });
    let threads = read(rows, &roots.map(|seq| (id, seq)).collect()).await?;
    for message in messages {
        show(message, &threads);
        attach_one(message, &threads);
    }
    Ok(())
}

/// Gives a message what is shown of its replies.
pub(crate) fn show(message: &mut Message, threads: &Threads) {
    let own = threads.get(&(message.conversation_id, message.seq));
    let own = own.copied().unwrap_or_default();
    message.reply_count = own.reply_count;
    message.last_reply_at = own.last_reply_at;
}

/// Gives a reply the thread that it is in.
pub(crate) fn attach_one(message: &mut Message, threads: &Threads) {
    let id = message.conversation_id;
    let of = |root: MessageId| threads.get(&(id, root.seq)).copied();
    message.thread = message.reply_to.map(|root| of(root).unwrap_or_default());
}

/// A page of the replies of `root` as `user` may see them, out of both tiers, the oldest first.
///
/// # Errors
/// [`Error::NotFound`] beyond the head, [`Error::NotMember`], [`Error::NotOwner`]; [`Error::ArchiveUnavailable`] or
/// [`Error::ArchiveDamaged`] when all of the page is archived and cannot be read.
pub(crate) async fn page(
    tiers: (&Shard, &Assignment, &dyn ColdTier),
    (root, user): (MessageId, &UserId),
    (after, limit, bytes): (Seq, u32, usize),
    deadline: Instant,
) -> Result<ReplyList> {
    let (shard, assignment, _) = tiers;
    let id = root.conversation;
    let (rows, access) = history::access(shard, assignment, (id, user), deadline).await?;
    if root.seq > access.head_seq {
        return Err(Error::NotFound("message"));
    }
    let wanted = Wanted {
        statement: AFTER,
        args: values![&id, root.seq, after].to_vec(),
        order: Order::OldestFirst,
        limit,
        bytes,
    };
    let found = scattered::read(rows, tiers, (id, &access), &wanted, deadline).await?;
    let is_reply =
        |message: &Message| message.deleted_at.is_none() && message.reply_to == Some(root);
    Ok(ReplyList {
        messages: found.messages.into_iter().filter(is_reply).collect(),
        rev: access.rev,
        archive_unavailable: found.lost,
        next_cursor: found.next.map(|seq| seq.to_string()),
    })
}
