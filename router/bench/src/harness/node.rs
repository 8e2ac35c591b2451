//! The baseline of the real-time scenarios, a chat server in Node, as one or more processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::harness::usage::Watched;
use crate::http::{Connection, request};
use crate::out;

/// How long a process may take to become ready, or the packages to be installed.
const PATIENCE: Duration = Duration::from_secs(60);
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);
/// How much of a log is shown when it fails.
const LOG_TAIL_BYTES: usize = 4096;
/// What the processes are called in reports.
const NAMES: [&str; 4] = ["node", "node 2", "node 3", "node 4"];

/// What the processes are started with.
#[derive(Clone, Debug)]
pub struct NodeSetup {
    /// The folder of the server's source.
    pub folder: PathBuf,
    /// How many processes share the load.
    pub processes: usize,
    /// Its database.
    pub mysql_url: String,
    /// What connects the processes.
    pub redis_url: String,
}

/// The processes.
pub struct Node {
    children: Vec<Child>,
    logs: TempDir,
    /// What they were started with.
    pub setup: NodeSetup,
    /// Where they listen.
    pub addresses: Vec<SocketAddr>,
    /// The secret their tokens are signed with.
    pub secret: String,
}

impl Node {
    /// Installs the packages when they are not there, starts the processes, and returns once all are ready.
    ///
    /// # Errors
    /// When one is not; the text has the end of its log.
    pub async fn start(setup: &NodeSetup) -> Result<Self> {
        ensure!(
            (1..=NAMES.len()).contains(&setup.processes),
            "the baseline has 1 to {} processes",
            NAMES.len()
        );
        install(&setup.folder).await?;
        let mut node = Self {
            children: Vec::new(),
            logs: tempfile::tempdir()?,
            setup: setup.clone(),
            addresses: Vec::new(),
            secret: format!("{:032x}", rand::random::<u128>()),
        };
        for n in 0..setup.processes {
            let port = std::net::TcpListener::bind("127.0.0.1:0")?
                .local_addr()?
                .port();
            node.addresses
                .push(SocketAddr::from(([127, 0, 0, 1], port)));
            let log = std::fs::File::create(node.log(n))?;
            let child = Command::new("node")
                .arg("server.js")
                .current_dir(&setup.folder)
                .env("NODE_ENV", "production")
                .env("PORT", port.to_string())
                .env("MYSQL_URL", &setup.mysql_url)
                .env("REDIS_URL", &setup.redis_url)
                .env("JWT_SECRET", &node.secret)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
                .context("cannot start `node`")?;
            node.children.push(child);
        }
        for n in 0..setup.processes {
            node.until_ready(n).await?;
        }
        Ok(node)
    }

    fn log(&self, n: usize) -> PathBuf {
        self.logs.path().join(n.to_string())
    }

    async fn until_ready(&mut self, n: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.children[n].try_wait()? {
                bail!("the baseline ended ({status}):\n{}", self.log_tail(n));
            }
            if let Ok(Ok(200)) = timeout(Duration::from_secs(5), health(self.addresses[n])).await {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!(
            "the baseline was not ready after {PATIENCE:?}:\n{}",
            self.log_tail(n)
        )
    }

    /// The processes, to be watched.
    #[must_use]
    pub fn processes(&self) -> Vec<Watched> {
        let named = self.children.iter().zip(NAMES);
        named
            .filter_map(|(child, name)| {
                Some(Watched {
                    name,
                    pid: child.id()?.cast_signed(),
                })
            })
            .collect()
    }

    /// What they have complained about, if they have.
    #[must_use]
    pub fn complaints(&self) -> Option<String> {
        let tails = (0..self.children.len()).map(|n| self.log_tail(n));
        tails
            .reduce(|all, tail| all + &tail)
            .filter(|all| !all.is_empty())
    }

    fn log_tail(&self, n: usize) -> String {
        let log = std::fs::read(self.log(n)).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }

    /// Ends them.
    ///
    /// # Errors
    /// When one had ended by itself.
    pub async fn stop(mut self) -> Result<()> {
        for n in 0..self.children.len() {
            if let Some(status) = self.children[n].try_wait()? {
                bail!("the baseline ended ({status}):\n{}", self.log_tail(n));
            }
            self.children[n].kill().await?;
        }
        Ok(())
    }
}

/// `npm ci`, once.
async fn install(folder: &Path) -> Result<()> {
    // npm writes it last.
    if folder.join("node_modules/.package-lock.json").is_file() {
        return Ok(());
    }
    out::progress("installing the baseline's packages");
    let npm = Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(INSTALL_PATIENCE, npm)
        .await
        .context("`npm ci` took too long")?
        .context("cannot start `npm`")?;
    ensure!(
        output.status.success(),
        "`npm ci` failed in {}:\n{}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

async fn health(address: SocketAddr) -> Result<u16> {
    let mut connection = Connection::open(address).await?;
    Ok(connection
        .exchange(&request("GET", "/health", "", None))
        .await?
        .status)
}
