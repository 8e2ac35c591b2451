//! The store's part of the configuration, with its defaults. Every bound of INV-BOUND has its name here.

pub mod check;
pub mod size;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};
use crate::guard::GuardSettings;
use crate::ids::{KeyFunction, ShardName};
use crate::model::ConversationKind;
use crate::search::SearchSettings;

/// A span of time in the configuration: `"250ms"`, `"5s"`, `"10 minutes"`, `"30 days"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// `n` milliseconds.
    #[must_use]
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }

    /// `n` seconds.
    #[must_use]
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As it is written in the configuration: `30 days`, `1s 500ms`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: u64 = 86_400;
        let days = self.0.as_secs() / DAY;
        match jiff::SignedDuration::try_from(self.0) {
            _ if days == 1 && self.0 == Duration::from_secs(DAY) => f.write_str("1 day"),
            _ if days > 1 && self.0 == Duration::from_secs(days * DAY) => write!(f, "{days} days"),
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{:?}", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Spans)
    }
}

struct Spans;

impl de::Visitor<'_> for Spans {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, as \"5s\" or \"30 days\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        // A span in days is 24-hour days here: these are waiting times, not calendar dates.
        let span = text.parse::<jiff::Span>().and_then(|span| {
            let span = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours())?;
            Duration::try_from(span)
        });
        span.map(Span)
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// A database address. Its password is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(pub String);

impl DatabaseUrl {
    /// The file of a SQLite database.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.strip_prefix("sqlite://").map(Path::new)
    }

    /// The address with `***` for the password.
    #[must_use]
    pub fn redacted(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return self.0.clone();
        };
        let Some((credentials, host)) = rest.rsplit_once('@') else {
            return self.0.clone();
        };
        match credentials.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
            None => self.0.clone(),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

/// Everything the store needs to open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreSettings {
    /// How users are placed.
    pub keyspace: KeyspaceSettings,
    /// The directory's database.
    pub directory: DirectorySettings,
    /// The shards; at least one.
    pub shards: Vec<ShardSettings>,
    /// Connections to each shard.
    pub pool: PoolSettings,
    /// Group commit.
    pub write: WriteSettings,
    /// The conversation list's relay.
    pub relay: RelaySettings,
    /// Bounds on what users send.
    pub limits: LimitSettings,
    /// Rate limits.
    pub guard: GuardSettings,
    /// Bounds on searches.
    pub search: SearchSettings,
    /// Moves of ranges between shards.
    pub rebalance: RebalanceSettings,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self::embedded("backscroll-data", 4)
    }
}

impl StoreSettings {
    /// The embedded default: a directory and `shards` SQLite files in `folder`, without rate limits: those are of a server's
    /// configuration.
    #[must_use]
    pub fn embedded(folder: &str, shards: u32) -> Self {
        let shard = |n: u32| ShardSettings {
            #[expect(clippy::expect_used, reason = "a letter and digits are a valid name")]
            name: ShardName::new(format!("shard{n}")).expect("valid"),
            primary: DatabaseUrl(format!("sqlite://{folder}/shard{n}.db")),
            replicas: Vec::new(),
        };
        Self {
            keyspace: KeyspaceSettings::default(),
            directory: DirectorySettings {
                url: DatabaseUrl(format!("sqlite://{folder}/directory.db")),
                ..DirectorySettings::default()
            },
            shards: (1..=shards).map(shard).collect(),
            pool: PoolSettings::default(),
            write: WriteSettings::default(),
            relay: RelaySettings::default(),
            limits: LimitSettings::default(),
            guard: GuardSettings::off(),
            search: SearchSettings::default(),
            rebalance: RebalanceSettings::default(),
        }
    }
}

/// How users are placed on the key space. Fixed once the deployment is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyspaceSettings {
    /// `hashed` (the default) or `numeric`.
    pub function: KeyFunction,
    /// Where each shard's first range begins, when the deployment is made; later it has no effect. Without it, the key space
    /// is cut evenly, in the order of `shards`.
    pub ranges: Vec<RangeSettings>,
}

/// A range of the initial map: from this key to before the next entry's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeSettings {
    /// The first key; the first entry's is 0.
    pub from: u64,
    /// Who owns it.
    pub shard: ShardName,
}

