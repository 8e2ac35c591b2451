//! `backscroll export`: a conversation as JSON Lines, the form that `backscroll import` takes.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use serde_json::json;

use crate::boot;
use crate::config::Config;

use super::out;
use super::progress::{Progress, Tally};

/// Messages read from the store at a time.
const PAGE: u32 = 1000;

/// zstd's level: near the knee of size against time.
const ZSTD_LEVEL: i32 = 9;

/// Write a conversation as JSON Lines
///
/// Oldest first, whole: what was imported comes out as it went in. Deleted messages are there, marked and empty. With
/// --output the file appears when it is complete, never half.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll export --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788 | jq -r .text
  backscroll export --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788 --zstd --output old.zst")]
pub(super) struct Args {
    /// The conversation's id
    #[arg(long, value_name = "ID")]
    conversation: ConversationId,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
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
    let outcome = export(&deployment.store, &args).await;
    boot::close(&deployment).await;
    outcome
}

async fn export(store: &Store, args: &Args) -> anyhow::Result<()> {
    let Some(path) = &args.output else {
        write(store, args, &Tally::default(), out::stdout()).await?;
        return Ok(());
    };
    let tally = Arc::new(Tally::default());
    let progress = Progress::start("exporting", "messages", tally.clone(), None);
    progress
        .until(write_file(store, args, &tally, path))
        .await?;
    if args.json {
        return out::json(
            &json!({ "conversation": args.conversation, "messages": tally.done(), "file": path }),
        );
    }
    Ok(out::line(format_args!(
        "{} in {}",
        out::counted(tally.done(), "message"),
        path.display()
    ))?)
}

/// Under another name first, so that whoever sees the file sees all of it.
async fn write_file(store: &Store, args: &Args, tally: &Tally, path: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new()
        .prefix(".backscroll-export-")
        .tempfile_in(folder)
        .with_context(failed)?;
    write(store, args, tally, temporary.as_file()).await?;
    temporary.as_file().sync_all().with_context(failed)?;
    temporary.persist(path).with_context(failed)?;
    Ok(())
}

async fn write(store: &Store, args: &Args, tally: &Tally, sink: impl Write) -> anyhow::Result<()> {
    let mut sink = BufWriter::with_capacity(256 * 1024, sink);
    if args.zstd {
        let mut encoder = zstd::Encoder::new(sink, ZSTD_LEVEL)?;
        write_lines(store, args.conversation, tally, &mut encoder).await?;
        sink = encoder.finish()?;
    } else {
        write_lines(store, args.conversation, tally, &mut sink).await?;
    }
    Ok(sink.flush()?)
}

async fn write_lines(
    store: &Store,
    conversation: ConversationId,
    tally: &Tally,
    sink: &mut impl Write,
) -> anyhow::Result<()> {
    let mut after = Seq(0);
    loop {
        let page = store.export(conversation, after, PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        after = *last;
        for (_, record) in &page {
            serde_json::to_writer(&mut *sink, record).map_err(io::Error::from)?;
            sink.write_all(b"\n")?;
        }
        tally.add_done(page.len() as u64);
    }
}
