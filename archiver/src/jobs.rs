//! The operators' jobs on the archive.
//!
//! | module | what it holds |
//! |---|---|
//! | [`run`] | the archive job: from hot rows to published segments |
//! | [`erase`] | deleted content out of archived objects; ended retentions too |
//! | [`collect`] | objects that nothing names: found, kept for a while, deleted |
//! | [`files`] | files of conversations: collected, and compared with their rows |
//! | [`verify`] | the scrub: bucket against index, both ways, and every frame |
//! | [`repair`] | what the scrub finds, put right from what the objects hold |
//! | [`restore`] | a conversation back to hot rows |
//! | [`rebuild`] | the index from the bucket alone |
//! | [`status`] | what there is, what is waiting, what was done |
//! | [`schedule`] | the jobs of a running service |
//! | `source`, `settle` | of the archive job: the rows that it reads, and taking away those that are published |
//! | `error`, `step`, `progress` | why a job ended early; the steps that tests see; how far a job is |
//! | [`terms`] | the index of terms that searches use |
//! | `draft`, `rewrite` | writing one segment; writing one anew without what must go or is superseded |
//! | `inspect` | what is wrong with a segment, or with a conversation's copies |
//! | `throttle`, `others` | waiting for the database to be less busy; whether anybody else uses it |
//!
//! The archive job leaves messages hot that are younger than `limits.idempotency`, whatever cut-off it is given: a repeated
//! send is recognised by the hot row of its message (INV-IDEM). Its order, each step safe to die after (INV-TIER,
//! INV-OBJECT):
//!
//! 1. lease of the shard's ranges;
//! 2. intent row, with the segment's unique name and the next number;
//! 3. rows read, digested, compressed and uploaded, in one stream; then their terms ([`crate::terms`]);
//! 4. everything read back, decoded and compared with the digest of the rows;
//! 5. published: index rows and registry, one transaction;
//! 6. hot rows deleted in bounded batches, those only that are still at an archived rev;
//! 7. settled: the heads know what their oldest hot message is, except those with rows that were changed meanwhile, which
//!    come last, so that a run does not find a conversation a second time.
//!
//! A crash leaves, after 2–4, an intent and perhaps an object that nothing names (collected after a grace period), and
//! after 5 and 6 rows that are in both tiers, which readers do not notice and the next run goes on deleting.

pub mod collect;
mod draft;
pub mod erase;
mod error;
pub mod files;
mod inspect;
mod inspect_segment;
mod others;
mod progress;
pub mod rebuild;
pub mod repair;
pub mod restore;
mod rewrite;
pub mod run;
pub mod schedule;
mod settle;
mod source;
pub mod status;
mod step;
pub mod terms;
mod throttle;
pub mod verify;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::archive::{self, HeldLease, Lease, begin_job, end_job};
use backscroll_shard::clock;
use backscroll_shard::error::Error;
use backscroll_shard::ids::ShardName;
use backscroll_shard::map::Assignment;
use backscroll_shard::metrics::SharedString;
use backscroll_shard::model::Timestamp;
use backscroll_shard::node::Shard;
use backscroll_shard::routing::Router;
use backscroll_shard::tasks::OneShots;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use self::error::{ArchiveError, Result};
pub use self::progress::{Progress, Snapshot};
pub use self::step::{Hook, Step};
use crate::metrics;
use crate::object_store::ObjectStore;
use crate::settings::{Age, ArchiveSettings};
use crate::tier::Tier;

/// How long one transaction of a job may take.
const STEP: Duration = Duration::from_secs(30);

/// How often a lease is renewed; also how exactly a replica's lag is known.
const RENEWAL: Duration = Duration::from_secs(1);

/// How much of what jobs read is kept: neighbours are mostly in one frame.
const JOBS_CACHE_BYTES: u64 = 16 << 20;

/// Most segments that are uploaded at once, those included whose job has just given them up.
const UPLOADS: usize = 1024;

/// Who starts a job, and why: for the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// A user of the machine, or `schedule`.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Only this shard.
    pub shard: Option<ShardName>,
}

/// What came of a job on one shard.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardOutcome<T> {
    /// The shard.
    pub shard: ShardName,
    /// The figures, of what was done until it ended.
    pub figures: T,
    /// Why it did not get to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The jobs on the archive of a deployment. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct ArchiveJobs {
    router: Arc<Router>,
    objects: Arc<dyn ObjectStore>,
    settings: Arc<ArchiveSettings>,
    /// How jobs read single messages.
    frames: Tier,
    hook: Option<Hook>,
    /// Most rows that a run reads at once.
    read_rows: usize,
    uploads: OneShots,
    stop: CancellationToken,
}

