//! Heals feeds: reads the changes that the bus lost from the log, once for all sessions that listen (INV-PUSH), and checks
//! the sessions' memberships when members may have left (INV-MEMBER).
//!
//! A read that fails is tried again as long as a session listens. At most one task heals a feed at a time.

use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::error::{Error, Result};
use backscroll_shard::tasks::OneShots;
use tokio_util::sync::CancellationToken;

use super::conversation::ConversationTopic;
use super::feed::{Delivery, Feed};
use super::list::ListTopic;
use super::log_reader::{Changes, LogReader, REPLAY_MAX};
use super::topics::{Entry, Topics};
use crate::metrics;
use crate::presence::fan_out::PresenceFanOut;
use crate::protocol::Close;
use crate::publisher::entry_push;
use crate::push::Push;
use crate::session::Session;

/// How long a missing change may still be on its way before the log is read.
pub(super) const LATE: Duration = Duration::from_millis(100);
/// How long to wait before a failed read is tried again, on average.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How many memberships are asked for at the same time. In a conversation with more sessions, changes of its members are
/// gathered for [`RETRY`] before the memberships are checked.
const CHECKED_AT_ONCE: usize = 100;

/// A topic whose changes are in a log.
#[derive(Clone, Debug)]
pub(crate) enum LogTopic {
    /// A conversation.
    Conversation(Arc<Entry<ConversationTopic>>),
    /// A user's list.
    List(Arc<Entry<ListTopic>>),
}

impl LogTopic {
    /// What `read` makes of the topic's feed, which is locked meanwhile.
    pub(super) fn feed<R>(&self, read: impl FnOnce(&mut Feed) -> R) -> R {
        match self {
            Self::Conversation(entry) => read(&mut entry.lock().feed),
            Self::List(entry) => read(&mut entry.lock().feed),
        }
    }
}

/// A follow-up that has not been done. Dropped, because its task panicked or found no room, it is made up for.
struct Unfinished(LogTopic, fn(&LogTopic));

impl Unfinished {
    fn finish(mut self) {
        self.1 = |_| {};
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        (self.1)(&self.0);
    }
}

/// Whether the sessions' users are still members is not known: they come back, and are asked for again (INV-MEMBER).
fn cut_off(topic: &LogTopic) {
    if let LogTopic::Conversation(entry) = topic {
        entry.lock().checking_members = false;
    }
    topic.feed(|feed| {
        for session in feed.listeners() {
            session.outbox.close(Close::Internal);
        }
    });
}

/// The audit finds the gap again.
fn stop_healing(topic: &LogTopic) {
    topic.feed(|feed| feed.healing = false);
}

/// Heals the feeds of a node.
pub(crate) struct Healer {
    topics: Arc<Topics>,
    log: Arc<LogReader>,
    presence: Arc<PresenceFanOut>,
    follow_ups: OneShots,
    closing: CancellationToken,
}

impl Healer {
    /// Heals the feeds of `topics` from `log`, in tasks of their own, until `closing`.
    pub(crate) fn new(
        topics: Arc<Topics>,
        log: Arc<LogReader>,
        presence: Arc<PresenceFanOut>,
        follow_ups: &OneShots,
        closing: &CancellationToken,
    ) -> Self {
        Self {
            topics,
            log,
            presence,
            follow_ups: follow_ups.clone(),
            closing: closing.clone(),
        }
    }

    /// Starts the tasks that a delivery calls for, unless they run already.
    pub(crate) fn follow_up(self: &Arc<Self>, topic: LogTopic, delivery: Delivery) {
        if delivery.members_unknown
            && let LogTopic::Conversation(entry) = &topic
            && !std::mem::replace(&mut entry.lock().checking_members, true)
        {
            let (healer, entry) = (Arc::clone(self), Arc::clone(entry));
            let unfinished = Unfinished(LogTopic::Conversation(Arc::clone(&entry)), cut_off);
            let _ = self.follow_ups.spawn(async move {
                healer.check_members_soon(&entry).await;
                unfinished.finish();
            });
        }
        if delivery.gap && !topic.feed(|feed| std::mem::replace(&mut feed.healing, true)) {
            let healer = Arc::clone(self);
            let unfinished = Unfinished(topic.clone(), stop_healing);
            let _ = self.follow_ups.spawn(async move {
                tokio::time::sleep(LATE).await;
                healer.heal(&topic).await;
                unfinished.finish();
            });
        }
    }

