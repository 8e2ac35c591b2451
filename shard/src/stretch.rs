//! A stretch of a conversation out of both tiers: hot rows, and what no hot row holds from the archive.
//!
//! Hot rows are read first and the index after them, on the same connection; rows leave only after the index names their
//! copy, so a message that does not change is in one of the two (INV-TIER). A message that is changed or restored in
//! between becomes hot, and its older copies may be gone from the index by then. Whatever makes a row hot takes the
//! conversation's next rev, and the statement that reads the index reads that rev too: if it is still the one that was
//! read before the hot rows, what was read is whole and the newest (INV-COPY). If it is not, or if a message is in neither,
//! both are read again in one snapshot. Pages of hot rows never come to that, and archived pages only where the
//! conversation changed within those two statements.
//!
//! An answer is bounded in bytes (INV-BOUND): where the stretch holds more, the part nearest to an anchor is read, of the archive
//! frames of about as many bytes.
//!
//! No connection is held while the archive answers, so a segment may be written anew and its object deleted meanwhile. What
//! cannot be read is called damaged only when both tiers, looked at again, still say that it is there.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::archive::{Copies, Newest, Plan};
use crate::cold_tier::ColdTier;
use crate::error::{Error, Result};
use crate::head;
use crate::ids::{ConversationId, Rev, Seq};
use crate::map::Assignment;
use crate::message::{self, Cut, MessageRow, Room};
use crate::metrics;
use crate::model::{SeqRange, Tiers};
use crate::node::Shard;
use crate::owned::OwnedReader;

/// How often a stretch is read because what its index named was gone a moment later.
const ATTEMPTS: usize = 4;

/// Consecutive messages of a conversation that are to be read.
#[derive(Clone, Copy)]
pub struct Stretch<'a> {
    /// The conversation's shard.
    pub shard: &'a Shard,
    /// By which it is the shard's.
    pub assignment: &'a Assignment,
    /// Where archived messages are read.
    pub cold: &'a dyn ColdTier,
    /// The conversation.
    pub id: ConversationId,
    /// The first message and the last one; none when the last is before the first.
    pub range: (Seq, Seq),
    /// Which of them, and how many.
    pub room: Room,
    /// Until when.
    pub deadline: Instant,
}

/// A stretch of messages out of both tiers. Each seq of `range` is in `messages`, or in `unavailable`, or was dropped.
#[derive(Debug)]
pub struct Merged<M> {
    /// In order.
    pub messages: Vec<M>,
    /// The part of the stretch for which there is room; the whole unless the answer would be too large.
    pub range: (Seq, Seq),
    /// Where they came from.
    pub tiers: Tiers,
    /// What is archived and cannot be read just now.
    pub unavailable: Option<SeqRange>,
    /// The first message was dropped when its retention ended, and so was everything before.
    pub dropped: bool,
    /// Where the earliest archived run that was read begins.
    pub cold_from: Option<Seq>,
}

/// Where the messages of a stretch are, as of one moment.
struct Look<M> {
    hot: Cut<M>,
    plan: Plan,
}

