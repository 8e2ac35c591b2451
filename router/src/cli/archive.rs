//! `backscroll archive`: the operators' jobs on the archive, each by the same code as the schedule of `serve`.
//!
//! Several of them at once do no harm: a job holds the lease of a shard's ranges, and who comes second is told by whom it
//! is held. A command that is killed leaves what it had committed; the next one goes on from there. SIGTERM and SIGINT stop
//! a job between two steps, and it gives its lease up.

mod collect;
mod hold;
mod repair;
mod restore;
mod run;
mod status;
mod verify;

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::Context as _;
use backscroll_archiver::jobs::{Order, Progress as Jobs, ShardOutcome};
use backscroll_shard::audit::{Action, Reference};
use backscroll_shard::ids::{IdError, ShardName};
use backscroll_shard::tasks::Supervisor;
use serde_json::{Value, json};

use crate::boot;
use crate::config::Config;
use crate::deployment::Deployment;
use crate::signals;

pub(super) use collect::Args as CollectArgs;
pub(super) use verify::show_problem;

use super::progress::Progress;
use super::{audit, log_for_people, out};

/// How long a command may take to stop.
pub(super) const LONGEST_STOP: Duration = Duration::from_secs(60);

/// Why a command that is no job did not get to its end.
pub(super) const STOPPED: &str = "stopped by a signal before it was done";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Run(run::Args),
    Status(status::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Restore(restore::RestoreArgs),
    Gc(collect::Args),
    RebuildIndex(restore::RebuildArgs),
    Hold(hold::HoldArgs),
    Holds(hold::HoldsArgs),
    Erasures(hold::ErasuresArgs),
}

/// What every command on some shards takes.
#[derive(Debug, clap::Args)]
pub(super) struct Scope {
    /// Only this shard
    #[arg(long, value_name = "NAME", value_parser = parse_shard)]
    pub(super) shard: Option<ShardName>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn parse_shard(text: &str) -> Result<ShardName, IdError> {
    ShardName::new(text)
}

/// What every command that changes something takes.
#[derive(Debug, clap::Args)]
pub(super) struct Why {
    /// Why, for the history of jobs
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    pub(super) reason: String,
}

/// Most characters of a reason that has to be given.
const REASON_CHARACTERS: usize = 128;

pub(super) fn parse_reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > REASON_CHARACTERS {
        return Err(format!("write 1 to {REASON_CHARACTERS} characters"));
    }
    Ok(text.to_owned())
}

pub(super) async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    log_for_people(&config)?;
    command.check(&config)?;
    let supervisor = Supervisor::default();
    let stop = signals::stop_on_signals(&supervisor, LONGEST_STOP)?;
    let opening = boot::open_existing(&config, &supervisor);
    let opened = stop.run_until_cancelled(opening).await;
    let mut deployment = opened.context(STOPPED)??;
    deployment.archive = deployment.archive.stopped_by(stop.clone());
    let is_job = command.is_job();
    let work = async {
        if let Some(act) = command.act() {
            audit::record(&deployment.store, act.0, &act.1, act.2).await?;
        }
        command.execute(&deployment).await
    };
    let outcome = if is_job {
        work.await // it stops by itself
    } else {
        let done = stop.run_until_cancelled(work).await;
        done.context(STOPPED).flatten()
    };
    boot::close(&deployment).await;
    outcome
}

impl Command {
    /// Whether it holds a lease while it works, which it has to give up.
    fn is_job(&self) -> bool {
        matches!(
            self,
            Self::Run(_) | Self::Restore(_) | Self::Gc(_) | Self::RebuildIndex(_)
        )
    }

    /// What is wrong with it, as far as that can be known before anything is opened.
    fn check(&self, config: &Config) -> anyhow::Result<()> {
        if let Self::Run(args) = self {
            args.check(config)?;
        }
        let scope = match self {
            Self::Run(args) => Some(&args.scope),
            Self::Status(args) => Some(&args.scope),
            Self::Verify(args) => Some(&args.scope),
            Self::Repair(args) => Some(&args.scope),
            Self::Gc(args) => Some(&args.scope),
            _ => None,
        };
        require_shard(config, scope.and_then(|scope| scope.shard.as_ref()))
    }

