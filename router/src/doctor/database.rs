//! One database: does it answer, may we write, does it keep what it acknowledges, is its clock right?

use std::time::{Duration, Instant};

use backscroll_shard::clock;
use backscroll_shard::db::{Connection, Database, Dialect, Value};
use backscroll_shard::error::{Error, Result, StatementFault};
use backscroll_shard::identity::writer;
use backscroll_shard::settings::{DatabaseUrl, PoolSettings};

use super::{Finding, PATIENCE};

/// How far a database's clock may be off before that is worth a word. Times of messages come from the routers' clocks.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// How long a server may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

const MYSQL_PORT: u16 = 3306;

const VERSION_MYSQL: &str = "SELECT VERSION()";
const VERSION_SQLITE: &str = "SELECT 'SQLite ' || sqlite_version()";
const DURABILITY_MYSQL: &str = "SELECT CAST(@@innodb_flush_log_at_trx_commit AS SIGNED)";
const CONNECTIONS_MYSQL: &str = "SELECT CAST(@@max_connections AS SIGNED)";
const PREPARED_MYSQL: &str = "SELECT CAST(@@max_prepared_stmt_count AS SIGNED)";
const PACKET_MYSQL: &str = "SELECT CAST(@@max_allowed_packet AS SIGNED)";
const LOG_MYSQL: &str = "SELECT CASE WHEN @@log_bin THEN @@binlog_format ELSE '' END";
/// The node of a Galera cluster, and how many there are. Servers without Galera have no such variable.
const GALERA: &str = "SELECT @@wsrep_node_name FROM DUAL WHERE @@wsrep_on";
const GALERA_NODES: &str = "SHOW GLOBAL STATUS LIKE 'wsrep_cluster_size'";
/// Servers without Group Replication have no such variable.
const ONE_PRIMARY: &str = "SELECT CAST(@@group_replication_single_primary_mode AS SIGNED)";
/// Smallest `max_allowed_packet` in bytes that every statement fits in: messages are written in statements of about 2 MiB.
const PACKET_MIN: i64 = 4 << 20;
/// Rolled back. No conversation has this id: no owner has made it.
const TRY_SHARD: &str = "INSERT INTO imports (conversation_id, position) VALUES (?, 0)";
const TRY_DIRECTORY: &str = "INSERT INTO properties (name, value) VALUES (?, 'rolled back')";
const NOBODY: &[u8] = b"backscroll doct.";

/// What a database is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Directory,
    Primary,
    Replica,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Examination {
    pub(super) findings: Vec<Finding>,
}

/// Connects to `url` and looks at it.
pub(super) async fn examine(
    subject: &str,
    url: &DatabaseUrl,
    used: Use,
    pool: &PoolSettings,
    lanes: u32,
) -> Examination {
    if let Some(file) = url.file().filter(|file| !file.exists()) {
        let remedy = "`backscroll migrate` or `backscroll serve` makes it; if it was there before, bring it back from a backup first";
        let finding = Finding::failure(
            subject,
            format!("there is no file {}", file.display()),
            remedy,
        );
        return Examination::failed(finding);
    }
    let needs = Needs::of(used, pool, lanes);
    match look_into(subject, url, used, needs, pool).await {
        Ok(examination) => examination,
        Err(error) => Examination::failed(unreachable(subject, url, &error).await),
    }
}

/// What one router may want of a server.
#[derive(Clone, Copy, Debug)]
struct Needs {
    connections: u32,
    prepared: u64,
}

impl Needs {
    fn of(used: Use, pool: &PoolSettings, lanes: u32) -> Self {
        let lanes = if used == Use::Primary { lanes } else { 0 };
        Self {
            connections: pool.max_connections + lanes,
            prepared: Database::most_prepared(pool.max_connections, lanes),
        }
    }
}

