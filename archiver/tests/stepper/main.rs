//! The stepper: processes on the same databases and the same bucket, in every order of their steps.
//!
//! A step is a statement outside a transaction, a whole transaction, or a request to the object store. Each actor is a process
//! of its own: store, router, pools and caches are not shared. Each of its accesses waits until it is granted ([`scheduler`]).
//! Pairs of actors are executed from prepared states ([`states`]) in every order, except for orders of steps that commute
//! ([`explore`]); triples by samples. The answers that callers got and the final state are compared with what was acknowledged
//! ([`model`], [`final_check`]).
//!
//! It checks: INV-ACK, INV-COPY and INV-TIER (every acknowledged change is what page, message, sync and export show, every seq
//! is in reach, also after a rebuild of the index; an answer was true at some moment of its call), INV-SEQ and INV-REV (of
//! acknowledgements), INV-IDEM, INV-ERASE, INV-OBJECT, and that `archive verify` finds nothing.
//!
//! It does not explore: orders within a transaction (SQLite has one writer), of one process's own concurrent streams other than
//! the two of [`scheduler::StreamOrder`], and of the relay, which stands still; faults of databases and object store; deaths of
//! processes other than `run:…`.
//!
//! `BACKSCROLL_STEPPER` says what to do instead of the usual selection: `all` explores everything; scenarios with `;` between
//! them, such as `hot run edit:2`, are explored as a whole; a scenario and a schedule, such as `hot run edit:2 a26b3a25`, is
//! executed once, and its steps are shown. `BACKSCROLL_STEPPER_SEED` is the seed of the samples.
//!
//! To add an actor, add an [`actors::Action`] and its written form; if it changes what readers must see, [`model::Model`] says
//! how. More shards are [`deployment`]'s `SHARDS`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

mod actors;
mod deployment;
mod explore;
mod final_check;
mod final_state;
mod footprint;
mod model;
mod record;
mod report;
mod sample;
mod scenarios;
mod schedule;
mod scheduler;
mod states;

use std::collections::BTreeSet;
use std::env;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use explore::Explorer;
use report::{Report, command};
use sample::{Random, RandomPriorities, Replay};
use schedule::{CheckedStates, Scenario, execute, parse, written};

/// What is explored, and how thoroughly.
struct Selection {
    pairs: Vec<Scenario>,
    /// Most schedules of a pair.
    schedules_max: usize,
    triples: usize,
    /// Samples of each triple.
    samples: usize,
}

#[test]
fn acknowledged_changes_hold_in_every_order() {
    let usual = Selection {
        pairs: scenarios::usual(),
        schedules_max: 200,
        triples: 40,
        samples: 6,
    };
    let everything = Selection {
        pairs: scenarios::all(),
        schedules_max: 500,
        triples: 1000,
        samples: 20,
    };
    match env::var("BACKSCROLL_STEPPER").as_deref() {
        Err(_) | Ok("") => explore(&usual),
        Ok("all") => explore(&everything),
        Ok(text) => match text.rsplit_once(' ') {
            Some((scenario, steps)) if parse(steps).is_ok() => show(scenario, steps),
            _ => explore(&Selection {
                pairs: text.split(';').map(|text| text.parse().unwrap()).collect(),
                schedules_max: usize::MAX,
                triples: 0,
                samples: 0,
            }),
        },
    }
}

/// The orders that the explorer leaves out have no other outcomes than those that it explores.
#[test]
fn steps_that_commute_make_no_difference() {
    for scenario in [
        "archived page edit:2",
        "archived edit:2 react:2",
        "thawed sync delete:3",
    ] {
        let scenario: Scenario = scenario.parse().unwrap();
        let (explored, outcomes) = outcomes(&scenario, Explorer::default());
        let (all, all_outcomes) = self::outcomes(&scenario, Explorer::naive());
        assert_eq!(outcomes, all_outcomes, "{scenario}");
        assert!(explored < all, "{scenario}: {explored} of {all}");
    }
}

/// What came of a schedule: answers and violations.
type Outcome = (BTreeSet<String>, Vec<String>);

