//! `hostile`: what each kind of request costs at its worst, and what another user notices of 16 of them at once.
//!
//! One connection after the other asks for each kind alone: processor time, bytes of the answer, pages of memory that the
//! router touches for the first time, rows that the database reads. Then 16 connections ask for it as fast as answers come,
//! from a thread of their own, while another user reads, lists, sends and counts. The first row is mere load: a request
//! that costs little. What the other user has beside it is what the others are compared with.

mod requests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use procfs::process::Process;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use crate::harness::databases::{Databases, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Usage, Watched};
use crate::http::Connection;
use crate::load::{Measured, Operation, Outcome, closed_loop};
use crate::out;
use crate::report::{Latency, Table, Verdict, milliseconds, thousands};
use crate::scenario::{
    Common, Report, check_number, check_seconds, numbered, publish, setup, watched,
};
use requests::{Kind, Scene};

/// Most processor milliseconds of the router for a request.
const GOAL_MS: f64 = 15.0;
/// Most bytes of an answer, with its JSON around the messages.
const GOAL_BYTES: f64 = 1.05 * 1024.0 * 1024.0;
/// How many times the other user's latencies beside mere load they may be.
const GOAL_P50: f64 = 2.0;
const GOAL_P99: f64 = 3.0;
/// How long the other user rests between two requests.
const OTHER_PAUSE: Duration = Duration::from_millis(8);

/// The worst of each kind of request, and what another user notices of it
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many shards there are
    #[arg(long, default_value_t = 4)]
    shards: usize,
    /// How many connections ask at once
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How long each kind is asked for alone, and then at once, in seconds
    #[arg(long, default_value_t = 3.0)]
    phase_seconds: f64,
    /// Only kinds whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// What one kind of request came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    kind: &'static str,
    /// Processor milliseconds of the router and of the database, for one request alone.
    router_ms: f64,
    database_ms: f64,
    /// Bytes of an answer.
    bytes: f64,
    /// Pages of memory of 4 KiB.
    pages: f64,
    /// Rows that the database read, wrote, changed or deleted.
    rows: f64,
    /// Requests a second, many at once.
    rate: f64,
    /// What the other user had meanwhile.
    other: Latency,
    other_refused: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HostileReport {
    scenario: &'static str,
    machine: Machine,
    connections: usize,
    /// What the other user has with nobody else there.
    alone: Latency,
    /// The first is mere load.
    costs: Vec<Cost>,
    usage: Usage,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    check_number("--shards", args.shards, 1, 64)?;
    check_number("--connections", args.connections, 1, 1000)?;
    check_seconds(&[args.phase_seconds])?;
    let binary = common.binary()?;
    let mut names = vec!["directory".to_owned()];
    names.extend(numbered("shard", args.shards));
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let router = Router::start(&setup(binary, databases, args.shards)).await?;
        let report = measure(databases, &router, args).await?;
        router.stop().await?;
        Ok(report)
    })
    .await?;
    publish(&report, common.json)
}

/// What is measured with.
struct Bench {
    address: SocketAddr,
    router: Watched,
    watched: Vec<Watched>,
    database: MySqlConnection,
    others: Vec<Asker>,
    duration: Duration,
    connections: usize,
}

async fn measure(databases: &Databases, router: &Router, args: &Args) -> Result<HostileReport> {
    let mut database = databases.connect_to_server().await?;
    let machine = Machine::describe(&mut database).await?;
    out::progress("making what is asked for");
    let scene = Scene::make(router).await?;
    let other = Asker::open(router.address, scene.other_user(), 0).await?;
    let mut bench = Bench {
        address: router.address,
        router: router.process().context("the router has ended")?,
        watched: watched(databases, router)?,
        database,
        others: vec![other],
        duration: Duration::from_secs_f64(args.phase_seconds),
        connections: args.connections,
    };
    bench.other_alone().await?; // warms up
    let meter = Meter::start(&bench.watched)?;
    let alone = Latency::of(&bench.other_alone().await?.latency);
    let kinds = scene.kinds();
    let (control, rest) = kinds.split_first().context("there is no kind")?;
    let mut costs = vec![bench.cost(control).await?];
    for kind in rest.iter().filter(|kind| kind.name.contains(&args.only)) {
        costs.push(bench.cost(kind).await?);
    }
    let usage = meter.stop()?;
    Ok(HostileReport {
        scenario: "hostile",
        machine,
        connections: args.connections,
        alone,
        verdicts: verdicts(&costs),
        costs,
        usage,
    })
}

impl Bench {
    async fn other_alone(&mut self) -> Result<Measured> {
        closed_loop(&mut self.others, self.duration, OTHER_PAUSE).await
    }

    async fn cost(&mut self, kind: &Kind) -> Result<Cost> {
        let mut asker = Asker::open(self.address, Arc::clone(&kind.requests), 0).await?;
        asker.perform().await?; // what only the first costs
        let (meter, begin) = (Meter::start(&self.watched)?, Instant::now());
        let (pages, rows) = (self.pages()?, self.rows().await?);
        let (mut count, before) = (0_u64, asker.bytes);
        while begin.elapsed() < self.duration {
            asker.perform().await?;
            count += 1;
        }
        let usage = meter.stop()?;
        let each = |n: u64| n as f64 / count as f64;
        let (pages, rows) = (self.pages()? - pages, self.rows().await? - rows);
        let bytes = each(asker.bytes - before);
        let milliseconds_of = |name| {
            let micros = usage.micros_each(count);
            let of = micros.iter().find(|(process, _)| *process == name);
            of.map_or(0.0, |(_, micros)| micros / 1e3)
        };
        let (attack, other) = self.together(kind).await?;
        let cost = Cost {
            kind: kind.name,
            router_ms: milliseconds_of(self.router.name),
            database_ms: milliseconds_of("database"),
            bytes,
            pages: each(pages),
            rows: each(rows),
            rate: attack.rate(),
            other: Latency::of(&other.latency),
            other_refused: other.refused(),
        };
        out::progress(format_args!(
            "{}: {} ms of the router's processor; others' p99 {} ms",
            cost.kind,
            milliseconds(cost.router_ms),
            milliseconds(cost.other.p99)
        ));
        Ok(cost)
    }

