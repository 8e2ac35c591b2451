//! `storm`: one of two nodes is killed, or some of several, and all their clients come to the others at once: what that
//! costs the databases, how long it takes, and whether anybody missed anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use futures_util::future::try_join_all;
use serde::Serialize;
use sqlx::{MySqlConnection, Row};
use tokio::time::sleep;

use crate::harness::databases::with_databases;
use crate::harness::limits::allow_connections;
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Usage, Watched};
use crate::out;
use crate::pace::Schedule;
use crate::realtime::crowd::Plan;
use crate::realtime::door::Door;
use crate::realtime::follower::missing;
use crate::realtime::sides::BackscrollArgs;
use crate::realtime::socket::{Target, check_sources};
use crate::realtime::swarm::Swarm;
use crate::report::{Table, Verdict, thousands};
use crate::scenario::{Common, Report, check_number, numbered, publish, watched};

/// How many times as many queries as normally the databases may get.
const GOAL_QUERIES: f64 = 1.5;
/// How often the databases' counters are read.
const LOOK: Duration = Duration::from_millis(250);
/// How many looks make a second.
const LOOKS_IN_A_SECOND: usize = 4;
/// How long clients may take to come back.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long after everybody has connected the state is taken for normal: caches are warm, lists are told.
const NORMAL_AFTER: Duration = Duration::from_secs(15);
/// How long after the last message it is settled what everybody has.
const SETTLES: Duration = Duration::from_secs(5);

/// Nodes are killed and all their clients come to the others at once, each resuming where it was
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    backscroll: BackscrollArgs,
    /// Which door the clients take
    #[arg(long, value_enum, default_value_t = DoorArg::Native)]
    door: DoorArg,
    /// How many clients there are, spread over all nodes
    #[arg(long, default_value_t = 20_000)]
    connections: usize,
    /// How many nodes there are
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// How many of them are killed, all at once
    #[arg(long, default_value_t = 1)]
    killed: usize,
    /// How many conversations each client has open
    #[arg(long, default_value_t = 2)]
    open: usize,
    /// How many members each conversation has
    #[arg(long, default_value_t = 10)]
    members: usize,
    /// How many messages a second are sent all the time
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// For how long the normal state is measured, in seconds
    #[arg(long, default_value_t = 20)]
    normal_seconds: u64,
    /// For how long the state after the storm is measured, in seconds
    #[arg(long, default_value_t = 20)]
    after_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DoorArg {
    Native,
    SocketIo,
}

/// What the database server had counted at some time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    questions: u64,
    selects: u64,
}

/// What the database server was asked in some time.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Queries {
    seconds: f64,
    /// Statements a second.
    questions: f64,
    /// SELECTs a second.
    selects: f64,
    /// The most statements in one second of it.
    peak: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StormReport {
    scenario: &'static str,
    machine: Machine,
    door: Door,
    connections: usize,
    nodes: usize,
    killed: usize,
    conversations: usize,
    rate: f64,
    normal: Queries,
    storm: Queries,
    after: Queries,
    came_back: usize,
    lost_connections: Vec<(String, u64)>,
    recovered: usize,
    resynced_conversations: usize,
    lists_loaded: usize,
    refused_attempts: usize,
    /// Seconds from the kill until half, 99 % and all of them were back.
    back_half: f64,
    back_p99: f64,
    back_all: f64,
    acknowledged: u64,
    failed_sends: Vec<(String, u64)>,
    refusals: Vec<(String, u64)>,
    heard: u64,
    heard_again: u64,
    missed: u64,
    incomplete_logs: usize,
    usage: Usage,
    verdicts: Vec<Verdict>,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    args.backscroll.check()?;
    check_number("--connections", args.connections, 20, 1_000_000)?;
    check_number("--open", args.open, 1, 100)?;
    check_number("--members", args.members, 2, 100)?;
    check_number("--normal-seconds", args.normal_seconds as usize, 2, 600)?;
    check_number("--after-seconds", args.after_seconds as usize, 2, 600)?;
    ensure!((1.0..=1e5).contains(&args.rate), "--rate: from 1 to 100000");
    check_number("--nodes", args.nodes, 2, 16)?;
    check_number("--killed", args.killed, 1, args.nodes - 1)?;
    check_sources(args.connections)?;
    // In the end, those that are left have all connections.
    let left = args.nodes - args.killed;
    let connections = allow_connections(args.connections.div_ceil(left))? * left;
    // A multiple, so that all conversations have the same number of members.
    let unit = args.nodes * args.members;
    let connections = connections.min(args.connections) / unit * unit;
    let mut names = vec!["directory".to_owned()];
    names.extend(numbered("shard", args.backscroll.shards));
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
        let setup = args.backscroll.setup(common, databases)?;
        let mut nodes = vec![Router::start(&setup).await?];
        while nodes.len() < args.nodes {
            nodes.push(nodes[0].start_beside().await?);
        }
        let mut monitor = databases.connect_to_server().await?;
        let mut watching = watched(databases, &nodes[args.killed])?;
        let others = nodes.iter().skip(args.killed + 1);
        watching.extend(others.filter_map(Router::process));
        measure(machine, nodes, &mut monitor, watching, args, connections).await
    })
    .await?;
    publish(&report, common.json)
}

