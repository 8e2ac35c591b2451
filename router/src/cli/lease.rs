//! `backscroll lease`

use backscroll_shard::archive::HeldLease;
use backscroll_shard::audit::{Action, Reference};
use backscroll_shard::ids::ShardName;
use backscroll_shard::tasks::Supervisor;
use serde::Serialize;
use serde_json::json;

use crate::boot;
use crate::config::Config;

use super::archive::{Why, order, parse_reason, parse_shard, require_shard};
use super::{audit, out};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Clear(Args),
}

/// Free the lease of a job that died
///
/// A job on the archive holds the lease of its shard, and renews it every second. When its process dies the lease ends by
/// itself after archive.lease, by the clock of the shard's database; this frees it at once. A job that is not dead stops at
/// its next step, and what it had done stays. `backscroll archive status` shows who holds a lease, and until when.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll lease clear --shard db2 --reason 'the machine of that job is gone'")]
pub(super) struct Args {
    /// Only this shard's
    #[arg(long, value_name = "NAME", value_parser = parse_shard)]
    shard: Option<ShardName>,
    /// Why; kept in the history of jobs
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A shard as `--json` prints it.
#[derive(Serialize)]
struct Cleared {
    shard: ShardName,
    /// The leases that were held.
    held: Vec<HeldLease>,
}

pub(super) async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    super::log_for_people(&config)?;
    let Command::Clear(args) = command;
    require_shard(&config, args.shard.as_ref())?;
    let why = Why {
        reason: args.reason,
    };
    let deployment = boot::open_existing(&config, &Supervisor::default()).await?;
    let clearing = async {
        let subject = args.shard.as_ref().map(Reference::shard);
        let act = (Action::LeaseClear, subject);
        audit::record(&deployment.store, act, &why.reason, json!({})).await?;
        let order = order(args.shard, why);
        anyhow::Ok(deployment.archive.clear_leases(&order).await?)
    };
    let cleared = clearing.await;
    boot::close(&deployment).await;
    let cleared: Vec<Cleared> = cleared?
        .into_iter()
        .map(|(shard, held)| Cleared { shard, held })
        .collect();
    if args.json {
        return out::json(&cleared);
    }
    if cleared.iter().all(|shard| shard.held.is_empty()) {
        return Ok(out::line("no lease is held; nothing was done")?);
    }
    for Cleared { shard, held } in &cleared {
        for lease in held {
            out::line(format_args!(
                "{shard}: freed the lease of {}, which would have ended at {}",
                lease.holder, lease.expires_at
            ))?;
        }
    }
    Ok(())
}
