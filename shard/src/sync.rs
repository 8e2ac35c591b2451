//! Reading changes by `rev`: everything that happened since, in one go or in pages.
//!
//! Two counters answer it. A user's rev over their list entries says which conversations changed; a conversation's rev
//! says which of its rows did: a row that was created, edited and deleted meanwhile comes once, as it is now. A page of
//! one conversation is cut at a rev, never within one, so that a client can go on from the rev it was given; it is bounded in
//! messages and in bytes (INV-BOUND). Changes to
//! messages that have been archived since are read from the archive; a client that needs too much of it, or comes while
//! the archive is away, is told to fetch from the head: whole or refused.
//!
//! The archived copy of a message that is hot is never told (INV-COPY), not even where the hot row's rev is beyond the page:
//! the page with that rev tells the message.
//!
//! Where hot rows and members carry every rev since the client's, nothing has been archived since and the index is not
//! asked. Elsewhere it is asked after the hot rows; if it names a changed run, or the conversation's rev has moved
//! meanwhile (a row may have become hot in between: see [`crate::stretch`]), both are read in one snapshot.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::archive::{self, Copies, Plan};
use crate::cold_tier::ColdTier;
use crate::db::{Row, values};
use crate::error::{Error, Result};
use crate::head;
use crate::history::{self, Access};
use crate::ids::{ConversationId, Rev, Seq};
use crate::map::Assignment;
use crate::member::{self, StoredMembership};
use crate::message::{MessageRow as _, Shown, message_columns};
use crate::model::{ConversationChanges, ConversationHead, Message};
use crate::node::Shard;
use crate::owned::OwnedReader;
use crate::stretch;
use crate::threads;

/// Most conversations whose rev a client may send at once.
pub const CONVERSATIONS_MAX: usize = 200;
/// Most list entries in one page.
pub const ENTRIES_MAX: u32 = 100;
/// Most conversations whose changes one page tells: reading each takes four or five statements.
pub const CHANGED_MAX: usize = 20;
/// Most messages in one page, over all its conversations.
pub const MESSAGES_MAX: usize = 500;
/// Most members in one answer; one change touches at most 1,000.
const MEMBERS_MAX: usize = 2000;

/// Most archived runs looked through for one conversation's changes.
const RUNS_MAX: usize = 16;

/// How often archived changes are read because what the index named was gone a moment later.
const ATTEMPTS: usize = 4;

/// By the index `messages_rev`.
const CHANGED: &str = concat!(
    "SELECT ",
    message_columns!(shown),
    " FROM messages WHERE conversation_id = ? AND rev > ? AND rev <= ? ORDER BY rev LIMIT ?"
);

/// What one conversation has to tell.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "taken apart at once")]
pub enum Delta {
    /// Nothing since the rev given.
    None,
    /// These changes; `complete` unless there are more.
    Changes {
        /// The changes.
        changes: ConversationChanges,
        /// Whether the client is up to date after them.
        complete: bool,
        /// About how many bytes they take in an answer.
        bytes: usize,
    },
    /// Too much, or a rev that was never given out: fetch from the head.
    Resync(ConversationHead),
}

/// How much of a conversation's changes an answer has room for.
#[derive(Clone, Copy, Debug)]
pub struct SyncRoom {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of them. The first message of an answer is told even when it is larger.
    pub bytes: usize,
    /// Whether the answer has a message already.
    pub begun: bool,
}

/// About how many bytes a member takes in an answer.
const MEMBER_BYTES: usize = 250;

