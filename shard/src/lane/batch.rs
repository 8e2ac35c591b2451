//! The transaction of a write lane: fences and heads locked, memberships and repeated messages looked up, the jobs applied in
//! their order, and everything they changed written.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::cache::MembershipCache;
use super::repeats::{MessageKey, again, find_known};
use super::{Job, Outcome, Work};
use crate::commit_event::CommitEvent;
use crate::db::Connection;
use crate::error::{Error, Result};
use crate::head::{self, Head};
use crate::ids::{ConversationId, MediaId, Seq, UserId};
use crate::list_marks;
use crate::media;
use crate::member::{self, Membership, StoredMembership};
use crate::mentions;
use crate::message::{self, Draft, Shown, StoredMessage, attachments};
use crate::model::{DeliveryStatus, Media, Role, Sent, Timestamp, Watermarks};
use crate::owned::{Entity, OwnedReader, OwnedTransaction, WriteScope};
use crate::receipts;
use crate::threads::{self, NewReply, Threads};

/// What a transaction did.
pub(super) struct Committed {
    pub(super) outcomes: Vec<Result<Outcome>>,
    pub(super) events: Vec<CommitEvent>,
    pub(super) marked: HashSet<ConversationId>,
}

impl Committed {
    /// Whether this transaction, whose COMMIT was not answered, was committed: `again`, which ran the same jobs after it with a
    /// look-up, found each of its messages in its place. Then this is what there is to tell: to `again` all was a repetition.
    pub(super) fn is_stored(&self, again: &Self) -> bool {
        let mut created = self.sent().filter(|(_, sent)| sent.created).peekable();
        let found = again.sent().collect::<HashMap<_, _>>();
        created.peek().is_some()
            && created.all(|(place, sent)| {
                let again = found.get(&place).filter(|again| !again.created);
                again.is_some_and(|again| again.message.seq == sent.message.seq)
            })
    }

    /// How many messages are new.
    pub(super) fn created(&self) -> u64 {
        self.sent().filter(|(_, sent)| sent.created).count() as u64
    }

    /// What was sent, with its place: the job's, and that within the job.
    fn sent(&self) -> impl Iterator<Item = ((usize, usize), &Sent)> {
        self.outcomes
            .iter()
            .enumerate()
            .filter_map(|(job, outcome)| match outcome {
                Ok(Outcome::Sent(sent)) => Some((job, sent)),
                _ => None,
            })
            .flat_map(|(job, sent)| {
                let sent = sent.iter().enumerate();
                sent.filter_map(move |(n, sent)| Some(((job, n), sent.as_ref().ok()?)))
            })
    }
}

/// Most mentioned users looked up in one statement.
const MENTIONED_AT_ONCE: usize = 500;

type MemberKey<'a> = (ConversationId, &'a UserId);

/// One transaction's view of the rows its jobs need.
pub(super) struct Batch<'a> {
    /// May write the conversations for which the shard takes writes.
    transaction: OwnedTransaction<'a>,
    heads: HashMap<ConversationId, Head>,
    members: HashMap<MemberKey<'a>, Membership>,
    /// Messages by client message id: those found stored, and those of this batch.
    known: HashMap<MessageKey<'a>, Shown>,
    /// The files that the messages name, locked.
    media: HashMap<(ConversationId, MediaId), Media>,
    /// Which of the new messages use which files.
    refs: Vec<(ConversationId, Seq, MediaId)>,
    /// What the messages show of their replies that are answered, as of the messages so far.
    threads: Threads,
    replies: Vec<NewReply>,
    /// Those of the users whom the messages mention that are members.
    mentioned: HashSet<(ConversationId, UserId)>,
    /// How far members have read, of conversations in which they may have unread mentions.
    read: HashMap<MemberKey<'a>, Seq>,
    new: Vec<(ConversationId, StoredMessage)>,
    changed: HashSet<ConversationId>,
    moved: HashSet<MemberKey<'a>>,
    /// The watermarks of senders that the heads no longer name.
    fallen: Vec<(ConversationId, Membership)>,
    events: Vec<CommitEvent>,
}

