//! Makes smaller forms of pictures, beside the requests: takes them from the queue, has them made by workers, puts them on the
//! object store, tells.
//!
//! The rows are the queue ([`backscroll_shard::media::processing`]). A picture whose upload this process has just checked goes to its
//! workers directly, as long as there is room; others, and what a node left that died, are looked for every few seconds.
//!
//! - A picture that ends its worker, or takes too much of its time or memory, has failed; this process and the other pictures do
//!   not notice. One that ends a worker is given to a second one first, since something else may have killed the first.
//! - What is not the picture's fault (the object store or a database is away, no process can be started) is tried again later,
//!   for as long as the file is there.
//! - INV-ERASE: nothing is put after the lease has ended, and a removed picture's objects are deleted after that.
//! - INV-BOUND: so many workers with so much memory and time each, so many pictures in memory.
//!
//! A crash leaves a lease that ends, and perhaps objects under the picture's own keys, which the next one replaces.

mod keeper;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::media::processing::LEASE;
use backscroll_shard::model::{Media, MediaProcessed, MediaState};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::{Kept, TaskGroup};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::settings::MediaSettings;
use super::stored_key;
use super::thumbnails::{Failure, Made, Task};
use super::worker::Program;
use crate::metrics;
use crate::object_store::{ErrorKind, ObjectStore, StoreError};

use keeper::{Trouble, WorkerKeeper};

/// How often the shards are asked for pictures that wait in the database.
const LOOK: Duration = Duration::from_secs(5);
/// After this something else that failed is tried again.
const PAUSE: Duration = Duration::from_secs(30);
/// How long one picture may take in all. A picture whose lease has been held for as long already is left to the next, so that all work
/// ends within its lease.
const LONGEST: Duration = Duration::from_secs(LEASE.as_secs() / 2);

/// A picture that this process has taken.
#[derive(Debug)]
struct Taken {
    media: Media,
    since: Instant,
}

/// Where pictures are handed over to be processed. Clones are the same.
#[derive(Clone, Debug)]
pub struct Queue(mpsc::Sender<Taken>);

impl Queue {
    /// Hands a picture over whose lease has just begun. Where there is no room it waits in the database.
    pub fn offer(&self, media: Media) {
        let since = Instant::now();
        self.0.try_send(Taken { media, since }).ok();
    }
}

/// Starts the workers' tasks and the one that looks for pictures in the database, until `stop`.
#[must_use]
pub fn start(
    store: &Arc<Store>,
    objects: &Arc<dyn ObjectStore>,
    (settings, program): (&MediaSettings, &Program),
    tasks: &TaskGroup,
    stop: &CancellationToken,
) -> Queue {
    let (sender, receiver) = mpsc::channel(settings.queue.max(1));
    let receiver = Kept::new(receiver);
    for number in 1..=settings.workers {
        let processor = Kept::new(Processor::new(store, objects, (settings, program)));
        let (receiver, stopping) = (receiver.clone(), stop.clone());
        tasks.supervise(format!("media-{number}"), stop, move || {
            work(processor.clone(), receiver.clone(), stopping.clone())
        });
    }
    let queue = Queue(sender);
    if settings.workers > 0 {
        let (store, sender, stopping) = (Arc::clone(store), queue.clone(), stop.clone());
        tasks.supervise("media-due", stop, move || {
            look(Arc::clone(&store), sender.clone(), stopping.clone())
        });
    }
    queue
}

