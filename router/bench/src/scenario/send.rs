//! `send`: messages acknowledged over HTTP against rows inserted one by one, on the same durable server, in one run, and
//! beside them the same requests to a server that only answers; then latency at half of the maximum rate; then everything is read back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::drafts::Texts;
use crate::harness::bare::Bare;
use crate::harness::databases::{Databases, require_durable, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Watched, generator};
use crate::ledger::{Findings, Ledger};
use crate::load::open_loop;
use crate::out;
use crate::population::Size;
use crate::report::{Latency, Verdict, thousands};
use crate::rounds::{
    Rounds, Side, best_of, print_trials, rate_table, try_connections, usage_table,
};
use crate::rows::{Insertable, Inserter, Tables};
use crate::scenario::{
    Common, Report, check_connections, check_number, check_seconds, numbered, publish, setup,
    watched,
};
use crate::sender::{Sender, World};
use crate::verify::verify;

/// How many times faster than row by row sending shall be.
const GOAL_RATIO: f64 = 2.0;
/// How long the slowest of a hundred acknowledgements may take at half of the maximum rate, in milliseconds.
const GOAL_P99_MS: f64 = 50.0;
/// How many acknowledged messages are sent a second time.
const REPEATS: usize = 1000;
/// The share of the offered rate that must have been acknowledged when the half-rate phase ends.
const KEPT_UP: f64 = 0.99;

/// Sending over HTTP against row-by-row inserts, latency at half rate, and a check of everything that was acknowledged
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    /// How many shards there are
    #[arg(long, default_value_t = 4)]
    shards: usize,
    /// How many rounds each side gets, in turns
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a round takes, in seconds
    #[arg(long, default_value_t = 5.0)]
    round_seconds: f64,
    /// How long each number of connections is tried, in seconds
    #[arg(long, default_value_t = 3.0)]
    trial_seconds: f64,
    /// How long messages are sent at half of the maximum rate, in seconds
    #[arg(long, default_value_t = 15.0)]
    half_rate_seconds: f64,
    /// Numbers of HTTP connections to try; the best is kept
    #[arg(long, value_delimiter = ',', default_value = "64,128,256")]
    connections: Vec<usize>,
    /// Numbers of database connections to try for the row-by-row inserts; the best is kept
    #[arg(long, value_delimiter = ',', default_value = "8,16,32,64")]
    row_connections: Vec<usize>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HalfRate {
    offered_rate: f64,
    acknowledged_rate: f64,
    refused: u64,
    latency: Latency,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SendReport {
    scenario: &'static str,
    machine: Machine,
    size: Size,
    shards: usize,
    rows: Side,
    backscroll: Side,
    bare: Side,
    ratio: f64,
    half_rate: HalfRate,
    repeated: usize,
    repeated_wrong: usize,
    findings: Findings,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    args.check()?;
    let binary = common.binary()?;
    let mut names = vec!["directory".to_owned()];
    names.extend(numbered("shard", args.shards));
    names.extend(numbered("rows", args.shards));
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let router = Router::start(&setup(binary, databases, args.shards)).await?;
        let report = measure(databases, &router, args).await?;
        router.stop().await?;
        Ok(report)
    })
    .await?;
    publish(&report, common.json)
}

impl Args {
    fn check(&self) -> Result<()> {
        self.size.check()?;
        check_number("--shards", self.shards, 1, 64)?;
        check_number("--rounds", self.rounds, 1, 1000)?;
        check_seconds(&[
            self.round_seconds,
            self.trial_seconds,
            self.half_rate_seconds,
        ])?;
        check_connections("--connections", &self.connections)?;
        check_connections("--row-connections", &self.row_connections)
    }
}

async fn measure(databases: &Databases, router: &Router, args: &Args) -> Result<SendReport> {
    let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
    require_durable(machine.durable)?;
    let watched = watched(databases, router)?;
    out::progress(format_args!(
        "creating {} conversations",
        args.size.conversations
    ));
    let world = World::create(router, args.size, rand::random()).await?;
    let tables = copy_tables(databases, args, &world).await?;
    let mut ledger = Ledger::default();

    let (mut senders, [rows, backscroll, bare]) =
        rounds(databases, args, &watched, (&world, &tables), &mut ledger).await?;
    let half_rate = half_rate(&mut senders, backscroll.rate.median / 2.0, args).await?;
    collect(&mut senders, &mut ledger);
    let (repeated, repeated_wrong) = repeat(&mut senders, &ledger).await?;
    out::progress(format_args!(
        "reading {} messages back",
        thousands(ledger.acknowledged.len() as f64)
    ));
    let findings = verify(&world, ledger).await?;
    tables
        .check(&mut databases.connect_to_server().await?)
        .await?;

    let ratio = backscroll.rate.median / rows.rate.median;
    let verdicts = verdicts(ratio, &half_rate, &findings, repeated, repeated_wrong);
    Ok(SendReport {
        scenario: "send",
        machine,
        size: args.size,
        shards: args.shards,
        rows,
        backscroll,
        bare,
        ratio,
        half_rate,
        repeated,
        repeated_wrong,
        findings,
        verdicts,
    })
}

