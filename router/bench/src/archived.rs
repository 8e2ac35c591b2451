//! Rows to be archived, as often as they are wanted: by the archive job out of a shard, and by `pt-archiver` out of a
//! table like it; and what the archive has stored of them.
//!
//! A copy of the shard's rows is kept in a database of its own, and every round begins with them brought back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use backscroll_archiver::jobs::run::RunFigures;
use backscroll_archiver::jobs::{ArchiveJobs, Order, Progress};
use backscroll_archiver::object_store::ObjectStore;
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::model::Timestamp;
use backscroll_shard::routing::Router;
use backscroll_shard::settings::{DatabaseUrl, StoreSettings};
use serde::Serialize;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::time::sleep;

use crate::harness::databases::Databases;
use crate::pt_archiver;

/// The databases that [`Rows`] works on, beside `directory`.
pub const DATABASES: [&str; 3] = ["shard1", "copy", "theirs"];
/// How long the server may take to come to rest.
const REST: Duration = Duration::from_secs(60);
/// How often it is asked whether it has.
const LOOK: Duration = Duration::from_secs(1);
/// What the server still has to do: bytes of pages to be written, and deleted rows to be removed for good.
const LEFT_TO_DO: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN \
     ('Innodb_buffer_pool_pages_dirty', 'Innodb_history_list_length')";

/// The settings of a store on the databases `directory` and `shard1`, as the router has them.
#[must_use]
pub fn store_settings(databases: &Databases) -> StoreSettings {
    let mut settings = StoreSettings::embedded("", 1);
    settings.directory.url = DatabaseUrl(databases.url("directory"));
    for shard in &mut settings.shards {
        shard.primary = DatabaseUrl(databases.url("shard1"));
    }
    settings
}

/// The archive of that store.
///
/// # Errors
/// When the databases do not answer.
pub async fn open_archive(
    settings: &StoreSettings,
    objects: Arc<dyn ObjectStore>,
    archive_settings: ArchiveSettings,
) -> Result<ArchiveJobs> {
    let router = Arc::new(Router::open(settings).await?);
    Ok(ArchiveJobs::new(router, objects, archive_settings))
}

/// Archives what was sent before `cutoff`, and says how long that took.
///
/// # Errors
/// When the job does not get to its end.
pub async fn run_job(
    archive: &ArchiveJobs,
    cutoff: i64,
    progress: &Progress,
) -> Result<(Duration, RunFigures)> {
    let order = Order {
        actor: "bench".into(),
        reason: "measured".into(),
        shard: None,
    };
    let begin = Instant::now();
    let outcomes = archive.run(&order, Timestamp(cutoff), progress).await?;
    let elapsed = begin.elapsed();
    let outcome = outcomes.into_iter().next().context("there is no shard")?;
    if let Some(error) = outcome.error {
        anyhow::bail!("the archive job: {error}");
    }
    Ok((elapsed, outcome.figures))
}

/// What the archive has stored, beside what the rows took.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Messages.
    pub messages: u64,
    /// Bytes of their segments.
    pub bytes: u64,
    /// Frames.
    pub frames: u64,
    /// Compressed bytes of the longest frame.
    pub longest_frame: u64,
    /// Rows of the index.
    pub runs: u64,
    /// Bytes that the tables `archive_runs` and `archive_segments` take, indexes included.
    pub index_bytes: u64,
    /// Bytes that the messages took as rows, indexes included.
    pub hot_bytes: u64,
}

impl Stored {
    /// Bytes a message.
    #[must_use]
    pub fn bytes_each(&self) -> f64 {
        self.bytes as f64 / self.messages.max(1) as f64
    }

    /// The index's part of the bytes that the rows took.
    #[must_use]
    pub fn index_share(&self) -> f64 {
        self.index_bytes as f64 / self.hot_bytes.max(1) as f64
    }
}

/// The rows, and the tables they are brought back to.
pub struct Rows<'a> {
    databases: &'a Databases,
    connection: MySqlConnection,
    /// How many rows there are.
    pub count: u64,
    /// All of them were created before this, in milliseconds since 1970.
    pub cutoff: i64,
    hot_bytes: u64,
}

