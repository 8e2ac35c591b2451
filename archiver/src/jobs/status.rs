//! What there is, what is waiting, and what was done: for operators, and as metrics.

use std::sync::Arc;
use std::time::Instant;

use backscroll_shard::archive::{
    self, Candidate, Erasure, HeldLease, Hold, JobRecord, SegmentState, SegmentSums,
};
use backscroll_shard::clock;
use backscroll_shard::db::Connection;
use backscroll_shard::error::Error;
use backscroll_shard::fence;
use backscroll_shard::ids::{ConversationId, Seq, ShardName};
use backscroll_shard::map::Assignment;
use backscroll_shard::metrics::Gauge;
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use backscroll_shard::owned::{OwnedTransaction, WriteScope};
use backscroll_shard::transaction::Transaction;
use serde::Serialize;

use super::{ArchiveJobs, Order, Result, STEP};
use crate::metrics;

/// How many jobs are told.
const JOBS: usize = 10;

/// Up to about how many waiting conversations are counted.
const WAITING_MAX: u64 = 10_000;

/// Most receipts, or conversations, read at once.
const PAGE: usize = 256;

/// The archive of one shard.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardName,
    /// Why it could not be asked; the rest is then empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was asked, by the clock of its database.
    pub as_of: Timestamp,
    /// When its oldest hot message was sent.
    pub oldest_hot_at: Option<Timestamp>,
    /// Conversations that the next run will look at, counted up to about 10,000: with messages old enough, and not held.
    pub waiting_conversations: u64,
    /// How long the oldest of these messages has been old enough, in milliseconds.
    pub lag_millis: i64,
    /// The segments that are part of the archive.
    pub archived: SegmentSums,
    /// Bytes that an archived message takes.
    pub bytes_per_message: Option<f64>,
    /// Segments whose hot rows are not deleted yet.
    pub unsettled: SegmentSums,
    /// Segments that nothing names any more, and those of jobs that died: `gc` deletes them.
    pub to_collect: SegmentSums,
    /// Deleted messages whose content an object may still hold.
    pub open_erasures: u64,
    /// When the oldest of these was deleted.
    pub oldest_erasure_at: Option<Timestamp>,
    /// Conversations under a legal hold.
    pub holds: u64,
    /// The leases that jobs hold.
    pub leases: Vec<HeldLease>,
    /// The latest jobs, the newest first.
    pub jobs: Vec<JobRecord>,
}

impl ArchiveJobs {
    /// The state of the archive, shard by shard; one that is away says so.
    ///
    /// # Errors
    /// When there is no such shard.
    pub async fn status(&self, order: &Order) -> Result<Vec<ShardStatus>> {
        let mut all = Vec::new();
        for shard in self.shards(order)? {
            let status = match self.shard_status(&shard).await {
                Ok(status) => status,
                Err(error) => ShardStatus {
                    error: Some(error.to_string()),
                    ..ShardStatus::of(shard.name())
                },
            };
            all.push(status);
        }
        Ok(all)
    }

