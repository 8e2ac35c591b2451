//! The messages of one conversation, stretch by stretch, from the newest to the oldest; and what a request has looked at.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::query::Query;
use crate::cold_tier::ColdTier;
use crate::error::{Error, Result};
use crate::history::{self, Access};
use crate::ids::{ConversationId, Seq, UserId};
use crate::map::Assignment;
use crate::message::{Cut, MessageRow as _, Room, Shown};
use crate::metrics;
use crate::model::{Caller, Scanned, SeqRange, Timestamp};
use crate::node::Shard;
use crate::search::SearchSettings;
use crate::stretch::{Merged, Stretch};

/// Messages of the first stretch of a request: common words are found in it. Those after it are twice as long each, up to
/// [`LONGEST`].
const SHORTEST: u64 = 256;
const LONGEST: u64 = 8192;
/// Most bytes of messages of a stretch.
const STRETCH_BYTES: usize = 4 << 20;

/// What a request may still look at.
#[derive(Debug)]
pub(crate) struct Budget {
    messages: u64,
    bytes: u64,
    /// No stretch begins after this.
    until: Instant,
    /// When a stretch that was begun is given up.
    pub(crate) deadline: Instant,
    /// Messages of the next stretch.
    stretch: u64,
}

impl Budget {
    /// For a request of `caller` that begins now.
    pub(crate) fn new(caller: &Caller, settings: &SearchSettings) -> Self {
        let now = Instant::now();
        let patience = caller.deadline.saturating_duration_since(now);
        // The rest of the time is for the answer with what was found until then.
        let deadline = now + patience.mul_f64(0.8);
        Self {
            messages: u64::from(settings.messages),
            bytes: u64::from(settings.bytes),
            until: deadline.min(now + settings.time.0),
            deadline,
            stretch: SHORTEST,
        }
    }

    /// Whether nothing more may be looked at.
    pub(crate) fn is_spent(&self) -> bool {
        self.messages == 0 || self.bytes == 0 || Instant::now() >= self.until
    }

    /// Whether a stretch was given up for want of time.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() + Duration::from_millis(1) >= self.deadline
    }

    /// Most messages of the next stretch.
    pub(crate) fn next_stretch(&mut self) -> u64 {
        let most = self.stretch.min(self.messages);
        self.stretch = (self.stretch * 2).min(LONGEST);
        most
    }

    pub(crate) fn spend(&mut self, scanned: Scanned) {
        self.messages = self.messages.saturating_sub(scanned.messages);
        self.bytes = self.bytes.saturating_sub(scanned.bytes);
    }
}

/// A stretch of a conversation as its member may see it.
pub(crate) struct Seen {
    /// What the member may know, as of then.
    pub(crate) access: Access,
    /// The messages, oldest first.
    pub(crate) messages: Vec<Shown>,
    /// The first and the last seq that were read; none when the last is below the first.
    pub(crate) range: (Seq, Seq),
    /// A part that could not be read.
    pub(crate) unavailable: Option<SeqRange>,
    /// Why nothing of it could be read.
    pub(crate) failure: Option<Error>,
    /// Everything before was dropped when its retention ended.
    pub(crate) is_end: bool,
}

/// The last messages before `before`, or the newest ones: at most `most` of them, and [`STRETCH_BYTES`].
///
/// # Errors
/// [`Error::NotMember`], [`Error::NotOwner`], and when a database fails. That the archive cannot be read is in the answer.
pub(crate) async fn read(
    (shard, assignment): (&Arc<Shard>, &Assignment),
    cold: &dyn ColdTier,
    (id, user): (ConversationId, &UserId),
    (before, most): (Option<Seq>, u64),
    deadline: Instant,
) -> Result<Seen> {
    let (mut rows, access) = history::access(shard, assignment, (id, user), deadline).await?;
    let head = access.head_seq;
    let last = before.map_or(head, |before| Seq(before.0.saturating_sub(1)).min(head));
    let range = (Seq((last.0 + 1).saturating_sub(most).max(1)), last);
    let mut seen = Seen {
        access,
        messages: Vec::new(),
        range,
        unavailable: None,
        failure: None,
        is_end: range.0 <= Seq(1),
    };
    if range.0 > range.1 {
        return Ok(seen);
    }
    let room = Room {
        anchor: last,
        bytes: STRETCH_BYTES,
    };
    let known = (assignment, seen.access.rev);
    let hot: Cut<Shown> =
        history::hot_rows(shard, known, &mut rows, id, (range, room), deadline).await?;
    let stretch = Stretch {
        shard,
        assignment,
        cold,
        id,
        range,
        room,
        deadline,
    };
    match stretch.read(rows, (seen.access.rev, hot)).await {
        Ok(merged) => {
            let merged: Merged<Shown> = merged;
            seen.messages = merged.messages;
            seen.range = merged.range;
            seen.unavailable = merged.unavailable;
            seen.is_end = merged.range.0 <= Seq(1) || merged.dropped;
        }
        Err(error @ (Error::ArchiveUnavailable | Error::ArchiveDamaged(_))) => {
            seen.failure = Some(error);
        }
        Err(error) => return Err(error),
    }
    Ok(seen)
}

/// A message that is looked for.
pub(crate) struct Found {
    /// The message.
    pub(crate) message: Shown,
    /// Where in its text the words are.
    pub(crate) ranges: Vec<[u32; 2]>,
}

/// How many hits there is room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HitRoom {
    /// Hits.
    pub(crate) hits: usize,
    /// Bytes of their messages. One hit is given even when it is larger.
    pub(crate) bytes: usize,
    /// There are hits already.
    pub(crate) is_begun: bool,
}

/// What was found in a stretch.
#[derive(Default)]
pub(crate) struct Looked {
    /// The hits, newest first.
    pub(crate) found: Vec<Found>,
    /// What was looked at.
    pub(crate) scanned: Scanned,
    /// The last message that was looked at.
    pub(crate) to: Option<(Seq, Timestamp)>,
    /// There is no room for the next hit.
    pub(crate) is_full: bool,
    /// Bytes of the hits.
    pub(crate) bytes: usize,
}

/// Looks at `messages`, from the last to the first, until there is no room for another hit.
pub(crate) async fn look(
    query: &Arc<Query>,
    messages: Vec<Shown>,
    room: HitRoom,
) -> Result<Looked> {
    let query = Arc::clone(query);
    // It may take some milliseconds of a processor.
    let looking = tokio::task::spawn_blocking(move || look_at(&query, messages, room));
    let looked = looking
        .await
        .map_err(|_| Error::Unexpected("a search ended early"))?;
    metrics::SEARCHED_MESSAGES.increment(looked.scanned.messages);
    metrics::SEARCHED_BYTES.increment(looked.scanned.bytes);
    Ok(looked)
}

fn look_at(query: &Query, messages: Vec<Shown>, room: HitRoom) -> Looked {
    let mut looked = Looked::default();
    let mut folded = String::new();
    for message in messages.into_iter().rev() {
        let ranges = query.find(message.stored(), &mut folded);
        if ranges.is_some() {
            let bytes = looked.bytes + message.shown_bytes();
            let has_hit = room.is_begun || !looked.found.is_empty();
            if looked.found.len() >= room.hits || has_hit && bytes > room.bytes {
                looked.is_full = true;
                break;
            }
            looked.bytes = bytes;
        }
        looked.scanned.messages += 1;
        looked.scanned.bytes += message.stored().content.len() as u64;
        looked.to = Some((message.seq(), message.stored().created_at));
        if let Some(ranges) = ranges {
            looked.found.push(Found { message, ranges });
        }
    }
    looked
}
