//! The transaction of a write lane: fences and heads locked, memberships and repeated messages looked up, the jobs applied in
//! their order, and everything they changed written.

use std::collections::{HashMap, HashSet};

use super::cache::MembershipCache;
use super::{Job, Outcome, Work};
use crate::commit_event::CommitEvent;
use crate::db::{Connection, Value, in_rows, padded, values};
use crate::error::{Error, Result};
use crate::head::{self, Head};
use crate::ids::{ConversationId, Seq, UserId};
use crate::list_marks;
use crate::map::Assignment;
use crate::member::{self, Membership};
use crate::message::{self, Draft, StoredMessage, message_columns};
use crate::model::{DeliveryStatus, Sent, Timestamp, Watermarks};

/// Why a repeat is refused that is none.
const OTHER_BODY: &str =
    "this client message id was used before with another body; use a new id for a new message";

/// What a transaction did.
pub(super) struct Committed {
    pub(super) outcomes: Vec<Result<Outcome>>,
    pub(super) events: Vec<CommitEvent>,
    pub(super) marked: HashSet<ConversationId>,
}

type MemberKey<'a> = (ConversationId, &'a UserId);
type MessageKey<'a> = (ConversationId, &'a UserId, &'a str);

/// One transaction's view of the rows its jobs need.
pub(super) struct Batch<'a> {
    owned: HashSet<u64>,
    heads: HashMap<ConversationId, Head>,
    members: HashMap<MemberKey<'a>, Membership>,
    /// Messages by client message id: those found stored, and those of this batch.
    known: HashMap<MessageKey<'a>, StoredMessage>,
    new: Vec<(ConversationId, StoredMessage)>,
    changed: HashSet<ConversationId>,
    moved: HashSet<MemberKey<'a>>,
    /// Watermarks that the heads no longer tell.
    fallen: Vec<(ConversationId, Membership)>,
    events: Vec<CommitEvent>,
}

impl<'a> Batch<'a> {
    /// Checks the fences, locks the heads and reads what the jobs depend on.
    pub(super) async fn load(
        connection: &mut Connection,
        jobs: &'a [Job],
        memberships: &mut MembershipCache,
        look_up: bool,
    ) -> Result<Self> {
        let mut assignments: Vec<&Assignment> = Vec::new();
        for job in jobs {
            if !assignments.contains(&&job.assignment) {
                assignments.push(&job.assignment);
            }
        }
        let mut ids: Vec<ConversationId> = jobs.iter().map(|job| job.conversation).collect();
        ids.sort_unstable();
        ids.dedup();
        let (heads, allowed) = head::lock_heads(connection, &ids, &assignments).await?;
        let owned = assignments
            .iter()
            .zip(allowed)
            .filter(|(_, ok)| *ok)
            .map(|(a, _)| a.range.start)
            .collect();
        let heads: HashMap<ConversationId, Head> = heads
            .into_iter()
            .filter(|head| head.deleted_at.is_none())
            .map(|head| (head.id, head))
            .collect();
        let members = members_of(connection, jobs, &heads, memberships).await?;
        let known = if look_up {
            find_known(connection, jobs).await?
        } else {
            HashMap::new()
        };
        Ok(Self {
            owned,
            heads,
            members,
            known,
            new: Vec::new(),
            changed: HashSet::new(),
            moved: HashSet::new(),
            fallen: Vec::new(),
            events: Vec::new(),
        })
    }

    /// Applies the jobs in their order and writes everything they changed.
    pub(super) async fn store(
        mut self,
        connection: &mut Connection,
        jobs: &'a [Job],
    ) -> Result<Committed> {
        let now = Timestamp::now();
        let outcomes: Vec<Result<Outcome>> = jobs.iter().map(|job| self.apply(job, now)).collect();
        message::insert(connection, &self.new).await?;
        let changed: Vec<&Head> = self
            .heads
            .values()
            .filter(|head| self.changed.contains(&head.id))
            .collect();
        head::save_appended(connection, &changed).await?;
        let moved = self.moved.iter();
        let moved = moved.filter_map(|key| Some((key.0, self.members.get(key)?)));
        let fallen = self.fallen.iter().map(|(id, member)| (*id, member));
        let moved: Vec<(ConversationId, &Membership)> = moved.chain(fallen).collect();
        member::save_watermarks(connection, &moved).await?;
        let own_marks = self.own_marks();
        list_marks::mark(connection, &own_marks).await?;
        let relayed = changed.iter().filter(|head| head.relayed);
        let mut marked: HashSet<ConversationId> = relayed.map(|head| head.id).collect();
        marked.extend(own_marks.into_iter().map(|(id, _)| id));
        Ok(Committed {
            outcomes,
            events: self.events,
            marked,
        })
    }

