//! Strategies that need no exploration: a written schedule, and samples.

use std::collections::BTreeSet;

use crate::footprint::Footprint;
use crate::schedule::Strategy;
use crate::scheduler::TakenStep;

/// A written schedule. After its end the first process that can go on does.
pub(crate) struct Replay(std::vec::IntoIter<usize>);

impl Replay {
    pub(crate) fn new(steps: Vec<usize>) -> Self {
        Self(steps.into_iter())
    }
}

impl Strategy for Replay {
    fn next_process(&mut self, runnable: &[usize], _last: &Footprint) -> Option<usize> {
        let written = self.0.next().filter(|process| runnable.contains(process));
        written.or_else(|| runnable.first().copied())
    }
}

/// Numbers that follow from a seed, by SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = (mixed ^ (mixed >> 31)) % bound as u64;
        usize::try_from(number).expect("it is below a usize")
    }

    /// One of `all`, which are not none.
    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Most changes of priority in a sample.
const CHANGES_MAX: usize = 4;

/// A sample: the process of the highest priority goes on, and at a few random steps it gets the lowest (Burckhardt, Kothari,
/// Musuvathi, Nagarakatte: A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs, ASPLOS 2010).
pub(crate) struct RandomPriorities {
    /// The processes, the highest priority first.
    order: Vec<usize>,
    changes: BTreeSet<usize>,
    step: usize,
}

impl RandomPriorities {
    /// For so many processes, and about so many steps.
    pub(crate) fn new(random: &mut Random, processes: usize, steps: usize) -> Self {
        let mut left: Vec<usize> = (0..processes).collect();
        let mut order = Vec::with_capacity(processes);
        while !left.is_empty() {
            order.push(left.remove(random.below(left.len())));
        }
        let count = 1 + random.below(CHANGES_MAX);
        Self {
            order,
            changes: (0..count).map(|_| random.below(steps)).collect(),
            step: 0,
        }
    }
}

impl Strategy for RandomPriorities {
    fn next_process(&mut self, runnable: &[usize], _last: &Footprint) -> Option<usize> {
        let highest = |order: &[usize]| order.iter().position(|it| runnable.contains(it));
        if self.changes.contains(&self.step)
            && let Some(place) = highest(&self.order)
        {
            let process = self.order.remove(place);
            self.order.push(process);
        }
        self.step += 1;
        highest(&self.order).map(|place| self.order[place])
    }
}

/// How often a step was another process's than the one before.
pub(crate) fn context_switches(steps: &[TakenStep]) -> usize {
    let pairs = steps.windows(2);
    pairs
        .filter(|pair| pair[0].process != pair[1].process)
        .count()
}