impl Stretch<'_> {
    /// Reads it. `hot` are its hot rows, read when the conversation's rev was `rev` or later; `rows` is the reader that
    /// has read the rev.
    ///
    /// # Errors
    /// [`Error::ArchiveUnavailable`] or [`Error::ArchiveDamaged`] when there is nothing to show but what the archive does
    /// not give, [`Error::NotMember`] when the conversation was deleted meanwhile, [`Error::Corrupt`] when a message is in
    /// neither tier.
    pub async fn read<M: MessageRow>(
        &self,
        mut rows: OwnedReader<'_>,
        (rev, hot): (Rev, Cut<M>),
    ) -> Result<Merged<M>> {
        let (first, last) = hot.range;
        if hot.messages.len() as u64 == (last.0 + 1).saturating_sub(first.0) {
            return Ok(self.merge(hot, &Plan::default(), Newest::default()));
        }
        let mut look = self.look(&mut rows, rev, hot).await?;
        drop(rows); // the archive may take its time
        for _ in 0..ATTEMPTS {
            let parts = look.plan.parts();
            let reads = self.cold.read(self.id, &parts, self.deadline).await;
            let newest = look.plan.newest(reads)?;
            let damaged = matches!(newest.failure, Some(Error::ArchiveDamaged(_)));
            if newest.lost.is_empty() || !damaged {
                return self.finish(look, newest);
            }
            let mut rows = self.shard.read(self.assignment, self.deadline).await?;
            let again = self.snapshot(&mut rows).await?;
            if again.plan == look.plan {
                newest.failure.iter().for_each(report_damage);
                return self.finish(again, newest);
            }
            look = again;
        }
        Err(Error::ArchiveUnavailable) // written anew each time
    }

    async fn look<M: MessageRow>(
        &self,
        rows: &mut OwnedReader<'_>,
        rev: Rev,
        hot: Cut<M>,
    ) -> Result<Look<M>> {
        let wanted = missing(&hot);
        if let (Some(first), Some(last)) = (wanted.first(), wanted.last()) {
            let copies = Copies::find(rows, self.id, (*first, *last)).await?;
            let plan = copies.plan(&wanted);
            if copies.rev() == rev && plan.nowhere().is_empty() {
                return Ok(self.within_room(Look { hot, plan }, &copies));
            }
        }
        self.snapshot(rows).await
    }

    /// Both tiers as of one moment. Of a conversation that was deleted meanwhile nothing is shown: while its messages are
    /// erased, older copies may be the newest that are left.
    async fn snapshot<M: MessageRow>(&self, rows: &mut OwnedReader<'_>) -> Result<Look<M>> {
        rows.begin_snapshot().await?;
        let hot: Cut<M> = message::rows(rows, self.id, self.range, self.room).await?;
        let wanted = missing(&hot);
        let copies = match (wanted.first(), wanted.last()) {
            (Some(first), Some(last)) => Copies::find(rows, self.id, (*first, *last)).await?,
            _ => Copies::default(),
        };
        let plan = copies.plan(&wanted);
        let is_there = head::is_there(rows, self.id).await?;
        rows.commit().await?;
        match plan.nowhere().first() {
            _ if !is_there => Err(Error::NotMember),
            Some(seq) => Err(message::nowhere(self.id, *seq)),
            None => Ok(self.within_room(Look { hot, plan }, &copies)),
        }
    }

    /// The same without the frames beyond those for which there is room, and the messages behind them.
    fn within_room<M: MessageRow>(&self, look: Look<M>, copies: &Copies) -> Look<M> {
        let range = look.plan.within(look.hot.range, self.room);
        if range == look.hot.range {
            return look;
        }
        let Cut { mut messages, .. } = look.hot;
        messages.retain(|message| (range.0..=range.1).contains(&message.seq()));
        let hot = Cut { messages, range };
        let plan = copies.plan(&missing(&hot));
        Look { hot, plan }
    }

    fn finish<M: MessageRow>(&self, look: Look<M>, mut newest: Newest) -> Result<Merged<M>> {
        let failure = newest.failure.take().filter(|_| !newest.lost.is_empty());
        let merged = self.merge(look.hot, &look.plan, newest);
        match failure {
            Some(error) if merged.messages.is_empty() => Err(error),
            _ => Ok(merged),
        }
    }

    fn merge<M: MessageRow>(&self, hot: Cut<M>, plan: &Plan, newest: Newest) -> Merged<M> {
        let read = plan
            .parts()
            .into_iter()
            .filter(|part| newest.messages.keys().any(|seq| part.run().holds(*seq)));
        let cold_from = read.map(|part| part.run().first_seq).min();
        let archived: BTreeSet<Seq> = newest.messages.keys().copied().collect();
        let Cut {
            mut messages,
            range,
        } = hot;
        messages.extend(newest.messages.into_values().map(M::from));
        messages.sort_unstable_by_key(MessageRow::seq);
        let Cut { messages, range } = match archived.is_empty() {
            true => Cut { messages, range },
            false => Cut { messages, range }.fit(self.room),
        };
        let from_archive = messages.iter().map(MessageRow::seq);
        let from_archive = from_archive.filter(|seq| archived.contains(seq)).count() as u64;
        let lost = newest.lost.range(range.0..=range.1);
        let unavailable = lost.clone().next().zip(lost.clone().next_back());
        Merged {
            tiers: Tiers {
                hot: messages.len() as u64 - from_archive,
                archive: from_archive,
            },
            unavailable: unavailable.map(|(from, to)| SeqRange {
                from_seq: *from,
                to_seq: *to,
            }),
            dropped: plan.dropped().contains(&range.0),
            messages,
            range,
            cold_from,
        }
    }
}

/// Archived messages are damaged where the index, looked at again, still says that they are.
pub(crate) fn report_damage(error: &Error) {
    metrics::ARCHIVE_DAMAGED_READS.increment(1);
    tracing::error!(%error, "archived messages cannot be read; run `backscroll archive verify`");
}

/// The seqs that no hot row has.
fn missing<M: MessageRow>(hot: &Cut<M>) -> BTreeSet<Seq> {
    let (first, last) = hot.range;
    let mut missing: BTreeSet<Seq> = (first.0..=last.0).map(Seq).collect();
    for message in &hot.messages {
        missing.remove(&message.seq());
    }
    missing
}
