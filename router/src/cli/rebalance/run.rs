//! `backscroll rebalance run` and `reverse`: asking for a move, and following it.

use std::time::Duration;

use backscroll_shard::error::Error;
use backscroll_shard::ids::ShardName;
use backscroll_shard::moves::{Move, MoveId, MoveState, Mover};
use backscroll_shard::range::KeyRange;

use super::super::archive::{parse_reason, parse_shard};
use super::{order, out, parse_range, plan, show};

/// How often it is said how far a move is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Move a range of keys to another shard
///
/// The range is copied while its users read and write; at the end writers wait for a moment, and then the other shard serves
/// it. All rows are compared before that: one that differs stops the move and is named. The range may be any part of a range that
/// `backscroll shards list` shows; the map is cut there. Archived objects stay where they are.
///
/// With `--split` only the upper half of the range is moved, cut where about half of its rows are on each side. With `--plan` it does what
/// `backscroll rebalance plan` says, one move after the other.
///
/// The command ends when the other shard serves the range; the rows on the first one are deleted after `rebalance.keep`. If
/// the command is killed, a node of `backscroll serve` goes on with the move; `--plan` is run again for the others.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll rebalance run --range 100001..150001 --to db4 --reason 'db2 is full'
  backscroll rebalance run --range 100001..200001 --split --to db4 --reason 'db2 is full'
  backscroll rebalance run --plan --reason 'db4 is new'
  backscroll rebalance run --range 13835058055282163712.. --to shard1 --reason 'less load' --json")]
pub(in crate::cli) struct Args {
    /// The keys: from the first one to before the second; without the second, to the end of the key space
    #[arg(long, value_name = "FROM..TO", value_parser = parse_range, required_unless_present = "plan")]
    range: Option<KeyRange>,
    /// The shard that gets them
    #[arg(long, value_name = "SHARD", value_parser = parse_shard, required_unless_present = "plan")]
    to: Option<ShardName>,
    /// Move only the upper half of the rows
    #[arg(long, conflicts_with = "plan")]
    split: bool,
    /// Do what `backscroll rebalance plan` says
    #[arg(long, conflicts_with_all = ["range", "to", "detach"])]
    plan: bool,
    #[command(flatten)]
    options: plan::Options,
    /// Why; kept in the move's history
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Only put the move down; a node of `backscroll serve` does it
    #[arg(long)]
    detach: bool,
    /// Print the move as JSON
    #[arg(long)]
    json: bool,
}

/// Move a range back to the shard that it came from
///
/// As long as that shard still keeps its rows (`rebalance.keep`), so that little has to be copied. It is a move like any other,
/// and what was written since comes along.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll rebalance reverse 0f8c61a2b4d94b7e05d2f0a1c3b6e788 --reason 'queries are slower on db4'")]
pub(in crate::cli) struct ReverseArgs {
    /// The move that is undone
    #[arg(value_name = "MOVE")]
    id: MoveId,
    /// Why; kept in the move's history
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Only put the move down; a node of `backscroll serve` does it
    #[arg(long)]
    detach: bool,
    /// Print the move as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn begin(mover: &Mover, args: Args) -> anyhow::Result<()> {
    let (Some(mut range), Some(to)) = (args.range, &args.to) else {
        return carry_out(mover, &args).await;
    };
    if args.split {
        range = mover.upper_half(range).await?;
    }
    let job = mover.begin(range, to, &order(&args.reason)).await?;
    follow(mover, job, args.detach, args.json).await
}

/// Plans, and does what is planned, one move after the other.
async fn carry_out(mover: &Mover, args: &Args) -> anyhow::Result<()> {
    let plan = args.options.plan(mover).await?;
    if !args.json {
        plan::print(&plan)?;
    }
    let mut moves = Vec::new();
    for step in &plan.steps {
        let job = mover
            .begin(step.range, &step.target, &order(&args.reason))
            .await?;
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
    if args.json {
        return out::json(&moves);
    }
    Ok(())
}

pub(super) async fn reverse(mover: &Mover, args: ReverseArgs) -> anyhow::Result<()> {
    let job = mover.reverse(args.id, &order(&args.reason)).await?;
    follow(mover, job, args.detach, args.json).await
}

/// Works on a move, or watches the process that does, until the target serves the range; and says how it ended.
async fn follow(mover: &Mover, job: Move, detach: bool, json: bool) -> anyhow::Result<()> {
    let job = if detach {
        job
    } else {
        work_and_tell(mover, &job).await?
    };
    if json {
        return out::json(&job);
    }
    let id = job.id;
    let words = match job.state {
        MoveState::Draining | MoveState::Done => {
            format!("shard {} serves {}", job.target, job.range)
        }
        state => format!("it is {}", state.name()),
    };
    out::line(format_args!("move {id}: {words}"))?;
    require_kept(&job)
}

/// The same, without saying how it ended.
pub(in crate::cli) async fn work_and_tell(mover: &Mover, job: &Move) -> anyhow::Result<Move> {
    let id = job.id;
    out::note(format_args!(
        "move {id} of {} from {} to {}",
        job.range, job.source, job.target
    ));
    tokio::select! {
        job = work(mover, id) => job,
        error = tell(mover, id) => Err(error),
    }
}

/// The move was not given up.
pub(in crate::cli) fn require_kept(job: &Move) -> anyhow::Result<()> {
    anyhow::ensure!(
        !matches!(job.state, MoveState::Aborting | MoveState::Aborted),
        "the move was given up; `backscroll rebalance history {}` says why",
        job.id
    );
    Ok(())
}

async fn work(mover: &Mover, id: MoveId) -> anyhow::Result<Move> {
    loop {
        match mover.run(id).await {
            Ok(job) => return Ok(job),
            // A node has it, or an archive job has the source: either ends.
            Err(Error::Busy(_) | Error::LeaseLost(_)) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(TELL_EVERY / 4).await;
        let job = mover.find(id).await?;
        if job.state.is_final() || job.state == MoveState::Draining {
            return Ok(job);
        }
        anyhow::ensure!(
            !job.paused,
            "move {id} is paused; `backscroll rebalance history {id}` says why, `backscroll rebalance resume {id}` goes on"
        );
    }
}

/// Says how far it is, until the directory cannot say.
async fn tell(mover: &Mover, id: MoveId) -> anyhow::Error {
    let mut last = String::new();
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let words = match show::doing(mover, id).await {
            Ok(words) => words,
            Err(error) => return error,
        };
        if words != last {
            out::note(&words);
        }
        last = words;
    }
}
