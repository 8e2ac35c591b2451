//! Pictures that have no smaller forms, processed again by an operator's command: their processing has failed (a decoder was mended
//! since, or was given more memory or time), or they were accepted while no forms were made (`media.workers = 0`).
//!
//! Pages of files are read by their key from the shard that owns them. Each picture is taken by a transaction of its own, which
//! gives it keys for its forms and a lease ([`Store::process_again`]); from then on it is a picture like any other in the queue, and
//! [`Processor`] sees it through. A picture is taken only when a worker is free for it, so that no lease ends while it waits.
//!
//! INV-ERASE: the keys are in the row before anything is put there. INV-BOUND: one page in memory, `media.workers` pictures at once.
//! A crash leaves leases that end, at most one for each worker; the workers of any server, or the next rebuild, take these pictures
//! up. A range that moves between two shards while both are read may be passed over; the next rebuild finds its pictures.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::media;
use backscroll_shard::model::{Media, MediaKind, MediaState};
use backscroll_shard::node::Shard;
use backscroll_shard::store::Store;
use futures_util::future::join_all;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::new_variant_keys;
use super::processing::Processor;
use super::settings::MediaSettings;
use super::worker::Program;
use crate::object_store::ObjectStore;

/// Files that are read at once.
const PAGE: usize = 256;
/// Longest time for a page.
const STEP: Duration = Duration::from_secs(60);

/// Pictures without smaller forms, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildFigures {
    /// Pictures that were looked at.
    pub pictures: u64,
    /// Those that were never processed.
    pub unprocessed: u64,
    /// Those whose processing had failed, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Those that were being processed, or waited for it.
    pub processing: u64,
    /// Those that are ready now.
    pub ready: u64,
    /// Those that have failed again, by reason.
    pub failed_again: BTreeMap<String, u64>,
    /// Those that could not be processed now, for reasons that are not theirs. Servers try again.
    pub postponed: u64,
    /// Those that were deleted, or that another process works on.
    pub passed_over: u64,
    /// Shards that were not done to the end, and why.
    pub errors: BTreeMap<String, String>,
}

/// The figures of a rebuild under way. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct RebuildProgress(Arc<Mutex<RebuildFigures>>);

impl RebuildProgress {
    /// The figures now.
    #[must_use]
    pub fn snapshot(&self) -> RebuildFigures {
        let figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        figures.clone()
    }

    fn update(&self, change: impl FnOnce(&mut RebuildFigures)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Processes pictures without smaller forms again.
pub struct Rebuild<'a> {
    /// Where the rows are.
    pub store: &'a Arc<Store>,
    /// Where the pictures are.
    pub objects: &'a Arc<dyn ObjectStore>,
    /// The limits of a picture and of a worker. With `workers = 0` there is one worker.
    pub settings: &'a MediaSettings,
    /// The program of the workers.
    pub program: &'a Program,
    /// Only the pictures of this conversation.
    pub conversation: Option<ConversationId>,
    /// Once cancelled, no further picture is taken.
    pub stop: &'a CancellationToken,
}

impl Rebuild<'_> {
    /// Counts the pictures that [`Rebuild::run`] would process, and changes nothing.
    pub async fn count(&self, progress: &RebuildProgress) -> RebuildFigures {
        for shard in self.shards() {
            let mut source = Source::new(self, &shard, progress);
            while let Some(found) = source.next().await.transpose() {
                if let Err(error) = found {
                    note_error(progress, &shard, &error);
                    break;
                }
            }
        }
        progress.snapshot()
    }

    /// Processes them. A shard that fails does not keep the others from being done ([`RebuildFigures::errors`]).
    pub async fn run(&self, progress: &RebuildProgress) -> RebuildFigures {
        let program = (self.settings, self.program);
        let workers = 0..self.settings.workers.max(1);
        let mut processors: Vec<Processor> = workers
            .map(|_| Processor::new(self.store, self.objects, program))
            .collect();
        for shard in self.shards() {
            let source = tokio::sync::Mutex::new(Source::new(self, &shard, progress));
            let working = processors.iter_mut();
            let working = working.map(|processor| self.work(processor, &source, progress));
            for error in join_all(working).await.into_iter().filter_map(Result::err) {
                note_error(progress, &shard, &error);
            }
        }
        join_all(processors.iter_mut().map(Processor::end)).await;
        progress.snapshot()
    }

