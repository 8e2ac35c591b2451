//! Faults that tests ask for, to look at what follows: the process dies at a step of an archive job, of making a
//! deployment or of a command that moves a range, is held there, loses pushes, or its tasks panic. In debug builds only; a release build refuses the variables as ones that are
//! no keys of the configuration.
//!
//! `BACKSCROLL_ABORT_AT=published:2` aborts the process (as `kill -9` would) when it passes the step `published` for the
//! second time; without a number, for the first. The steps are [`Step::ALL`], [`making::Step::ALL`] and [`moves::Step::ALL`]. It
//! counts in one process, over all shards and jobs, in commands and in the schedule of `serve`; moves only in commands.
//!
//! `BACKSCROLL_HOLD_AT=frozen:FILE` holds a command that moves a range at this step, once: the process makes the file and waits
//! until it is deleted. Its lease is not renewed meanwhile.
//!
//! `BACKSCROLL_PANIC_TASK=relay/shard1:3,presence` makes the supervised tasks of these names panic, the first in three runs
//! after one another and the other in one, a moment after each run has begun. `BACKSCROLL_HANG_TASK=presence` keeps that
//! task from ending when it is told to, and `BACKSCROLL_LONGEST_STOP=2s` is how long the process has to stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use backscroll_archiver::jobs::{Hook, Step};
use backscroll_realtime::bus::Bus;
use backscroll_realtime::bus::lossy::LossyBus;
use backscroll_shard::error::Error;
use backscroll_shard::identity::making;
use backscroll_shard::moves;
use backscroll_shard::tasks::{Fault, Faults};

use crate::telemetry;

/// The variable.
pub const VARIABLE: &str = "BACKSCROLL_ABORT_AT";

/// What the environment asks for, of the steps of archive jobs.
///
/// # Errors
/// When the variable names no step.
pub fn from_environment() -> anyhow::Result<Option<Hook>> {
    let abort = abort_at()?;
    Ok(abort.map(|abort| Arc::new(move |step: Step| abort(step.name())) as Hook))
}

/// Is told of the steps of making a deployment.
pub type MakingHook = Box<dyn Fn(making::Step) -> Result<(), Error> + Send + Sync>;

/// What the environment asks for, of the steps of making a deployment.
///
/// # Errors
/// When the variable names no step.
pub fn making() -> anyhow::Result<MakingHook> {
    let abort = abort_at()?;
    Ok(Box::new(move |step| {
        if let Some(abort) = &abort {
            abort(step.name());
        }
        Ok(())
    }))
}

/// The variable that holds a move.
pub const HOLD: &str = "BACKSCROLL_HOLD_AT";

/// How often it is looked whether the file is there.
const HELD_LOOK: Duration = Duration::from_millis(5);

/// What the environment asks for, of the steps of moves.
///
/// # Errors
/// When a variable names no step, or no file.
pub fn moves() -> anyhow::Result<moves::Hook> {
    let (abort, hold) = (abort_at()?, hold_at()?);
    Ok(moves::Hook::new(move |step| {
        if let Some(hold) = &hold {
            hold(step.name());
        }
        if let Some(abort) = &abort {
            abort(step.name());
        }
        Ok(())
    }))
}

fn hold_at() -> anyhow::Result<Option<Abort>> {
    let Some(text) = std::env::var_os(HOLD).filter(|_| cfg!(debug_assertions)) else {
        return Ok(None);
    };
    let text = text.to_string_lossy().into_owned();
    let parts = text.split_once(':');
    let (step, file) = parts.with_context(|| format!("{HOLD}={text} names no file"))?;
    let step = moves::Step::ALL.into_iter().find(|it| it.name() == step);
    let step = step.with_context(|| format!("{HOLD}={text} names no step of a move"))?;
    let file = std::path::PathBuf::from(file);
    let is_new = AtomicU64::new(1);
    Ok(Some(Box::new(move |passed| {
        if passed != step.name() || is_new.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        match std::fs::write(&file, passed) {
            Ok(()) => tracing::warn!(step = passed, "held, as {HOLD} asks"),
            Err(error) => return tracing::error!(%error, "{HOLD} names a file that cannot be made"),
        }
        while file.exists() {
            std::thread::sleep(HELD_LOOK);
        }
    })))
}

type Abort = Box<dyn Fn(&str) + Send + Sync>;

