//! `backscroll shards writer`: which server of a cluster writes a shard.

use backscroll_shard::identity::writer::{self, Allowed};
use backscroll_shard::ids::ShardName;

use crate::config::Config;

use super::super::archive::{actor, parse_reason, parse_shard, require_shard};
use super::super::out;

/// Say which server of a cluster writes a shard
///
/// For shards on a Galera cluster, whose nodes all take writes. `backscroll migrate` writes down that the node to which the shard's
/// address leads is the one that writes, and connections to other ones are refused. When that node is lost: make sure that it does not
/// come back by itself, put the address of another one into the configuration of all servers, run this, and restart them.
///
/// No server writes to the old node from then on, also none that is still connected to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll shards writer db1 --dry-run
  backscroll shards writer db1 --reason 'node db1a lost'
  backscroll shards writer db1 --any --reason 'db1 is no cluster any more'")]
pub(in crate::cli) struct Args {
    /// The shard
    #[arg(value_name = "NAME", value_parser = parse_shard)]
    shard: ShardName,
    /// Let any server write, for a database that is in no cluster any more
    #[arg(long)]
    any: bool,
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

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    require_shard(config, Some(&args.shard))?;
    let (store, shard) = (&config.store, &args.shard);
    let allowed = match args.any {
        true => Allowed::Any,
        false => Allowed::This,
    };
    let change = if args.dry_run {
        writer::plan(store, shard, allowed).await?
    } else {
        let reason = args.reason.as_deref().unwrap_or_default();
        writer::change(store, shard, allowed, (&actor(), reason)).await?
    };
    if args.json {
        return out::json(&change);
    }
    let named = |server: Option<String>| match server {
        Some(server) => format!("only {server}"),
        None => "any server".to_owned(),
    };
    out::line(format_args!(
        "shard {shard} ({}): {} may write from now on; until now {}",
        change.address,
        named(change.writer),
        named(change.was)
    ))?;
    if args.dry_run {
        out::line("nothing was done")?;
    }
    Ok(())
}
