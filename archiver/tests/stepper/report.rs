//! What was explored and what was found, with the command that executes it again.

use std::collections::BTreeMap;
use std::fmt;

use crate::sample::context_switches;
use crate::schedule::{Execution, Scenario, written};

/// Most violations that are shown of a schedule, and most characters of each.
const VIOLATIONS_MAX: usize = 4;
const CHARACTERS_MAX: usize = 400;

/// Schedules with the same first violation.
#[derive(Clone, Debug)]
struct Failures {
    count: usize,
    /// The one with the fewest context switches.
    steps: String,
    context_switches: usize,
    violations: Vec<String>,
}

/// What came of a scenario's schedules.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    scenario: Scenario,
    /// How many were executed to the end.
    pub(crate) schedules: usize,
    /// How many were abandoned, because another had shown all that could follow.
    pub(crate) abandoned: usize,
    /// Whether there are more schedules.
    pub(crate) is_partial: bool,
    /// By their first violation without its numbers.
    failures: BTreeMap<String, Failures>,
}

impl Report {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            scenario: scenario.clone(),
            schedules: 0,
            abandoned: 0,
            is_partial: false,
            failures: BTreeMap::new(),
        }
    }

    /// Takes a schedule in.
    pub(crate) fn add(&mut self, execution: &Execution) {
        if execution.is_abandoned {
            self.abandoned += 1;
            return;
        }
        self.schedules += 1;
        let Some(first) = execution.violations.first() else {
            return;
        };
        let kind = first.chars().filter(|c| !c.is_ascii_digit());
        let kind = kind.take(60).collect();
        let new = Failures {
            count: 0,
            steps: written(execution.steps.iter().map(|step| step.process)),
            context_switches: context_switches(&execution.steps),
            violations: execution.violations.clone(),
        };
        let known = self.failures.entry(kind).or_insert_with(|| new.clone());
        let count = known.count + 1;
        if new.context_switches < known.context_switches {
            *known = new;
        }
        known.count = count;
    }

    /// How many schedules have violations.
    pub(crate) fn failed(&self) -> usize {
        self.failures.values().map(|failures| failures.count).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, schedules) = (self.failed(), self.schedules);
        let more = if self.is_partial { " or more" } else { "" };
        writeln!(
            f,
            "{}: {failed} of {schedules}{more} schedules failed",
            self.scenario
        )?;
        for failures in self.failures.values() {
            let command = command(&self.scenario, &failures.steps);
            writeln!(f, "  {} times, for example: {command}", failures.count)?;
            for violation in failures.violations.iter().take(VIOLATIONS_MAX) {
                let violation: String = violation.chars().take(CHARACTERS_MAX).collect();
                writeln!(f, "  - {violation}")?;
            }
            let more = failures.violations.len().saturating_sub(VIOLATIONS_MAX);
            if more > 0 {
                writeln!(f, "  - and {more} more")?;
            }
        }
        Ok(())
    }
}

/// The command that executes a schedule again.
pub(crate) fn command(scenario: &Scenario, steps: &str) -> String {
    format!("make stepper STEPPER='{scenario} {steps}'")
}
