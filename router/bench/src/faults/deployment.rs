//! A deployment: two MariaDB servers with two shards each, Redis, an S3 server, two nodes, and a host for the operator's
//! commands. Every flow between two of them goes through a proxy of its own, so that one node can lose one database while
//! the other node does not.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use backscroll_testkit::Proxy;
use backscroll_testkit::s3_server::{ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::faults::process::{Clock, Process};
use crate::faults::servers::{Server, free_address};
use crate::harness::aside::Aside;
use crate::harness::router::{Setup, command, configuration};
use crate::http::{Connection, request};

/// The number of shards, two on each database server.
pub const SHARDS: usize = 4;
/// The number of database servers.
pub const DATABASES: usize = 2;
/// The longest time until a node is ready, if everything that it needs is available.
const PATIENCE: Duration = Duration::from_secs(120);

/// Settings other than the defaults. Segments are as small as possible and written slowly, and leases, grace periods and
/// intervals are short, so that an archive run of many segments is nearly always under way and minutes suffice for
/// everything to happen often. Pools are small, so that requests wait between two statements.
const SETTINGS: [(&str, &str); 28] = [
    ("POOL__MAX_CONNECTIONS", "4"),
    ("POOL__ACQUIRE_TIMEOUT", "4s"),
    ("ARCHIVE__RATE", "400"),
    ("ARCHIVE__SEGMENT_BYTES", "1048576"),
    ("ARCHIVE__FRAME_BYTES", "16384"),
    ("ARCHIVE__LEVEL", "1"),
    ("ARCHIVE__BUSY_SHARE", "40"),
    ("ARCHIVE__DELETE_BATCH", "100"),
    ("ARCHIVE__MAX_LATENCY", "1s"),
    ("ARCHIVE__LEASE", "5s"),
    ("ARCHIVE__ERASE_WITHIN", "20s"),
    ("ARCHIVE__GC_GRACE", "1h"),
    ("ARCHIVE__CACHE_BYTES", "1048576"),
    ("REALTIME__AUDIT_INTERVAL", "3s"),
    ("REALTIME__HEARTBEAT", "5s"),
    ("REALTIME__DRAIN_WINDOW", "2s"),
    ("REALTIME__COMMANDS_PER_SECOND", "0"),
    ("REALTIME__QUEUE_BYTES", "262144"),
    ("OBJECT_STORE__KIND", "s3"),
    ("OBJECT_STORE__BUCKET", BUCKET),
    ("OBJECT_STORE__PATH_STYLE", "true"),
    ("OBJECT_STORE__ACCESS_KEY_ID", ACCESS_KEY_ID),
    ("OBJECT_STORE__SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
    ("REBALANCE__LEASE", "5s"),
    ("REBALANCE__FREEZE_LEASE", "2s"),
    ("REBALANCE__KEEP", "5s"),
    ("TELEMETRY__FORMAT", "json"),
    ("TELEMETRY__LOG", "warn,backscroll=info"),
];
/// The schedule of each node's archive runs: they alternate.
const SCHEDULES: [&str; 2] = ["0/20 * * * * *", "10/20 * * * * *"];

/// A deployment.
pub struct Deployment {
    /// The folder of all data, configurations and logs.
    pub folder: PathBuf,
    /// The database servers; the first has the directory and the first half of the shards.
    pub databases: Vec<Server>,
    /// The bus between the nodes.
    pub redis: Server,
    /// The object store.
    pub objects: Server,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The host of commands.
    pub command_host: CommandHost,
    /// The secret that signs tokens.
    pub secret: String,
    /// The clocks of the database servers.
    pub clocks: Vec<Clock>,
    /// The runtime of the proxies.
    _aside: Aside,
}

/// A node: a process that runs `serve`.
pub struct Node {
    /// The process, locked while a fault is injected.
    pub process: Mutex<Process>,
    /// The proxy between its clients and it.
    pub front: Proxy,
    /// The proxies between it and the servers.
    pub links: Links,
    /// Its clock.
    pub clock: Clock,
    address: SocketAddr,
}

/// The host of the operator's commands.
pub struct CommandHost {
    /// Their settings.
    pub setup: Setup,
    /// Their configuration's folder.
    pub folder: PathBuf,
    /// The proxies between them and the servers.
    pub links: Links,
}

/// The proxies between one node, or the operator's commands, and the servers.
pub struct Links {
    /// To each database server.
    pub databases: Vec<Proxy>,
    /// To Redis.
    pub redis: Proxy,
    /// To the object store.
    pub objects: Proxy,
}

impl Deployment {
    /// Starts the servers in `folder`, with clocks that are `seconds` off, and creates the databases. `settings` are those of the
    /// nodes and commands beside the usual ones.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start(
        binary: &Path,
        folder: &Path,
        seconds: i64,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let aside = Aside::start(1)?;
        let mut databases = Vec::new();
        let mut clocks = Vec::new();
        for n in 1..=DATABASES {
            let clock = Clock::new(folder.join(format!("database{n}.clock")))?;
            clock.set(seconds)?;
            clocks.push(clock.clone());
            databases.push(Server::database(&format!("database{n}"), folder, clock).await?);
        }
        databases[0]
            .create(&["directory", "shard1", "shard2"])
            .await?;
        databases[1].create(&["shard3", "shard4"]).await?;
        let redis = Server::redis(folder).await?;
        let objects = Server::objects(folder).await?;
        let secret = format!("{:032x}", rand::random::<u128>());
        let servers = (&databases[..], &redis, &objects);
        let mut nodes = Vec::new();
        for (n, schedule) in SCHEDULES.into_iter().enumerate() {
            let links = Links::lay(&aside, servers).await?;
            let mut setup = links.setup(binary, servers.0, servers.1);
            let schedule = ("ARCHIVE__SCHEDULE", schedule);
            add(&mut setup, &[&[schedule], settings].concat());
            let node = Node::new(n, folder, setup, links, (&aside, &secret)).await?;
            node.clock.set(seconds)?;
            nodes.push(node);
        }
        let links = Links::lay(&aside, servers).await?;
        let mut setup = links.setup(binary, servers.0, servers.1);
        add(&mut setup, settings);
        let command_host = CommandHost {
            folder: configure(folder, "commands", &setup, (free_address()?, &secret))?,
            setup,
            links,
        };
        Ok(Self {
            folder: folder.to_owned(),
            databases,
            redis,
            objects,
            nodes,
            command_host,
            secret,
            clocks,
            _aside: aside,
        })
    }

    /// The addresses of the nodes for clients.
    #[must_use]
    pub fn fronts(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.front.address()).collect()
    }

    /// The database server of a shard.
    #[must_use]
    pub fn database_of(shard: usize) -> usize {
        shard * DATABASES / SHARDS
    }

    /// Sets the clocks of the database servers and nodes to `seconds` from now.
    ///
    /// # Errors
    /// When a clock cannot be set.
    pub async fn set_clocks(&self, seconds: i64) -> Result<()> {
        let nodes = self.nodes.iter().map(|node| &node.clock);
        for clock in self.clocks.iter().chain(nodes) {
            clock.set(seconds)?;
        }
        sleep(Duration::from_secs(2)).await; // processes read it once a second
        Ok(())
    }
}