    /// Reads missing changes until none is missing.
    async fn heal(&self, topic: &LogTopic) {
        while !self.closing.is_cancelled() {
            let before = topic.feed(|feed| feed.rev());
            let read = match topic {
                LogTopic::Conversation(entry) => self.heal_conversation(entry).await,
                LogTopic::List(entry) => self.heal_list(entry).await,
            };
            let delivery = match read {
                Ok(delivery) => delivery,
                Err(error) => {
                    tracing::debug!(?topic, %error, "lost changes cannot be read yet");
                    if topic.feed(|feed| feed.is_unused()) {
                        break;
                    }
                    tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.5..1.5))).await;
                    continue;
                }
            };
            if delivery.members_unknown
                && let LogTopic::Conversation(entry) = topic
            {
                self.check_members(entry).await;
            }
            let done = topic.feed(|feed| {
                let stuck = feed.rev() == before;
                if stuck {
                    feed.forget_early(); // the log does not have them, nor would another read
                }
                // A change that arrived early meanwhile started no healing of its own.
                let done = stuck || !delivery.gap && !feed.has_early();
                feed.healing = !done;
                done
            });
            if done {
                return;
            }
        }
        topic.feed(|feed| feed.healing = false);
    }

    async fn heal_conversation(&self, entry: &Entry<ConversationTopic>) -> Result<Delivery> {
        let id = entry.key;
        let Some((rev, newest)) = entry.lock().position() else {
            return Ok(Delivery::default());
        };
        metrics::HEALS.with(["conversation"]).increment(1);
        match self.log.changes(id, rev, Some(newest)).await {
            Ok(Changes::None) => Ok(Delivery::default()),
            Ok(Changes::Some {
                changes,
                through,
                newest,
                complete,
                members,
            }) => {
                let mut delivery = entry.lock().heal(changes, through, newest);
                delivery.members_unknown |= members;
                delivery.gap |= !complete;
                Ok(delivery)
            }
            Ok(Changes::TooMany(head)) => {
                let mut delivery = entry.lock().reload_at(head);
                delivery.members_unknown = true;
                Ok(delivery)
            }
            Err(Error::NotMember) => {
                // The conversation is gone.
                let sessions: Vec<Arc<Session>> = entry.lock().feed.listeners().cloned().collect();
                for session in sessions {
                    self.topics.expel(&session, id);
                }
                Ok(Delivery::default())
            }
            Err(error) => Err(error),
        }
    }

    async fn heal_list(&self, entry: &Entry<ListTopic>) -> Result<Delivery> {
        let Some(rev) = entry.lock().feed.rev() else {
            return Ok(Delivery::default());
        };
        metrics::HEALS.with(["list"]).increment(1);
        let entries = self.log.list_changes(&entry.key, rev).await?;
        let Some((through, _)) = entries.last() else {
            return Ok(Delivery::default());
        };
        let changes: Vec<Push> = entries
            .iter()
            .map(|(rev, entry)| entry_push(*rev, entry))
            .collect();
        let mut delivery = entry.lock().heal(changes, *through);
        delivery.gap |= entries.len() >= REPLAY_MAX;
        Ok(delivery)
    }

    /// Checks the memberships, but not after every single change of a large conversation whose members come and go.
    async fn check_members_soon(&self, entry: &Arc<Entry<ConversationTopic>>) {
        let sessions = entry.lock().feed.listeners().len();
        if sessions > CHECKED_AT_ONCE {
            tokio::time::sleep(RETRY).await;
        }
        entry.lock().checking_members = false; // a change from here on needs a check of its own
        self.check_members(entry).await;
    }

    /// Expels the sessions of users who are no longer members.
    async fn check_members(&self, entry: &Arc<Entry<ConversationTopic>>) {
        let id = entry.key;
        self.presence.members_changed(entry);
        let mut unchecked: Vec<Arc<Session>> = entry.lock().feed.listeners().cloned().collect();
        while !unchecked.is_empty() && !self.closing.is_cancelled() {
            let mut failed = Vec::new();
            for sessions in unchecked.chunks(CHECKED_AT_ONCE) {
                let asked = sessions
                    .iter()
                    .map(|session| self.log.standing(id, &session.user));
                let standings = futures_util::future::join_all(asked).await;
                for (session, standing) in sessions.iter().zip(standings) {
                    match standing {
                        Ok(_) => {}
                        Err(Error::NotMember) => self.topics.expel(session, id),
                        Err(_) => failed.push(Arc::clone(session)),
                    }
                }
            }
            failed.retain(|session| session.has_joined(id));
            if !failed.is_empty() {
                tokio::time::sleep(RETRY).await;
            }
            unchecked = failed;
        }
    }
}
