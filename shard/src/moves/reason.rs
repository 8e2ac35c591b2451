//! Why a move does not cut over now: always exactly one reason, with its figure.
//!
//! Most follow from the move's row and from the two shards. What only the runner knows, a brake or how far it is, it puts down in
//! the row's column `waits` ([`super::figures`]), so every process gives the same answer.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::MoveState;
use crate::error::Error;
use crate::ids::ShardName;
use crate::model::Timestamp;

/// The one reason. Shares are of the time, sizes in bytes, times in milliseconds where they say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "name",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum Reason {
    /// Rows are being copied.
    Copying {
        /// How many are.
        rows: u64,
        /// How many bytes these have.
        bytes: u64,
        /// About how many there are; unknown while the range is not weighed.
        of: Option<u64>,
    },
    /// What was written meanwhile takes longer to copy than a freeze may: there are more marks, or they are copied too slowly.
    CatchingUp {
        /// Conversations and users that were written to; counted up to 10,000 of each.
        marked: u64,
        /// How long copying them will take; unknown at first.
        estimate_ms: Option<u64>,
        /// `rebalance.freeze_budget`.
        budget_ms: u64,
    },
    /// All rows of both shards are being compared.
    Comparing {
        /// How many are.
        rows: u64,
    },
    /// Writers wait while the rest is copied.
    Frozen {
        /// The how manieth freeze this is.
        attempt: u64,
    },
    /// The latest freeze ended without a commit; the next one follows at once.
    FreezeEnded {
        /// The how manieth freeze it was.
        attempt: u64,
        /// What ended it.
        why: String,
    },
    /// It is committed, and the target's fence is about to be opened.
    Committed,
    /// It is done but for the source's rows, which are kept.
    KeepsRows {
        /// The shard that does.
        shard: ShardName,
        /// The shard that serves the range.
        served_by: ShardName,
        /// Until when.
        until: Timestamp,
    },
    /// Rows are being deleted: on the source after the move, or on the target after it was given up.
    Deleting {
        /// Where.
        shard: ShardName,
    },
    /// An operator paused it.
    Paused {
        /// Why.
        why: String,
    },
    /// A row differs although no writer of the source changed it. It goes on when it is resumed.
    RowDiffers {
        /// Which one.
        row: String,
    },
    /// No process works on it.
    NoRunner {
        /// Since when.
        since: Timestamp,
    },
    /// The process that worked on it met an error; any process tries again.
    Failed {
        /// Which one.
        why: String,
    },
    /// An archive job has the source.
    ArchiveJob {
        /// The source.
        shard: ShardName,
        /// The job.
        holder: String,
    },
    /// A database runs too much at once.
    Load {
        /// The shard.
        shard: ShardName,
        /// How many statements it runs.
        running: u64,
        /// `rebalance.max_threads_running`.
        most: u64,
    },
    /// A replica is too far behind.
    ReplicaLag {
        /// The shard.
        shard: ShardName,
        /// How far.
        lag_ms: u64,
        /// `rebalance.max_replica_lag`.
        most_ms: u64,
    },
    /// A shard answers too slowly.
    Latency {
        /// The shard.
        shard: ShardName,
        /// The 99 % quantile of what this node's callers waited lately, or how long one look took, whichever is more.
        p99_ms: u64,
        /// `rebalance.max_latency`.
        most_ms: u64,
    },
    /// The target would become too large.
    Disk {
        /// The target.
        shard: ShardName,
        /// How large it would be.
        bytes: u64,
        /// `rebalance.max_shard_bytes`.
        most: u64,
    },
    /// It is over.
    Over {
        /// How it ended.
        state: MoveState,
    },
}

impl Reason {
    /// What a runner that ended with `error` leaves; nothing where another process goes on.
    pub(super) fn of_failure(error: &Error) -> Option<Self> {
        match error {
            Error::LeaseLost(_) | Error::Closing => None,
            error => Some(Self::Failed {
                why: error.to_string(),
            }),
        }
    }

