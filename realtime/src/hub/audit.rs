//! Compares the feeds of a node with the logs, again and again, so that the loss of the last push of a topic is found too
//! (INV-PUSH), and drops topics that no session needs.
//!
//! The logs are asked in batches: their revs only. A feed that is behind its log, and still is a moment later, is healed. A
//! feed that is ahead of its log, as after a failover that lost something, makes its sessions load again.

use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::ids::Rev;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::feed::Delivery;
use super::healing::{Healer, LATE, LogTopic, RETRY};
use super::log_reader::LogReader;
use super::topics::{Topics, may_be_down};
use crate::bus::Bus;
use crate::metrics;
use crate::presence::fan_out::PresenceFanOut;

/// The time between two audits while the bus may be down.
const INTERVAL_IN_DOUBT: Duration = Duration::from_secs(2);
/// Most topics in one comparison.
const BATCH: usize = 4096;

/// Audits the topics of a node.
pub(crate) struct Auditor {
    topics: Arc<Topics>,
    log: Arc<LogReader>,
    presence: Arc<PresenceFanOut>,
    healer: Arc<Healer>,
    bus: Arc<dyn Bus>,
    requested: Notify,
}

impl Auditor {
    /// Compares `topics` with `log`; `healer` heals the feeds that are behind.
    pub(crate) fn new(
        topics: Arc<Topics>,
        log: Arc<LogReader>,
        presence: Arc<PresenceFanOut>,
        healer: Arc<Healer>,
        bus: Arc<dyn Bus>,
    ) -> Self {
        Self {
            topics,
            log,
            presence,
            healer,
            bus,
            requested: Notify::new(),
        }
    }

    /// Brings the next audit forward: pushes may have been lost.
    pub(crate) fn request(&self) {
        self.requested.notify_one();
    }

    /// Audits every `interval`, more often while the bus may be down, until `closing`.
    pub(crate) async fn run(self: Arc<Self>, interval: Duration, closing: CancellationToken) {
        loop {
            let wait = if may_be_down(&*self.bus) {
                INTERVAL_IN_DOUBT.min(interval)
            } else {
                interval
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = async {
                    self.requested.notified().await;
                    tokio::time::sleep(RETRY).await; // so that requests do not make one audit follow the other
                } => {}
                () = closing.cancelled() => return,
            }
            let topics = self.sweep();
            for topics in topics.chunks(BATCH) {
                self.compare(topics).await;
            }
        }
    }

    /// Drops topics that no session needs, and returns the others that have a log.
    fn sweep(&self) -> Vec<LogTopic> {
        let conversations = self.topics.conversations.sweep().into_iter();
        let lists = self.topics.lists.sweep().into_iter();
        let topics: Vec<LogTopic> = conversations
            .map(LogTopic::Conversation)
            .chain(lists.map(LogTopic::List))
            .collect();
        let count = topics.len() + self.presence.sweep();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::TOPICS.set(count as f64);
        topics
    }

    /// Heals the topics whose log is ahead of their feed and still is a moment later.
    async fn compare(&self, topics: &[LogTopic]) {
        // Read before the logs are: a log that is behind its feed was set back.
        let delivered: Vec<Option<Rev>> = topics
            .iter()
            .map(|topic| topic.feed(|feed| feed.rev()))
            .collect();
        let logs = self.log_revs(topics).await;
        let mut suspects = Vec::new();
        for ((topic, delivered), log) in topics.iter().zip(delivered).zip(logs) {
            match log {
                LogRev::Unknown => {}
                LogRev::Gone => suspects.push((topic, None)),
                LogRev::At(log) if delivered.is_some_and(|rev| rev > log) => {
                    self.reload(topic, log);
                }
                LogRev::At(log) if delivered.is_none_or(|rev| rev < log) => {
                    suspects.push((topic, Some(log)));
                }
                LogRev::At(_) => {}
            }
        }
        if suspects.is_empty() {
            return;
        }
        tokio::time::sleep(LATE * 2).await;
        for (topic, log) in suspects {
            let (delivered, is_unused) = topic.feed(|feed| (feed.rev(), feed.is_unused()));
            match (log, delivered) {
                (Some(log), Some(delivered)) if delivered >= log => continue, // it was on its way
                (Some(log), None) if !is_unused => {
                    // Its log could not be read when a session began to listen: what the session missed is not known.
                    self.reload(topic, log);
                    continue;
                }
                (_, None) => continue, // a session is about to listen
                (_, Some(_)) => {}
            }
            metrics::GAPS.increment(1);
            let delivery = Delivery {
                gap: true,
                ..Delivery::default()
            };
            self.healer.follow_up(topic.clone(), delivery);
        }
    }

    /// The revs of the topics' logs.
    async fn log_revs(&self, topics: &[LogTopic]) -> Vec<LogRev> {
        let (mut conversations, mut users) = (Vec::new(), Vec::new());
        for topic in topics {
            match topic {
                LogTopic::Conversation(entry) => conversations.push(entry.key),
                LogTopic::List(entry) => users.push(entry.key.clone()),
            }
        }
        let heads = self.log.heads(&conversations).await;
        let revs = self.log.list_revs(&users).await;
        let log_rev = |topic: &LogTopic| match topic {
            LogTopic::Conversation(entry) => match heads.get(&entry.key) {
                None => LogRev::Unknown,
                Some(None) => LogRev::Gone,
                Some(Some(head)) => LogRev::At(head.rev),
            },
            LogTopic::List(entry) => match revs.get(&entry.key) {
                None => LogRev::Unknown,
                Some(rev) => LogRev::At(*rev),
            },
        };
        topics.iter().map(log_rev).collect()
    }

    /// Makes the sessions load again what the log, which stands at `log`, cannot tell them any more.
    fn reload(&self, topic: &LogTopic, log: Rev) {
        let delivery = match topic {
            LogTopic::List(entry) => entry.lock().reload_at(log),
            // Healing reads the head, and has the sessions load the conversation.
            LogTopic::Conversation(_) => Delivery {
                gap: true,
                members_unknown: true,
                ..Delivery::default()
            },
        };
        self.healer.follow_up(topic.clone(), delivery);
    }
}

/// The rev of a log, as far as it could be read.
enum LogRev {
    /// Its shard does not answer.
    Unknown,
    /// There is no such conversation.
    Gone,
    At(Rev),
}