    fn shards(&self) -> Vec<Arc<Shard>> {
        let map = self.store.map();
        let only = self
            .conversation
            .map(|id| &map.locate(id.owner_key()).shard);
        let shards = self.store.router().shards();
        let wanted = shards.filter(|shard| only.is_none_or(|only| only == shard.name()));
        wanted.cloned().collect()
    }

    async fn work(
        &self,
        processor: &mut Processor,
        source: &tokio::sync::Mutex<Source<'_>>,
        progress: &RebuildProgress,
    ) -> Result<(), Error> {
        loop {
            let Some(found) = source.lock().await.next().await? else {
                return Ok(());
            };
            let keys = new_variant_keys();
            let outcome = match self.store.process_again(&found, &keys).await? {
                Some(taken) => processor.process(&taken).await,
                None => Ok(None),
            };
            progress.update(|now| match outcome {
                Ok(Some(Media { reason: None, .. })) => now.ready += 1,
                Ok(Some(Media {
                    reason: Some(reason),
                    ..
                })) => {
                    *now.failed_again.entry(reason).or_default() += 1;
                }
                Ok(None) => now.passed_over += 1,
                Err(_) => now.postponed += 1,
            });
        }
    }
}

fn note_error(progress: &RebuildProgress, shard: &Shard, error: &Error) {
    progress.update(|now| {
        now.errors
            .insert(shard.name().to_string(), error.to_string());
    });
}

/// The pictures of one shard that have no smaller forms, in the order of their keys.
struct Source<'a> {
    rebuild: &'a Rebuild<'a>,
    shard: &'a Shard,
    progress: &'a RebuildProgress,
    page: VecDeque<Media>,
    after: Option<(ConversationId, Option<MediaId>)>,
    is_read: bool,
}

impl<'a> Source<'a> {
    fn new(rebuild: &'a Rebuild<'a>, shard: &'a Shard, progress: &'a RebuildProgress) -> Self {
        Self {
            rebuild,
            shard,
            progress,
            page: VecDeque::new(),
            after: rebuild.conversation.map(|id| (id, None)),
            is_read: false,
        }
    }

    /// The next one; `None` after the last, and once the rebuild is to stop.
    async fn next(&mut self) -> Result<Option<Media>, Error> {
        while !self.rebuild.stop.is_cancelled() {
            match self.page.pop_front() {
                Some(file) if self.count(&file) => return Ok(Some(file)),
                Some(_) => {}
                None if self.is_read => break,
                None => self.read().await?,
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<(), Error> {
        let mut connection = self.shard.reader(Instant::now() + STEP).await?;
        let page = media::after(&mut connection, self.after, PAGE).await?;
        drop(connection);
        self.after = page.last().map(|last| (last.conversation, Some(last.id)));
        let (found, only) = (page.len(), self.rebuild.conversation);
        let wanted = |file: &Media| only.is_none_or(|only| only == file.conversation);
        self.page = page.into_iter().take_while(wanted).collect();
        self.is_read = found < PAGE || self.page.len() < found;
        Ok(())
    }

    /// Counts a picture of this shard, and says whether it is to be processed.
    fn count(&self, file: &Media) -> bool {
        let map = self.rebuild.store.map();
        // Rows of a range that has moved away are not this shard's any more.
        let is_here = map.locate(file.conversation.owner_key()).shard == *self.shard.name();
        let is_picture = file.kind == MediaKind::Image && file.state.is_accepted();
        if !is_here || !is_picture {
            return false;
        }
        // Every picture that was processed has a placeholder, also one that is small enough as it is.
        let is_waiting = file.facts.placeholder.is_none();
        self.progress.update(|now| {
            now.pictures += 1;
            match (&file.reason, file.state) {
                _ if !is_waiting => {}
                (Some(reason), _) => *now.failed.entry(reason.clone()).or_default() += 1,
                (None, MediaState::Processing) => now.processing += 1,
                (None, _) => now.unprocessed += 1,
            }
        });
        is_waiting
    }
}
