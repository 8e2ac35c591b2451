//! `backscroll archive hold`, `holds` and `erasures`: what must not go, and what went.

use backscroll_archiver::jobs::ArchiveJobs;
use backscroll_shard::archive::{Erasure, Hold};
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::Timestamp;
use serde_json::json;

use crate::deployment::Deployment;

use super::{Why, order, out, parse_reason};

/// Place a conversation under a legal hold, or lift it
///
/// Until it is lifted nothing of the conversation is deleted, erased, dropped at the end of its retention or archived
/// away. Deletions by users are refused with 409.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll archive hold --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788 --reason 'case 2026-17'
  backscroll archive hold --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788 --reason 'closed' --lift")]
pub(in crate::cli) struct HoldArgs {
    /// The conversation's id
    #[arg(long, value_name = "ID")]
    pub(super) conversation: ConversationId,
    /// Why; kept with the hold
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(super) reason: String,
    /// Lift it
    #[arg(long)]
    pub(super) lift: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn hold(deployment: &Deployment, args: HoldArgs) -> anyhow::Result<()> {
    let (archive, id) = (&deployment.archive, args.conversation);
    let why = Why {
        reason: args.reason,
    };
    let order = order(None, why);
    if args.lift {
        let lifted = archive.lift_hold(&order, id).await?;
        anyhow::ensure!(lifted, "conversation {id} is not held");
        if args.json {
            return out::json(&json!({ "conversationId": id, "lifted": lifted }));
        }
        return Ok(out::line(format_args!(
            "conversation {id} is not held any more"
        ))?);
    }
    // A mistyped id must not look like a hold. Whether its first message can be read is another matter.
    if let Err(Error::NotFound(_)) = deployment.store.export(id, Seq(0), 1).await {
        anyhow::bail!("there is no conversation {id}; nothing is held");
    }
    let hold = archive.place_hold(&order, id).await?;
    if args.json {
        return out::json(&hold);
    }
    Ok(out::line(format_args!(
        "conversation {id} is held until `backscroll archive hold --lift`"
    ))?)
}

/// List the legal holds
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backscroll archive holds --json")]
pub(in crate::cli) struct HoldsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn holds(archive: &ArchiveJobs, args: HoldsArgs) -> anyhow::Result<()> {
    let holds = archive.holds().await?;
    if args.json {
        return out::json(&holds);
    }
    let row = |hold: &Hold| {
        [
            hold.conversation_id.to_string(),
            hold.placed_at.to_string(),
            hold.actor.clone(),
            hold.reason.clone(),
        ]
    };
    let rows: Vec<[String; 4]> = holds.iter().map(row).collect();
    Ok(out::table(
        ["CONVERSATION", "SINCE", "BY", "REASON"],
        &rows,
    )?)
}

/// Show what of a conversation was erased from the archive, and what is still to be: the receipts
///
/// REWRITTEN is when the index ceased to name the content, ERASED when the last object with it was deleted. Message 0 is the
/// whole conversation.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  backscroll archive erasures --conversation 8f0c61a2b4d94b7e05d2f0a1c3b6e788"
)]
pub(in crate::cli) struct ErasuresArgs {
    /// The conversation's id
    #[arg(long, value_name = "ID")]
    conversation: ConversationId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn erasures(archive: &ArchiveJobs, args: ErasuresArgs) -> anyhow::Result<()> {
    let erasures = archive.erasures(args.conversation).await?;
    if args.json {
        return out::json(&erasures);
    }
    let when = |at: Option<Timestamp>| at.map_or("-".into(), |at| at.to_string());
    let row = |erasure: &Erasure| {
        [
            erasure.seq.to_string(),
            erasure.requested_at.to_string(),
            when(erasure.rewritten_at),
            when(erasure.erased_at),
        ]
    };
    let rows: Vec<[String; 4]> = erasures.iter().map(row).collect();
    Ok(out::table(
        ["MESSAGE", "DELETED", "REWRITTEN", "ERASED"],
        &rows,
    )?)
}
