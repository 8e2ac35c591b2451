//! One database: does it answer, may we write, does it keep what it acknowledges, is its clock right?

use std::time::{Duration, Instant};

use backscroll_shard::clock;
use backscroll_shard::db::{Connection, Database, Dialect, Value};
use backscroll_shard::error::{Error, Result, StatementFault};
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
    let lanes = if used == Use::Primary { lanes } else { 0 };
    let needs = Needs {
        connections: pool.max_connections + lanes,
        prepared: Database::most_prepared(pool.max_connections, lanes),
    };
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
    let one = PoolSettings {
        max_connections: 1,
        ..pool.clone()
    };
    let database = Database::open_any(url, &one)?;
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
        findings.extend(server(subject, used, needs, &mut connection).await?);
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

async fn server(
    subject: &str,
    used: Use,
    needs: Needs,
    connection: &mut Connection,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if used != Use::Replica && int(connection, DURABILITY_MYSQL).await? != 1 {
        let detail = "innodb_flush_log_at_trx_commit is not 1: a crash of that machine loses acknowledged messages (INV-ACK)";
        findings.push(Finding::warning(
            subject,
            detail,
            "set innodb_flush_log_at_trx_commit = 1 on that server",
        ));
    }
    let allowed = int(connection, CONNECTIONS_MYSQL).await?;
    if i64::from(needs.connections) > allowed {
        let detail = format!(
            "the server allows {allowed} connections, one router may open {}",
            needs.connections
        );
        findings.push(Finding::warning(
            subject,
            detail,
            "raise max_connections there, or lower pool.max_connections here",
        ));
    }
    let packet = int(connection, PACKET_MYSQL).await?;
    if packet < PACKET_MIN {
        let detail = format!(
            "max_allowed_packet is {packet} bytes: statements of up to {PACKET_MIN} bytes are refused, which may be messages"
        );
        findings.push(Finding::failure(
            subject,
            detail,
            "set max_allowed_packet = 16M on that server",
        ));
    }
    // Servers that have no such variable any more log rows.
    let log = connection
        .fetch_optional(LOG_MYSQL, &[])
        .await
        .ok()
        .flatten();
    let format = log.map(|row| row.text(0)).transpose()?.unwrap_or_default();
    if used != Use::Replica && format.eq_ignore_ascii_case("STATEMENT") {
        let detail = "binlog_format is STATEMENT: with the isolation level READ COMMITTED, which Backscroll uses, that server \
                      refuses every write";
        findings.push(Finding::failure(
            subject,
            detail,
            "set binlog_format = ROW (or MIXED) on that server",
        ));
    }
    let kept = u64::try_from(int(connection, PREPARED_MYSQL).await?).unwrap_or(0);
    if needs.prepared > kept {
        let detail = format!(
            "the server keeps {kept} prepared statements, one router may prepare {}; beyond that it sends them as text, \
             which costs the server more",
            needs.prepared
        );
        findings.push(Finding::warning(
            subject,
            detail,
            "raise max_prepared_stmt_count there, or lower pool.max_connections here",
        ));
    }
    Ok(findings)
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
