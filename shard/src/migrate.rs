//! Schema migrations of the directory and of every shard.
//!
//! A migration is one statement in one file under `migrations/`, applied in the order of the names and recorded in
//! `schema_migrations`. Every statement can be run again (`IF NOT EXISTS`; a column or an index that is there already is not added),
//! because MySQL commits DDL by itself: after a crash between a statement and its record the next run repeats it and goes on. Changes expand first and contract in a
//! later release, so that the old and the new binary run side by side. The name of a migration that contracts, so that
//! older binaries can no longer use the database, begins with `contract_` after its number: a binary that finds one that it does not
//! know refuses to start, and passes over others that it does not know.
//!
//! Two processes at once: MySQL takes a named lock per database, SQLite runs the whole migration in one write
//! transaction; the second finds nothing to do.
//!
//! Before anything is written, every database is compared with what its address stands for ([`crate::identity`]); where all
//! of them are empty, the deployment is made.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::db::{Connection, Database, Dialect, values};
use crate::error::{Error, Result, StatementFault};
use crate::identity::making::{Hook, Making, Step, writer};
use crate::identity::survey::Look;
use crate::identity::{self, Role};
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

const DIRECTORY_MYSQL: &[Migration] = migrations!("directory/mysql": "0001_shards", "0002_ranges", "0003_properties", "0004_shards_state", "0005_identity", "0006_moves", "0007_move_events");
const DIRECTORY_SQLITE: &[Migration] = migrations!(
    "directory/sqlite": "0001_shards", "0002_ranges", "0003_properties", "0004_shards_state", "0004_shards_state_incarnation",
    "0005_identity", "0006_moves", "0006_moves_state", "0007_move_events",
);
const SHARD_MYSQL: &[Migration] = migrations!(
    "shard/mysql": "0001_fences", "0002_conversations", "0003_members", "0004_messages", "0005_list_marks", "0006_users",
    "0007_list_entries", "0008_imports", "0009_archive_runs", "0010_archive_segments", "0011_leases", "0012_archive_jobs",
    "0013_erasures", "0014_holds", "0015_last_seen", "0016_notification_heads", "0017_notifications",
    "0018_conversations_writers", "0019_conversations_defaults", "0020_identity", "0021_archive_runs_first_rev",
    "0022_archive_segments_generation", "0023_erasures_rewritten_generation", "0024_messages_archived_client_msg_id",
    "0025_conversations_request_digest", "0026_fences_job", "0027_move_marks", "0028_arrivals",
);
const SHARD_SQLITE: &[Migration] = migrations!(
    "shard/sqlite": "0001_fences", "0002_conversations", "0002_conversations_marked", "0002_conversations_oldest_hot", "0003_members",
    "0003_members_rev", "0004_messages", "0004_messages_client_msg_id", "0004_messages_rev", "0005_list_marks",
    "0006_users", "0007_list_entries", "0007_list_entries_activity", "0007_list_entries_rev", "0008_imports",
    "0009_archive_runs", "0009_archive_runs_rev", "0009_archive_runs_segment", "0010_archive_segments",
    "0010_archive_segments_state", "0011_leases", "0012_archive_jobs", "0012_archive_jobs_started", "0013_erasures",
    "0013_erasures_open", "0014_holds", "0015_last_seen", "0016_notification_heads", "0017_notifications",
    "0017_notifications_unread", "0018_conversations_writers", "0020_identity", "0021_archive_runs_first_rev",
    "0022_archive_segments_generation", "0023_erasures_rewritten_generation", "0024_messages_archived_client_msg_id",
    "0025_conversations_request_digest", "0026_fences_job", "0026_fences_job_attempt", "0027_move_marks", "0028_arrivals",
);

/// Which schema a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    Directory,
    Shard,
}

