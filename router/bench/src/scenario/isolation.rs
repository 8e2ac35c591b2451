//! `isolation`: one shard stops answering (it hangs, then it is cut off); how much of their speed do the others keep?
//!
//! The shard that fails is reached through a proxy, which is told what to do. The other shards get as much load as they
//! take; the failing one gets a few clients that pause between requests, as clients do that are told to come back later.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use backscroll_testkit::{Mode, Proxy};
use serde::Serialize;
use tokio::time::sleep;

use crate::drafts::Conversations;
use crate::harness::databases::{Databases, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Usage, Watched};
use crate::ledger::{Findings, Ledger};
use crate::load::{Measured, closed_loop};
use crate::out;
use crate::population::Size;
use crate::report::{Latency, Spread, Table, Verdict, milliseconds, thousands};
use crate::scenario::{
    Common, Report, check_connections, check_number, check_seconds, numbered, publish, setup,
    watched,
};
use crate::sender::{Sender, World};
use crate::verify::verify;

/// The share of its rate that the rest shall keep.
const GOAL_RATE: f64 = 0.9;
/// How many times longer the slowest of a hundred answers may take.
const GOAL_P99: f64 = 1.5;
/// Clients of the failing shard, and how long each waits between its requests.
const AFFECTED_CONNECTIONS: usize = 16;
const AFFECTED_PAUSE: Duration = Duration::from_millis(50);
/// How far into a phase the shard fails: requests are under way then.
const FAILS_AFTER: Duration = Duration::from_millis(200);

/// What one dead shard costs the others: their rate and latency before, while it hangs, while it is cut off, and after
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    /// How many shards there are; the last one fails
    #[arg(long, default_value_t = 4)]
    shards: usize,
    /// How many times it fails
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each phase takes, in seconds; longer than the router waits for a statement (5 s), to see what comes then
    #[arg(long, default_value_t = 10.0)]
    phase_seconds: f64,
    /// How many connections send to the other shards
    #[arg(long, default_value_t = 128)]
    connections: usize,
}

/// All phases of one kind.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Phases {
    /// What the failing shard did.
    shard: &'static str,
    /// Messages a second to the other shards.
    rate: Spread,
    /// Of messages to the other shards.
    latency: Latency,
    /// The 99th percentile of each phase, in milliseconds.
    p99: Spread,
    /// Messages to the other shards that were refused.
    refused: u64,
    /// Messages to the failing shard: how many were acknowledged and refused, and how long each took.
    affected_done: u64,
    affected_refused: u64,
    /// Messages to the failing shard that were still waiting when a phase ended.
    affected_waiting: u64,
    affected_latency: Latency,
    affected_refused_latency: Latency,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IsolationReport {
    scenario: &'static str,
    machine: Machine,
    size: Size,
    shards: usize,
    connections: usize,
    phases: Vec<Phases>,
    findings: Findings,
    usage: Usage,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    args.size.check()?;
    check_number("--shards", args.shards, 2, 64)?;
    check_number("--rounds", args.rounds, 1, 1000)?;
    check_seconds(&[args.phase_seconds])?;
    check_connections("--connections", &[args.connections])?;
    let binary = common.binary()?;
    let mut names = vec!["directory".to_owned()];
    names.extend(numbered("shard", args.shards));
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let proxy = Proxy::start(server_address(databases).await?);
        let mut setup = setup(binary, databases, args.shards);
        let failing = format!("shard{}", args.shards);
        setup.shard_urls[args.shards - 1] = databases.url_through(&failing, proxy.address().port());
        let router = Router::start(&setup).await?;
        let report = measure(databases, &router, &proxy, args).await?;
        router.stop().await?;
        Ok(report)
    })
    .await?;
    publish(&report, common.json)
}

async fn server_address(databases: &Databases) -> Result<SocketAddr> {
    let (host, port) = databases.server();
    let mut addresses = tokio::net::lookup_host((host, port)).await?;
    addresses
        .next()
        .with_context(|| format!("{host} has no address"))
}

