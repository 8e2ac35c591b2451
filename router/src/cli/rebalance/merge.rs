//! `backscroll rebalance merge`

use backscroll_shard::moves::{Merged, Mover};

use super::{order, out};
use crate::cli::archive::Why;

/// Make neighbouring ranges of one shard one
///
/// Every move of part of a range cuts the map; this makes it short again. No row moves. Requests for the ranges wait for a moment,
/// as at the end of a move. Ranges that a move has, or whose rows another shard still keeps, are left as they are, and so are those of
/// a shard on which an archive job works. If the command is killed, servers finish what it has begun.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll rebalance merge --dry-run
  backscroll rebalance merge --reason 'after the move of db4'")]
pub(in crate::cli) struct Args {
    /// Only say which ranges
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    why: Why,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(mover: &Mover, args: &Args) -> anyhow::Result<()> {
    let merged = mover.merge(args.dry_run, &order(&args.why.reason)).await?;
    if args.json {
        return out::json(&merged);
    }
    if merged.is_empty() {
        return Ok(out::line("there is nothing to merge")?);
    }
    let verb = if args.dry_run { "would be" } else { "is" };
    for Merged {
        shard,
        range,
        parts,
    } in merged
    {
        let count = parts.len();
        out::line(format_args!(
            "{range} of shard {shard} {verb} one range; it was {count}"
        ))?;
    }
    Ok(())
}
