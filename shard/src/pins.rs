//! Which messages of a conversation are pinned.
//!
//! A message says itself that it is pinned, in its row or its line of the archive ([`StoredMessage::pin`]): so pages, sync, the
//! archive, exports and moves have it, and pinning takes a rev like every other change. The table `pins` only finds these
//! messages, in whatever tier they are: a row for each, written in the transaction that changes the message. It is made again
//! from the messages where they come from elsewhere: from an export, or from the archive when the databases are lost.
//!
//! A row whose message does not say that it is pinned shows nothing.

use std::time::Instant;

use crate::cold_tier::ColdTier;
use crate::db::{Connection, values};
use crate::error::Result;
use crate::history;
use crate::ids::{ConversationId, Seq, UserId};
use crate::map::Assignment;
use crate::message::StoredMessage;
use crate::model::{Message, PinList};
use crate::node::Shard;
use crate::owned::{OwnedReader, OwnedTransaction};
use crate::scattered::{self, Order, Wanted};

/// By the primary key.
const PUT: &str = "INSERT INTO pins (conversation_id, seq) VALUES (?, ?) \
     {on_duplicate conversation_id, seq} seq = {new seq}";
/// By the primary key.
const REMOVE: &str = "DELETE FROM pins WHERE conversation_id = ? AND seq = ?";
/// By the primary key.
const COUNT: &str = "SELECT COUNT(*) FROM pins WHERE conversation_id = ?";
/// By the primary key.
const REMOVE_ALL: &str = "DELETE FROM pins WHERE conversation_id = ?";
/// By the primary keys of both tables.
const ARCHIVED: &str = "SELECT p.seq FROM pins p {by PRIMARY} WHERE p.conversation_id = ? AND p.seq BETWEEN ? AND ? \
     AND NOT EXISTS (SELECT 1 FROM messages h WHERE h.conversation_id = p.conversation_id AND h.seq = p.seq)";
/// By the primary key, backwards.
const BEFORE: &str =
    "SELECT seq FROM pins WHERE conversation_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
/// In the transaction that writes `message`: the table says of it what it says itself.
///
/// # Errors
/// When the database fails.
pub async fn follow(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    message: &StoredMessage,
) -> Result<()> {
    rows.require_conversations([conversation])?;
    let statement = match message.pin {
        Some(_) => PUT,
        None => REMOVE,
    };
    let args = values![&conversation, message.seq];
    rows.execute(statement, &args).await.map(drop)
}

/// How many messages of a conversation are pinned.
///
/// # Errors
/// When the database fails.
pub(crate) async fn count(rows: &mut OwnedReader<'_>, id: ConversationId) -> Result<usize> {
    let row = rows.fetch_optional(COUNT, &values![&id]).await?;
    let count = row.map_or(Ok(0), |row| row.int(0))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// In a job's transaction: a deleted conversation has no pins.
///
/// # Errors
/// When the database fails.
pub async fn remove_all(connection: &mut Connection, conversation: ConversationId) -> Result<()> {
    let args = values![&conversation];
    connection.execute(REMOVE_ALL, &args).await.map(drop)
}

/// In the transaction of a job that is about to drop archived messages from `first` to `last`: those that are not hot are not
/// pinned any more.
///
/// # Errors
/// When the database fails.
pub async fn remove_archived(
    rows: &mut OwnedTransaction<'_>,
    conversation: ConversationId,
    (first, last): (Seq, Seq),
) -> Result<()> {
    let args = values![&conversation, first, last];
    for row in rows.fetch_all(ARCHIVED, &args).await? {
        let args = values![&conversation, row.int(0)?];
        rows.execute(REMOVE, &args).await?;
    }
    Ok(())
}

/// The pinned messages of a conversation as `user` may see them, out of both tiers, the newest message first: those before
/// `before`, at most `limit`, and about so many bytes of them.
///
/// # Errors
/// As [`scattered::read`], [`crate::error::Error::NotMember`], [`crate::error::Error::NotOwner`]; an error of the archive when all of the page is
/// archived and cannot be read.
pub(crate) async fn page(
    tiers: (&Shard, &Assignment, &dyn ColdTier),
    (id, user): (ConversationId, &UserId),
    (before, limit, bytes): (Option<Seq>, u32, usize),
    deadline: Instant,
) -> Result<PinList> {
    let (shard, assignment, _) = tiers;
    let (rows, access) = history::access(shard, assignment, (id, user), deadline).await?;
    let end = access.head_seq.next();
    let before = before.map_or(end, |before| before.min(end));
    let wanted = Wanted {
        statement: BEFORE,
        args: values![&id, before].to_vec(),
        order: Order::NewestFirst,
        limit,
        bytes,
    };
    let found = scattered::read(rows, tiers, (id, &access), &wanted, deadline).await?;
    let is_pinned = |message: &Message| message.pinned_at.is_some();
    Ok(PinList {
        messages: found.messages.into_iter().filter(is_pinned).collect(),
        rev: access.rev,
        archive_unavailable: found.lost,
        next_cursor: found.next.map(|seq| seq.to_string()),
    })
}