impl fmt::Debug for ArchiveJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchiveJobs({})", self.objects.location())
    }
}

impl ArchiveJobs {
    /// Jobs on the archive of the shards that `router` knows, in `objects`.
    #[must_use]
    pub fn new(
        router: Arc<Router>,
        objects: Arc<dyn ObjectStore>,
        settings: ArchiveSettings,
    ) -> Self {
        let own_cache = ArchiveSettings {
            cache_bytes: JOBS_CACHE_BYTES,
            terms_cache_bytes: 0,
            ..settings.clone()
        };
        Self {
            router,
            frames: Tier::new(objects.clone(), &own_cache),
            objects,
            settings: Arc::new(settings),
            hook: None,
            read_rows: run::READ_ROWS,
            uploads: OneShots::new("segment-upload", UPLOADS),
            stop: CancellationToken::new(),
        }
    }

    /// Ends jobs once `stop` is cancelled: each is cut off between two of its steps, its end is put down, and its lease is
    /// given up. Jobs that are asked for later end likewise at once.
    #[must_use]
    pub fn stopped_by(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// Tells `hook` of every step: for tests that stop a job between two of them.
    #[must_use]
    pub fn with_hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Reads at most `rows` rows at once: for tests that want segments of few messages.
    #[must_use]
    pub fn with_read_rows(mut self, rows: usize) -> Self {
        self.read_rows = rows;
        self
    }

    /// The configuration.
    #[must_use]
    pub fn settings(&self) -> &ArchiveSettings {
        &self.settings
    }

    /// The time by the clocks of the shards that `order` is about, of those that answer the earliest: what ages are counted
    /// from.
    ///
    /// # Errors
    /// [`Error::ClocksDiffer`] when this machine's clock does not agree with one of them; when no shard answers.
    pub async fn now(&self, order: &Order) -> Result<Timestamp> {
        let mut earliest = Err(ArchiveError::Stopped);
        for shard in self.shards(order)? {
            let asked = async {
                let mut connection = shard.reader(Instant::now() + STEP).await?;
                clock::agreed_now(&mut connection).await
            };
            match asked.await {
                Ok(now) => {
                    earliest = Ok(earliest.map_or(now, |earliest: Timestamp| earliest.min(now)))
                }
                Err(error @ Error::ClocksDiffer(_)) => return Err(error.into()),
                Err(error) if earliest.is_err() => earliest = Err(error.into()),
                Err(_) => {}
            }
        }
        earliest
    }

    /// Messages sent before this are old enough to be archived now, as `archive.after` says.
    #[must_use]
    pub fn cutoff(&self, now: Timestamp) -> Timestamp {
        self.cutoff_of(&self.settings.after, now)
    }

    /// Messages sent before this are older than `age`, and not needed to recognise a repeat.
    #[must_use]
    pub fn cutoff_of(&self, age: &Age, now: Timestamp) -> Timestamp {
        let older = age.before(now, &self.settings.zone());
        older.min(self.latest_cutoff(now))
    }

    /// The latest cut-off that any job has: a repeat is recognised by the hot row of its message, which therefore stays for
    /// as long as `limits.idempotency` says (INV-IDEM).
    fn latest_cutoff(&self, now: Timestamp) -> Timestamp {
        match self.router.settings().limits.idempotency.0 {
            Duration::ZERO => Timestamp::MAX, // nothing is promised
            span => now.minus(span),
        }
    }

    /// `cutoff`, or the latest one that `shard` allows by whichever clock is behind: this machine's or its database's.
    async fn bounded(&self, shard: &Shard, cutoff: Timestamp) -> Result<Timestamp> {
        let mut connection = shard.reader(Instant::now() + STEP).await?;
        let now = archive::clock(&mut connection).await?.min(Timestamp::now());
        Ok(cutoff.min(self.latest_cutoff(now)))
    }

    fn passed(&self, step: Step) {
        if let Some(hook) = &self.hook {
            hook(step);
        }
    }

    /// The shards that `order` is about.
    fn shards(&self, order: &Order) -> Result<Vec<Arc<Shard>>> {
        match &order.shard {
            Some(name) => Ok(vec![self.router.shard(name)?.clone()]),
            None => Ok(self.router.shards().cloned().collect()),
        }
    }

    /// Frees the leases of jobs that died, and says which were held, shard by shard. A job that is not dead finds its lease lost
    /// with its next transaction. The reason is kept in the history of jobs.
    ///
    /// # Errors
    /// When there is no such shard, or one does not answer; those before it are done.
    pub async fn clear_leases(&self, order: &Order) -> Result<Vec<(ShardName, Vec<HeldLease>)>> {
        let mut cleared = Vec::new();
        for shard in self.shards(order)? {
            let held = transaction(&shard, async |connection| {
                let held = archive::clear_leases(connection).await?;
                let names = ("lease clear", order.actor.as_str(), order.reason.as_str());
                let holders: Vec<&str> = held.iter().map(|lease| lease.holder.as_str()).collect();
                if !held.is_empty() {
                    let id = begin_job(connection, names).await?;
                    let figures = serde_json::json!({ "held": holders }).to_string();
                    end_job(connection, &id, ("done", &figures)).await?;
                }
                Ok(held)
            });
            cleared.push((shard.name().clone(), held.await?));
        }
        Ok(cleared)
    }

    /// A job on one shard: its lease taken and kept, its history written, whatever comes of it.
    async fn job<T: Serialize + Default>(
        &self,
        shard: &Arc<Shard>,
        (kind, order): (&str, &Order),
        work: impl AsyncFnOnce(&Lease, &mut T) -> Result<()>,
    ) -> ShardOutcome<T> {
        let mut figures = T::default();
        // Boxed: a job's future is large, and who awaits it may be deep in its own.
        let outcome = Box::pin(self.leased(shard, (kind, order), &mut figures, work)).await;
        let error = outcome.err().map(|error| error.to_string());
        if let Some(error) = &error {
            tracing::warn!(shard = %shard.name(), job = kind, error, "an archive job did not get to its end");
        }
        metrics::JOBS
            .with([
                SharedString::from(kind.to_owned()),
                SharedString::from(if error.is_none() { "done" } else { "failed" }),
            ])
            .increment(1);
        ShardOutcome {
            shard: shard.name().clone(),
            figures,
            error,
        }
    }

    async fn leased<T: Serialize>(
        &self,
        shard: &Arc<Shard>,
        (kind, order): (&str, &Order),
        figures: &mut T,
        work: impl AsyncFnOnce(&Lease, &mut T) -> Result<()>,
    ) -> Result<()> {
        if self.stop.is_cancelled() {
            return Err(ArchiveError::Stopped);
        }
        let map = self.router.map();
        let ranges: Vec<Assignment> = map.ranges_of(shard.name()).cloned().collect();
        if ranges.is_empty() {
            return Ok(());
        }
        let holder = format!("archive {kind} ({})", order.actor);
        let ttl = self.settings.lease.0;
        let lease = transaction(shard, async |connection| {
            // What a job does cannot be undone, and hangs on how old things are.
            clock::agreed_now(connection).await?;
            let range = (shard.name(), ranges.clone());
            archive::take_lease(connection, range, &holder, ttl).await
        })
        .await?;
        self.passed(Step::Leased);
        let names = (kind, order.actor.as_str(), order.reason.as_str());
        let id = transaction(shard, async |connection| begin_job(connection, names).await).await?;
        let outcome = tokio::select! {
            outcome = work(&lease, figures) => outcome,
            error = self.keep(shard, &lease) => Err(error),
            () = self.stop.cancelled() => Err(ArchiveError::Stopped),
        };
        let told = outcome
            .as_ref()
            .map_or_else(ToString::to_string, |()| "done".to_owned());
        let numbers = serde_json::to_string(&figures).unwrap_or_else(|_| "{}".into());
        // Either may fail because the database is away: then the history says that the job never ended, and the lease
        // ends by itself.
        let closing = transaction(shard, async |connection| {
            end_job(connection, &id, (&told, &numbers)).await?;
            archive::give_up_lease(connection, &lease).await
        });
        if let Err(error) = closing.await {
            tracing::warn!(shard = %shard.name(), %error, "the end of an archive job could not be put down");
        }
        outcome
    }

    /// Keeps a lease until it is lost.
    async fn keep(&self, shard: &Shard, lease: &Lease) -> ArchiveError {
        let ttl = self.settings.lease.0;
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEWAL).await;
            let renewal = transaction(shard, async |connection| {
                archive::renew_lease(connection, lease, ttl).await
            });
            match renewal.await {
                Ok(()) => renewed = Instant::now(),
                Err(error @ (Error::LeaseLost(_) | Error::NotOwner(_))) => return error.into(),
                Err(error) if renewed.elapsed() > ttl => return error.into(),
                Err(_) => {}
            }
        }
    }
}

/// One transaction on a shard, with a job's patience.
async fn transaction<T>(
    shard: &Shard,
    work: impl AsyncFn(&mut backscroll_shard::db::Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let work = &work;
    shard
        .patient_transaction(Instant::now() + STEP, |mut transaction| async move {
            work(&mut transaction).await
        })
        .await
}
