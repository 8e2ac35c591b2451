//! `storm`: one of two nodes is killed, and all its clients come to the other at once: what that costs the databases,
//! how long it takes, and whether anybody missed anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use sqlx::{MySqlConnection, Row};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::databases::with_databases;
use crate::harness::limits::allow_connections;
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Usage, Watched};
use crate::out;
use crate::pace::Schedule;
use crate::realtime::client::Seat;
use crate::realtime::crowd::Plan;
use crate::realtime::door::Door;
use crate::realtime::follower::{Follower, Log, Notes, World};
use crate::realtime::sides::BackscrollArgs;
use crate::realtime::socket::Target;
use crate::report::{Table, Verdict, thousands};
use crate::scenario::{Common, Report, check_number, numbered, publish, watched};

/// How many times as many queries as normally the databases may get.
const GOAL_QUERIES: f64 = 1.5;
/// How often the databases' counters are read.
const LOOK: Duration = Duration::from_millis(250);
/// How many looks make a second.
const LOOKS_IN_A_SECOND: usize = 4;
/// Which of the nodes is killed.
const DOOMED: usize = 0;
/// How long clients may take to come back.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long after everybody has connected the state is taken for normal: caches are warm, lists are told.
const NORMAL_AFTER: Duration = Duration::from_secs(15);
/// How long after the last message it is settled what everybody has.
const SETTLES: Duration = Duration::from_secs(5);
/// How many clients connect at the same time in the beginning.
const CONNECTING: usize = 64;
/// Orders that wait for a client.
const ORDERS: usize = 256;

/// One of two nodes is killed and all its clients come to the other at once, each resuming where it was
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    backscroll: BackscrollArgs,
    /// Which door the clients take
    #[arg(long, value_enum, default_value_t = DoorArg::Native)]
    door: DoorArg,
    /// How many clients there are, spread over both nodes
    #[arg(long, default_value_t = 20_000)]
    connections: usize,
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
    // A client that comes back keeps the file of the connection that broke until it has another: half of them do.
    let connections = allow_connections(args.connections * 3 / 2)? * 2 / 3;
    // A multiple, so that all conversations have the same number of members.
    let connections = connections / (2 * args.members) * 2 * args.members;
    let mut names = vec!["directory".to_owned()];
    names.extend(numbered("shard", args.backscroll.shards));
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
        let setup = args.backscroll.setup(common, databases)?;
        let doomed = Router::start(&setup).await?;
        let refuge = doomed.start_beside().await?;
        let mut monitor = databases.connect_to_server().await?;
        let nodes = Nodes { doomed, refuge };
        let watched = watched(databases, &nodes.refuge)?;
        measure(machine, nodes, &mut monitor, &watched, args, connections).await
    })
    .await?;
    publish(&report, common.json)
}

/// The node that will be killed, and the one that stays.
struct Nodes {
    doomed: Router,
    refuge: Router,
}

