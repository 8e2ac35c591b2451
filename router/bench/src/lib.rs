//! Load generator and side-by-side benchmarks for Backscroll.
//!
//! | module | what it holds |
//! |---|---|
//! | [`scenario`] | a file for each scenario |
//! | [`harness`] | databases of its own, the router as a process, processor time, the machine |
//! | [`load`], [`pace`] | closed and open loops over many connections |
//! | [`http`], [`sender`] | sending over HTTP at next to no cost, with a ledger |
//! | [`pages`] | pages of history, over HTTP and by the bare statement |
//! | [`rows`] | the other side of the comparison: row-by-row inserts |
//! | [`imports`] | histories brought in with `backscroll import` |
//! | [`archived`] | rows to be archived, brought back for every round |
//! | [`pt_archiver`] | the other side of that comparison |
//! | [`faults`] | everything disturbed, and a ledger of what must not be undone |
//! | [`realtime`] | clients of sockets, and what they hear |
//! | [`ledger`], [`verify`] | whether what was acknowledged is there |
//! | [`population`], [`drafts`] | who talks where, and what is said |
//! | [`rounds`] | rounds of each side, in turns |
//! | [`report`], [`out`] | figures, verdicts, and how they are printed |
//!
//! How each scenario measures, and what it does not measure, is in the README beside the manifest.

pub mod archived;
pub mod drafts;
pub mod faults;
pub mod harness;
pub mod http;
pub mod imports;
pub mod ledger;
pub mod load;
pub mod out;
pub mod pace;
pub mod pages;
pub mod population;
pub mod pt_archiver;
pub mod realtime;
pub mod report;
pub mod rounds;
pub mod rows;
pub mod scenario;
pub mod sender;
pub mod verify;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::faults::servers::{ObjectsArgs, SERVE_OBJECTS, serve_objects};
use crate::harness::bare::{ANSWER, answer};
use crate::realtime::swarm::{FOLLOW, follow};
use crate::scenario::{
    Common, archive, cold, deliver, fanout, history, hostile, idle, isolation, media, rebalance,
    send, storm,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  measured, and every goal was met
  1  not measured; what failed is on standard error
  2  the command line was not understood
  3  measured, but a goal was missed

Examples:
  make bench
  backscroll-bench send --mysql-url mysql://root@127.0.0.1:3306 --rounds 7";

/// Side-by-side benchmarks for Backscroll, on the machine at hand.
#[derive(Debug, Parser)]
#[command(name = "backscroll-bench", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Every scenario, with its defaults
    All,
    Send(send::Args),
    History(history::Args),
    Isolation(isolation::Args),
    Archive(archive::Args),
    Cold(cold::Args),
    Deliver(deliver::Args),
    Fanout(fanout::Args),
    Idle(idle::Args),
    Hostile(hostile::Args),
    Media(media::Args),
    Storm(storm::Args),
    Rebalance(rebalance::Args),
    Faults(scenario::faults::Args),
    /// What `storm` starts processes for
    #[command(name = FOLLOW, hide = true)]
    Follow,
    /// A server for `send`
    #[command(name = ANSWER, hide = true)]
    Answer,
    /// A server for `faults`
    #[command(name = SERVE_OBJECTS, hide = true)]
    ServeObjects(ObjectsArgs),
}

/// Runs the program: reads the command line, measures, and turns the outcome into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    match measure(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            out::progress(format_args!("backscroll-bench: {error:#}"));
            ExitCode::from(1)
        }
    }
}

/// One thread generates all load: on a small machine, more would take from what is measured.
fn measure(cli: &Cli) -> Result<bool> {
    let mut builder = match cli.scenario {
        Scenario::Answer => tokio::runtime::Builder::new_multi_thread(), // as the router has
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let common = &cli.common;
        match &cli.scenario {
            Scenario::All => {
                let sent = send::run(common, &defaults()?).await?;
                let read = history::run(common, &defaults()?).await?;
                let isolated = isolation::run(common, &defaults()?).await?;
                let archived = archive::run(common, &defaults()?).await?;
                let cold = cold::run(common, &defaults()?).await?;
                let delivered = deliver::run(common, &defaults()?).await?;
                let fanned_out = fanout::run(common, &defaults()?).await?;
                let idle = idle::run(common, &defaults()?).await?;
                let stormed = storm::run(common, &defaults()?).await?;
                let rebalanced = rebalance::run(common, &defaults()?).await?;
                let bounded = hostile::run(common, &defaults()?).await?;
                let files = media::run(common, &defaults()?).await?;
                let stored = sent && read && isolated && archived && cold && rebalanced && files;
                Ok(stored && bounded && delivered && fanned_out && idle && stormed)
            }
            Scenario::Send(args) => send::run(common, args).await,
            Scenario::History(args) => history::run(common, args).await,
            Scenario::Isolation(args) => isolation::run(common, args).await,
            Scenario::Archive(args) => archive::run(common, args).await,
            Scenario::Cold(args) => cold::run(common, args).await,
            Scenario::Deliver(args) => deliver::run(common, args).await,
            Scenario::Fanout(args) => fanout::run(common, args).await,
            Scenario::Idle(args) => idle::run(common, args).await,
            Scenario::Hostile(args) => hostile::run(common, args).await,
            Scenario::Media(args) => media::run(common, args).await,
            Scenario::Storm(args) => storm::run(common, args).await,
            Scenario::Rebalance(args) => rebalance::run(common, args).await,
            Scenario::Follow => follow().await.map(|()| true),
            Scenario::Answer => answer().await.map(|()| true),
            Scenario::Faults(args) => scenario::faults::run(common, args).await,
            Scenario::ServeObjects(args) => serve_objects(args).await.map(|()| true),
        }
    })
}

/// A scenario's arguments when none are given.
fn defaults<A: clap::Args>() -> Result<A> {
    let none =
        A::augment_args(clap::Command::new("defaults")).try_get_matches_from(["defaults"])?;
    Ok(A::from_arg_matches(&none)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_has_defaults() {
        Cli::command().debug_assert();
        assert!(defaults::<send::Args>().is_ok());
        assert!(defaults::<history::Args>().is_ok());
        assert!(defaults::<isolation::Args>().is_ok());
        assert!(defaults::<archive::Args>().is_ok());
        assert!(defaults::<cold::Args>().is_ok());
        assert!(defaults::<deliver::Args>().is_ok());
        assert!(defaults::<fanout::Args>().is_ok());
        assert!(defaults::<idle::Args>().is_ok());
        assert!(defaults::<hostile::Args>().is_ok());
        assert!(defaults::<media::Args>().is_ok());
        assert!(defaults::<storm::Args>().is_ok());
        assert!(defaults::<rebalance::Args>().is_ok());
        assert!(defaults::<scenario::faults::Args>().is_ok());
    }
}
