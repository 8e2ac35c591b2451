//! `faults`: a deployment under kills, pauses, cut flows and wrong clocks, compared with a ledger of its acknowledgements.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::faults::commands::{Commands, RunningCommands};
use crate::faults::context::RunContext;
use crate::faults::deployment::Deployment;
use crate::faults::final_checks::FinalChecks;
use crate::faults::follower::Follower;
use crate::faults::injector::{Injector, Kind, Scope};
use crate::faults::jobs::{self, JobTotals};
use crate::faults::kill_matrix::{self, Kills, Matrix};
use crate::faults::ledger::{Ledger, user_name};
use crate::faults::moves;
use crate::faults::operator::Operator;
use crate::faults::reader::Reader;
use crate::faults::setup::{create_conversations, require_every_shard};
use crate::faults::writer::{Transport, write};
use crate::out;
use crate::population::User;
use crate::realtime::door::Door;
use crate::report::thousands;
use crate::scenario::Common;

/// The number of users.
const USERS: usize = 24;
/// The number of writers, readers and followers.
const WRITERS: usize = 36;
const READERS: usize = 8;
const FOLLOWERS: usize = 8;
/// The targets of each injector.
const INJECTORS: [Scope; 3] = [Scope::Nodes, Scope::Nodes, Scope::Servers];
/// The age of old conversations, as seconds from now: 240 days.
const LONG_AGO: i64 = -240 * 86_400;
/// The longest time until a node has stopped.
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// A deployment under kills, pauses, cut flows and wrong clocks, compared with a ledger of everything that it acknowledges
///
/// Starts servers of its own: two MariaDB, Redis, S3. Needs their programs and libfaketime, which `make faults` installs.
/// Exits with 1 and keeps all data and logs if anything acknowledged was undone or anything wrong was shown.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Minutes of faults; the checks at the end take more
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Seed of faults, texts and choices [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// Kinds of faults
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Kill, Kind::Pause, Kind::Flow, Kind::Clock])]
    kinds: Vec<Kind>,
    /// Leave all ranges on their shards
    #[arg(long, conflicts_with = "kill_matrix")]
    without_moves: bool,
    /// Kill each process at each state of a move instead, however long that takes
    #[arg(long)]
    kill_matrix: bool,
    /// Requests a second, about
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Folder in which a new folder for data and logs is created [default: that for temporary files]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Keep data and logs also if there was no violation
    #[arg(long)]
    keep: bool,
}

/// The outcome of a run.
struct Outcome {
    kills: Kills,
    totals: JobTotals,
    moves: BTreeMap<String, u64>,
    deleted: usize,
    connected: u64,
}

/// Runs the scenario and prints the totals.
///
/// # Errors
/// When it cannot be run, or there were violations.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    ensure!(args.minutes > 0.0, "--minutes: more than 0");
    ensure!(args.rate > 0.0, "--rate: more than 0");
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut builder = tempfile::Builder::new();
    builder.prefix("backscroll-faults-");
    let folder = match &args.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            builder.tempdir_in(std::path::absolute(folder)?)?
        }
        None => builder.tempdir()?,
    };
    out::progress(format_args!(
        "seed {seed}, data and logs in {}",
        folder.path().display()
    ));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        outcome = run_and_check(common, args, seed, folder.path()) => outcome,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    let violations = match &outcome {
        Ok((context, outcome)) => {
            print(context, outcome, (seed, args.minutes));
            context.violations()
        }
        Err(_) => 0,
    };
    if args.keep || outcome.is_err() || violations > 0 {
        let kept = folder.keep();
        out::line(format_args!("data and logs are in {}", kept.display()));
    }
    outcome?;
    ensure!(violations == 0, "{violations} violations with seed {seed}");
    Ok(true)
}

/// Runs a deployment and its clients and faults, and checks it afterwards.
async fn run_and_check(
    common: &Common,
    args: &Args,
    seed: u64,
    folder: &Path,
) -> Result<(Arc<RunContext>, Outcome)> {
    let mut random = SmallRng::seed_from_u64(seed);
    out::progress("starting the servers with old clocks");
    let settings = match args.kill_matrix {
        true => &kill_matrix::SETTINGS[..],
        false => &[],
    };
    let deployment = Deployment::start(&common.binary()?, folder, LONG_AGO, settings).await?;
    let deployment = Arc::new(deployment);
    let users: Result<Vec<User>> = (0..USERS)
        .map(|user| User::new(user_name(user), &deployment.secret))
        .collect();
    let mut ledger = Ledger::new(seed);
    ledger.moves = !args.without_moves;
    let context = RunContext::new(users?, deployment.fronts(), ledger, folder)?;
    let context = Arc::new(context);
    let commands = Commands {
        deployment: Arc::clone(&deployment),
        context: Arc::clone(&context),
        running: RunningCommands::default(),
    };
    prepare(&commands, &mut random).await?;

    let (mut writers, mut followers) = clients(&context, seed, args.rate);
    let (mut injectors, mut operators) = (JoinSet::new(), JoinSet::new());
    let kills = if args.kill_matrix {
        out::progress("killing each process at each state of a move");
        Matrix::new(commands.clone()).run().await?
    } else {
        disturb(&commands, (args, seed), (&mut injectors, &mut operators)).await;
        Kills::default()
    };

    let checks = FinalChecks { commands, seed };
    checks.finish(&mut writers, &mut injectors).await?;
    while let Some(operator) = operators.join_next().await {
        operator.context("an operator")??;
    }
    let moves = moves::finish(&checks.commands).await?;
    let totals = jobs::count(&deployment).await?;
    let (deleted, connected) = checks.compare_all(folder, &mut followers).await?;
    for node in &deployment.nodes {
        let stopped = node.process.lock().await.stop(STOPS_WITHIN).await;
        if let Err(error) = stopped {
            context.report_general(&format!("{error:#}"), "checks");
        }
    }
    let outcome = Outcome {
        kills,
        totals,
        moves,
        deleted,
        connected,
    };
    Ok((context, outcome))
}

