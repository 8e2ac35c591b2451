//! Rounds of several sides in turns, and what each came to.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::sleep;

use crate::harness::usage::{Meter, Usage, Watched};
use crate::out;
use crate::realtime::board::{Board, Faults, Tally};
use crate::realtime::client::Seat;
use crate::realtime::crowd::Plan;
use crate::realtime::fleet::Fleet;
use crate::realtime::sides::{Servers, Side};
use crate::realtime::socket::Target;
use crate::report::{Latency, Spread, Table, Verdict, milliseconds, thousands};

/// How long servers are left alone after many have connected or gone.
const REST: Duration = Duration::from_secs(1);

/// A side, its crowd, and the rounds so far.
pub struct Stage {
    /// The side.
    pub side: Side,
    target: Target,
    seats: Vec<Seat>,
    watched: Vec<Watched>,
    board: std::sync::Arc<Board>,
    rounds: Vec<Tally>,
    usage: Usage,
}

/// What a side came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Runs {
    /// The side.
    pub side: Side,
    /// How many clients were connected.
    pub connections: usize,
    /// Messages a second that were acknowledged and delivered to all others.
    pub messages: Spread,
    /// Deliveries a second.
    pub deliveries: Spread,
    /// From the (intended) send to the receiver.
    pub to_receiver: Latency,
    /// From the (intended) send to its acknowledgement.
    pub to_acknowledgement: Latency,
    /// From the acknowledgement to the receiver.
    pub after_acknowledgement: Latency,
    /// The share of deliveries that came before the acknowledgement, from 0 to 1.
    pub before_acknowledgement: f64,
    /// Messages acknowledged and deliveries, after the clock had stopped too.
    pub acknowledged: u64,
    /// See [`Runs::acknowledged`].
    pub delivered: u64,
    /// What went wrong.
    pub faults: Faults,
    /// Why sends were refused, and how often.
    pub refusals: Vec<(String, u64)>,
    /// Events that are not messages, and how many.
    pub events: Vec<(String, u64)>,
    /// Processor time during the rounds.
    pub usage: Usage,
    /// Processor microseconds for each message, by process.
    pub micros_each: Vec<(&'static str, f64)>,
}

impl Stage {
    /// Makes `plan` true for a side.
    ///
    /// # Errors
    /// When its server does not do it.
    pub async fn set(servers: &Servers<'_>, side: Side, plan: &Plan) -> Result<Self> {
        let (name, users, rooms) = (side.name(), plan.users, plan.rooms.len());
        out::progress(format_args!(
            "{name}: {users} users and {rooms} conversations"
        ));
        let crowd = servers.settle(side, plan).await?;
        Ok(Self {
            side,
            target: servers.target(side)?,
            seats: plan.seats(&crowd),
            watched: servers.watched(side)?,
            board: Board::new(plan.listeners())?,
            rounds: Vec::new(),
            usage: Usage::default(),
        })
    }

    /// Connects everybody, does `warm_up` without counting it, then `round`, and lets them go.
    ///
    /// # Errors
    /// When a connection breaks.
    pub async fn round(
        &mut self,
        warm_up: impl AsyncFnOnce(&mut Fleet) -> Result<Tally>,
        round: impl AsyncFnOnce(&mut Fleet) -> Result<Tally>,
    ) -> Result<()> {
        let (tally, usage) = self.perform(warm_up, round).await?;
        self.usage.add(&usage);
        let (name, number) = (self.side.name(), self.rounds.len() + 1);
        let (messages, deliveries) = (
            thousands(tally.message_rate()),
            thousands(tally.delivery_rate()),
        );
        out::progress(format_args!(
            "round {number}, {name}: {messages} messages/s, {deliveries} deliveries/s"
        ));
        self.rounds.push(tally);
        Ok(())
    }

    /// The same, but it does not count.
    ///
    /// # Errors
    /// As [`Stage::round`].
    pub async fn trial(
        &mut self,
        warm_up: impl AsyncFnOnce(&mut Fleet) -> Result<Tally>,
        round: impl AsyncFnOnce(&mut Fleet) -> Result<Tally>,
    ) -> Result<Tally> {
        Ok(self.perform(warm_up, round).await?.0)
    }