impl Links {
    async fn lay(
        aside: &Aside,
        (databases, redis, objects): (&[Server], &Server, &Server),
    ) -> Result<Self> {
        let mut ways = Vec::new();
        for server in databases {
            ways.push(proxy(aside, server.address).await?);
        }
        Ok(Self {
            databases: ways,
            redis: proxy(aside, redis.address).await?,
            objects: proxy(aside, objects.address).await?,
        })
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Proxy> {
        self.databases.iter().chain([&self.redis, &self.objects])
    }

    fn setup(&self, binary: &Path, databases: &[Server], redis: &Server) -> Setup {
        let url = |database: usize, name: &str| {
            let way = self.databases[database].address();
            databases[database].url(way, name)
        };
        let shard_urls = (0..SHARDS)
            .map(|n| url(Deployment::database_of(n), &format!("shard{}", n + 1)))
            .collect();
        let mut settings = Vec::new();
        let endpoint = format!("http://{}", self.objects.address());
        settings.push(("BACKSCROLL_OBJECT_STORE__ENDPOINT".into(), endpoint));
        let bus = self.redis.url(&format!("redis://{}/", redis.address));
        settings.push(("BACKSCROLL_REDIS__URL".into(), bus));
        let mut setup = Setup {
            binary: binary.to_owned(),
            directory_url: url(0, "directory"),
            shard_urls,
            settings,
        };
        add(&mut setup, &SETTINGS);
        setup
    }
}

/// Adds settings; of those of one name the last one is valid.
fn add(setup: &mut Setup, settings: &[(&str, &str)]) {
    let named = |(name, value): &(&str, &str)| (format!("BACKSCROLL_{name}"), (*value).to_owned());
    setup.settings.extend(settings.iter().map(named));
}

/// A proxy in front of `address`, on a runtime of its own.
async fn proxy(aside: &Aside, address: SocketAddr) -> Result<Proxy> {
    aside.run(async move || Ok(Proxy::start(address))).await
}

impl Node {
    async fn new(
        number: usize,
        folder: &Path,
        setup: Setup,
        links: Links,
        (aside, secret): (&Aside, &str),
    ) -> Result<Self> {
        let name = format!("node{}", number + 1);
        let address = free_address()?;
        let own = configure(folder, &name, &setup, (address, secret))?;
        let clock = Clock::new(own.join("clock"))?;
        let its_clock = clock.clone();
        let log = folder.join(format!("{name}.log"));
        let serve = move || {
            let mut serve = command(&setup, &own, "serve");
            its_clock.apply(&mut serve)?;
            Ok(serve)
        };
        Ok(Self {
            process: Mutex::new(Process::new(name, log, serve)),
            front: proxy(aside, address).await?,
            links,
            clock,
            address,
        })
    }

    /// Starts its `process` until it is ready, again if it ends because a server is unavailable.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(&self, process: &mut Process) -> Result<()> {
        let give_up_at = Instant::now() + PATIENCE;
        process.start()?;
        loop {
            if process.has_ended()?.is_some() {
                process.kill().await?;
                process.start()?;
            }
            if matches!(
                timeout(PATIENCE, self.status("/healthz")).await,
                Ok(Ok(200))
            ) {
                return Ok(());
            }
            let name = &process.name;
            ensure!(Instant::now() < give_up_at, "{name} does not serve");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The status of the answer to a request for `path`, without a proxy in between.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, path: &str) -> Result<u16> {
        let mut connection = Connection::open(self.address).await?;
        let answer = connection.exchange(&request("GET", path, "", None)).await;
        Ok(answer.context("no answer")?.status)
    }
}

/// Creates a folder with a configuration.
fn configure(
    folder: &Path,
    name: &str,
    setup: &Setup,
    (address, secret): (SocketAddr, &str),
) -> Result<PathBuf> {
    let own = folder.join(name);
    std::fs::create_dir_all(&own)?;
    let text = configuration(setup, address, secret);
    std::fs::write(own.join("backscroll.toml"), text)?;
    Ok(own)
}