/// What the settings of the server at `url` break; nothing where it does not answer, or has none.
pub(super) async fn broken_settings(
    subject: &str,
    url: &DatabaseUrl,
    used: Use,
    pool: &PoolSettings,
    lanes: u32,
) -> Vec<Finding> {
    let read = async |connection: &mut Connection| {
        if connection.dialect() == Dialect::Sqlite {
            return Ok(Vec::new());
        }
        let settings = ServerSettings::read(connection).await?;
        Ok(settings.findings(subject, used, Needs::of(used, pool, lanes)))
    };
    let Ok(database) = one_connection(url, pool) else {
        return Vec::new();
    };
    let look = async {
        let mut connection = database.writer(Instant::now() + PATIENCE).await?;
        read(&mut connection).await
    };
    let found: Option<Result<Vec<Finding>>> = tokio::time::timeout(PATIENCE, look).await.ok();
    database.close().await;
    found.and_then(Result::ok).unwrap_or_default()
}

fn one_connection(url: &DatabaseUrl, pool: &PoolSettings) -> Result<Database> {
    let one = PoolSettings {
        max_connections: 1,
        ..pool.clone()
    };
    Database::open_any(url, &one)
}

impl Examination {
    fn failed(finding: Finding) -> Self {
        Self {
            findings: vec![finding],
        }
    }
}

async fn unreachable(subject: &str, url: &DatabaseUrl, error: &Error) -> Finding {
    // A pool only knows that it had no connection in time; the network says why.
    let why = network_error(url)
        .await
        .unwrap_or_else(|| error.to_string());
    let detail = format!("{} does not answer: {why}", url.redacted());
    let remedy = "check that the server runs, that this machine may connect to it, and the address and password in the configuration";
    Finding::failure(subject, detail, remedy)
}

/// Why no connection to the server of `url` can be made; `None` when one can, or it has no server.
async fn network_error(url: &DatabaseUrl) -> Option<String> {
    if Dialect::of(url).ok()? == Dialect::Sqlite {
        return None;
    }
    let parsed = reqwest::Url::parse(&url.0).ok()?;
    let host = parsed.host_str()?.trim_matches(['[', ']']).to_owned();
    let port = parsed.port().unwrap_or(MYSQL_PORT);
    let connect = tokio::net::TcpStream::connect((host.as_str(), port));
    match tokio::time::timeout(CONNECT_PATIENCE, connect).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("{host} port {port}: {error}")),
        Err(_) => Some(format!("{host} port {port}: no answer to a connection")),
    }
}

async fn look_into(
    subject: &str,
    url: &DatabaseUrl,
    used: Use,
    needs: Needs,
    pool: &PoolSettings,
) -> Result<Examination> {
    let database = one_connection(url, pool)?;
    let look = look(subject, url, used, needs, &database);
    let outcome = tokio::time::timeout(PATIENCE, look).await;
    database.close().await;
    outcome.unwrap_or(Err(Error::DeadlineExceeded))
}

async fn look(
    subject: &str,
    url: &DatabaseUrl,
    used: Use,
    needs: Needs,
    database: &Database,
) -> Result<Examination> {
    let mut connection = database.writer(Instant::now() + PATIENCE).await?;
    let dialect = connection.dialect();
    let begin = Instant::now();
    let version = text(
        &mut connection,
        if dialect == Dialect::MySql {
            VERSION_MYSQL
        } else {
            VERSION_SQLITE
        },
    )
    .await?;
    let latency = begin.elapsed().as_secs_f64() * 1000.0;
    let mut findings = vec![Finding::ok(
        subject,
        format!("{} answers in {latency:.1} ms ({version})", url.redacted()),
    )];
    if dialect == Dialect::MySql {
        findings.extend(clocks(subject, &mut connection).await?);
        let settings = ServerSettings::read(&mut connection).await?;
        findings.extend(settings.findings(subject, used, needs));
    }
    if used != Use::Replica {
        findings.extend(may_write(subject, used, &mut connection).await);
    }
    Ok(Examination { findings })
}