async fn measure(
    machine: Machine,
    mut nodes: Vec<Router>,
    monitor: &mut MySqlConnection,
    mut watching: Vec<Watched>,
    args: &Args,
    connections: usize,
) -> Result<StormReport> {
    let plan = Plan::clubs(connections, args.members, args.open);
    let rooms = plan.rooms.len();
    out::progress(format_args!(
        "{connections} users and {rooms} conversations"
    ));
    let crowd = plan
        .on_backscroll(nodes[0].address, &nodes[0].secret)
        .await?;
    let door = match args.door {
        DoorArg::Native => Door::Native,
        DoorArg::SocketIo => Door::SocketIo,
    };
    let target = Target {
        nodes: nodes.iter().map(|node| node.address).collect(),
        door,
        greets: true,
    };
    let mut swarm = Swarm::open(&target, args.killed, &plan, plan.seats(&crowd)).await?;
    watching.extend(swarm.processes());
    let back = swarm.counter();
    let doomed: Vec<Router> = nodes.drain(..args.killed).collect();

    let schedule = Schedule::new();
    let talk = swarm.talk(&schedule);
    let clock = schedule.clone().run(args.rate, PATIENCE * 10, 1);
    let story = async {
        sleep(NORMAL_AFTER).await;
        out::progress("measuring the normal state");
        let normal = watch(monitor, Duration::from_secs(args.normal_seconds), || false).await?;
        out::progress("killing a node");
        let on_doomed = |number: &usize| target.home(*number) < args.killed;
        let expected = (0..connections).filter(on_doomed).count();
        let meter = Meter::start(&watching)?;
        let killed = SystemTime::now();
        try_join_all(doomed.into_iter().map(Router::kill)).await?;
        let mut storm = vec![*normal.last().context("no sample")?];
        storm.extend(watch(monitor, PATIENCE, || back() >= expected).await?);
        let usage = meter.stop()?;
        let came = back();
        ensure!(
            came >= expected,
            "{came} of {expected} came back in {PATIENCE:?}"
        );
        out::progress("all are back");
        let after = watch(monitor, Duration::from_secs(args.after_seconds), || false).await?;
        anyhow::Ok((normal, storm, after, killed, usage))
    };
    // The clock and the talk run until the story is over.
    let (normal, storm, after, killed, usage) = tokio::select! {
        story = story => story?,
        talked = talk => { talked?; bail!("the talk ended early") }
        clock = clock => { clock?; bail!("the clock ended early") }
    };
    // The clock stops when nobody holds the schedule any more.
    drop(schedule);
    sleep(SETTLES).await;
    let (logs, notes) = swarm.close().await?;
    for node in nodes {
        node.stop().await?;
    }
    let (missed, incomplete_logs) = missing(&logs, &notes.heads);
    let (normal, storm, after) = (
        Queries::of(&normal)?,
        Queries::of(&storm)?,
        Queries::of(&after)?,
    );
    let mut back: Vec<f64> = notes
        .back
        .iter()
        .map(|back| {
            back.duration_since(killed)
                .unwrap_or_default()
                .as_secs_f64()
        })
        .collect();
    back.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = (back.len() as f64 * share) as usize;
        back.get(position.min(back.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    let ratio = storm.questions / normal.questions;
    let peak_ratio = storm.peak / normal.questions;
    let failed: u64 = notes.failed.values().sum();
    let verdicts = vec![
        Verdict::new(
            format!("at most {GOAL_QUERIES} times as many queries as normally until all are back"),
            format!(
                "{ratio:.2} times ({} a second, normally {})",
                thousands(storm.questions),
                thousands(normal.questions)
            ),
            ratio <= GOAL_QUERIES,
        ),
        Verdict::new(
            format!("at most {GOAL_QUERIES} times as many in the busiest second"),
            format!("{peak_ratio:.2} times ({})", thousands(storm.peak)),
            peak_ratio <= GOAL_QUERIES,
        ),
        Verdict::new(
            "nothing is missed by anybody",
            format!(
                "{missed} messages missing in {incomplete_logs} of {} logs, {failed} sends failed, {} acknowledged",
                logs.len(),
                notes.acknowledged
            ),
            missed == 0 && failed == 0 && notes.acknowledged > 0,
        ),
    ];
    Ok(StormReport {
        scenario: "storm",
        machine,
        door,
        connections,
        nodes: args.nodes,
        killed: args.killed,
        conversations: rooms,
        rate: args.rate,
        normal,
        storm,
        after,
        came_back: back.len(),
        lost_connections: notes.lost.into_iter().collect(),
        recovered: notes.recovered,
        resynced_conversations: notes.resynced,
        lists_loaded: notes.lists,
        refused_attempts: notes.refused_attempts,
        back_half: at(0.5),
        back_p99: at(0.99),
        back_all: at(1.0),
        acknowledged: notes.acknowledged,
        failed_sends: notes.failed.into_iter().collect(),
        refusals: notes.refusals.into_iter().collect(),
        heard: notes.heard,
        heard_again: notes.heard_again,
        missed,
        incomplete_logs,
        usage,
        verdicts,
    })
}

/// Reads the database server's counters again and again, for so long or until `done`.
async fn watch(
    monitor: &mut MySqlConnection,
    at_most: Duration,
    done: impl Fn() -> bool,
) -> Result<Vec<Sample>> {
    let mut samples = vec![sample(monitor).await?];
    let begin = Instant::now();
    while begin.elapsed() < at_most && !done() {
        sleep(LOOK).await;
        samples.push(sample(monitor).await?);
    }
    Ok(samples)
}

async fn sample(monitor: &mut MySqlConnection) -> Result<Sample> {
    let rows = sqlx::query("SHOW GLOBAL STATUS WHERE Variable_name IN ('Questions', 'Com_select')")
        .fetch_all(monitor)
        .await?;
    let mut sample = Sample {
        at: Instant::now(),
        questions: 0,
        selects: 0,
    };
    for row in rows {
        let (name, value): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        match name.as_str() {
            "Questions" => sample.questions = value.parse()?,
            _ => sample.selects = value.parse()?,
        }
    }
    Ok(sample)
}

impl Queries {
    /// Between the first and the last of `samples`, which are [`LOOK`] apart; without those that read the counters.
    fn of(samples: &[Sample]) -> Result<Self> {
        let (first, last) = (
            samples.first().context("no sample")?,
            samples.last().context("no sample")?,
        );
        let rate = |from: &Sample, to: &Sample, looks: usize| {
            let seconds = (to.at - from.at).as_secs_f64().max(f64::MIN_POSITIVE);
            ((to.questions - from.questions) as f64 - looks as f64).max(0.0) / seconds
        };
        let seconds = (last.at - first.at).as_secs_f64();
        let windows = samples.windows(LOOKS_IN_A_SECOND + 1);
        let peaks =
            windows.map(|window| rate(&window[0], &window[LOOKS_IN_A_SECOND], LOOKS_IN_A_SECOND));
        let questions = rate(first, last, samples.len() - 1);
        Ok(Self {
            seconds,
            questions,
            selects: (last.selects - first.selects) as f64 / seconds.max(f64::MIN_POSITIVE),
            peak: peaks.fold(questions, f64::max),
        })
    }
}

impl Report for StormReport {
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
            "load:    {} clients on {} nodes, {} of them killed ({:?}), {} conversations, {} messages a second\n",
            thousands(self.connections as f64),
            self.nodes,
            self.killed,
            self.door,
            thousands(self.conversations as f64),
            self.rate
        ));
        let headings = [
            "the databases",
            "seconds",
            "queries/s",
            "× normal",
            "peak second",
            "SELECTs/s",
        ];
        let mut table = Table::new(headings);
        for (name, queries) in [
            ("normally", self.normal),
            ("until all were back", self.storm),
            ("afterwards", self.after),
        ] {
            table.row(
                name,
                [
                    format!("{:.1}", queries.seconds),
                    thousands(queries.questions),
                    format!("{:.2}", queries.questions / self.normal.questions),
                    thousands(queries.peak),
                    thousands(queries.selects),
                ],
            );
        }
        out::line(&table);
        out::line(format_args!(
            "{} clients came back: half of them after {:.2} s, 99 % after {:.2} s, all after {:.2} s",
            self.came_back, self.back_half, self.back_p99, self.back_all
        ));
        out::line(format_args!(
            "{} recovered; {} conversations and {} lists had to be loaded; {} attempts failed",
            self.recovered, self.resynced_conversations, self.lists_loaded, self.refused_attempts
        ));
        out::line(format_args!(
            "{} messages acknowledged, {} deliveries, {} of them again, {} missed",
            self.acknowledged, self.heard, self.heard_again, self.missed
        ));
        let mut shares = BTreeMap::new();
        for (name, seconds) in &self.usage.processes {
            *shares.entry(name).or_insert(0.0) += seconds / self.usage.elapsed;
        }
        for (name, share) in shares {
            out::line(format_args!(
                "until all were back, the {name} used {:.0} % of a core",
                share * 100.0
            ));
        }
        for (why, count) in &self.lost_connections {
            out::line(format_args!("connections lost {count} times: {why}"));
        }
        for (why, count) in &self.failed_sends {
            out::line(format_args!("sends failed {count} times: {why}"));
        }
        for (why, count) in &self.refusals {
            out::line(format_args!("attempts failed {count} times: {why}"));
        }
    }
}