    /// Its name, as in JSON and as the label of metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Copying { .. } => "copying",
            Self::CatchingUp { .. } => "catching_up",
            Self::Comparing { .. } => "comparing",
            Self::Frozen { .. } => "frozen",
            Self::FreezeEnded { .. } => "freeze_ended",
            Self::Committed => "committed",
            Self::KeepsRows { .. } => "keeps_rows",
            Self::Deleting { .. } => "deleting",
            Self::Paused { .. } => "paused",
            Self::RowDiffers { .. } => "row_differs",
            Self::NoRunner { .. } => "no_runner",
            Self::Failed { .. } => "failed",
            Self::ArchiveJob { .. } => "archive_job",
            Self::Load { .. } => "load",
            Self::ReplicaLag { .. } => "replica_lag",
            Self::Latency { .. } => "latency",
            Self::Disk { .. } => "disk",
            Self::Over { .. } => "over",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copying { rows, bytes, of } => {
                write!(f, "copying, {rows} rows")?;
                if let Some(of) = of {
                    write!(f, " of about {of}")?;
                }
                write!(f, " and {bytes} bytes so far")
            }
            Self::CatchingUp {
                marked,
                estimate_ms,
                budget_ms,
            } => {
                write!(
                    f,
                    "catching up, {marked} conversations and users to copy again"
                )?;
                let Some(estimate) = estimate_ms else {
                    return Ok(());
                };
                write!(
                    f,
                    " take about {estimate} ms; a freeze begins below {budget_ms} ms (rebalance.freeze_budget)"
                )
            }
            Self::Comparing { rows } => {
                write!(f, "catching up, {rows} rows of both shards compared so far")
            }
            Self::Frozen { attempt } => write!(f, "frozen for the {attempt}. time"),
            Self::FreezeEnded { attempt, why } => {
                write!(f, "catching up, freeze {attempt} was ended: {why}")
            }
            Self::Committed => write!(f, "committed, the target is about to serve the range"),
            Self::KeepsRows {
                shard,
                served_by,
                until,
            } => write!(
                f,
                "served by {served_by}, {shard} keeps its rows until {until}"
            ),
            Self::Deleting { shard } => write!(f, "deleting the rows on {shard}"),
            Self::Paused { why } => write!(f, "paused: {why}"),
            Self::RowDiffers { row } => write!(
                f,
                "paused, as a row differs although no writer of the source changed it: {row}"
            ),
            Self::NoRunner { since } => write!(
                f,
                "no process has worked on it since {since}; a server of `backscroll serve` would"
            ),
            Self::Failed { why } => write!(f, "failed, and is tried again: {why}"),
            Self::ArchiveJob { shard, holder } => {
                write!(f, "waits for {holder}, which works on {shard}")
            }
            Self::Load {
                shard,
                running,
                most,
            } => write!(
                f,
                "waits: {shard} runs {running} statements at once, more than {most} (rebalance.max_threads_running)"
            ),
            Self::ReplicaLag {
                shard,
                lag_ms,
                most_ms,
            } => write!(
                f,
                "waits: a replica of {shard} is {lag_ms} ms behind, more than {most_ms} ms (rebalance.max_replica_lag)"
            ),
            Self::Latency {
                shard,
                p99_ms,
                most_ms,
            } => write!(
                f,
                "waits: {shard} answers within {p99_ms} ms, more than {most_ms} ms (rebalance.max_latency)"
            ),
            Self::Disk { shard, bytes, most } => write!(
                f,
                "waits: {shard} would have {bytes} bytes, more than {most} (rebalance.max_shard_bytes)"
            ),
            Self::Over { state } => write!(f, "{}", state.name().replace('_', " ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_stored_and_named_alike() {
        let shard = ShardName::new("db1").unwrap();
        let all = [
            Reason::Copying {
                rows: 1,
                bytes: 2,
                of: Some(3),
            },
            Reason::CatchingUp {
                marked: 1,
                estimate_ms: Some(2),
                budget_ms: 3,
            },
            Reason::Comparing { rows: 1 },
            Reason::Frozen { attempt: 2 },
            Reason::FreezeEnded {
                attempt: 2,
                why: "it took too long".into(),
            },
            Reason::Committed,
            Reason::KeepsRows {
                shard: shard.clone(),
                served_by: shard.clone(),
                until: Timestamp(5),
            },
            Reason::Deleting {
                shard: shard.clone(),
            },
            Reason::Paused {
                why: "lunch".into(),
            },
            Reason::RowDiffers {
                row: "messages".into(),
            },
            Reason::NoRunner {
                since: Timestamp(5),
            },
            Reason::Failed { why: "no".into() },
            Reason::ArchiveJob {
                shard: shard.clone(),
                holder: "archive run".into(),
            },
            Reason::Load {
                shard: shard.clone(),
                running: 40,
                most: 32,
            },
            Reason::ReplicaLag {
                shard: shard.clone(),
                lag_ms: 4,
                most_ms: 2,
            },
            Reason::Latency {
                shard: shard.clone(),
                p99_ms: 400,
                most_ms: 250,
            },
            Reason::Disk {
                shard,
                bytes: 10,
                most: 5,
            },
            Reason::Over {
                state: MoveState::Done,
            },
        ];
        for reason in all {
            let json = serde_json::to_value(&reason).unwrap();
            assert_eq!(json["name"], reason.name());
            assert_eq!(serde_json::from_value::<Reason>(json).unwrap(), reason);
            assert!(!reason.to_string().is_empty());
        }
    }
}
