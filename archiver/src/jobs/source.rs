//! What an archive run reads: hot rows that are old enough, conversation by conversation.
//!
//! Each conversation is read as of the rev that it had when it was found: rows with a greater one have changed since and
//! stay hot. So what is archived of a conversation in one run is its messages as of one moment.
//!
//! A message may claim a time that is still to come: imports once took such times. It is as old as the next message that
//! does not, because it was stored before that one; while there is none, it stays hot.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use backscroll_shard::archive::{self, About, Candidate};
use backscroll_shard::db::Connection;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::map::Assignment;
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;

use super::draft::Batch;
use super::{Result, STEP};

/// Most candidates looked up at once.
pub(super) const CANDIDATES: usize = 256;

/// The messages of a shard that are old enough, conversation by conversation.
pub(super) struct Source<'a> {
    shard: &'a Shard,
    ranges: std::slice::Iter<'a, Assignment>,
    range: Option<&'a Assignment>,
    cutoff: Timestamp,
    /// The latest time of a message that is believed.
    believed: Timestamp,
    last: Option<Candidate>,
    candidates: VecDeque<Candidate>,
    /// The conversation that is being read, and how far.
    current: Option<(Candidate, Seq)>,
    abouts: HashMap<ConversationId, About>,
    pub(super) conversations: u64,
    /// Candidates with nothing to archive, or nothing more: their heads say otherwise.
    pub(super) empty: Vec<ConversationId>,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        shard: &'a Shard,
        ranges: &'a [Assignment],
        (cutoff, believed): (Timestamp, Timestamp),
    ) -> Self {
        let mut ranges = ranges.iter();
        Self {
            shard,
            range: ranges.next(),
            ranges,
            cutoff,
            believed,
            last: None,
            candidates: VecDeque::new(),
            current: None,
            abouts: HashMap::new(),
            conversations: 0,
            empty: Vec::new(),
        }
    }

    /// About `wanted` messages, in order; `None` at the end.
    pub(super) async fn next(&mut self, wanted: usize) -> Result<Option<Batch>> {
        let mut batch = Batch::default();
        while batch.rows.len() < wanted {
            let Some((candidate, after)) = self.conversation().await? else {
                break;
            };
            let id = candidate.conversation;
            let limit = wanted - batch.rows.len();
            let mut connection = self.shard.reader(Instant::now() + STEP).await?;
            let mut read = archive::rows_after(&mut connection, id, after, limit).await?;
            let more = read.len() == limit;
            // The first that is not old enough ends the conversation.
            let old = self.old(&mut connection, id, &read).await?;
            drop(connection);
            let all = old == read.len();
            read.truncate(old);
            let reached = read.last().map_or(after, |row| row.seq);
            self.current = (more && all).then_some((candidate, reached));
            if read.is_empty() {
                self.empty.push(id);
            }
            // What has changed since the conversation was looked at stays hot.
            read.retain(|row| row.rev <= candidate.rev);
            self.conversations += u64::from(after == Seq(0) && !read.is_empty());
            if after == Seq(0)
                && let Some(about) = self.abouts.remove(&id)
            {
                batch.abouts.push((id, about));
            }
            batch.rows.extend(read.into_iter().map(|row| (id, row)));
        }
        Ok((!batch.rows.is_empty()).then_some(batch))
    }

    /// How many of these consecutive messages are old enough, from the first on.
    async fn old(
        &self,
        connection: &mut Connection,
        id: ConversationId,
        read: &[StoredMessage],
    ) -> Result<usize> {
        let is_believed = |row: &StoredMessage| row.created_at <= self.believed;
        let is_young = |row: &StoredMessage| row.created_at >= self.cutoff && is_believed(row);
        let young = read.iter().position(is_young);
        let before = &read[..young.unwrap_or(read.len())];
        let dated = before
            .iter()
            .rposition(is_believed)
            .map_or(0, |last| last + 1);
        let Some(last) = before.last().filter(|_| dated < before.len()) else {
            return Ok(before.len());
        };
        if young.is_some() {
            return Ok(dated);
        }
        let next = archive::next_sent(connection, id, last.seq, self.believed).await?;
        Ok(match next {
            Some(at) if at < self.cutoff => before.len(),
            _ => dated,
        })
    }

    /// The conversation of which more is to be read.
    pub(super) fn continues(&self) -> Option<ConversationId> {
        let (candidate, _) = self.current?;
        Some(candidate.conversation)
    }

    /// The conversation to read from, and after which message.
    async fn conversation(&mut self) -> Result<Option<(Candidate, Seq)>> {
        if let Some(current) = self.current.take() {
            return Ok(Some(current));
        }
        while self.candidates.is_empty() {
            let Some(range) = self.range else {
                return Ok(None);
            };
            let mut connection = self.shard.reader(Instant::now() + STEP).await?;
            let last = self.last.as_ref();
            let page =
                archive::candidates(&mut connection, range, self.cutoff, last, CANDIDATES).await?;
            match page.last() {
                Some(last) => self.last = Some(*last),
                None => {
                    self.last = None;
                    self.range = self.ranges.next();
                }
            }
            let ids: Vec<ConversationId> = page.iter().map(|found| found.conversation).collect();
            self.abouts = archive::describe(&mut connection, &ids).await?;
            self.candidates.extend(page);
        }
        let next = self.candidates.pop_front();
        Ok(next.map(|candidate| (candidate, Seq(0))))
    }
}
