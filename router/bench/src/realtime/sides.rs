//! What is compared: Backscroll through each of its doors, and the baseline; all servers of a run, side by side.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::harness::databases::{Databases, with_databases};
use crate::harness::node::{Node, NodeSetup};
use crate::harness::router::{Router, Setup};
use crate::harness::usage::{Watched, generator, listener};
use crate::realtime::crowd::{Crowd, Plan};
use crate::realtime::door::Door;
use crate::realtime::socket::Target;
use crate::scenario::{Common, numbered, setup};

/// The baseline's database.
const BASELINE: &str = "baseline";

/// Settings of Backscroll that would hold back a single machine that plays many clients.
const UNLIMITED: [(&str, &str); 4] = [
    ("BACKSCROLL_REALTIME__MAX_SESSIONS", "1000000"),
    ("BACKSCROLL_REALTIME__SESSIONS_PER_IP", "0"),
    ("BACKSCROLL_REALTIME__CONNECTS_PER_SECOND", "0"),
    ("BACKSCROLL_REALTIME__COMMANDS_PER_SECOND", "0"),
];

/// A side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// Backscroll's own WebSocket protocol
    Native,
    /// Backscroll's Socket.IO
    SocketIo,
    /// The baseline in Node, with Socket.IO
    Node,
}

/// How Backscroll is started in a real-time scenario.
#[derive(Clone, Debug, clap::Args)]
pub struct BackscrollArgs {
    /// The Redis server that connects the nodes of either side, as redis://host:port/; empty for none
    #[arg(
        long,
        value_name = "URL",
        env = "BACKSCROLL_TEST_REDIS_URL",
        default_value = "redis://127.0.0.1:6379/",
        hide_env_values = true
    )]
    pub redis_url: String,
    /// How many shards Backscroll has
    #[arg(long, default_value_t = 4)]
    pub shards: usize,
}

/// Which servers a real-time scenario starts.
#[derive(Clone, Debug, clap::Args)]
pub struct SideArgs {
    /// What to measure, in turns
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Side::Native, Side::SocketIo, Side::Node])]
    pub sides: Vec<Side>,
    #[command(flatten)]
    backscroll: BackscrollArgs,
    /// How many processes the baseline has, which share its connections
    #[arg(long, default_value_t = 2)]
    pub node_processes: usize,
    /// The folder of the baseline's source [default: where this program was built]
    #[arg(long, value_name = "FOLDER")]
    pub baseline: Option<PathBuf>,
}

impl Side {
    /// What it is called in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "Backscroll, native",
            Self::SocketIo => "Backscroll, Socket.IO",
            Self::Node => "Node, Socket.IO",
        }
    }

    /// Whether Backscroll is behind it.
    #[must_use]
    pub fn is_backscroll(self) -> bool {
        self != Self::Node
    }
}

/// The servers of a run.
pub struct Servers<'a> {
    /// Their databases.
    pub databases: &'a Databases,
    /// Backscroll, if it is measured.
    pub router: Option<Router>,
    /// The baseline, if it is measured.
    pub node: Option<Node>,
    sides: Vec<Side>,
}

impl BackscrollArgs {
    /// Refuses what cannot be started.
    ///
    /// # Errors
    /// When a number is out of range.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.redis_url.is_empty() || self.redis_url.starts_with("redis://"),
            "--redis-url: redis://host:port/, or nothing"
        );
        ensure!((1..=64).contains(&self.shards), "--shards: from 1 to 64");
        Ok(())
    }

    /// What Backscroll is started with.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn setup(&self, common: &Common, databases: &Databases) -> Result<Setup> {
        let mut setup = setup(common.binary()?, databases, self.shards);
        setup.settings = settings(&self.redis_url);
        Ok(setup)
    }
}