/// Finds the best number of connections for each side, then lets them take turns.
async fn rounds(
    databases: &Databases,
    args: &Args,
    watched: &[Watched],
    (world, tables): (&Arc<World>, &Arc<Tables>),
    ledger: &mut Ledger,
) -> Result<(Vec<Sender>, [Side; 3])> {
    let most = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or(1);
    let mut inserters = Inserter::open_many(databases, tables, most(&args.row_connections)).await?;
    let trial = Duration::from_secs_f64(args.trial_seconds);
    let row_trials = try_connections(
        "inserting rows",
        &mut inserters,
        &args.row_connections,
        trial,
    )
    .await?;
    let mut senders =
        Sender::open_many(world, most(&args.connections), &world.conversations()).await?;
    let trials = try_connections("sending", &mut senders, &args.connections, trial).await?;
    let (row_best, best) = (best_of(&row_trials), best_of(&trials));
    collect(&mut senders, ledger);
    inserters.truncate(row_best);
    senders.truncate(best);

    let server = Bare::start().await?;
    let bare_watched = [generator(), server.process()?];
    let mut askers =
        Sender::open_many_at(server.address, world, best, &world.conversations()).await?;

    let (mut row_rounds, mut rounds) = (Rounds::default(), Rounds::default());
    let mut bare_rounds = Rounds::default();
    let duration = Duration::from_secs_f64(args.round_seconds);
    for round in 0..args.rounds {
        // Who goes first alternates, so that neither side always follows the other.
        if round.is_multiple_of(2) {
            row_rounds
                .run("rows", &mut inserters, watched, duration)
                .await?;
            rounds
                .run("messages", &mut senders, watched, duration)
                .await?;
        } else {
            rounds
                .run("messages", &mut senders, watched, duration)
                .await?;
            row_rounds
                .run("rows", &mut inserters, watched, duration)
                .await?;
        }
        bare_rounds
            .run("bare answers", &mut askers, &bare_watched, duration)
            .await?;
    }
    let sides = [
        row_rounds.finish(row_trials, row_best)?,
        rounds.finish(trials, best)?,
        bare_rounds.finish(Vec::new(), best)?,
    ];
    Ok((senders, sides))
}

async fn half_rate(senders: &mut Vec<Sender>, rate: f64, args: &Args) -> Result<HalfRate> {
    out::progress(format_args!("sending at {}/s", thousands(rate)));
    let measured = open_loop(
        senders,
        rate,
        Duration::from_secs_f64(args.half_rate_seconds),
    )
    .await?;
    Ok(HalfRate {
        offered_rate: rate,
        acknowledged_rate: measured.rate(),
        refused: measured.refused(),
        latency: Latency::of(&measured.latency),
    })
}

fn collect(senders: &mut [Sender], ledger: &mut Ledger) {
    for sender in senders {
        ledger.append(sender.take_ledger());
    }
}

async fn copy_tables(databases: &Databases, args: &Args, world: &World) -> Result<Arc<Tables>> {
    let mut conversations = Vec::new();
    for conversation in &world.population.conversations {
        conversations.push(Insertable {
            id: conversation.id_bytes()?,
            members: conversation
                .members
                .iter()
                .map(|member| world.population.users[*member].id.clone())
                .collect(),
            shard: conversation.shard(args.shards)?,
        });
    }
    let (shards, copies) = (
        numbered("shard", args.shards),
        numbered("rows", args.shards),
    );
    Tables::copy(
        databases,
        &shards,
        &copies,
        conversations,
        Texts::new(rand::random())?,
    )
    .await
}

/// Sends some messages again; returns how many, and how many were not answered with what is stored.
async fn repeat(senders: &mut [Sender], ledger: &Ledger) -> Result<(usize, usize)> {
    let sender = senders.first_mut().context("nobody sends")?;
    let step = (ledger.acknowledged.len() / REPEATS).max(1);
    let (mut repeated, mut wrong) = (0, 0);
    for acknowledged in ledger.acknowledged.iter().step_by(step) {
        repeated += 1;
        wrong += usize::from(!sender.repeat(acknowledged).await?);
    }
    Ok((repeated, wrong))
}

fn verdicts(
    ratio: f64,
    half: &HalfRate,
    findings: &Findings,
    repeated: usize,
    wrong: usize,
) -> Vec<Verdict> {
    let kept_up = half.acknowledged_rate >= half.offered_rate * KEPT_UP && half.refused == 0;
    vec![
        Verdict::new(
            format!("sending is at least {GOAL_RATIO:.1} times as fast as row by row"),
            format!("{ratio:.2} times"),
            ratio >= GOAL_RATIO,
        ),
        Verdict::new(
            format!("p99 below {GOAL_P99_MS:.0} ms at half of the maximum rate, nothing refused"),
            format!(
                "{:.1} ms at {}/s ({} acknowledged, {} refused)",
                half.latency.p99,
                thousands(half.offered_rate),
                thousands(half.acknowledged_rate),
                half.refused
            ),
            half.latency.p99 < GOAL_P99_MS && kept_up,
        ),
        findings.verdict(),
        Verdict::new(
            "sending again gives the same message",
            format!("{wrong} of {repeated} differed"),
            wrong == 0 && repeated > 0,
        ),
    ]
}

impl Report for SendReport {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn others_share(&self) -> f64 {
        let mut usage = self.rows.usage.clone();
        usage.add(&self.backscroll.usage);
        usage.others_share(self.machine.cores)
    }

    fn print(&self) {
        out::line(format_args!(
            "load:    {} conversations of {} of {} users, on {} shards\n",
            self.size.conversations, self.size.members, self.size.users, self.shards
        ));
        let sides = [("row by row", &self.rows), ("backscroll", &self.backscroll)];
        let [rows, backscroll] = sides;
        let all = [rows, backscroll, ("bare HTTP", &self.bare)];
        let half = &self.half_rate;
        let mut table = rate_table(&all);
        let mut cells = vec![
            self.backscroll.connections.to_string(),
            thousands(half.acknowledged_rate),
        ];
        cells.extend([String::new(), String::new(), half.refused.to_string()]);
        cells.extend(half.latency.cells());
        table.row("backscroll, half rate", cells);
        out::line(&table);
        out::line(usage_table(&all));
        print_trials(&sides);
    }
}
