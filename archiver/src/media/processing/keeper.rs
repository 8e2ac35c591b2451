//! Keeps one worker: starts it when there is something to do, asks it, ends it when it takes too long, is idle or has worked for a
//! while, and starts another.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::super::settings::MediaSettings;
use super::super::thumbnails::{Failure, Made, Task};
use super::super::worker::{FORM_BYTES, JSON_BYTES, Program, Reply, length_of};
use crate::metrics;

/// A worker that has had nothing to do for as long gives its memory back.
const IDLE: Duration = Duration::from_secs(60);
/// After so many pictures a worker is replaced, and with it whatever they have left in its memory.
const MOST_PICTURES: u32 = 200;
/// How long a worker may take to end by itself, and to say its last words.
const LAST_MOMENTS: Duration = Duration::from_secs(1);
/// Most bytes of a worker's last words.
const LAST_WORDS: u64 = 4096;
/// What a program says whose memory is at an end, before it aborts.
const OUT_OF_MEMORY: &str = "memory allocation of";

/// Why there are no smaller forms.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Because of the picture.
    Picture(Failure),
    /// No worker could be started.
    Start(io::Error),
}

/// Starts workers, one at a time.
#[derive(Debug)]
pub(super) struct WorkerKeeper {
    program: Program,
    memory: u64,
    time: Duration,
    worker: Option<Worker>,
}

impl WorkerKeeper {
    pub(super) fn new(program: Program, settings: &MediaSettings) -> Self {
        Self {
            program,
            memory: settings.worker_memory,
            time: settings.worker_time.0,
            worker: None,
        }
    }

    /// Waits for what comes next; meanwhile an idle worker ends.
    pub(super) async fn resting_until<T>(&mut self, next: impl Future<Output = T>) -> T {
        let mut next = std::pin::pin!(next);
        match tokio::time::timeout(IDLE, next.as_mut()).await {
            Ok(next) => next,
            Err(_) => {
                self.end().await;
                next.await
            }
        }
    }

    /// Ends the worker, which has nothing to do.
    pub(super) async fn end(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.end().await;
        }
    }

    /// Has the smaller forms of a picture made. Cancelled, it leaves no worker behind.
    pub(super) async fn make(&mut self, task: &Task, content: &[u8]) -> Result<Made, Trouble> {
        for _ in 0..2 {
            let mut worker = match self.worker.take() {
                Some(worker) => worker,
                None => Worker::start(&self.program, self.memory).map_err(Trouble::Start)?,
            };
            let Ok(asked) = tokio::time::timeout(self.time, worker.ask(task, content)).await else {
                worker.kill("timed_out").await;
                return Err(Trouble::Picture(Failure::TimedOut));
            };
            let error = match asked {
                Ok(answer) => {
                    if worker.pictures < MOST_PICTURES {
                        self.worker = Some(worker);
                    } else {
                        worker.end().await;
                    }
                    return answer.map_err(Trouble::Picture);
                }
                Err(error) => error,
            };
            let last_words = worker.last_words().await;
            if last_words.contains(OUT_OF_MEMORY) {
                worker.kill("out_of_memory").await;
                return Err(Trouble::Picture(Failure::OutOfMemory));
            }
            tracing::debug!(%error, last_words, "a worker has died");
            worker.kill("crashed").await;
            // Something else may have ended it: a second one is asked.
        }
        Err(Trouble::Picture(Failure::Crashed))
    }
}

/// A process that works on pictures. Dropped, it is killed.
#[derive(Debug)]
struct Worker {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
    errors: ChildStderr,
    pictures: u32,
}

impl Worker {
    /// It gets nothing of this process's environment.
    fn start(program: &Program, memory: u64) -> io::Result<Self> {
        let mut process = Command::new(&program.path)
            .args(&program.arguments)
            .arg(memory.to_string())
            .env_clear()
            .env("MIMALLOC_ARENA_RESERVE", "0") // address space is what is limited
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pipes = (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        );
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err(io::Error::other("a process has no pipes"));
        };
        Ok(Self {
            process,
            input,
            output,
            errors,
            pictures: 0,
        })
    }

    /// An error means that it has died, or has said something that is no answer.
    async fn ask(&mut self, task: &Task, content: &[u8]) -> io::Result<Result<Made, Failure>> {
        self.pictures += 1;
        for frame in [&serde_json::to_vec(task)?[..], content] {
            self.input.write_all(&length_of(frame)?).await?;
            self.input.write_all(frame).await?;
        }
        self.input.flush().await?;
        let reply = read_frame(&mut self.output, JSON_BYTES).await?;
        let (placeholder, described) = match serde_json::from_slice(&reply)? {
            Reply::Failed(failure) => return Ok(Err(failure)),
            Reply::Made(placeholder, described) => (placeholder, described),
        };
        let mut variants = Vec::new();
        for variant in described {
            let form = read_frame(&mut self.output, FORM_BYTES).await?;
            if variants.len() == 2 || variant.bytes != form.len() as u64 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            variants.push((variant, form));
        }
        Ok(Ok(Made {
            placeholder,
            variants,
        }))
    }

    /// What it has said about its end.
    async fn last_words(&mut self) -> String {
        let mut words = Vec::new();
        let errors = &mut self.errors;
        let mut errors = errors.take(LAST_WORDS);
        let read = errors.read_to_end(&mut words);
        tokio::time::timeout(LAST_MOMENTS, read).await.ok();
        String::from_utf8_lossy(&words).into_owned()
    }

    async fn kill(mut self, how: &'static str) {
        metrics::MEDIA_WORKERS_ENDED.with([how]).increment(1);
        self.process.start_kill().ok();
        tokio::time::timeout(LAST_MOMENTS, self.process.wait())
            .await
            .ok();
    }

    /// Its input ends, and so does it.
    async fn end(self) {
        let Self {
            mut process, input, ..
        } = self;
        drop(input);
        tokio::time::timeout(LAST_MOMENTS, process.wait())
            .await
            .ok();
    }
}

async fn read_frame(output: &mut (impl AsyncRead + Unpin), most: u64) -> io::Result<Vec<u8>> {
    let length = output.read_u32().await?;
    if u64::from(length) > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = vec![0; length as usize];
    output.read_exact(&mut content).await?;
    Ok(content)
}

#[cfg(test)]
mod tests;