impl<'a> Batch<'a> {
    /// Checks the fences, locks the heads and reads what the jobs depend on.
    pub(super) async fn load(
        connection: &'a mut Connection,
        jobs: &'a [Job],
        memberships: &mut MembershipCache,
        look_up: bool,
    ) -> Result<Self> {
        let mut scope = WriteScope::default();
        for job in jobs {
            scope.add(&job.assignment, Entity::Conversation(job.conversation));
        }
        let (mut transaction, heads) = head::lock_with_fences(connection, &scope).await?;
        let heads: HashMap<ConversationId, Head> = heads
            .into_iter()
            .filter(|head| head.deleted_at.is_none())
            .map(|head| (head.id, head))
            .collect();
        let members = members_of(&mut transaction, jobs, &heads, memberships).await?;
        let known = if look_up {
            let named = jobs.iter().flat_map(|job| {
                let named = job.drafts().iter().flat_map(|draft| &draft.client_msg_id);
                named.map(|key| (job.conversation, &job.user, key.as_str()))
            });
            find_known(&mut transaction, named.collect()).await?
        } else {
            HashMap::new()
        };
        let roots = roots_of(jobs, &known);
        let threads = threads::read(&mut transaction, &roots).await?;
        let media = media_of(&mut transaction, jobs).await?;
        let mentioned = mentioned_members(&mut transaction, jobs).await?;
        Ok(Self {
            transaction,
            heads,
            members,
            known,
            media,
            refs: Vec::new(),
            threads,
            replies: Vec::new(),
            mentioned,
            read: HashMap::new(),
            new: Vec::new(),
            changed: HashSet::new(),
            moved: HashSet::new(),
            fallen: Vec::new(),
            events: Vec::new(),
        })
    }

    /// Applies the jobs in their order and writes everything they changed.
    pub(super) async fn store(mut self, jobs: &'a [Job]) -> Result<Committed> {
        let now = Timestamp::now();
        let outcomes: Vec<Result<Outcome>> = jobs.iter().map(|job| self.apply(job, now)).collect();
        let own_marks = self.own_marks();
        let transaction = &mut self.transaction;
        message::insert(transaction, &self.new).await?;
        media::refer(transaction, &self.refs).await?;
        mentions::insert(transaction, &self.new).await?;
        threads::insert(transaction, &self.replies, &self.threads).await?;
        for (place, seq) in &self.read {
            mentions::remove_read(transaction, *place, *seq).await?;
        }
        let changed: Vec<&Head> = self
            .heads
            .values()
            .filter(|head| self.changed.contains(&head.id))
            .collect();
        head::save_appended(transaction, &changed).await?;
        let moved = self.moved.iter();
        let moved = moved.filter_map(|key| Some((key.0, self.members.get(key)?)));
        let fallen = self.fallen.iter().map(|(id, member)| (*id, member));
        let moved: Vec<(ConversationId, &Membership)> = moved.chain(fallen).collect();
        member::save_watermarks(transaction, &moved).await?;
        let heads = &self.heads;
        let followed = |key: &&MemberKey<'_>| heads.get(&key.0).is_some_and(receipts::are_kept);
        let moved = self.moved.iter().filter(followed);
        let moved = moved.filter_map(|key| Some((key.0, self.members.get(key)?)));
        receipts::record(transaction, &moved.collect::<Vec<_>>(), now).await?;
        list_marks::mark(transaction, &own_marks).await?;
        let relayed = changed.iter().filter(|head| head.relayed);
        let mut marked: HashSet<ConversationId> = relayed.map(|head| head.id).collect();
        marked.extend(own_marks.into_iter().map(|(id, _)| id));
        Ok(Committed {
            outcomes,
            events: self.events,
            marked,
        })
    }

    /// The marks for watermarks: only the user's own list follows, except for a large conversation. Where there is a message
    /// too, the head's mark stands for every member's list.
    fn own_marks(&self) -> Vec<(ConversationId, &'a UserId)> {
        let relayed = |id: &ConversationId| self.heads.get(id).is_some_and(|head| head.relayed);
        let moved = self.moved.iter().copied();
        moved
            .filter(|(id, _)| relayed(id) && !self.changed.contains(id))
            .collect()
    }

