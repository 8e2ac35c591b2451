//! `backscroll doctor`

use crate::config::{Config, ConfigError};
use crate::doctor::{Finding, Verdict, examine};

use super::out;

/// Test everything the configuration names, and say what is wrong and what to do
///
/// The configuration, the directory and every shard: reachable, schema up to date, may be written, key ranges as the map
/// says, commits durable, clocks right; and the object store: put, get, get a range, list, delete, never overwrite, upload in
/// parts; and its address for clients: a signed PUT and GET as browsers make them, from each of `server.cors_origins`. Nothing is
/// changed. Exits with 1 when something does not work, with 3 when the
/// configuration cannot be used.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backscroll doctor --config production.toml")]
pub(super) struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    load: impl FnOnce() -> Result<Config, ConfigError>,
    args: Args,
) -> anyhow::Result<()> {
    let findings = examine(&load()?).await;
    if args.json {
        out::json(&findings)?;
    } else {
        findings.iter().try_for_each(show)?;
    }
    let count = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    let (failures, warnings) = (count(Verdict::Failure), count(Verdict::Warning));
    anyhow::ensure!(
        failures == 0,
        "{failures} of {} checks failed",
        findings.len()
    );
    if warnings == 0 {
        out::note("all is well");
    }
    Ok(())
}

fn show(finding: &Finding) -> std::io::Result<()> {
    let mark = match finding.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warning => "warn",
        Verdict::Failure => "FAIL",
    };
    out::line(format_args!(
        "{mark}  {}: {}",
        finding.subject, finding.detail
    ))?;
    match &finding.remedy {
        Some(remedy) => out::line(format_args!("      → {remedy}")),
        None => Ok(()),
    }
}
