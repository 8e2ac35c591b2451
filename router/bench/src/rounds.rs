//! Rounds of one side of a comparison: which number of connections suits it best, how fast each round was, and what that
//! cost in processor time. Sides take turns, so that whatever drifts on the machine meets both.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::harness::usage::{Meter, Usage, Watched};
use crate::load::{Measured, Operation, closed_loop};
use crate::out;
use crate::report::{Latency, Spread, Table, thousands};

/// One side of a comparison.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// The rate that each number of connections tried came to, per second.
    pub trials: Vec<(usize, f64)>,
    /// The number that was kept.
    pub connections: usize,
    /// The rate of each round, per second.
    pub rounds: Vec<f64>,
    /// The same in short.
    pub rate: Spread,
    /// Of all rounds.
    pub latency: Latency,
    /// Operations that were refused.
    pub refused: u64,
    /// Processor time during the rounds.
    pub usage: Usage,
    /// Processor microseconds for each operation, by process.
    pub micros_each: Vec<(&'static str, f64)>,
}

/// The rounds so far.
#[derive(Debug, Default)]
pub struct Rounds {
    rounds: Vec<Measured>,
    usage: Usage,
}

impl Rounds {
    /// Runs another round of `what`.
    ///
    /// # Errors
    /// When an operation fails.
    pub async fn run<O: Operation>(
        &mut self,
        what: &str,
        operations: &mut Vec<O>,
        watched: &[Watched],
        duration: Duration,
    ) -> Result<()> {
        let meter = Meter::start(watched)?;
        let measured = closed_loop(operations, duration, Duration::ZERO).await?;
        self.usage.add(&meter.stop()?);
        let round = self.rounds.len() + 1;
        out::progress(format_args!(
            "round {round}: {} {what}/s",
            thousands(measured.rate())
        ));
        self.rounds.push(measured);
        Ok(())
    }

    /// What they came to.
    ///
    /// # Errors
    /// When there was none.
    pub fn finish(self, trials: Vec<(usize, f64)>, connections: usize) -> Result<Side> {
        let rates: Vec<f64> = self.rounds.iter().map(Measured::rate).collect();
        let (first, others) = self.rounds.split_first().context("no round was run")?;
        let mut total = first.clone();
        for round in others {
            total.add(round)?;
        }
        Ok(Side {
            trials,
            connections,
            rate: Spread::of(&rates),
            rounds: rates,
            latency: Latency::of(&total.latency),
            refused: total.refused(),
            micros_each: self.usage.micros_each(total.done()),
            usage: self.usage,
        })
    }
}

/// Runs `operations` with each number of them for a while. The first number is run twice and counts once, to warm up.
///
/// # Errors
/// When an operation fails.
pub async fn try_connections<O: Operation>(
    what: &str,
    operations: &mut Vec<O>,
    numbers: &[usize],
    trial: Duration,
) -> Result<Vec<(usize, f64)>> {
    let mut trials = Vec::with_capacity(numbers.len());
    for number in numbers.first().into_iter().chain(numbers) {
        let mut some: Vec<O> = operations.drain(..*number).collect();
        let measured = closed_loop(&mut some, trial, Duration::ZERO).await?;
        operations.extend(some);
        let rate = thousands(measured.rate());
        out::progress(format_args!("{what} over {number} connections: {rate}/s"));
        trials.push((*number, measured.rate()));
    }
    trials.remove(0);
    Ok(trials)
}

/// The number of connections that did best.
#[must_use]
pub fn best_of(trials: &[(usize, f64)]) -> usize {
    trials
        .iter()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(1, |(connections, _)| *connections)
}

/// Rates and latencies of some sides.
#[must_use]
pub fn rate_table(sides: &[(&str, &Side)]) -> Table {
    let headings = [
        "",
        "connections",
        "per second",
        "lowest",
        "highest",
        "refused",
    ];
    let mut table = Table::new(headings.into_iter().chain(Latency::COLUMNS));
    for (name, side) in sides {
        let mut cells = vec![side.connections.to_string()];
        cells.extend([side.rate.median, side.rate.min, side.rate.max].map(thousands));
        cells.push(side.refused.to_string());
        cells.extend(side.latency.cells());
        table.row(*name, cells);
    }
    table
}

/// Where the processor time of some sides went.
#[must_use]
pub fn usage_table(sides: &[(&str, &Side)]) -> Table {
    let names = sides.first().map_or(&[][..], |(_, side)| &side.micros_each);
    let mut table = Table::new(
        ["processor µs each"]
            .into_iter()
            .chain(names.iter().map(|(name, _)| *name)),
    );
    for (name, side) in sides {
        table.row(
            *name,
            side.micros_each
                .iter()
                .map(|(_, micros)| format!("{micros:.1}")),
        );
    }
    table
}

/// The trials of some sides, a line each.
pub fn print_trials(sides: &[(&str, &Side)]) {
    for (name, side) in sides {
        let tried = side
            .trials
            .iter()
            .map(|(connections, rate)| format!("{connections}: {}/s", thousands(*rate)));
        let tried: Vec<String> = tried.collect();
        out::line(format_args!(
            "connections tried, {name}: {}",
            tried.join(", ")
        ));
    }
}
