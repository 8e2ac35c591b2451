//! Which messages of a conversation are pinned.
//!
//! A message says itself that it is pinned, in its row or its line of the archive ([`StoredMessage::pin`]): so pages, sync, the
//! archive, exports and moves have it, and pinning takes a rev like every other change. The table `pins` only finds these
//! messages, in whatever tier they are: a row for each, written in the transaction that changes the message. It is made again
//! from the messages where they come from elsewhere: from an export, or from the archive when the databases are lost.
//!
//! A page of pins is read as of one moment out of both tiers, like a [stretch] whose messages are far apart;
//! the archive is read after the connection was given back. A row whose message does not say that it is pinned shows nothing.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::archive::{Copies, Newest, Plan};
use crate::cold_tier::ColdTier;
use crate::db::{Connection, Row, Value, pad, placeholders, values};
use crate::error::{Error, Result};
use crate::head;
use crate::history::{self, Access};
use crate::ids::{ConversationId, MessageId, Seq, UserId};
use crate::map::Assignment;
use crate::member::Progress;
use crate::message::{self, MessageRow as _, Shown, StoredMessage, message_columns};
use crate::model::PinList;
use crate::node::Shard;
use crate::owned::{OwnedReader, OwnedTransaction};
use crate::stretch;

/// Most messages in a page. Each that is archived takes a look-up in the index.
pub const PAGE_MAX: u32 = 100;

/// How often archived messages are read because what the index named was gone a moment later.
const ATTEMPTS: usize = 4;

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
const ARCHIVED: &str = "SELECT p.seq FROM pins p WHERE p.conversation_id = ? AND p.seq BETWEEN ? AND ? \
     AND NOT EXISTS (SELECT 1 FROM messages h WHERE h.conversation_id = p.conversation_id AND h.seq = p.seq)";
/// By the primary key, backwards.
const BEFORE: &str =
    "SELECT seq FROM pins WHERE conversation_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
/// By the primary key.
const HOT: &str = concat!(
    "SELECT ",
    message_columns!(shown),
    " FROM messages WHERE conversation_id = ? AND seq IN ("
);

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

/// A page of pinned messages.
#[derive(Clone, Copy, Debug)]
pub struct PinsPage {
    /// Those before this one.
    pub before: Option<Seq>,
    /// At most so many, and [`PAGE_MAX`].
    pub limit: u32,
    /// About so many bytes of them; one is given even when it is larger.
    pub bytes: usize,
}

impl PinsPage {
    /// From the cursor of the page before.
    ///
    /// # Errors
    /// When it is not one that a page gave.
    pub fn parse_cursor(cursor: &str) -> Result<Seq> {
        let seq = cursor.parse().ok().filter(|seq: &Seq| seq.0 > 0);
        seq.ok_or_else(|| Error::invalid("cursor", "pass the `nextCursor` of the page before"))
    }
}

/// Where the messages of a page are, as of one moment.
struct Look {
    hot: Vec<Shown>,
    plan: Plan,
    /// The next page is before this one, if there is one.
    next: Option<Seq>,
}

/// The pinned messages of a conversation as `user` may see them, out of both tiers, the newest message first.
///
/// # Errors
/// [`Error::NotMember`], [`Error::NotOwner`]; [`Error::ArchiveUnavailable`] or [`Error::ArchiveDamaged`] when all of the page is
/// archived and cannot be read.
pub async fn page(
    (shard, assignment, cold): (&Shard, &Assignment, &dyn ColdTier),
    (id, user): (ConversationId, &UserId),
    page: PinsPage,
    deadline: Instant,
) -> Result<PinList> {
    let (mut rows, access) = history::access(shard, assignment, (id, user), deadline).await?;
    let progress = history::progress(&mut rows, id, (access.kind, &access.latest_senders)).await?;
    let mut look = page.look(&mut rows, id, &access).await?;
    drop(rows); // the archive may take its time
    for _ in 0..ATTEMPTS {
        let reads = cold.read(id, &look.plan.parts(), deadline).await;
        let newest = look.plan.newest(reads)?;
        let is_damaged = matches!(newest.failure, Some(Error::ArchiveDamaged(_)));
        if newest.lost.is_empty() || !is_damaged {
            return page.finish(id, look, newest, (&access, &progress));
        }
        let mut rows = shard.read(assignment, deadline).await?;
        let again = page.look(&mut rows, id, &access).await?;
        if again.plan == look.plan {
            newest.failure.iter().for_each(stretch::report_damage);
            return page.finish(id, again, newest, (&access, &progress));
        }
        look = again;
    }
    Err(Error::ArchiveUnavailable) // written anew each time
}

