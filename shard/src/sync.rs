//! Reading changes by `rev`: everything that happened since, in one go or in pages.
//!
//! Two counters answer it. A user's rev over their list entries says which conversations changed; a conversation's rev
//! says which of its rows did: a row that was created, edited and deleted meanwhile comes once, as it is now. A page of
//! one conversation is cut at a rev, never within one, so that a client can go on from the rev it was given. Changes to
//! messages that have been archived since are read from the archive; a client that needs too much of it, or comes while
//! the archive is away, is told to fetch from the head: whole or refused.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

use crate::archive::{self, ArchivedRun};
use crate::db::{Connection, values};
use crate::error::{Error, Result};
use crate::history::{self, Access};
use crate::ids::{ConversationId, Rev, Seq};
use crate::member;
use crate::message::{StoredMessage, message_columns};
use crate::model::{ConversationChanges, ConversationHead, Member, Message};
use crate::seams::{ColdPart, ColdTier};

/// Most conversations whose rev a client may send at once.
pub const CONVERSATIONS_MAX: usize = 200;
/// Most list entries in one page.
pub const ENTRIES_MAX: u32 = 100;
/// Most messages in one page, over all its conversations.
pub const MESSAGES_MAX: usize = 500;
/// Most members told of at once; one change touches at most 1,000.
const MEMBERS_MAX: usize = 2000;

/// Most archived runs looked through for one conversation's changes.
const RUNS_MAX: usize = 16;

/// By the index `messages_rev`.
const CHANGED: &str = concat!(
    "SELECT ",
    message_columns!(),
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
    },
    /// Too much, or a rev that was never given out: fetch from the head.
    Resync(ConversationHead),
}

/// What changed in a conversation since `rev`, at most `room` messages of it; nothing when that is more than `most`.
/// `access` was read on `connection`.
///
/// # Errors
/// [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
pub async fn delta(
    mut connection: Connection,
    cold: &dyn ColdTier,
    id: ConversationId,
    access: Access,
    rev: Rev,
    (room, most): (usize, u32),
    deadline: Instant,
) -> Result<Delta> {
    if rev == access.rev {
        return Ok(Delta::None);
    }
    let head = ConversationHead {
        conversation_id: id,
        head_seq: access.head_seq,
        rev: access.rev,
    };
    if rev > access.rev || access.rev.0 - rev.0 > u64::from(most) {
        return Ok(Delta::Resync(head));
    }
    let mut through = access.rev;
    let limit = i64::try_from(room + 1).unwrap_or(i64::MAX);
    let rows = connection
        .fetch_all(CHANGED, &values![&id, rev, through, limit])
        .await?;
    let mut messages = rows
        .iter()
        .map(|row| StoredMessage::from_row(row, 0))
        .collect::<Result<Vec<_>>>()?;
    let mut members = member::changed(&mut connection, id, (rev, through), MEMBERS_MAX + 1).await?;
    let progress = history::progress(&mut connection, id, (access.kind, &access.writers)).await?;
    // Hot rows first: what leaves them meanwhile is in the index by then.
    let runs = archive::changed_runs(&mut connection, id, rev, RUNS_MAX + 1).await?;
    drop(connection);
    if runs.len() > RUNS_MAX {
        return Ok(Delta::Resync(head));
    }
    match changed_in_archive(cold, id, &runs, (rev, through), deadline).await {
        Ok(archived) => messages = newest_of_each(messages, archived),
        Err(Error::ArchiveUnavailable | Error::ArchiveDamaged(_)) => {
            return Ok(Delta::Resync(head));
        }
        Err(error) => return Err(error),
    }
    if messages.len() > room {
        messages.truncate(room);
        through = messages.last().map_or(rev, |message| message.rev);
    }
    if members.len() > MEMBERS_MAX {
        // Cut before the last rev, which may not be whole; one change never fills a page alone.
        let last = members.last().map_or(rev, |member| member.rev);
        members.retain(|member| member.rev < last);
        through = through.min(members.last().map_or(rev, |member| member.rev));
    }
    access.writers.move_on(&mut members);
    messages.retain(|message| message.rev <= through);
    members.retain(|member| member.rev <= through);
    let to_message = |stored: StoredMessage| -> Result<Message> {
        let status = progress.status(&stored.sender, stored.seq);
        stored.into_message(id, status)
    };
    let changes = ConversationChanges {
        conversation_id: id,
        conversation: None,
        messages: messages
            .into_iter()
            .map(to_message)
            .collect::<Result<_>>()?,
        members: members
            .into_iter()
            .map(member::Membership::into_member)
            .collect::<Vec<Member>>(),
        rev: through,
    };
    Ok(Delta::Changes {
        changes,
        complete: through == access.rev,
    })
}

/// The archived messages whose rev is after `since`, up to `through`.
async fn changed_in_archive(
    cold: &dyn ColdTier,
    id: ConversationId,
    runs: &[ArchivedRun],
    (since, through): (Rev, Rev),
    deadline: Instant,
) -> Result<Vec<StoredMessage>> {
    let kept = runs.iter().filter(|run| run.segment.is_some());
    let parts: Vec<ColdPart> = kept
        .map(|run| (*run, (run.first_seq, run.last_seq)))
        .collect();
    let mut messages = Vec::new();
    for read in cold.read(id, &parts, deadline).await {
        let changed = |message: &StoredMessage| message.rev > since && message.rev <= through;
        messages.extend(read?.into_iter().filter(changed));
    }
    Ok(messages)
}

/// Both lists by rev, each message once, as it was changed last.
fn newest_of_each(hot: Vec<StoredMessage>, archived: Vec<StoredMessage>) -> Vec<StoredMessage> {
    let mut by_seq: BTreeMap<Seq, StoredMessage> = BTreeMap::new();
    for message in hot.into_iter().chain(archived) {
        match by_seq.entry(message.seq) {
            Entry::Vacant(place) => drop(place.insert(message)),
            Entry::Occupied(mut place) if place.get().rev < message.rev => {
                place.insert(message);
            }
            Entry::Occupied(_) => {}
        }
    }
    let mut messages: Vec<StoredMessage> = by_seq.into_values().collect();
    messages.sort_unstable_by_key(|message| message.rev);
    messages
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
