//! Reading a conversation by `seq`: a page is arithmetic.
//!
//! Messages are numbered without a hole, so `before = 501, limit = 50` is exactly 451–500, wherever they are. A seq that
//! no hot row holds is archived; [`crate::stretch`] reads both tiers.
//! The membership, the fence and the head are read in one statement before the page (INV-MEMBER, INV-OWNER): the page is
//! current as of then.
//!
//! A replica is used for the page only when its copy of the conversation is at the same `rev` as the primary's, and its fence says that the
//! shard owns the range at the map's epoch.

use std::sync::Arc;
use std::time::Instant;

use crate::archive;
use crate::cold_tier::ColdTier;
use crate::db::{Connection, values};
use crate::error::{Error, Result};
use crate::fence;
use crate::head::{self, kind_of};
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::latest_senders::LatestSenders;
use crate::map::Assignment;
use crate::member::{self, Progress, role_of};
use crate::message::{self, Cut, Room, Shown};
use crate::model::{ConversationHead, ConversationKind, HistoryPage, Position};
use crate::node::Shard;
use crate::owned::OwnedReader;
use crate::stretch::{Merged, Stretch};
use crate::threads;

/// Most messages in a page.
pub const PAGE_MAX: u32 = 200;

/// By the primary keys of all three tables.
const ACCESS: &str = "SELECT c.kind, c.head_seq, c.rev, m.role, c.writers, c.threaded, f.range_end, f.epoch, f.state \
     FROM conversations c JOIN members m ON m.conversation_id = c.id AND m.user_id = ? \
     LEFT JOIN fences f ON f.range_start = ? WHERE c.id = ? AND c.deleted_at IS NULL AND m.role > 0";
/// Two look-ups by primary keys.
const REPLICA_REV: &str = "SELECT c.rev, f.range_end, f.epoch, f.state FROM conversations c LEFT JOIN fences f ON f.range_start = ? WHERE c.id = ?";

/// What a member may know before reading.
#[derive(Clone, Debug)]
pub struct Access {
    /// What sort of conversation it is.
    pub kind: ConversationKind,
    /// The newest message.
    pub head_seq: Seq,
    /// The latest change.
    pub rev: Rev,
    /// The latest senders, each of whom has read up to their own newest message.
    pub latest_senders: LatestSenders,
    /// Whether messages of it are answered, or were.
    pub is_threaded: bool,
}

impl Access {
    /// Where the conversation stands.
    #[must_use]
    pub fn head(&self, conversation_id: ConversationId) -> ConversationHead {
        ConversationHead {
            conversation_id,
            head_seq: self.head_seq,
            rev: self.rev,
        }
    }
}

/// What `user` may know of the conversation as its member, and the reader of its rows.
///
/// # Errors
/// [`Error::NotMember`], [`Error::NotOwner`], and as [`Shard::reader`].
pub async fn access(
    shard: &Shard,
    assignment: &Assignment,
    (id, user): (ConversationId, &UserId),
    deadline: Instant,
) -> Result<(OwnedReader<'static>, Access)> {
    let mut connection = shard.reader(deadline).await?;
    let start = fence::read_fence_start(assignment);
    let row = connection
        .fetch_optional(ACCESS, &values![user, &start, &id])
        .await?;
    let Some(row) = row else {
        fence::permit_read(&mut connection, shard.name(), assignment).await?;
        return Err(Error::NotMember);
    };
    let mut columns = row.columns();
    let kind = kind_of(columns.int()?)?;
    let head_seq = Seq::from_i64(columns.int()?);
    let rev = Rev::from_i64(columns.int()?);
    let role = role_of(columns.int()?)?;
    let latest_senders = LatestSenders::parse(columns.opt_text()?.as_deref())?;
    let is_threaded = columns.opt_int()?.is_some();
    let permit = fence::permit_read_of_row(&mut columns, shard.name(), assignment)?;
    role.ok_or(Error::NotMember)?;
    let access = Access {
        kind,
        head_seq,
        rev,
        latest_senders,
        is_threaded,
    };
    Ok((OwnedReader::permitted(connection, permit), access))
}

/// The same for a node that serves several of the conversation's members; that they are members is asked separately.
///
/// # Errors
/// [`Error::NotMember`] when there is no such conversation, [`Error::NotOwner`], and as [`Shard::reader`].
pub async fn access_without_membership_check(
    shard: &Shard,
    assignment: &Assignment,
    id: ConversationId,
    deadline: Instant,
) -> Result<(OwnedReader<'static>, Access)> {
    let mut rows = shard.read(assignment, deadline).await?;
    let heads = head::read(&mut rows, &[id]).await?;
    let head = heads.into_iter().find(|head| head.deleted_at.is_none());
    let head = head.ok_or(Error::NotMember)?;
    let access = Access {
        kind: head.kind,
        head_seq: head.head_seq,
        rev: head.rev,
        latest_senders: head.latest_senders,
        is_threaded: head.threaded,
    };
    Ok((rows, access))
}

