//! `deliver`: messages over sockets, from one who sends to one who receives: how many a second, and how soon.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::harness::databases::require_durable;
use crate::harness::limits::allow_connections;
use crate::harness::machine::Machine;
use crate::out;
use crate::realtime::crowd::Plan;
use crate::realtime::runs::{
    Runs, Stage, against_baseline, finish_all, in_turns, print_rates, soundness, timeliness,
    total_usage,
};
use crate::realtime::sides::{Servers, Side, SideArgs};
use crate::report::{Verdict, thousands};
use crate::rounds::best_of;
use crate::scenario::{Common, Report, check_number, check_seconds, publish};

/// How many times the baseline's rate shall be reached.
const GOAL_RATE: f64 = 10.0;
/// The 99th percentile at the given rate, from the send and from its acknowledgement to the receiver, in milliseconds.
const GOAL_P99: f64 = 100.0;
const GOAL_P99_AFTER: f64 = 20.0;
/// Of a pair, one speaks.
const PAIR: usize = 2;

/// Messages over sockets between pairs: how many a second are sent, acknowledged and delivered, and how soon
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sides: SideArgs,
    /// How many pairs talk as fast as they can, each in a conversation of two
    #[arg(long, default_value_t = 500)]
    pairs: usize,
    /// How many messages each of them has under way; the best is kept for each side
    #[arg(long = "window", value_delimiter = ',', default_value = "1,4,16")]
    windows: Vec<usize>,
    /// How many rounds each side has
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a round takes, in seconds
    #[arg(long, default_value_t = 5.0)]
    round_seconds: f64,
    /// How many connections there are while latency is measured; 0 leaves that out
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// How many messages a second they send together
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// For how long in a round, in seconds
    #[arg(long, default_value_t = 10.0)]
    rate_seconds: f64,
    /// How many such rounds each side has
    #[arg(long, default_value_t = 3)]
    rate_rounds: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliverReport {
    scenario: &'static str,
    machine: Machine,
    pairs: usize,
    windows: Vec<Windows>,
    rate: f64,
    as_fast_as_they_can: Vec<Runs>,
    at_a_rate: Vec<Runs>,
    verdicts: Vec<Verdict>,
}

/// How many messages under way suit a side best.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Windows {
    side: Side,
    /// The rate that each number tried came to, per second.
    trials: Vec<(usize, f64)>,
    /// The number that was kept.
    kept: usize,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    args.sides.check()?;
    check_number("--pairs", args.pairs, 1, 100_000)?;
    for window in &args.windows {
        check_number("--window", *window, 1, 64)?;
    }
    check_number("--rounds", args.rounds, 1, 1000)?;
    check_number("--rate-rounds", args.rate_rounds, 1, 1000)?;
    check_seconds(&[args.round_seconds, args.rate_seconds])?;
    ensure!(
        (1.0..=1e6).contains(&args.rate),
        "--rate: from 1 to 1000000"
    );
    let connections = allow_connections(args.connections.max(PAIR * args.pairs))?;
    ensure!(
        connections >= PAIR * args.pairs,
        "--pairs: {connections} connections are possible"
    );
    let report = args
        .sides
        .with_servers(common, async |servers| measure(servers, args).await)
        .await?;
    publish(&report, common.json)
}

async fn measure(servers: &mut Servers<'_>, args: &Args) -> Result<DeliverReport> {
    let machine = Machine::describe(&mut servers.databases.connect_to_server().await?).await?;
    require_durable(machine.durable)?;
    let (fast, windows) = as_fast_as_they_can(servers, args).await?;
    let at_a_rate = if args.connections == 0 {
        Vec::new()
    } else {
        at_a_rate(servers, args).await?
    };
    let mut verdicts: Vec<Verdict> =
        against_baseline("messages a second", GOAL_RATE, &fast, |runs| runs.messages).collect();
    verdicts.extend(soundness("as fast as they can", &fast));
    verdicts.extend(timeliness(
        "from the send to the receiver",
        GOAL_P99,
        &at_a_rate,
        |runs| runs.to_receiver,
    ));
    verdicts.extend(timeliness(
        "from the acknowledgement to the receiver",
        GOAL_P99_AFTER,
        &at_a_rate,
        |runs| runs.after_acknowledgement,
    ));
    verdicts.extend(soundness("at the rate", &at_a_rate));
    Ok(DeliverReport {
        scenario: "deliver",
        machine,
        pairs: args.pairs,
        windows,
        rate: args.rate,
        as_fast_as_they_can: fast,
        at_a_rate,
        verdicts,
    })
}

