//! Schema migrations of the directory and of every shard.
//!
//! A migration is one statement in one file under `migrations/`, applied in the order of the names and recorded in
//! `schema_migrations`. Every statement can be run again (`IF NOT EXISTS`; a column or an index that is there already is not added),
//! because MySQL commits DDL by itself: after a crash between a statement and its record the next run repeats it and goes on. Changes expand first and contract in a
//! later release, so that the old and the new binary run side by side.
//!
//! Two processes at once: MySQL takes a named lock per database, SQLite runs the whole migration in one write
//! transaction; the second finds nothing to do.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::db::{Connection, Database, Dialect, values};
use crate::directory;
use crate::error::{Error, Result, is_contention, is_there_already};
use crate::model::Timestamp;
use crate::settings::{DatabaseUrl, PoolSettings, Span, StoreSettings};

struct Migration {
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(Migration { name: $name, sql: include_str!(concat!("../../migrations/", $folder, "/", $name, ".sql")) }),*]
    };
}

const DIRECTORY_MYSQL: &[Migration] =
    migrations!("directory/mysql": "0001_shards", "0002_ranges", "0003_properties");
const DIRECTORY_SQLITE: &[Migration] =
    migrations!("directory/sqlite": "0001_shards", "0002_ranges", "0003_properties");
const SHARD_MYSQL: &[Migration] = migrations!(
    "shard/mysql": "0001_fences", "0002_conversations", "0003_members", "0004_messages", "0005_list_marks", "0006_users",
    "0007_list_entries", "0008_imports", "0009_archive_runs", "0010_archive_segments", "0011_leases", "0012_archive_jobs",
    "0013_erasures", "0014_holds", "0015_last_seen", "0016_notification_heads", "0017_notifications",
    "0018_conversations_writers", "0019_conversations_defaults", "0021_archive_runs_first_rev",
    "0022_archive_segments_generation", "0023_erasures_rewritten_generation", "0024_messages_archived_client_msg_id",
);
const SHARD_SQLITE: &[Migration] = migrations!(
    "shard/sqlite": "0001_fences", "0002_conversations", "0002_conversations_marked", "0002_conversations_oldest_hot", "0003_members",
    "0003_members_rev", "0004_messages", "0004_messages_client_msg_id", "0004_messages_rev", "0005_list_marks",
    "0006_users", "0007_list_entries", "0007_list_entries_activity", "0007_list_entries_rev", "0008_imports",
    "0009_archive_runs", "0009_archive_runs_rev", "0009_archive_runs_segment", "0010_archive_segments",
    "0010_archive_segments_state", "0011_leases", "0012_archive_jobs", "0012_archive_jobs_started", "0013_erasures",
    "0013_erasures_open", "0014_holds", "0015_last_seen", "0016_notification_heads", "0017_notifications",
    "0017_notifications_unread", "0018_conversations_writers", "0021_archive_runs_first_rev",
    "0022_archive_segments_generation", "0023_erasures_rewritten_generation", "0024_messages_archived_client_msg_id",
);

/// Which schema a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schema {
    Directory,
    Shard,
}

impl Schema {
    fn migrations(self, dialect: Dialect) -> &'static [Migration] {
        match (self, dialect) {
            (Self::Directory, Dialect::MySql) => DIRECTORY_MYSQL,
            (Self::Directory, Dialect::Sqlite) => DIRECTORY_SQLITE,
            (Self::Shard, Dialect::MySql) => SHARD_MYSQL,
            (Self::Shard, Dialect::Sqlite) => SHARD_SQLITE,
        }
    }
}

/// What a migration run did to one database, or with `dry_run` would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationReport {
    /// `directory`, or the shard's name.
    pub database: String,
    /// The migrations that were (or would be) applied, in order.
    pub applied: Vec<String>,
    /// Nothing was left to do.
    pub up_to_date: bool,
}

/// Longest wait for another process that is migrating the same database, and longest run of one statement.
const PATIENCE: Duration = Duration::from_secs(600);

const CREATE_RECORD: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (name VARCHAR(128) NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)";
const APPLIED: &str = "SELECT name FROM schema_migrations";
const RECORD: &str = "INSERT INTO schema_migrations (name, applied_at) VALUES (?, ?) {on_duplicate name} name = {new name}";
const LOCK: &str = "SELECT GET_LOCK(CONCAT('backscroll ', LEFT(DATABASE(), 50)), 600)";
const UNLOCK: &str = "SELECT RELEASE_LOCK(CONCAT('backscroll ', LEFT(DATABASE(), 50)))";

/// Migrates the directory and every shard, and writes the first map and its fences into an empty directory. Safe to run
/// twice and from two processes at once. With `dry_run`, only says what it would do.
///
/// # Errors
/// At the first database that cannot be migrated; those before it are done, and the next run goes on from there.
pub async fn migrate_all(settings: &StoreSettings, dry_run: bool) -> Result<Vec<MigrationReport>> {
    let mut reports = vec![
        migrate(
            "directory",
            &settings.directory.url,
            Schema::Directory,
            dry_run,
        )
        .await?,
    ];
    for shard in &settings.shards {
        reports.push(migrate(shard.name.as_str(), &shard.primary, Schema::Shard, dry_run).await?);
    }
    if !dry_run {
        directory::initialise(settings).await?;
    }
    Ok(reports)
}