/// The seqs of a page, first and last; empty when the last is below the first.
fn bounds(position: Position, limit: u32, head: Seq) -> (Seq, Seq) {
    let limit = u64::from(limit.clamp(1, PAGE_MAX));
    let (first, last) = match position {
        Position::Latest => ((head.0 + 1).saturating_sub(limit), head.0),
        Position::Before(seq) => {
            let end = seq.0.min(head.0 + 1);
            (end.saturating_sub(limit), end.saturating_sub(1))
        }
        Position::After(seq) => (seq.0.saturating_add(1), seq.0.saturating_add(limit)),
        Position::Around(seq) => {
            // Half before, the message itself and the rest after; what one side lacks the other gives.
            let center = seq.0.min(head.0);
            let last = (center + (limit - 1).div_ceil(2))
                .min(head.0)
                .max(limit.min(head.0));
            ((last + 1).saturating_sub(limit), last)
        }
    };
    (Seq(first.max(1)), Seq(last.min(head.0)))
}

/// The message that a page of these seqs is about: where the page is cut, those far from it are left out.
fn anchor(position: Position, (first, last): (Seq, Seq)) -> Seq {
    match position {
        Position::Latest | Position::Before(_) => last,
        Position::After(_) => first,
        Position::Around(seq) => seq.clamp(first, last),
    }
}

/// A page of the conversation as `user` may see it: at most `limit` messages, and about `bytes` of them.
///
/// # Errors
/// [`Error::NotMember`], [`Error::NotOwner`]; [`Error::ArchiveUnavailable`] when all of the page is archived and cannot be
/// read (with a part that is hot, the page says what is missing instead).
pub async fn page(
    shard: &Arc<Shard>,
    assignment: &Assignment,
    cold: &dyn ColdTier,
    (id, user): (ConversationId, &UserId),
    (position, limit, bytes): (Position, u32, usize),
    deadline: Instant,
) -> Result<HistoryPage> {
    let (mut rows, access) = access(shard, assignment, (id, user), deadline).await?;
    let range = bounds(position, limit, access.head_seq);
    let is_empty = range.0 > range.1;
    let anchor = match is_empty {
        true => range.1,
        false => anchor(position, range),
    };
    let room = Room { anchor, bytes };
    let hot = if is_empty {
        Cut::empty(range)
    } else {
        let seen = (assignment, access.rev);
        hot_rows(shard, seen, &mut rows, id, (range, room), deadline).await?
    };
    let progress = progress(&mut rows, id, (access.kind, &access.latest_senders)).await?;
    let threads = threads::of_range(&mut rows, (id, access.is_threaded), range).await?;
    let stretch = Stretch {
        shard,
        assignment,
        cold,
        id,
        range,
        room,
        deadline,
    };
    let merged: Merged<Shown> = stretch.read(rows, (access.rev, hot)).await?;
    let (first, last) = merged.range;
    let mut dropped_before = None;
    if merged.dropped {
        let mut rows = shard.read(assignment, deadline).await?;
        let last = archive::last_dropped(&mut rows, id).await?;
        dropped_before = Some(last.next());
        // A walk forward goes on behind what is gone.
        if merged.messages.is_empty()
            && matches!(position, Position::After(_) | Position::Around(_))
        {
            let behind = (Position::After(last), limit, bytes);
            let page =
                Box::pin(page(shard, assignment, cold, (id, user), behind, deadline)).await?;
            return Ok(HistoryPage {
                has_more_before: false,
                dropped_before,
                ..page
            });
        }
    }
    if let (Position::Latest | Position::Before(_), Some(before)) = (position, merged.cold_from)
        && first.0 < before.0.saturating_add(2 * u64::from(limit))
    {
        cold.read_ahead(shard, id, before);
    }
    let to_message = |shown: Shown| {
        let status = progress.status(shown.sender(), shown.seq());
        let mut message = shown.into_message(id, status);
        threads::show(&mut message, &threads);
        message
    };
    Ok(HistoryPage {
        messages: merged.messages.into_iter().map(to_message).collect(),
        head_seq: access.head_seq,
        rev: access.rev,
        has_more_before: first > Seq(1) && access.head_seq > Seq(0) && !merged.dropped,
        dropped_before,
        has_more_after: last < access.head_seq,
        tiers: merged.tiers,
        archive_unavailable: merged.unavailable,
    })
}

/// The watermarks that tell how far messages have come; none for channels. The latest senders are those of the head, read before.
///
/// # Errors
/// When the database fails.
pub async fn progress(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    (kind, latest_senders): (ConversationKind, &LatestSenders),
) -> Result<Progress> {
    if kind == ConversationKind::Channel {
        return Ok(Progress::default());
    }
    let everybody = usize::from(u16::MAX);
    let members = member::page(rows, id, &[], everybody).await?;
    let members = members.into_iter();
    let members = members.map(|member| member.complete(latest_senders));
    Ok(Progress::of(members.collect()))
}

/// The hot rows of a stretch, from a replica where one is as current as `rows`, on which `rev` was read.
///
/// # Errors
/// When the database fails.
pub(crate) async fn hot_rows(
    shard: &Shard,
    seen: (&Assignment, Rev),
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    (range, room): ((Seq, Seq), Room),
    deadline: Instant,
) -> Result<Cut<Shown>> {
    match replica_rows(shard, seen, id, (range, room), deadline).await {
        Some(hot) => Ok(hot),
        None => message::rows(rows, id, range, room).await,
    }
}