async fn as_fast_as_they_can(
    servers: &Servers<'_>,
    args: &Args,
) -> Result<(Vec<Runs>, Vec<Windows>)> {
    let duration = Duration::from_secs_f64(args.round_seconds);
    let mut stages = Vec::new();
    let mut windows = Vec::new();
    for side in servers.sides() {
        let mut stage = Stage::set(servers, *side, &Plan::pairs(args.pairs)).await?;
        windows.push(try_windows(&mut stage, &args.windows, duration / 2).await?);
        stages.push(stage);
    }
    let kept = |side| {
        let of_side = windows.iter().find(|windows| windows.side == side);
        of_side.map_or(1, |windows| windows.kept)
    };
    for round in 0..args.rounds {
        for stage in in_turns(&mut stages, round) {
            let window = kept(stage.side);
            stage
                .round(
                    async |fleet| fleet.talk(window, duration / 2).await,
                    async |fleet| fleet.talk(window, duration).await,
                )
                .await?;
        }
    }
    Ok((finish_all(stages)?, windows))
}

/// Tries each of `windows` for `duration`, after as long to warm up.
async fn try_windows(stage: &mut Stage, windows: &[usize], duration: Duration) -> Result<Windows> {
    let mut trials = Vec::with_capacity(windows.len());
    if windows.len() > 1 {
        for window in windows {
            let tally = stage
                .trial(
                    async |fleet| fleet.talk(*window, duration).await,
                    async |fleet| fleet.talk(*window, duration).await,
                )
                .await?;
            let (name, rate) = (stage.side.name(), tally.message_rate());
            out::progress(format_args!(
                "{name}, {window} under way: {}/s",
                thousands(rate)
            ));
            trials.push((*window, rate));
        }
    }
    let only = windows.first().copied().unwrap_or(1);
    Ok(Windows {
        side: stage.side,
        kept: if trials.is_empty() {
            only
        } else {
            best_of(&trials)
        },
        trials,
    })
}

async fn at_a_rate(servers: &Servers<'_>, args: &Args) -> Result<Vec<Runs>> {
    let mut stages = Vec::new();
    let plan = Plan::pairs(args.connections.div_ceil(PAIR));
    for side in servers.sides() {
        stages.push(Stage::set(servers, *side, &plan).await?);
    }
    let duration = Duration::from_secs_f64(args.rate_seconds);
    for round in 0..args.rate_rounds {
        for stage in in_turns(&mut stages, round) {
            stage
                .round(
                    async |fleet| fleet.recite(args.rate, duration / 4).await,
                    async |fleet| fleet.recite(args.rate, duration).await,
                )
                .await?;
        }
    }
    finish_all(stages)
}

impl Report for DeliverReport {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn others_share(&self) -> f64 {
        let runs = self.as_fast_as_they_can.iter().chain(&self.at_a_rate);
        total_usage(runs).others_share(self.machine.cores)
    }

    fn print(&self) {
        out::line(format_args!("load:    {} pairs", self.pairs));
        for windows in &self.windows {
            let tried = windows.trials.iter();
            let tried: Vec<String> = tried
                .map(|(window, rate)| format!("; {window}: {}/s", thousands(*rate)))
                .collect();
            out::line(format_args!(
                "         {}: each with {} under way{}",
                windows.side.name(),
                windows.kept,
                tried.concat()
            ));
        }
        out::line("");
        print_rates(&self.as_fast_as_they_can, "messages", |runs| runs.messages);
        if !self.at_a_rate.is_empty() {
            out::line(format_args!("\nat {} messages a second:\n", self.rate));
            print_rates(&self.at_a_rate, "messages", |runs| runs.messages);
        }
    }
}