async fn migrate(
    database: &str,
    url: &DatabaseUrl,
    schema: Schema,
    dry_run: bool,
) -> Result<MigrationReport> {
    if Dialect::of(url)? == Dialect::Sqlite {
        let exists = prepare_sqlite_file(url, dry_run)?;
        if !exists {
            return Ok(report(
                database,
                schema.migrations(Dialect::Sqlite).iter().collect(),
            ));
        }
    }
    let settings = PoolSettings {
        max_connections: 1,
        lock_timeout: Span(PATIENCE),
        statement_timeout: Span(PATIENCE),
        ..PoolSettings::default()
    };
    let pool = Database::open(url, &settings, 1)?;
    let mut connection = connect(&pool).await?;
    let outcome = run(&mut connection, database, schema, dry_run).await;
    if outcome.is_err() {
        connection.rollback().await;
    }
    drop(connection);
    pool.close().await;
    outcome
}

/// Makes the file's folder; says whether there is (or may be made) a file to look into.
fn prepare_sqlite_file(url: &DatabaseUrl, dry_run: bool) -> Result<bool> {
    let path = Path::new(url.0.trim_start_matches("sqlite://"));
    if dry_run {
        return Ok(path.exists());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| {
            Error::invalid(
                "database url",
                format!("cannot make the folder {}: {error}", folder.display()),
            )
        })?;
    }
    Ok(true)
}

/// Two processes that open a new SQLite file at once may both want to switch it to WAL: the loser tries again.
async fn connect(pool: &Database) -> Result<Connection> {
    for _ in 0..50 {
        match pool.writer(Instant::now() + PATIENCE).await {
            Err(Error::Database(error)) if is_contention(&error) => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            outcome => return outcome,
        }
    }
    pool.writer(Instant::now() + PATIENCE).await
}

async fn run(
    connection: &mut Connection,
    database: &str,
    schema: Schema,
    dry_run: bool,
) -> Result<MigrationReport> {
    let dialect = connection.dialect();
    match dialect {
        Dialect::Sqlite => connection.begin().await?,
        Dialect::MySql if !dry_run => {
            let row = connection.fetch_optional(LOCK, &[]).await?;
            if row.map(|row| row.opt_int(0)).transpose()?.flatten() != Some(1) {
                return Err(Error::Conflict(
                    "another process is migrating this database; try again when it is done",
                ));
            }
        }
        Dialect::MySql => {}
    }
    let pending = pending(connection, schema, dry_run).await?;
    if !dry_run {
        for migration in &pending {
            match connection.execute_raw(migration.sql).await {
                Err(Error::Database(error)) if is_there_already(&error) => {}
                outcome => outcome?,
            }
            connection
                .execute(RECORD, &values![migration.name, Timestamp::now().0])
                .await?;
            tracing::info!(database, migration = migration.name, "migrated");
        }
    }
    match dialect {
        Dialect::Sqlite if dry_run => connection.rollback().await,
        Dialect::Sqlite => connection.commit().await?,
        Dialect::MySql if !dry_run => drop(connection.fetch_optional(UNLOCK, &[]).await?),
        Dialect::MySql => {}
    }
    Ok(report(database, pending))
}

async fn pending(
    connection: &mut Connection,
    schema: Schema,
    dry_run: bool,
) -> Result<Vec<&'static Migration>> {
    let all = schema.migrations(connection.dialect()).iter();
    if !dry_run {
        connection.execute_raw(CREATE_RECORD).await?;
    }
    let applied = match connection.fetch_all(APPLIED, &[]).await {
        Ok(rows) => rows
            .iter()
            .map(|row| row.text(0))
            .collect::<Result<BTreeSet<_>>>()?,
        Err(Error::Database(error)) if dry_run && error.as_database_error().is_some() => {
            BTreeSet::new()
        } // no such table yet
        Err(error) => return Err(error),
    };
    Ok(all
        .filter(|migration| !applied.contains(migration.name))
        .collect())
}

fn report(database: &str, pending: Vec<&Migration>) -> MigrationReport {
    MigrationReport {
        database: database.to_owned(),
        up_to_date: pending.is_empty(),
        applied: pending
            .into_iter()
            .map(|migration| migration.name.to_owned())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_its_list_and_in_order() {
        let lists = [
            ("directory/mysql", DIRECTORY_MYSQL),
            ("directory/sqlite", DIRECTORY_SQLITE),
            ("shard/mysql", SHARD_MYSQL),
            ("shard/sqlite", SHARD_SQLITE),
        ];
        for (folder, list) in lists {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../migrations")
                .join(folder);
            let mut files: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|file| {
                    file.unwrap()
                        .path()
                        .file_stem()
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned()
                })
                .collect();
            files.sort();
            let names: Vec<&str> = list.iter().map(|migration| migration.name).collect();
            assert_eq!(names, files, "{folder}");
            for migration in list {
                let sql: String = migration
                    .sql
                    .lines()
                    .filter_map(|line| line.split("--").next())
                    .collect();
                assert!(
                    !sql.contains(';'),
                    "{folder}/{}: one statement a file",
                    migration.name
                );
                assert!(
                    [
                        "IF NOT EXISTS",
                        " ADD COLUMN ",
                        " ADD KEY ",
                        " SET DEFAULT "
                    ]
                    .iter()
                    .any(|words| sql.contains(words)),
                    "{folder}/{} can be run again",
                    migration.name
                );
            }
        }
    }
}
