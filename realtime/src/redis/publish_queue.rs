//! The queue of pushes to publish, and the task that publishes them.
//!
//! Publishing is part of every send, so a send only leaves its push here. One task publishes them in pipelines, in order. A
//! push that finds no room in the queue, or no Redis within `redis.timeout`, is dropped and counted: by then the nodes that
//! missed it have read the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::tasks::Kept;
use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::line::Line;
use super::settings::RedisSettings;
use crate::bus::Problem;
use crate::metrics;

/// Most commands in one pipeline.
const PIPELINE_COMMANDS: usize = 512;
/// Most bytes in one pipeline, unless one push alone has more.
const PIPELINE_BYTES: usize = 256 << 10;
/// Commands for a push that also goes into its conversation's window, and for one that trims the window as well.
const WINDOW_COMMANDS: usize = 3;
const TRIM_COMMANDS: usize = 4;

/// The part whose problem is a refused push.
const PUBLISHING: &str = "publishing";

/// The list in Redis that holds a conversation's latest changes.
pub(super) struct Window {
    pub(super) name: String,
    /// Whether this push trims the list to `redis.window_messages`. Between two trims the list is a little longer.
    pub(super) trim: bool,
}

/// A push on its way to Redis.
struct Outgoing {
    since: Instant,
    channel: String,
    payload: Arc<[u8]>,
    /// The window that it goes into.
    window: Option<Window>,
}

impl Outgoing {
    fn bytes(&self) -> usize {
        let window = self
            .window
            .as_ref()
            .map_or(0, |window| window.name.len() + self.payload.len());
        self.channel.len() + self.payload.len() + window
    }

    fn window_name(&self) -> Option<&str> {
        self.window.as_ref().map(|window| window.name.as_str())
    }

    fn trims(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.trim)
    }

    /// How many commands the push needs at most: pushes that follow each other share those of their window.
    fn commands(&self) -> usize {
        match &self.window {
            Some(window) if window.trim => TRIM_COMMANDS,
            Some(_) => WINDOW_COMMANDS,
            None => 1,
        }
    }
}

/// Takes pushes to publish. Clones share one queue.
#[derive(Clone)]
pub(super) struct PublishQueue {
    waiting: mpsc::Sender<Outgoing>,
    bytes: Arc<AtomicUsize>,
    most_bytes: usize,
}

/// The other end of a [`PublishQueue`].
pub(super) struct Publishing {
    pushes: mpsc::Receiver<Outgoing>,
    bytes: Arc<AtomicUsize>,
}

impl PublishQueue {
    pub(super) fn new(settings: &RedisSettings) -> (Self, Publishing) {
        let (waiting, pushes) = mpsc::channel(settings.queue_pushes.max(1));
        let bytes = Arc::new(AtomicUsize::new(0));
        let queue = Self {
            waiting,
            bytes: bytes.clone(),
            most_bytes: settings.queue_bytes,
        };
        (queue, Publishing { pushes, bytes })
    }

    /// Queues `payload`, or drops it when there is no room. Never waits.
    pub(super) fn put(&self, channel: String, payload: Arc<[u8]>, window: Option<Window>) {
        let push = Outgoing {
            since: Instant::now(),
            channel,
            payload,
            window,
        };
        let size = push.bytes();
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        let refused = if before.saturating_add(size) > self.most_bytes {
            "full"
        } else {
            match self.waiting.try_send(push) {
                Ok(()) => return,
                Err(TrySendError::Full(_)) => "full",
                Err(TrySendError::Closed(_)) => "closed",
            }
        };
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        dropped(refused, 1);
    }
}

/// Counts dropped pushes by `reason`: `full` (no room in the queue), `closed` (the node is ending), `away` (no Redis), `late` (no answer in time; some may
/// have been published), `refused` (Redis answered with an error).
fn dropped(reason: &'static str, how_many: usize) {
    metrics::BUS_DROPPED
        .with([reason])
        .increment(how_many as u64);
}

