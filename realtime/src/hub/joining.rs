//! Lets sessions listen: to conversations that they open, and to their user's list.
//!
//! A session that resumes receives all changes that it missed, in order, or a `resync`: never a part (INV-PUSH). The changes
//! come from the feed's recent ones; when they do not reach back far enough, from the bus's window, and last from the log,
//! with one read for all sessions that missed about the same.
//!
//! A join is recorded in the session before the session listens. A member who is expelled at that moment has the conversation
//! closed and receives `left_conversation`, whichever comes first (INV-MEMBER).

use std::sync::Arc;

use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Rev};
use backscroll_shard::model::{ConversationHead, Message};
use backscroll_shard::store::Standing;
use futures_util::FutureExt as _;

use super::conversation::ConversationTopic;
use super::healing::{Healer, LogTopic};
use super::list::ListTopic;
use super::log_reader::{Changes, LogReader, REPLAY_MAX, ReplayBudget};
use super::topics::{Entry, Topics};
use crate::bus::Bus;
use crate::client_event::ClientEvent;
use crate::metrics;
use crate::protocol::events::EventName;
use crate::publisher::{entry_push, message_push};
use crate::push::{Push, PushKind, Topic};
use crate::session::Session;

/// Most messages of one conversation that a session receives because its user's devices have not received them.
const UNDELIVERED_MAX: usize = 100;

/// A conversation that a session opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Joined {
    /// The session receives every change after the rev that it knew.
    Whole(ConversationHead),
    /// The session receives the changes after this head. Those that it missed before are too many: it has to load them.
    Refused(ConversationHead),
}

/// Lets the sessions of a node listen.
pub(crate) struct Joiner {
    topics: Arc<Topics>,
    log: Arc<LogReader>,
    healer: Arc<Healer>,
    bus: Arc<dyn Bus>,
    /// Most bytes that may wait for a session after missed changes were added.
    replay_bytes: usize,
}

impl Joiner {
    /// Lets sessions listen to `topics`; missed changes come from `bus` and `log`.
    pub(crate) fn new(
        topics: Arc<Topics>,
        log: Arc<LogReader>,
        healer: Arc<Healer>,
        bus: Arc<dyn Bus>,
        replay_bytes: usize,
    ) -> Self {
        Self {
            topics,
            log,
            healer,
            bus,
            replay_bytes,
        }
    }

    /// Opens a conversation for `session`, which has its changes up to `known`; without `known`, the session receives
    /// `joined_conversation` and the changes from now on. Missed changes are taken from `budget`.
    ///
    /// # Errors
    /// [`Error::NotMember`]; [`Error::DeadlineExceeded`] when the shard does not answer; [`Error::Closing`] when the session has
    /// ended meanwhile.
    pub(crate) async fn join(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
        known: Option<Rev>,
        budget: &ReplayBudget,
    ) -> Result<Joined> {
        let (entry, Standing { head, .. }) = self.enter(session, id).await?;
        let whole = match known {
            Some(known) if known > head.rev => false, // the log was set back, or the client made the rev up
            Some(known) => self.replay(&entry, session, known, &head, budget).await,
            None => false,
        };
        if !whole {
            listen_from_now(&entry, session, &head, known.is_none());
        }
        self.check_again(&entry, session, &head).await?;
        Ok(if whole || known.is_none() {
            Joined::Whole(head)
        } else {
            Joined::Refused(head)
        })
    }

    /// Opens a conversation for `session`, whose client does not say what it has: the session receives `joined_conversation`,
    /// the messages after its user's delivered watermark as new ones, and every change from there on. Those messages are the
    /// newest [`UNDELIVERED_MAX`] at most, and no more than `budget` and the session's queue have room for. A session that has
    /// the conversation open receives nothing again.
    ///
    /// # Errors
    /// As [`Joiner::join`], and when the messages cannot be read; then the conversation is not open.
    pub(crate) async fn join_after_delivered(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
        budget: &ReplayBudget,
    ) -> Result<()> {
        let (entry, standing) = self.enter(session, id).await?;
        let opened = self.open_after_delivered(&entry, session, &standing, budget);
        if let Err(error) = opened.await {
            session.record_leave(id);
            entry.lock().leave(session);
            self.topics.conversations.drop_unused(&entry);
            return Err(error);
        }
        self.check_again(&entry, session, &standing.head).await
    }

    async fn open_after_delivered(
        &self,
        entry: &Entry<ConversationTopic>,
        session: &Arc<Session>,
        standing: &Standing,
        budget: &ReplayBudget,
    ) -> Result<()> {
        let messages = self.undelivered(session, standing, budget).await?;
        let announced = ClientEvent::new(EventName::JoinedConversation, &standing.head);
        let mut events = vec![Arc::new(announced)];
        events.extend(self.fitting(session, &messages));
        // The messages are those up to the head: the changes since then follow them, whatever happened while they were read.
        let known = standing.head.rev;
        let listens = listen_after(entry, session, known, &events)
            || self.read_back(entry, known).await && listen_after(entry, session, known, &events);
        listens.then_some(()).ok_or(Error::DeadlineExceeded)
    }

