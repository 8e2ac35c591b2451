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

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::db::identity::Role;
use crate::db::{Connection, Database, Dialect, values};
use crate::error::{Error, Result, StatementFault};
use crate::identity;
use crate::identity::making::{Hook, Making, Step, writer};
use crate::identity::survey::Look;
use crate::schema::{Schema, applied, pending};
use crate::settings::{DatabaseUrl, PoolSettings, Span, StoreSettings};

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

const CREATE_RECORD: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (name VARCHAR(128) NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)";
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
        let database = Database::open_any(&look.url, &settings.pool)?;
        let prepared = async {
            if matches!(look.role, Role::Shard(_)) {
                identity::writer::claim(&database).await?;
            }
            match plan.is_made {
                true => Ok(()),
                false => mark(look, &database, (settings, &mut making), hook).await,
            }
        };
        let prepared = prepared.await;
        database.close().await;
        prepared?;
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
        tracing::debug!(database = %role, migration = migration.name, "migrated");
    }
    if !pending.is_empty() {
        let (first, last) = (pending.first(), pending.last());
        tracing::info!(database = %role, migrations = pending.len(), ?first, ?last, "migrated");
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