/// The directory's database and its cached copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DirectorySettings {
    /// `mysql://user:password@host:port/database` or `sqlite://path`.
    pub url: DatabaseUrl,
    /// How often a router looks whether the map has changed. A stale map costs a retry, never a wrong answer.
    pub refresh_interval: Span,
}

impl Default for DirectorySettings {
    fn default() -> Self {
        Self {
            url: DatabaseUrl("sqlite://backscroll-data/directory.db".into()),
            refresh_interval: Span::secs(1),
        }
    }
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardSettings {
    /// Its name, for ever.
    pub name: ShardName,
    /// Where it takes writes.
    pub primary: DatabaseUrl,
    /// Read replicas, used for pages of history when they are as new as the primary.
    #[serde(default)]
    pub replicas: Vec<DatabaseUrl>,
}

/// Connections to each database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    /// Most connections to one database, besides one a write lane.
    pub max_connections: u32,
    /// Longest wait for a connection.
    pub acquire_timeout: Span,
    /// Longest run of one statement.
    pub statement_timeout: Span,
    /// Longest wait for a row lock.
    pub lock_timeout: Span,
    /// When an idle connection is closed.
    pub idle_timeout: Span,
    /// After how many failures in a row a shard's reads, or its writes, are refused at once.
    pub breaker_failures: u32,
    /// How long they are refused before one request may try again.
    pub breaker_cooldown: Span,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 20,
            acquire_timeout: Span::secs(2),
            statement_timeout: Span::secs(5),
            lock_timeout: Span::secs(2),
            idle_timeout: Span::secs(30),
            breaker_failures: 3,
            breaker_cooldown: Span::millis(250),
        }
    }
}

/// Group commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WriteSettings {
    /// Write lanes per shard, a connection each (SQLite has one writer, and so one lane).
    pub lanes: u32,
    /// Most messages in one transaction, beside up to 15 that came together with the last of them.
    pub max_batch: u32,
    /// Where several messages come within this time, a lane waits this long for more of them before a transaction, until ten
    /// are there: fewer commits, each send later by at most this. Zero to 100 ms; with zero no send waits.
    pub gather: Span,
    /// Most messages waiting in one lane; beyond, a send is refused at once with `overloaded`.
    pub queue: u32,
    /// How often a transaction is run again after a deadlock or a lock wait.
    pub max_retries: u32,
    /// Most memberships that a lane remembers, so that it need not read them for every message; 0 for none.
    pub member_cache: u32,
}

impl Default for WriteSettings {
    fn default() -> Self {
        Self {
            lanes: 1,
            max_batch: 512,
            gather: Span::millis(10),
            queue: 4096,
            max_retries: 10,
            member_cache: 50_000,
        }
    }
}

/// The relay from conversations to their members' lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelaySettings {
    /// Shortest time between two rounds: a conversation's list entries lag by about this under load.
    pub interval: Span,
    /// How often marks left by a crashed process are looked for.
    pub sweep_interval: Span,
    /// Above this many members a conversation is not relayed: lists read its head from its shard.
    pub max_members: u32,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            interval: Span::secs(1),
            sweep_interval: Span::secs(5),
            max_members: 1000,
        }
    }
}

/// Moves of ranges between shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebalanceSettings {
    /// How long one transaction of a copy takes, about: the number of rows in it follows from that.
    pub chunk: Span,
    /// The share of the time in which a copy works, in percent; in the rest it pauses.
    pub load: u32,
    /// A range is frozen when copying the rest takes less than this, as estimated.
    pub freeze_budget: Span,
    /// A freeze that takes longer than this is ended, and the move goes on catching up.
    pub longest_freeze: Span,
    /// How long a freeze holds when its process dies, by the directory's clock.
    pub freeze_lease: Span,
    /// After how long another process goes on with a move whose process died, by the directory's clock.
    pub lease: Span,
    /// How long the source keeps its rows after a move, so that it can be reversed.
    pub keep: Span,
    /// A move waits while one of its shards' databases runs more statements than this at once (MySQL's `Threads_running`).
    pub max_threads_running: u32,
    /// A move waits while a replica of its target is further behind than this.
    pub max_replica_lag: Span,
    /// A move waits while one of its shards takes longer than this to answer: one look, or the slowest of a hundred calls of this
    /// node's callers.
    pub max_latency: Span,
    /// A move does not begin if its target would become larger than this, in bytes; 0 for no limit.
    #[serde(with = "size")]
    pub max_shard_bytes: u64,
    /// How much rows count in a shard's load, against bytes and writes; 0 leaves them out.
    pub weight_rows: u32,
    /// How much bytes count.
    pub weight_bytes: u32,
    /// How much writes a second count.
    pub weight_writes: u32,
    /// A move is planned only if the load of the fuller shard falls by at least this much, in percent of the mean load.
    pub min_gain: u32,
    /// A range that was moved stays where it is for so long, as far as plans are concerned.
    pub cool_down: Span,
}

