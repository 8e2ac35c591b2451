//! `backscroll rebalance`: moving ranges of keys between shards.
//!
//! A move is a durable job in the directory. Every node of `backscroll serve` looks after all moves, so a command may be killed
//! at any time: the move goes on. What it is and what a crash leaves is told in [`backscroll_shard::moves`].

mod merge;
mod plan;
pub(super) mod run;
mod show;
mod watch;

use backscroll_shard::moves::{Move, MoveId, Mover, Order};
use backscroll_shard::range::KeyRange;
use backscroll_shard::tasks::Supervisor;

use crate::config::Config;
use crate::{boot, failpoint};

use super::archive::{actor, parse_reason};
use super::out;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Plan(plan::Args),
    Run(run::Args),
    Status(show::StatusArgs),
    Explain(show::ExplainArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Throttle(ThrottleArgs),
    Abort(AbortArgs),
    Reverse(run::ReverseArgs),
    History(show::HistoryArgs),
    Merge(merge::Args),
}

/// Pause a move
///
/// What is being done just now is finished: a transaction, or a freeze. Writers of the range go on marking what they touch.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll rebalance pause 0f8c61a2b4d94b7e05d2f0a1c3b6e788 --reason 'after the evening peak'")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    change: Change,
}

/// Resume a move that is paused
///
/// Also one that was paused because a row differed on the target: the comparison then begins again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll rebalance resume 0f8c61a2b4d94b7e05d2f0a1c3b6e788 --reason 'the peak is over'")]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    change: Change,
}

/// Limit how many rows a second a move copies, compares and deletes
///
/// Also while it is under way: the process that works on it minds it within a second. It is kept with the move. Writers' changes are
/// copied again without a limit, and so is the rest within a freeze.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll rebalance throttle 0f8c61a2b4d94b7e05d2f0a1c3b6e788 --rows-per-second 2000 --reason 'evening peak'
  backscroll rebalance throttle 0f8c61a2b4d94b7e05d2f0a1c3b6e788 --off --reason 'the peak is over'")]
pub(super) struct ThrottleArgs {
    #[command(flatten)]
    change: Change,
    /// Most rows a second, at least 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000), required_unless_present = "off")]
    rows_per_second: Option<u64>,
    /// As many as it can
    #[arg(long, conflicts_with = "rows_per_second")]
    off: bool,
}

/// Give a move up that is not committed
///
/// The source takes over at once, as if nothing had been; a node of `backscroll serve` deletes what was copied. A move
/// that is committed is not given up: `backscroll rebalance reverse` moves the range back.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll rebalance abort 0f8c61a2b4d94b7e05d2f0a1c3b6e788 --reason 'db4 is too slow'")]
pub(super) struct AbortArgs {
    #[command(flatten)]
    change: Change,
}

/// What every command takes that changes a move.
#[derive(Debug, clap::Args)]
struct Change {
    /// The move, as `backscroll rebalance status` shows it
    #[arg(value_name = "MOVE")]
    id: MoveId,
    /// Why; kept in the move's history
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Print the move as JSON
    #[arg(long)]
    json: bool,
}

impl Change {
    fn order(&self) -> Order {
        order(&self.reason)
    }
}

pub(super) fn order(reason: &str) -> Order {
    Order {
        actor: actor(),
        reason: reason.to_owned(),
    }
}

pub(super) async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    super::log_for_people(&config)?;
    with_mover(&config, async |mover| dispatch(mover, command).await).await
}

/// Does `work` with the moves of the deployment.
pub(super) async fn with_mover(
    config: &Config,
    work: impl AsyncFnOnce(&Mover) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let hook = failpoint::moves()?;
    let deployment = boot::open_existing(config, &Supervisor::default()).await?;
    let name = format!("{} ({})", actor(), std::process::id());
    let mover = Mover::new(deployment.store.router().clone(), name).with_hook(hook);
    let outcome = work(&mover).await;
    boot::close(&deployment).await;
    outcome
}

async fn dispatch(mover: &Mover, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Plan(args) => plan::show(mover, &args).await,
        Command::Merge(args) => merge::run(mover, &args).await,
        Command::Run(args) => run::begin(mover, args).await,
        Command::Reverse(args) => run::reverse(mover, args).await,
        Command::Status(args) => show::status(mover, &args).await,
        Command::Explain(args) => show::explain(mover, &args).await,
        Command::History(args) => show::history(mover, &args).await,
        Command::Pause(PauseArgs { change }) => {
            let job = mover.pause(change.id, true, &change.order()).await?;
            tell(&job, "paused", change.json)
        }
        Command::Resume(ResumeArgs { change }) => {
            let job = mover.pause(change.id, false, &change.order()).await?;
            tell(&job, "resumed", change.json)
        }
        Command::Throttle(args) => {
            let rows = args.rows_per_second;
            let job = mover
                .throttle(args.change.id, rows, &args.change.order())
                .await?;
            let words = match rows {
                Some(rows) => format!("kept to {rows} rows a second"),
                None => "not throttled".into(),
            };
            tell(&job, &words, args.change.json)
        }
        Command::Abort(AbortArgs { change }) => {
            let job = mover.abort(change.id, &change.order()).await?;
            tell(&job, "given up", change.json)
        }
    }
}

fn tell(job: &Move, what: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return out::json(job);
    }
    Ok(out::line(format_args!(
        "move {} of {} from {} to {} is {what}",
        job.id, job.range, job.source, job.target
    ))?)
}

/// A range as people write it: `100001..200001`, `100001..`, `..200001`.
fn parse_range(text: &str) -> Result<KeyRange, String> {
    let rule = || {
        "two keys with two dots between them, the first one smaller, as in 100001..200001; an end may be left out".to_owned()
    };
    let key = |text: &str| text.parse::<u64>().map_err(|_| rule());
    let (start, end) = text.split_once("..").ok_or_else(rule)?;
    let start = if start.is_empty() { 0 } else { key(start)? };
    let end = if end.is_empty() {
        None
    } else {
        Some(key(end)?)
    };
    KeyRange::new(start, end).ok_or_else(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_shown() {
        for range in [(0, None), (0, Some(7)), (5, Some(9)), (5, None)] {
            let range = KeyRange::new(range.0, range.1).unwrap();
            assert_eq!(parse_range(&range.to_string()), Ok(range));
        }
        assert_eq!(parse_range(".."), Ok(KeyRange::ALL));
        for wrong in [
            "",
            "5",
            "5..5",
            "9..5",
            "a..b",
            "1..2..3",
            "-1..4",
            "5..18446744073709551616",
        ] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }
}
