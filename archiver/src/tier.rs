//! Cold reads: archived messages for the calls that read hot ones (the store's [`ColdTier`]).
//!
//! A page needs one ranged GET: of one frame, or of two that lie side by side. Frames that were read are kept in a cache
//! bounded by bytes; who wants the same frame at the same time shares one fetch; who reads backwards finds the frame
//! before the current one fetched already. The fetch is a task of its own and ends up in the cache even if everybody who
//! asked has given up, so that a client with less patience than the object store needs does not start it anew each time.
//!
//! - INV-TIER: a frame is compared with the digest that the index has of it, and each of its lines checked, before
//!   anything of it is shown; what is damaged is fetched once more and then an error with the names of segment and frame.
//! - INV-BOUND: `archive.max_reads` frames are fetched and unpacked at once, sixteen times as many may wait, and the cache
//!   has `archive.cache_bytes`. No database connection is held meanwhile: readers of the archive cannot starve others.

use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backscroll_shard::archive::{ArchivedRun, Copies, SegmentId};
use backscroll_shard::cold_tier::{ColdPart, ColdTier, Pieces};
use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::node::Shard;
use backscroll_shard::tasks::OneShots;
use bytes::Bytes;
use futures_util::future::join_all;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use crate::flights::{Board, Flight, Flights};
use crate::metrics;
use crate::object_store::{ErrorKind, ObjectStore, transfer};
use crate::segment::reader::Frame;
use crate::segment::{FrameDigest, FrameLocation, object_key};
use crate::settings::ArchiveSettings;
use crate::terms::index::TermsIndex;

/// How many fetches may wait for each one under way.
const WAITING: usize = 16;

/// Most frames fetched with one request.
const TOGETHER: usize = 4;

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

/// What came of reading one frame.
type Outcome = Result<Arc<Frame>, Failure>;

/// Reads archived messages. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Tier(Arc<Inner>);

