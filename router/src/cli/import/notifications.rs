//! `import --notifications`: what another system has told its users apart from messages.
//!
//! The input is in the order of time. It is cut into batches, and the rows of each user in a batch are one transaction. Rows that
//! are stored are found again by their time and content, so that an import that was interrupted is run again.
//!
//! A file is read twice: all its lines are checked before the first is stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use backscroll_shard::ids::{KeyFunction, UserId};
use backscroll_shard::import::check_notification;
use backscroll_shard::model::NotificationRecord;
use backscroll_shard::settings::{LimitSettings, StoreSettings};
use backscroll_shard::tasks::Supervisor;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use tokio::sync::mpsc;

use super::patience::patiently;
use super::source::{self, Source};
use super::writer::StoreRef;
use super::{Args, empty};
use crate::boot;
use crate::cli::progress::{Progress, Tally};
use crate::cli::{BadInput, out};
use crate::config::Config;

/// Longest line, in bytes: four times what the longest texts and metadata take.
const LINE_MAX_BYTES: u64 = 64 << 10;
/// Most rows, and most bytes of the input, in a batch.
const BATCH_ROWS: usize = 10_000;
const BATCH_BYTES: u64 = 8 << 20;
/// Users whose rows are stored at the same time.
const USERS_AT_ONCE: usize = 8;

/// The rows of each user.
type Batch = BTreeMap<UserId, Vec<NotificationRecord>>;

/// The outcome, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    /// Notifications stored by this run.
    notifications: u64,
    /// Notifications that are there already, are older than their user's newest, or more than are kept.
    left_out: u64,
    seconds: f64,
}

/// Imports them.
///
/// # Errors
/// [`BadInput`] for the first line that is not good; when the store fails.
pub(super) async fn run(config: Config, args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let total = check(args, &config.store).await?;
    let tally = Arc::new(Tally::default());
    let progress = Progress::start("importing", "notifications", tally.clone(), total);
    let path = args.file.clone();
    let settings = config.store.clone();
    let source = tokio::task::spawn_blocking(move || Source::open(&path)).await??;
    let deployment = boot::open(&config, &Supervisor::default()).await?;
    let (batches, queue) = mpsc::channel(1);
    let read =
        tokio::task::spawn_blocking(move || feed(&mut Rows::new(source, &settings), &batches));
    let read = async { read.await.context("the reader failed")? };
    let write = write(&deployment.store, queue, &tally);
    // What was read before a bad line is written; a writer that fails ends the reading.
    let (read, written) = progress
        .until(futures_util::future::join(read, write))
        .await;
    boot::close(&deployment).await;
    written?;
    if let Err(error) = read {
        let before = "the lines before it are stored; mend it and import the whole again";
        return Err(match error.downcast::<BadInput>() {
            Ok(BadInput(what)) => {
                BadInput(format!("{}, {what}; {before}", args.file.display())).into()
            }
            Err(error) => error,
        });
    }
    if tally.done() == 0 {
        return Err(empty(args));
    }
    report(args, &tally, started)
}

fn report(args: &Args, tally: &Tally, started: Instant) -> anyhow::Result<()> {
    let (done, stored) = (tally.done(), tally.stored());
    let summary = Summary {
        notifications: stored,
        left_out: done - stored,
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    };
    if args.json {
        return out::json(&summary);
    }
    out::line(format_args!(
        "{}, {:.1} s",
        out::counted(stored, "notification"),
        summary.seconds
    ))?;
    if summary.left_out > 0 {
        out::line(format_args!(
            "{} left out: there already, older than their user's newest, or more than limits.notifications keeps",
            out::counted(summary.left_out, "notification")
        ))?;
    }
    Ok(())
}

/// Reads the whole of a file and stores nothing: how many rows it has, `None` for standard input.
async fn check(args: &Args, settings: &StoreSettings) -> anyhow::Result<Option<u64>> {
    if !source::can_be_read_twice(&args.file) {
        return Ok(None);
    }
    let (path, settings) = (args.file.clone(), settings.clone());
    let check = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        let mut rows = Rows::new(Source::open(&path)?, &settings);
        let mut count = 0;
        let named = |error: anyhow::Error| match error.downcast::<BadInput>() {
            Ok(BadInput(what)) => {
                BadInput(format!("{}, {what}; nothing was stored", path.display())).into()
            }
            Err(error) => error,
        };
        while rows.next().map_err(named)?.is_some() {
            count += 1;
        }
        Ok(count)
    });
    match check.await?? {
        0 => Err(empty(args)),
        count => Ok(Some(count)),
    }
}

