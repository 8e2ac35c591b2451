//! What users have used of their budgets, in a table of a fixed size.
//!
//! A budget is one number, the time at which it is whole again (GCRA's theoretical arrival time). A key has a set of eight places,
//! by its hash. Where all are taken, the budget that is whole, or the next to be, gives its place. A whole budget equals an absent
//! one, so nothing is lost before nine budgets of one set are in use at once; then the one of which least is used begins anew.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use twox_hash::XxHash3_64;

use super::rule::Rate;
use crate::metrics;

const WAYS: usize = 8;

/// A key, and when its budget is whole, in nanoseconds since the node began.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    key: u64,
    whole_at: u64,
}

type Set = [Budget; WAYS];

/// The budgets of a node.
#[derive(Debug)]
pub(super) struct Budgets {
    sets: Box<[Mutex<Set>]>,
    /// Nobody can find out which users share a set.
    seed: u64,
}

/// One use of a budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    key: u64,
    interval: u64,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Budgets {
    /// As many as fit into so many bytes; with 0, none is kept and everything is allowed.
    pub(super) fn new(bytes: usize) -> Self {
        let sets = bytes / size_of::<Mutex<Set>>();
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            seed: RandomState::new().hash_one(0),
        }
    }

    fn set(&self, key: u64) -> Option<MutexGuard<'_, Set>> {
        let sets = self.sets.len() as u64;
        let place = usize::try_from(key.checked_rem(sets)?).ok()?;
        let set = self.sets.get(place)?;
        Some(set.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses the budget of `scope` under a rule once at `now`, the time since the node began; or before its time, by at most
    /// `early`. Says after how long its time is.
    ///
    /// # Errors
    /// After how long the budget can be used; it stays as it is.
    pub(super) fn take(
        &self,
        (rule, scope): (u8, &[u8]),
        rate: Rate,
        (now, early): (Duration, Duration),
    ) -> Result<(Taken, Duration), Duration> {
        let seed = self.seed ^ u64::from(rule);
        let key = XxHash3_64::oneshot_with_seed(seed, scope).max(1); // 0 is an empty place
        let interval = nanos(rate.interval());
        let taken = Taken { key, interval };
        let Some(mut set) = self.set(key) else {
            return Ok((taken, Duration::ZERO));
        };
        let now = nanos(now);
        let known = set.iter().position(|budget| budget.key == key);
        let place = known.or_else(|| (0..WAYS).min_by_key(|way| set[*way].whole_at));
        let Some(budget) = place.and_then(|place| set.get_mut(place)) else {
            return Ok((taken, Duration::ZERO));
        };
        if known.is_none() {
            if budget.whole_at > now {
                metrics::BUDGETS_FORGOTTEN.increment(1);
            }
            *budget = Budget { key, whole_at: now };
        }
        let whole_at = budget.whole_at.max(now).saturating_add(interval);
        let latest = now.saturating_add(nanos(rate.window()));
        let wait = Duration::from_nanos(whole_at.saturating_sub(latest));
        if wait > early {
            return Err(wait - early);
        }
        budget.whole_at = whole_at;
        Ok((taken, wait))
    }

    /// Undoes one use.
    pub(super) fn give_back(&self, taken: Taken) {
        let Some(mut set) = self.set(taken.key) else {
            return;
        };
        if let Some(budget) = set.iter_mut().find(|budget| budget.key == taken.key) {
            budget.whole_at = budget.whole_at.saturating_sub(taken.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Span;

    const RATE: Rate = Rate::new(60, Span::secs(60), 20);

    fn take(budgets: &Budgets, name: &str, now: Duration) -> bool {
        let key = (0, name.as_bytes());
        budgets.take(key, RATE, (now, Duration::ZERO)).is_ok()
    }

    #[test]
    fn a_rate_is_kept_exactly() {
        let budgets = Budgets::new(64 << 10);
        let allowed = |second: u64| {
            let take = || take(&budgets, "alice", Duration::from_secs(second));
            (0..100).filter(|_| take()).count()
        };
        assert_eq!([0, 0, 1, 11, 31, 100].map(allowed), [20, 0, 1, 10, 20, 20]);
    }

    #[test]
    fn the_table_does_not_grow_and_what_is_whole_goes_first() {
        let budgets = Budgets::new(64 << 10);
        let places = budgets.sets.len() * WAYS;
        assert!(size_of_val(&*budgets.sets) <= 64 << 10);
        while take(&budgets, "alice", Duration::ZERO) {}
        // Each of these uses one of twenty: its budget is whole before alice's, so it gives its place first.
        for n in 0..10 * places {
            let now = Duration::from_micros(n as u64);
            assert!(take(&budgets, &format!("user{n}"), now));
        }
        assert!(!take(&budgets, "alice", Duration::ZERO));
        // By now all of them are whole again.
        assert!(take(&budgets, "alice", Duration::from_secs(100)));
    }
}
