//! `backscroll rebalance plan`: what would be moved, printed.

use std::time::Duration;

use backscroll_shard::moves::{Mover, Plan, PlanOptions, PlannedMove, ShardLoad, Weight};

use super::out;

/// Say which moves would bring the shards closer to carrying the same
///
/// Changes nothing: `backscroll rebalance run --plan` does what this says. Each move improves the balance by itself, by
/// `rebalance.min_gain` at least, so a plan may be ended after any of them. No shard gets keys that does not answer, refuses
/// writes, is too slow or too busy for a move now, has a replica that does not answer, or takes part in a move; a range that was moved within `rebalance.cool_down` stays.
///
/// A shard's load is its share of all rows, bytes and writes, by `rebalance.weight_rows`, `weight_bytes` and `weight_writes`. Rows are not
/// read for it: each range is looked at in 32 places, more closely where much is, and up to 2,000 rows of a table are counted in
/// each. Where there are more, the figure is an estimate: close where keys are hashes; where keys are numbers, and some users
/// have far more than their neighbours, it may be far off. Bytes are those of the columns, on disk they take about twice
/// that; archived messages do not count. Times follow from the moves so far.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll rebalance plan
  backscroll rebalance plan --observe 60s --steps 5 --json")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    options: Options,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a plan may do.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// How long writes are counted; 0s leaves them out
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_span)]
    observe: Duration,
    /// Most moves
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: u16,
}

impl Options {
    pub(super) async fn plan(&self, mover: &Mover) -> anyhow::Result<Plan> {
        let options = PlanOptions {
            observe: self.observe,
            steps: usize::from(self.steps),
            ..PlanOptions::default()
        };
        Ok(mover.plan(options).await?)
    }
}

/// Up to ten minutes.
fn parse_span(text: &str) -> Result<Duration, String> {
    let rule = || "a time of at most 10m with its unit, as in 10s".to_owned();
    let span: jiff::SignedDuration = text.parse().map_err(|_| rule())?;
    let span = Duration::try_from(span).map_err(|_| rule())?;
    if span > Duration::from_secs(600) {
        return Err(rule());
    }
    Ok(span)
}

pub(super) async fn show(mover: &Mover, args: &Args) -> anyhow::Result<()> {
    let plan = args.options.plan(mover).await?;
    if args.json {
        return out::json(&plan);
    }
    print(&plan)?;
    Ok(out::line("nothing was done")?)
}

/// The plan, for people.
pub(super) fn print(plan: &Plan) -> anyhow::Result<()> {
    let shards: Vec<[String; 6]> = plan.shards.iter().map(shard_row).collect();
    out::table(
        ["SHARD", "ROWS", "BYTES", "WRITES/S", "LOAD", "AFTER"],
        &shards,
    )?;
    if plan.steps.is_empty() {
        out::line("no move would improve the balance enough")?;
    } else {
        out::line("")?;
        let steps: Vec<[String; 8]> = plan.steps.iter().map(step_row).collect();
        out::table(
            [
                "RANGE", "FROM", "TO", "ROWS", "BYTES", "TIME", "FREEZE", "GAIN",
            ],
            &steps,
        )?;
    }
    for remark in &plan.remarks {
        out::note(remark);
    }
    let forecast = &plan.forecast;
    out::note(match forecast.measured_moves {
        0 => format!(
            "times are assumptions, as no move was measured yet: {} rows a second, {} ms of freeze",
            out::grouped(forecast.rows_per_second),
            forecast.freeze_ms
        ),
        moves => format!(
            "times are those of the latest {}: {} rows a second, {} ms of freeze",
            out::counted(moves as u64, "move"),
            out::grouped(forecast.rows_per_second),
            forecast.freeze_ms
        ),
    });
    if !plan.is_counted {
        out::note("rows and bytes are estimates: only part of the rows was counted");
    }
    Ok(())
}

fn shard_row(it: &ShardLoad) -> [String; 6] {
    let [rows, bytes, writes] = figures(&it.weight);
    [
        it.shard.to_string(),
        rows,
        bytes,
        writes,
        format!("{:.0} %", it.load),
        format!("{:.0} %", it.load_after),
    ]
}

fn step_row(it: &PlannedMove) -> [String; 8] {
    let [rows, bytes, _] = figures(&it.weight);
    [
        it.range.to_string(),
        it.source.to_string(),
        it.target.to_string(),
        rows,
        bytes,
        out::span(it.seconds),
        format!("{} ms", it.freeze_ms),
        format!("{:.0} %", it.gain),
    ]
}

fn figures(weight: &Weight) -> [String; 3] {
    [
        out::grouped(weight.rows),
        out::bytes(weight.bytes),
        format!("{:.1}", weight.writes_per_second),
    ]
}
