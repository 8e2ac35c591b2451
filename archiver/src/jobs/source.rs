//! What an archive run reads: hot rows that are old enough, conversation by conversation.
//!
//! Each conversation is read as of the rev that it had when it was found: rows with a greater one have changed since and
//! stay hot. So what is archived of a conversation in one run is its messages as of one moment.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use backscroll_shard::archive::{self, About, Candidate};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::map::Assignment;
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
    pub(super) fn new(shard: &'a Shard, ranges: &'a [Assignment], cutoff: Timestamp) -> Self {
        let mut ranges = ranges.iter();
        Self {
            shard,
            range: ranges.next(),
            ranges,
            cutoff,
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
            drop(connection);
            let more = read.len() == limit;
            // The first that is not old enough ends the conversation.
            let young = read.iter().position(|row| row.created_at >= self.cutoff);
            read.truncate(young.unwrap_or(read.len()));
            let reached = read.last().map_or(after, |row| row.seq);
            self.current = (more && young.is_none()).then_some((candidate, reached));
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