/// Takes what waits in the database as there is room.
async fn look(store: Arc<Store>, queue: Queue, stop: CancellationToken) {
    let looking = async {
        loop {
            for shard in store.router().shards() {
                let room = queue.0.capacity();
                if room == 0 || !shard.takes_writes() {
                    continue;
                }
                match store.take_due_media(shard, room.min(16)).await {
                    Ok(taken) => taken.into_iter().for_each(|media| queue.offer(media)),
                    // It is asked again, and whoever needs the shard says that it is away.
                    Err(error) => {
                        tracing::debug!(shard = %shard.name(), %error, "cannot look for pictures")
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    stop.run_until_cancelled(looking).await;
}

async fn work(
    processor: Kept<Processor>,
    receiver: Kept<mpsc::Receiver<Taken>>,
    stop: CancellationToken,
) {
    let mut processor = processor.hold().await;
    let working = async {
        loop {
            let next = async {
                let mut receiver = receiver.hold().await;
                let next = receiver.recv().await;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                metrics::MEDIA_QUEUE.set(receiver.len() as f64);
                next
            };
            let Some(taken) = processor.worker.resting_until(next).await else {
                return std::future::pending().await; // nobody hands over any more
            };
            // A picture that has waited for long is left to the next process that takes it, which has time for it.
            if taken.since.elapsed() <= LONGEST {
                processor.process(&taken.media).await.ok();
            }
        }
    };
    stop.run_until_cancelled(working).await;
    processor.end().await;
}

/// Why a picture is processed later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Later {
    #[error(transparent)]
    Store(#[from] backscroll_shard::error::Error),
    #[error(transparent)]
    Objects(#[from] StoreError),
    #[error("cannot start a worker: {0}")]
    Worker(std::io::Error),
    #[error("it took too long")]
    Late,
    #[error("its row has no keys for its smaller forms")]
    NoKeys,
}

/// One worker, and what it works on.
pub(super) struct Processor {
    store: Arc<Store>,
    objects: Arc<dyn ObjectStore>,
    settings: MediaSettings,
    worker: WorkerKeeper,
}

impl Processor {
    /// With a worker that is a process of `program`, started with the first picture.
    pub(super) fn new(
        store: &Arc<Store>,
        objects: &Arc<dyn ObjectStore>,
        (settings, program): (&MediaSettings, &Program),
    ) -> Self {
        Self {
            store: Arc::clone(store),
            objects: Arc::clone(objects),
            settings: settings.clone(),
            worker: WorkerKeeper::new(program.clone(), settings),
        }
    }

    /// Ends the worker.
    pub(super) async fn end(&mut self) {
        self.worker.end().await;
    }

    /// Does all that is still to be done with a picture whose lease has just begun, and gives it as it is then; `None` for one that
    /// was removed meanwhile.
    ///
    /// # Errors
    /// For a reason that is not the picture's. It is given back then, to be taken again after a pause, or when its lease ends.
    pub(super) async fn process(&mut self, media: &Media) -> Result<Option<Media>, Later> {
        let error = match tokio::time::timeout(LONGEST, self.see_through(media)).await {
            Ok(Ok(processed)) => return Ok(processed),
            Ok(Err(error)) => error,
            Err(_) => Later::Late,
        };
        metrics::MEDIA_PROCESSED.with(["postponed"]).increment(1);
        tracing::warn!(media = %media.id, %error, "a picture is processed later");
        let postponed = self.store.postpone_processing(media, PAUSE).await;
        if let Err(error) = postponed {
            tracing::debug!(media = %media.id, %error, "it is taken again when its lease ends");
        }
        Err(error)
    }

    async fn see_through(&mut self, media: &Media) -> Result<Option<Media>, Later> {
        if media.state != MediaState::Processing {
            self.store.tell_processed(media).await?;
            return Ok(Some(media.clone()));
        }
        let processed = match self.make(media).await? {
            Ok(made) => self.put(media, made).await?,
            Err(failure) => MediaProcessed::Failed(failure.name()),
        };
        let outcome = match &processed {
            MediaProcessed::Ready { .. } => "ready",
            MediaProcessed::Failed(why) => why,
        };
        metrics::MEDIA_PROCESSED.with([outcome]).increment(1);
        let finished = self.store.finish_processing(media, &processed).await?;
        // Otherwise it was removed meanwhile, and what was put goes with it.
        if let Some(media) = &finished {
            self.store.tell_processed(media).await?;
        }
        Ok(finished)
    }

    async fn make(&mut self, media: &Media) -> Result<Result<Made, Failure>, Later> {
        let key = stored_key(media.object_key.as_deref().unwrap_or_default())?;
        let content = match self.objects.get_range(&key, 0..media.bytes).await {
            // `media verify` finds it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err(Failure::Damaged)),
            content => content?,
        };
        let task = Task {
            content_type: media.content_type.clone(),
            pixels: self.settings.image_pixels,
            memory: self.settings.worker_memory,
        };
        let begun = Instant::now();
        let made = self.worker.make(&task, &content).await;
        metrics::MEDIA_PROCESS_SECONDS.record(begun.elapsed().as_secs_f64());
        match made {
            Ok(made) => Ok(Ok(made)),
            Err(Trouble::Picture(failure)) => Ok(Err(failure)),
            Err(Trouble::Start(error)) => Err(Later::Worker(error)),
        }
    }

    async fn put(&self, media: &Media, made: Made) -> Result<MediaProcessed, Later> {
        let keys = media.variant_keys.as_ref().ok_or(Later::NoKeys)?;
        let mut variants = Vec::new();
        for (variant, content) in made.variants {
            let (key, content) = (stored_key(keys.of(variant.variant))?, Bytes::from(content));
            metrics::MEDIA_VARIANT_BYTES.increment(variant.bytes);
            match self.objects.put(&key, content.clone()).await {
                // Of an attempt before, which no row has named as there.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    self.objects.delete(&key).await?;
                    self.objects.put(&key, content).await?;
                }
                put => put?,
            }
            variants.push(variant);
        }
        Ok(MediaProcessed::Ready {
            placeholder: made.placeholder,
            variants,
        })
    }
}