async fn text(connection: &mut Connection, statement: &str) -> Result<String> {
    first(connection.fetch_optional(statement, &[]).await?)?.text(0)
}

async fn int(connection: &mut Connection, statement: &str) -> Result<i64> {
    first(connection.fetch_optional(statement, &[]).await?)?.int(0)
}

fn first<T>(row: Option<T>) -> Result<T> {
    row.ok_or(Error::Unexpected("a SELECT of one value gave no row"))
}

async fn clocks(subject: &str, connection: &mut Connection) -> Result<Option<Finding>> {
    let offset = clock::offset(connection).await?;
    let off = Duration::from_millis(offset.unsigned_abs());
    let side = if offset < 0 { "ahead of" } else { "behind" };
    let detail = format!(
        "its clock is {:.1} s {side} this machine's",
        off.as_secs_f64()
    );
    Ok(if off > clock::TOLERANCE {
        let remedy = "synchronise the clocks of both machines (NTP): until then no archive job runs from here, and messages \
                      carry this machine's time";
        Some(Finding::failure(subject, detail, remedy))
    } else if off > CLOCK_TOLERANCE {
        let remedy =
            "synchronise the clocks of both machines (NTP): messages carry the router's time";
        Some(Finding::warning(subject, detail, remedy))
    } else {
        None
    })
}

/// Settings of a SQL server that decide whether a router may rely on it.
struct ServerSettings {
    /// `innodb_flush_log_at_trx_commit`.
    flush: i64,
    connections: i64,
    /// Bytes.
    packet: i64,
    /// `binlog_format`; empty without a binary log, and on a server that has no such setting and logs rows.
    log_format: String,
    prepared: i64,
    cluster: Cluster,
}

/// Whether other servers may write the same tables.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cluster {
    /// No other one does.
    Alone,
    /// The node of a Galera cluster in which every node takes writes, as far as is known.
    Galera { node: String, nodes: i64 },
    /// A server that may not write, because the shard names another one.
    NotWriter { this: String, writer: String },
    /// A member of a group in which every member takes writes.
    MultiPrimary,
}

impl Cluster {
    async fn read(connection: &mut Connection) -> Result<Self> {
        // The directory has no such table, and a shard of an older version has none yet.
        match writer::look(connection).await {
            Ok((Some(writer), this)) if writer != this => {
                return Ok(Self::NotWriter { this, writer });
            }
            Ok((Some(_), _)) => return Ok(Self::Alone),
            _ => {}
        }
        // A server without one of the variables says so by an error.
        if let Ok(Some(node)) = connection.fetch_optional(GALERA, &[]).await {
            let nodes = connection.fetch_optional(GALERA_NODES, &[]).await?;
            let nodes = nodes.map(|row| row.text(1)).transpose()?;
            let nodes = nodes.and_then(|nodes| nodes.parse().ok());
            return Ok(Self::Galera {
                node: node.text(0)?,
                nodes: nodes.unwrap_or(1),
            });
        }
        let one_primary = connection.fetch_optional(ONE_PRIMARY, &[]).await;
        let one_primary = one_primary
            .ok()
            .flatten()
            .map(|row| row.int(0))
            .transpose()?;
        Ok(match one_primary {
            Some(0) => Self::MultiPrimary,
            _ => Self::Alone,
        })
    }