    /// What is recorded of it before it is done: what, to what, why, and what else there is to know. Nothing of what only looks.
    fn act(&self) -> Option<((Action, Option<Reference>), String, Value)> {
        let of = |scope: &Scope| scope.shard.as_ref().map(Reference::shard);
        let (action, subject, reason, details) = match self {
            Self::Run(args) if !args.dry_run => {
                let older_than = args.older_than.map(|age| age.to_string());
                let details = json!({ "olderThan": older_than });
                (
                    Action::ArchiveRun,
                    of(&args.scope),
                    &args.why.reason,
                    details,
                )
            }
            Self::Repair(args) if !args.dry_run => {
                let shard = of(&args.scope);
                (Action::ArchiveRepair, shard, &args.why.reason, json!({}))
            }
            Self::Gc(args) if !args.dry_run => {
                let shard = of(&args.scope);
                (Action::ArchiveCollect, shard, &args.why.reason, json!({}))
            }
            Self::Restore(args) => {
                let conversation = Some(Reference::conversation(args.conversation));
                (
                    Action::ArchiveRestore,
                    conversation,
                    &args.why.reason,
                    json!({}),
                )
            }
            Self::RebuildIndex(args) => (Action::ArchiveRebuild, None, &args.why.reason, json!({})),
            Self::Hold(args) => {
                let action = if args.lift {
                    Action::HoldLift
                } else {
                    Action::HoldPlace
                };
                let conversation = Some(Reference::conversation(args.conversation));
                (action, conversation, &args.reason, json!({}))
            }
            _ => return None,
        };
        Some(((action, subject), reason.clone(), details))
    }

    async fn execute(self, deployment: &Deployment) -> anyhow::Result<()> {
        let archive = &deployment.archive;
        match self {
            Self::Run(args) => run::run(archive, args).await,
            Self::Status(args) => status::run(archive, args).await,
            Self::Verify(args) => verify::run(archive, args).await,
            Self::Repair(args) => repair::run(archive, args).await,
            Self::Restore(args) => restore::restore(archive, args).await,
            Self::Gc(args) => collect::run(archive, args).await,
            Self::RebuildIndex(args) => restore::rebuild(archive, args).await,
            Self::Hold(args) => hold::hold(deployment, args).await,
            Self::Holds(args) => hold::holds(archive, args).await,
            Self::Erasures(args) => hold::erasures(archive, args).await,
        }
    }
}

/// There is such a shard, if one was named.
pub(super) fn require_shard(config: &Config, name: Option<&ShardName>) -> anyhow::Result<()> {
    let names = || config.store.shards.iter().map(|shard| &shard.name);
    let Some(name) = name.filter(|name| !names().any(|known| known == *name)) else {
        return Ok(());
    };
    let names: Vec<&str> = names().map(ShardName::as_str).collect();
    anyhow::bail!("there is no shard `{name}`; there are {}", names.join(", "))
}

pub(super) fn order(shard: Option<ShardName>, why: Why) -> Order {
    Order {
        actor: actor(),
        reason: why.reason,
        shard,
    }
}

/// Who runs this: the user's name as the machine's environment has it, or the number of the account.
pub(super) fn actor() -> String {
    let name = std::env::var("USER")
        .ok()
        .filter(|name| !name.trim().is_empty());
    name.unwrap_or_else(|| match std::fs::metadata("/proc/self") {
        Ok(process) => format!("uid {}", process.uid()),
        Err(_) => "unknown".into(),
    })
}

/// Shows how far a job is: `unit` of `total`, if that is known, and what it does just now.
pub(super) fn watch(activity: &'static str, jobs: &Jobs, total: Option<u64>) -> Progress {
    let jobs = jobs.clone();
    Progress::watch(activity, "messages", total, move || {
        let now = jobs.snapshot();
        let mut doing: Vec<String> = now.shard.iter().map(ToString::to_string).collect();
        if !now.phase.is_empty() && now.phase != activity {
            doing.push(now.phase.into());
        }
        if now.deleted > 0 {
            doing.push(format!("{} deleted", out::counted(now.deleted, "row")));
        }
        doing.extend(now.waiting.map(|why| format!("waits: {why}")));
        (now.messages, doing.join(", "))
    })
}

/// Says on standard error which shards failed and why, and fails if any did.
pub(super) fn require_all<T>(outcomes: &[ShardOutcome<T>]) -> anyhow::Result<()> {
    let failed: Vec<&ShardOutcome<T>> = outcomes
        .iter()
        .filter(|outcome| outcome.error.is_some())
        .collect();
    for outcome in &failed {
        let error = outcome.error.as_deref().unwrap_or_default();
        out::note(format_args!("{}: {error}", outcome.shard));
    }
    anyhow::ensure!(
        failed.is_empty(),
        "{} of {} not done to the end; what was done stays, and running it again goes on from there",
        failed.len(),
        out::counted(outcomes.len() as u64, "shard")
    );
    Ok(())
}

/// `part` by `whole`, with one digit; nothing when there is no whole.
fn ratio(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let ratio = part as f64 / whole as f64;
    if whole == 0 {
        "-".into()
    } else {
        format!("{ratio:.1}")
    }
}
