//! Cold reads: archived messages for the calls that read hot ones (the store's [`ColdTier`]).
//!
//! A page needs one ranged GET of one frame. Frames that were read are kept in a cache bounded by bytes; who wants the
//! same frame at the same time shares one fetch; who reads backwards finds the frame before the current one fetched
//! already. The fetch is a task of its own and ends up in the cache even if everybody who asked has given up, so that a
//! client with less patience than the object store needs does not start it anew each time.
//!
//! - INV-TIER: a frame is compared with the digest that the index has of it, and each of its lines checked, before
//!   anything of it is shown; damage is fetched once more and then reported with the names of segment and frame.
//! - INV-BOUND: `archive.max_reads` frames are fetched and unpacked at once, sixteen times as many may wait, and the cache
//!   has `archive.cache_bytes`. No database connection is held meanwhile: readers of the archive cannot starve others.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backscroll_shard::archive::{self, ArchivedRun, SegmentId};
use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::node::Shard;
use backscroll_shard::seams::ColdTier;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::object_store::{ErrorKind, ObjectStore};
use crate::segment::reader::Frame;
use crate::segment::{FrameDigest, FrameLocation, SegmentError, object_key};
use crate::settings::ArchiveSettings;

/// How many fetches may wait for each one under way.
const WAITING: usize = 16;

/// How many fetches ahead of readers there may be, as a part of `max_reads`.
const AHEAD: usize = 4;

/// How long looking ahead may take.
const AHEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Which frame: segments never change.
type FrameId = (SegmentId, u64);

/// Why a frame was not read; shared by all who wanted it.
#[derive(Clone, Debug)]
enum Failure {
    Unavailable,
    Damaged(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable => Self::ArchiveUnavailable,
            Failure::Damaged(what) => Self::ArchiveDamaged(what),
        }
    }
}

type Flight = Shared<BoxFuture<'static, Result<Arc<Frame>, Failure>>>;

/// Reads archived messages. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Tier(Arc<Inner>);

struct Inner {
    objects: Arc<dyn ObjectStore>,
    cache: Cache<FrameId, Arc<Frame>, FrameWeight>,
    flights: Mutex<HashMap<FrameId, Flight>>,
    most_flights: usize,
    reads: Semaphore,
    ahead: Arc<Semaphore>,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct FrameWeight;

impl Weighter<FrameId, Arc<Frame>> for FrameWeight {
    fn weight(&self, _id: &FrameId, frame: &Arc<Frame>) -> u64 {
        let messages: usize = frame.runs.iter().map(|run| run.messages.len()).sum();
        (frame.plain_bytes + messages * size_of::<StoredMessage>()) as u64
    }
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tier({})", self.0.objects.location())
    }
}

impl Tier {
    /// Reads from `objects`.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, settings: &ArchiveSettings) -> Self {
        // About what a frame takes once it is unpacked; only sizes the cache's tables.
        let frame = (settings.frame_bytes * 4).max(1) as u64;
        let frames = usize::try_from(settings.cache_bytes / frame)
            .unwrap_or(usize::MAX)
            .max(16);
        Self(Arc::new(Inner {
            objects,
            cache: Cache::with_weighter(frames, settings.cache_bytes, FrameWeight),
            flights: Mutex::default(),
            most_flights: settings.max_reads * (1 + WAITING),
            reads: Semaphore::new(settings.max_reads),
            ahead: Arc::new(Semaphore::new((settings.max_reads / AHEAD).max(1))),
            tasks: TaskTracker::new(),
        }))
    }

    /// The frame of `run`, out of the cache or fetched.
    async fn frame(&self, run: &ArchivedRun, deadline: Instant) -> Result<Arc<Frame>> {
        let segment = run.segment.ok_or(Error::NotFound("message"))?;
        let id = (segment, run.offset);
        if let Some(frame) = self.0.cache.get(&id) {
            metrics::counter!("backscroll_archive_reads_total", "from" => "cache").increment(1);
            return Ok(frame);
        }
        let location = FrameLocation {
            offset: run.offset,
            length: run.length,
            digest: FrameDigest(run.digest),
        };
        let flight = self.flight(id, location)?;
        match tokio::time::timeout_at(deadline.into(), flight).await {
            Ok(read) => Ok(read?),
            Err(_) => Err(Error::ArchiveUnavailable),
        }
    }

    /// The fetch of a frame: the one that is under way, or a new one.
    fn flight(&self, id: FrameId, location: FrameLocation) -> Result<Flight> {
        let mut flights = lock(&self.0.flights);
        if let Some(flight) = flights.get(&id) {
            metrics::counter!("backscroll_archive_reads_total", "from" => "flight").increment(1);
            return Ok(flight.clone());
        }
        if let Some(frame) = self.0.cache.get(&id) {
            return Ok(futures_util::future::ready(Ok(frame)).boxed().shared()); // it landed a moment ago
        }
        if flights.len() >= self.0.most_flights {
            metrics::counter!("backscroll_archive_reads_total", "from" => "refused").increment(1);
            return Err(Error::ArchiveUnavailable);
        }
        metrics::counter!("backscroll_archive_reads_total", "from" => "store").increment(1);
        let landing = Landing {
            inner: self.0.clone(),
            id,
        };
        let task = self.0.tasks.spawn(async move {
            let outcome = landing.inner.fetch(id, location).await;
            if let Ok(frame) = &outcome {
                let cache = &landing.inner.cache;
                cache.insert(id, frame.clone());
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                metrics::gauge!("backscroll_archive_cache_bytes").set(cache.weight() as f64);
            }
            outcome
        });
        let flight = task
            .map(|ended| ended.unwrap_or(Err(Failure::Unavailable)))
            .boxed()
            .shared();
        flights.insert(id, flight.clone());
        Ok(flight)
    }
}