/// How many schedules were executed, and the outcomes of all.
fn outcomes(scenario: &Scenario, mut explorer: Explorer) -> (usize, BTreeSet<Outcome>) {
    let checked = CheckedStates::default();
    let mut outcomes = BTreeSet::new();
    let mut schedules = 0;
    loop {
        let execution = execute(scenario, &mut explorer.strategy(), &checked);
        schedules += 1;
        let has_more = explorer.learn(&execution);
        outcomes.insert((execution.answers, execution.violations));
        if !has_more {
            return (schedules, outcomes);
        }
    }
}

/// Executes one schedule, and shows its steps.
fn show(scenario: &str, steps: &str) {
    let scenario: Scenario = scenario.parse().unwrap();
    let mut replay = Replay::new(parse(steps).unwrap());
    let execution = execute(&scenario, &mut replay, &CheckedStates::default());
    for (number, step) in (1..).zip(&execution.steps) {
        let actor = &scenario.actors[step.process];
        println!("{number:>4} {actor:<12} {} | {}", step.what, step.footprint);
    }
    let steps = written(execution.steps.iter().map(|step| step.process));
    let command = command(&scenario, &steps);
    let violations = execution.violations.join("\n- ");
    assert!(violations.is_empty(), "{command}\n- {violations}");
}

fn explore(selection: &Selection) {
    let started = Instant::now();
    let checked = CheckedStates::default();
    let seed = env::var("BACKSCROLL_STEPPER_SEED").ok();
    let seed: u64 = seed.map_or(1, |seed| seed.parse().expect("a number"));
    let (pairs, triples) = (&selection.pairs, selection.triples);
    let reports = in_parallel(pairs.len() + triples, |number| {
        let report = match pairs.get(number) {
            Some(pair) => in_every_order(pair, selection.schedules_max, &checked),
            None => by_samples(seed + number as u64, selection.samples, &checked),
        };
        if report.failed() > 0 {
            println!("{report}");
        }
        report
    });
    let sum = |of: fn(&Report) -> usize| reports.iter().map(of).sum::<usize>();
    let (pairs, states) = (pairs.len(), checked.count());
    let schedules = sum(|report| report.schedules);
    let abandoned = sum(|report| report.abandoned);
    let partial = sum(|report| usize::from(report.is_partial)) - triples;
    let seconds = started.elapsed().as_secs();
    println!(
        "{pairs} pairs ({partial} of them not as a whole), {triples} triples from seed {seed}: \
         {schedules} schedules and {abandoned} abandoned ones in {seconds} s, {states} final states"
    );
    let failed = reports.iter().filter(|report| report.failed() > 0).count();
    assert_eq!(failed, 0, "scenarios failed; they are told above");
}

/// Explores a pair until every order is explored, or so many schedules are executed.
fn in_every_order(pair: &Scenario, schedules_max: usize, checked: &CheckedStates) -> Report {
    let mut explorer = Explorer::default();
    let mut report = Report::new(pair);
    loop {
        let execution = execute(pair, &mut explorer.strategy(), checked);
        report.add(&execution);
        let has_more = explorer.learn(&execution);
        if !has_more || report.schedules >= schedules_max {
            report.is_partial = has_more;
            return report;
        }
    }
}

/// About how many steps a triple takes, until one of its schedules says it.
const STEPS: usize = 60;

/// Executes some schedules of a triple.
fn by_samples(seed: u64, samples: usize, checked: &CheckedStates) -> Report {
    let mut random = Random(seed);
    let triple = scenarios::random_triple(&mut random);
    let mut report = Report::new(&triple);
    report.is_partial = true;
    let mut steps = STEPS;
    for _ in 0..samples {
        let mut strategy = RandomPriorities::new(&mut random, triple.actors.len(), steps);
        let execution = execute(&triple, &mut strategy, checked);
        steps = execution.steps.len();
        report.add(&execution);
    }
    report
}

/// Does `work` for 0 to `count` on a thread a processor, and gives the results in their order.
fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, T)>> = Mutex::default();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let result = work(number);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((number, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}
