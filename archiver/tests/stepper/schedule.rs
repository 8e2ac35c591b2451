//! One schedule: actors on a copy of a prepared state, in an order that a [`Strategy`] decides step by step.
//!
//! All processes run on one thread, on a runtime whose clock stands still while anything can run. A tick of that clock
//! therefore says that every process waits to be granted a step, or is finished: a schedule is a function of its choices.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::pin;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::settings::Span;
use futures_util::FutureExt as _;
use futures_util::future::{Either, join_all, pending, select};
use tokio::runtime::{Builder, Runtime};

use crate::actors::Actor;
use crate::deployment::{Process, archive_settings};
use crate::footprint::Footprint;
use crate::model::{Exceptions, Model};
use crate::record::{Observation, Records};
use crate::scheduler::{Scheduler, StreamOrder, TakenStep};
use crate::states::{self, State};
use crate::{final_check, final_state};

/// Most steps of a schedule; one that takes more does not end.
const STEPS_MAX: usize = 2000;

/// A tick of the clock, and most of them between two steps: processes may sleep.
const TICK: Duration = Duration::from_millis(1);
const TICKS_MAX: usize = 100_000;

/// How actors sign the texts that they write.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What is interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// The name of the state that it begins with.
    pub(crate) state: String,
    pub(crate) actors: Vec<Actor>,
    pub(crate) stream_order: StreamOrder,
    /// Whether a job's lease ends at once, as that of a job that was suspended for too long: others can take it over.
    pub(crate) short_lease: bool,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.state)?;
        for actor in &self.actors {
            write!(f, " {actor}")?;
        }
        if self.stream_order == StreamOrder::NewestFirst {
            f.write_str(" newest-first")?;
        }
        if self.short_lease {
            f.write_str(" short-lease")?;
        }
        Ok(())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let state = words.next().unwrap_or_default();
        if !states::names().any(|name| name == state) {
            return Err(format!("`{state}` is no state"));
        }
        let mut scenario = Self {
            state: state.into(),
            actors: Vec::new(),
            stream_order: StreamOrder::OldestFirst,
            short_lease: false,
        };
        for word in words {
            match word {
                "newest-first" => scenario.stream_order = StreamOrder::NewestFirst,
                "short-lease" => scenario.short_lease = true,
                actor => scenario.actors.push(actor.parse()?),
            }
        }
        Ok(scenario)
    }
}

/// Decides which process takes the next step.
pub(crate) trait Strategy {
    /// One of `runnable`, or nothing to abandon the schedule. `last` is what the step before read and wrote.
    fn next_process(&mut self, runnable: &[usize], last: &Footprint) -> Option<usize>;
}

/// What came of a schedule.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) steps: Vec<TakenStep>,
    pub(crate) is_abandoned: bool,
    pub(crate) violations: Vec<String>,
    /// What callers were answered, without times.
    pub(crate) answers: BTreeSet<String>,
}

/// A runtime of one thread, whose clock only moves when nothing can run.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(2)
        .build()
        .unwrap()
}

/// Waits until every process waits to be granted a step, or is finished; `false` when that does not come.
pub(crate) async fn settle(scheduler: &Scheduler) -> bool {
    for _ in 0..TICKS_MAX {
        tokio::time::sleep(TICK).await;
        if scheduler.is_quiescent() {
            return true;
        }
    }
    false
}

/// The violations found in final states, by digest, so that states that many schedules end in are checked once.
#[derive(Debug, Default)]
pub(crate) struct CheckedStates(Mutex<HashMap<u64, Vec<String>>>);

impl CheckedStates {
    fn get(&self, digest: u64) -> Option<Vec<String>> {
        let checked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        checked.get(&digest).cloned()
    }

