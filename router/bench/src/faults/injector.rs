//! Fault injection: processes are killed and paused, flows cut, delayed and silent, clocks wrong. Every fault ends.
//!
//! Several injectors work at the same time, each with a seed of its own. Some inject faults into nodes and commands, often;
//! another into the servers, less often, since otherwise no archive run would get far. No two faults are of the same process
//! or flow at once.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Result;
use backscroll_testkit::{Mode, Proxy};
use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::faults::commands::RunningCommands;
use crate::faults::context::{Phase, RunContext};
use crate::faults::deployment::{Deployment, Links};
use crate::faults::operator::TWO_HOURS;
use crate::faults::process::{Process, send};

/// The positions of both nodes.
const ALL: [usize; 2] = [0, 1];

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// `kill -9`
    Kill,
    /// SIGSTOP, and SIGCONT after a while
    Pause,
    /// Flows that are cut, slow, delayed or silent
    Flow,
    /// Clocks of nodes and commands that are up to two hours off
    Clock,
}

/// The targets of an injector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nodes, commands, clocks, and flows between clients and nodes.
    Nodes,
    /// Databases, Redis, the object store, and flows to them.
    Servers,
}

impl Scope {
    /// The shortest and the longest pause between two faults, in milliseconds.
    fn pause(self) -> (u64, u64) {
        match self {
            Self::Nodes => (500, 5000),
            Self::Servers => (3000, 18_000),
        }
    }
}

/// An injector; clones share the claims.
#[derive(Clone)]
pub struct Injector {
    /// The targets.
    pub deployment: Arc<Deployment>,
    /// The log of faults.
    pub context: Arc<RunContext>,
    /// The running commands, targets too.
    pub running: RunningCommands,
    /// The kinds of faults.
    pub kinds: Vec<Kind>,
    busy: Arc<std::sync::Mutex<BTreeSet<String>>>,
}

/// The right to a target, for as long as a fault lasts.
struct Claim {
    busy: Arc<std::sync::Mutex<BTreeSet<String>>>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.name);
    }
}

impl Injector {
    /// An injector of faults of these kinds.
    #[must_use]
    pub fn new(
        deployment: Arc<Deployment>,
        context: Arc<RunContext>,
        running: RunningCommands,
        kinds: Vec<Kind>,
    ) -> Self {
        Self {
            deployment,
            context,
            running,
            kinds,
            busy: Arc::default(),
        }
    }

    /// Injects one fault after another until the run ends.
    ///
    /// # Errors
    /// When a process does not start again.
    pub async fn run(self, scope: Scope, seed: u64) -> Result<()> {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut kinds = self.kinds.clone();
        kinds.retain(|kind| scope == Scope::Nodes || *kind != Kind::Clock);
        while self.context.phase() == Phase::Run && !kinds.is_empty() {
            let (from, to) = scope.pause();
            sleep(between(&mut random, from, to)).await;
            match (kinds[random.random_range(0..kinds.len())], scope) {
                (Kind::Kill, Scope::Nodes) => match random.random() {
                    true => self.kill_node(&mut random, None).await?,
                    false => self.kill_command(&mut random).await?,
                },
                (Kind::Kill, Scope::Servers) => self.kill_server(&mut random).await?,
                (Kind::Pause, Scope::Nodes) => self.pause(&mut random).await?,
                (Kind::Pause, Scope::Servers) => self.pause_server(&mut random).await?,
                (Kind::Flow, Scope::Nodes) => match random.random() {
                    true => self.half_open(&mut random).await?,
                    false => self.disturb_clients(&mut random).await?,
                },
                (Kind::Flow, Scope::Servers) => self.disturb_flow(&mut random).await?,
                (Kind::Clock, _) => self.clock(&mut random).await?,
            }
        }
        Ok(())
    }

