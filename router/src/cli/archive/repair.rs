//! `backscroll archive repair`

use backscroll_archiver::jobs::verify::Problem;
use backscroll_archiver::jobs::{ArchiveJobs, Progress as Jobs};

use super::verify::show_problem;
use super::{Scope, Why, order, out, require_all, watch};

/// How many problems of each sort are printed for people.
const SHOWN: usize = 50;

/// Put right what is wrong with the archive, as far as the object store still has it
///
/// Looks as `archive verify` does and makes the index say what the objects have; gives hot rows that are older than an
/// archived copy its content; deletes messages again whose content came back after they were deleted; and puts content of
/// deleted messages that is still archived down for erasure. Clients that follow a conversation get what changed of it.
/// Exits with 1 when something is left that cannot be put right, or, with --dry-run, when there is anything to put right.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll archive repair --dry-run
  backscroll archive repair --shard db2 --reason 'ticket 4711'")]
pub(in crate::cli) struct Args {
    /// Change nothing; print what would be put right
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) scope: Scope,
    #[command(flatten)]
    pub(super) why: Why,
}

pub(super) async fn run(archive: &ArchiveJobs, args: Args) -> anyhow::Result<()> {
    let Scope { shard, json } = args.scope;
    let (order, jobs) = (order(shard, args.why), Jobs::default());
    let work = archive.repair(&order, args.dry_run, &jobs);
    let outcomes = watch("repairing", &jobs, None).until(work).await?;
    if json {
        out::json(&outcomes)?;
    }
    let (mut mended, mut left) = (0, 0);
    for outcome in &outcomes {
        let figures = &outcome.figures;
        mended += figures.mended_count;
        left += figures.left_count;
        if !json {
            let end = if args.dry_run {
                "could be put right"
            } else {
                "put right"
            };
            show(&figures.mended, figures.mended_count, end)?;
            show(&figures.left, figures.left_count, "cannot be put right")?;
        }
    }
    if !json {
        let done = if args.dry_run {
            "could be put right"
        } else {
            "put right"
        };
        out::line(format_args!(
            "{} {done}, {} left",
            out::counted(mended, "problem"),
            out::grouped(left)
        ))?;
    }
    require_all(&outcomes)?;
    anyhow::ensure!(left == 0, "{} left", out::counted(left, "problem"));
    anyhow::ensure!(
        !args.dry_run || mended == 0,
        "{} found; without --dry-run they are put right",
        out::counted(mended, "problem")
    );
    Ok(())
}

fn show(problems: &[Problem], count: u64, end: &str) -> anyhow::Result<()> {
    for problem in problems.iter().take(SHOWN) {
        show_problem(problem, end)?;
    }
    if count > SHOWN as u64 {
        let more = count - SHOWN as u64;
        out::line(format_args!("… and {more} more; --json lists more"))?;
    }
    Ok(())
}