    fn insert(&self, digest: u64, violations: Vec<String>) {
        let mut checked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        checked.insert(digest, violations);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Executes one schedule, and checks it.
pub(crate) fn execute(
    scenario: &Scenario,
    strategy: &mut dyn Strategy,
    checked: &CheckedStates,
) -> Execution {
    let state = states::state(&scenario.state).expect("scenarios name known states");
    let folder = states::copy_of(state);
    let scheduler = Scheduler::new(states::present());
    let records = Records::new(state.client.clone());
    let run = run_actors(
        scenario,
        strategy,
        state,
        folder.path(),
        (&scheduler, &records),
    );
    let digest = runtime().block_on(run);
    let steps = scheduler.steps();
    let mut violations = scheduler.violations();
    let mut answers = BTreeSet::new();
    if let Some(digest) = digest {
        let observations = records.take();
        answers.extend(observations.iter().map(Observation::summary));
        let exceptions = Exceptions::of(scenario, state);
        let model = Model::of(state.client.clone(), &observations, exceptions);
        violations.extend(model.violations.iter().cloned());
        let digest = digest_of(&(digest, model.digest(&observations)));
        let found = checked.get(digest).unwrap_or_else(|| {
            let check = (&model, observations.as_slice());
            let check = final_check::violations(check, state, folder.path(), steps.len());
            let found = runtime().block_on(check);
            checked.insert(digest, found.clone());
            found
        });
        violations.extend(found);
    }
    Execution {
        steps,
        is_abandoned: digest.is_none(),
        violations,
        answers,
    }
}

fn digest_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Lets the actors run in the order of `strategy`, and digests the final state; nothing when the schedule was abandoned.
async fn run_actors(
    scenario: &Scenario,
    strategy: &mut dyn Strategy,
    state: &State,
    folder: &Path,
    (scheduler, records): (&Scheduler, &Records),
) -> Option<u64> {
    let mut settings = archive_settings();
    if scenario.short_lease {
        settings.lease = Span::secs(0);
    }
    let mut processes = Vec::new();
    for (actor, seed) in scenario.actors.iter().zip(1..) {
        let gate = scheduler.add_process(actor.clock_skew(), seed);
        processes.push(open(gate, folder, state, settings.clone()).await);
    }
    settle(scheduler).await;
    let actors = scenario.actors.iter().zip(&processes).zip(NAMES);
    let acting = join_all(actors.map(async |((actor, process), name)| {
        process.gate.start_stepping();
        let acting = AssertUnwindSafe(actor.act(name, process, records));
        if acting.catch_unwind().await.is_err() {
            process.gate.add_violation(format!("{actor} panicked"));
        }
        process.gate.finish();
    }));
    let driving = pin!(drive(scenario, strategy, scheduler));
    match select(driving, pin!(acting.then(|_| pending::<()>()))).await {
        Either::Left((true, _)) => {}
        _ => return None,
    }
    let first = processes.first()?;
    first.gate.run_freely();
    Some(final_state::digest(first, states::present()).await)
}

async fn open(
    gate: crate::scheduler::Gate,
    folder: &Path,
    state: &State,
    settings: ArchiveSettings,
) -> Process {
    Process::open(gate, folder, state.conversations, settings).await
}

/// Grants one step after the other; `false` when the schedule was abandoned.
async fn drive(scenario: &Scenario, strategy: &mut dyn Strategy, scheduler: &Scheduler) -> bool {
    loop {
        if !settle(scheduler).await {
            scheduler.add_violation("a process neither waits nor ends".into());
            return true;
        }
        let runnable = scheduler.runnable();
        let steps = scheduler.step_count();
        if runnable.is_empty() || steps >= STEPS_MAX {
            if !scheduler.is_finished() {
                scheduler.add_violation(format!("after {steps} steps no process can go on"));
            }
            return true;
        }
        let last = scheduler.last_footprint();
        let Some(next) = strategy.next_process(&runnable, &last) else {
            return false;
        };
        scheduler.grant(next, scenario.stream_order);
    }
}

/// The order of a schedule's steps in its written form: `a12b1a3`, twelve of the first actor, one of the second, three of the
/// first.
pub(crate) fn written(processes: impl IntoIterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for process in processes {
        match runs.last_mut() {
            Some((last, count)) if *last == process => *count += 1,
            _ => runs.push((process, 1)),
        }
    }
    let letter = |process: usize| char::from(b'a' + u8::try_from(process).unwrap_or(25));
    let run = |(process, count): (usize, usize)| format!("{}{count}", letter(process));
    runs.into_iter().map(run).collect()
}

/// From the written form.
pub(crate) fn parse(text: &str) -> Result<Vec<usize>, String> {
    let malformed = || format!("`{text}` is no schedule; write it as `a12b1a3`");
    let mut steps = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let process = "abcd".find(letter).ok_or_else(malformed)?;
        rest = &rest[1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (count, after) = rest.split_at(digits);
        let count: usize = count.parse().map_err(|_| malformed())?;
        rest = after;
        steps.extend(std::iter::repeat_n(process, count));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_as_it_was_written() {
        let steps = vec![0, 0, 1, 0, 2, 2];
        assert_eq!(written(steps.clone()), "a2b1a1c2");
        assert_eq!(parse("a2b1a1c2"), Ok(steps));
        assert!(parse("archived").is_err());
    }

    #[test]
    fn a_scenario_is_read_as_it_was_written() {
        let text = "archived ahead/run edit:2,react:3 run:read-back newest-first short-lease";
        let scenario: Scenario = text.parse().unwrap();
        assert_eq!(scenario.to_string(), text);
        assert!("nowhere run".parse::<Scenario>().is_err());
        assert!("hot walks".parse::<Scenario>().is_err());
    }
}
