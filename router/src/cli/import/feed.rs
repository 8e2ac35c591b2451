//! From records to batches: each conversation's messages in order, to the writer it belongs to.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use backscroll_shard::ids::UserId;
use backscroll_shard::import::ImportedAs;
use backscroll_shard::model::{ConversationKind, HistoryRecord, MessageType, Role};
use tokio::sync::mpsc;

use super::NAMED;
use super::line::{Line, LineReader, Rules};
use crate::cli::out;

/// How many conversations are written at a time.
pub(super) const WRITERS: usize = 8;

/// Batches that wait for a writer.
const QUEUED_BATCHES: usize = 2;

/// Most messages of a batch, which is one transaction.
const BATCH_RECORDS: usize = 1000;

/// Most bytes of a batch; well below what MySQL takes in one packet.
const BATCH_BYTES: usize = 1 << 20;

/// Most bytes held back for batches that are not full yet; beyond, all are sent as they are.
const HELD_BYTES: usize = 32 << 20;

/// Some messages of one conversation, in order.
#[derive(Debug)]
pub(super) struct Batch {
    /// The conversation's name.
    pub channel: String,
    /// Who is to own it: who was named, or the first who wrote in it by themselves, not by the system.
    pub owner: UserId,
    /// Whether the owner was named.
    pub is_owner_named: bool,
    /// What the channel becomes, with the members that are named.
    pub wanted: ImportedAs,
    /// The messages; none only of a channel that has members and no messages.
    pub records: Vec<HistoryRecord>,
    /// The line of each message, or its place in its file.
    pub lines: Vec<u64>,
    /// What those count: `line` or `record`.
    pub unit: &'static str,
}

/// The bad lines of an input.
#[derive(Debug, Default)]
pub(super) struct Rejected {
    /// How many there are.
    pub count: u64,
    /// The line that ended the reading.
    pub stopped_at: Option<u64>,
    first: Vec<String>,
}

impl Rejected {
    /// Counts a line, and remembers the first few.
    pub(super) fn add(&mut self, line: u64, what: &str) {
        self.add_at(format!("line {line}: {what}"));
    }

    /// Counts what is bad, and remembers the first few; `what` says where it is.
    pub(super) fn add_at(&mut self, what: String) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(what);
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.first.iter();
        let lines = lines.map(|what| format!("  {}", out::inline(what)));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))?;
        let unnamed = self.count - self.first.len() as u64;
        if unnamed > 0 {
            write!(f, "\n  … and {unnamed} more")?;
        }
        Ok(())
    }
}

/// What is known of a conversation: kept for all of them, so its size counts.
struct Channel {
    /// Who wrote first by themselves.
    first: Option<UserId>,
    /// The other person of a direct conversation.
    other: Option<UserId>,
    records: Vec<HistoryRecord>,
    lines: Vec<u64>,
    bytes: usize,
}

/// Cuts the input into batches.
pub(super) struct Feed {
    writers: Writers,
    owner: Option<UserId>,
    rules: Arc<Rules>,
    skip_bad: bool,
    channels: HashMap<String, Channel>,
    held_bytes: usize,
}

/// The writers are gone: one of them failed, and says why.
pub(super) struct NobodyWrites;

/// The queues to the writers.
pub(super) struct Writers(Vec<mpsc::Sender<Batch>>);

impl Writers {
    /// Queues, and what the writers read from.
    pub(super) fn new() -> (Self, Vec<mpsc::Receiver<Batch>>) {
        let (writers, queues) = (0..WRITERS).map(|_| mpsc::channel(QUEUED_BATCHES)).unzip();
        (Self(writers), queues)
    }

    /// Sends a batch to the writer of its conversation.
    pub(super) fn pass_on(&self, batch: Batch) -> Result<(), NobodyWrites> {
        let mut hasher = DefaultHasher::new();
        batch.channel.hash(&mut hasher);
        #[expect(clippy::cast_possible_truncation, reason = "any spread will do")]
        let writer = hasher.finish() as usize % self.0.len();
        self.0[writer]
            .blocking_send(batch)
            .map_err(|_| NobodyWrites)
    }
}

impl Feed {
    /// A feed and the queues that its writers read from.
    pub(super) fn new(
        owner: Option<UserId>,
        rules: Arc<Rules>,
        skip_bad: bool,
    ) -> (Self, Vec<mpsc::Receiver<Batch>>) {
        let (writers, queues) = Writers::new();
        (
            Self {
                writers,
                owner,
                rules,
                skip_bad,
                channels: HashMap::new(),
                held_bytes: 0,
            },
            queues,
        )
    }