impl Default for RebalanceSettings {
    fn default() -> Self {
        Self {
            chunk: Span::millis(200),
            load: 50,
            freeze_budget: Span::millis(100),
            longest_freeze: Span::secs(1),
            freeze_lease: Span::secs(5),
            lease: Span::secs(15),
            keep: Span::secs(3600),
            max_threads_running: 32,
            max_replica_lag: Span::secs(10),
            max_latency: Span::millis(250),
            max_shard_bytes: 0,
            weight_rows: 1,
            weight_bytes: 1,
            weight_writes: 1,
            min_gain: 5,
            cool_down: Span::secs(86_400),
        }
    }
}

/// Bounds on what users send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Most characters of a message.
    pub message_characters: u32,
    /// Most attachments of a message.
    pub attachments: u32,
    /// Most bytes of a message's attachments, as JSON.
    #[serde(with = "size")]
    pub attachments_bytes: u32,
    /// Most bytes of a message's or a conversation's metadata, as JSON.
    #[serde(with = "size")]
    pub metadata_bytes: u32,
    /// Most reactions on one message.
    pub reactions: u32,
    /// Most reactions of one user on one message.
    pub reactions_per_user: u32,
    /// Most members that one message mentions.
    pub mentions: u32,
    /// Most members of a conversation in which a message may mention all of them.
    pub mention_all_members: u32,
    /// Most pinned messages of one conversation.
    pub pins: u32,
    /// Most earlier contents kept of one message; the oldest go first.
    pub edits: u32,
    /// Most bytes that one message holds with its earlier contents, reactions and metadata. A change beyond it is refused.
    #[serde(with = "size")]
    pub message_bytes: u32,
    /// Most bytes of messages in one answer: a page, a `sync`, a part of an export. One that would be larger is shorter and says
    /// that there is more; a single message is given even when it is larger.
    #[serde(with = "size")]
    pub answer_bytes: u32,
    /// Most reads of one user (pages, lists, `sync`) that a node works on at once, over all of the user's connections; others wait for
    /// their turn.
    pub reads_at_once: u32,
    /// Most members of a group.
    pub group_members: u32,
    /// Most members of a channel.
    pub channel_members: u32,
    /// Most changes of one conversation told by one `sync`; a client further behind is told to resync.
    pub sync_changes: u32,
    /// Most notifications kept of one user; the oldest go first. 1 to 10,000.
    pub notifications: u32,
    /// For how long after a message was stored the same client message id gives that message again (INV-IDEM). No archive
    /// job takes younger messages away. At least a day, and not above `archive.after`.
    pub idempotency: Span,
}

impl LimitSettings {
    /// Whether a conversation of this kind may have so many members.
    pub(crate) fn check_members(&self, kind: ConversationKind, count: u64) -> Result<()> {
        let (what, max) = match kind {
            ConversationKind::Direct => ("members of a direct conversation", 2),
            ConversationKind::Group => ("members of a group", u64::from(self.group_members)),
            ConversationKind::Channel => ("members of a channel", u64::from(self.channel_members)),
        };
        match count > max {
            true => Err(Error::LimitReached { what, max }),
            false => Ok(()),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            message_characters: 5000,
            attachments: 10,
            attachments_bytes: 8192,
            metadata_bytes: 4096,
            reactions: 1000,
            reactions_per_user: 20,
            mentions: 20,
            mention_all_members: 1000,
            pins: 100,
            edits: 20,
            message_bytes: 256 << 10,
            answer_bytes: 1 << 20,
            reads_at_once: 4,
            group_members: 100,
            channel_members: 100_000,
            sync_changes: 5000,
            notifications: 500,
            idempotency: Span::secs(30 * 86_400),
        }
    }
}

#[cfg(test)]
mod tests;
