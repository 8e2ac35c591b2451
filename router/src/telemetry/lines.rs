//! Log lines on their way to standard error.
//!
//! The log is a side channel: the service goes on when nobody reads it, when its disk is full, and when its reader stands
//! still. So a line is put into a queue, which never waits and never fails, and a thread of its own writes what is in the
//! queue. Upholds INV-BOUND: at most [`QUEUE_BYTES`] wait. A line that finds no room, or cannot be written, is lost and
//! counted ([`metrics::LOG_LINES_LOST`]); once lines can be written again, the log says how many are missing.
//!
//! A crash loses the lines that wait; [`Lines::flush`] is called before every exit that is meant.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::metrics;
use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that wait to be written.
const QUEUE_BYTES: usize = 1 << 20;
/// How long the thread waits before it tries again to write to what takes nothing just now (`EAGAIN`).
const RETRY: Duration = Duration::from_millis(20);

/// The lines that wait to be written. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// A line was put into an empty queue.
    filled: Condvar,
    /// Everything that was in the queue is written or lost.
    emptied: Condvar,
    /// Lines lost for want of room.
    refused: AtomicU64,
    /// Lines lost because they could not be written.
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    /// Where in `text` each line ends.
    ends: Vec<usize>,
    /// The thread is writing what it took out before.
    is_writing: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Starts the thread that writes to `target`, for the life of the process.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(super) fn start(target: impl Write + Send + 'static) -> io::Result<Self> {
        let lines = Self(Arc::default());
        let shared = Arc::clone(&lines.0);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&shared, target))?;
        Ok(lines)
    }

    /// Writes `line`, which ends with a line feed, soon, or loses it.
    pub(super) fn put(&self, line: &[u8]) {
        let mut waiting = self.0.waiting();
        if waiting.text.len() + line.len() > QUEUE_BYTES {
            drop(waiting);
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            self.0.report();
            return;
        }
        waiting.text.extend_from_slice(line);
        let end = waiting.text.len();
        waiting.ends.push(end);
        let is_first = waiting.ends.len() == 1;
        drop(waiting);
        if is_first {
            self.0.filled.notify_one();
        }
    }

    /// Waits until every line is written or lost, for at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let waiting = self.0.waiting();
        let busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.ends.is_empty();
        let _ = self.0.emptied.wait_timeout_while(waiting, patience, busy);
    }

    /// Sets the counter of lost lines, which metrics that were started later do not know yet.
    pub(super) fn report(&self) {
        self.0.report();
    }
}

impl Shared {
    fn report(&self) {
        let count = |reason: &'static str, lines: &AtomicU64| {
            metrics::LOG_LINES_LOST
                .with([reason])
                .absolute(lines.load(Ordering::Relaxed));
        };
        count("full", &self.refused);
        count("unwritable", &self.failed);
    }

    fn lost(&self) -> u64 {
        self.refused.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

/// The thread: writes what waits, for ever.
fn write_all(shared: &Shared, mut target: impl Write) {
    let (mut text, mut ends) = (Vec::new(), Vec::new());
    // How many of the lost lines the log has told of.
    let mut told = 0;
    loop {
        {
            let empty = |waiting: &mut Waiting| waiting.ends.is_empty();
            let mut waiting = match shared.filled.wait_while(shared.waiting(), empty) {
                Ok(waiting) => waiting,
                Err(poisoned) => poisoned.into_inner(),
            };
            std::mem::swap(&mut text, &mut waiting.text);
            std::mem::swap(&mut ends, &mut waiting.ends);
            waiting.is_writing = true;
        }
        let failed = write_lines(&mut target, &text, &ends);
        if failed > 0 {
            shared.failed.fetch_add(failed, Ordering::Relaxed);
            shared.report();
        }
        let works = failed == 0;
        text.clear();
        ends.clear();
        let is_empty = {
            let mut waiting = shared.waiting();
            waiting.is_writing = false;
            waiting.ends.is_empty()
        };
        if !is_empty {
            continue;
        }
        shared.emptied.notify_all();
        let lost = shared.lost();
        if works && lost > told {
            let lines = lost - std::mem::replace(&mut told, lost);
            tracing::warn!(lines, "lines of this log were lost before this one");
        }
    }
}

/// Writes each line; gives how many could not be written.
fn write_lines(target: &mut impl Write, text: &[u8], ends: &[usize]) -> u64 {
    let mut failed = 0;
    let mut begin = 0;
    for end in ends {
        if write_line(target, &text[begin..*end]).is_err() {
            failed += 1;
        }
        begin = *end;
    }
    failed
}

/// As [`Write::write_all`], but waits for a target that does not block and takes nothing just now.
fn write_line(target: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match target.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the subscriber writes one event to. It never fails.
pub(super) struct Line<'a>(&'a Lines);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Answers each write as it is told to, and passes on what it took.
    struct Target {
        answers: mpsc::Receiver<io::Result<usize>>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Target {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let answer = self.answers.recv().unwrap_or(Ok(usize::MAX));
            let taken = answer?.min(line.len());
            let _ = self.taken.send(line[..taken].to_vec());
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Answers = mpsc::Sender<io::Result<usize>>;

    fn lines() -> (Lines, Answers, mpsc::Receiver<Vec<u8>>) {
        let (answer, answers) = mpsc::channel();
        let (taken, received) = mpsc::channel();
        let lines = Lines::start(Target { answers, taken }).unwrap();
        (lines, answer, received)
    }

    fn counts(lines: &Lines) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&lines.0.refused), count(&lines.0.failed))
    }

    #[test]
    fn what_is_put_is_written_in_order_and_whole() {
        let (lines, answer, received) = lines();
        answer.send(Ok(2)).unwrap();
        answer.send(Err(io::ErrorKind::Interrupted.into())).unwrap();
        answer.send(Err(io::ErrorKind::WouldBlock.into())).unwrap();
        drop(answer);
        for line in ["one\n", "two\n", "three\n"] {
            lines.put(line.as_bytes());
        }
        lines.flush(PATIENCE);
        let written: Vec<u8> = received.try_iter().flatten().collect();
        assert_eq!(String::from_utf8(written).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(counts(&lines), (0, 0));
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_next_one_is_written() {
        let (lines, answer, received) = lines();
        answer.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        answer.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        answer.send(Ok(0)).unwrap();
        drop(answer);
        for line in ["a\n", "b\n", "c\n", "d\n"] {
            lines.put(line.as_bytes());
        }
        lines.flush(PATIENCE);
        assert_eq!(received.try_iter().collect::<Vec<_>>().concat(), b"d\n");
        assert_eq!(counts(&lines), (0, 3));
    }

    #[test]
    fn a_target_that_stands_still_costs_lines_and_nobodys_time() {
        let (lines, answer, received) = lines();
        let line = [b'x'; 1024];
        lines.put(&line);
        // Taken out by the thread, which now waits for an answer.
        while lines.0.waiting().ends.len() == 1 {
            thread::yield_now();
        }
        let most = QUEUE_BYTES / line.len();
        for _ in 0..most + 10 {
            lines.put(&line);
        }
        assert_eq!(counts(&lines), (10, 0));
        lines.flush(Duration::from_millis(10)); // comes back
        drop(answer);
        lines.flush(PATIENCE);
        assert_eq!(received.try_iter().flatten().count(), (most + 1) * 1024);
    }
}
