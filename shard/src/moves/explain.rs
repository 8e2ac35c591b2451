//! Saying why a move does not cut over now, from its row, its events and its two shards.

use std::time::{Duration, Instant};

use super::job::{Move, MoveId, MoveState};
use super::mover::Mover;
use super::reason::Reason;
use super::{marks, shard_of, work};
use crate::archive::held_leases;
use crate::error::Result;
use crate::model::Timestamp;

/// How long a look at a shard may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most events of a move that are looked at, and most marks that are counted of each kind.
const EVENTS: usize = 1000;
const COUNTED: u64 = 10_000;

impl Mover {
    /// Why a move does not cut over now: exactly one reason, with its figure.
    ///
    /// # Errors
    /// When the directory or one of the shards fails.
    pub async fn explain(&self, job: &Move) -> Result<Reason> {
        if job.state.is_final() {
            return Ok(Reason::Over { state: job.state });
        }
        if job.paused && job.state.precedes_commit() {
            return self.paused(job.id).await;
        }
        let is_kept = |until: &Timestamp| job.state == MoveState::Draining && *until > job.now;
        if let Some(until) = job.keep_until.filter(is_kept) {
            return Ok(Reason::KeepsRows {
                shard: job.source.clone(),
                served_by: job.target.clone(),
                until,
            });
        }
        if !job.is_run() {
            return self.not_run(job).await;
        }
        match (job.state, job.waits.clone()) {
            (MoveState::Frozen, _) => Ok(Reason::Frozen {
                attempt: job.attempt,
            }),
            (MoveState::Committed, _) => Ok(Reason::Committed),
            (_, Some(reason)) => self.after_a_freeze(job, reason).await,
            (MoveState::Copying, None) => {
                let (rows, bytes) = self.copied(job).await?;
                let of = job.expected_rows;
                Ok(Reason::Copying { rows, bytes, of })
            }
            (MoveState::CatchingUp, None) => Ok(Reason::CatchingUp {
                marked: self.marked(job).await?,
                estimate_ms: None,
                budget_ms: super::brakes::millis(self.settings().freeze_budget.0),
            }),
            (MoveState::Aborting, None) => Ok(Reason::Deleting {
                shard: job.target.clone(),
            }),
            (_, None) => Ok(Reason::Deleting {
                shard: job.source.clone(),
            }),
        }
    }

    /// What keeps a move from being run: an archive job that has its source, or an error, or that there is nobody.
    async fn not_run(&self, job: &Move) -> Result<Reason> {
        if job.state == MoveState::Copying
            && let Some(holder) = self.held_lease(job).await?
        {
            let shard = job.source.clone();
            return Ok(Reason::ArchiveJob { shard, holder });
        }
        if let Some(failed @ Reason::Failed { .. }) = &job.waits {
            return Ok(failed.clone());
        }
        Ok(Reason::NoRunner {
            since: job.runner_until.max(job.changed_at),
        })
    }

    /// Little is left to copy, and it was frozen before: what ended that is the reason.
    async fn after_a_freeze(&self, job: &Move, reason: Reason) -> Result<Reason> {
        let is_ready = match &reason {
            Reason::CatchingUp {
                estimate_ms,
                budget_ms,
                ..
            } => estimate_ms.is_some_and(|estimate| estimate < *budget_ms),
            _ => false,
        };
        if !is_ready || job.attempt == 0 {
            return Ok(reason);
        }
        let last = self.last_event(job.id, &["unfrozen"]).await?;
        Ok(last.map_or(reason, |(_, why)| Reason::FreezeEnded {
            attempt: job.attempt,
            why,
        }))
    }

    async fn paused(&self, id: MoveId) -> Result<Reason> {
        let last = self
            .last_event(id, &["differs", "paused", "resumed"])
            .await?;
        Ok(match last {
            Some((event, row)) if event == "differs" => Reason::RowDiffers { row },
            Some((_, why)) => Reason::Paused { why },
            None => Reason::Paused { why: String::new() },
        })
    }

    async fn last_event(&self, id: MoveId, names: &[&str]) -> Result<Option<(String, String)>> {
        let events = self.events(id, 0, EVENTS).await?;
        let last = events
            .into_iter()
            .rfind(|it| names.contains(&it.event.as_str()));
        Ok(last.map(|it| (it.event, it.detail)))
    }

    /// The archive job that has the source.
    async fn held_lease(&self, job: &Move) -> Result<Option<String>> {
        let source = shard_of(self.router(), &job.source)?;
        let mut connection = source.reader(Instant::now() + PATIENCE).await?;
        let held = held_leases(&mut connection).await?;
        Ok(held.into_iter().next().map(|it| it.holder))
    }

    async fn marked(&self, job: &Move) -> Result<u64> {
        let source = shard_of(self.router(), &job.source)?;
        let mut connection = source.reader(Instant::now() + PATIENCE).await?;
        marks::count(&mut connection, job.range, COUNTED).await
    }

    /// How many rows, and about how many bytes, were copied to the target.
    ///
    /// # Errors
    /// When the target fails.
    pub async fn copied(&self, job: &Move) -> Result<(u64, u64)> {
        let target = shard_of(self.router(), &job.target)?;
        let mut connection = target.reader(Instant::now() + PATIENCE).await?;
        let progress = work::progress(&mut connection, job.id)
            .await?
            .unwrap_or_default();
        Ok((progress.rows, progress.bytes))
    }
}
