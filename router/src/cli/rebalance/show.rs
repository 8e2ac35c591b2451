//! `backscroll rebalance status` and `history`.

use backscroll_shard::moves::{Move, MoveEvent, MoveId, Mover, Reason};
use serde::Serialize;

use super::{out, watch};

/// Most events that are shown of a move.
const EVENTS: usize = 1000;

/// Show the moves that are under way: how far they are, and what each one waits for
///
/// With `--watch` it is shown again and again until nothing is being moved: on a terminal as a picture of the shards' ranges, with
/// how far each move is, how fast, and how long it will still take; elsewhere as a line whenever there is news.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll rebalance status --json
  backscroll rebalance status --watch")]
pub(in crate::cli) struct StatusArgs {
    /// Go on showing it until nothing is being moved
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Say why a move does not cut over now
///
/// Always one reason, by name and with its figure: how much is still to be copied, a brake and its limit, an operator's pause, an archive job
/// that has the shard, a row that differs, what ended the last freeze, or that no process works on it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll rebalance explain 0f8c61a2b4d94b7e05d2f0a1c3b6e788")]
pub(in crate::cli) struct ExplainArgs {
    /// The move, as `backscroll rebalance status` shows it
    #[arg(value_name = "MOVE")]
    id: MoveId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Show the latest moves, or everything that happened to one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll rebalance history
  backscroll rebalance history 0f8c61a2b4d94b7e05d2f0a1c3b6e788")]
pub(in crate::cli) struct HistoryArgs {
    /// Only this move, with its events
    #[arg(value_name = "MOVE")]
    id: Option<MoveId>,
    /// Most moves that are shown
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A move as `status --json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    /// What it does, or waits for, in words.
    doing: String,
    /// The same: its name, and its figures.
    explanation: Reason,
    #[serde(flatten)]
    job: Move,
}

impl Shown {
    fn of(job: Move, explanation: Reason) -> Self {
        Self {
            doing: explanation.to_string(),
            explanation,
            job,
        }
    }
}

/// A move as `history --json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    #[serde(flatten)]
    job: Move,
    events: Vec<MoveEvent>,
}

/// What a move does just now, or what it waits for, with the figure.
pub(super) async fn doing(mover: &Mover, id: MoveId) -> anyhow::Result<String> {
    let job = mover.find(id).await?;
    Ok(mover.explain(&job).await?.to_string())
}

pub(super) async fn explain(mover: &Mover, args: &ExplainArgs) -> anyhow::Result<()> {
    let job = mover.find(args.id).await?;
    let explanation = mover.explain(&job).await?;
    if args.json {
        return out::json(&Shown::of(job, explanation));
    }
    Ok(out::line(format_args!(
        "{}: {explanation}",
        explanation.name()
    ))?)
}

pub(super) async fn status(mover: &Mover, args: &StatusArgs) -> anyhow::Result<()> {
    if args.watch {
        return watch::watch(mover).await;
    }
    let mut shown = Vec::new();
    for job in mover.unfinished().await? {
        let explanation = mover.explain(&job).await?;
        shown.push(Shown::of(job, explanation));
    }
    if args.json {
        return out::json(&shown);
    }
    if shown.is_empty() {
        return Ok(out::line("no range is being moved")?);
    }
    let rows: Vec<[String; 5]> = shown
        .iter()
        .map(|it| {
            [
                it.job.id.to_string(),
                it.job.range.to_string(),
                it.job.source.to_string(),
                it.job.target.to_string(),
                it.doing.clone(),
            ]
        })
        .collect();
    out::table(["MOVE", "RANGE", "FROM", "TO", "STATE"], &rows)?;
    Ok(())
}

pub(super) async fn history(mover: &Mover, args: &HistoryArgs) -> anyhow::Result<()> {
    match args.id {
        Some(id) => one(mover, id, args.json).await,
        None => all(mover, args).await,
    }
}

async fn one(mover: &Mover, id: MoveId, json: bool) -> anyhow::Result<()> {
    let job = mover.find(id).await?;
    let events = mover.events(id, 0, EVENTS).await?;
    if json {
        return out::json(&Told { job, events });
    }
    for event in events {
        let MoveEvent {
            at,
            actor,
            event,
            detail,
            ..
        } = event;
        out::line(format_args!("{at}  {event}  {detail}  ({actor})"))?;
    }
    Ok(())
}

async fn all(mover: &Mover, args: &HistoryArgs) -> anyhow::Result<()> {
    let moves = mover.history(usize::from(args.limit)).await?;
    if args.json {
        return out::json(&moves);
    }
    if moves.is_empty() {
        return Ok(out::line("no range was ever moved")?);
    }
    let row = |job: &Move| {
        [
            job.created_at.to_string(),
            job.id.to_string(),
            job.range.to_string(),
            job.source.to_string(),
            job.target.to_string(),
            job.state.name().replace('_', " "),
            job.reason.clone(),
        ]
    };
    let rows: Vec<[String; 7]> = moves.iter().map(row).collect();
    out::table(
        ["BEGUN", "MOVE", "RANGE", "FROM", "TO", "STATE", "REASON"],
        &rows,
    )?;
    Ok(())
}
