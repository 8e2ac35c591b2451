//! `history`: a page over HTTP against the bare statement that reads its rows, at the newest end of a long conversation
//! and deep inside it, on the same server in one run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::harness::databases::{Databases, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Usage, Watched};
use crate::imports::{Generated, History, OWNER};
use crate::load::{Operation, Outcome};
use crate::out;
use crate::pages::{Depth, HttpReader, Log, SqlReader};
use crate::population::{Conversation, User};
use crate::report::{Latency, Reading, Spread, Verdict, milliseconds, thousands};
use crate::rounds::{Rounds, Side, rate_table, usage_table};
use crate::scenario::{
    Common, Report, check_number, check_seconds, numbered, publish, setup, watched,
};

/// A page may take this many times the bare statement's time …
const GOAL_FACTOR: f64 = 2.0;
/// … and this many milliseconds more.
const GOAL_MORE_MS: f64 = 0.3;
/// How many times the first page's time a deep one may take and still count as the same.
const GOAL_SAME: f64 = 1.2;

/// A page of history over HTTP against the bare SELECT of its rows: the newest, and deep ones
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many messages the conversation has
    #[arg(long, default_value_t = 300_000)]
    messages: u64,
    /// Import this history instead, JSON Lines, plain or compressed with zstd, and read its longest conversation
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// How many messages a page has
    #[arg(long, default_value_t = 50)]
    limit: u64,
    /// How many shards there are
    #[arg(long, default_value_t = 4)]
    shards: usize,
    /// How many rounds there are
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a round takes, in seconds
    #[arg(long, default_value_t = 4.0)]
    round_seconds: f64,
    /// How many connections read at once in the second part
    #[arg(long, default_value_t = 16)]
    connections: usize,
}

/// The four kinds of reads.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kinds<T> {
    sql_first: T,
    http_first: T,
    sql_deep: T,
    http_deep: T,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryReport {
    scenario: &'static str,
    machine: Machine,
    messages: u64,
    limit: u64,
    imported_per_second: f64,
    alone: Kinds<Reading>,
    sql_together: Side,
    http_together: Side,
    usage: Usage,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    check_number("--limit", args.limit as usize, 1, 200)?;
    check_number("--messages", args.messages as usize, 1000, 100_000_000)?;
    check_number("--shards", args.shards, 1, 64)?;
    check_number("--rounds", args.rounds, 1, 1000)?;
    check_number("--connections", args.connections, 1, 10_000)?;
    check_seconds(&[args.round_seconds])?;
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

async fn measure(databases: &Databases, router: &Router, args: &Args) -> Result<HistoryReport> {
    let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
    let watched = watched(databases, router)?;
    let history = History::of(args.corpus.as_deref(), Generated::long_ago(args.messages))?;
    let imported = history.import(router, OWNER).await?;
    let longest = imported.longest()?;
    let conversation = Conversation {
        id: longest.id.clone(),
        members: Vec::new(),
    };
    let shard = format!("shard{}", conversation.shard(args.shards)? + 1);
    let log = Arc::new(Log {
        address: router.address,
        conversation,
        reader: User::new(OWNER.to_owned(), &router.secret)?,
        head: longest.messages,
        limit: args.limit,
    });

    let meter = Meter::start(&watched)?;
    let alone = alone(databases, &shard, &log, args).await?;
    let mut usage = meter.stop()?;
    let (sql_together, http_together) = together(databases, &shard, &log, args, &watched).await?;
    usage.add(&sql_together.usage);
    usage.add(&http_together.usage);
    let verdicts = verdicts(&alone);
    Ok(HistoryReport {
        scenario: "history",
        machine,
        messages: longest.messages,
        limit: args.limit,
        imported_per_second: imported.per_second,
        alone,
        sql_together,
        http_together,
        usage,
        verdicts,
    })
}

/// Reads one page at a time, each kind in turn.
async fn alone(
    databases: &Databases,
    shard: &str,
    log: &Arc<Log>,
    args: &Args,
) -> Result<Kinds<Reading>> {
    let mut sql_first = SqlReader::new(log, Depth::First, databases.connect(shard).await?)?;
    let mut sql_deep = SqlReader::new(log, Depth::Deep, databases.connect(shard).await?)?;
    let mut http_first = HttpReader::open(log, Depth::First).await?;
    let mut http_deep = HttpReader::open(log, Depth::Deep).await?;
    let mut rounds: Vec<Kinds<Histogram<u64>>> = Vec::with_capacity(args.rounds);
    // The first round warms up and does not count.
    for round in 0..=args.rounds {
        let mut times = Kinds {
            sql_first: nanoseconds()?,
            http_first: nanoseconds()?,
            sql_deep: nanoseconds()?,
            http_deep: nanoseconds()?,
        };
        let end = Instant::now() + Duration::from_secs_f64(args.round_seconds);
        while Instant::now() < end {
            time(&mut sql_first, &mut times.sql_first).await?;
            time(&mut http_first, &mut times.http_first).await?;
            http_first.check()?;
            time(&mut sql_deep, &mut times.sql_deep).await?;
            time(&mut http_deep, &mut times.http_deep).await?;
            http_deep.check()?;
        }
        if round > 0 {
            let (sql, http) = (
                times.sql_first.value_at_quantile(0.5),
                times.http_first.value_at_quantile(0.5),
            );
            out::progress(format_args!(
                "round {round}: p50 {} µs bare, {} µs over HTTP",
                sql / 1000,
                http / 1000
            ));
            rounds.push(times);
        }
    }
    let alone =
        |kind: fn(&Kinds<Histogram<u64>>) -> &Histogram<u64>| summarise(rounds.iter().map(kind));
    Ok(Kinds {
        sql_first: alone(|kinds| &kinds.sql_first)?,
        http_first: alone(|kinds| &kinds.http_first)?,
        sql_deep: alone(|kinds| &kinds.sql_deep)?,
        http_deep: alone(|kinds| &kinds.http_deep)?,
    })
}

fn nanoseconds() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

async fn time(operation: &mut impl Operation, times: &mut Histogram<u64>) -> Result<()> {
    let begin = Instant::now();
    let outcome = operation.perform().await?;
    let elapsed = begin.elapsed();
    anyhow::ensure!(outcome == Outcome::Done, "a page was refused: {outcome:?}");
    times.record(elapsed.as_nanos() as u64)?;
    Ok(())
}

fn summarise<'a>(rounds: impl Iterator<Item = &'a Histogram<u64>>) -> Result<Reading> {
    let mut total = nanoseconds()?;
    let mut medians = Vec::new();
    for round in rounds {
        total.add(round)?;
        medians.push(round.value_at_quantile(0.5) as f64 / 1e6);
    }
    Ok(Reading {
        p50: Spread::of(&medians),
        latency: Latency::of_nanoseconds(&total),
    })
}