/// The hot rows of a stretch from a replica, if it has seen everything up to `rev`, and that its shard owns the range at the map's
/// epoch, all as of one moment: the copy of a range that moved to this shard has a conversation's rev before it has the messages. A replica
/// that is behind or down is passed over.
async fn replica_rows(
    shard: &Shard,
    (assignment, rev): (&Assignment, Rev),
    id: ConversationId,
    (range, room): ((Seq, Seq), Room),
    deadline: Instant,
) -> Option<Cut<Shown>> {
    let read = |mut connection: Connection| async move {
        connection.begin_snapshot().await?;
        let start = fence::read_fence_start(assignment);
        let row = connection
            .fetch_optional(REPLICA_REV, &values![&start, &id])
            .await?;
        let permit = match row {
            Some(row) if Rev::from_i64(row.int(0)?) >= rev => {
                let mut columns = row.columns_from(1);
                match fence::permit_read_of_row(&mut columns, shard.name(), assignment) {
                    Ok(permit) => Some(permit),
                    Err(Error::NotOwner(_)) => None,
                    Err(error) => return Err(error),
                }
            }
            _ => None,
        };
        let Some(permit) = permit else {
            connection.rollback().await;
            return Ok(None);
        };
        let mut rows = OwnedReader::permitted(connection, permit);
        let found = message::rows(&mut rows, id, range, room).await?;
        rows.commit().await?;
        Ok(Some(found))
    };
    shard.ask_replica(deadline, read).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page_of(position: Position, limit: u32, head: u64) -> Vec<u64> {
        let (first, last) = bounds(position, limit, Seq(head));
        (first.0..=last.0).collect()
    }

    #[test]
    fn a_page_is_arithmetic() {
        assert_eq!(
            page_of(Position::Before(Seq(501)), 50, 1000),
            (451..=500).collect::<Vec<_>>()
        );
        assert_eq!(page_of(Position::Latest, 3, 10), [8, 9, 10]);
        assert_eq!(page_of(Position::Latest, 20, 2), [1, 2]);
        assert_eq!(page_of(Position::Latest, 20, 0), [] as [u64; 0]);
        assert_eq!(page_of(Position::After(Seq(8)), 20, 10), [9, 10]);
        assert_eq!(page_of(Position::After(Seq(10)), 20, 10), [] as [u64; 0]);
        assert_eq!(page_of(Position::After(Seq(0)), 2, 10), [1, 2]);
        assert_eq!(page_of(Position::Before(Seq(1)), 20, 10), [] as [u64; 0]);
        assert_eq!(
            page_of(Position::Before(Seq(i64::MAX as u64)), 2, 10),
            [9, 10]
        );
        assert_eq!(
            page_of(Position::Around(Seq(50)), 5, 100),
            [48, 49, 50, 51, 52]
        );
        assert_eq!(page_of(Position::Around(Seq(1)), 4, 100), [1, 2, 3, 4]);
        assert_eq!(
            page_of(Position::Around(Seq(100)), 4, 100),
            [97, 98, 99, 100]
        );
        assert_eq!(page_of(Position::Around(Seq(9)), 4, 2), [1, 2]);
        assert_eq!(page_of(Position::Around(Seq(0)), 4, 0), [] as [u64; 0]);
    }

    proptest! {
        #[test]
        fn walking_back_and_forth_sees_every_message_once(head in 0u64..500, limit in 1u32..=200) {
            let mut back = Vec::new();
            let mut before = Seq(head + 1);
            loop {
                let page = page_of(Position::Before(before), limit, head);
                let Some(first) = page.first() else { break };
                before = Seq(*first);
                back.splice(0..0, page);
            }
            let mut forth = Vec::new();
            while let Some(last) = page_of(Position::After(Seq(forth.len() as u64)), limit, head).last() {
                forth.extend(forth.len() as u64 + 1..=*last);
            }
            prop_assert_eq!(&back, &(1..=head).collect::<Vec<_>>());
            prop_assert_eq!(&forth, &back);
        }

        #[test]
        fn no_input_overflows(seq in 0..=crate::ids::COUNTER_MAX, head in 0..=crate::ids::COUNTER_MAX - 1, limit: u32) {
            for position in [Position::Latest, Position::Before(Seq(seq)), Position::After(Seq(seq)), Position::Around(Seq(seq))] {
                let (first, last) = bounds(position, limit, Seq(head));
                prop_assert!(first >= Seq(1) && last <= Seq(head));
                prop_assert!(last.0.saturating_sub(first.0) < u64::from(PAGE_MAX));
            }
        }

        #[test]
        fn around_shows_the_message_in_a_full_page(head in 1u64..500, seq in 1u64..500, limit in 1u32..=200) {
            prop_assume!(seq <= head);
            let page = page_of(Position::Around(Seq(seq)), limit, head);
            prop_assert!(page.contains(&seq));
            prop_assert_eq!(page.len() as u64, u64::from(limit).min(head));
        }
    }
}