    fn finding(&self, subject: &str) -> Option<Finding> {
        match self {
            Self::Galera { node, nodes } if *nodes > 1 => {
                let detail = format!(
                    "it is node {node} of a Galera cluster with {nodes} nodes that all take writes: a fence that a transaction read on one \
                     node does not hold up a change of it on another, so only one node may be written to (INV-OWNER)"
                );
                let remedy = "name the address of that one node, not of a load balancer over several; where it is a shard's, `backscroll \
                              migrate` writes down that no other node may write";
                Some(Finding::warning(subject, detail, remedy))
            }
            Self::NotWriter { this, writer } => {
                let detail = format!(
                    "its address leads to {this}, and of its cluster only {writer} may write (INV-OWNER): the shard is not served"
                );
                let remedy = "name the address of that server; if it is lost, let this one write with `backscroll shards writer`";
                Some(Finding::failure(subject, detail, remedy))
            }
            Self::MultiPrimary => {
                let detail = "all members of its group take writes (multi-primary): a fence that a transaction read on one member does not hold \
                              up a change of it on another, so two shards could own a key (INV-OWNER)";
                let remedy = "switch the group to one primary: SELECT group_replication_switch_to_single_primary_mode()";
                Some(Finding::failure(subject, detail, remedy))
            }
            _ => None,
        }
    }
}

impl ServerSettings {
    async fn read(connection: &mut Connection) -> Result<Self> {
        let log = connection.fetch_optional(LOG_MYSQL, &[]).await;
        let log_format = log.ok().flatten().map(|row| row.text(0)).transpose()?;
        Ok(Self {
            flush: int(connection, DURABILITY_MYSQL).await?,
            connections: int(connection, CONNECTIONS_MYSQL).await?,
            packet: int(connection, PACKET_MYSQL).await?,
            log_format: log_format.unwrap_or_default(),
            prepared: int(connection, PREPARED_MYSQL).await?,
            cluster: Cluster::read(connection).await?,
        })
    }

    fn findings(&self, subject: &str, used: Use, needs: Needs) -> Vec<Finding> {
        let Self {
            connections,
            packet,
            prepared,
            ..
        } = self;
        let writes = used != Use::Replica;
        let mut findings = Vec::new();
        if writes {
            findings.extend(self.cluster.finding(subject));
        }
        if writes && self.flush != 1 {
            let detail = "innodb_flush_log_at_trx_commit is not 1: a crash of that machine loses acknowledged messages (INV-ACK)";
            let remedy = "set innodb_flush_log_at_trx_commit = 1 on that server";
            findings.push(Finding::warning(subject, detail, remedy));
        }
        if i64::from(needs.connections) > *connections {
            let needed = needs.connections;
            let detail = format!(
                "the server allows {connections} connections, one router may open {needed}"
            );
            let remedy = "raise max_connections there, or lower pool.max_connections here";
            findings.push(Finding::warning(subject, detail, remedy));
        }
        if *packet < PACKET_MIN {
            let detail = format!(
                "max_allowed_packet is {packet} bytes: statements of up to {PACKET_MIN} bytes are refused, which may be messages"
            );
            let remedy = "set max_allowed_packet = 16M on that server";
            findings.push(Finding::failure(subject, detail, remedy));
        }
        if writes && self.log_format.eq_ignore_ascii_case("STATEMENT") {
            let detail = "binlog_format is STATEMENT: with the isolation level READ COMMITTED, which Backscroll uses, that \
                          server refuses every write";
            let remedy = "set binlog_format = ROW (or MIXED) on that server";
            findings.push(Finding::failure(subject, detail, remedy));
        }
        if needs.prepared > u64::try_from(*prepared).unwrap_or(0) {
            let needed = needs.prepared;
            let detail = format!(
                "the server keeps {prepared} prepared statements, one router may prepare {needed}; beyond that it sends \
                 them as text, which costs the server more"
            );
            let remedy = "raise max_prepared_stmt_count there, or lower pool.max_connections here";
            findings.push(Finding::warning(subject, detail, remedy));
        }
        findings
    }
}

