//! `backscroll archive gc`

use backscroll_archiver::jobs::collect::CollectFigures;
use backscroll_archiver::jobs::{ArchiveJobs, ShardOutcome};

use super::{Scope, Why, order, out, require_all};

/// Delete objects that nothing names any more, after their grace period
///
/// Those of jobs that died, those that were written anew without what was deleted, those that no shard has heard of, and
/// files of conversations that no message uses any more.
/// Every shard must answer. The grace period is archive.gc_grace; for what was written anew it is at most half of
/// archive.erase_within.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll archive gc --dry-run
  backscroll archive gc --reason 'room for the audit'")]
pub(in crate::cli) struct Args {
    /// Only say what would be deleted
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) why: Why,
    #[command(flatten)]
    pub(super) scope: Scope,
}

pub(super) async fn run(archive: &ArchiveJobs, args: Args) -> anyhow::Result<()> {
    let Scope { shard, json } = args.scope;
    let outcomes = archive
        .collect(&order(shard, args.why), args.dry_run)
        .await?;
    if json {
        out::json(&outcomes)?;
    } else {
        show(&outcomes)?;
        if args.dry_run {
            out::line("nothing was done")?;
        }
    }
    require_all(&outcomes)
}

fn show(outcomes: &[ShardOutcome<CollectFigures>]) -> anyhow::Result<()> {
    let rows: Vec<[String; 9]> = outcomes
        .iter()
        .map(|ShardOutcome { shard, figures, .. }| {
            let [
                abandoned,
                superseded,
                orphans,
                deleted,
                kept,
                uploads,
                files,
                receipts,
            ] = [
                figures.abandoned,
                figures.superseded,
                figures.orphans,
                figures.deleted,
                figures.in_grace,
                figures.uploads,
                figures.files,
                figures.erased,
            ]
            .map(out::grouped);
            let shard = shard.to_string();
            [
                shard, abandoned, superseded, orphans, deleted, kept, uploads, files, receipts,
            ]
        })
        .collect();
    let header = [
        "SHARD",
        "OF DEAD JOBS",
        "WRITTEN ANEW",
        "ORPHANS",
        "DELETED",
        "IN GRACE",
        "UPLOADS GIVEN UP",
        "FILES",
        "RECEIPTS",
    ];
    Ok(out::table(header, &rows)?)
}