    /// The newest messages up to the head of `standing` that no device of the session's user has received.
    async fn undelivered(
        &self,
        session: &Session,
        standing: &Standing,
        budget: &ReplayBudget,
    ) -> Result<Vec<Message>> {
        let head = standing.head;
        let missed = head.head_seq.0.saturating_sub(standing.delivered_seq.0);
        let missed = usize::try_from(missed).unwrap_or(UNDELIVERED_MAX);
        let count = budget.take_up_to(missed.min(UNDELIVERED_MAX));
        if count == 0 {
            return Ok(Vec::new());
        }
        let reading = self
            .log
            .messages_up_to(&head, &session.user, count)
            .boxed()
            .await;
        match reading {
            // The watermark passes by them; the REST API gives them when the archive can be read again.
            Err(Error::ArchiveUnavailable | Error::ArchiveDamaged(_)) => Ok(Vec::new()),
            read => read,
        }
    }

    /// The events of those of `messages` that are not deleted, as new ones: the newest for which the session's queue has room.
    fn fitting(&self, session: &Session, messages: &[Message]) -> Vec<Arc<ClientEvent>> {
        let mut room = self.replay_bytes.saturating_sub(session.outbox.bytes());
        let mut events = Vec::new();
        for message in messages.iter().rev() {
            if message.deleted_at.is_some() {
                continue;
            }
            let push = message_push(PushKind::NewMessage, message);
            let event = ClientEvent::of(&Topic::Conversation(message.conversation_id), &push);
            let Some(event) = event.filter(|event| event.data().len() <= room) else {
                break;
            };
            room -= event.data().len();
            events.push(Arc::new(event));
        }
        events.reverse();
        events
    }

    /// Opens the topic of a conversation for a member, and records the join in the session, which does not listen yet.
    async fn enter(
        &self,
        session: &Arc<Session>,
        id: ConversationId,
    ) -> Result<(Arc<Entry<ConversationTopic>>, Standing)> {
        // The topic first: what happens after the standing is read reaches the feed.
        let entry = self.topics.conversations.open(id).await;
        let standing = match self.log.standing(id, &session.user).await {
            Ok(standing) => standing,
            Err(error) => {
                if matches!(error, Error::NotMember) {
                    self.topics.expel(session, id); // the session may have had it open
                }
                self.topics.conversations.drop_unused(&entry);
                return Err(error);
            }
        };
        let head = standing.head;
        let delivery = {
            let mut state = entry.lock();
            let mut delivery = state.start_at(&standing);
            delivery.gap |= state.feed.rev().is_some_and(|rev| rev < head.rev);
            delivery
        };
        let topic = LogTopic::Conversation(Arc::clone(&entry));
        self.healer.follow_up(topic, delivery);
        // Recorded before the session listens: see the module's head.
        if !session.record_join(id) {
            return Err(Error::Closing);
        }
        Ok((entry, standing))
    }

    /// Checks a membership that may have ended while the session joined.
    async fn check_again(
        &self,
        entry: &Entry<ConversationTopic>,
        session: &Arc<Session>,
        head: &ConversationHead,
    ) -> Result<()> {
        let id = entry.key;
        let ahead = entry.lock().feed.rev().is_some_and(|rev| rev > head.rev);
        if ahead
            && matches!(
                self.log.standing(id, &session.user).await,
                Err(Error::NotMember)
            )
        {
            self.topics.expel(session, id);
        }
        if !session.has_joined(id) {
            entry.lock().leave(session);
            return Err(Error::NotMember);
        }
        Ok(())
    }

    /// Lets `session` listen from `known` on. `false` when it missed too much; then it does not listen.
    async fn replay(
        &self,
        entry: &Entry<ConversationTopic>,
        session: &Arc<Session>,
        known: Rev,
        head: &ConversationHead,
        budget: &ReplayBudget,
    ) -> bool {
        let missed = usize::try_from(head.rev.0 - known.0).unwrap_or(usize::MAX);
        if !budget.take(missed) {
            return false;
        }
        if let Some(listens) = self.listen_from(entry, session, known) {
            return listens;
        }
        let _one_reads = entry.reading.lock().await;
        if let Some(listens) = self.listen_from(entry, session, known) {
            return listens; // read meanwhile
        }
        self.read_back(entry, known).await
            && self.listen_from(entry, session, known).unwrap_or(false)
    }

    /// Lets `session` listen from `known` on, if the changes since then are among the recent ones: none when they are not,
    /// `false` when they are more than may wait for a session.
    fn listen_from(
        &self,
        entry: &Entry<ConversationTopic>,
        session: &Arc<Session>,
        known: Rev,
    ) -> Option<bool> {
        let mut state = entry.lock();
        let feed = &mut state.feed;
        let bytes = feed.bytes_since(known)?;
        if session.outbox.bytes() + bytes > self.replay_bytes {
            return Some(false);
        }
        Some(feed.listen(session, known, None).is_ok())
    }

