//! Makes the process die at a step of an archive job, or lose pushes, for tests that look at what comes of it. In debug
//! builds only.
//!
//! `BACKSCROLL_ABORT_AT=published:2` aborts the process (as `kill -9` would) when a job passes the step `published` for
//! the second time; without a number, for the first. The steps are [`Step::ALL`]. It counts in one process, over all shards
//! and jobs, in `archive` commands and in the schedule of `serve`. A release build refuses the variable as one that is no
//! key of the configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use backscroll_archiver::archive::{Hook, Step};
use backscroll_realtime::bus::Bus;
use backscroll_realtime::bus::lossy::LossyBus;

/// The variable.
pub const VARIABLE: &str = "BACKSCROLL_ABORT_AT";

/// What the environment asks for.
///
/// # Errors
/// When the variable names no step.
pub fn from_environment() -> anyhow::Result<Option<Hook>> {
    if !cfg!(debug_assertions) {
        return Ok(None);
    }
    let Some(text) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let (step, count) = parse(&text).with_context(|| {
        let steps = Step::ALL.map(Step::name).join(", ");
        format!("{VARIABLE}={text} is none of the steps {steps}, with :N behind it or not")
    })?;
    let left = AtomicU64::new(count);
    Ok(Some(Arc::new(move |passed| {
        if passed == step && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::error!(step = step.name(), "aborting, as {VARIABLE} asks");
            std::process::abort();
        }
    })))
}

fn parse(text: &str) -> Option<(Step, u64)> {
    let (name, count) = text.split_once(':').unwrap_or((text, "1"));
    let step = Step::ALL.into_iter().find(|step| step.name() == name)?;
    let count = count.parse().ok().filter(|count| *count > 0)?;
    Some((step, count))
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
        assert_eq!(parse("published"), Some((Step::Published, 1)));
        assert_eq!(parse("read-back:3"), Some((Step::ReadBack, 3)));
        for bad in ["", "publish", "published:", "published:0", "published:-1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
