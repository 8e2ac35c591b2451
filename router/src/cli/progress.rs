//! How far a long command is: a bar on a terminal, a line every few seconds elsewhere. Both on standard error.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::out;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What was done so far, counted by whoever does it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    done: AtomicU64,
    stored: AtomicU64,
}

impl Tally {
    /// So many more were dealt with.
    pub(super) fn add_done(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    /// So many more of them had to be stored.
    pub(super) fn add_stored(&self, count: u64) {
        self.stored.fetch_add(count, Ordering::Relaxed);
    }

    /// Dealt with so far.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Stored so far.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// Shows how far something is while it runs.
pub(super) struct Progress {
    activity: &'static str,
    unit: &'static str,
    look: Box<dyn Fn() -> (u64, String) + Send + Sync>,
    total: Option<u64>,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins: `activity` as in "importing", `unit` as in "messages", and how many there will be, if that is known.
    pub(super) fn start(
        activity: &'static str,
        unit: &'static str,
        tally: Arc<Tally>,
        total: Option<u64>,
    ) -> Self {
        Self::watch(activity, unit, total, move || (tally.done(), String::new()))
    }

    /// The same for what counts by itself: `look` gives how much is done, and what is being done, in words.
    pub(super) fn watch(
        activity: &'static str,
        unit: &'static str,
        total: Option<u64>,
        look: impl Fn() -> (u64, String) + Send + Sync + 'static,
    ) -> Self {
        let bar = std::io::stderr()
            .is_terminal()
            .then(|| bar(activity, total));
        Self {
            activity,
            unit,
            look: Box::new(look),
            total,
            started: Instant::now(),
            bar,
        }
    }

    /// Runs `work` to its end and shows meanwhile how far it is.
    pub(super) async fn until<T>(self, work: impl Future<Output = T>) -> T {
        let mut ticks = tokio::time::interval(if self.bar.is_some() {
            TICK
        } else {
            LINE_INTERVAL
        });
        ticks.tick().await; // the first is at once
        tokio::pin!(work);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut work => break outcome,
                _ = ticks.tick() => self.show(),
            }
        };
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        outcome
    }

    fn show(&self) {
        let (done, doing) = (self.look)();
        let mut figures = self.figures(done, self.started.elapsed());
        if !doing.is_empty() {
            figures = format!("{figures} ({doing})");
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(figures);
            }
            None => out::note(format_args!("{}: {figures}", self.activity)),
        }
    }

    /// How far, how fast, and how long still.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "figures for people"
    )]
    fn figures(&self, done: u64, elapsed: Duration) -> String {
        let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
        let (unit, so_far, a_second) = (self.unit, out::grouped(done), out::grouped(rate as u64));
        match self.total {
            Some(total) if rate > 0.0 => {
                let left = total.saturating_sub(done) as f64 / rate;
                let total = out::grouped(total);
                format!("{so_far} of {total} {unit}, {a_second}/s, {left:.0} s left")
            }
            _ => format!("{so_far} {unit}, {a_second}/s"),
        }
    }
}

fn bar(activity: &'static str, total: Option<u64>) -> ProgressBar {
    let (bar, shape) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:32}"),
        None => (ProgressBar::new_spinner(), "{spinner}"),
    };
    // A template of ours that cannot be read leaves the crate's own style.
    let style = ProgressStyle::with_template(&format!("{activity} {shape} {{msg}}"));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_how_fast_and_how_long_still() {
        let progress = |total| Progress {
            activity: "importing",
            unit: "messages",
            look: Box::new(|| (0, String::new())),
            total,
            started: Instant::now(),
            bar: None,
        };
        let elapsed = Duration::from_secs(10);
        assert_eq!(
            progress(Some(300_000)).figures(100_000, elapsed),
            "100,000 of 300,000 messages, 10,000/s, 20 s left"
        );
        assert_eq!(
            progress(None).figures(1234, elapsed),
            "1,234 messages, 123/s"
        );
        assert_eq!(progress(Some(10)).figures(0, elapsed), "0 messages, 0/s");
    }
}
