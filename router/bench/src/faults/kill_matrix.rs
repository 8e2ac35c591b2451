//! Kills at every state of a move: of the process that moves, of a node, and of either shard's database server.
//!
//! For each step of a move and each victim a range is moved from one database server to the other, with writers, readers and
//! followers at work. The command that moves it is held at the step, the victim is killed, and, unless it is the command itself,
//! started again and the command is released. Users of the moved range send meanwhile; the time from the kill until each of
//! them has sent again is what a user notices. The move must come to its end by itself.

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::faults::commands::Commands;
use crate::faults::context::RunContext;
use crate::faults::deployment::Deployment;
use crate::faults::history::shard_of;
use crate::faults::operation::{Action, Answer, Operation};
use crate::faults::process::send;
use crate::faults::transport::HttpClient;
use crate::out;
use crate::report::Table;

/// Settings beside the usual ones: no archive run excludes a move, and rows are deleted as soon as they are not served.
pub const SETTINGS: [(&str, &str); 2] = [
    ("ARCHIVE__SCHEDULE", "0 0 0 1 1 *"),
    ("REBALANCE__KEEP", "0s"),
];
/// The steps at which a process is killed.
const STEPS: [&str; 12] = [
    "moving",
    "chunk-copied",
    "copied",
    "compared",
    "freeze-noted",
    "frozen",
    "rest-copied",
    "given-up",
    "committed",
    "target-opened",
    "rows-deleted",
    "cleaned",
];
/// The range that is moved, and the shards that have it in turns, one on each database server.
const RANGE: &str = "0..4611686018427387904";
const SHARDS: [&str; 2] = ["shard1", "shard3"];
/// The number of users that send to different conversations of the range.
const SENDERS: usize = 4;
/// How long after it was killed a node or a server is started again.
const DOWN: Duration = Duration::from_secs(1);
/// The longest time until users of the range send again: a lease of a move (5 s), the time in which a process is down, and
/// what processes take to start and to notice.
const SENDS_WITHIN: Duration = Duration::from_secs(15);
/// The longest time of a move.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often it is looked whether a command is held, and how a move is.
const LOOK: Duration = Duration::from_millis(50);
/// The number of moves until one is done by its command.
const ATTEMPTS: u32 = 10;

/// A process that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Mover,
    Node,
    Source,
    Target,
}

impl Victim {
    const ALL: [Self; 4] = [Self::Mover, Self::Node, Self::Source, Self::Target];
}

/// What came of a kill.
struct Cell {
    step: &'static str,
    sends_after: Duration,
    over_after: Duration,
    state: String,
    runners: u64,
}

/// What came of all, by victim.
#[derive(Default)]
pub struct Kills(Vec<Cell>);

/// Kills each victim at each step.
pub struct Matrix {
    commands: Commands,
    hold: PathBuf,
}

impl Matrix {
    /// One that moves with `commands`.
    #[must_use]
    pub fn new(commands: Commands) -> Self {
        Self {
            hold: commands.file("held"),
            commands,
        }
    }

    fn deployment(&self) -> &Deployment {
        &self.commands.deployment
    }

    fn find(&self, problem: &str) {
        self.commands.context.report_general(problem, "kills");
    }

    /// Does all of them.
    ///
    /// # Errors
    /// When a process cannot be started or killed, or a move is not held where it has to be.
    pub async fn run(self) -> Result<Kills> {
        let mut kills = Kills::default();
        let mut owner = 0;
        for step in STEPS {
            for victim in Victim::ALL {
                let cell = self.insist(step, victim, &mut owner).await?;
                out::progress(format_args!(
                    "{step}, {victim:?}: sends after {:.1} s, {} after {:.1} s",
                    cell.sends_after.as_secs_f64(),
                    cell.state,
                    cell.over_after.as_secs_f64()
                ));
                kills.0.push(cell);
            }
        }
        Ok(kills)
    }