/// What is measured with.
struct Bench<'a> {
    proxy: &'a Proxy,
    watched: Vec<Watched>,
    others: Vec<Sender>,
    affected: Vec<Sender>,
    duration: Duration,
    usage: Usage,
}

async fn measure(
    databases: &Databases,
    router: &Router,
    proxy: &Proxy,
    args: &Args,
) -> Result<IsolationReport> {
    let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
    out::progress(format_args!(
        "creating {} conversations",
        args.size.conversations
    ));
    let world = World::create(router, args.size, rand::random()).await?;
    let (failing, others) = by_shard(&world, args.shards)?;
    let mut bench = Bench {
        proxy,
        watched: watched(databases, router)?,
        others: Sender::open_many(&world, args.connections, &others).await?,
        affected: Sender::open_many(&world, AFFECTED_CONNECTIONS, &failing).await?,
        duration: Duration::from_secs_f64(args.phase_seconds),
        usage: Usage::default(),
    };
    bench.phase("warm-up", Mode::Pass).await?;
    bench.usage = Usage::default();
    let (mut answers, mut hangs, mut cut) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        answers.push(bench.phase("it answers", Mode::Pass).await?);
        hangs.push(bench.phase("it hangs", Mode::Hang).await?);
        cut.push(bench.phase("it is cut off", Mode::Cut).await?);
    }
    let after = bench.phase("it answers again", Mode::Pass).await?;

    let mut ledger = Ledger::default();
    for sender in bench.others.iter_mut().chain(&mut bench.affected) {
        ledger.append(sender.take_ledger());
    }
    out::progress(format_args!(
        "reading {} messages back",
        thousands(ledger.acknowledged.len() as f64)
    ));
    let findings = verify(&world, ledger).await?;
    let phases = vec![
        Phases::of("answers", &answers)?,
        Phases::of("hangs", &hangs)?,
        Phases::of("is cut off", &cut)?,
        Phases::of("answers again", &[after])?,
    ];
    let verdicts = verdicts(&phases, &findings);
    Ok(IsolationReport {
        scenario: "isolation",
        machine,
        size: args.size,
        shards: args.shards,
        connections: args.connections,
        phases,
        findings,
        usage: bench.usage,
        verdicts,
    })
}

/// The conversations of the last shard, and those of all others.
fn by_shard(world: &World, shards: usize) -> Result<(Conversations, Conversations)> {
    let (mut failing, mut others) = (Vec::new(), Vec::new());
    for (n, conversation) in world.population.conversations.iter().enumerate() {
        let list = if conversation.shard(shards)? == shards - 1 {
            &mut failing
        } else {
            &mut others
        };
        list.push(u32::try_from(n)?);
    }
    let both = !failing.is_empty() && !others.is_empty();
    ensure!(
        both,
        "too few conversations to have some on the failing shard and some on others: raise --conversations"
    );
    Ok((failing.into(), others.into()))
}

impl Bench<'_> {
    /// Both loads at once, while the proxy goes to `mode`; first what the others had, then the affected.
    async fn phase(&mut self, what: &str, mode: Mode) -> Result<(Measured, Measured)> {
        let meter = Meter::start(&self.watched)?;
        let change = async {
            sleep(FAILS_AFTER).await;
            self.proxy.set(mode).await;
            Ok(())
        };
        let (others, affected, ()) = tokio::try_join!(
            closed_loop(&mut self.others, self.duration, Duration::ZERO),
            closed_loop(&mut self.affected, self.duration, AFFECTED_PAUSE),
            change
        )?;
        self.usage.add(&meter.stop()?);
        let (rate, done, refused) = (
            thousands(others.rate()),
            affected.done(),
            affected.refused(),
        );
        out::progress(format_args!(
            "{what}: {rate}/s to the others; {done} acknowledged and {refused} refused by it"
        ));
        Ok((others, affected))
    }
}

