//! `backscroll archive verify`

use backscroll_archiver::jobs::verify::{Problem, VerifyOptions, VerifyReport};
use backscroll_archiver::jobs::{ArchiveJobs, Progress as Jobs};

use super::{Scope, Why, order, out, watch};

/// How many problems are printed for people.
const SHOWN: usize = 50;

/// Check that everything archived is there and right, and that no message is missing
///
/// Compares the object store with the index, both ways; reads every object, or a sample, and compares it with its digests,
/// line by line; looks for every message of every conversation; and compares the copies of messages of which there are
/// several. It changes nothing. Exits with 1 when something is wrong; `archive repair` puts right what can be.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll archive verify
  backscroll archive verify --sample 5 --json")]
pub(in crate::cli) struct Args {
    /// Read only this part of the objects, chosen at random, in percent; of the others only presence and size are checked
    #[arg(long, value_name = "PERCENT", default_value = "100", value_parser = parse_percent)]
    sample: f64,
    #[command(flatten)]
    pub(super) scope: Scope,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.trim_end_matches('%').parse::<f64>().ok();
    percent
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "write a number from 0 to 100".into())
}

pub(super) async fn run(archive: &ArchiveJobs, args: Args) -> anyhow::Result<()> {
    let Scope { shard, json } = args.scope;
    let why = Why {
        reason: String::new(),
    };
    let (order, jobs) = (order(shard, why), Jobs::default());
    let options = VerifyOptions {
        sample_percent: args.sample,
    };
    let work = archive.verify(&order, options, &jobs);
    let report = watch("verifying", &jobs, None).until(work).await?;
    if json {
        out::json(&report)?;
    } else {
        show(&report)?;
    }
    anyhow::ensure!(
        report.is_clean(),
        "{} found",
        out::counted(report.problem_count, "problem")
    );
    Ok(())
}

fn show(report: &VerifyReport) -> anyhow::Result<()> {
    out::line(format_args!(
        "{} named by the index, {} of them read: {}, {}",
        out::counted(report.segments, "object"),
        out::grouped(report.read),
        out::counted(report.frames, "frame"),
        out::counted(report.messages, "message")
    ))?;
    out::line(format_args!(
        "{} in the object store with {}, {} of them terms for searches; {} named by nothing, {} not Backscroll's",
        out::counted(report.objects, "object"),
        out::counted(report.object_bytes, "byte"),
        out::grouped(report.terms),
        out::grouped(report.orphans),
        out::grouped(report.foreign)
    ))?;
    out::line(format_args!(
        "{} looked through for missing messages",
        out::counted(report.conversations, "conversation")
    ))?;
    for problem in report.problems.iter().take(SHOWN) {
        show_problem(problem, "")?;
    }
    if report.problem_count > SHOWN as u64 {
        let more = report.problem_count - SHOWN as u64;
        out::line(format_args!("… and {more} more; --json lists more"))?;
    }
    if report.is_clean() && report.read == 0 && report.segments > 0 {
        out::line(format_args!(
            "nothing wrong, but no object was read: the sample chose none of {}; give a larger --sample",
            out::grouped(report.segments)
        ))?;
    } else if report.is_clean() {
        out::line("clean")?;
    }
    Ok(())
}

/// Prints a problem, and what comes of it.
pub(in crate::cli) fn show_problem(problem: &Problem, end: &str) -> anyhow::Result<()> {
    let conversation = problem.conversation_id.map(|id| id.to_string());
    let about = problem.segment.as_ref().or(conversation.as_ref());
    let about = about.map_or(String::new(), |about| format!(" {about}"));
    let end = if end.is_empty() {
        String::new()
    } else {
        format!(": {end}")
    };
    out::line(format_args!(
        "{}{about}: {}{end}",
        problem.shard, problem.problem
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(parse_percent("5"), Ok(5.0));
        assert_eq!(parse_percent("0.5%"), Ok(0.5));
        for bad in ["", "-1", "100.1", "NaN", "inf", "half"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }
}
