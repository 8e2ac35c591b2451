//! Pages of messages that are far apart in their conversation: those that a table names, such as pins or replies.
//!
//! A page is read as of one moment out of both tiers, like a stretch ([`crate::stretch`]); the archive is read after the
//! connection was given back. What is archived and cannot be read just now is named, never passed over.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::archive::{Copies, Newest, Plan};
use crate::cold_tier::ColdTier;
use crate::db::{Row, Value, pad, placeholders};
use crate::error::{Error, Result};
use crate::head;
use crate::history::{self, Access};
use crate::ids::{ConversationId, MessageId, Seq};
use crate::map::Assignment;
use crate::message::{self, MessageRow as _, Shown, message_columns};
use crate::model::Message;
use crate::node::Shard;
use crate::owned::OwnedReader;
use crate::stretch;
use crate::threads::{self, Threads};

/// Most messages in a page. Each that is archived takes a look-up in the index.
pub(crate) const PAGE_MAX: u32 = 100;

/// How often archived messages are read because what the index named was gone a moment later.
const ATTEMPTS: usize = 4;

/// By the primary key.
const HOT: &str = concat!(
    "SELECT ",
    message_columns!(shown),
    " FROM messages WHERE conversation_id = ? AND seq IN ("
);

/// The order of a page's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    NewestFirst,
    OldestFirst,
}

impl Order {
    fn sql(self) -> &'static str {
        match self {
            Self::NewestFirst => "DESC",
            Self::OldestFirst => "ASC",
        }
    }

    /// Whether the message `one` comes after `other`.
    fn is_after(self, one: Seq, other: Seq) -> bool {
        match self {
            Self::NewestFirst => one < other,
            Self::OldestFirst => one > other,
        }
    }
}

/// Which messages make a page.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Selects their seqs, in the order; its last argument is how many.
    pub(crate) statement: &'static str,
    /// Its other arguments.
    pub(crate) args: Vec<Value<'a>>,
    /// The order of the statement.
    pub(crate) order: Order,
    /// At most so many, and [`PAGE_MAX`].
    pub(crate) limit: u32,
    /// About so many bytes of them; one is given even when it is larger.
    pub(crate) bytes: usize,
}

/// What was found of a page.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) messages: Vec<Message>,
    /// Those that are archived and cannot be read just now.
    pub(crate) lost: Vec<MessageId>,
    /// The next page comes after this one, if there is one.
    pub(crate) next: Option<Seq>,
}

/// From the cursor of the page before.
///
/// # Errors
/// When it is not one that a page gave.
pub(crate) fn parse_cursor(cursor: &str) -> Result<Seq> {
    let seq = cursor.parse().ok().filter(|seq: &Seq| seq.0 > 0);
    seq.ok_or_else(|| Error::invalid("cursor", "pass the `nextCursor` of the page before"))
}

/// Where the messages of a page are, as of one moment.
struct Look {
    hot: Vec<Shown>,
    plan: Plan,
    threads: Threads,
    next: Option<Seq>,
}

/// Reads a page. `access` was read by `rows` before.
///
/// # Errors
/// [`Error::NotMember`] when the conversation was deleted meanwhile; [`Error::ArchiveUnavailable`] or [`Error::ArchiveDamaged`]
/// when all of the page is archived and cannot be read.
pub(crate) async fn read(
    mut rows: OwnedReader<'static>,
    (shard, assignment, cold): (&Shard, &Assignment, &dyn ColdTier),
    (id, access): (ConversationId, &Access),
    wanted: &Wanted<'_>,
    deadline: Instant,
) -> Result<Found> {
    let progress = history::progress(&mut rows, id, (access.kind, &access.latest_senders)).await?;
    let mut look = wanted.look(&mut rows, id, access).await?;
    drop(rows); // the archive may take its time
    let mut attempts = 0;
    let (look, newest) = loop {
        let reads = cold.read(id, &look.plan.parts(), deadline).await;
        let newest = look.plan.newest(reads)?;
        let is_damaged = matches!(newest.failure, Some(Error::ArchiveDamaged(_)));
        if newest.lost.is_empty() || !is_damaged {
            break (look, newest);
        }
        attempts += 1;
        if attempts == ATTEMPTS {
            return Err(Error::ArchiveUnavailable); // written anew each time
        }
        let mut rows = shard.read(assignment, deadline).await?;
        let again = wanted.look(&mut rows, id, access).await?;
        if again.plan == look.plan {
            newest.failure.iter().for_each(stretch::report_damage);
            break (again, newest);
        }
        look = again;
    };
    let threads = look.threads.clone();
    let (shown, lost, next) = wanted.fit(look, newest)?;
    let to_message = |shown: Shown| {
        let status = progress.status(shown.sender(), shown.seq());
        let mut message = shown.into_message(id, status);
        threads::show(&mut message, &threads);
        message
    };
    let conversation = id;
    let lost = lost.into_iter().map(|seq| MessageId { conversation, seq });
    Ok(Found {
        messages: shown.into_iter().map(to_message).collect(),
        lost: lost.collect(),
        next,
    })
}