struct Inner {
    objects: Arc<dyn ObjectStore>,
    terms: TermsIndex,
    cache: Cache<FrameId, Arc<Frame>, FrameWeight>,
    flights: Flights<FrameId, Outcome>,
    most_flights: usize,
    max_reads: usize,
    reads: Semaphore,
    fetches: OneShots,
    ahead: OneShots,
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
        let most_flights = settings.max_reads * (1 + WAITING);
        let most_ahead = (settings.max_reads / AHEAD).max(1);
        let terms = TermsIndex::new(Arc::clone(&objects), settings.terms_cache_bytes);
        Self(Arc::new(Inner {
            objects,
            terms,
            cache: Cache::with_weighter(frames, settings.cache_bytes, FrameWeight),
            flights: Flights::default(),
            most_flights,
            max_reads: settings.max_reads,
            reads: Semaphore::new(settings.max_reads),
            fetches: OneShots::new("archive-fetch", most_flights),
            ahead: OneShots::new("archive-read-ahead", most_ahead),
        }))
    }

    /// Frames, each out of the cache or fetched; those that lie side by side with one request.
    async fn frames(
        &self,
        wanted: BTreeMap<FrameId, FrameLocation>,
        deadline: Instant,
    ) -> HashMap<FrameId, Outcome> {
        let mut frames: HashMap<FrameId, Outcome> = HashMap::new();
        let mut missing: Vec<(FrameId, FrameLocation)> = Vec::new();
        for (id, location) in wanted {
            if let Some(frame) = self.0.cache.get(&id) {
                metrics::READS.with(["cache"]).increment(1);
                frames.insert(id, Ok(frame));
            } else {
                missing.push((id, location));
            }
        }
        let landing = self
            .flights(&missing)
            .into_iter()
            .map(async |(id, flight)| {
                let landed = tokio::time::timeout_at(deadline.into(), flight.value()).await;
                let outcome = landed.ok().flatten();
                (id, outcome.unwrap_or(Err(Failure::Unavailable)))
            });
        frames.extend(join_all(landing).await);
        frames
    }

    /// The fetches of frames that are not in the cache: those that are under way, and new ones. Where there are too many
    /// already, there is none.
    fn flights(&self, missing: &[(FrameId, FrameLocation)]) -> HashMap<FrameId, Flight<Outcome>> {
        let mut found: HashMap<FrameId, Flight<Outcome>> = HashMap::new();
        if missing.is_empty() {
            return found;
        }
        let mut flights = self.0.flights.lock();
        let mut stretches: Vec<(SegmentId, Vec<FrameLocation>)> = Vec::new();
        let mut new = 0;
        for (id, location) in missing {
            let from = if let Some(flight) = flights.find(id) {
                found.insert(*id, flight);
                "flight"
            } else if let Some(frame) = self.0.cache.get(id) {
                found.insert(*id, Flight::landed(Ok(frame))); // a moment ago
                "cache"
            } else if flights.len() + new >= self.0.most_flights {
                "refused"
            } else {
                new += 1;
                match stretches.last_mut() {
                    Some((segment, frames)) if *segment == id.0 && continues(frames, location) => {
                        frames.push(*location);
                    }
                    _ => stretches.push((id.0, vec![*location])),
                }
                "store"
            };
            metrics::READS.with([from]).increment(1);
        }
        for (segment, frames) in stretches {
            found.extend(self.start(&mut flights, segment, frames));
        }
        found
    }

    /// Starts to fetch frames that lie side by side; none where there are too many fetches already.
    fn start(
        &self,
        flights: &mut Board<'_, FrameId, Outcome>,
        segment: SegmentId,
        frames: Vec<FrameLocation>,
    ) -> Vec<(FrameId, Flight<Outcome>)> {
        let Ok(place) = self.0.fetches.reserve() else {
            return Vec::new();
        };
        let ids: Vec<FrameId> = frames.iter().map(|frame| (segment, frame.offset)).collect();
        let (inner, wanted) = (self.0.clone(), ids.clone());
        flights.start(place, ids, async move {
            let outcomes = inner.fetch(segment, &frames).await;
            for (id, outcome) in wanted.iter().zip(&outcomes) {
                if let Ok(frame) = outcome {
                    inner.cache.insert(*id, frame.clone());
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            metrics::CACHE_BYTES.set(inner.cache.weight() as f64);
            outcomes
        })
    }
}

/// Whether a frame may be fetched with those before it.
fn continues(frames: &[FrameLocation], next: &FrameLocation) -> bool {
    let end = frames.last().map(|last| last.range().end);
    frames.len() < TOGETHER && end == Some(next.offset)
}

/// Which frame a run is in, unless it was dropped.
fn place_of(run: &ArchivedRun) -> Option<(FrameId, FrameLocation)> {
    let location = FrameLocation {
        offset: run.offset,
        length: run.length,
        digest: FrameDigest(run.digest),
    };
    Some(((run.segment?, run.offset), location))
}

/// The messages of a part out of its frame.
fn messages_of(
    frame: &Frame,
    conversation: ConversationId,
    part: &ColdPart,
) -> Result<Vec<StoredMessage>> {
    let (run, (first, last)) = (part.run(), part.bounds());
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

impl Inner {
    /// Fetches frames that lie side by side; those that are damaged once more, each by itself.
    async fn fetch(&self, segment: SegmentId, frames: &[FrameLocation]) -> Vec<Outcome> {
        let turns = u32::try_from(frames.len().min(self.max_reads)).unwrap_or(1);
        let Ok(_turns) = self.reads.acquire_many(turns).await else {
            return Vec::new();
        };
        let started = Instant::now();
        let mut outcomes = self.fetch_once(segment, frames).await;
        for (frame, outcome) in frames.iter().zip(&mut outcomes) {
            let Err(Failure::Damaged(problem)) = &*outcome else {
                continue;
            };
            tracing::warn!(
                problem,
                "an archived frame is damaged; reading it once more"
            );
            let again = self.fetch_once(segment, std::slice::from_ref(frame)).await;
            *outcome = again
                .into_iter()
                .next()
                .unwrap_or(Err(Failure::Unavailable));
            // Whether it is damage or was written anew meanwhile, those know who look at the index again.
            if let Err(Failure::Damaged(problem)) = &*outcome {
                tracing::warn!(problem, "an archived frame cannot be read");
            }
        }
        metrics::READ_SECONDS.record(started.elapsed().as_secs_f64());
        outcomes
    }

    /// One outcome for each of the frames.
    async fn fetch_once(&self, segment: SegmentId, frames: &[FrameLocation]) -> Vec<Outcome> {
        let key = object_key(segment);
        let ranges: Vec<Range<u64>> = frames.iter().map(FrameLocation::range).collect();
        let bytes = match transfer::get_ranges(self.objects.as_ref(), &key, &ranges).await {
            Ok(bytes) => bytes,
            Err(error) => {
                let is_gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::OutOfRange);
                if !is_gone {
                    tracing::warn!(%error, "the archive cannot be read");
                }
                let failure = |frame: &FrameLocation| {
                    Err(if is_gone {
                        let at = frame.offset;
                        Failure::Damaged(format!("segment {key}, frame at {at}: {error}"))
                    } else {
                        Failure::Unavailable
                    })
                };
                return frames.iter().map(failure).collect();
            }
        };
        let count = frames.len();
        let frames = frames.to_vec();
        let read = tokio::task::spawn_blocking(move || {
            let read = |(location, bytes): (&FrameLocation, &Bytes)| {
                Frame::read(&key, location, bytes)
                    .map(Arc::new)
                    .map_err(|error| Failure::Damaged(error.to_string()))
            };
            frames.iter().zip(&bytes).map(read).collect()
        });
        read.await
            .unwrap_or_else(|_| vec![Err(Failure::Unavailable); count])
    }
}

#[async_trait]
impl ColdTier for Tier {
    async fn read(
        &self,
        conversation: ConversationId,
        parts: &[ColdPart],
        deadline: Instant,
    ) -> Vec<Result<Vec<StoredMessage>>> {
        let wanted = parts
            .iter()
            .filter_map(|part| place_of(part.run()))
            .collect();
        let frames = self.frames(wanted, deadline).await;
        let read = |part: &ColdPart| {
            let (id, _) = place_of(part.run()).ok_or(Error::NotFound("message"))?;
            let frame = frames.get(&id).cloned();
            let frame = frame.unwrap_or(Err(Failure::Unavailable))?;
            messages_of(&frame, conversation, part)
        };
        parts.iter().map(read).collect()
    }

    async fn ruled_out(
        &self,
        runs: &[ArchivedRun],
        pieces: &Pieces,
        deadline: Instant,
    ) -> Vec<bool> {
        self.0.terms.ruled_out(runs, pieces, deadline).await
    }

    fn read_soon(&self, runs: &[ArchivedRun]) {
        let Ok(place) = self.0.ahead.reserve() else {
            return; // who reads now goes first
        };
        let (tier, places) = (self.clone(), runs.iter().filter_map(place_of).collect());
        place.spawn(async move {
            let deadline = Instant::now() + AHEAD_DEADLINE;
            tier.frames(places, deadline).await;
        });
    }

    fn read_ahead(&self, shard: &Arc<Shard>, conversation: ConversationId, before: Seq) {
        let Some(wanted) = before.0.checked_sub(1).filter(|seq| *seq > 0).map(Seq) else {
            return;
        };
        let Ok(place) = self.0.ahead.reserve() else {
            return; // who reads now goes first
        };
        let (tier, shard) = (self.clone(), shard.clone());
        place.spawn(async move {
            let deadline = Instant::now() + AHEAD_DEADLINE;
            let ahead = async {
                let mut connection = shard.reader(deadline).await?;
                let range = (wanted, wanted);
                let copies = Copies::find(&mut connection, conversation, range).await?;
                drop(connection);
                let parts = copies.plan(&[wanted].into()).parts();
                let places = parts.iter().filter_map(|part| place_of(part.run()));
                let frames = tier.frames(places.collect(), deadline).await;
                frames
                    .into_values()
                    .try_for_each(|frame| frame.map(drop).map_err(Error::from))
            };
            if let Err(error) = ahead.await {
                tracing::debug!(%error, "nothing was read ahead");
            }
        });
    }
}