async fn measure(
    machine: Machine,
    nodes: Nodes,
    monitor: &mut MySqlConnection,
    watched: &[Watched],
    args: &Args,
    connections: usize,
) -> Result<StormReport> {
    let Nodes { doomed, refuge } = nodes;
    let plan = Plan::clubs(connections, args.members, args.open);
    let rooms = plan.rooms.len();
    out::progress(format_args!(
        "{connections} users and {rooms} conversations"
    ));
    let crowd = plan.on_backscroll(refuge.address, &refuge.secret).await?;
    let door = match args.door {
        DoorArg::Native => Door::Native,
        DoorArg::SocketIo => Door::SocketIo,
    };
    let world = World::new(Target {
        nodes: vec![doomed.address, refuge.address],
        door,
        greets: true,
    });
    let swarm = Swarm::open(&world, &plan, plan.seats(&crowd)).await?;

    let schedule = Schedule::new();
    let talk = swarm.talk(&schedule, rooms);
    let clock = schedule.clone().run(args.rate, PATIENCE * 10, 1);
    let story = async {
        sleep(NORMAL_AFTER).await;
        out::progress("measuring the normal state");
        let normal = watch(monitor, Duration::from_secs(args.normal_seconds), || false).await?;
        out::progress("killing a node");
        let on_doomed = |number: &usize| world.target.home(*number) == DOOMED;
        let expected = (0..connections).filter(on_doomed).count();
        let meter = Meter::start(watched)?;
        let killed = Instant::now();
        doomed.kill().await?;
        let back = || world.notes().back.len() >= expected;
        let mut storm = vec![*normal.last().context("no sample")?];
        storm.extend(watch(monitor, PATIENCE, back).await?);
        let usage = meter.stop()?;
        ensure!(
            back(),
            "{} of {expected} came back in {PATIENCE:?}",
            world.notes().back.len()
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
    let logs = swarm.close().await?;
    refuge.stop().await?;

    let notes = world.notes().clone();
    let (missed, incomplete_logs) = missing(&logs, &notes);
    let (normal, storm, after) = (
        Queries::of(&normal)?,
        Queries::of(&storm)?,
        Queries::of(&after)?,
    );
    let mut back: Vec<f64> = notes
        .back
        .iter()
        .map(|back| back.saturating_duration_since(killed).as_secs_f64())
        .collect();
    back.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = (back.len() as f64 * share) as usize;
        back.get(position.min(back.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    let ratio = storm.questions / normal.questions;
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

/// How many messages are missing, in how many logs.
fn missing(logs: &[Log], notes: &Notes) -> (u64, usize) {
    let (mut missed, mut incomplete) = (0, 0);
    for log in logs {
        let missing = notes
            .heads
            .get(&log.room)
            .map_or(0, |head| log.missing(*head));
        missed += missing;
        incomplete += usize::from(missing > 0);
    }
    (missed, incomplete)
}

/// All followers.
struct Swarm {
    orders: Vec<mpsc::Sender<u32>>,
    /// For each room, who speaks there.
    speakers: Vec<usize>,
    followers: JoinSet<Result<Vec<Log>>>,
}

impl Swarm {
    async fn open(world: &Arc<World>, plan: &Plan, seats: Vec<Seat>) -> Result<Self> {
        let count = u32::try_from(seats.len())?;
        let (may_connect, connected) = (
            Arc::new(Semaphore::new(CONNECTING)),
            Arc::new(Semaphore::new(0)),
        );
        let mut swarm = Self {
            orders: Vec::with_capacity(seats.len()),
            speakers: plan.rooms.iter().map(|room| room[0] as usize).collect(),
            followers: JoinSet::new(),
        };
        for (n, seat) in seats.into_iter().enumerate() {
            let (orders, ordered) = mpsc::channel(ORDERS);
            swarm.orders.push(orders);
            let (world, may_connect, connected) = (
                Arc::clone(world),
                Arc::clone(&may_connect),
                Arc::clone(&connected),
            );
            swarm.followers.spawn(async move {
                let permit = may_connect.acquire_owned().await?;
                let follower = Follower::connect(&world, n, seat).await;
                let follower = follower.with_context(|| format!("client {n}"))?;
                drop(permit);
                connected.add_permits(1);
                follower
                    .run(ordered)
                    .await
                    .with_context(|| format!("client {n}"))
            });
        }
        let begin = Instant::now();
        tokio::select! {
            all = timeout(PATIENCE * 3, connected.acquire_many(count)) => {
                all.context("connecting all clients took too long")??.forget();
            }
            Some(ended) = swarm.followers.join_next() => {
                ended.context("a client panicked")??;
                bail!("a client ended early");
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        out::progress(format_args!("{count} clients connected in {seconds:.1} s"));
        Ok(swarm)
    }

    /// Says something in each room in turns, whenever the schedule says so.
    async fn talk(&self, schedule: &Schedule, rooms: usize) -> Result<()> {
        let mut rooms = (0..rooms as u32).cycle();
        while let (Some(_), Some(room)) = (schedule.next().await, rooms.next()) {
            self.orders[self.speakers[room as usize]].send(room).await?;
        }
        Ok(())
    }

    async fn close(mut self) -> Result<Vec<Log>> {
        self.orders.clear();
        let mut logs = Vec::new();
        while let Some(ended) = self.followers.join_next().await {
            logs.extend(ended.context("a client panicked")??);
        }
        Ok(logs)
    }
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
            "load:    {} clients on two nodes ({:?}), {} conversations, {} messages a second\n",
            thousands(self.connections as f64),
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
        let processes = self.usage.processes.iter();
        for (name, seconds) in processes {
            out::line(format_args!(
                "until all were back, the {name} used {:.0} % of a core",
                seconds / self.usage.elapsed * 100.0
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
