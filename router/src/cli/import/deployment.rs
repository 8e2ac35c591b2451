//! `import` of an export of a whole deployment (`export --all`): everything keeps its ids, numbers and times.
//!
//! Conversations come first, each always by the same writer and in order, its head last: until then the conversation is not
//! there. Then come names of channels and rows of users. Whatever is there already is left as it is, so an import that was interrupted is run again, and
//! a second run finds everything stored. A conversation that was changed here since, or that no export has brought, is left
//! alone and named at the end (see [`backscroll_shard::dump`]).
//!
//! A file is read twice: every line of it, and that it has its end, is checked before the first is stored.

mod feed;
mod lines;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use backscroll_shard::ids::{ConversationId, KeyFunction};
use backscroll_shard::tasks::Supervisor;
use futures_util::future::join;
use serde::Serialize;

use super::source::{self, Source};
use super::{Args, NAMED};
use crate::boot;
use crate::cli::progress::{Progress, Tally};
use crate::cli::{BadInput, out};
use crate::config::Config;
use lines::{Line, Lines};

/// What the first line of an export of a deployment begins with.
pub(super) const BEGINNING: &[u8] = br#"{"backscroll":"deployment""#;

/// The outcome, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    /// Conversations in the export.
    conversations: u64,
    /// Messages stored by this run.
    messages: u64,
    /// Messages that were stored before.
    already_stored: u64,
    /// Rows of members, lists, notifications and so on, stored by this run.
    rows: u64,
    seconds: f64,
    /// Conversations that were left alone, each with why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    left_alone: BTreeMap<ConversationId, &'static str>,
}

/// Imports it.
///
/// # Errors
/// [`BadInput`] for what is not whole, or not for this deployment; when the store fails.
pub(super) async fn run(config: Config, args: &Args, source: Source) -> anyhow::Result<()> {
    if args.dry_run {
        return Err(BadInput(
            "a dry run is for histories; an export of a deployment is checked whole before anything is stored".into(),
        )
        .into());
    }
    if args.owner.is_some() || args.members.is_some() || args.skip_bad {
        return Err(BadInput(
            "an export of a deployment is imported as it is: leave out --owner, --members and --skip-bad"
                .into(),
        )
        .into());
    }
    let keys = config.store.keyspace.function;
    let total = check(&args.file, keys).await?;
    let deployment = boot::open(&config, &Supervisor::default()).await?;
    let outcome = import(&deployment.store, args, source, (keys, total)).await;
    boot::close(&deployment).await;
    report(args, &outcome?)
}

/// Reads the whole of a file and stores nothing: how many messages it has, `None` for standard input.
async fn check(file: &Path, keys: KeyFunction) -> anyhow::Result<Option<u64>> {
    if !source::can_be_read_twice(file) {
        return Ok(None);
    }
    let tally = Arc::new(Tally::default());
    let progress = Progress::start("checking", "lines", tally.clone(), None);
    let path = file.to_owned();
    let check = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        let mut lines = Lines::new(Source::open(&path)?, keys);
        let mut messages = 0;
        while let Some(line) = lines.next()? {
            messages += u64::from(matches!(line, Line::Message(_)));
            tally.add_done(1);
        }
        Ok(messages)
    });
    let messages = progress.until(async { check.await? }).await;
    let nothing = || format!("{}: nothing was stored", file.display());
    messages
        .map(Some)
        .map_err(|error| refused(error, nothing()))
}

/// The error with what became of the rest; still bad input if it was that.
fn refused(error: anyhow::Error, rest: String) -> anyhow::Error {
    match error.downcast::<BadInput>() {
        Ok(BadInput(what)) => BadInput(format!("{rest}: {what}")).into(),
        Err(error) => error.context(rest),
    }
}

async fn import(
    store: &super::writer::StoreRef,
    args: &Args,
    source: Source,
    (keys, total): (KeyFunction, Option<u64>),
) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let tally = Arc::new(Tally::default());
    let progress = Progress::start("importing", "messages", tally.clone(), total);
    let (feed, queues) = feed::Feed::new();
    let read = tokio::task::spawn_blocking(move || feed.run(&mut Lines::new(source, keys)));
    let read = async { read.await.context("the reader failed")? };
    let write = writer::write_all(store, queues, &tally);
    // What was read before a bad line is written; a writer that fails ends the reading.
    let (read, written) = progress.until(async { join(read, write).await }).await;
    let done = written.and_then(|written| Ok((read?, written)));
    let (conversations, written) = done.map_err(|error| {
        let file = args.file.display();
        refused(
            error,
            format!("{file}: not all was stored; run the same command again"),
        )
    })?;
    Ok(Summary {
        conversations,
        messages: tally.stored(),
        already_stored: tally.done() - tally.stored(),
        rows: written.rows,
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        left_alone: written.refused,
    })
}

fn report(args: &Args, summary: &Summary) -> anyhow::Result<()> {
    if args.json {
        out::json(summary)?;
    } else {
        out::line(format_args!(
            "{} in {}, {}, {:.1} s",
            out::counted(summary.messages, "message"),
            out::counted(summary.conversations, "conversation"),
            out::counted(summary.rows, "other row"),
            summary.seconds
        ))?;
        if summary.already_stored > 0 {
            let already = out::counted(summary.already_stored, "message");
            out::line(format_args!("{already} stored already"))?;
        }
    }
    if summary.left_alone.is_empty() {
        return Ok(());
    }
    let named = summary.left_alone.iter().take(NAMED);
    let named: String = named.map(|(id, why)| format!("\n  {id}: {why}")).collect();
    let count = summary.left_alone.len();
    let more = match count.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("\n  … and {more} more; --json lists all"),
    };
    let count = out::counted(count as u64, "conversation");
    Err(BadInput(format!(
        "left alone: {count}; all else is stored{named}{more}"
    ))
    .into())
}