impl Publishing {
    /// Publishes the queue until `closing`. From then on the queue takes nothing more, and what is left in it is published, or
    /// dropped once it is older than `redis.timeout`.
    pub(super) async fn run(
        queued: Kept<Self>,
        line: Arc<Line>,
        settings: RedisSettings,
        closing: CancellationToken,
    ) {
        let mut queued = queued.hold().await;
        let mut next = None;
        loop {
            let first = match next.take() {
                Some(push) => push,
                None => match queued.take(&closing).await {
                    Some(push) => push,
                    None => return,
                },
            };
            let deadline = first.since + settings.timeout.0;
            let Some(mut live) = line.current_until(deadline).await else {
                dropped("away", 1);
                continue;
            };
            let batch;
            (batch, next) = queued.batch(first, settings.timeout.0);
            let commands = pipeline(&batch, &settings);
            let answers = commands.query_async::<Vec<RedisResult<Value>>>(&mut live.connection);
            match timeout(settings.timeout.0, answers).await {
                Ok(Ok(answers)) => {
                    let refused = answers.iter().filter(|answer| answer.is_err()).count();
                    dropped("refused", refused);
                    match refusal(&commands, &answers) {
                        Some(error) => line.problems.note(PUBLISHING, Problem::of(error)),
                        None => line.problems.clear(PUBLISHING),
                    }
                    metrics::BUS_PUBLISHED
                        .series()
                        .increment(batch.len() as u64);
                }
                Ok(Err(_)) => {
                    dropped("away", batch.len());
                    line.lose(live.generation);
                }
                Err(_) => {
                    dropped("late", batch.len());
                    line.lose(live.generation);
                }
            }
        }
    }

    async fn take(&mut self, closing: &CancellationToken) -> Option<Outgoing> {
        let push = match closing.run_until_cancelled(self.pushes.recv()).await {
            Some(push) => push,
            None => {
                self.pushes.close();
                self.pushes.recv().await
            }
        };
        self.taken(push)
    }

    fn taken(&self, push: Option<Outgoing>) -> Option<Outgoing> {
        let push = push?;
        self.bytes.fetch_sub(push.bytes(), Ordering::Relaxed);
        Some(push)
    }

    /// The pushes of one pipeline, which begins with `first`; and the next push when it no longer fits.
    fn batch(&mut self, first: Outgoing, oldest: Duration) -> (Vec<Outgoing>, Option<Outgoing>) {
        let (mut commands, mut bytes) = (first.commands(), first.bytes());
        let mut batch = vec![first];
        while let Ok(push) = self.pushes.try_recv() {
            let Some(push) = self.taken(Some(push)) else {
                break;
            };
            if push.since.elapsed() > oldest {
                dropped("away", 1);
                continue;
            }
            commands += push.commands();
            bytes += push.bytes();
            if commands > PIPELINE_COMMANDS || bytes > PIPELINE_BYTES {
                return (batch, Some(push));
            }
            batch.push(push);
        }
        (batch, None)
    }
}

/// Why a push of a pipeline was not published. Whether Redis takes writes is what the watchdog finds out.
fn refusal<'a>(commands: &Pipeline, answers: &'a [RedisResult<Value>]) -> Option<&'a RedisError> {
    let mut answered = commands.cmd_iter().zip(answers);
    answered.find_map(|(command, answer)| {
        let name = command.args_iter().next()?;
        let publishes = matches!(name, redis::Arg::Simple(b"PUBLISH"));
        answer.as_ref().err().filter(|_| publishes)
    })
}