impl PinsPage {
    /// Both tiers as of one moment. Messages that were sent after the membership was read are left out (INV-MEMBER).
    async fn look(
        &self,
        rows: &mut OwnedReader<'_>,
        id: ConversationId,
        access: &Access,
    ) -> Result<Look> {
        let limit = self.limit.clamp(1, PAGE_MAX) as usize;
        let end = access.head_seq.next();
        let before = self.before.map_or(end, |before| before.min(end));
        let count = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        rows.begin_snapshot().await?;
        let found = rows.fetch_all(BEFORE, &values![&id, before, count]).await?;
        let seqs = found.iter().map(|row| row.int(0).map(Seq::from_i64));
        let mut seqs: Vec<Seq> = seqs.collect::<Result<_>>()?;
        let has_more = seqs.len() > limit;
        seqs.truncate(limit);
        let mut next = seqs.last().copied().filter(|_| has_more);
        let (hot, cut) = self.hot(rows, id, &seqs).await?;
        if let Some(cut) = cut {
            seqs.retain(|seq| *seq >= cut);
            next = Some(cut);
        }
        let mut wanted: BTreeSet<Seq> = seqs.into_iter().collect();
        for message in &hot {
            wanted.remove(&message.seq());
        }
        let mut copies = Copies::default();
        for seq in &wanted {
            copies.extend(Copies::find(rows, id, (*seq, *seq)).await?);
        }
        let is_there = head::is_there(rows, id).await?;
        rows.commit().await?;
        let plan = copies.plan(&wanted);
        match plan.nowhere().first() {
            _ if !is_there => Err(Error::NotMember),
            Some(seq) => Err(message::nowhere(id, *seq)),
            None => Ok(Look { hot, plan, next }),
        }
    }

    /// The hot rows of these, newest first, as many as there is room for; and the last of them where there are more.
    async fn hot(
        &self,
        rows: &mut OwnedReader<'_>,
        id: ConversationId,
        seqs: &[Seq],
    ) -> Result<(Vec<Shown>, Option<Seq>)> {
        if seqs.is_empty() {
            return Ok((Vec::new(), None));
        }
        let mut args: Vec<Value<'_>> = seqs.iter().map(|seq| Value::from(*seq)).collect();
        pad(&mut args);
        let statement = format!("{HOT}{}) ORDER BY seq DESC", placeholders(args.len()));
        args.insert(0, Value::from(&id));
        let (mut hot, mut bytes, mut cut) = (Vec::new(), 0, None);
        let take = |row: Row| {
            let message = Shown::read(&mut row.columns())?;
            bytes += message.shown_bytes();
            if bytes > self.bytes && !hot.is_empty() {
                cut = hot.last().map(Shown::seq);
                return Ok(ControlFlow::Break(()));
            }
            hot.push(message);
            Ok(ControlFlow::Continue(()))
        };
        rows.fetch_while(&statement, &args, take).await?;
        Ok((hot, cut))
    }

    fn finish(
        &self,
        id: ConversationId,
        look: Look,
        newest: Newest,
        (access, progress): (&Access, &Progress),
    ) -> Result<PinList> {
        let Look {
            mut hot, mut next, ..
        } = look;
        hot.extend(newest.messages.into_values().map(Shown::from));
        hot.sort_unstable_by_key(|message| std::cmp::Reverse(message.seq()));
        let (mut bytes, mut fitting) = (0, 0);
        for message in &hot {
            bytes += message.shown_bytes();
            if bytes > self.bytes && fitting > 0 {
                break;
            }
            fitting += 1;
        }
        let mut lost = newest.lost;
        if fitting < hot.len() {
            let last = hot[fitting - 1].seq();
            hot.truncate(fitting);
            lost.retain(|seq| *seq > last);
            next = Some(last);
        }
        if let Some(error) = newest
            .failure
            .filter(|_| hot.is_empty() && !lost.is_empty())
        {
            return Err(error);
        }
        let conversation = id;
        let lost = lost.into_iter().rev();
        let pinned = hot.into_iter().filter(Shown::is_pinned);
        Ok(PinList {
            messages: pinned
                .map(|shown| {
                    let status = progress.status(shown.sender(), shown.seq());
                    shown.into_message(id, status)
                })
                .collect(),
            rev: access.rev,
            archive_unavailable: lost.map(|seq| MessageId { conversation, seq }).collect(),
            next_cursor: next.map(|seq| seq.to_string()),
        })
    }
}