fn abort_at() -> anyhow::Result<Option<Abort>> {
    if !cfg!(debug_assertions) {
        return Ok(None);
    }
    let Some(text) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let (step, count) = parse(&text).with_context(|| {
        let steps: Vec<&str> = names().collect();
        let steps = steps.join(", ");
        format!("{VARIABLE}={text} is none of the steps {steps}, with :N behind it or not")
    })?;
    let left = AtomicU64::new(count);
    Ok(Some(Box::new(move |passed| {
        if passed == step && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::error!(step, "aborting, as {VARIABLE} asks");
            telemetry::flush();
            std::process::abort();
        }
    })))
}

fn names() -> impl Iterator<Item = &'static str> {
    let jobs = Step::ALL.into_iter().map(Step::name);
    let making = making::Step::ALL.into_iter().map(making::Step::name);
    let moves = moves::Step::ALL.into_iter().map(moves::Step::name);
    jobs.chain(making).chain(moves)
}

fn parse(text: &str) -> Option<(&'static str, u64)> {
    let (name, count) = counted(text)?;
    let step = names().find(|step| *step == name)?;
    Some((step, count))
}

/// A name, with a number above 0 behind it or 1.
fn counted(text: &str) -> Option<(&str, u64)> {
    let (name, count) = text.split_once(':').unwrap_or((text, "1"));
    let count = count.parse().ok().filter(|count| *count > 0)?;
    Some((name, count))
}

/// The variables that make a supervised task panic, or not end.
pub const PANIC: &str = "BACKSCROLL_PANIC_TASK";
/// As [`PANIC`].
pub const HANG: &str = "BACKSCROLL_HANG_TASK";

/// How long a run goes on before it panics: long enough to have begun its work.
const PANIC_AFTER: Duration = Duration::from_millis(300);

/// What the environment does to tasks. In debug builds only.
///
/// # Errors
/// When [`PANIC`] has no number above 0 behind its colon.
pub fn faults() -> anyhow::Result<Option<Faults>> {
    let variable = |name| {
        let text = std::env::var_os(name).filter(|_| cfg!(debug_assertions));
        text.map(|text| text.to_string_lossy().into_owned())
    };
    let (panics, hangs) = (variable(PANIC), variable(HANG));
    if panics.is_none() && hangs.is_none() {
        return Ok(None);
    }
    let mut left: HashMap<String, AtomicU64> = HashMap::new();
    for text in panics.iter().flat_map(|names| names.split(',')) {
        let (name, count) = counted(text)
            .with_context(|| format!("{PANIC}={text} has no number above 0 behind its colon"))?;
        left.insert(name.to_owned(), AtomicU64::new(count));
    }
    Ok(Some(Arc::new(move |task| {
        if hangs.as_deref() == Some(task) {
            return Some(Fault::Hang);
        }
        let take = |left: u64| left.checked_sub(1);
        left.get(task)?
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .ok()?;
        Some(Fault::Panic(PANIC_AFTER))
    })))
}

/// The variable that says how long a stop may take, as in `BACKSCROLL_LONGEST_STOP=2s`.
pub const LONGEST_STOP: &str = "BACKSCROLL_LONGEST_STOP";

/// How long a stop may take: `usual`, or as the environment says in a debug build.
///
/// # Errors
/// When the variable is not a duration.
pub fn longest_stop(usual: Duration) -> anyhow::Result<Duration> {
    let Some(text) = std::env::var_os(LONGEST_STOP).filter(|_| cfg!(debug_assertions)) else {
        return Ok(usual);
    };
    let text = text.to_string_lossy();
    let span = text.parse::<jiff::SignedDuration>().ok();
    let span = span.and_then(|span| Duration::try_from(span).ok());
    span.with_context(|| format!("{LONGEST_STOP} is not a duration"))
}

/// The variable that makes a node lose a share of what the bus brings, as in `BACKSCROLL_LOSE_PUSHES=0.01`.
pub const LOSE: &str = "BACKSCROLL_LOSE_PUSHES";

/// `bus`, of which as much is lost as the environment asks for. In debug builds only.
///
/// # Errors
/// When the variable is not a share.
pub fn lossy(bus: Arc<dyn Bus>) -> anyhow::Result<Arc<dyn Bus>> {
    let Some(text) = std::env::var_os(LOSE).filter(|_| cfg!(debug_assertions)) else {
        return Ok(bus);
    };
    let share = text.to_string_lossy().parse::<f64>().ok();
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    let share = share.with_context(|| format!("{LOSE} is not between 0 and 1"))?;
    Ok(Arc::new(LossyBus::new(
        bus,
        share,
        u64::from(std::process::id()),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_a_number() {
        assert_eq!(parse("published"), Some(("published", 1)));
        assert_eq!(parse("read-back:3"), Some(("read-back", 3)));
        assert_eq!(parse("shard-marked:2"), Some(("shard-marked", 2)));
        for bad in ["", "publish", "published:", "published:0", "published:-1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