impl Schema {
    pub(crate) fn of(role: &Role) -> Self {
        match role {
            Role::Directory => Self::Directory,
            Role::Shard(_) => Self::Shard,
        }
    }

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
/// Longest wait for a connection: two processes that open a new SQLite file at once both want to switch it to WAL.
const OPENING: Duration = Duration::from_secs(10);

/// Where it is put down which migrations were applied.
pub(crate) const TABLE: &str = "schema_migrations";
const CREATE_RECORD: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (name VARCHAR(128) NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)";
const APPLIED: &str = "SELECT name FROM schema_migrations";
const RECORD: &str = "INSERT INTO schema_migrations (name, applied_at) VALUES (?, {now}) {on_duplicate name} name = {new name}";
const LOCK: &str = "SELECT GET_LOCK(CONCAT('backscroll ', LEFT(DATABASE(), 50)), 600)";
const UNLOCK: &str = "SELECT RELEASE_LOCK(CONCAT('backscroll ', LEFT(DATABASE(), 50)))";

/// Migrates the directory and every shard of the deployment, and makes the deployment where all databases are empty. Safe to
/// run twice and from two processes at once. With `dry_run`, only says what it would do.
///
/// # Errors
/// [`Error::WrongDatabase`] before anything is written; at the first database that cannot be migrated: those before it are
/// done, and the next run goes on from there.
pub async fn migrate_all(settings: &StoreSettings, dry_run: bool) -> Result<Vec<MigrationReport>> {
    Ok(migrate_with(settings, dry_run, &|_| Ok(())).await?.reports)
}

/// What a migration run did, or with `dry_run` would do.
#[derive(Debug)]
pub struct Migrated {
    /// Of each database.
    pub reports: Vec<MigrationReport>,
    /// What of the configuration has no effect, and may be thought to have one.
    pub remarks: Vec<String>,
}

/// As [`migrate_all`]; `hook` is told of every step of making a deployment.
///
/// # Errors
/// As [`migrate_all`].
pub async fn migrate_with(
    settings: &StoreSettings,
    dry_run: bool,
    hook: Hook<'_>,
) -> Result<Migrated> {
    let (survey, plan) = identity::look_to_migrate(settings).await?;
    let looks = survey.looks().filter(|look| plan.concerns(&look.role));
    let mut migrated = Migrated {
        reports: Vec::new(),
        remarks: plan.remarks.clone(),
    };
    if dry_run {
        let reports =
            looks.filter_map(|look| Some(report(&look.role, &look.found.as_ref().ok()?.pending)));
        migrated.reports.extend(reports);
        return Ok(migrated);
    }
    let mut making = None;
    for look in looks {
        migrated.reports.push(migrate(&look.role, &look.url).await?);
        if plan.is_made {
            continue;
        }
        let database = Database::open_any(&look.url, &settings.pool)?;
        let marked = mark(look, &database, (settings, &mut making), hook).await;
        database.close().await;
        marked?;
    }
    if let Some(making) = making {
        let database = Database::open_any(&settings.directory.url, &settings.pool)?;
        let finished = making.finish(&mut writer(&database).await?, settings).await;
        database.close().await;
        finished?;
        hook(Step::Joined)?;
    }
    Ok(migrated)
}

/// The step of making a deployment that is about a database with its tables; the directory is the first.
async fn mark(
    look: &Look,
    database: &Database,
    (settings, making): (&StoreSettings, &mut Option<Making>),
    hook: Hook<'_>,
) -> Result<()> {
    let mut connection = writer(database).await?;
    match (&look.role, making) {
        (Role::Directory, making) => {
            hook(Step::DirectoryMigrated)?;
            *making = Some(Making::begin(&mut connection, settings).await?);
            hook(Step::DirectoryMarked)
        }
        (Role::Shard(shard), Some(making)) => {
            hook(Step::ShardMigrated)?;
            making.mark(&mut connection, shard, &look.url).await?;
            hook(Step::ShardMarked)
        }
        (Role::Shard(_), None) => Ok(()),
    }
}

/// What a database lacks after the migrations that were applied to it, in order.
pub(crate) fn pending(
    schema: Schema,
    dialect: Dialect,
    applied: &BTreeSet<String>,
) -> Vec<&'static str> {
    let all = schema.migrations(dialect).iter();
    all.map(|migration| migration.name)
        .filter(|name| !applied.contains(*name))
        .collect()
}

