//! `backscroll shards`

mod drain;
mod views;
mod writer;

use std::time::Duration;

use backscroll_shard::identity::adoption::{self, Adoption};
use backscroll_shard::identity::joining::{self, Joining};
use backscroll_shard::ids::ShardName;
use backscroll_shard::store::{DependencyHealth, Health, ShardHealth, Store};
use backscroll_shard::tasks::Supervisor;
use serde::Serialize;

use crate::config::Config;
use crate::{boot, failpoint};

use super::archive::{actor, parse_reason, parse_shard, require_shard};
use super::out;

/// How long each database may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the shards: whether they answer, how fast, and which part of the key space they own
    #[command(after_help = "Example:\n  backscroll shards list --config production.toml")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    Add(AddArgs),
    Adopt(AdoptArgs),
    Drain(drain::Args),
    Views(views::Args),
    Writer(writer::Args),
}

/// Make a shard of the configuration part of the deployment
///
/// Its database has to be empty. It gets its tables and the shard's identity; the shard owns no keys until `backscroll rebalance
/// run --to NAME` gives it some. If the command is killed, run it again: until it is done, the deployment serves without the shard.
///
/// Put the shard into the configuration of all servers before, and restart them: a server that does not know the shard cannot
/// answer for keys that are moved to it. Servers that know it use it within seconds after this command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll shards add db4 --dry-run
  backscroll shards add db4 --reason 'db1 to db3 are 80 % full'")]
pub(super) struct AddArgs {
    #[command(flatten)]
    change: Change,
}

/// Take the database that the configuration names for a shard as the shard's
///
/// For an empty database in the place of a lost one, and for one that was brought back from a backup. It gets the shard's
/// identity and exactly the fences of what the directory gives the shard. The database that was the shard's until then is
/// not answered by any more, should it come back. Nothing else changes an identity or opens a fence once a deployment is made.
///
/// Refused when the database belongs to something else, when another one owns what it would own, and while one is away.
/// Restart the servers afterwards: they remember what the shard had. After a loss, `backscroll archive rebuild-index` brings
/// what was archived back.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll shards adopt db2 --dry-run
  backscroll shards adopt db2 --reason 'disk of db2 lost, backup of 3 May restored'")]
pub(super) struct AdoptArgs {
    #[command(flatten)]
    change: Change,
}

/// What every command takes that changes which database a shard has.
#[derive(Debug, clap::Args)]
struct Change {
    /// The shard
    #[arg(value_name = "NAME", value_parser = parse_shard)]
    shard: ShardName,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Why; kept in the history of jobs
    #[arg(long, value_name = "TEXT", value_parser = parse_reason, required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A shard as `--json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    /// The part of the key space it owns, 0 to 1.
    key_space: f64,
    #[serde(flatten)]
    health: ShardHealth,
}

pub(super) async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    super::log_for_people(&config)?;
    match command {
        Command::List { json } => list_all(&config, json).await,
        Command::Add(args) => add(&config, args.change).await,
        Command::Adopt(args) => adopt(&config, args.change).await,
        Command::Drain(args) => drain::run(&config, args).await,
        Command::Views(views::Args {}) => views::print(&config),
        Command::Writer(args) => writer::run(&config, args).await,
    }
}

async fn add(config: &Config, args: Change) -> anyhow::Result<()> {
    require_shard(config, Some(&args.shard))?;
    let (store, shard) = (&config.store, &args.shard);
    let joining = if args.dry_run {
        joining::plan(store, shard).await?
    } else {
        let reason = args.reason.as_deref().unwrap_or_default();
        let hook = failpoint::making()?;
        joining::join(store, shard, (&actor(), reason), hook.as_ref()).await?
    };
    if args.json {
        return out::json(&joining);
    }
    let Joining {
        address,
        was,
        incarnation,
        is_joined,
        ..
    } = joining;
    if is_joined {
        return Ok(out::line(format_args!(
            "shard {shard} is part of the deployment already, with {address}, incarnation {incarnation}"
        ))?);
    }
    let verb = if args.dry_run { "would become" } else { "is" };
    out::line(format_args!(
        "{address} ({was}) {verb} the database of the new shard {shard}, incarnation {incarnation}"
    ))?;
    if args.dry_run {
        return Ok(out::line("nothing was done")?);
    }
    out::note(format_args!(
        "it owns no keys; `backscroll rebalance run --to {shard}` moves some to it"
    ));
    Ok(())
}