    /// A watermark is told to its own user's list, except in a large conversation. Where there is a message too, the head's
    /// mark tells everybody's.
    fn own_marks(&self) -> Vec<(ConversationId, &'a UserId)> {
        let relayed = |id: &ConversationId| self.heads.get(id).is_some_and(|head| head.relayed);
        let moved = self.moved.iter().copied();
        moved
            .filter(|(id, _)| relayed(id) && !self.changed.contains(id))
            .collect()
    }

    fn apply(&mut self, job: &'a Job, now: Timestamp) -> Result<Outcome> {
        if !self.owned.contains(&job.assignment.range.start) {
            return Err(Error::NotOwner(job.assignment.shard.clone()));
        }
        match &job.work {
            Work::Send(drafts) => {
                let sent = drafts.iter().map(|draft| self.send(job, draft, now));
                Ok(Outcome::Sent(sent.collect()))
            }
            Work::Read(seq) => self.watermark(job, *seq, true).map(Outcome::Watermarks),
            Work::Delivered(seq) => self.watermark(job, *seq, false).map(Outcome::Watermarks),
        }
    }

    fn send(&mut self, job: &'a Job, draft: &'a Draft, now: Timestamp) -> Result<Sent> {
        let id = job.conversation;
        let head = self.heads.get_mut(&id).ok_or(Error::NotMember)?;
        let member = self
            .members
            .get_mut(&(id, &job.user))
            .ok_or(Error::NotMember)?;
        let key = draft
            .client_msg_id
            .as_deref()
            .map(|client_msg_id| (id, &job.user, client_msg_id));
        if let Some(stored) = key.and_then(|key| self.known.get(&key)) {
            if stored.body_digest != draft.body_digest {
                return Err(Error::IdempotencyConflict(OTHER_BODY));
            }
            let message = stored.clone().into_message(id, DeliveryStatus::Sent)?;
            return Ok(Sent {
                message,
                created: false,
            });
        }
        if draft.reply_to.is_some_and(|seq| seq > head.head_seq) {
            return Err(Error::invalid("replyTo", "there is no such message"));
        }
        // Time never runs backwards within a conversation, whatever the clocks of several routers say.
        let stored = draft.clone().into_stored(
            head.head_seq.next(),
            head.next_rev(),
            job.user.clone(),
            now.max(head.last_at),
        );
        head.append(&stored);
        head.marked |= head.relayed;
        // Who answers has read. The head tells so, until others have written since.
        member.read_seq = stored.seq;
        member.delivered_seq = stored.seq;
        if let Some((user, seq)) = head.latest_senders.wrote(&job.user, stored.seq) {
            let mut fallen = Membership::unknown(user);
            (fallen.read_seq, fallen.delivered_seq) = (seq, seq);
            self.fallen.push((id, fallen));
        }
        self.changed.insert(id);
        let message = stored.clone().into_message(id, DeliveryStatus::Sent)?;
        self.events
            .push(CommitEvent::MessageCreated(message.clone()));
        if let Some(key) = key {
            self.known.insert(key, stored.clone());
        }
        self.new.push((id, stored));
        Ok(Sent {
            message,
            created: true,
        })
    }

