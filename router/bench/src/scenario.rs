//! The scenarios: a file each. A scenario measures, prints its report, and says whether its goals were met.

pub mod archive;
pub mod cold;
pub mod deliver;
pub mod fanout;
pub mod faults;
pub mod history;
pub mod hostile;
pub mod idle;
pub mod isolation;
pub mod media;
pub mod rebalance;
pub mod send;
pub mod storm;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::harness::databases::Databases;
use crate::harness::machine::Machine;
use crate::harness::router::{Router, Setup, binary_beside_this};
use crate::harness::usage::{Watched, generator, listener};
use crate::out;
use crate::report::Verdict;

/// The share of the machine that others may use before a run is called disturbed.
const DISTURBED: f64 = 0.05;

/// What every scenario is given.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// The MySQL or MariaDB server to use, as mysql://user:password@host:port; the account creates and drops databases
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "BACKSCROLL_TEST_SQL_URL",
        default_value = "mysql://root@127.0.0.1:3306",
        hide_env_values = true
    )]
    pub mysql_url: String,
    /// The backscroll binary [default: the one beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    pub backscroll_bin: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Common {
    /// The `backscroll` binary to measure.
    ///
    /// # Errors
    /// When none is given and none is beside this program.
    pub fn binary(&self) -> Result<PathBuf> {
        match &self.backscroll_bin {
            Some(path) => Ok(std::path::absolute(path)?),
            None => binary_beside_this(),
        }
    }
}

/// A scenario's report.
pub trait Report: Serialize {
    /// What it ran on.
    fn machine(&self) -> &Machine;
    /// What was asked and what came out.
    fn verdicts(&self) -> &[Verdict];
    /// The share of the machine that processes outside of the benchmark had, from 0 to 1.
    fn others_share(&self) -> f64;
    /// Prints the measurements for people.
    fn print(&self);
}

/// Prints a report; returns whether all goals were met.
///
/// # Errors
/// Never: reports have JSON forms.
pub fn publish(report: &impl Report, json: bool) -> Result<bool> {
    if json {
        out::line(serde_json::to_string_pretty(report)?);
    } else {
        report.machine().print();
        report.print();
        let others = report.others_share();
        out::line(format_args!(
            "other processes and the kernel had {:.1} % of the machine",
            others * 100.0
        ));
        if others > DISTURBED {
            out::line("WARNING: something else was running: repeat the run on a quiet machine");
        }
        out::line("");
        for verdict in report.verdicts() {
            out::line(verdict);
        }
    }
    Ok(report.verdicts().iter().all(|verdict| verdict.met))
}

/// `count` names: `prefix1`, `prefix2` …
#[must_use]
pub fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{prefix}{n}")).collect()
}

/// A router over `directory` and `shard1`, `shard2` … of these databases.
#[must_use]
pub fn setup(binary: PathBuf, databases: &Databases, shards: usize) -> Setup {
    let shard_urls = numbered("shard", shards)
        .iter()
        .map(|name| databases.url(name))
        .collect();
    Setup {
        binary,
        directory_url: databases.url("directory"),
        shard_urls,
        settings: Vec::new(),
    }
}

/// The processes whose processor time is told apart.
///
/// # Errors
/// When the router has ended.
pub fn watched(databases: &Databases, router: &Router) -> Result<Vec<Watched>> {
    let mut watched = vec![
        generator(),
        router.process().context("the router has ended")?,
    ];
    let (_, port) = databases.server();
    match listener("database", port) {
        Some(process) => watched.push(process),
        None => out::progress(
            "the database server's process cannot be seen: its share counts as others'",
        ),
    }
    Ok(watched)
}

/// Refuses numbers outside of a range.
///
/// # Errors
/// When it is.
pub fn check_number(name: &str, value: usize, least: usize, most: usize) -> Result<()> {
    ensure!(
        (least..=most).contains(&value),
        "{name}: from {least} to {most}"
    );
    Ok(())
}

/// Refuses phases that measure nothing, and phases so long that connections waiting for their turn would be closed.
///
/// # Errors
/// When one is.
pub fn check_seconds(phases: &[f64]) -> Result<()> {
    let sound = phases.iter().all(|seconds| (0.1..=30.0).contains(seconds));
    ensure!(sound, "the seconds of a phase: from 0.1 to 30");
    Ok(())
}

/// Refuses numbers of connections that cannot be opened.
///
/// # Errors
/// When one is, or there is none.
pub fn check_connections(name: &str, numbers: &[usize]) -> Result<()> {
    let sound = !numbers.is_empty() && numbers.iter().all(|n| (1..=10_000).contains(n));
    ensure!(sound, "{name}: one or more numbers from 1 to 10000");
    Ok(())
}