    /// The kind from many connections, and the other user beside them.
    async fn together(&mut self, kind: &Kind) -> Result<(Measured, Measured)> {
        let (address, duration, connections) = (self.address, self.duration, self.connections);
        let requests = Arc::clone(&kind.requests);
        // On a thread of its own: what the other user waits for is the router, not this program.
        let attack = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut askers = Vec::with_capacity(connections);
                for n in 0..connections {
                    let from = n * requests.len() / connections;
                    askers.push(Asker::open(address, Arc::clone(&requests), from).await?);
                }
                closed_loop(&mut askers, duration, Duration::ZERO).await
            })
        });
        let other = closed_loop(&mut self.others, duration, OTHER_PAUSE).await?;
        Ok((attack.await??, other))
    }

    /// Pages of memory that the router has touched for the first time since it started.
    fn pages(&self) -> Result<u64> {
        Ok(Process::new(self.router.pid)?.stat()?.minflt)
    }

    /// Rows that the database server has worked on since it started.
    async fn rows(&mut self) -> Result<u64> {
        let rows = sqlx::query("SHOW GLOBAL STATUS LIKE 'Innodb_rows_%'")
            .fetch_all(&mut self.database)
            .await?;
        let mut sum = 0;
        for row in rows {
            sum += row.try_get::<String, _>(1)?.parse::<u64>()?;
        }
        Ok(sum)
    }
}

/// Asks for the requests of a kind in turn.
struct Asker {
    connection: Connection,
    requests: Arc<[Vec<u8>]>,
    next: usize,
    /// Of all answers' bodies.
    bytes: u64,
}

impl Asker {
    async fn open(address: SocketAddr, requests: Arc<[Vec<u8>]>, next: usize) -> Result<Self> {
        ensure!(!requests.is_empty(), "a kind has no request");
        Ok(Self {
            connection: Connection::open(address).await?,
            requests,
            next,
            bytes: 0,
        })
    }
}

impl Operation for Asker {
    async fn perform(&mut self) -> Result<Outcome> {
        let request = &self.requests[self.next % self.requests.len()];
        self.next += 1;
        let (status, bytes) = self.connection.weigh(request).await?;
        self.bytes += bytes as u64;
        Ok(match status {
            // That a request is not allowed is an answer: some kinds are such.
            200..=428 => Outcome::Done,
            refused => Outcome::Refused(refused),
        })
    }
}

fn verdicts(costs: &[Cost]) -> Vec<Verdict> {
    let Some((control, rest)) = costs.split_first() else {
        return Vec::new();
    };
    let worst = |goal: String, unit: &str, most: f64, value: &dyn Fn(&Cost) -> f64| {
        let worst = rest
            .iter()
            .max_by(|a, b| value(a).total_cmp(&value(b)))
            .unwrap_or(control);
        let over = rest.iter().filter(|cost| value(cost) > most).count();
        Verdict::new(
            goal,
            format!("{:.1} {unit} ({}); {over} above", value(worst), worst.kind),
            over == 0,
        )
    };
    vec![
        worst(
            format!("no request takes the router more than {GOAL_MS} ms of processor"),
            "ms",
            GOAL_MS,
            &|cost| cost.router_ms,
        ),
        worst(
            "no answer has more than 1 MiB of messages".to_owned(),
            "bytes",
            GOAL_BYTES,
            &|cost| cost.bytes,
        ),
        worst(
            format!("another user's p50 is at most {GOAL_P50} times that beside mere load"),
            "times",
            GOAL_P50,
            &|cost| cost.other.p50 / control.other.p50,
        ),
        worst(
            format!("another user's p99 is at most {GOAL_P99} times that beside mere load"),
            "times",
            GOAL_P99,
            &|cost| cost.other.p99 / control.other.p99,
        ),
        worst(
            "the other user is not refused".to_owned(),
            "refused",
            0.0,
            &|cost| cost.other_refused as f64,
        ),
    ]
}

impl Report for HostileReport {
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
            "load:    each kind alone, then {} at once beside another user, whose p50 is {} and p99 {} ms alone\n",
            self.connections,
            milliseconds(self.alone.p50),
            milliseconds(self.alone.p99)
        ));
        let headings = [
            "one request",
            "router ms",
            "database ms",
            "bytes",
            "pages",
            "rows",
            "at once/s",
            "refused",
        ];
        let mut table = Table::with_latencies(headings);
        for cost in &self.costs {
            let mut cells = vec![
                milliseconds(cost.router_ms),
                milliseconds(cost.database_ms),
                thousands(cost.bytes),
                format!("{:.1}", cost.pages),
                format!("{:.1}", cost.rows),
                thousands(cost.rate),
                cost.other_refused.to_string(),
            ];
            cells.extend(cost.other.cells());
            table.row(cost.kind, cells);
        }
        out::line(&table);
        out::line("refused and latencies: the other user's, beside that kind at once");
    }
}