    async fn perform(
        &mut self,
        warm_up: impl AsyncFnOnce(&mut Fleet) -> Result<Tally>,
        round: impl AsyncFnOnce(&mut Fleet) -> Result<Tally>,
    ) -> Result<(Tally, Usage)> {
        let name = self.side.name();
        let mut fleet = Fleet::open(&self.target, &self.board, &self.seats)
            .await
            .with_context(|| name)?;
        sleep(REST).await;
        warm_up(&mut fleet).await.with_context(|| name)?;
        let meter = Meter::start(&self.watched)?;
        let tally = round(&mut fleet).await.with_context(|| name)?;
        let usage = meter.stop()?;
        fleet.close().await.with_context(|| name)?;
        sleep(REST).await;
        Ok((tally, usage))
    }

    /// What the rounds came to.
    ///
    /// # Errors
    /// When there was none.
    pub fn finish(self) -> Result<Runs> {
        let rates = |rate: fn(&Tally) -> f64| {
            let rates: Vec<f64> = self.rounds.iter().map(rate).collect();
            Spread::of(&rates)
        };
        let (first, others) = self.rounds.split_first().context("no round was run")?;
        let mut total = first.clone();
        for round in others {
            total.add(round)?;
        }
        let received = total.to_receiver.len().max(1);
        Ok(Runs {
            side: self.side,
            connections: self.seats.len(),
            messages: rates(Tally::message_rate),
            deliveries: rates(Tally::delivery_rate),
            to_receiver: Latency::of(&total.to_receiver),
            to_acknowledgement: Latency::of(&total.to_acknowledgement),
            after_acknowledgement: Latency::of(&total.after_acknowledgement),
            before_acknowledgement: total.before_acknowledgement as f64 / received as f64,
            acknowledged: total.acknowledged,
            delivered: total.deliveries,
            faults: total.faults(),
            refusals: total.refused.into_iter().collect(),
            events: total.events.into_iter().collect(),
            micros_each: self.usage.micros_each(total.acknowledged),
            usage: self.usage,
        })
    }
}

/// The sides in the order of this round: who goes first changes.
pub fn in_turns(stages: &mut [Stage], round: usize) -> impl Iterator<Item = &mut Stage> {
    let count = stages.len().max(1);
    stages.rotate_left(usize::from(round > 0) % count);
    stages.iter_mut()
}

/// The runs in the order of their sides.
///
/// # Errors
/// When there were no rounds.
pub fn finish_all(stages: Vec<Stage>) -> Result<Vec<Runs>> {
    let mut runs: Vec<Runs> = stages
        .into_iter()
        .map(Stage::finish)
        .collect::<Result<_>>()?;
    runs.sort_by_key(|runs| runs.side);
    Ok(runs)
}

/// Adds up the usage of some runs.
#[must_use]
pub fn total_usage<'a>(runs: impl IntoIterator<Item = &'a Runs>) -> Usage {
    let mut total = Usage::default();
    for runs in runs {
        total.elapsed += runs.usage.elapsed;
        total.others += runs.usage.others;
    }
    total
}

/// How many times as many as the baseline: `2.31 ×`, or nothing without one.
#[must_use]
pub fn ratio(runs: &Runs, all: &[Runs], rate: fn(&Runs) -> Spread) -> Option<f64> {
    let baseline = all.iter().find(|runs| runs.side == Side::Node)?;
    Some(rate(runs).median / rate(baseline).median)
}

