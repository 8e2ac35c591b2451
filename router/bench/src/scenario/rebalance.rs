//! `rebalance`: a shard is added, ranges are moved to it and back and forth, and a shard is drained, while everybody sends, reads
//! and follows: what is refused, lost or noticed, how long ranges are frozen, and how fast a copy is.

mod copying;
mod operator;
mod readers;
mod traffic;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::sleep;

use self::copying::Copying;
use self::operator::{Moved, Operator};
use self::traffic::{Followers, Noticed, Summary, Traffic};
use crate::harness::databases::{Databases, require_durable, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::{Router, Setup};
use crate::harness::usage::{Meter, Usage, Watched};
use crate::ledger::Findings;
use crate::out;
use crate::population::Size;
use crate::realtime::sides::BackscrollArgs;
use crate::report::{Latency, Table, Verdict, milliseconds, thousands};
use crate::scenario::{Common, Report, check_number, numbered, publish, watched};
use crate::sender::World;
use crate::verify::verify;

/// How long the slowest of a hundred freezes may take, in milliseconds.
const GOAL_FREEZE_MS: f64 = 100.0;
/// How many rows a second one job shall copy when nobody writes and it is not throttled.
const GOAL_ROWS: f64 = 60_000.0;
/// How long sources keep their rows: short, so that they are deleted during the run, and long enough to begin a move back.
const KEEP: (&str, &str) = ("BACKSCROLL_REBALANCE__KEEP", "10s");
/// Wrong pages that are shown.
const SHOWN: usize = 5;

/// A shard is added, ranges move to it and back and forth, and a shard is drained, while everybody sends, reads and follows
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    backscroll: BackscrollArgs,
    /// How many messages there are before the moves; the last of the shards joins after that
    #[arg(long, default_value_t = 100_000)]
    messages: usize,
    /// How many messages are sent a second
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// How many pages are read a second
    #[arg(long, default_value_t = 200.0)]
    pages: f64,
    /// How many connections send, on two routers
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How many users follow all their conversations on a socket
    #[arg(long, default_value_t = 100)]
    followers: usize,
    /// How often a range is moved back and forth
    #[arg(long, default_value_t = 50)]
    moves: usize,
    /// For how long it is measured without a move, in seconds
    #[arg(long, default_value_t = 20)]
    quiet_seconds: u64,
}

/// The freezes of all moves.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Freezes {
    /// From the freeze that was committed to the moment in which the target served the range, as the history of moves says.
    latency: Latency,
    /// Freezes that were ended before, after which the move went on.
    ended: u64,
    /// Rows that were copied by all moves.
    rows: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RebalanceReport {
    scenario: &'static str,
    machine: Machine,
    size: Size,
    shards: usize,
    messages: usize,
    rate: f64,
    copying: Copying,
    moves: [usize; 3],
    freezes: Freezes,
    without: Summary,
    with: Summary,
    wrong_pages: Vec<String>,
    noticed: Noticed,
    is_cleaned: bool,
    findings: Findings,
    usage: Usage,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    args.check()?;
    let mut names = vec!["directory".to_owned()];
    names.extend(numbered("shard", args.backscroll.shards));
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let mut setup = args.backscroll.setup(common, databases)?;
        setup.settings.push((KEEP.0.into(), KEEP.1.into()));
        let routers = start(setup).await?;
        let report = measure(databases, &routers, args).await?;
        for router in routers {
            router.stop().await?;
        }
        Ok(report)
    })
    .await?;
    publish(&report, common.json)
}

impl Args {
    fn check(&self) -> Result<()> {
        self.size.check()?;
        self.backscroll.check()?;
        check_number("--shards", self.backscroll.shards, 3, 64)?;
        check_number("--messages", self.messages, 1000, 100_000_000)?;
        check_number("--connections", self.connections, 2, 10_000)?;
        check_number("--followers", self.followers, 1, self.size.users)?;
        check_number("--moves", self.moves, 1, 10_000)?;
        check_number("--quiet-seconds", self.quiet_seconds as usize, 1, 600)?;
        for (name, rate) in [("--rate", self.rate), ("--pages", self.pages)] {
            ensure!((1.0..=1e5).contains(&rate), "{name}: from 1 to 100000");
        }
        Ok(())
    }
}

/// Makes a deployment of all shards but the last, and starts two routers that have that one in their configuration, too.
async fn start(setup: Setup) -> Result<Vec<Router>> {
    let mut smaller = setup.clone();
    smaller.shard_urls.pop();
    Router::start(&smaller).await?.stop().await?;
    let first = Router::start(&setup).await?;
    let second = first.start_beside().await?;
    Ok(vec![first, second])
}