/// What changed in a conversation since `rev`, as much of it as there is `room` for; nothing when there are more than `most`
/// changes. `access` was read by `rows`.
///
/// # Errors
/// [`Error::NotMember`] when the conversation was deleted meanwhile, [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
pub async fn delta(
    mut rows: OwnedReader<'_>,
    (shard, assignment, cold): (&Shard, &Assignment, &dyn ColdTier),
    id: ConversationId,
    access: Access,
    rev: Rev,
    (room, most): (SyncRoom, u32),
    deadline: Instant,
) -> Result<Delta> {
    if rev == access.rev {
        return Ok(Delta::None);
    }
    let head = access.head(id);
    if is_too_far(rev, access.rev, most) {
        return Ok(Delta::Resync(head));
    }
    let mut through = access.rev;
    let window = Window {
        id,
        since: rev,
        through,
        room,
    };
    let mut messages = window.hot(&mut rows).await?;
    let mut members = member::changed(&mut rows, id, (rev, through), MEMBERS_MAX + 1).await?;
    let progress = history::progress(&mut rows, id, (access.kind, &access.latest_senders)).await?;
    if !window.has_every_rev(&messages, &members) {
        let copies = Copies::changed(&mut rows, id, rev, 1).await?;
        if copies.rev() != through || !copies.runs().is_empty() {
            let tiers = (shard, assignment, cold);
            match window.of_both_tiers(rows, tiers, deadline).await? {
                Some(changed) => messages = changed,
                None => return Ok(Delta::Resync(head)),
            }
            rows = shard.read(assignment, deadline).await?;
        }
    }
    let (fitting, mut bytes) = room.fitting(&messages);
    if messages.len() > fitting {
        messages.truncate(fitting);
        through = messages.last().map_or(rev, Shown::rev);
    }
    if members.len() > MEMBERS_MAX {
        // Cut before the last rev, which may not be whole; one change never fills a page alone.
        let last = members.last().map_or(rev, |member| member.rev);
        members.retain(|member| member.rev < last);
        through = through.min(members.last().map_or(rev, |member| member.rev));
    }
    messages.retain(|message| message.rev() <= through);
    members.retain(|member| member.rev <= through);
    bytes += members.len() * MEMBER_BYTES;
    let to_message = |shown: Shown| -> Message {
        let status = progress.status(shown.sender(), shown.seq());
        shown.into_message(id, status)
    };
    let mut messages: Vec<Message> = messages.into_iter().map(to_message).collect();
    threads::attach(&mut rows, (id, access.is_threaded), &mut messages).await?;
    let changes = ConversationChanges {
        conversation_id: id,
        conversation: None,
        messages,
        members: members
            .into_iter()
            .map(|member| member.complete(&access.latest_senders).into_member())
            .collect(),
        rev: through,
    };
    Ok(Delta::Changes {
        changes,
        complete: through == access.rev,
        bytes,
    })
}

/// Whether a client with `known` of a conversation at `rev` has to fetch it from its head: there are more than `most` changes, or
/// `known` was never given out.
#[must_use]
pub fn is_too_far(known: Rev, rev: Rev, most: u32) -> bool {
    known > rev || rev.0 - known.0 > u64::from(most)
}

impl SyncRoom {
    /// How many of `messages`, in their order, there is room for, and how many bytes they take.
    fn fitting(self, messages: &[Shown]) -> (usize, usize) {
        let mut bytes = 0;
        for (place, message) in messages.iter().take(self.messages).enumerate() {
            let more = message.shown_bytes();
            if (place > 0 || self.begun) && bytes + more > self.bytes {
                return (place, bytes);
            }
            bytes += more;
        }
        (messages.len().min(self.messages), bytes)
    }
}

/// Which changes of a conversation are wanted: those after `since`, up to `through`.
struct Window {
    id: ConversationId,
    since: Rev,
    through: Rev,
    /// How much of them.
    room: SyncRoom,
}