    /// Kills at a step of a move, of another one if a node had taken it before the command did.
    async fn insist(&self, step: &'static str, victim: Victim, owner: &mut usize) -> Result<Cell> {
        for _ in 0..ATTEMPTS {
            let (state, cell) = self.kill(step, victim, *owner).await?;
            if state == "done" {
                *owner = 1 - *owner;
            }
            if let Some(cell) = cell {
                return Ok(cell);
            }
        }
        bail!("{step}, {victim:?}: no command is held in {ATTEMPTS} moves")
    }

    /// Moves the range and kills at a step: how the move ended, and what came of the kill if the command was held there.
    async fn kill(
        &self,
        step: &'static str,
        victim: Victim,
        owner: usize,
    ) -> Result<(String, Option<Cell>)> {
        let _ = std::fs::remove_file(&self.hold); // it is there after the command was killed
        let hold = format!("{step}:{}", self.hold.display());
        let variables = [("BACKSCROLL_HOLD_AT", hold.as_str())];
        let target = SHARDS[1 - owner];
        let run = ["rebalance", "run", "--range", RANGE, "--to", target];
        let reason = ["--reason", "kills"];
        let arguments = [&run[..], &reason].concat();
        let mut moving = pin!(self.commands.run_with(&arguments, 0, &variables));
        let is_held = tokio::select! {
            ended = &mut moving => ended.map(|_| false)?,
            held = self.wait_until_held() => held.map(|()| true)?,
        };
        if !is_held {
            return Ok((self.wait_until_over().await?.0, None));
        }
        let senders = self.start_senders();
        let killed = Instant::now();
        let (_, done) = tokio::join!(moving, self.kill_victim(victim, owner));
        done.with_context(|| format!("{step}, {victim:?}"))?;
        let (state, runners) = self.wait_until_over().await?;
        let over_after = killed.elapsed();
        let sends_after = longest(senders).await?;
        if sends_after > SENDS_WITHIN {
            self.find(&format!(
                "{step}, {victim:?}: users of the range send again only after {sends_after:?}"
            ));
        }
        let cell = Cell {
            step,
            sends_after,
            over_after,
            state: state.clone(),
            runners,
        };
        Ok((state, Some(cell)))
    }

    async fn wait_until_held(&self) -> Result<()> {
        let give_up_at = Instant::now() + PATIENCE;
        while !self.hold.exists() {
            ensure!(Instant::now() < give_up_at, "the move is not held");
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn kill_victim(&self, victim: Victim, owner: usize) -> Result<()> {
        let context = &self.commands.context;
        match victim {
            Victim::Mover => {
                let running = self.commands.running.list();
                let found = running
                    .iter()
                    .find(|(_, name)| name.contains("rebalance run"));
                let (pid, name) = found.context("the command has ended")?;
                let ongoing = context.disturb("kill", name, &[]);
                send(*pid, Signal::KILL)?;
                ongoing.end(context);
            }
            Victim::Node => {
                let node = &self.deployment().nodes[0];
                let mut process = node.process.lock().await;
                let ongoing = context.disturb("kill", "node1", &[0]);
                process.kill().await?;
                self.release();
                sleep(DOWN).await;
                node.start(&mut process).await?;
                ongoing.end(context);
            }
            Victim::Source => self.kill_database(owner).await?,
            Victim::Target => self.kill_database(1 - owner).await?,
        }
        self.release();
        Ok(())
    }

    async fn kill_database(&self, n: usize) -> Result<()> {
        let context = &self.commands.context;
        let server = &self.deployment().databases[n];
        let mut process = server.process.lock().await;
        let ongoing = context.disturb("kill", &format!("database{}", n + 1), &[]);
        process.kill().await?;
        context.ledger().database_killed(n);
        self.release();
        sleep(DOWN).await;
        server.start_again(&mut process).await?;
        ongoing.end(context);
        Ok(())
    }

    fn release(&self) {
        let _ = std::fs::remove_file(&self.hold); // released before
    }

    /// Waits until the last move is over: its state, and how many processes have worked on it.
    async fn wait_until_over(&self) -> Result<(String, u64)> {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let latest = ["rebalance", "history", "--limit", "1", "--json"];
            let ended = self.commands.run(&latest, 0).await?;
            let jobs: Value = serde_json::from_slice(&ended.output).unwrap_or_default();
            let job = &jobs[0];
            if let Some(state @ ("done" | "aborted")) = job["state"].as_str() {
                return Ok((state.to_owned(), job["runner"].as_u64().unwrap_or(0)));
            }
            if Instant::now() > give_up_at {
                bail!("the move does not end: {job}");
            }
            sleep(LOOK).await;
        }
    }

    /// Has users of the range send; each task ends with the first acknowledgement, and the time until then.
    fn start_senders(&self) -> JoinSet<Result<Duration>> {
        let context = &self.commands.context;
        let conversations: Vec<(usize, String, usize)> = {
            let ledger = context.ledger();
            let all = ledger.conversations.iter().enumerate();
            let of_range = all.filter(|(_, it)| shard_of(&it.id).is_ok_and(|shard| shard == 0));
            let some = of_range.take(SENDERS);
            some.map(|(n, it)| (n, it.id.clone(), it.members[0]))
                .collect()
        };
        let mut senders = JoinSet::new();
        for (conversation, id, user) in conversations {
            let text = context.ledger().text(20);
            let operation = Operation {
                conversation,
                id,
                user,
                action: Action::Send {
                    client_id: format!("kills-{:x}", rand::random::<u64>()),
                    text,
                },
            };
            senders.spawn(send_until_acknowledged(Arc::clone(context), operation));
        }
        senders
    }
}

async fn longest(mut senders: JoinSet<Result<Duration>>) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while let Some(took) = senders.join_next().await {
        longest = longest.max(took.context("a sender")??);
    }
    Ok(longest)
}