/// Cuts `rows` into batches, until the end or a bad line.
fn feed(rows: &mut Rows, batches: &mpsc::Sender<Batch>) -> anyhow::Result<()> {
    loop {
        let (mut batch, mut count, mut bytes) = (Batch::new(), 0, 0);
        let mut end = None;
        while end.is_none() && count < BATCH_ROWS && bytes < BATCH_BYTES {
            match rows.next() {
                Ok(Some((row, length))) => {
                    (count, bytes) = (count + 1, bytes + length);
                    batch.entry(row.user.clone()).or_default().push(row);
                }
                Ok(None) => end = Some(Ok(())),
                Err(error) => end = Some(Err(error)),
            }
        }
        if !batch.is_empty() && batches.blocking_send(batch).is_err() {
            return Ok(()); // the writer has failed, and says why
        }
        if let Some(end) = end {
            return end;
        }
    }
}

async fn write(
    store: &StoreRef,
    mut queue: mpsc::Receiver<Batch>,
    tally: &Tally,
) -> anyhow::Result<()> {
    while let Some(batch) = queue.recv().await {
        let users = batch.iter().map(|(user, rows)| async move {
            let stored = patiently(|| store.import_notifications(user, rows)).await?;
            tally.add_stored(stored);
            tally.add_done(rows.len() as u64);
            anyhow::Ok(())
        });
        let storing = stream::iter(users).buffer_unordered(USERS_AT_ONCE);
        storing.try_collect::<()>().await?;
    }
    Ok(())
}

/// The rows of an input, checked.
struct Rows {
    source: Source,
    keys: KeyFunction,
    limits: LimitSettings,
    line: Vec<u8>,
    number: u64,
    last: i64,
}

impl Rows {
    fn new(source: Source, settings: &StoreSettings) -> Self {
        Self {
            source,
            keys: settings.keyspace.function,
            limits: settings.limits.clone(),
            line: Vec::new(),
            number: 0,
            last: 0,
        }
    }

    /// The next row, with its length in the input; `None` at the end. Empty lines are passed over.
    ///
    /// # Errors
    /// [`BadInput`] that names the line; when the input cannot be read.
    fn next(&mut self) -> anyhow::Result<Option<(NotificationRecord, u64)>> {
        loop {
            self.line.clear();
            self.number += 1;
            let read = self.source.line(&mut self.line, LINE_MAX_BYTES);
            if !read.with_context(|| format!("cannot read line {}", self.number))? {
                return Ok(None);
            }
            if !self.line.trim_ascii().is_empty() {
                let row = self.row();
                let row = row.map_err(|what| BadInput(format!("line {}: {what}", self.number)))?;
                return Ok(Some((row, self.line.len() as u64)));
            }
        }
    }

    fn row(&mut self) -> Result<NotificationRecord, String> {
        if self.line.len() as u64 == LINE_MAX_BYTES && !self.line.ends_with(b"\n") {
            return Err(format!("is longer than {LINE_MAX_BYTES} bytes"));
        }
        // Serde would also take a list of the fields' values for an object.
        if !self.line.trim_ascii_start().starts_with(b"{") {
            return Err("is not a JSON object".into());
        }
        let row: NotificationRecord = serde_json::from_slice(&self.line).map_err(|error| {
            let error = error.to_string();
            let what = error.split_once(" at line ").map_or(error.as_str(), |(what, _)| what);
            format!(r#"{what}; write {{"user":"bob","at":1551441600000,"type":"offer","title":"A new offer"}}"#)
        })?;
        check_notification(&row, &self.limits).map_err(|error| error.to_string())?;
        let user = &row.user;
        self.keys
            .key(user)
            .map_err(|error| format!("user: `{user}`: {error} (keyspace.function)"))?;
        if row.at < self.last {
            return Err("at: is earlier than in the line before; sort the input by time".into());
        }
        self.last = row.at;
        Ok(row)
    }
}