async fn measure(
    databases: &Databases,
    routers: &[Router],
    args: &Args,
) -> Result<RebalanceReport> {
    let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
    require_durable(machine.durable)?;
    let [first, second] = routers else {
        anyhow::bail!("two routers");
    };
    let operator = Operator(first);
    out::progress(format_args!(
        "creating {} conversations and {} messages",
        args.size.conversations,
        thousands(args.messages as f64)
    ));
    let world = World::create(first, args.size, rand::random()).await?;
    let rates = (args.rate, args.pages);
    let mut traffic = Traffic::open(&world, routers, args.connections, rates).await?;
    traffic.fill(args.messages).await?;
    let mut watched: Vec<Watched> = watched(databases, first)?;
    watched.extend(second.process());
    let copying = Copying::measure(databases, first, &watched).await?;
    out::progress(format_args!(
        "{} rows/s were copied while nobody wrote",
        thousands(copying.rate)
    ));

    let followers = Followers::open(&world, routers, args.followers).await?;
    watched.extend(followers.processes());
    let meter = Meter::start(&watched)?;
    let quiet = Duration::from_secs(args.quiet_seconds);
    let rest = async {
        sleep(quiet).await;
        Ok(())
    };
    let ((), without) = traffic.beside(rest).await?;
    let story = operator.rebalance(args.backscroll.shards, args.moves);
    let (moved, with) = traffic.beside(story).await?;
    let usage = meter.stop()?;
    let (ledger, wrong_pages) = traffic.end();
    let noticed = followers.close(&ledger).await?;
    let freezes = freezes(&operator, &moved).await?;
    out::progress("waiting until the rows are deleted that were moved");
    let is_cleaned = operator.wait_for_cleaning().await?;
    out::progress(format_args!(
        "reading {} messages back",
        thousands(ledger.acknowledged.len() as f64)
    ));
    let findings = verify(&world, ledger).await?;
    let mut report = RebalanceReport {
        scenario: "rebalance",
        machine,
        size: args.size,
        shards: args.backscroll.shards,
        messages: args.messages,
        rate: args.rate,
        copying,
        moves: [&moved.added, &moved.repeated, &moved.drained].map(Vec::len),
        freezes,
        without: without.summary(),
        with: with.summary(),
        wrong_pages,
        noticed,
        is_cleaned,
        findings,
        usage,
        verdicts: Vec::new(),
    };
    report.verdicts = verdicts(&report);
    Ok(report)
}

async fn freezes(operator: &Operator<'_>, moved: &Moved) -> Result<Freezes> {
    let mut micros = Histogram::<u64>::new(3)?;
    let (mut ended, mut rows) = (0, 0);
    for id in moved.all() {
        let times = operator.times(id).await?;
        micros.record(u64::try_from(times.frozen.as_micros()).context("a freeze")?)?;
        ended += times.ended;
        rows += times.rows;
    }
    Ok(Freezes {
        latency: Latency::of(&micros),
        ended,
        rows,
    })
}

fn verdicts(report: &RebalanceReport) -> Vec<Verdict> {
    let RebalanceReport {
        without,
        with,
        noticed,
        freezes,
        copying,
        ..
    } = report;
    let refused = without.refused + with.refused;
    let wrong = report.wrong_pages.len();
    let lost: u64 = noticed.lost.values().sum();
    vec![
        Verdict::new(
            "no request fails, and no page is wrong",
            format!(
                "{refused} refused and {wrong} wrong of {} sends and {} pages",
                thousands((without.sends.count + with.sends.count) as f64),
                thousands((without.pages.count + with.pages.count) as f64)
            ),
            refused == 0 && wrong == 0 && with.pages.count > 0,
        ),
        report.findings.verdict(),
        Verdict::new(
            "followers hear everything, once, and lose no connection",
            format!(
                "{} missed, {} again, {lost} connections lost, {} loaded of {} deliveries",
                noticed.missed,
                noticed.heard_again,
                noticed.loaded,
                thousands(noticed.heard as f64)
            ),
            noticed.missed + noticed.heard_again + lost == 0
                && noticed.loaded == 0
                && noticed.heard > 0,
        ),
        Verdict::new(
            format!("p99 of the freezes below {GOAL_FREEZE_MS} ms"),
            format!(
                "p50 {} ms, p99 {} ms, the longest {} ms of {}",
                milliseconds(freezes.latency.p50),
                milliseconds(freezes.latency.p99),
                milliseconds(freezes.latency.max),
                freezes.latency.count
            ),
            freezes.latency.p99 < GOAL_FREEZE_MS,
        ),
        Verdict::new(
            format!(
                "one job copies {} rows a second when nobody writes",
                thousands(GOAL_ROWS)
            ),
            format!("{} rows/s", thousands(copying.rate)),
            copying.rate >= GOAL_ROWS,
        ),
        Verdict::new(
            "all moves come to their end, and the drained shard has nothing",
            format!(
                "{} moves{}",
                report.moves.iter().sum::<usize>(),
                if report.is_cleaned {
                    ""
                } else {
                    ", some of which have not ended"
                }
            ),
            report.is_cleaned,
        ),
    ]
}

impl Report for RebalanceReport {
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
        let [added, repeated, drained] = self.moves;
        out::line(format_args!(
            "load:    {} messages, {} conversations of {}, {} shards, 2 routers, {} sockets on {} conversations; {} sends/s",
            thousands(self.messages as f64),
            self.size.conversations,
            self.size.members,
            self.shards,
            self.noticed.sockets,
            self.noticed.followed,
            thousands(self.rate)
        ));
        out::line(format_args!(
            "moves:   {added} to the shard that was added, {repeated} back and forth, {drained} from the one that was drained; {} rows\n",
            thousands(self.freezes.rows as f64)
        ));
        let mut table = Table::with_latencies(["", "count"]);
        for (name, latency) in [
            ("sends without moves", &self.without.sends),
            ("sends beside moves", &self.with.sends),
            ("pages without moves", &self.without.pages),
            ("pages beside moves", &self.with.pages),
            ("freezes", &self.freezes.latency),
        ] {
            let mut cells = vec![thousands(latency.count as f64)];
            cells.extend(latency.cells());
            table.row(name, cells);
        }
        out::line(&table);
        out::line(format_args!(
            "{} freezes were ended before they were committed; the moves took {:.0} s",
            self.freezes.ended, self.with.seconds
        ));
        self.copying.print();
        for (name, seconds) in &self.usage.processes {
            out::line(format_args!(
                "during the traffic a {name} had {:.0} % of a core",
                seconds / self.usage.elapsed * 100.0
            ));
        }
        for wrong in self.wrong_pages.iter().take(SHOWN) {
            out::line(format_args!("wrong page: {wrong}"));
        }
        for (why, count) in &self.noticed.lost {
            out::line(format_args!("connections lost {count} times: {why}"));
        }
    }
}
