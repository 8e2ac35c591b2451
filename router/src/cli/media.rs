//! `backscroll media`: files of conversations, looked over, collected and processed by hand. `serve` collects them with the
//! archive's schedule, and processes pictures when they are uploaded.

mod rebuild;

use std::time::Duration;

use backscroll_archiver::jobs::ArchiveJobs;
use backscroll_archiver::jobs::files::FilesReport;
use backscroll_shard::tasks::Supervisor;

use crate::boot;
use crate::config::Config;
use crate::signals;

use super::archive::{Why, order};
use super::{archive, log_for_people, out};

/// How long a command may take to stop.
const LONGEST_STOP: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Verify(VerifyArgs),
    Gc(archive::CollectArgs),
    Rebuild(rebuild::RebuildArgs),
}

/// Check that every file of a conversation is there, and find objects that belong to none
///
/// Compares the databases with the object store, both ways: each file that may be read has its object, of its size; objects
/// that no file names are counted. It changes nothing. Exits with 1 when a file cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll media verify
  backscroll media verify --json")]
pub(super) struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    // One collection: what messages, erasures and files leave behind goes in this order.
    if let Command::Gc(args) = command {
        return archive::run(config, archive::Command::Gc(args)).await;
    }
    log_for_people(&config)?;
    let supervisor = Supervisor::default();
    let stop = signals::stop_on_signals(&supervisor, LONGEST_STOP)?;
    let deployment = boot::open_existing(&config, &supervisor).await?;
    let done = match &command {
        Command::Rebuild(args) => rebuild::run(&config, &deployment, (args, &stop)).await,
        Command::Verify(args) => stop
            .run_until_cancelled(verify(&deployment.archive, args))
            .await
            .unwrap_or_else(|| Err(anyhow::anyhow!("stopped by a signal before it was done"))),
        Command::Gc(_) => Ok(()),
    };
    boot::close(&deployment).await;
    done
}

async fn verify(jobs: &ArchiveJobs, args: &VerifyArgs) -> anyhow::Result<()> {
    let why = Why {
        reason: String::new(),
    };
    let now = jobs.now(&order(None, why)).await?;
    let report = jobs.verify_files(now).await?;
    if args.json {
        out::json(&report)?;
    } else {
        show(&report)?;
    }
    let faulty = out::counted(report.faulty, "file");
    anyhow::ensure!(report.faulty == 0, "{faulty} cannot be read");
    Ok(())
}

fn show(report: &FilesReport) -> anyhow::Result<()> {
    let (files, bytes) = (
        out::counted(report.files, "file"),
        out::grouped(report.bytes),
    );
    let variants = out::counted(report.variants, "smaller form");
    out::line(format_args!(
        "{files} with {bytes} bytes, and {variants} of pictures"
    ))?;
    let orphans = out::counted(report.orphans, "object");
    let young = out::grouped(report.in_grace);
    out::line(format_args!(
        "{orphans} that no file names, which gc deletes; {young} more may belong to a check under way"
    ))?;
    for fault in &report.faults {
        let (id, conversation) = (fault.media_id, fault.conversation_id);
        let what = match fault.fault {
            "missing" => "is missing",
            _ => "has another size",
        };
        out::line(format_args!(
            "file {id} of conversation {conversation}: its object {} {what}",
            fault.object
        ))?;
    }
    if report.faulty == 0 {
        out::line("clean")?;
    }
    Ok(())
}