async fn may_write(subject: &str, used: Use, connection: &mut Connection) -> Option<Finding> {
    let (statement, value) = match used {
        Use::Directory => (TRY_DIRECTORY, Value::Text("doctor")),
        _ => (TRY_SHARD, Value::Bytes(NOBODY)),
    };
    let outcome = async {
        connection.begin().await?;
        connection.execute(statement, &[value]).await
    }
    .await;
    connection.rollback().await;
    match outcome {
        Ok(_) => None,
        // The schema is not there; that is a finding of its own.
        Err(Error::Statement {
            fault: StatementFault::MissingTable,
            ..
        }) => None,
        Err(error) => {
            let remedy = "grant the account SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER and INDEX on its database, and make sure that it is not read-only";
            Some(Finding::failure(
                subject,
                format!("cannot be written: {error}"),
                remedy,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    const NEEDS: Needs = Needs {
        connections: 100,
        prepared: 1000,
    };

    fn good() -> ServerSettings {
        ServerSettings {
            flush: 1,
            connections: 100,
            packet: PACKET_MIN,
            log_format: "ROW".to_owned(),
            prepared: 1000,
            cluster: Cluster::Alone,
        }
    }

    /// The settings that `used` is told about as failures, and as warnings.
    fn told(used: Use, change: impl FnOnce(&mut ServerSettings)) -> (String, String) {
        let mut settings = good();
        change(&mut settings);
        let findings = settings.findings("db1", used, NEEDS);
        let of = |verdict: Verdict| {
            let details = findings.iter().filter(|one| one.verdict == verdict);
            details.map(|one| one.detail.clone()).collect::<String>()
        };
        (of(Verdict::Failure), of(Verdict::Warning))
    }

    #[test]
    fn each_setting_that_breaks_a_promise_is_told() {
        assert_eq!(told(Use::Primary, |_| {}), Default::default());
        let (failures, _) = told(Use::Primary, |s| s.packet = PACKET_MIN - 1);
        assert!(failures.starts_with("max_allowed_packet"), "{failures}");
        for format in ["STATEMENT", "statement"] {
            let (failures, _) = told(Use::Directory, |s| s.log_format = format.to_owned());
            assert!(failures.starts_with("binlog_format"), "{failures}");
        }
        for (change, words) in [
            (
                (|s| s.flush = 2) as fn(&mut ServerSettings),
                "innodb_flush_log",
            ),
            (|s| s.connections = 99, "the server allows 99 connections"),
            (|s| s.prepared = 999, "the server keeps 999 prepared"),
        ] {
            let (failures, warnings) = told(Use::Primary, change);
            assert_eq!(failures, "");
            assert!(warnings.starts_with(words), "{warnings}");
        }
    }

    #[test]
    fn several_writers_of_the_same_tables_are_told() {
        let galera = |nodes| {
            let node = "db1a".to_owned();
            told(Use::Primary, |s| {
                s.cluster = Cluster::Galera { node, nodes }
            })
        };
        let (failures, warnings) = galera(3);
        assert_eq!(failures, "");
        assert!(
            warnings.starts_with("it is node db1a of a Galera cluster with 3"),
            "{warnings}"
        );
        assert_eq!(galera(1), Default::default());
        let (failures, _) = told(Use::Primary, |s| {
            s.cluster = Cluster::NotWriter {
                this: "db1b:3306".to_owned(),
                writer: "db1a:3306".to_owned(),
            };
        });
        assert!(
            failures
                .starts_with("its address leads to db1b:3306, and of its cluster only db1a:3306"),
            "{failures}"
        );
        let group = |used| told(used, |s| s.cluster = Cluster::MultiPrimary);
        let (failures, _) = group(Use::Directory);
        assert!(
            failures.starts_with("all members of its group take writes"),
            "{failures}"
        );
        assert_eq!(group(Use::Replica), Default::default());
    }

    #[test]
    fn formats_that_work_and_settings_that_only_writers_need_are_passed_over() {
        for format in ["MIXED", ""] {
            let with_format = told(Use::Primary, |s| s.log_format = format.to_owned());
            assert_eq!(with_format, Default::default(), "{format}");
        }
        let replica = told(Use::Replica, |s| {
            s.flush = 2;
            s.log_format = "STATEMENT".to_owned();
        });
        assert_eq!(replica, Default::default());
    }
}
