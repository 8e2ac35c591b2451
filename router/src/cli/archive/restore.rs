//! `backscroll archive restore` and `backscroll archive rebuild-index`

use backscroll_archiver::jobs::{ArchiveJobs, Progress as Jobs};
use backscroll_shard::ids::ConversationId;

use super::{Why, order, out, require_all, watch};

/// Bring a conversation's archived messages back into the database
///
/// Their archived copies stay until they are written anew. The next run archives them again, unless the conversation is
/// under a legal hold.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  backscroll archive restore --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788"
)]
pub(in crate::cli) struct RestoreArgs {
    /// The conversation's id
    #[arg(long, value_name = "ID")]
    pub(super) conversation: ConversationId,
    #[command(flatten)]
    pub(super) why: Why,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn restore(archive: &ArchiveJobs, args: RestoreArgs) -> anyhow::Result<()> {
    let (order, jobs) = (order(None, args.why), Jobs::default());
    let work = archive.restore(&order, args.conversation, &jobs);
    let outcome = watch("restoring", &jobs, None).until(work).await?;
    if args.json {
        out::json(&outcome)?;
    } else {
        out::line(format_args!(
            "{} of conversation {} brought back into the database of {}",
            out::counted(outcome.figures.messages, "message"),
            args.conversation,
            outcome.shard
        ))?;
    }
    require_all(&[outcome])
}

/// Make the index of archived messages anew, from the object store alone
///
/// For shards whose databases were lost and are empty, and after a backup that is older than what was archived since. It
/// reads every object, adds what the index lacks, replaces what does not agree with its object and makes lost conversations
/// again; everything else stays. No job may run on any shard meanwhile.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  backscroll migrate && backscroll archive rebuild-index --reason 'db2 was lost'"
)]
pub(in crate::cli) struct RebuildArgs {
    #[command(flatten)]
    pub(super) why: Why,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn rebuild(archive: &ArchiveJobs, args: RebuildArgs) -> anyhow::Result<()> {
    let (order, jobs) = (order(None, args.why), Jobs::default());
    let work = archive.rebuild(&order, &jobs);
    let outcome = watch("rebuilding", &jobs, None).until(work).await?;
    let figures = &outcome.figures;
    if args.json {
        out::json(&outcome)?;
    } else {
        out::line(format_args!(
            "{} with {} read: {} in the index, {} made again",
            out::counted(figures.segments, "object"),
            out::counted(figures.messages, "message"),
            out::counted(figures.runs, "run"),
            out::counted(figures.conversations, "conversation")
        ))?;
        figures.problems.iter().try_for_each(out::line)?;
    }
    let unread = figures.problems.len() as u64;
    require_all(&[outcome])?;
    anyhow::ensure!(
        unread == 0,
        "{} could not be read",
        out::counted(unread, "object")
    );
    Ok(())
}
