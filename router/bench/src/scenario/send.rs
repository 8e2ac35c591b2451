//! `send`: messages acknowledged over HTTP against rows inserted one by one, on the same durable server, in one run;
//! then latency at half of the maximum rate; then everything is read back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::drafts::Texts;
use crate::harness::databases::{Databases, require_durable, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::{Router, Setup};
use crate::harness::usage::{Meter, Usage, Watched, generator, listener};
use crate::ledger::{Findings, Ledger};
use crate::load::{Measured, Operation, closed_loop, open_loop};
use crate::out;
use crate::population::Size;
use crate::report::{Latency, Spread, Table, Verdict, thousands};
use crate::rows::{Insertable, Inserter, Tables};
use crate::scenario::{Common, Report, numbered, publish};
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

/// One side of the comparison.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    /// The rate that each number of connections tried came to, per second.
    trials: Vec<(usize, f64)>,
    /// The one that was kept.
    connections: usize,
    /// The rate of each round, per second.
    rounds: Vec<f64>,
    rate: Spread,
    latency: Latency,
    refused: u64,
    usage: Usage,
    /// Processor microseconds for each message, by process.
    micros_per_message: Vec<(&'static str, f64)>,
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
        let setup = Setup {
            binary,
            directory_url: databases.url("directory"),
            shard_urls: numbered("shard", args.shards)
                .iter()
                .map(|name| databases.url(name))
                .collect(),
        };
        let router = Router::start(&setup).await?;
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
        ensure!((1..=64).contains(&self.shards), "--shards: 1 to 64");
        ensure!((1..=1000).contains(&self.rounds), "--rounds: 1 to 1000");
        for seconds in [
            self.round_seconds,
            self.trial_seconds,
            self.half_rate_seconds,
        ] {
            ensure!(
                (0.1..=3600.0).contains(&seconds),
                "the seconds of a phase: 0.1 to 3600"
            );
        }
        for connections in [&self.connections, &self.row_connections] {
            ensure!(
                !connections.is_empty(),
                "name at least one number of connections"
            );
            ensure!(
                connections.iter().all(|n| (1..=10_000).contains(n)),
                "connections: 1 to 10000"
            );
        }
        Ok(())
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

    let most = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or(1);
    let mut inserters =
        Inserter::open_many(databases, &tables, most(&args.row_connections)).await?;
    let mut senders =
        Sender::open_many(&world, most(&args.connections), &world.conversations()).await?;

    let trial = Duration::from_secs_f64(args.trial_seconds);
    let row_trials = try_connections(
        "inserting rows",
        &mut inserters,
        &args.row_connections,
        trial,
    )
    .await?;
    let trials = try_connections("sending", &mut senders, &args.connections, trial).await?;
    let mut ledger = Ledger::default();
    let inserted_in_trials: u64 = inserters.iter().map(Inserter::inserted).sum();
    senders
        .iter_mut()
        .for_each(|sender| ledger.append(sender.take_ledger()));
    let (row_best, best) = (best_of(&row_trials), best_of(&trials));
    let kept_before: u64 = inserters
        .iter()
        .take(row_best)
        .map(Inserter::inserted)
        .sum();
    inserters.truncate(row_best);
    senders.truncate(best);

    let (mut row_rounds, mut rounds) = (Rounds::default(), Rounds::default());
    for round in 0..args.rounds {
        // Who goes first alternates, so that neither side always follows the other.
        if round.is_multiple_of(2) {
            row_rounds
                .run("rows", &mut inserters, &watched, args.round_seconds)
                .await?;
            rounds
                .run("messages", &mut senders, &watched, args.round_seconds)
                .await?;
        } else {
            rounds
                .run("messages", &mut senders, &watched, args.round_seconds)
                .await?;
            row_rounds
                .run("rows", &mut inserters, &watched, args.round_seconds)
                .await?;
        }
    }
    let inserted =
        inserted_in_trials - kept_before + inserters.iter().map(Inserter::inserted).sum::<u64>();
    let rows = row_rounds.finish(row_trials, row_best)?;
    let backscroll = rounds.finish(trials, best)?;

    let rate = backscroll.rate.median / 2.0;
    out::progress(format_args!("sending at {}/s", thousands(rate)));
    let half = open_loop(
        &mut senders,
        rate,
        Duration::from_secs_f64(args.half_rate_seconds),
    )
    .await?;
    senders
        .iter_mut()
        .for_each(|sender| ledger.append(sender.take_ledger()));

    let (repeated, repeated_wrong) = repeat(&mut senders, &ledger).await?;
    out::progress(format_args!(
        "reading {} messages back",
        thousands(ledger.acknowledged.len() as f64)
    ));
    let findings = verify(&world, ledger).await?;
    let stored_rows = tables
        .count(&mut databases.connect_to_server().await?)
        .await?;
    ensure!(
        stored_rows == inserted,
        "{inserted} rows were inserted, but {stored_rows} are there"
    );

    let half_rate = HalfRate {
        offered_rate: rate,
        acknowledged_rate: half.rate(),
        refused: half.refused(),
        latency: Latency::of(&half.latency),
    };
    let ratio = backscroll.rate.median / rows.rate.median;
    let verdicts = verdicts(ratio, &half_rate, &findings, repeated, repeated_wrong);
    Ok(SendReport {
        scenario: "send",
        machine,
        size: args.size,
        shards: args.shards,
        rows,
        backscroll,
        ratio,
        half_rate,
        repeated,
        repeated_wrong,
        findings,
        verdicts,
    })
}

/// The processes whose processor time is told apart.
pub(super) fn watched(databases: &Databases, router: &Router) -> Result<Vec<Watched>> {
    let mut watched = vec![
        generator(),
        router.process().context("the router has ended")?,
    ];
    let (_, port) = databases.server();
    match listener("database", port) {
        Some(process) => watched.push(process),
        None => out::progress(
            "the database server is not on this machine, or may not be seen: its share counts as others'",
        ),
    }
    Ok(watched)
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

/// Runs `operations` with each number of them for a while; the first number is run twice and counts once, to warm up.
async fn try_connections<O: Operation>(
    what: &str,
    operations: &mut Vec<O>,
    numbers: &[usize],
    trial: Duration,
) -> Result<Vec<(usize, f64)>> {
    let mut trials = Vec::with_capacity(numbers.len());
    for number in numbers.first().into_iter().chain(numbers) {
        let mut some: Vec<O> = operations.drain(..*number).collect();
        let measured = closed_loop(&mut some, trial).await?;
        operations.extend(some);
        out::progress(format_args!(
            "{what} over {number} connections: {}/s",
            thousands(measured.rate())
        ));
        trials.push((*number, measured.rate()));
    }
    trials.remove(0);
    Ok(trials)
}

fn best_of(trials: &[(usize, f64)]) -> usize {
    trials
        .iter()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(1, |(connections, _)| *connections)
}

/// The rounds of one side.
#[derive(Default)]
struct Rounds {
    rounds: Vec<Measured>,
    usage: Usage,
}

impl Rounds {
    async fn run<O: Operation>(
        &mut self,
        what: &str,
        operations: &mut Vec<O>,
        watched: &[Watched],
        seconds: f64,
    ) -> Result<()> {
        let meter = Meter::start(watched)?;
        let measured = closed_loop(operations, Duration::from_secs_f64(seconds)).await?;
        self.usage.add(&meter.stop()?);
        out::progress(format_args!(
            "round {}: {} {what}/s",
            self.rounds.len() + 1,
            thousands(measured.rate())
        ));
        self.rounds.push(measured);
        Ok(())
    }

    fn finish(self, trials: Vec<(usize, f64)>, connections: usize) -> Result<Side> {
        let rates: Vec<f64> = self.rounds.iter().map(Measured::rate).collect();
        let (first, others) = self.rounds.split_first().context("no round was run")?;
        let mut total = first.clone();
        for round in others {
            total.add(round)?;
        }
        let per_message = |(name, seconds): &(&'static str, f64)| {
            (*name, seconds * 1e6 / total.done().max(1) as f64)
        };
        Ok(Side {
            trials,
            connections,
            rate: Spread::of(&rates),
            rounds: rates,
            latency: Latency::of(&total.latency),
            refused: total.refused(),
            micros_per_message: self.usage.processes.iter().map(per_message).collect(),
            usage: self.usage,
        })
    }
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
    let check = format!(
        "{} lost, {} duplicated, {} gaps, {} altered, {} out of order, {} unexplained of {} acknowledged",
        findings.lost,
        findings.duplicated,
        findings.gaps,
        findings.altered,
        findings.out_of_order,
        findings.unexplained,
        thousands(findings.acknowledged as f64)
    );
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
        Verdict::new(
            "everything acknowledged is there, once, in order",
            check,
            findings.faults() == 0 && findings.read > 0,
        ),
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
        let mut table = Table::new(
            [
                "",
                "connections",
                "per second",
                "lowest",
                "highest",
                "refused",
            ]
            .into_iter()
            .chain(Latency::COLUMNS),
        );
        for (name, side) in sides {
            let rate = [side.rate.median, side.rate.min, side.rate.max].map(thousands);
            let [median, min, max] = rate;
            let mut cells = vec![
                side.connections.to_string(),
                median,
                min,
                max,
                side.refused.to_string(),
            ];
            cells.extend(side.latency.cells());
            table.row(name, cells);
        }
        let mut cells = vec![
            self.backscroll.connections.to_string(),
            thousands(self.half_rate.acknowledged_rate),
        ];
        cells.extend([
            String::new(),
            String::new(),
            self.half_rate.refused.to_string(),
        ]);
        cells.extend(self.half_rate.latency.cells());
        table.row("backscroll, half rate", cells);
        out::line(&table);

        let names = self.rows.usage.processes.iter().map(|(name, _)| *name);
        let mut table = Table::new(["processor µs a message"].into_iter().chain(names));
        for (name, side) in sides {
            table.row(
                name,
                side.micros_per_message
                    .iter()
                    .map(|(_, micros)| format!("{micros:.1}")),
            );
        }
        out::line(&table);
        for (name, side) in sides {
            let tried: Vec<String> = side
                .trials
                .iter()
                .map(|(n, rate)| format!("{n}: {}/s", thousands(*rate)))
                .collect();
            out::line(format_args!(
                "connections tried, {name}: {}",
                tried.join(", ")
            ));
        }
    }
}