    fn apply(&mut self, job: &'a Job, now: Timestamp) -> Result<Outcome> {
        if !self.transaction.may_write(job.conversation) {
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
            return again(stored, id, (draft, &self.threads));
        }
        head.require_accepted()?;
        if draft.reply_to.is_some_and(|seq| seq > head.head_seq) {
            return Err(Error::invalid("replyTo", "there is no such message"));
        }
        if let Some(most) = draft.mention_all {
            mentions::check_everybody(head, member.has(Role::Admin), most)?;
        }
        let is_member = |user: &UserId| {
            mentions::is_everybody(user) || self.mentioned.contains(&(id, user.clone()))
        };
        if let Some(user) = draft.mentions.iter().find(|user| !is_member(user)) {
            let rule = format!("`{user}` is no member of the conversation");
            return Err(Error::invalid("mentions", rule));
        }
        let filled = filled(&self.media, id, &job.user, draft)?;
        // The time of this node's clock, whatever the times of the messages before: the order is that of the seqs.
        let mut stored =
            draft
                .clone()
                .into_stored(head.head_seq.next(), head.next_rev(), job.user.clone(), now);
        if filled.is_some() {
            stored.attachments = filled;
            let refs = draft.media.iter().map(|media| (id, stored.seq, *media));
            self.refs.extend(refs);
        }
        head.append(&stored);
        head.marked |= head.relayed;
        // A sender has read what came before. The head says so, until it no longer names the sender.
        member.read_seq = stored.seq;
        member.delivered_seq = stored.seq;
        if let Some((user, seq)) = head.latest_senders.sent(&job.user, stored.seq) {
            let fallen = Membership::of_fallen_sender(user, seq);
            self.fallen.push((id, fallen));
        }
        self.changed.insert(id);
        let mut message = stored.clone().into_message(id, DeliveryStatus::Sent);
        if let Some(root) = stored.reply_to {
            let thread = self.threads.entry((id, root)).or_default();
            thread.add(stored.created_at);
            message.thread = Some(*thread);
            self.replies.push(NewReply {
                conversation: id,
                root,
                seq: stored.seq,
                sent_at: stored.created_at,
            });
        }
        self.events
            .push(CommitEvent::MessageCreated(message.clone()));
        if let Some(key) = key {
            self.known.insert(key, Shown::from(stored.clone()));
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
        if head.last_mention.is_some_and(|last| last > before.0) && member.read_seq > before.0 {
            let place = (job.conversation, &job.user);
            self.read.insert(place, member.read_seq);
        }
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

/// The messages that those of the jobs answer, and repeated messages.
fn roots_of(
    jobs: &[Job],
    known: &HashMap<MessageKey<'_>, Shown>,
) -> BTreeSet<(ConversationId, Seq)> {
    let answered = jobs.iter().flat_map(|job| {
        let answered = job.drafts().iter().filter_map(|draft| draft.reply_to);
        answered.map(|seq| (job.conversation, seq))
    });
    let repeated = known.iter().map(|((id, ..), shown)| (*id, shown.seq()));
    answered.chain(repeated).collect()
}

/// The files that the jobs' messages name, locked; no statement where they name none.
async fn media_of(
    rows: &mut OwnedTransaction<'_>,
    jobs: &[Job],
) -> Result<HashMap<(ConversationId, MediaId), Media>> {
    let named = jobs.iter().flat_map(|job| {
        let ids = job.drafts().iter().flat_map(|draft| &draft.media);
        ids.map(|id| (job.conversation, *id))
    });
    let named: HashSet<(ConversationId, MediaId)> = named.collect();
    if named.is_empty() {
        return Ok(HashMap::new());
    }
    let named: Vec<(ConversationId, MediaId)> = named.into_iter().collect();
    let found = media::lock_some(rows, &named).await?.into_iter();
    Ok(found
        .map(|media| ((media.conversation, media.id), media))
        .collect())
}

/// Those of the users whom the jobs' messages mention that are members; no statement where they mention nobody.
async fn mentioned_members(
    rows: &mut OwnedReader<'_>,
    jobs: &[Job],
) -> Result<HashSet<(ConversationId, UserId)>> {
    let named = jobs.iter().flat_map(|job| {
        let users = job.drafts().iter().flat_map(|draft| &draft.mentions);
        let users = users.filter(|user| !mentions::is_everybody(user));
        users.map(|user| (job.conversation, user))
    });
    let named: HashSet<(ConversationId, &UserId)> = named.collect();
    let named: Vec<(ConversationId, &UserId)> = named.into_iter().collect();
    let mut members = HashSet::with_capacity(named.len());
    for named in named.chunks(MENTIONED_AT_ONCE) {
        let found = member::pairs(rows, named).await?.into_iter();
        let found = found.filter(|(_, member)| member.is_active());
        members.extend(found.map(|(id, member)| (id, member.user)));
    }
    Ok(members)
}

/// The attachments of a message that names files.
fn filled(
    media: &HashMap<(ConversationId, MediaId), Media>,
    id: ConversationId,
    user: &UserId,
    draft: &Draft,
) -> Result<Option<String>> {
    if draft.media.is_empty() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for media_id in &draft.media {
        let file = media.get(&(id, *media_id));
        media::check_usable(file, user)?;
        files.extend(file);
    }
    let given = draft.attachments.as_deref().unwrap_or("[]");
    attachments::fill(given, &files).map(Some)
}

/// The active memberships of the jobs' users. A job that moves watermarks needs the stored values, so it always reads them; a
/// send moves its sender's watermarks to the head, wherever they were, so a remembered membership is enough.
async fn members_of<'a>(
    rows: &mut OwnedReader<'_>,
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
            Some(membership) => {
                drop(members.insert(key(job), head.complete(membership.clone())));
            }
            None => drop(unknown.insert(key(job))),
        }
    }
    let unknown: Vec<MemberKey<'a>> = unknown.into_iter().collect();
    let read = member::pairs(rows, &unknown).await?;
    let mut read: HashMap<(ConversationId, UserId), StoredMembership> = read
        .into_iter()
        .filter(|(_, membership)| membership.is_active())
        .map(|(id, membership)| ((id, membership.user.clone()), membership))
        .collect();
    for key in unknown {
        let (id, user) = key;
        if let Some(head) = heads.get(&id)
            && let Some(membership) = read.remove(&(id, user.clone()))
        {
            memberships.put(head, membership.clone());
            members.insert(key, head.complete(membership));
        }
    }
    Ok(members)
}