/// Reads deep pages over many connections, as fast as they come, both ways in turns.
async fn together(
    databases: &Databases,
    shard: &str,
    log: &Arc<Log>,
    args: &Args,
    watched: &[Watched],
) -> Result<(Side, Side)> {
    let (mut sql, mut http) = (Vec::new(), Vec::new());
    for _ in 0..args.connections {
        sql.push(SqlReader::new(
            log,
            Depth::Deep,
            databases.connect(shard).await?,
        )?);
        http.push(HttpReader::open(log, Depth::Deep).await?);
    }
    let (mut sql_rounds, mut http_rounds) = (Rounds::default(), Rounds::default());
    let duration = Duration::from_secs_f64(args.round_seconds);
    for round in 0..args.rounds {
        if round.is_multiple_of(2) {
            sql_rounds
                .run("bare pages", &mut sql, watched, duration)
                .await?;
            http_rounds
                .run("pages", &mut http, watched, duration)
                .await?;
        } else {
            http_rounds
                .run("pages", &mut http, watched, duration)
                .await?;
            sql_rounds
                .run("bare pages", &mut sql, watched, duration)
                .await?;
        }
    }
    http.iter().try_for_each(HttpReader::check)?;
    let finish = |rounds: Rounds| rounds.finish(Vec::new(), args.connections);
    Ok((finish(sql_rounds)?, finish(http_rounds)?))
}

fn verdicts(alone: &Kinds<Reading>) -> Vec<Verdict> {
    let against_sql = |name: &str, http: &Reading, sql: &Reading| {
        let allowed = GOAL_FACTOR * sql.p50.median + GOAL_MORE_MS;
        Verdict::new(
            format!(
                "{name}: p50 at most {GOAL_FACTOR:.0} times the bare SELECT's and {GOAL_MORE_MS} ms"
            ),
            format!(
                "{} ms, {} ms allowed ({} bare)",
                milliseconds(http.p50.median),
                milliseconds(allowed),
                milliseconds(sql.p50.median)
            ),
            http.p50.median <= allowed,
        )
    };
    let depth = alone.http_deep.p50.median / alone.http_first.p50.median;
    vec![
        against_sql("the first page", &alone.http_first, &alone.sql_first),
        against_sql("a deep page", &alone.http_deep, &alone.sql_deep),
        Verdict::new(
            format!("a deep page costs the same as the first: p50 at most {GOAL_SAME} times"),
            format!("{depth:.2} times"),
            depth <= GOAL_SAME,
        ),
    ]
}

impl Report for HistoryReport {
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
            "load:    a conversation of {} messages, imported at {}/s; pages of {}\n",
            thousands(self.messages as f64),
            thousands(self.imported_per_second),
            self.limit
        ));
        let kinds = [
            ("bare SELECT, first page", &self.alone.sql_first),
            ("over HTTP, first page", &self.alone.http_first),
            ("bare SELECT, deep page", &self.alone.sql_deep),
            ("over HTTP, deep page", &self.alone.http_deep),
        ];
        out::line(Reading::table(kinds));
        let sides = [
            ("bare SELECT, deep page", &self.sql_together),
            ("over HTTP, deep page", &self.http_together),
        ];
        out::line(rate_table(&sides));
        out::line(usage_table(&sides));
    }
}