impl Wanted<'_> {
    /// Both tiers as of one moment. Messages that were sent after the membership was read are left out (INV-MEMBER).
    async fn look(
        &self,
        rows: &mut OwnedReader<'_>,
        id: ConversationId,
        access: &Access,
    ) -> Result<Look> {
        let limit = self.limit.clamp(1, PAGE_MAX) as usize;
        let mut args = self.args.clone();
        args.push(Value::from(i64::try_from(limit + 1).unwrap_or(i64::MAX)));
        rows.begin_snapshot().await?;
        let found = rows.fetch_all(self.statement, &args).await?;
        let seqs = found.iter().map(|row| row.int(0).map(Seq::from_i64));
        let mut seqs: Vec<Seq> = seqs.collect::<Result<_>>()?;
        seqs.retain(|seq| *seq <= access.head_seq);
        let has_more = seqs.len() > limit;
        seqs.truncate(limit);
        let mut next = seqs.last().copied().filter(|_| has_more);
        let (hot, cut) = self.hot(rows, id, &seqs).await?;
        if let Some(cut) = cut {
            seqs.retain(|seq| !self.order.is_after(*seq, cut));
            next = Some(cut);
        }
        let mut threads = Threads::new();
        if access.is_threaded {
            let roots = seqs.iter().map(|seq| (id, *seq)).collect();
            threads = threads::read(rows, &roots).await?;
        }
        let mut archived: BTreeSet<Seq> = seqs.into_iter().collect();
        for message in &hot {
            archived.remove(&message.seq());
        }
        let mut copies = Copies::default();
        for seq in &archived {
            copies.extend(Copies::find(rows, id, (*seq, *seq)).await?);
        }
        let is_there = head::is_there(rows, id).await?;
        rows.commit().await?;
        let plan = copies.plan(&archived);
        match plan.nowhere().first() {
            _ if !is_there => Err(Error::NotMember),
            Some(seq) => Err(message::nowhere(id, *seq)),
            None => Ok(Look {
                hot,
                plan,
                threads,
                next,
            }),
        }
    }

    /// The hot rows of these, as many as there is room for; and the last of them where there are more.
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
        let (places, order) = (placeholders(args.len()), self.order.sql());
        let statement = format!("{HOT}{places}) ORDER BY seq {order}");
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

    /// The messages in their order, as many as there is room for, those of them that were not read, and where the next page
    /// goes on.
    fn fit(&self, look: Look, newest: Newest) -> Result<(Vec<Shown>, Vec<Seq>, Option<Seq>)> {
        let Look {
            hot: mut shown,
            mut next,
            ..
        } = look;
        shown.extend(newest.messages.into_values().map(Shown::from));
        let mut lost: Vec<Seq> = newest.lost.into_iter().collect();
        shown.sort_unstable_by_key(Shown::seq);
        lost.sort_unstable();
        if self.order == Order::NewestFirst {
            shown.reverse();
            lost.reverse();
        }
        let (mut bytes, mut fitting) = (0, 0);
        for message in &shown {
            bytes += message.shown_bytes();
            if bytes > self.bytes && fitting > 0 {
                break;
            }
            fitting += 1;
        }
        if fitting < shown.len() {
            let last = shown[fitting - 1].seq();
            shown.truncate(fitting);
            lost.retain(|seq| self.order.is_after(last, *seq));
            next = Some(last);
        }
        let has_nothing = shown.is_empty() && !lost.is_empty();
        match newest.failure.filter(|_| has_nothing) {
            Some(error) => Err(error),
            None => Ok((shown, lost, next)),
        }
    }
}