impl SideArgs {
    /// Refuses what cannot be started.
    ///
    /// # Errors
    /// When a number is out of range.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.sides.is_empty(), "--sides: at least one");
        self.backscroll.check()?;
        ensure!(
            (1..=4).contains(&self.node_processes),
            "--node-processes: from 1 to 4"
        );
        Ok(())
    }

    fn node(&self, databases: &Databases) -> NodeSetup {
        let built = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/baseline"));
        NodeSetup {
            folder: self.baseline.clone().unwrap_or_else(built),
            processes: self.node_processes,
            mysql_url: databases.url(BASELINE),
            redis_url: self.backscroll.redis_url.clone(),
        }
    }

    /// Starts the servers that are measured, does `work` with them, and stops them.
    ///
    /// # Errors
    /// When a server does not start or `work` fails.
    pub async fn with_servers<T>(
        &self,
        common: &Common,
        work: impl AsyncFnOnce(&mut Servers<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut names = vec!["directory".to_owned(), BASELINE.to_owned()];
        names.extend(numbered("shard", self.backscroll.shards));
        with_databases(&common.mysql_url, &names, async |databases| {
            let mut sides = self.sides.clone();
            sides.sort();
            sides.dedup();
            let mut servers = Servers {
                databases,
                router: None,
                node: None,
                sides,
            };
            if servers.sides.iter().any(|side| side.is_backscroll()) {
                let setup = self.backscroll.setup(common, databases)?;
                servers.router = Some(Router::start(&setup).await?);
            }
            if servers.sides.contains(&Side::Node) {
                servers.node = Some(Node::start(&self.node(databases)).await?);
            }
            let result = work(&mut servers).await;
            servers.stop(result).await
        })
        .await
    }
}

/// Backscroll's settings for a benchmark in real time, as environment variables.
fn settings(redis_url: &str) -> Vec<(String, String)> {
    let redis = ("BACKSCROLL_REDIS__URL", redis_url);
    let redis = Some(redis).filter(|_| !redis_url.is_empty());
    let settings = UNLIMITED.into_iter().chain(redis);
    settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

impl Servers<'_> {
    async fn stop<T>(self, result: Result<T>) -> Result<T> {
        if let (Err(error), Some(node)) = (&result, &self.node)
            && let Some(complaints) = node.complaints()
        {
            bail!("{error:#}\nthe baseline's log ends:\n{complaints}");
        }
        let result = result?;
        if let Some(router) = self.router {
            router.stop().await?;
        }
        if let Some(node) = self.node {
            node.stop().await?;
        }
        Ok(result)
    }

    /// What is measured.
    #[must_use]
    pub fn sides(&self) -> &[Side] {
        &self.sides
    }

    /// Where the clients of a side connect.
    ///
    /// # Errors
    /// When it was not started.
    pub fn target(&self, side: Side) -> Result<Target> {
        let door = if side == Side::Native {
            Door::Native
        } else {
            Door::SocketIo
        };
        let nodes = match side {
            Side::Native | Side::SocketIo => vec![self.router()?.address],
            Side::Node => self.node()?.addresses.clone(),
        };
        Ok(Target {
            nodes,
            door,
            greets: side.is_backscroll(),
        })
    }

    /// Ends a side's server and starts another in its place, over the same databases.
    ///
    /// # Errors
    /// When it does not end or start.
    pub async fn restart(&mut self, side: Side) -> Result<()> {
        if side.is_backscroll() {
            let router = self.router.take().context("Backscroll was not started")?;
            let another = router.start_beside().await?;
            router.stop().await?;
            self.router = Some(another);
        } else {
            let node = self.node.take().context("the baseline was not started")?;
            let setup = node.setup.clone();
            node.stop().await?;
            self.node = Some(Node::start(&setup).await?);
        }
        Ok(())
    }

    /// Makes `plan` true on a side's server.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn settle(&self, side: Side, plan: &Plan) -> Result<Crowd> {
        if side.is_backscroll() {
            let router = self.router()?;
            plan.on_backscroll(router.address, &router.secret).await
        } else {
            let secret = &self.node()?.secret;
            plan.on_baseline(self.databases, BASELINE, secret).await
        }
    }

    /// The processes of a side's server.
    ///
    /// # Errors
    /// When it was not started, or has ended.
    pub fn processes(&self, side: Side) -> Result<Vec<Watched>> {
        if side.is_backscroll() {
            let process = self.router()?.process();
            Ok(vec![process.context("the router has ended")?])
        } else {
            Ok(self.node()?.processes())
        }
    }

    /// The processes whose processor time is told apart while a side is measured.
    ///
    /// # Errors
    /// As for [`Servers::processes`].
    pub fn watched(&self, side: Side) -> Result<Vec<Watched>> {
        let mut watched = vec![generator()];
        watched.extend(self.processes(side)?);
        let (_, port) = self.databases.server();
        watched.extend(listener("database", port));
        Ok(watched)
    }

    fn router(&self) -> Result<&Router> {
        self.router.as_ref().context("Backscroll was not started")
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().context("the baseline was not started")
    }
}