async fn adopt(config: &Config, args: Change) -> anyhow::Result<()> {
    require_shard(config, Some(&args.shard))?;
    let (store, shard) = (&config.store, &args.shard);
    let adoption = if args.dry_run {
        adoption::plan(store, shard).await?
    } else {
        let reason = args.reason.as_deref().unwrap_or_default();
        let hook = failpoint::making()?;
        adoption::adopt(store, shard, (&actor(), reason), hook.as_ref()).await?
    };
    if args.json {
        return out::json(&adoption);
    }
    tell(&adoption, args.dry_run)
}

fn tell(adoption: &Adoption, dry_run: bool) -> anyhow::Result<()> {
    let Adoption {
        shard,
        address,
        was,
        incarnation,
        ..
    } = adoption;
    let verb = if dry_run { "would become" } else { "is" };
    out::line(format_args!(
        "{address} ({was}) {verb} the database of shard {shard}, incarnation {incarnation}"
    ))?;
    for owned in &adoption.ranges {
        out::line(format_args!("  {} at epoch {}", owned.range, owned.epoch))?;
    }
    if dry_run {
        return Ok(out::line("nothing was done")?);
    }
    if adoption.is_empty {
        out::note("it is empty; `backscroll archive rebuild-index` brings back what was archived");
    }
    Ok(())
}

async fn list_all(config: &Config, json: bool) -> anyhow::Result<()> {
    let deployment = boot::open_existing(config, &Supervisor::default()).await?;
    let health = deployment.store.health(PATIENCE).await;
    let outcome = list(&deployment.store, health, json);
    boot::close(&deployment).await;
    outcome
}

fn list(store: &Store, health: Health, json: bool) -> anyhow::Result<()> {
    let listed: Vec<Listed> = health
        .shards
        .into_iter()
        .map(|shard| Listed {
            key_space: share(store, &shard),
            health: shard,
        })
        .collect();
    if json {
        return out::json(&listed);
    }
    let rows: Vec<[String; 6]> = listed.iter().map(row).collect();
    out::table(
        [
            "SHARD",
            "STATE",
            "LATENCY",
            "REPLICAS",
            "KEY SPACE",
            "RANGES",
        ],
        &rows,
    )?;
    for shard in &listed {
        let primary = match shard.health.primary.ok {
            true => &shard.health.writes,
            false => &shard.health.primary,
        };
        for error in std::iter::once(primary)
            .chain(&shard.health.replicas)
            .filter_map(|health| health.error.as_ref())
        {
            out::note(format_args!("{}: {error}", shard.health.name));
        }
    }
    Ok(())
}

/// Of all keys, how many the shard owns.
fn share(store: &Store, shard: &ShardHealth) -> f64 {
    let width: u128 = store
        .map()
        .ranges_of(&shard.name)
        .map(|assignment| assignment.range.width())
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = width as f64 / 2f64.powi(64);
    share
}

fn row(listed: &Listed) -> [String; 6] {
    let shard = &listed.health;
    let answering = shard.replicas.iter().filter(|replica| replica.ok).count();
    let ranges = shard
        .ranges
        .iter()
        .map(|assignment| assignment.range.to_string());
    [
        shard.name.to_string(),
        match (shard.takes_reads, shard.takes_writes) {
            (true, true) => "up",
            (true, false) => "READ-ONLY",
            (false, _) => "DOWN",
        }
        .into(),
        latency(&shard.primary),
        format!("{answering}/{}", shard.replicas.len()),
        format!("{:.1} %", listed.key_space * 100.0),
        ranges.collect::<Vec<_>>().join(", "),
    ]
}

fn latency(health: &DependencyHealth) -> String {
    if health.ok {
        format!("{:.1} ms", health.latency_ms)
    } else {
        "-".into()
    }
}
