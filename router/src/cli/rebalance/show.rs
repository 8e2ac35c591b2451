//! `backscroll rebalance status` and `history`.

use backscroll_shard::moves::{Move, MoveEvent, MoveId, Mover};
use serde::Serialize;

use super::out;

/// Most events that are shown of a move.
const EVENTS: usize = 1000;

/// Show the moves that are under way: how far they are, and what each one waits for
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backscroll rebalance status --json")]
pub(in crate::cli) struct StatusArgs {
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
    /// What it does, or waits for.
    doing: String,
    #[serde(flatten)]
    job: Move,
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
pub(super) async fn explain(mover: &Mover, id: MoveId) -> anyhow::Result<String> {
    let job = mover.find(id).await?;
    Ok(mover.doing(&job).await?)
}

pub(super) async fn status(mover: &Mover, args: &StatusArgs) -> anyhow::Result<()> {
    let mut shown = Vec::new();
    for job in mover.unfinished().await? {
        shown.push(Shown {
            doing: mover.doing(&job).await?,
            job,
        });
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
