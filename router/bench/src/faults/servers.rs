//! The servers that nodes need, each a process with a folder of its own: MariaDB twice, Redis, and an S3 server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use backscroll_testkit::s3_server::S3Server;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::faults::process::{Clock, Process};

/// The hidden subcommand of [`serve_objects`].
pub const SERVE_OBJECTS: &str = "serve-objects";
/// The longest time until a server answers.
const PATIENCE: Duration = Duration::from_secs(120);
/// Ports to listen on: below the kernel's range for outgoing connections, above those of `.ci/servers`.
const PORTS: std::ops::Range<u16> = 30_000..32_768;

/// A server, a target of faults.
pub struct Server {
    /// The process, locked while a fault is injected.
    pub process: Mutex<Process>,
    /// Its address, the same after every start.
    pub address: SocketAddr,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Database,
    Other,
}

impl Server {
    /// Starts a MariaDB in `folder`, with durable commits as in production, and with a clock of its own.
    ///
    /// # Errors
    /// When its data folder cannot be created or it does not start.
    pub async fn database(name: &str, folder: &Path, clock: Clock) -> Result<Self> {
        let data = folder.join(name);
        install(&data).await?;
        let address = free_address()?;
        let log = folder.join(format!("{name}.log"));
        let command = move || {
            let mut command = Command::new("mariadbd");
            command
                .arg("--no-defaults")
                .arg(with_path("--datadir=", &data))
                .arg(with_path("--tmpdir=", &data))
                .args(["--socket=server.sock", "--pid-file=server.pid"])
                .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
                .arg(format!("--port={}", address.port()))
                .args(["--skip-log-bin", "--innodb-flush-log-at-trx-commit=1"])
                .args(["--innodb-buffer-pool-size=128M", "--max-connections=1000"]);
            if rustix::process::geteuid().is_root() {
                command.arg("--user=root");
            }
            clock.apply(&mut command)?;
            Ok(command)
        };
        Self::start(Process::new(name, log, command), address, Kind::Database).await
    }

    /// Starts a Redis without persistence.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn redis(folder: &Path) -> Result<Self> {
        let address = free_address()?;
        let data = folder.to_owned();
        let command = move || {
            let mut command = Command::new("redis-server");
            command
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--port", &address.port().to_string()])
                .arg("--dir")
                .arg(&data);
            Ok(command)
        };
        let process = Process::new("redis", folder.join("redis.log"), command);
        Self::start(process, address, Kind::Other).await
    }

    /// Starts an S3 server with a bucket in `folder`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn objects(folder: &Path) -> Result<Self> {
        let data = folder.join("objects");
        std::fs::create_dir_all(&data)?;
        let address = free_address()?;
        let program = std::env::current_exe()?;
        let command = move || {
            let mut command = Command::new(&program);
            command.arg(SERVE_OBJECTS).arg(&data);
            command.arg(address.to_string());
            Ok(command)
        };
        let process = Process::new("objects", folder.join("objects.log"), command);
        Self::start(process, address, Kind::Other).await
    }

    async fn start(process: Process, address: SocketAddr, kind: Kind) -> Result<Self> {
        let server = Self {
            process: Mutex::new(process),
            address,
            kind,
        };
        server
            .start_again(&mut *server.process.lock().await)
            .await?;
        Ok(server)
    }

    /// Starts its `process`, which is not running, and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn start_again(&self, process: &mut Process) -> Result<()> {
        process.start()?;
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.has_ended()? {
                bail!("{} ended ({status}); see its log", process.name);
            }
            if matches!(timeout(PATIENCE, self.answers()).await, Ok(Ok(()))) {
                return Ok(());
            }
            ensure!(
                Instant::now() < give_up_at,
                "{} does not start",
                process.name
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn answers(&self) -> Result<()> {
        match self.kind {
            Kind::Other => drop(TcpStream::connect(self.address).await?),
            Kind::Database => self.connect("").await?.ping().await?,
        }
        Ok(())
    }

    /// A connection to the database `name` of a MariaDB; without a database if the name is empty.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(&self, name: &str) -> Result<MySqlConnection> {
        let connecting = MySqlConnection::connect(&self.url(self.address, name)).await;
        connecting.with_context(|| format!("cannot connect to the database at {}", self.address))
    }

    /// The URL of the database `name`, for clients that reach the server at `address`.
    #[must_use]
    pub fn url(&self, address: SocketAddr, name: &str) -> String {
        format!("mysql://root@{address}/{name}?ssl-mode=DISABLED")
    }

    /// Creates databases.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create(&self, names: &[&str]) -> Result<()> {
        let mut connection = self.connect("").await?;
        for name in names {
            let create = format!("CREATE DATABASE {name}");
            connection.execute(AssertSqlSafe(create)).await?;
        }
        Ok(connection.close().await?)
    }
}

async fn install(data: &Path) -> Result<()> {
    std::fs::create_dir_all(data)?;
    let output = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--force", "--skip-test-db"])
        .arg("--auth-root-authentication-method=normal")
        .arg(with_path("--datadir=", data))
        .arg(with_path("--tmpdir=", data))
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot start mariadb-install-db: is mariadb-server-core installed?")?;
    ensure!(
        output.status.success(),
        "mariadb-install-db failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn with_path(option: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(option);
    argument.push(path);
    argument
}

/// A free address of this machine.
///
/// # Errors
/// When none is free.
pub fn free_address() -> Result<SocketAddr> {
    for _ in 0..1000 {
        let port = rand::random_range(PORTS);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port from {} to {} is free", PORTS.start, PORTS.end)
}

/// The bucket's folder and the address of [`serve_objects`].
#[derive(Clone, Debug, clap::Args)]
pub struct ObjectsArgs {
    folder: PathBuf,
    address: SocketAddr,
}

/// Serves a bucket until it is killed.
///
/// # Errors
/// When it cannot listen.
pub async fn serve_objects(args: &ObjectsArgs) -> Result<()> {
    let _server = S3Server::resume(&args.folder, args.address).await?;
    std::future::pending().await
}