    async fn shard_status(&self, shard: &Shard) -> Result<ShardStatus> {
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let connection = &mut connection;
        let mut status = ShardStatus::of(shard.name());
        status.as_of = clock::now(connection).await?;
        let cutoff = self.cutoff(status.as_of);
        status.oldest_hot_at = archive::oldest_hot(connection).await?;
        for range in self.router.map().ranges_of(shard.name()) {
            let mut after: Option<Candidate> = None;
            while status.waiting_conversations < WAITING_MAX {
                let last = after.as_ref();
                let page = archive::candidates(connection, range, cutoff, last, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(*last);
                status.waiting_conversations += page.len() as u64;
            }
        }
        let lag = status
            .oldest_hot_at
            .map_or(0, |oldest| cutoff.0.saturating_sub(oldest.0));
        status.lag_millis = lag.max(0);
        for state in SegmentState::ALL {
            let sums = archive::segment_sums(connection, state).await?;
            let targets: &mut [&mut SegmentSums] = match state {
                SegmentState::Settled => &mut [&mut status.archived],
                SegmentState::Published => &mut [&mut status.archived, &mut status.unsettled],
                _ => &mut [&mut status.to_collect],
            };
            for target in targets {
                target.segments += sums.segments;
                target.bytes += sums.bytes;
                target.messages += sums.messages;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        if status.archived.messages > 0 {
            let each = status.archived.bytes as f64 / status.archived.messages as f64;
            status.bytes_per_message = Some((each * 100.0).round() / 100.0);
        }
        (status.open_erasures, status.oldest_erasure_at) =
            archive::open_erasures(connection).await?;
        status.holds = archive::holds(connection).await?.len() as u64;
        status.leases = archive::held_leases(connection).await?;
        status.jobs = archive::latest_jobs(connection, JOBS).await?;
        Ok(status)
    }

    /// Sets the gauges of every shard that answers.
    pub async fn measure(&self) {
        for shard in self.router.shards() {
            let Ok(status) = self.shard_status(shard).await else {
                continue;
            };
            let name = shard.name().to_string();
            let gauge = |metric: &Gauge<1>, value: u64| {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                metric.with([name.clone()]).set(value as f64);
            };
            let now = status.as_of.0;
            let seconds =
                |since: Timestamp| (now.saturating_sub(since.0) / 1000).max(0).cast_unsigned();
            let oldest_hot = status.oldest_hot_at.map_or(0, seconds);
            let oldest_erasure = status.oldest_erasure_at.map_or(0, seconds);
            gauge(&metrics::OLDEST_HOT_AGE_SECONDS, oldest_hot);
            gauge(
                &metrics::LAG_SECONDS,
                (status.lag_millis / 1000).cast_unsigned(),
            );
            gauge(
                &metrics::WAITING_CONVERSATIONS,
                status.waiting_conversations,
            );
            gauge(&metrics::STORED_BYTES, status.archived.bytes);
            gauge(&metrics::STORED_MESSAGES, status.archived.messages);
            gauge(&metrics::UNCOLLECTED_SEGMENTS, status.to_collect.segments);
            gauge(&metrics::OPEN_ERASURES, status.open_erasures);
            gauge(&metrics::OLDEST_ERASURE_SECONDS, oldest_erasure);
        }
    }

    /// Places a conversation under a legal hold: nothing of it is deleted, dropped or archived away until it is lifted.
    ///
    /// # Errors
    /// When its shard cannot be written.
    pub async fn place_hold(&self, order: &Order, conversation_id: ConversationId) -> Result<Hold> {
        let placed = self.on_owner(conversation_id, async |connection| {
            let hold = Hold {
                conversation_id,
                placed_at: clock::now(connection).await?,
                actor: order.actor.clone(),
                reason: order.reason.clone(),
            };
            archive::place_hold(connection, &hold).await?;
            Ok(hold)
        });
        let hold = placed.await?;
        tracing::info!(conversation = %conversation_id, actor = hold.actor, reason = hold.reason, "legal hold placed");
        Ok(hold)
    }

    /// Lifts a legal hold; `false` if there was none.
    ///
    /// # Errors
    /// When its shard cannot be written.
    pub async fn lift_hold(&self, order: &Order, conversation: ConversationId) -> Result<bool> {
        let lifted = self.on_owner(conversation, async |connection| {
            archive::lift_hold(connection, conversation).await
        });
        let lifted = lifted.await?;
        tracing::info!(%conversation, actor = order.actor, reason = order.reason, lifted, "legal hold lifted");
        Ok(lifted)
    }

    /// Every legal hold.
    ///
    /// # Errors
    /// When a shard cannot be read.
    pub async fn holds(&self) -> Result<Vec<Hold>> {
        let mut all = Vec::new();
        for shard in self.router.shards() {
            let mut connection = shard.reader(Instant::now() + STEP).await?;
            let mut fences = fence::all(&mut connection).await?;
            fences.retain(|fence| fence.state.takes_reads());
            let mut holds = archive::holds(&mut connection).await?;
            holds.retain(|hold| {
                let key = hold.conversation_id.owner_key();
                fences.iter().any(|fence| fence.range.contains(key))
            });
            all.extend(holds);
        }
        Ok(all)
    }

    /// What of a conversation was or is to be erased from the archive: the receipts.
    ///
    /// # Errors
    /// When its shard cannot be read.
    pub async fn erasures(&self, conversation: ConversationId) -> Result<Vec<Erasure>> {
        let deadline = Instant::now() + STEP;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            let mut all: Vec<Erasure> = Vec::new();
            loop {
                let after: Option<Seq> = all.last().map(|erasure| erasure.seq);
                let page = archive::erasures_of(&mut rows, conversation, after, PAGE).await?;
                if page.is_empty() {
                    return Ok(all);
                }
                all.extend(page);
            }
        };
        let key = conversation.owner_key();
        Ok(self.router.call(key, deadline, read).await?)
    }

    /// One transaction on the shard that owns a conversation.
    async fn on_owner<T>(
        &self,
        conversation: ConversationId,
        work: impl AsyncFn(&mut Connection) -> Result<T, Error>,
    ) -> Result<T> {
        let work = &work;
        let write = |shard: Arc<Shard>, assignment: Assignment| async move {
            let scope = WriteScope::conversation(&assignment, conversation);
            let (shard, scope) = (&*shard, &scope);
            let write = |transaction: Transaction| async move {
                let mut rows = OwnedTransaction::begin(transaction, shard, scope).await?;
                work(&mut rows).await
            };
            let deadline = Instant::now() + STEP;
            shard.patient_transaction(deadline, write).await
        };
        let call = self
            .router
            .call(conversation.owner_key(), Instant::now() + STEP, write);
        Ok(call.await?)
    }
}

impl ShardStatus {
    fn of(shard: &ShardName) -> Self {
        Self {
            shard: shard.clone(),
            error: None,
            as_of: Timestamp(0),
            oldest_hot_at: None,
            waiting_conversations: 0,
            lag_millis: 0,
            archived: SegmentSums::default(),
            bytes_per_message: None,
            unsettled: SegmentSums::default(),
            to_collect: SegmentSums::default(),
            open_erasures: 0,
            oldest_erasure_at: None,
            holds: 0,
            leases: Vec::new(),
            jobs: Vec::new(),
        }
    }
}
