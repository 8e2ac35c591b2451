//! The explorer: all orders of a scenario's steps, except those that differ only in the order of steps that commute.
//!
//! It is dynamic partial-order reduction with source sets and sleep sets (Abdulla, Aronis, Jonsson, Sagonas: Optimal Dynamic
//! Partial Order Reduction, POPL 2014). Schedules are executed from the beginning. Each is then searched for races: steps of
//! two processes that conflict by their footprints, with nothing in between that orders them. For each race another schedule
//! is due in which the later step comes first.

use std::collections::{BTreeMap, BTreeSet};

use crate::footprint::Footprint;
use crate::schedule::{Execution, Strategy};

/// A point of the current schedule: which process takes the next step, and which others have to be tried.
#[derive(Debug)]
struct Node {
    runnable: Vec<usize>,
    /// The process that takes the step in the current schedule.
    chosen: usize,
    /// What that step reads and writes.
    footprint: Footprint,
    /// The processes that have to take the step in some schedule.
    backtrack: BTreeSet<usize>,
    /// Those that have taken it, and what their steps read and wrote.
    done: BTreeMap<usize, Footprint>,
    /// Those that need not, because all that could follow was explored from another point.
    sleep: BTreeMap<usize, Footprint>,
    /// The earlier steps that happen before this one.
    happens_after: BTreeSet<usize>,
}

/// Goes through the schedules of one scenario.
#[derive(Debug, Default)]
pub(crate) struct Explorer {
    /// Every two steps of different processes conflict, so that every order is explored.
    is_naive: bool,
    nodes: Vec<Node>,
    /// The first step in which the current schedule differs from the one before.
    changed: usize,
}

impl Explorer {
    /// One that explores every order, to compare with.
    pub(crate) fn naive() -> Self {
        Self {
            is_naive: true,
            ..Self::default()
        }
    }

    fn conflict(&self, one: &Footprint, other: &Footprint) -> bool {
        self.is_naive || one.conflicts(other)
    }

    /// The strategy of the next schedule.
    pub(crate) fn strategy(&mut self) -> Exploration<'_> {
        Exploration {
            explorer: self,
            depth: 0,
        }
    }

    /// Takes in the execution of that schedule; `false` when there is no other.
    ///
    /// # Panics
    /// When the steps before the changed one were others than last time: then a schedule is no function of its choices.
    pub(crate) fn learn(&mut self, execution: &Execution) -> bool {
        self.nodes.truncate(execution.steps.len());
        for (place, (node, step)) in self.nodes.iter_mut().zip(&execution.steps).enumerate() {
            assert!(
                place >= self.changed || node.footprint == step.footprint,
                "step {place} is not what it was in the schedule before: {} and {}",
                node.footprint,
                step.footprint
            );
            node.footprint = step.footprint.clone();
            node.done.insert(node.chosen, step.footprint.clone());
        }
        for place in self.changed..self.nodes.len() {
            self.find_races(place);
        }
        self.advance()
    }

    /// Finds the earlier steps that race with step `later`.
    fn find_races(&mut self, later: usize) {
        let step = &self.nodes[later];
        let mut earlier = (0..later).rev();
        let own = earlier.find(|place| self.nodes[*place].chosen == step.chosen);
        let conflicts = (0..later).filter(|place| {
            let earlier = &self.nodes[*place];
            earlier.chosen != step.chosen && self.conflict(&earlier.footprint, &step.footprint)
        });
        let conflicts: Vec<usize> = conflicts.collect();
        let direct: BTreeSet<usize> = conflicts.iter().copied().chain(own).collect();
        let mut happens_after = direct.clone();
        for place in &direct {
            happens_after.extend(&self.nodes[*place].happens_after);
        }
        self.nodes[later].happens_after = happens_after;
        for earlier in conflicts {
            let orders_them =
                |between: &usize| self.nodes[*between].happens_after.contains(&earlier);
            if !direct.iter().any(orders_them) {
                self.reverse(earlier, later);
            }
        }
    }

    /// Makes a schedule due in which step `later` comes before step `earlier`: it goes on from there with the steps that do
    /// not happen after `earlier`, whose first processes are the initials.
    fn reverse(&mut self, earlier: usize, later: usize) {
        let is_free = |place: &usize| !self.nodes[*place].happens_after.contains(&earlier);
        let moved: Vec<usize> = (earlier + 1..later)
            .filter(is_free)
            .chain([later])
            .collect();
        let is_first = |place: &&usize| {
            let node = &self.nodes[**place];
            !moved.iter().any(|other| node.happens_after.contains(other))
        };
        let first = moved.iter().filter(is_first);
        let initials: BTreeSet<usize> = first.map(|place| self.nodes[*place].chosen).collect();
        let wanted = self.nodes[later].chosen;
        let node = &mut self.nodes[earlier];
        let is_covered =
            |process: &usize| node.backtrack.contains(process) || node.sleep.contains_key(process);
        if initials.iter().any(is_covered) {
            return;
        }
        let can_begin = |process: &usize| initials.contains(process);
        let mut able = node.runnable.iter().copied().filter(can_begin);
        match able
            .clone()
            .find(|process| *process == wanted)
            .or(able.next())
        {
            Some(process) => drop(node.backtrack.insert(process)),
            None => node.backtrack.extend(node.runnable.iter().copied()),
        }
    }

    /// Goes back to the last point with a process that is still to be tried.
    fn advance(&mut self) -> bool {
        while let Some(node) = self.nodes.last_mut() {
            let is_due = |process: &&usize| {
                !node.done.contains_key(process) && !node.sleep.contains_key(process)
            };
            if let Some(next) = node.backtrack.iter().find(is_due).copied() {
                node.chosen = next;
                self.changed = self.nodes.len() - 1;
                return true;
            }
            self.nodes.pop();
        }
        false
    }
}

