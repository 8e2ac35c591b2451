//! The real `backscroll` binary as a process: configured, migrated, started, waited for, stopped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::harness::usage::Watched;
use crate::http::{Connection, request};

/// How long the router may take to become ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of its log is shown when it fails.
const LOG_TAIL_BYTES: usize = 4096;

/// What the benchmark sets itself, or what may be secret: not to be changed by the environment.
const OWN_SETTINGS: [&str; 6] = [
    "BACKSCROLL_AUTH__",
    "BACKSCROLL_DIRECTORY__",
    "BACKSCROLL_OBJECT_STORE__",
    "BACKSCROLL_REDIS__",
    "BACKSCROLL_SERVER__LISTEN",
    "BACKSCROLL_SHARDS__",
];

/// The router's settings that the environment changes, as `BACKSCROLL_WRITE__LANES` does; the report names them.
/// Other variables are kept from the router: it would refuse those that are no settings (they have no `__`).
pub fn overrides() -> impl Iterator<Item = (String, String)> {
    let is_setting = |name: &str| name.starts_with("BACKSCROLL_") && name.contains("__");
    let is_own = |name: &str| OWN_SETTINGS.iter().any(|own| name.starts_with(own));
    std::env::vars().filter(move |(name, _)| is_setting(name) && !is_own(name))
}

/// What the router is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The `backscroll` binary.
    pub binary: PathBuf,
    /// The directory's database.
    pub directory_url: String,
    /// The shards' databases; the key space is cut evenly between them, in this order.
    pub shard_urls: Vec<String>,
    /// Settings that are not the defaults, as environment variables; those of this program's environment win.
    pub settings: Vec<(String, String)>,
}

/// A router that serves.
pub struct Router {
    child: Child,
    folder: TempDir,
    setup: Setup,
    /// Where it listens.
    pub address: SocketAddr,
    /// The secret its tokens are signed with.
    pub secret: String,
}

impl Router {
    /// Migrates the databases of `setup` and starts the router on a free port; returns once it says that it is ready.
    ///
    /// # Errors
    /// When it does not; the text has the end of its log.
    pub async fn start(setup: &Setup) -> Result<Self> {
        let secret = format!(
            "{:032x}{:032x}",
            rand::random::<u128>(),
            rand::random::<u128>()
        );
        Self::start_with(setup, secret).await
    }

    /// Starts another node of the same deployment.
    ///
    /// # Errors
    /// As for [`Router::start`].
    pub async fn start_beside(&self) -> Result<Self> {
        Self::start_with(&self.setup, self.secret.clone()).await
    }

    async fn start_with(setup: &Setup, secret: String) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        std::fs::write(
            folder.path().join("backscroll.toml"),
            configuration(setup, address, &secret),
        )?;
        run(setup, folder.path(), "migrate", &[]).await?;
        let child = command(setup, folder.path(), "serve").spawn()?;
        let mut router = Self {
            child,
            folder,
            setup: setup.clone(),
            address,
            secret,
        };
        router.until_ready().await?;
        Ok(router)
    }

    /// Runs another command of the binary with the same configuration, to its end; returns what it printed.
    ///
    /// # Errors
    /// When it fails; the text has the end of its log.
    pub async fn run(&self, subcommand: &str, arguments: &[&str]) -> Result<String> {
        run(&self.setup, self.folder.path(), subcommand, arguments).await
    }

    /// Starts another command of the binary with the same configuration but for these settings; what it prints is kept.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(
        &self,
        subcommand: &str,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> Result<Child> {
        let mut command = command(&self.setup, self.folder.path(), subcommand);
        let started = command
            .args(arguments)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn();
        started.with_context(|| format!("cannot start {}", self.setup.binary.display()))
    }

    async fn until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the router ended ({status}):\n{}", self.log_tail());
            }
            if let Ok(Ok(200)) = timeout(Duration::from_secs(5), readiness(self.address)).await {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!(
            "the router was not ready after {PATIENCE:?}:\n{}",
            self.log_tail()
        )
    }

    /// The process, to be watched.
    #[must_use]
    pub fn process(&self) -> Option<Watched> {
        Some(Watched {
            name: "router",
            pid: self.child.id()?.cast_signed(),
        })
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill the router")
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// When it does not, or fails at it.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .context("the router has ended")?;
        kill_process(pid, Signal::TERM)?;
        let ended: Result<ExitStatus, _> = timeout(PATIENCE, self.child.wait())
            .await
            .context("the router does not stop")?;
        let status = ended?;
        ensure!(
            status.success(),
            "the router ended with {status}:\n{}",
            self.log_tail()
        );
        Ok(())
    }

    fn log_tail(&self) -> String {
        tail(&std::fs::read(self.folder.path().join("log")).unwrap_or_default())
    }
}

/// The end of what was logged.
fn tail(log: &[u8]) -> String {
    String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}

async fn run(setup: &Setup, folder: &Path, subcommand: &str, arguments: &[&str]) -> Result<String> {
    let mut command = command(setup, folder, subcommand);
    let output = command.args(arguments).output().await;
    let output = output.with_context(|| format!("cannot start {}", setup.binary.display()))?;
    let complaint = tail(&output.stderr);
    ensure!(
        output.status.success(),
        "`backscroll {subcommand}` failed ({}):\n{complaint}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A command of the binary in `folder`, where its configuration is and its log goes.
pub(crate) fn command(setup: &Setup, folder: &Path, subcommand: &str) -> Command {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"));
    let mut command = Command::new(&setup.binary);
    command
        .arg(subcommand)
        .arg("--config")
        .arg(folder.join("backscroll.toml"));
    command.current_dir(folder).kill_on_drop(true);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BACKSCROLL_")) {
        command.env_remove(name);
    }
    command.envs(setup.settings.iter().map(|(name, value)| (name, value)));
    command.envs(overrides());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.map_or(Stdio::null(), Stdio::from));
    command
}

async fn readiness(address: SocketAddr) -> Result<u16> {
    let mut connection = Connection::open(address).await?;
    Ok(connection
        .exchange(&request("GET", "/readyz", "", None))
        .await?
        .status)
}

/// The configuration: everything at its default but the addresses and the secret.
pub(crate) fn configuration(setup: &Setup, address: SocketAddr, secret: &str) -> String {
    let mut text = format!(
        "[server]\nlisten = \"{address}\"\n\n[auth]\nsecret = \"{secret}\"\n\n[object_store]\npath = \"objects\"\n\n[directory]\nurl = \"{}\"\n",
        setup.directory_url
    );
    // What is measured is the store, not its limits.
    text.push_str("\n[guard]\nmode = \"off\"\n");
    for (n, url) in setup.shard_urls.iter().enumerate() {
        text.push_str(&format!(
            "\n[[shards]]\nname = \"shard{}\"\nprimary = \"{url}\"\n",
            n + 1
        ));
    }
    text
}

/// The `backscroll` binary beside this one.
///
/// # Errors
/// When there is none.
pub fn binary_beside_this() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("backscroll");
    ensure!(
        path.is_file(),
        "there is no {}: build it with the same profile, or give --backscroll-bin",
        path.display()
    );
    Ok(path)
}
