//! `fanout`: messages to many: one conversation that all have open, and many conversations of a few.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::harness::databases::require_durable;
use crate::harness::limits::allow_connections;
use crate::harness::machine::Machine;
use crate::out;
use crate::realtime::crowd::Plan;
use crate::realtime::runs::{
    Runs, Stage, against_baseline, finish_all, in_turns, print_rates, soundness, total_usage,
};
use crate::realtime::sides::{Servers, SideArgs};
use crate::report::Verdict;
use crate::scenario::{Common, Report, check_number, check_seconds, publish};

/// How many times the baseline's rate of deliveries shall be reached.
const GOAL_RATE: f64 = 2.0;

/// Messages to many: one conversation that everybody has open, and as many conversations as clients, of a few each
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sides: SideArgs,
    /// How many clients are connected, and members of the large conversation
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// How many members each small conversation has; every client is in as many of them
    #[arg(long, default_value_t = 10)]
    members: usize,
    /// How many messages are on their way in the large conversation, each until all members have it
    #[arg(long, default_value_t = 2)]
    large_in_flight: usize,
    /// How many messages are on their way over all small conversations
    #[arg(long, default_value_t = 256)]
    small_in_flight: usize,
    /// How many rounds each side has
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long a round takes, in seconds
    #[arg(long, default_value_t = 10.0)]
    round_seconds: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FanoutReport {
    scenario: &'static str,
    machine: Machine,
    connections: usize,
    members: usize,
    large_in_flight: usize,
    small_in_flight: usize,
    large: Vec<Runs>,
    small: Vec<Runs>,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    args.sides.check()?;
    check_number("--connections", args.connections, 100, 100_000)?;
    check_number("--members", args.members, 2, 50)?;
    check_number("--large-in-flight", args.large_in_flight, 1, 64)?;
    check_number("--small-in-flight", args.small_in_flight, 1, 10_000)?;
    check_number("--rounds", args.rounds, 1, 1000)?;
    check_seconds(&[args.round_seconds])?;
    ensure!(
        allow_connections(args.connections)? == args.connections,
        "--connections: fewer are possible here"
    );
    let report = args
        .sides
        .with_servers(common, async |servers| measure(servers, args).await)
        .await?;
    publish(&report, common.json)
}

async fn measure(servers: &mut Servers<'_>, args: &Args) -> Result<FanoutReport> {
    let machine = Machine::describe(&mut servers.databases.connect_to_server().await?).await?;
    require_durable(machine.durable)?;
    let assembly = Plan::assembly(args.connections);
    let large = spread(servers, args, &assembly, args.large_in_flight).await?;
    let circles = Plan::circles(args.connections, args.members);
    let small = spread(servers, args, &circles, args.small_in_flight).await?;
    let mut verdicts = Vec::new();
    for (what, runs) in [("one large", &large), ("many small", &small)] {
        let ratios = against_baseline(what, GOAL_RATE, runs, |runs| runs.deliveries);
        verdicts.extend(ratios);
        verdicts.extend(soundness(what, runs));
    }
    Ok(FanoutReport {
        scenario: "fanout",
        machine,
        connections: args.connections,
        members: args.members,
        large_in_flight: args.large_in_flight,
        small_in_flight: args.small_in_flight,
        large,
        small,
        verdicts,
    })
}

async fn spread(
    servers: &Servers<'_>,
    args: &Args,
    plan: &Plan,
    in_flight: usize,
) -> Result<Vec<Runs>> {
    let mut stages = Vec::new();
    for side in servers.sides() {
        stages.push(Stage::set(servers, *side, plan).await?);
    }
    let duration = Duration::from_secs_f64(args.round_seconds);
    for round in 0..args.rounds {
        for stage in in_turns(&mut stages, round) {
            stage
                .round(
                    async |fleet| fleet.spread(in_flight, duration / 4).await,
                    async |fleet| fleet.spread(in_flight, duration).await,
                )
                .await?;
        }
    }
    finish_all(stages)
}

impl Report for FanoutReport {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn others_share(&self) -> f64 {
        total_usage(self.large.iter().chain(&self.small)).others_share(self.machine.cores)
    }

    fn print(&self) {
        let count = self.connections;
        out::line(format_args!(
            "one conversation of {count}, {} messages on their way, each until everybody has it:\n",
            self.large_in_flight
        ));
        print_rates(&self.large, "deliveries", |runs| runs.deliveries);
        out::line(format_args!(
            "\n{count} conversations of {}, each client in {} of them, {} messages on their way:\n",
            self.members, self.members, self.small_in_flight
        ));
        print_rates(&self.small, "deliveries", |runs| runs.deliveries);
    }
}
