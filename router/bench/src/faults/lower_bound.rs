//! A lower bound of a number that only grows (a rev, a head, a watermark), with the time since which it is known.
//!
//! A request may be answered with a state as old as the request, but no older. So an answer is compared with the bound as of
//! the time when its request was sent.

use std::time::{Duration, Instant};

/// The number of steps from which on those that no request can need any more are dropped.
const STEPS: usize = 12;
/// An upper bound of a request's duration, retries excluded.
const LONGEST_REQUEST: Duration = Duration::from_secs(90);

/// The bound over time.
#[derive(Clone, Debug, Default)]
pub struct LowerBound {
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    at: Instant,
    value: u64,
    /// It is of an acknowledgement. A value that was only read may be rolled back when the database server is killed: InnoDB
    /// shows a commit to readers before it is durable.
    acknowledged: bool,
}

impl LowerBound {
    /// Adds an observation of `value`.
    pub fn raise(&mut self, at: Instant, value: u64, acknowledged: bool) {
        let known = |step: &Step| step.value >= value && (step.acknowledged || !acknowledged);
        if value == 0 || self.steps.iter().any(known) {
            return;
        }
        self.steps.push(Step {
            at,
            value,
            acknowledged,
        });
        if self.steps.len() > STEPS {
            let old = |step: &Step| step.acknowledged && at - step.at > LONGEST_REQUEST;
            let best = self
                .steps
                .iter()
                .filter(|step| old(step))
                .max_by_key(|s| s.value);
            if let Some(best) = best.copied() {
                let dominated = |s: &Step| s.value < best.value && at - s.at > LONGEST_REQUEST;
                self.steps.retain(|step| !dominated(step));
            }
        }
    }

    /// The bound for a request that was sent at `asked`.
    #[must_use]
    pub fn at(&self, asked: Instant) -> u64 {
        let before = self.steps.iter().filter(|step| step.at < asked);
        before.map(|step| step.value).max().unwrap_or(0)
    }

    /// The bound now.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.steps.iter().map(|step| step.value).max().unwrap_or(0)
    }

    /// The bound by acknowledgements alone.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        let acknowledged = self.steps.iter().filter(|step| step.acknowledged);
        acknowledged.map(|step| step.value).max().unwrap_or(0)
    }

    /// Forgets values that were only read, at `since` or later.
    pub fn forget(&mut self, since: Instant) {
        self.steps
            .retain(|step| step.acknowledged || step.at < since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_compared_with_the_bound_of_the_time_when_it_was_sent() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut bound = LowerBound::default();
        bound.raise(at(1), 5, true);
        bound.raise(at(2), 9, false);
        bound.raise(at(3), 7, false);
        assert_eq!(
            [bound.at(at(1)), bound.at(at(2)), bound.at(at(4))],
            [0, 5, 9]
        );
        bound.forget(at(2));
        assert_eq!((bound.now(), bound.acknowledged()), (5, 5));
    }

    #[test]
    fn steps_that_no_request_needs_are_dropped() {
        let begin = Instant::now();
        let mut bound = LowerBound::default();
        for n in 1..=1000 {
            bound.raise(begin + Duration::from_secs(n * 10), n, true);
        }
        assert!(bound.steps.len() <= STEPS + 10, "{}", bound.steps.len());
        assert_eq!(bound.at(begin + Duration::from_secs(9_995)), 999);
    }
}
