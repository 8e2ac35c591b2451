//! `backscroll media rebuild`

use std::collections::BTreeMap;

use backscroll_archiver::media::rebuild::{Rebuild, RebuildFigures, RebuildProgress};
use backscroll_archiver::media::worker::Program;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Seq};
use tokio_util::sync::CancellationToken;

use crate::cli::out;
use crate::cli::progress::Progress;
use crate::config::Config;
use crate::deployment::Deployment;

/// Process pictures again that have no smaller forms
///
/// Pictures whose processing has failed, and pictures that were accepted while no smaller forms were made (media.workers = 0).
/// Useful after a change of media.image_pixels, media.worker_memory or media.worker_time, and after an update with better decoders. The
/// pictures are processed by this command, by as many workers as media.workers says, at least one; servers may run meanwhile.
/// Messages that use a picture are updated.
///
/// A command that is stopped finishes the pictures under way. If it is killed, servers process these pictures within two minutes. The
/// same command goes on with the others. Exits with 1 when a shard was not done to the end, or a picture could not be processed for
/// a reason that is not the picture's.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll media rebuild --dry-run
  backscroll media rebuild --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788")]
pub(in crate::cli) struct RebuildArgs {
    /// Only the pictures of this conversation
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    config: &Config,
    deployment: &Deployment,
    (args, stop): (&RebuildArgs, &CancellationToken),
) -> anyhow::Result<()> {
    if let Some(id) = args.conversation
        && let Err(Error::NotFound(_)) = deployment.store.export(id, Seq(0), 1).await
    {
        anyhow::bail!("there is no conversation {id}");
    }
    let rebuild = Rebuild {
        store: &deployment.store,
        objects: &deployment.objects,
        settings: &config.media,
        program: &Program::own(),
        conversation: args.conversation,
        stop,
    };
    let progress = RebuildProgress::default();
    let figures = if args.dry_run {
        rebuild.count(&progress).await
    } else {
        let work = rebuild.run(&progress);
        watch(&progress).until(work).await
    };
    if args.json {
        out::json(&figures)?;
    } else {
        show(&figures, args.dry_run)?;
    }
    for (shard, error) in &figures.errors {
        out::note(format_args!("{shard}: {error}"));
    }
    anyhow::ensure!(
        figures.errors.is_empty(),
        "{} not done to the end; what was done stays, and running it again goes on from there",
        out::counted(figures.errors.len() as u64, "shard")
    );
    anyhow::ensure!(
        !stop.is_cancelled(),
        "stopped by a signal before it was done; what was done stays"
    );
    anyhow::ensure!(
        figures.postponed == 0,
        "{} not processed now; servers try again every half minute, and so does this command when it is run again",
        out::counted(figures.postponed, "picture")
    );
    Ok(())
}

fn watch(progress: &RebuildProgress) -> Progress {
    let progress = progress.clone();
    Progress::watch("rebuilding", "pictures", None, move || {
        let now = progress.snapshot();
        let failed: u64 = now.failed_again.values().sum();
        let doing = format!("{} ready, {failed} failed again", now.ready);
        (now.pictures, doing)
    })
}

fn show(figures: &RebuildFigures, is_dry_run: bool) -> anyhow::Result<()> {
    let pictures = out::counted(figures.pictures, "picture");
    let [unprocessed, processing] = [figures.unprocessed, figures.processing].map(out::grouped);
    let failed = by_reason(&figures.failed);
    out::line(format_args!(
        "{pictures}: {unprocessed} never processed, {failed}, {processing} being processed"
    ))?;
    if is_dry_run {
        return Ok(out::line("nothing was done")?);
    }
    let [ready, passed_over, postponed] =
        [figures.ready, figures.passed_over, figures.postponed].map(out::grouped);
    let failed = by_reason(&figures.failed_again);
    Ok(out::line(format_args!(
        "now {ready} ready, {failed}; {passed_over} deleted or processed elsewhere, {postponed} postponed"
    ))?)
}

/// `3 failed (1 crashed, 2 damaged)`
fn by_reason(failed: &BTreeMap<String, u64>) -> String {
    let all = out::grouped(failed.values().sum());
    if failed.is_empty() {
        return format!("{all} failed");
    }
    let reasons = failed.iter();
    let reasons = reasons.map(|(reason, count)| format!("{} {reason}", out::grouped(*count)));
    let reasons: Vec<String> = reasons.collect();
    format!("{all} failed ({})", reasons.join(", "))
}