fn lock(flights: &Mutex<HashMap<FrameId, Flight>>) -> MutexGuard<'_, HashMap<FrameId, Flight>> {
    // Nothing panics half-way through a change of the map.
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the flight off the map when its task ends, however it does.
struct Landing {
    inner: Arc<Inner>,
    id: FrameId,
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.inner.flights).remove(&self.id);
    }
}

impl Inner {
    async fn fetch(&self, id: FrameId, location: FrameLocation) -> Result<Arc<Frame>, Failure> {
        let Ok(_turn) = self.reads.acquire().await else {
            return Err(Failure::Unavailable);
        };
        let started = Instant::now();
        let mut outcome = self.fetch_once(id, location).await;
        if let Err(Failure::Damaged(problem)) = &outcome {
            tracing::warn!(
                problem,
                "an archived frame is damaged; reading it once more"
            );
            outcome = self.fetch_once(id, location).await;
        }
        if let Err(Failure::Damaged(problem)) = &outcome {
            metrics::counter!("backscroll_archive_damaged_reads_total").increment(1);
            tracing::error!(
                problem,
                "archived messages cannot be read; run `backscroll archive verify`"
            );
        }
        metrics::histogram!("backscroll_archive_read_seconds")
            .record(started.elapsed().as_secs_f64());
        outcome
    }

    async fn fetch_once(
        &self,
        (segment, offset): FrameId,
        location: FrameLocation,
    ) -> Result<Arc<Frame>, Failure> {
        let key = object_key(segment);
        let range = offset..offset + u64::from(location.length);
        let bytes =
            self.objects
                .get_range(&key, range)
                .await
                .map_err(|error| match error.kind() {
                    ErrorKind::NotFound | ErrorKind::OutOfRange => {
                        Failure::Damaged(format!("segment {key}, frame at {offset}: {error}"))
                    }
                    _ => {
                        tracing::warn!(%error, "the archive cannot be read");
                        Failure::Unavailable
                    }
                })?;
        let read = tokio::task::spawn_blocking(move || Frame::read(&key, &location, &bytes)).await;
        match read {
            Ok(Ok(frame)) => Ok(Arc::new(frame)),
            Ok(Err(error @ SegmentError::Damaged { .. })) => {
                Err(Failure::Damaged(error.to_string()))
            }
            Ok(Err(error)) => Err(Failure::Damaged(error.to_string())),
            Err(_) => Err(Failure::Unavailable),
        }
    }
}

#[async_trait]
impl ColdTier for Tier {
    async fn read(
        &self,
        conversation: ConversationId,
        run: &ArchivedRun,
        (first, last): (Seq, Seq),
        deadline: Instant,
    ) -> Result<Vec<StoredMessage>> {
        let frame = self.frame(run, deadline).await?;
        let messages = frame
            .run(conversation, run.first_seq, run.last_seq)
            .and_then(|messages| {
                let from = usize::try_from(first.0.checked_sub(run.first_seq.0)?).ok()?;
                let to = usize::try_from(last.0.checked_sub(run.first_seq.0)?).ok()?;
                messages.get(from..=to)
            });
        let damaged = || {
            let segment = run.segment.map(object_key);
            let segment = segment.map_or_else(String::new, |key| key.to_string());
            Error::ArchiveDamaged(format!(
                "segment {segment}, frame at {}: it has no messages {first} to {last} of conversation {conversation}",
                run.offset
            ))
        };
        messages.map(<[StoredMessage]>::to_vec).ok_or_else(damaged)
    }

    fn read_ahead(&self, shard: &Arc<Shard>, conversation: ConversationId, before: Seq) {
        let Some(wanted) = before.0.checked_sub(1).filter(|seq| *seq > 0).map(Seq) else {
            return;
        };
        let Ok(turn) = self.0.ahead.clone().try_acquire_owned() else {
            return; // who reads now goes first
        };
        let (tier, shard) = (self.clone(), shard.clone());
        self.0.tasks.spawn(async move {
            let _turn = turn;
            let deadline = Instant::now() + AHEAD_DEADLINE;
            let ahead = async {
                let mut connection = shard.reader(deadline).await?;
                let runs = archive::locate(&mut connection, conversation, (wanted, wanted)).await?;
                drop(connection);
                match runs.last().filter(|run| run.segment.is_some()) {
                    Some(run) => tier.frame(run, deadline).await.map(drop),
                    None => Ok(()),
                }
            };
            if let Err(error) = ahead.await {
                tracing::debug!(%error, "nothing was read ahead");
            }
        });
    }
}
