//! From lines to batches, each to a writer: those of one conversation always to the same one.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use backscroll_shard::dump::{DumpRow, ImportedChannel, Part};
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::Timestamp;
use tokio::sync::{Barrier, mpsc};

use super::super::feed::WRITERS;
use super::lines::{Line, Lines};

/// Batches that wait for a writer.
const QUEUED_BATCHES: usize = 2;
/// Most messages, and most rows, of a batch, which is one transaction.
const BATCH: usize = 1000;
/// Most bytes of a batch, unless one line has more.
const BATCH_BYTES: usize = 1 << 20;

/// What a writer does next.
#[derive(Debug)]
pub(super) enum Batch {
    /// Rows of users.
    Users(Vec<DumpRow>),
    /// A part of a conversation.
    Part(Box<Part>),
    /// A conversation is deleted.
    Deleted(ConversationId, Timestamp),
    /// Under which name a conversation was imported.
    Channel(ImportedChannel),
    /// All writers wait for each other.
    Wait(Arc<Barrier>),
}

/// The writers are gone: one of them failed, and says why.
struct NobodyWrites;

/// Cuts the input into batches.
pub(super) struct Feed {
    writers: Vec<mpsc::Sender<Batch>>,
    users: Vec<DumpRow>,
    part: Option<Part>,
    bytes: usize,
    conversations: u64,
    phase: Phase,
}

/// What the lines are about; each begins when everything of the one before is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Conversations,
    Channels,
    Users,
}

impl Feed {
    /// A feed and the queues that its writers read from.
    pub(super) fn new() -> (Self, Vec<mpsc::Receiver<Batch>>) {
        let (writers, queues) = (0..WRITERS).map(|_| mpsc::channel(QUEUED_BATCHES)).unzip();
        let feed = Self {
            writers,
            users: Vec::new(),
            part: None,
            bytes: 0,
            conversations: 0,
            phase: Phase::Conversations,
        };
        (feed, queues)
    }

    /// Reads all lines and sends them to the writers; gives how many conversations there are.
    ///
    /// # Errors
    /// At the first line that is not good; what precedes is sent.
    pub(super) fn run(mut self, lines: &mut Lines) -> anyhow::Result<u64> {
        while let Some(line) = lines.next()? {
            self.bytes += lines.bytes();
            if self.take(line).is_err() {
                return Ok(self.conversations); // the writer's error is reported
            }
        }
        let _ = self.send_users();
        Ok(self.conversations)
    }

    fn take(&mut self, line: Line) -> Result<(), NobodyWrites> {
        match line {
            Line::User(row) => {
                self.enter(Phase::Users)?;
                self.users.push(row);
                if self.users.len() >= BATCH || self.bytes >= BATCH_BYTES {
                    return self.send_users();
                }
            }
            Line::Conversation(id, rev) => {
                self.conversations += 1;
                self.part = Some(empty(id, rev));
                self.bytes = 0;
            }
            Line::Deleted(id, at) => {
                self.part = None;
                return self.send(writer_of(&id), Batch::Deleted(id, at));
            }
            Line::Channel(channel) => {
                self.enter(Phase::Channels)?;
                return self.send(writer_of(&channel.conversation), Batch::Channel(channel));
            }
            line => return self.extend(line),
        }
        Ok(())
    }

    fn extend(&mut self, line: Line) -> Result<(), NobodyWrites> {
        let Some(part) = &mut self.part else {
            return Ok(()); // the reader gives these lines within a conversation only
        };
        match line {
            Line::Row(row) => part.rows.push(row),
            Line::Message(message) => part.messages.push(*message),
            Line::Dropped(last) => part.dropped = Some(last),
            Line::Head(head) => part.head = Some(head),
            _ => {}
        }
        let is_full = part.rows.len() + part.messages.len() >= BATCH || self.bytes >= BATCH_BYTES;
        if part.head.is_none() && !is_full {
            return Ok(());
        }
        let (id, is_last) = (part.id, part.head.is_some());
        let rest = (!is_last).then(|| empty(id, part.rev));
        self.bytes = 0;
        let Some(part) = std::mem::replace(&mut self.part, rest) else {
            return Ok(());
        };
        self.send(writer_of(&id), Batch::Part(Box::new(part)))
    }

    fn send_users(&mut self) -> Result<(), NobodyWrites> {
        self.bytes = 0;
        if self.users.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.users);
        let writer = writer_of(&format!("{:?}", rows[0]));
        self.send(writer, Batch::Users(rows))
    }

    fn enter(&mut self, phase: Phase) -> Result<(), NobodyWrites> {
        if self.phase >= phase {
            return Ok(());
        }
        self.phase = phase;
        let barrier = Arc::new(Barrier::new(self.writers.len()));
        (0..self.writers.len())
            .try_for_each(|writer| self.send(writer, Batch::Wait(barrier.clone())))
    }

    fn send(&self, writer: usize, batch: Batch) -> Result<(), NobodyWrites> {
        let sent = self.writers[writer].blocking_send(batch);
        sent.map_err(|_| NobodyWrites)
    }
}

fn empty(id: ConversationId, rev: backscroll_shard::ids::Rev) -> Part {
    Part {
        id,
        rev,
        rows: Vec::new(),
        messages: Vec::new(),
        dropped: None,
        head: None,
    }
}

fn writer_of(key: &impl std::hash::Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    #[expect(clippy::cast_possible_truncation, reason = "any spread will do")]
    let writer = hasher.finish() as usize % WRITERS;
    writer
}
