//! `backscroll search index`: the index of terms beside the archive's segments, by which searches pass over what they need not read.
//!
//! The archive job writes it with every segment. These are for segments from before there was one, and for whoever does without.

use anyhow::Context as _;
use backscroll_archiver::jobs::terms::BuildFigures;
use backscroll_archiver::jobs::{Progress as Jobs, ShardOutcome};
use backscroll_shard::tasks::Supervisor;
use serde_json::json;

use crate::boot;
use crate::config::Config;
use crate::deployment::Deployment;
use crate::signals;

use super::archive::{
    LONGEST_STOP, STOPPED, Scope, Why, order, require_all, require_shard, show_problem, watch,
};
use super::{log_for_people, out};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// The index of terms of archived messages
    #[command(subcommand)]
    Index(Index),
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Index {
    Build(BuildArgs),
    Verify(VerifyArgs),
    Drop(DropArgs),
}

/// Write the terms of archived segments that have none, or damaged ones
///
/// Reads these segments once. Stopped, or killed, it goes on with the others the next time. Searches use what is there.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll search index build
  backscroll search index build --shard db2 --reason 'after the upgrade'")]
pub(super) struct BuildArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    why: Why,
}

/// Check that the terms of archived segments are those of their messages
///
/// Reads every segment that has terms. It changes nothing. Exits with 1 when something is wrong; `search index drop` and
/// `search index build` put it right. That a segment has no terms is not wrong: searches read it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll search index verify
  backscroll search index verify --shard db2 --json")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    scope: Scope,
}

/// Delete the terms of all archived segments
///
/// Searches find the same without them, and take longer. The archive job goes on writing the terms of new segments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll search index drop --json")]
pub(super) struct DropArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    let Command::Index(command) = command;
    log_for_people(&config)?;
    let scope = match &command {
        Index::Build(args) => Some(&args.scope),
        Index::Verify(args) => Some(&args.scope),
        Index::Drop(_) => None,
    };
    require_shard(&config, scope.and_then(|scope| scope.shard.as_ref()))?;
    let supervisor = Supervisor::default();
    let stop = signals::stop_on_signals(&supervisor, LONGEST_STOP)?;
    let opening = boot::open_existing(&config, &supervisor);
    let opened = stop.run_until_cancelled(opening).await;
    let mut deployment = opened.context(STOPPED)??;
    deployment.archive = deployment.archive.stopped_by(stop.clone());
    let outcome = match command {
        Index::Build(args) => build(&deployment, args).await, // it stops by itself, and gives its lease up
        Index::Verify(args) => {
            let done = stop.run_until_cancelled(verify(&deployment, args)).await;
            done.context(STOPPED).flatten()
        }
        Index::Drop(args) => {
            let done = stop.run_until_cancelled(remove(&deployment, &args)).await;
            done.context(STOPPED).flatten()
        }
    };
    boot::close(&deployment).await;
    outcome
}

async fn build(deployment: &Deployment, args: BuildArgs) -> anyhow::Result<()> {
    let Scope { shard, json } = args.scope;
    let (order, jobs) = (order(shard, args.why), Jobs::default());
    let work = deployment.archive.build_terms(&order, &jobs);
    let outcomes = watch("building", &jobs, None).until(work).await?;
    if json {
        out::json(&outcomes)?;
    } else {
        let row = |ShardOutcome { shard, figures, .. }: &ShardOutcome<BuildFigures>| {
            let [segments, built, bytes, unreadable] = [
                figures.segments,
                figures.built,
                figures.bytes,
                figures.unreadable,
            ]
            .map(out::grouped);
            [shard.to_string(), segments, built, bytes, unreadable]
        };
        let rows: Vec<[String; 5]> = outcomes.iter().map(row).collect();
        let header = ["SHARD", "SEGMENTS", "BUILT", "BYTES", "UNREADABLE"];
        out::table(header, &rows)?;
    }
    require_all(&outcomes)
}

async fn verify(deployment: &Deployment, args: VerifyArgs) -> anyhow::Result<()> {
    let Scope { shard, json } = args.scope;
    let why = Why {
        reason: String::new(),
    };
    let (order, jobs) = (order(shard, why), Jobs::default());
    let work = deployment.archive.verify_terms(&order, &jobs);
    let report = watch("verifying", &jobs, None).until(work).await?;
    if json {
        out::json(&report)?;
    } else {
        out::line(format_args!(
            "{} named by the index, {} of them with terms: {}; {} without",
            out::counted(report.segments, "segment"),
            out::grouped(report.with_terms),
            out::counted(report.bytes, "byte"),
            out::grouped(report.missing)
        ))?;
        for problem in &report.problems {
            show_problem(problem, "")?;
        }
    }
    anyhow::ensure!(
        report.problem_count == 0,
        "{} found; `search index drop` and `search index build` put them right",
        out::counted(report.problem_count, "problem")
    );
    Ok(())
}

async fn remove(deployment: &Deployment, args: &DropArgs) -> anyhow::Result<()> {
    let dropped = deployment.archive.drop_terms().await?;
    if args.json {
        return out::json(&json!({ "dropped": dropped }));
    }
    let segments = out::counted(dropped, "segment");
    Ok(out::line(format_args!("the terms of {segments} are gone"))?)
}