/// The migrations of a later version that were applied to a database, in order.
pub(crate) fn later(schema: Schema, dialect: Dialect, applied: &BTreeSet<String>) -> Vec<String> {
    let known = |name: &&String| {
        let mut all = schema.migrations(dialect).iter();
        all.any(|migration| migration.name == **name)
    };
    applied
        .iter()
        .filter(|name| !known(name))
        .cloned()
        .collect()
}

/// Whether older versions cannot use a database with this migration.
pub(crate) fn contracts(name: &str) -> bool {
    let (_, what) = name.split_once('_').unwrap_or_default();
    what.starts_with("contract_")
}

/// The migrations that were applied to a database that records them.
///
/// # Errors
/// When the database fails.
pub(crate) async fn applied(connection: &mut Connection) -> Result<BTreeSet<String>> {
    let rows = connection.fetch_all(APPLIED, &[]).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

pub(crate) async fn migrate(role: &Role, url: &DatabaseUrl) -> Result<MigrationReport> {
    if let Some(folder) = url.file().and_then(std::path::Path::parent) {
        std::fs::create_dir_all(folder).map_err(|error| {
            let what = format!("cannot make the folder {}: {error}", folder.display());
            Error::invalid("database url", what)
        })?;
    }
    let settings = PoolSettings {
        max_connections: 1,
        acquire_timeout: Span(OPENING),
        lock_timeout: Span(PATIENCE),
        statement_timeout: Span(PATIENCE),
        ..PoolSettings::default()
    };
    let pool = Database::make(url, &settings)?;
    let mut connection = pool.writer(Instant::now() + PATIENCE).await?;
    let outcome = run(&mut connection, role).await;
    if outcome.is_err() {
        connection.rollback().await;
    }
    drop(connection);
    pool.close().await;
    outcome
}

async fn run(connection: &mut Connection, role: &Role) -> Result<MigrationReport> {
    let dialect = connection.dialect();
    match dialect {
        Dialect::Sqlite => connection.begin().await?,
        Dialect::MySql => {
            let row = connection.fetch_optional(LOCK, &[]).await?;
            if row.map(|row| row.opt_int(0)).transpose()?.flatten() != Some(1) {
                return Err(Error::Conflict(
                    "another process is migrating this database; try again when it is done",
                ));
            }
        }
    }
    connection.execute_raw(CREATE_RECORD).await?;
    let applied = applied(connection).await?;
    let schema = Schema::of(role);
    let pending = pending(schema, dialect, &applied);
    let migrations = schema.migrations(dialect).iter();
    for migration in migrations.filter(|it| pending.contains(&it.name)) {
        match connection.execute_raw(migration.sql).await {
            Err(Error::Statement {
                fault: StatementFault::AlreadyThere,
                ..
            }) => {}
            outcome => outcome?,
        }
        connection.execute(RECORD, &values![migration.name]).await?;
        tracing::info!(database = %role, migration = migration.name, "migrated");
    }
    match dialect {
        Dialect::Sqlite => connection.commit().await?,
        Dialect::MySql => drop(connection.fetch_optional(UNLOCK, &[]).await?),
    }
    Ok(report(role, &pending))
}

fn report(role: &Role, pending: &[&str]) -> MigrationReport {
    MigrationReport {
        database: match role {
            Role::Directory => "directory".into(),
            Role::Shard(name) => name.to_string(),
        },
        up_to_date: pending.is_empty(),
        applied: pending.iter().map(ToString::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn migrations_of_a_later_version_are_told_apart() {
        let schema = Schema::of(&Role::Directory);
        let known = |it: &Migration| it.name.to_owned();
        let mut applied: BTreeSet<String> = DIRECTORY_MYSQL.iter().map(known).collect();
        assert!(later(schema, Dialect::MySql, &applied).is_empty());
        applied.extend(["9998_more".into(), "9999_contract_less".into()]);
        let later = later(schema, Dialect::MySql, &applied);
        assert_eq!(later, ["9998_more", "9999_contract_less"]);
        assert_eq!(later.iter().filter(|name| contracts(name)).count(), 1);
    }

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