impl Window {
    /// Those of hot rows, by rev: as many as there is room for, and the next one.
    async fn hot(&self, rows: &mut OwnedReader<'_>) -> Result<Vec<Shown>> {
        let limit = i64::try_from(self.room.messages + 1).unwrap_or(i64::MAX);
        let args = values![&self.id, self.since, self.through, limit];
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let take = |row: Row| {
            let message = Shown::read(&mut row.columns())?;
            bytes += message.shown_bytes();
            messages.push(message);
            Ok(match bytes > self.room.bytes && messages.len() > 1 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        };
        rows.fetch_while(CHANGED, &args, take).await?;
        Ok(messages)
    }

    /// Whether these carry every rev that is wanted: then there is nothing else.
    fn has_every_rev(&self, messages: &[Shown], members: &[StoredMembership]) -> bool {
        let revs = messages.iter().map(Shown::rev);
        let revs: BTreeSet<Rev> = revs
            .chain(members.iter().map(|member| member.rev))
            .collect();
        revs.len() as u64 == self.through.0 - self.since.0
    }

    /// Those of hot rows and of archived messages, by rev, each message as it was changed last; `None` when that is too
    /// much, or the archive does not give it.
    async fn of_both_tiers(
        &self,
        mut rows: OwnedReader<'_>,
        (shard, assignment, cold): (&Shard, &Assignment, &dyn ColdTier),
        deadline: Instant,
    ) -> Result<Option<Vec<Shown>>> {
        let mut found = self.look(&mut rows).await?;
        drop(rows); // the archive may take its time
        for _ in 0..ATTEMPTS {
            let Some((hot, plan)) = found else {
                return Ok(None);
            };
            let reads = cold.read(self.id, &plan.parts(), deadline).await;
            let newest = plan.newest(reads)?;
            match &newest.failure {
                None => {
                    let archived = newest.messages.into_values();
                    let mut changed = hot;
                    let archived =
                        archived.filter(|it| it.rev > self.since && it.rev <= self.through);
                    changed.extend(archived.map(Shown::from));
                    changed.sort_unstable_by_key(Shown::rev);
                    return Ok(Some(changed));
                }
                Some(Error::ArchiveDamaged(_)) => {}
                Some(_) => return Ok(None),
            }
            let mut rows = shard.read(assignment, deadline).await?;
            found = self.look(&mut rows).await?;
            if found.as_ref().is_some_and(|(_, again)| *again == plan) {
                newest.failure.iter().for_each(stretch::report_damage);
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The hot rows, and what is to be read of the archive, as of one moment; no message is in both. `None` when that is too
    /// much. A conversation that was deleted meanwhile has nothing to tell.
    async fn look(&self, rows: &mut OwnedReader<'_>) -> Result<Option<(Vec<Shown>, Plan)>> {
        rows.begin_snapshot().await?;
        let hot = self.hot(rows).await?;
        let changed = Copies::changed(rows, self.id, self.since, RUNS_MAX + 1).await?;
        let mut copies = Copies::default();
        let mut wanted: BTreeSet<Seq> = BTreeSet::new();
        if changed.runs().len() <= RUNS_MAX {
            for run in changed.runs() {
                let range = (run.first_seq, run.last_seq);
                copies.extend(Copies::find(rows, self.id, range).await?);
                let newer = archive::hot_revs(rows, self.id, range).await?;
                let seqs = (range.0.0..=range.1.0).map(Seq);
                wanted.extend(seqs.filter(|seq| !newer.contains_key(seq)));
            }
        }
        let is_there = head::is_there(rows, self.id).await?;
        rows.commit().await?;
        if !is_there {
            return Err(Error::NotMember);
        }
        if changed.runs().len() > RUNS_MAX {
            return Ok(None);
        }
        Ok(Some((hot, copies.plan(&wanted).changed_after(self.since))))
    }
}

/// The text form of a user's rev.
#[must_use]
pub fn to_cursor(rev: Rev) -> String {
    rev.to_string()
}

/// From a cursor.
///
/// # Errors
/// When it is not one that [`to_cursor`] made.
pub fn parse_cursor(cursor: &str) -> Result<Rev> {
    cursor
        .parse()
        .map_err(|_| Error::invalid("cursor", "pass the `cursor` of the answer before"))
}