    /// Adds the changes after `known` to the recent ones: from the bus's window, or from the log.
    async fn read_back(&self, entry: &Entry<ConversationTopic>, known: Rev) -> bool {
        let id = entry.key;
        let window = self.bus.recent(id, known).await;
        if let Some(through) = window.last().map(|last| last.rev)
            && entry.lock().feed.extend_back(known, &window, through)
        {
            metrics::FILLS.with(["window"]).increment(1);
            return true;
        }
        metrics::FILLS.with(["log"]).increment(1);
        match self.log.changes(id, known, None).await {
            Ok(Changes::Some {
                changes, through, ..
            }) => entry.lock().feed.extend_back(known, &changes, through),
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "changes that a session missed cannot be read");
                false
            }
        }
    }

    /// Lets `session` listen to its user's list, whose changes it has up to `known`. Returns the rev after which the session
    /// receives all changes; none when that is not known, or when it missed too much.
    pub(crate) async fn follow_list(
        &self,
        session: &Arc<Session>,
        known: Option<Rev>,
    ) -> Option<Rev> {
        let entry = self.topics.lists.open(session.user.clone()).await;
        let asked = self.log.list_rev(&session.user).await;
        let Some(rev) = asked.or_else(|| entry.lock().feed.rev()) else {
            // The audit will find the list's rev, and has the session load the list then.
            let _ = entry.lock().feed.listen(session, Rev(0), None); // never fails without a rev
            return None;
        };
        let delivery = {
            let mut state = entry.lock();
            if state.feed.rev().is_none() && !state.feed.is_unused() {
                state.reload_at(rev) // the other sessions have listened since before the rev was known
            } else {
                state.start_at(rev)
            }
        };
        self.healer
            .follow_up(LogTopic::List(Arc::clone(&entry)), delivery);
        let after = known.unwrap_or(rev);
        if after <= rev {
            if entry.lock().feed.listen(session, after, None).is_ok() {
                return Some(after);
            }
            if let Some(after) = self.replay_list(&entry, session, after).await {
                return Some(after);
            }
        }
        let mut state = entry.lock();
        let feed = &mut state.feed;
        let now = feed.rev().unwrap_or(rev);
        let _ = feed.listen(session, now, None); // never fails from the feed's own rev
        None
    }

    /// Reads the changes of a list that are no longer among the recent ones, and lets `session` listen from there on. None when
    /// they are too many.
    async fn replay_list(
        &self,
        entry: &Entry<ListTopic>,
        session: &Arc<Session>,
        after: Rev,
    ) -> Option<Rev> {
        let read = self.log.list_changes(&session.user, after).await;
        let entries = match read {
            Ok(entries) if entries.len() < REPLAY_MAX => entries,
            Ok(_) => return None,
            Err(error) => {
                tracing::warn!(%error, "changes of a list that a session missed cannot be read");
                return None;
            }
        };
        let through = entries.last().map_or(after, |(rev, _)| *rev);
        let topic = Topic::User(session.user.clone());
        let mut state = entry.lock();
        let feed = &mut state.feed;
        feed.bytes_since(through)?;
        for (rev, changed) in &entries {
            let push: Push = entry_push(*rev, changed);
            if let Some(event) = ClientEvent::of(&topic, &push) {
                session.outbox.put_event(&Arc::new(event));
            }
        }
        feed.listen(session, through, None).ok().map(|()| after)
    }
}

/// Gives `events` to `session` and lets it listen from `known` on; does nothing when it listens already. `false` when the changes
/// since `known` are no longer among the recent ones.
fn listen_after(
    entry: &Entry<ConversationTopic>,
    session: &Arc<Session>,
    known: Rev,
    events: &[Arc<ClientEvent>],
) -> bool {
    let mut state = entry.lock();
    let feed = &mut state.feed;
    if feed.listens(session) {
        return true;
    }
    if feed.rev().is_some() && feed.bytes_since(known).is_none() {
        return false;
    }
    for event in events {
        session.outbox.put_event(event);
    }
    feed.listen(session, known, None).is_ok()
}

/// Lets `session` listen from `head` on, or from the feed's own rev when that is further and the changes between are no longer
/// among the recent ones. With `announce`, it receives `joined_conversation` first.
fn listen_from_now(
    entry: &Entry<ConversationTopic>,
    session: &Arc<Session>,
    head: &ConversationHead,
    announce: bool,
) {
    let announced = Arc::new(ClientEvent::new(EventName::JoinedConversation, head));
    let first = announce.then_some(&announced);
    let mut state = entry.lock();
    let feed = &mut state.feed;
    if feed.listen(session, head.rev, first).is_err()
        && let Some(rev) = feed.rev()
    {
        let _ = feed.listen(session, rev, first); // never fails from the feed's own rev
    }
}