impl<'a> Rows<'a> {
    /// Copies all messages that are in `shard1` now.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn copy(databases: &'a Databases) -> Result<Self> {
        let mut rows = Self {
            databases,
            connection: databases.connect_to_server().await?,
            count: 0,
            cutoff: 0,
            hot_bytes: 0,
        };
        for table in ["messages", "conversations"] {
            rows.run(&format!(
                "CREATE TABLE {{copy}}.{table} LIKE {{shard1}}.{table}"
            ))
            .await?;
            rows.run(&format!(
                "INSERT INTO {{copy}}.{table} SELECT * FROM {{shard1}}.{table}"
            ))
            .await?;
        }
        rows.run("CREATE TABLE {theirs}.messages LIKE {shard1}.messages")
            .await?;
        rows.count = rows.number("SELECT COUNT(*) FROM {copy}.messages").await?;
        let newest = rows
            .number("SELECT MAX(created_at) FROM {copy}.messages")
            .await?;
        rows.cutoff = newest.cast_signed() + 1;
        rows.hot_bytes = rows.size("copy", &["messages"]).await?;
        Ok(rows)
    }

    /// Brings the shard's rows back, as if they had never been archived; other conversations stay as they are.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn bring_back(&mut self) -> Result<()> {
        for statement in [
            "DELETE FROM {shard1}.archive_runs",
            "DELETE FROM {shard1}.archive_segments",
            "INSERT IGNORE INTO {shard1}.messages SELECT * FROM {copy}.messages",
            "UPDATE {shard1}.conversations c JOIN {copy}.conversations b ON b.id = c.id SET c.oldest_hot_at = b.oldest_hot_at",
        ] {
            self.run(statement).await?;
        }
        self.rest().await
    }

    /// Brings the shard's rows back as its only ones, in a table as new.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn prepare_ours(&mut self) -> Result<()> {
        self.run("TRUNCATE TABLE {shard1}.messages").await?;
        self.bring_back().await
    }

    /// Checks that a job archived and deleted every row.
    ///
    /// # Errors
    /// When it did not.
    pub async fn check_archived(&mut self, figures: &RunFigures) -> Result<()> {
        ensure!(
            (figures.messages, figures.deleted) == (self.count, self.count),
            "of {} messages, {} were archived and {} deleted",
            self.count,
            figures.messages,
            figures.deleted
        );
        self.check_gone("shard1").await
    }

    /// Archives the same rows with `pt-archiver`, and checks that it did.
    ///
    /// # Errors
    /// When it did not.
    pub async fn theirs(&mut self) -> Result<Duration> {
        self.run("TRUNCATE TABLE {theirs}.messages").await?;
        self.run("INSERT INTO {theirs}.messages SELECT * FROM {copy}.messages")
            .await?;
        self.rest().await?;
        let (elapsed, written) = pt_archiver::run(self.databases, "theirs", self.cutoff).await?;
        self.check_gone("theirs").await?;
        ensure!(
            written == self.count,
            "pt-archiver wrote {written} rows of {}",
            self.count
        );
        Ok(elapsed)
    }

    /// Checks that none of the rows is in a database.
    async fn check_gone(&mut self, database: &str) -> Result<()> {
        let left = format!(
            "SELECT COUNT(*) FROM {{{database}}}.messages WHERE created_at < {}",
            self.cutoff
        );
        let left = self.number(&left).await?;
        ensure!(left == 0, "{left} rows were left in {database}");
        Ok(())
    }

    /// What the archive has stored; right after a job.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn stored(&mut self) -> Result<Stored> {
        let sum = |what: &str| {
            format!(
                "SELECT CAST(SUM({what}) AS SIGNED) FROM {{shard1}}.archive_segments WHERE state = 'settled'"
            )
        };
        let frames = "SELECT COUNT(DISTINCT segment, frame_offset) FROM {shard1}.archive_runs";
        Ok(Stored {
            messages: self.number(&sum("messages")).await?,
            bytes: self.number(&sum("bytes")).await?,
            frames: self.number(frames).await?,
            longest_frame: self
                .number("SELECT MAX(frame_length) FROM {shard1}.archive_runs")
                .await?,
            runs: self
                .number("SELECT COUNT(*) FROM {shard1}.archive_runs")
                .await?,
            index_bytes: self
                .size("shard1", &["archive_runs", "archive_segments"])
                .await?,
            hot_bytes: self.hot_bytes,
        })
    }

    /// Waits until the server does no more for what was done.
    async fn rest(&mut self) -> Result<()> {
        let deadline = Instant::now() + REST;
        let mut before = u64::MAX;
        loop {
            sleep(LOOK).await;
            let mut left = 0;
            for row in self.connection.fetch_all(LEFT_TO_DO).await? {
                left += row.try_get::<String, _>(1)?.parse::<u64>().unwrap_or(0);
            }
            if left >= before || Instant::now() > deadline {
                return Ok(());
            }
            before = left;
        }
    }

    /// Bytes that tables of a database take, indexes included.
    async fn size(&mut self, database: &str, tables: &[&str]) -> Result<u64> {
        let mut bytes = 0;
        for table in tables {
            self.run(&format!("OPTIMIZE TABLE {{{database}}}.{table}"))
                .await?;
            let size = format!(
                "SELECT CAST(data_length + index_length AS SIGNED) FROM information_schema.tables \
                 WHERE table_schema = '{{{database}}}' AND table_name = '{table}'"
            );
            bytes += self.number(&size).await?;
        }
        Ok(bytes)
    }

    /// Runs a statement in which databases are called `{name}`.
    async fn run(&mut self, statement: &str) -> Result<()> {
        let statement = self.named(statement);
        let done = self.connection.execute(AssertSqlSafe(statement.clone()));
        done.await.with_context(|| format!("cannot: {statement}"))?;
        Ok(())
    }

    async fn number(&mut self, statement: &str) -> Result<u64> {
        let statement = self.named(statement);
        let number: i64 = sqlx::query_scalar(AssertSqlSafe(statement))
            .fetch_one(&mut self.connection)
            .await?;
        Ok(number.cast_unsigned())
    }

    fn named(&self, statement: &str) -> String {
        DATABASES.iter().fold(statement.to_owned(), |named, name| {
            named.replace(&format!("{{{name}}}"), &self.databases.name(name))
        })
    }
}