/// Has operators work and injects faults, for as long as a run takes.
async fn disturb(
    commands: &Commands,
    (args, seed): (&Args, u64),
    (injectors, operators): (&mut JoinSet<Result<()>>, &mut JoinSet<Result<()>>),
) {
    out::progress(format_args!(
        "injecting faults for {} minutes",
        args.minutes
    ));
    let clocks = args.kinds.contains(&Kind::Clock);
    let injector = Injector::new(
        Arc::clone(&commands.deployment),
        Arc::clone(&commands.context),
        commands.running.clone(),
        args.kinds.clone(),
    );
    for (number, scope) in (1..).zip(INJECTORS) {
        injectors.spawn(injector.clone().run(scope, seed.wrapping_add(number)));
    }
    let operator = |number| Operator::new(commands.clone(), seed.wrapping_add(number), clocks);
    operators.spawn(operator(10).import_histories(imported(args.minutes)));
    operators.spawn(operator(11).archive());
    operators.spawn(operator(12).maintain());
    if !args.without_moves {
        operators.spawn(operator(13).rebalance());
    }
    sleep(Duration::from_secs_f64(args.minutes * 60.0)).await;
}

/// Creates old and new conversations, without faults.
async fn prepare(commands: &Commands, random: &mut SmallRng) -> Result<()> {
    let (deployment, context) = (&commands.deployment, &commands.context);
    let migrated = commands.run(&["migrate"], LONG_AGO).await?;
    ensure!(migrated.is_done(), "migrate failed: {}", migrated.stderr);
    let [first, ..] = &deployment.nodes[..] else {
        bail!("there are no nodes");
    };
    first.start(&mut *first.process.lock().await).await?;
    create_conversations(context, random, true).await?;
    first.process.lock().await.stop(STOPS_WITHIN).await?;
    deployment.set_clocks(0).await?;
    for node in &deployment.nodes {
        node.start(&mut *node.process.lock().await).await?;
    }
    create_conversations(context, random, false).await?;
    require_every_shard(context)
}

/// The number of messages to import in a run of this many minutes: all are read again in the end.
fn imported(minutes: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few ten thousand"
    )]
    let messages = (minutes * 12_000.0).clamp(6_000.0, 80_000.0) as u64;
    messages
}

/// The writers, readers and followers.
fn clients(context: &Arc<RunContext>, seed: u64, rate: f64) -> (JoinSet<()>, JoinSet<Follower>) {
    let pause = Duration::from_secs_f64((WRITERS + READERS) as f64 / rate);
    let mut users = JoinSet::new();
    for n in 0..WRITERS {
        let transport = Transport::of(n, USERS);
        let own = seed.wrapping_add(100 + n as u64);
        users.spawn(write(Arc::clone(context), transport, own, pause));
    }
    for n in 0..READERS {
        let own = seed.wrapping_add(200 + n as u64);
        users.spawn(Reader::new(Arc::clone(context), own, pause).read());
    }
    let mut followers = JoinSet::new();
    for n in 0..FOLLOWERS {
        let door = if n % 2 == 0 {
            Door::Native
        } else {
            Door::SocketIo
        };
        let own = seed.wrapping_add(300 + n as u64);
        followers.spawn(Follower::new(Arc::clone(context), n, door, own).follow());
    }
    (users, followers)
}

fn print(context: &RunContext, outcome: &Outcome, (seed, minutes): (u64, f64)) {
    let counts = context.ledger().counts.clone();
    let number = |number: u64| thousands(number as f64);
    out::line(format_args!("seed {seed}, {minutes} minutes"));
    let faults = context.faults();
    let all: u64 = faults.values().sum();
    let moves = outcome.moves.iter();
    let moves: Vec<String> = moves.map(|(state, n)| format!("{n} {state}")).collect();
    if !moves.is_empty() {
        out::line(format_args!("moves: {}", moves.join(", ")));
    }
    if outcome.kills.count() > 0 {
        out::line(&outcome.kills);
    }
    let kinds: Vec<String> = faults
        .iter()
        .map(|(kind, n)| format!("{n} {kind}"))
        .collect();
    out::line(format_args!("faults: {all} ({})", kinds.join(", ")));
    out::line(format_args!(
        "messages: {} sent, {} acknowledged, {} unknown, {} imported",
        number(counts.sent),
        number(counts.acknowledged),
        number(counts.unknown),
        number(counts.imported)
    ));
    out::line(format_args!(
        "changes: {} acknowledged, {} unknown; {} deleted texts searched for",
        number(counts.changes),
        number(counts.unknown_changes),
        number(outcome.deleted as u64)
    ));
    let totals = outcome.totals;
    out::line(format_args!(
        "archive: {} runs on a shard ({} finished), {} messages in {} segments, up to {} in one run; {} other jobs ({} finished)",
        totals.runs.0,
        totals.runs.1,
        number(totals.archived),
        totals.segments,
        totals.longest,
        totals.others.0,
        totals.others.1
    ));
    out::line(format_args!(
        "versions: {} checked, {} on pages out of the archive; followers connected {} times",
        number(counts.checked),
        number(counts.archived),
        number(outcome.connected)
    ));
    let answers: Vec<String> = context
        .answers()
        .iter()
        .map(|(answer, n)| format!("{} {answer}", number(*n)))
        .collect();
    out::line(format_args!("answers: {}", answers.join(", ")));
    out::line(format_args!("violations: {}", context.violations()));
}