impl Phases {
    fn of(shard: &'static str, phases: &[(Measured, Measured)]) -> Result<Self> {
        let ((first, first_affected), rest) = phases.split_first().context("no phase was run")?;
        let (mut others, mut affected) = (first.clone(), first_affected.clone());
        for (more, more_affected) in rest {
            others.add(more)?;
            affected.add(more_affected)?;
        }
        let rates: Vec<f64> = phases.iter().map(|(others, _)| others.rate()).collect();
        let p99s: Vec<f64> = phases
            .iter()
            .map(|(others, _)| Latency::of(&others.latency).p99)
            .collect();
        Ok(Self {
            shard,
            rate: Spread::of(&rates),
            latency: Latency::of(&others.latency),
            p99: Spread::of(&p99s),
            refused: others.refused(),
            affected_done: affected.done(),
            affected_refused: affected.refused(),
            affected_waiting: affected.under_way,
            affected_latency: Latency::of(&affected.latency),
            affected_refused_latency: Latency::of(&affected.refused_latency),
        })
    }
}

fn verdicts(phases: &[Phases], findings: &Findings) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    if let [answers, hangs, cut, after] = phases {
        for failed in [hangs, cut] {
            let rate = failed.rate.median / answers.rate.median;
            let p99 = failed.p99.median / answers.p99.median;
            verdicts.push(Verdict::new(
                format!(
                    "while one shard {}, the others keep {:.0} % of their rate and p99 stays within {GOAL_P99} times",
                    failed.shard,
                    GOAL_RATE * 100.0
                ),
                format!("{:.0} % of the rate, {p99:.2} times p99, {} refused", rate * 100.0, failed.refused),
                rate >= GOAL_RATE && p99 <= GOAL_P99 && failed.refused == 0,
            ));
        }
        verdicts.push(Verdict::new(
            "afterwards the shard takes messages again",
            format!(
                "{} acknowledged, {} refused",
                after.affected_done, after.affected_refused
            ),
            after.affected_done > 0,
        ));
    }
    verdicts.push(findings.verdict());
    verdicts
}

impl Report for IsolationReport {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn others_share(&self) -> f64 {
        self.usage.others_share(self.machine.cores)
    }

    fn print(&self) {
        out::line(format_args!(
            "load:    {} connections to {} healthy shards, {AFFECTED_CONNECTIONS} that pause to the one that fails\n",
            self.connections,
            self.shards - 1
        ));
        let headings = [
            "the other shards, while it",
            "per second",
            "lowest",
            "highest",
            "refused",
        ];
        let mut table = Table::with_latencies(headings);
        for phases in &self.phases {
            let mut cells: Vec<String> = [phases.rate.median, phases.rate.min, phases.rate.max]
                .map(thousands)
                .into();
            cells.push(phases.refused.to_string());
            cells.extend(phases.latency.cells());
            table.row(phases.shard, cells);
        }
        out::line(&table);
        let headings = [
            "the shard itself, while it",
            "acknowledged",
            "p50 ms",
            "max ms",
            "refused",
            "p50 ms",
            "max ms",
            "waiting at the end",
        ];
        let mut table = Table::new(headings);
        for phases in &self.phases {
            let (done, refused) = (phases.affected_latency, phases.affected_refused_latency);
            let mut cells = Vec::new();
            for (count, latency) in [
                (phases.affected_done, done),
                (phases.affected_refused, refused),
            ] {
                cells.push(count.to_string());
                let cell = |ms| {
                    if count == 0 {
                        "-".to_owned()
                    } else {
                        milliseconds(ms)
                    }
                };
                cells.extend([latency.p50, latency.max].map(cell));
            }
            cells.push(phases.affected_waiting.to_string());
            table.row(phases.shard, cells);
        }
        out::line(&table);
    }
}
