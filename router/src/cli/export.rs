//! `backscroll export`: a conversation, or a whole deployment ([`all`]), as JSON Lines, the forms that `backscroll import` takes.

mod all;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use backscroll_shard::audit::{Action, Reference};
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::Timestamp;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use serde_json::json;

use crate::boot;
use crate::config::Config;

use super::progress::{Progress, Tally};
use super::{audit, out, time};
use all::Written;

/// Messages read from the store at a time.
const PAGE: u32 = 1000;

/// zstd's level: near the knee of size against time.
const ZSTD_LEVEL: i32 = 9;

/// Write a conversation, or everything, as JSON Lines
///
/// A conversation is written oldest first, whole: what was imported comes out as it went in. Deleted messages are there,
/// marked and empty.
///
/// With --all, all conversations with their members, watermarks and messages of both tiers, and what users have besides
/// (lists, notifications) are written for `backscroll import` of another deployment, which keeps ids and numbers. The
/// deployment may be in use: each conversation is as of the moment at which it begins or a little later, and a later
/// export with --since adds the rest. The last line closes the export; without it, it is not whole.
///
/// With --output the file appears when it is complete, never half.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true), after_help = "\
Examples:
  backscroll export --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788 | jq -r .text
  backscroll export --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788 --zstd --output old.zst
  backscroll export --all --zstd --output everything.zst
  backscroll export --all --since 2026-11-29T22:00:00Z --output later.jsonl")]
pub(super) struct Args {
    /// The conversation's id
    #[arg(long, value_name = "ID", group = "what")]
    conversation: Option<ConversationId>,
    /// Everything that users see
    #[arg(long, group = "what")]
    all: bool,
    /// With --all: only messages that may have changed since then, an RFC 3339 time; all else is written whole
    #[arg(long, value_name = "TIME", requires = "all", conflicts_with = "conversation", value_parser = time)]
    since: Option<Timestamp>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Why; kept in the audit log
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    reason: String,
    /// Compress with zstd
    #[arg(long)]
    zstd: bool,
    /// With --output: print the outcome as JSON
    #[arg(long, requires = "output")]
    json: bool,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<()> {
    super::log_for_people(&config)?;
    let deployment = boot::open_existing(&config, &Supervisor::default()).await?;
    let outcome = recorded(&deployment.store, &args).await;
    boot::close(&deployment).await;
    outcome
}

/// What is exported was read by somebody who is no member.
async fn recorded(store: &Store, args: &Args) -> anyhow::Result<()> {
    let subject = args.conversation.map(Reference::conversation);
    let details =
        json!({ "export": if args.all { "all" } else { "conversation" }, "since": args.since });
    let act = (Action::ContentRead, subject);
    audit::record(store, act, &args.reason, details).await?;
    export(store, args).await
}

async fn export(store: &Store, args: &Args) -> anyhow::Result<()> {
    let begun_at = Timestamp::now();
    let Some(path) = &args.output else {
        let written = write(store, args, &Tally::default(), out::stdout()).await?;
        if let Some(written) = written {
            out::note(format_args!("{written}, begun at {begun_at}"));
        }
        return Ok(());
    };
    let tally = Arc::new(Tally::default());
    let progress = Progress::start("exporting", "messages", tally.clone(), None);
    let written = progress
        .until(write_file(store, args, &tally, path))
        .await?;
    let messages = tally.done();
    match (written, args.json) {
        (Some(written), true) => out::json(&json!({
            "conversations": written.conversations, "messages": messages, "lines": written.lines,
            "begunAt": begun_at, "file": path
        })),
        (None, true) => out::json(
            &json!({ "conversation": args.conversation, "messages": messages, "file": path }),
        ),
        (Some(written), false) => Ok(out::line(format_args!(
            "{written} in {}, begun at {begun_at}",
            path.display()
        ))?),
        (None, false) => Ok(out::line(format_args!(
            "{} in {}",
            out::counted(messages, "message"),
            path.display()
        ))?),
    }
}

/// Under another name first, so that whoever sees the file sees all of it.
async fn write_file(
    store: &Store,
    args: &Args,
    tally: &Tally,
    path: &Path,
) -> anyhow::Result<Option<Written>> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new()
        .prefix(".backscroll-export-")
        .tempfile_in(folder)
        .with_context(failed)?;
    let written = write(store, args, tally, temporary.as_file()).await?;
    temporary.as_file().sync_all().with_context(failed)?;
    temporary.persist(path).with_context(failed)?;
    Ok(written)
}

async fn write(
    store: &Store,
    args: &Args,
    tally: &Tally,
    sink: impl Write,
) -> anyhow::Result<Option<Written>> {
    let mut sink = BufWriter::with_capacity(256 * 1024, sink);
    let written;
    if args.zstd {
        let mut encoder = zstd::Encoder::new(sink, ZSTD_LEVEL)?;
        written = write_lines(store, args, tally, &mut encoder).await?;
        sink = encoder.finish()?;
    } else {
        written = write_lines(store, args, tally, &mut sink).await?;
    }
    sink.flush()?;
    Ok(written)
}

/// What was written of a deployment; none of a conversation.
async fn write_lines(
    store: &Store,
    args: &Args,
    tally: &Tally,
    sink: &mut impl Write,
) -> anyhow::Result<Option<Written>> {
    let Some(conversation) = args.conversation else {
        return all::write(store, args.since, tally, sink).await.map(Some);
    };
    let mut after = Seq(0);
    loop {
        let page = store.export(conversation, after, PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(None);
        };
        after = *last;
        for (_, record) in &page {
            serde_json::to_writer(&mut *sink, record).map_err(io::Error::from)?;
            sink.write_all(b"\n")?;
        }
        tally.add_done(page.len() as u64);
    }
}