    /// Reads all lines, or up to the first bad one unless those are skipped, and sends what was read to the writers.
    ///
    /// # Errors
    /// When the input cannot be read; what precedes is sent.
    pub(super) fn run(mut self, lines: &mut LineReader) -> anyhow::Result<Rejected> {
        let mut rejected = Rejected::default();
        let outcome = self.read(lines, &mut rejected);
        lines.check_order()?; // what is held is not stored upside down
        // Nobody to write for is the writers' error to report.
        let _ = self.send_all();
        let is_whole = outcome.is_ok() && rejected.stopped_at.is_none();
        if is_whole {
            let _ = self.send_silent();
        }
        outcome.map(|()| rejected)
    }

    fn read(&mut self, lines: &mut LineReader, rejected: &mut Rejected) -> anyhow::Result<()> {
        while let Some(Line {
            number,
            record,
            bytes,
        }) = lines.next()?
        {
            match record {
                Ok(record) => {
                    if self.take(record, number, bytes).is_err() {
                        return Ok(());
                    }
                }
                Err(what) => {
                    rejected.add(number, &what);
                    if !self.skip_bad {
                        rejected.stopped_at = Some(number);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, record: HistoryRecord, line: u64, bytes: usize) -> Result<(), NobodyWrites> {
        let name = record.channel.clone();
        let channel = self
            .channels
            .entry(name.clone())
            .or_insert_with(|| Channel {
                first: None,
                other: record.to.clone(),
                records: Vec::new(),
                lines: Vec::new(),
                bytes: 0,
            });
        if channel.first.is_none() && record.message_type != MessageType::System {
            channel.first = Some(record.user.clone());
        }
        channel.records.push(record);
        channel.lines.push(line);
        channel.bytes += bytes;
        self.held_bytes += bytes;
        if channel.records.len() >= BATCH_RECORDS || channel.bytes >= BATCH_BYTES {
            self.send(&name)
        } else if self.held_bytes >= HELD_BYTES {
            self.send_all()
        } else {
            Ok(())
        }
    }

    fn send(&mut self, name: &str) -> Result<(), NobodyWrites> {
        let Some(channel) = self
            .channels
            .get_mut(name)
            .filter(|channel| !channel.records.is_empty())
        else {
            return Ok(());
        };
        self.held_bytes -= channel.bytes;
        channel.bytes = 0;
        let named = self.rules.members().of(name);
        let of_members = named.iter().find(|(_, role)| *role == Role::Owner);
        let owner = self.owner.as_ref().or(of_members.map(|(user, _)| user));
        let first = channel
            .first
            .as_ref()
            .or(channel.records.first().map(|record| &record.user));
        let Some(owner) = owner.or(first).cloned() else {
            return Ok(());
        };
        let mut members = named.to_vec();
        if let (Some(other), true) = (&channel.other, members.is_empty()) {
            let pair = [Some(other), first];
            members = pair
                .into_iter()
                .flatten()
                .map(|user| (user.clone(), Role::Member))
                .collect();
            members.dedup();
        }
        let wanted = ImportedAs {
            kind: self.rules.kind(),
            members,
        };
        let batch = Batch {
            channel: name.to_owned(),
            owner,
            is_owner_named: self.owner.is_some(),
            wanted,
            records: std::mem::take(&mut channel.records),
            lines: std::mem::take(&mut channel.lines),
            unit: "line",
        };
        self.writers.pass_on(batch)
    }

    /// Channels that have members and no messages.
    fn send_silent(&mut self) -> Result<(), NobodyWrites> {
        let rules = self.rules.clone();
        for name in rules.members().channels() {
            let named = rules.members().of(name);
            let owner = named
                .iter()
                .max_by_key(|(_, role)| *role)
                .map(|(user, _)| user);
            let owner = self
                .owner
                .as_ref()
                .filter(|_| rules.kind() != ConversationKind::Direct)
                .or(owner);
            let (Some(owner), false) = (owner.cloned(), self.channels.contains_key(name)) else {
                continue;
            };
            self.writers.pass_on(Batch {
                channel: name.clone(),
                owner,
                is_owner_named: self.owner.is_some(),
                wanted: ImportedAs {
                    kind: rules.kind(),
                    members: named.to_vec(),
                },
                records: Vec::new(),
                lines: Vec::new(),
                unit: "line",
            })?;
        }
        Ok(())
    }

    fn send_all(&mut self) -> Result<(), NobodyWrites> {
        let waiting = self
            .channels
            .iter()
            .filter(|(_, channel)| !channel.records.is_empty());
        let names: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        names.iter().try_for_each(|name| self.send(name))
    }
}