/// The commands for a batch. Each change goes into its window before it is published, so that a node that receives it finds
/// the changes before it in the window.
fn pipeline(batch: &[Outgoing], settings: &RedisSettings) -> Pipeline {
    let oldest_kept = -i64::try_from(settings.window_messages).unwrap_or(i64::MAX);
    let age = u64::try_from(settings.window_age.0.as_millis()).unwrap_or(u64::MAX);
    let mut commands = redis::pipe();
    commands.ignore_errors();
    let together =
        |one: &Outgoing, next: &Outgoing| one.window_name() == next.window_name() && !one.trims();
    for pushes in batch.chunk_by(together) {
        if let Some(name) = pushes[0].window_name() {
            let payloads: Vec<&[u8]> = pushes.iter().map(|push| push.payload.as_ref()).collect();
            commands.cmd("RPUSH").arg(name).arg(payloads);
            if pushes.last().is_some_and(Outgoing::trims) {
                commands.cmd("LTRIM").arg(name).arg(oldest_kept).arg(-1);
            }
            commands.cmd("PEXPIRE").arg(name).arg(age);
        }
        for push in pushes {
            let payload = push.payload.as_ref();
            commands.cmd("PUBLISH").arg(&push.channel).arg(payload);
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RedisSettings {
        RedisSettings {
            queue_pushes: 3,
            queue_bytes: 100,
            ..RedisSettings::default()
        }
    }

    fn put(queue: &PublishQueue, bytes: usize, window: bool) {
        let window = window.then(|| Window {
            name: "w".to_owned(),
            trim: true,
        });
        queue.put("c".to_owned(), vec![0; bytes].into(), window);
    }

    #[test]
    fn count_and_bytes_are_bounded() {
        let (queue, mut publishing) = PublishQueue::new(&settings());
        put(&queue, 60, false);
        put(&queue, 60, false); // no room
        put(&queue, 30, false);
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 92);
        put(&queue, 1, false);
        put(&queue, 1, false); // too many
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 94);
        while let Ok(push) = publishing.pushes.try_recv() {
            publishing.taken(Some(push));
        }
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn pipelines_are_bounded_and_lose_nothing() {
        let (queue, mut publishing) = PublishQueue::new(&RedisSettings::default());
        for _ in 0..200 {
            put(&queue, 10, true);
        }
        put(&queue, PIPELINE_BYTES, false);
        let mut sizes = Vec::new();
        let mut next = publishing.pushes.try_recv().ok();
        while let Some(first) = next.take() {
            let batch;
            (batch, next) = publishing.batch(first, Duration::from_secs(9));
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [128, 72, 1]);
    }

    #[test]
    fn a_push_that_waited_too_long_is_dropped() {
        let (queue, mut publishing) = PublishQueue::new(&settings());
        put(&queue, 1, false);
        put(&queue, 1, false);
        std::thread::sleep(Duration::from_millis(2));
        let first = publishing.pushes.try_recv().unwrap();
        let (batch, next) = publishing.batch(first, Duration::from_millis(1));
        assert_eq!((batch.len(), next.is_none()), (1, true));
    }

    #[test]
    fn changes_of_one_window_that_follow_each_other_are_put_into_it_together() {
        let push = |name: &str, trim| Outgoing {
            since: Instant::now(),
            channel: format!("channel of {name}"),
            payload: [0].as_slice().into(),
            window: (!name.is_empty()).then(|| Window {
                name: name.to_owned(),
                trim,
            }),
        };
        let batch = [
            push("a", false),
            push("a", true),
            push("a", false),
            push("b", false),
            push("", false),
            push("", false),
        ];
        let commands = pipeline(&batch, &RedisSettings::default());
        let names = commands.cmd_iter().map(|command| {
            let arguments = command.args_iter();
            let texts = arguments.map(|argument| match argument {
                redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => String::new(),
            });
            let texts: Vec<String> = texts.take(2).collect();
            texts.join(" ")
        });
        let names: Vec<String> = names.collect();
        assert_eq!(
            names,
            [
                "RPUSH a",
                "LTRIM a",
                "PEXPIRE a",
                "PUBLISH channel of a",
                "PUBLISH channel of a",
                "RPUSH a",
                "PEXPIRE a",
                "PUBLISH channel of a",
                "RPUSH b",
                "PEXPIRE b",
                "PUBLISH channel of b",
                "PUBLISH channel of ",
                "PUBLISH channel of ",
            ]
        );
    }
}