fn ratio_cell(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// Prints rates, faults, processor time and what else was heard.
pub fn print_rates(runs: &[Runs], what: &str, rate: fn(&Runs) -> Spread) {
    let per_second = format!("{what}/s");
    let headings = [
        "",
        "connections",
        per_second.as_str(),
        "lowest",
        "highest",
        "× Node",
    ];
    let mut table = Table::new(headings.into_iter().chain(Faults::COLUMNS));
    for side in runs {
        let spread = rate(side);
        let mut cells = vec![side.connections.to_string()];
        cells.extend([spread.median, spread.min, spread.max].map(thousands));
        cells.push(ratio_cell(ratio(side, runs, rate)));
        cells.extend(side.faults.cells());
        table.row(side.side.name(), cells);
    }
    out::line(&table);
    print_latencies(runs);
    print_usage(runs);
}

/// Prints latencies.
pub fn print_latencies(runs: &[Runs]) {
    let mut table = Table::new(["latency"].into_iter().chain(Latency::COLUMNS));
    for side in runs {
        let name = side.side.name();
        table.row(
            format!("{name}: send to receiver"),
            side.to_receiver.cells(),
        );
        table.row(
            format!("{name}: send to acknowledgement"),
            side.to_acknowledgement.cells(),
        );
        table.row(
            format!("{name}: acknowledgement to receiver"),
            side.after_acknowledgement.cells(),
        );
    }
    out::line(&table);
    for side in runs {
        out::line(format_args!(
            "{}: {:.1} % of the deliveries came before the acknowledgement and count as 0",
            side.side.name(),
            side.before_acknowledgement * 100.0
        ));
    }
}

fn print_usage(runs: &[Runs]) {
    for side in runs {
        let micros = side.micros_each.iter();
        let micros: Vec<String> = micros
            .map(|(name, micros)| format!("{name} {micros:.0}"))
            .collect();
        out::line(format_args!(
            "{}: processor µs for each message: {}",
            side.side.name(),
            micros.join(", ")
        ));
        for (reason, count) in &side.refusals {
            out::line(format_args!(
                "{}: refused {count} times: {reason}",
                side.side.name()
            ));
        }
        let events = side.events.iter();
        let events: Vec<String> = events
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if !events.is_empty() {
            out::line(format_args!(
                "{}: also heard: {}",
                side.side.name(),
                events.join(", ")
            ));
        }
    }
}

/// For each side of Backscroll: whether it lost, doubled or mixed up anything.
pub fn soundness(what: &str, runs: &[Runs]) -> impl Iterator<Item = Verdict> {
    runs.iter()
        .filter(|runs| runs.side.is_backscroll())
        .map(move |runs| {
            let faults = Faults::COLUMNS.iter().zip(runs.faults.cells());
            let faults: Vec<String> = faults.map(|(name, n)| format!("{n} {name}")).collect();
            Verdict::new(
                format!(
                    "{what}, {}: everything is delivered, once, in order",
                    runs.side.name()
                ),
                format!(
                    "{} of {} deliveries",
                    faults.join(", "),
                    thousands(runs.delivered as f64)
                ),
                runs.faults.none() && runs.delivered > 0,
            )
        })
}

/// For each side of Backscroll: whether it does `goal` times as much as the baseline, where there is one.
pub fn against_baseline(
    what: &str,
    goal: f64,
    runs: &[Runs],
    rate: fn(&Runs) -> Spread,
) -> impl Iterator<Item = Verdict> {
    let ours = runs.iter().filter(|runs| runs.side.is_backscroll());
    ours.filter_map(move |side| {
        let ratio = ratio(side, runs, rate)?;
        Some(Verdict::new(
            format!(
                "{what}, {}: at least {goal} times the baseline",
                side.side.name()
            ),
            format!("{ratio:.2} times"),
            ratio >= goal,
        ))
    })
}

/// For each side of Backscroll: whether 99 % arrive within `goal` milliseconds, from the send or from its
/// acknowledgement.
pub fn timeliness(
    what: &str,
    goal: f64,
    runs: &[Runs],
    latency: fn(&Runs) -> Latency,
) -> impl Iterator<Item = Verdict> {
    let ours = runs.iter().filter(|runs| runs.side.is_backscroll());
    ours.map(move |side| {
        let p99 = latency(side).p99;
        Verdict::new(
            format!("{}: p99 {what} below {goal} ms", side.side.name()),
            format!("{} ms", milliseconds(p99)),
            p99 < goal,
        )
    })
}