    fn claim(&self, name: &str) -> Option<Claim> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(name.to_owned()).then(|| Claim {
            busy: Arc::clone(&self.busy),
            name: name.to_owned(),
        })
    }

    /// Kills a node. If a database is given, the flow to it becomes silent before, so that the database does not notice.
    async fn kill_node(&self, random: &mut SmallRng, silent: Option<usize>) -> Result<()> {
        let n = random.random_range(0..self.deployment.nodes.len());
        let name = format!("node{}", n + 1);
        let Some(_claim) = self.claim(&name) else {
            return Ok(());
        };
        let node = &self.deployment.nodes[n];
        let mut process = node.process.lock().await;
        let way = silent.map(|database| (database, format!("{name} to database{}", database + 1)));
        let claimed = way.and_then(|(database, way)| Some((database, self.claim(&way)?)));
        let what = match &claimed {
            Some((_, claim)) => format!("{name} behind a silent flow from {}", claim.name),
            None => name,
        };
        let kind = if claimed.is_some() {
            "half-open"
        } else {
            "kill"
        };
        let ongoing = self.context.disturb(kind, &what, &[n]);
        if let Some((database, _)) = &claimed {
            node.links.databases[*database].set(Mode::Hang).await;
            sleep(between(random, 300, 2000)).await;
        }
        if let Some(status) = process.has_ended()? {
            self.context
                .report_general(&format!("ended by itself: {status}"), &process.name);
        }
        process.kill().await?;
        sleep(between(random, 0, 3000)).await;
        if let Some((database, _)) = &claimed {
            node.links.databases[*database].set(Mode::Pass).await;
        }
        node.start(&mut process).await?;
        ongoing.end(&self.context);
        Ok(())
    }

    async fn kill_command(&self, random: &mut SmallRng) -> Result<()> {
        let Some((pid, name)) = self.some_command(random) else {
            return Ok(());
        };
        sleep(between(random, 0, 1500)).await;
        if self.running.has(pid) {
            let ongoing = self
                .context
                .disturb("kill", &format!("{name} (process {pid})"), &[]);
            // It may have ended just now.
            let _ = send(pid, Signal::KILL);
            ongoing.end(&self.context);
        }
        Ok(())
    }

    fn some_command(&self, random: &mut SmallRng) -> Option<(u32, String)> {
        let mut running = self.running.list();
        match running.is_empty() {
            true => None,
            false => Some(running.swap_remove(random.random_range(0..running.len()))),
        }
    }

    async fn kill_database(&self, random: &mut SmallRng) -> Result<()> {
        let n = random.random_range(0..self.deployment.databases.len());
        let name = format!("database{}", n + 1);
        let Some(_claim) = self.claim(&name) else {
            return Ok(());
        };
        let server = &self.deployment.databases[n];
        let mut process = server.process.lock().await;
        let ongoing = self.context.disturb("kill", &name, &[]);
        process.kill().await?;
        self.context.ledger().database_killed(n);
        sleep(between(random, 0, 3000)).await;
        server.start_again(&mut process).await?;
        ongoing.end(&self.context);
        Ok(())
    }

    async fn kill_server(&self, random: &mut SmallRng) -> Result<()> {
        let (name, server, nodes) = match random.random_range(0..4) {
            0 | 1 => return self.kill_database(random).await,
            2 => ("redis", &self.deployment.redis, &[][..]),
            _ => ("objects", &self.deployment.objects, &ALL[..]),
        };
        let Some(_claim) = self.claim(name) else {
            return Ok(());
        };
        let mut process = server.process.lock().await;
        let ongoing = self.context.disturb("kill", name, nodes);
        process.kill().await?;
        sleep(between(random, 0, 4000)).await;
        server.start_again(&mut process).await?;
        ongoing.end(&self.context);
        Ok(())
    }

    async fn pause(&self, random: &mut SmallRng) -> Result<()> {
        let pause = pause_duration(random);
        if random.random() {
            return self.pause_command(random, pause).await;
        }
        let n = random.random_range(0..self.deployment.nodes.len());
        let process = &self.deployment.nodes[n].process;
        self.pause_process(&format!("node{}", n + 1), process, &[n], pause)
            .await
    }

    async fn pause_server(&self, random: &mut SmallRng) -> Result<()> {
        let deployment = &self.deployment;
        let pause = pause_duration(random);
        match random.random_range(0..4) {
            n @ 0..2 => {
                let name = format!("database{}", n + 1);
                self.pause_process(&name, &deployment.databases[n].process, &[], pause)
                    .await
            }
            2 => {
                self.pause_process("redis", &deployment.redis.process, &[], pause)
                    .await
            }
            _ => {
                self.pause_process("objects", &deployment.objects.process, &ALL, pause)
                    .await
            }
        }
    }

    async fn pause_process(
        &self,
        name: &str,
        process: &Mutex<Process>,
        nodes: &[usize],
        pause: Duration,
    ) -> Result<()> {
        let Some(_claim) = self.claim(name) else {
            return Ok(());
        };
        let process = process.lock().await;
        let ongoing = self.context.disturb("pause", name, nodes);
        process.pause()?;
        sleep(pause).await;
        process.resume()?;
        ongoing.end(&self.context);
        Ok(())
    }

    async fn pause_command(&self, random: &mut SmallRng, pause: Duration) -> Result<()> {
        let Some((pid, name)) = self.some_command(random) else {
            return Ok(());
        };
        let what = format!("{name} (process {pid})");
        let ongoing = self.context.disturb("pause", &what, &[]);
        // It may have ended, or be killed meanwhile.
        let _ = send(pid, Signal::STOP);
        sleep(pause).await;
        if self.running.has(pid) {
            let _ = send(pid, Signal::CONT);
        }
        ongoing.end(&self.context);
        Ok(())
    }

    async fn half_open(&self, random: &mut SmallRng) -> Result<()> {
        let database = random.random_range(0..self.deployment.databases.len());
        self.kill_node(random, Some(database)).await
    }

    async fn disturb_clients(&self, random: &mut SmallRng) -> Result<()> {
        let n = random.random_range(0..self.deployment.nodes.len());
        let way = format!("clients to node{}", n + 1);
        self.disturb(random, &way, &self.deployment.nodes[n].front, &[])
            .await
    }

    async fn disturb_flow(&self, random: &mut SmallRng) -> Result<()> {
        let n = random.random_range(0..3);
        let (source, links): (String, &Links) = match self.deployment.nodes.get(n) {
            Some(node) => (format!("node{}", n + 1), &node.links),
            None => ("commands".into(), &self.deployment.command_host.links),
        };
        match random.random_range(0..4) {
            database @ 0..2 => {
                let way = format!("{source} to database{}", database + 1);
                self.disturb(random, &way, &links.databases[database], &[])
                    .await
            }
            2 => {
                self.disturb(random, &format!("{source} to redis"), &links.redis, &[])
                    .await
            }
            _ => {
                let way = format!("{source} to objects");
                self.disturb(random, &way, &links.objects, &[n]).await
            }
        }
    }

    async fn disturb(
        &self,
        random: &mut SmallRng,
        way: &str,
        proxy: &Proxy,
        nodes: &[usize],
    ) -> Result<()> {
        let Some(_claim) = self.claim(way) else {
            return Ok(());
        };
        let (word, mode) = match random.random_range(0..4) {
            0 => ("cut", Mode::Cut),
            1 => ("silent", Mode::Hang),
            2 => ("delayed", Mode::Delay(between(random, 20, 400))),
            _ => {
                let bytes_per_second = random.random_range(100_000..1_000_000);
                ("slow", Mode::Throttle { bytes_per_second })
            }
        };
        let ongoing = self
            .context
            .disturb("flow", &format!("{way}: {word}"), nodes);
        proxy.set(mode).await;
        sleep(between(random, 100, 9000)).await;
        proxy.set(Mode::Pass).await;
        ongoing.end(&self.context);
        Ok(())
    }

    async fn clock(&self, random: &mut SmallRng) -> Result<()> {
        let n = random.random_range(0..self.deployment.nodes.len());
        let name = format!("clock of node{}", n + 1);
        let Some(_claim) = self.claim(&name) else {
            return Ok(());
        };
        let seconds = random.random_range(-TWO_HOURS..=TWO_HOURS);
        let ongoing = self
            .context
            .disturb("clock", &format!("{name}: {seconds:+} s"), &[]);
        let clock = &self.deployment.nodes[n].clock;
        clock.set(seconds)?;
        sleep(between(random, 2000, 20_000)).await;
        clock.set(0)?;
        ongoing.end(&self.context);
        Ok(())
    }
}

/// The duration of a pause: seldom longer than leases and clients' timeouts.
fn pause_duration(random: &mut SmallRng) -> Duration {
    let most = if random.random_ratio(1, 4) {
        14_000
    } else {
        4000
    };
    between(random, 300, most)
}

fn between(random: &mut SmallRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..=to))
}
