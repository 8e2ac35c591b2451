//! `backscroll shards drain`: all ranges of a shard are moved to others.

use backscroll_shard::ids::ShardName;
use backscroll_shard::model::Timestamp;
use backscroll_shard::moves::{Drained, Move, Mover, Transfer};
use serde::Serialize;

use crate::config::Config;

use super::super::archive::{parse_reason, parse_shard, require_shard};
use super::super::out;
use super::super::rebalance::run::{require_kept, work_and_tell};
use super::super::rebalance::{order, with_mover};

/// Move all ranges of a shard to other shards
///
/// One range after the other, the widest first, each as `backscroll rebalance run` does it: to the shard that has the fewest keys
/// then. Where keys are numbers the last range has most keys whatever is in it: name the shards with `--to`.
///
/// The command ends when the shard owns no keys. If it is killed, servers go on with the move that is under way; run it again for
/// the others. The database may be taken out of the configuration when the rows on it are deleted: `rebalance.keep` after the last
/// move, by a server.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll shards drain db2 --dry-run
  backscroll shards drain db2 --to db3 --to db4 --reason 'the machine of db2 is given back'")]
pub(in crate::cli) struct Args {
    /// The shard
    #[arg(value_name = "NAME", value_parser = parse_shard)]
    shard: ShardName,
    /// A shard that may get ranges; may be given several times [default: all others]
    #[arg(long, value_name = "SHARD", value_parser = parse_shard)]
    to: Vec<ShardName>,
    /// Only say which moves it would take
    #[arg(long)]
    dry_run: bool,
    /// Why; kept in the history of the moves
    #[arg(long, value_name = "TEXT", value_parser = parse_reason, required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints: what is planned, or what was done.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    shard: ShardName,
    #[serde(skip_serializing_if = "Option::is_none")]
    planned: Option<Vec<Transfer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moves: Option<Vec<Move>>,
    /// Whether the database may be taken out of the configuration.
    is_removable: bool,
    /// When the rows on it are deleted at the earliest.
    rows_kept_until: Option<Timestamp>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    for shard in std::iter::once(&args.shard).chain(&args.to) {
        require_shard(config, Some(shard))?;
    }
    with_mover(config, async |mover| drain(mover, &args).await).await
}

async fn drain(mover: &Mover, args: &Args) -> anyhow::Result<()> {
    let Args { shard, to, .. } = args;
    if args.dry_run {
        return plan(mover, args).await;
    }
    let order = order(args.reason.as_deref().unwrap_or_default());
    let mut moves = Vec::new();
    while let Some(job) = mover.drain(shard, to, &order).await? {
        let job = work_and_tell(mover, &job).await?;
        require_kept(&job)?;
        if !args.json {
            out::line(format_args!(
                "move {}: shard {} serves {}",
                job.id, job.target, job.range
            ))?;
        }
        moves.push(job);
    }
    let drained = mover.drained(shard).await?;
    if args.json {
        return out::json(&outcome(shard, drained, (None, Some(moves))));
    }
    match drained {
        Drained::Empty => out::line(format_args!(
            "shard {shard} owns no keys and keeps no rows: its database may be taken out of the configuration"
        ))?,
        Drained::KeepsRows(until) => out::line(format_args!(
            "shard {shard} owns no keys; its database may be taken out of the configuration when its rows are deleted, from {until} on: \
             when `backscroll rebalance status` shows no move of it"
        ))?,
    }
    Ok(())
}

async fn plan(mover: &Mover, args: &Args) -> anyhow::Result<()> {
    let shard = &args.shard;
    let planned = mover.plan_drain(shard, &args.to).await?;
    if args.json {
        let drained = mover.drained(shard).await?;
        return out::json(&outcome(shard, drained, (Some(planned), None)));
    }
    if planned.is_empty() {
        return Ok(out::line(format_args!("shard {shard} owns no keys"))?);
    }
    for Transfer { range, target } in planned {
        out::line(format_args!("{range} would go to {target}"))?;
    }
    Ok(out::line("nothing was done")?)
}

fn outcome(
    shard: &ShardName,
    drained: Drained,
    (planned, moves): (Option<Vec<Transfer>>, Option<Vec<Move>>),
) -> Outcome {
    let owns_none = planned.as_ref().is_none_or(Vec::is_empty);
    Outcome {
        shard: shard.clone(),
        planned,
        moves,
        is_removable: owns_none && drained == Drained::Empty,
        rows_kept_until: match drained {
            Drained::Empty => None,
            Drained::KeepsRows(until) => Some(until),
        },
    }
}