    fn watermark(&mut self, job: &'a Job, seq: Option<Seq>, read: bool) -> Result<Watermarks> {
        let head = self.heads.get(&job.conversation).ok_or(Error::NotMember)?;
        let member = self
            .members
            .get_mut(&(job.conversation, &job.user))
            .ok_or(Error::NotMember)?;
        let seq = seq.unwrap_or(head.head_seq);
        if seq > head.head_seq {
            return Err(Error::invalid(
                "seq",
                format!("the newest message is {}", head.head_seq),
            ));
        }
        let before = (member.read_seq, member.delivered_seq);
        if read {
            member.read_seq = member.read_seq.max(seq);
        }
        member.delivered_seq = member.delivered_seq.max(seq);
        let watermarks = Watermarks {
            conversation_id: job.conversation,
            read_seq: member.read_seq,
            delivered_seq: member.delivered_seq,
            unread_count: head.head_seq.0.saturating_sub(member.read_seq.0),
        };
        if before != (member.read_seq, member.delivered_seq) {
            self.moved.insert((job.conversation, &job.user));
            self.events.push(CommitEvent::WatermarksMoved {
                user: job.user.clone(),
                before,
                watermarks,
                members: head.member_count,
            });
        }
        Ok(watermarks)
    }
}

/// The active memberships of the jobs' users. Whoever moves watermarks by themselves needs them as they are stored; a
/// message moves its sender's to the head, wherever they were, so a remembered membership does for it.
async fn members_of<'a>(
    connection: &mut Connection,
    jobs: &'a [Job],
    heads: &HashMap<ConversationId, Head>,
    memberships: &mut MembershipCache,
) -> Result<HashMap<MemberKey<'a>, Membership>> {
    let key = |job: &'a Job| (job.conversation, &job.user);
    let mut unknown: HashSet<MemberKey<'a>> = jobs
        .iter()
        .filter(|job| !matches!(job.work, Work::Send(_)) && heads.contains_key(&job.conversation))
        .map(key)
        .collect();
    let mut members = HashMap::with_capacity(jobs.len());
    for job in jobs {
        let Some(head) = heads.get(&job.conversation) else {
            continue;
        };
        if members.contains_key(&key(job)) || unknown.contains(&key(job)) {
            continue;
        }
        match memberships.get(head, &job.user) {
            Some(membership) => drop(members.insert(key(job), membership.clone())),
            None => drop(unknown.insert(key(job))),
        }
    }
    let unknown: Vec<MemberKey<'a>> = unknown.into_iter().collect();
    let read = member::pairs(connection, &unknown).await?;
    let mut read: HashMap<(ConversationId, UserId), Membership> = read
        .into_iter()
        .filter(|(_, membership)| membership.is_active())
        .map(|(id, membership)| ((id, membership.user.clone()), membership))
        .collect();
    for key in unknown {
        let (id, user) = key;
        if let Some(head) = heads.get(&id)
            && let Some(mut membership) = read.remove(&(id, user.clone()))
        {
            head.latest_senders.move_on([&mut membership]);
            memberships.put(head, membership.clone());
            members.insert(key, membership);
        }
    }
    Ok(members)
}

/// By the unique index `messages_client_msg_id`.
const KNOWN: &str = concat!(
    "SELECT conversation_id, ",
    message_columns!(),
    " FROM messages {by messages_client_msg_id} WHERE "
);

async fn find_known<'a>(
    connection: &mut Connection,
    jobs: &'a [Job],
) -> Result<HashMap<MessageKey<'a>, StoredMessage>> {
    let keys: HashSet<MessageKey<'a>> = jobs
        .iter()
        .flat_map(|job| {
            let named = job.drafts().iter().flat_map(|draft| &draft.client_msg_id);
            named.map(|key| (job.conversation, &job.user, key.as_str()))
        })
        .collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<MessageKey<'a>> = keys.into_iter().collect();
    let args: Vec<Value<'_>> = padded(&keys)
        .flat_map(|(id, user, key)| values![id, *user, key.as_bytes()])
        .collect();
    let columns = ["conversation_id", "sender_id", "client_msg_id"];
    let condition = in_rows(columns, args.len() / 3);
    let mut stored: HashMap<(ConversationId, UserId, String), StoredMessage> = HashMap::new();
    for row in connection
        .fetch_all(&format!("{KNOWN}{condition}"), &args)
        .await?
    {
        let message = StoredMessage::from_row(&row, 1)?;
        let client_msg_id = message.client_msg_id.clone().unwrap_or_default();
        stored.insert(
            (row.conversation(0)?, message.sender.clone(), client_msg_id),
            message,
        );
    }
    let found = keys.into_iter().filter_map(|key| {
        Some((
            key,
            stored.remove(&(key.0, key.1.clone(), key.2.to_owned()))?,
        ))
    });
    Ok(found.collect())
}
