//! Databases of the benchmark's own, on the server it is given: made for a run, dropped after it, however it ends.
//!
//! A run that is killed outright leaves its databases behind; their names start with [`PREFIX`].

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::out;

/// What the names of all the benchmark's databases start with.
pub const PREFIX: &str = "backscroll_bench_";
/// Longest wait for the server to do something small.
const PATIENCE: Duration = Duration::from_secs(30);

/// The database server, and the databases made on it.
#[derive(Debug)]
pub struct Databases {
    options: MySqlConnectOptions,
    run: String,
    made: Vec<String>,
}

/// Runs `work` with databases of these names, and drops them afterwards, also when it fails or is interrupted.
///
/// # Errors
/// When the server cannot be used, `work` fails, or a signal came.
pub async fn with_databases<T>(
    url: &str,
    names: &[String],
    work: impl AsyncFnOnce(&Databases) -> Result<T>,
) -> Result<T> {
    let mut databases = Databases::on(url)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let result = tokio::select! {
        result = async {
            databases.make(names).await?;
            work(&databases).await
        } => result,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    if let Err(error) = databases.drop_all().await {
        out::progress(format_args!(
            "cannot drop the databases {PREFIX}{}_*: {error:#}",
            databases.run
        ));
    }
    result
}

impl Databases {
    fn on(url: &str) -> Result<Self> {
        let mut options = MySqlConnectOptions::from_str(url)
            .with_context(|| format!("`{url}` is not a MySQL address"))?;
        // The row-by-row inserts and the router pay for TLS only if the address asks for it.
        if !url.contains("ssl-mode") {
            options = options.ssl_mode(MySqlSslMode::Disabled);
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(Self {
            options,
            run: format!("{:x}_{}", now.as_secs(), std::process::id()),
            made: Vec::new(),
        })
    }

    async fn make(&mut self, names: &[String]) -> Result<()> {
        let mut connection = self.connect_to_server().await?;
        for name in names {
            let database = self.name(name);
            self.made.push(database.clone());
            let create =
                format!("CREATE DATABASE {database} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
            connection
                .execute(AssertSqlSafe(create))
                .await
                .with_context(|| format!("cannot create {database}"))?;
        }
        Ok(())
    }

    async fn drop_all(&mut self) -> Result<()> {
        if self.made.is_empty() {
            return Ok(());
        }
        let mut connection = self.connect_to_server().await?;
        while let Some(database) = self.made.pop() {
            let drop = format!("DROP DATABASE IF EXISTS {database}");
            connection
                .execute(AssertSqlSafe(drop))
                .await
                .with_context(|| format!("cannot drop {database}"))?;
        }
        Ok(())
    }

    /// The full name of the database called `name` in this run.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        format!("{PREFIX}{}_{name}", self.run)
    }

    /// Its address.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        address(&self.options.clone().database(&self.name(name)))
    }

    /// Its address on another port of this machine, where a proxy listens.
    #[must_use]
    pub fn url_through(&self, name: &str, port: u16) -> String {
        let options = self
            .options
            .clone()
            .host("127.0.0.1")
            .port(port)
            .database(&self.name(name));
        address(&options)
    }

    /// How Percona's tools are told where the database called `name` in this run is.
    #[must_use]
    pub fn dsn(&self, name: &str) -> String {
        let url = self.options.to_url_lossy();
        let mut dsn = format!(
            "h={},P={},D={}",
            self.options.get_host(),
            self.options.get_port(),
            self.name(name)
        );
        if !url.username().is_empty() {
            dsn.push_str(&format!(",u={}", url.username()));
        }
        if let Some(password) = url.password() {
            dsn.push_str(&format!(",p={password}"));
        }
        dsn
    }

    /// The server's host and port.
    #[must_use]
    pub fn server(&self) -> (&str, u16) {
        (self.options.get_host(), self.options.get_port())
    }

    /// A connection to the server, with no database chosen.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect_to_server(&self) -> Result<MySqlConnection> {
        connect(&self.options).await
    }

    /// A connection to the database called `name` in this run.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(&self, name: &str) -> Result<MySqlConnection> {
        connect(&self.options.clone().database(&self.name(name))).await
    }
}

async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection> {
    let connection = timeout(PATIENCE, MySqlConnection::connect_with(options)).await;
    let server = format!("{}:{}", options.get_host(), options.get_port());
    match connection {
        Ok(connection) => {
            connection.with_context(|| format!("cannot connect to the database server at {server}"))
        }
        Err(_) => bail!("the database server at {server} did not answer within {PATIENCE:?}"),
    }
}

/// Refuses a server whose commits are not durable: figures for writing would flatter both sides.
///
/// # Errors
/// When it is not.
pub fn require_durable(durable: bool) -> Result<()> {
    ensure!(
        durable,
        "innodb_flush_log_at_trx_commit is not 1 on this server: start it durable (BACKSCROLL_SQL_DURABLE=1 .ci/servers mariadb …)"
    );
    Ok(())
}

/// An address that the server's configuration takes: without what sqlx adds for itself.
fn address(options: &MySqlConnectOptions) -> String {
    let mut url = options.to_url_lossy();
    let taken = |name: &str| name.starts_with("ssl-") || name == "socket";
    let query: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| taken(name))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    url.query_pairs_mut().clear().extend_pairs(query);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_only_options_that_the_server_takes() {
        let text = "mysql://root:secret@127.0.0.1:3306/?ssl-mode=DISABLED";
        let options = MySqlConnectOptions::from_str(text).unwrap();
        let url = address(&options.database("talk"));
        assert_eq!(
            url,
            "mysql://root:secret@127.0.0.1:3306/talk?ssl-mode=DISABLED"
        );
    }
}