/// Sends a message, at each node in turns, until it is acknowledged.
async fn send_until_acknowledged(
    context: Arc<RunContext>,
    operation: Operation,
) -> Result<Duration> {
    let begun = Instant::now();
    context.ledger().begin(&operation);
    let mut client = HttpClient::default();
    let mut at_first_attempt = true;
    for node in (0..context.fronts.len()).cycle() {
        let (method, path, body) = operation.request();
        let user = &context.users[operation.user];
        let request = (method, path.as_str(), body.as_deref());
        let reply = client.ask(&context, node, user, request).await;
        context.log_operation(&operation, &reply);
        match &reply.answer {
            Answer::Done { status, body } => {
                let how = (reply.asked, at_first_attempt);
                let found = context
                    .ledger()
                    .acknowledge(&operation, (*status, body), how);
                if let Err(finding) = found {
                    context.report(&operation.id, &finding, "kills");
                }
                return Ok(begun.elapsed());
            }
            Answer::Refused(refusal) => at_first_attempt &= refusal.had_no_effect(),
            Answer::Unknown(_) => at_first_attempt = false,
        }
        ensure!(begun.elapsed() < PATIENCE, "a user cannot send again");
        sleep(LOOK).await;
    }
    bail!("there are no nodes")
}

impl Kills {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Kills {
    /// A line a step, with two columns a victim: until users of the range sent again, and how the move ended and when; `+n` is the
    /// number of processes beside the first one that worked on it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = [
            "kill -9 at",
            "mover",
            "",
            "node",
            "",
            "source",
            "",
            "target",
            "",
        ];
        let mut table = Table::new(headings);
        for cells in self.0.chunks(Victim::ALL.len()) {
            let columns = cells.iter().flat_map(|cell| {
                let others = match cell.runners.saturating_sub(1) {
                    0 => String::new(),
                    n => format!(" +{n}"),
                };
                [
                    format!("{:.1} s", cell.sends_after.as_secs_f64()),
                    format!(
                        "{} {:.1} s{others}",
                        cell.state,
                        cell.over_after.as_secs_f64()
                    ),
                ]
            });
            table.row(cells.first().map_or("", |cell| cell.step), columns);
        }
        write!(f, "{table}")
    }
}
