//! `backscroll audit`: who did what to whom.

use backscroll_archiver::audit_heads;
use backscroll_shard::audit::{
    Act, Action, AuditFilter, AuditRecord, RECORDS_MAX, Reference, Verification,
};
use backscroll_shard::ids::UserId;
use backscroll_shard::model::Timestamp;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use serde_json::{Value, json};

use crate::boot;
use crate::config::Config;
use crate::deployment::Deployment;

use super::archive::{actor, parse_reason};
use super::{log_for_people, out, time};

/// How many problems are printed for people.
const SHOWN: usize = 50;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(ListArgs),
    Verify(VerifyArgs),
    Erase(EraseArgs),
}

/// List what was done, the newest first
///
/// Sanctions, moves of ranges, shards that were added, holds, archive jobs of operators, exports, starts of nodes with their
/// configuration. Whoever did something is `user/ID` with a token, `operator/NAME` with a command, `node/NAME` by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll audit list --subject user/mallory
  backscroll audit list --actor operator/alice --from 2026-11-01T00:00:00Z --json")]
pub(super) struct ListArgs {
    /// Only what this one did, as user/root
    #[arg(long, value_name = "KIND/NAME")]
    actor: Option<String>,
    /// Only this, as sanction.impose
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only what was done to this one, as user/mallory or conversation/8f0c61a2b4d94b7e05d2f0a1c3b6e788
    #[arg(long, value_name = "KIND/NAME")]
    subject: Option<String>,
    /// Only from this time on, an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Most records
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Check that the audit log is what was written
///
/// Reads every record and computes its hashes again: a record that was changed, taken out or put elsewhere is found. The heads of the log
/// that servers have put into the object store are compared, so that a log that was cut off or written anew is found, too. Exits with 1
/// when something is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll audit verify
  backscroll audit verify --json")]
pub(super) struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Erase what the audit log says of a person
///
/// Of each record that has the person as its actor or subject: actor, subject, reason and details. That something was done, what and when
/// stays, and the log says how many records were erased, by whom and why; `audit verify` holds.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll audit erase --user mallory --reason 'request 2026-311'")]
pub(super) struct EraseArgs {
    /// The user's id
    #[arg(long, value_name = "USER")]
    user: UserId,
    /// Why; kept in the log
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    log_for_people(&config)?;
    let deployment = boot::open_existing(&config, &Supervisor::default()).await?;
    let done = match command {
        Command::List(args) => list(&deployment.store, args).await,
        Command::Verify(args) => verify(&deployment, &args).await,
        Command::Erase(args) => erase(&deployment.store, &args).await,
    };
    boot::close(&deployment).await;
    done
}

/// Records what a command of an operator is about to do.
///
/// # Errors
/// When it cannot be recorded; then it must not be done.
pub(super) async fn record(
    store: &Store,
    (action, subject): (Action, Option<Reference>),
    reason: &str,
    details: Value,
) -> anyhow::Result<()> {
    let act = Act::new(Reference::operator(&actor()), action, subject);
    let act = act.because(reason).with(details);
    let recorded = store.audit().append(&act).await;
    recorded.map_err(|error| {
        anyhow::Error::new(error)
            .context("nothing was done: it could not be written to the audit log")
    })?;
    Ok(())
}

async fn list(store: &Store, args: ListArgs) -> anyhow::Result<()> {
    let filter = AuditFilter {
        actor: args.actor,
        action: args.action,
        subject: args.subject,
        from: args.from,
        until: args.until,
    };
    let mut left = args.limit as usize;
    let mut records: Vec<AuditRecord> = Vec::new();
    let mut cursor = None;
    while left > 0 {
        let limit = left.min(RECORDS_MAX);
        let page = store.audit().list(&filter, cursor.as_deref(), limit);
        let page = page.await?;
        left -= page.records.len();
        records.extend(page.records);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if args.json {
        return out::json(&records);
    }
    let row = |record: &AuditRecord| {
        let or = |text: &Option<String>, other: &str| text.as_deref().unwrap_or(other).to_owned();
        let absent = if record.is_erased { "(erased)" } else { "-" };
        [
            record.number.to_string(),
            record.at.to_string(),
            or(&record.actor, absent),
            record.action.clone(),
            or(&record.subject, absent),
            or(&record.reason, absent),
        ]
    };
    let rows: Vec<[String; 6]> = records.iter().map(row).collect();
    Ok(out::table(
        ["NUMBER", "AT", "ACTOR", "ACTION", "SUBJECT", "REASON"],
        &rows,
    )?)
}

async fn verify(deployment: &Deployment, args: &VerifyArgs) -> anyhow::Result<()> {
    let store = &deployment.store;
    let published = audit_heads::published(store, deployment.objects.as_ref()).await?;
    let verification = store.audit().verify(&published).await?;
    if args.json {
        out::json(&verification)?;
    } else {
        show(&verification)?;
    }
    let count = verification.problem_count;
    anyhow::ensure!(count == 0, "{} found", out::counted(count, "problem"));
    Ok(())
}

fn show(verification: &Verification) -> anyhow::Result<()> {
    for problem in verification.problems.iter().take(SHOWN) {
        out::line(problem)?;
    }
    if verification.problem_count > SHOWN as u64 {
        let more = verification.problem_count - SHOWN as u64;
        out::line(format_args!("… and {more} more; --json lists more"))?;
    }
    let records = out::counted(verification.records, "record");
    let erased = out::grouped(verification.erased);
    let heads = out::counted(verification.published_heads, "head");
    out::line(format_args!(
        "{records}, {erased} of them erased; compared with {heads} in the object store"
    ))?;
    if let Some(head) = &verification.head {
        out::line(format_args!(
            "head: record {} of {}, {}",
            head.number, head.at, head.hash
        ))?;
    }
    if verification.problem_count == 0 {
        out::line("clean")?;
    }
    Ok(())
}

async fn erase(store: &Store, args: &EraseArgs) -> anyhow::Result<()> {
    let (person, operator) = (Reference::user(&args.user), Reference::operator(&actor()));
    let audit = store.audit();
    let erased = audit.erase(&person, &operator, &args.reason).await?;
    if args.json {
        return out::json(&json!({ "records": erased }));
    }
    Ok(out::line(format_args!(
        "{} erased",
        out::counted(erased as u64, "record")
    ))?)
}