/// Follows the explorer's choices, and from where there is none the process that took the last step.
pub(crate) struct Exploration<'a> {
    explorer: &'a mut Explorer,
    depth: usize,
}

impl Strategy for Exploration<'_> {
    fn next_process(&mut self, runnable: &[usize], last: &Footprint) -> Option<usize> {
        let explorer = &mut *self.explorer;
        let depth = self.depth;
        self.depth += 1;
        if let Some(node) = explorer.nodes.get(depth) {
            assert_eq!(
                node.runnable, runnable,
                "after step {depth} other processes can go on than in the schedule before"
            );
            return Some(node.chosen);
        }
        let mut sleep = BTreeMap::new();
        let mut previous = None;
        if let Some(node) = explorer.nodes.last() {
            let explored = node.sleep.iter().chain(&node.done);
            let still = explored.filter(|(process, footprint)| {
                **process != node.chosen && !explorer.conflict(footprint, last)
            });
            sleep = still
                .map(|(process, footprint)| (*process, footprint.clone()))
                .collect();
            previous = Some(node.chosen);
        }
        let mut awake = runnable
            .iter()
            .copied()
            .filter(|process| !sleep.contains_key(process));
        let same = awake.clone().find(|process| Some(*process) == previous);
        let chosen = same.or_else(|| awake.next())?;
        explorer.nodes.push(Node {
            runnable: runnable.to_vec(),
            chosen,
            footprint: Footprint::default(),
            backtrack: BTreeSet::from([chosen]),
            done: BTreeMap::new(),
            sleep,
            happens_after: BTreeSet::new(),
        });
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use backscroll_archiver::object_store::Operation;

    use super::*;
    use crate::scheduler::TakenStep;

    /// Explores processes whose steps write (`wa`) or read (`ra`) a place each; gives how many schedules were executed, and the
    /// orders of those that were not abandoned.
    fn explored(processes: &[&[&str]]) -> (usize, BTreeSet<Vec<usize>>) {
        let footprint = |step: &str| {
            let mut footprint = Footprint::default();
            let (verb, place) = step.split_at(1);
            let operation = if verb == "w" {
                Operation::Put
            } else {
                Operation::GetRange
            };
            footprint.add_request(operation, place);
            footprint
        };
        let mut explorer = Explorer::default();
        let mut complete = BTreeSet::new();
        let mut executions = 0;
        loop {
            let mut at = vec![0; processes.len()];
            let mut steps: Vec<TakenStep> = Vec::new();
            let mut strategy = explorer.strategy();
            let is_abandoned = loop {
                let runnable: Vec<usize> = (0..at.len())
                    .filter(|p| at[*p] < processes[*p].len())
                    .collect();
                if runnable.is_empty() {
                    break false;
                }
                let last = steps
                    .last()
                    .map(|step| step.footprint.clone())
                    .unwrap_or_default();
                let Some(next) = strategy.next_process(&runnable, &last) else {
                    break true;
                };
                steps.push(TakenStep {
                    process: next,
                    what: String::new(),
                    footprint: footprint(processes[next][at[next]]),
                });
                at[next] += 1;
            };
            executions += 1;
            if !is_abandoned {
                complete.insert(steps.iter().map(|step| step.process).collect());
            }
            let execution = Execution {
                steps,
                is_abandoned,
                violations: Vec::new(),
                answers: BTreeSet::new(),
            };
            if !explorer.learn(&execution) {
                break;
            }
        }
        (executions, complete)
    }

    #[test]
    fn orders_of_steps_that_commute_are_one() {
        let (_, orders) = explored(&[&["wa", "wb"], &["wc", "rd"]]);
        assert_eq!(orders.len(), 1);
        let (_, orders) = explored(&[&["ra", "ra"], &["ra", "ra"], &["ra"]]);
        assert_eq!(orders.len(), 1);
    }

    #[test]
    fn orders_of_steps_that_conflict_are_all_explored() {
        let (executions, orders) = explored(&[&["wa", "wa"], &["wa", "wa"]]);
        assert_eq!((executions, orders.len()), (6, 6), "none was in vain");
        let (_, orders) = explored(&[&["wa"], &["wa"], &["wa"]]);
        assert_eq!(orders.len(), 6);
    }

    #[test]
    fn a_reader_of_two_places_sees_each_before_and_after_its_write() {
        let (_, orders) = explored(&[&["wa", "wb"], &["ra", "rb"]]);
        assert_eq!(orders.len(), 4);
        // What it reads second cannot be older than what it reads first.
        let (_, orders) = explored(&[&["wa", "wb"], &["rb", "ra"]]);
        assert_eq!(orders.len(), 3);
    }

    #[test]
    fn two_readers_do_not_concern_each_other() {
        let (_, orders) = explored(&[&["wa"], &["ra"], &["ra"]]);
        assert_eq!(orders.len(), 4);
    }
}
