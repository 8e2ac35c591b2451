//! `backscroll migrate`

use backscroll_shard::migrate::MigrationReport;

use crate::boot;
use crate::config::Config;

use super::out;

/// Bring the schema of the directory and of every shard up to date
///
/// Where all databases are empty it makes the deployment: it marks each database as the directory or a shard of it, and
/// writes the shard map. From then on a database that is not what its address stands for is refused by every command.
///
/// A deployment of a version that marked no databases is marked by the first run, once, if the ranges that each database
/// says it owns are those that the directory gives the shard.
///
/// Running it again, or twice at once, is safe. Every change keeps the running version working, so migrate first and then
/// replace the servers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll migrate --config production.toml --dry-run
  backscroll migrate --config production.toml")]
pub(super) struct Args {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<()> {
    super::log_for_people(&config)?;
    let migrated = boot::migrate(&config, args.dry_run).await?;
    for remark in &migrated.remarks {
        out::note(remark);
    }
    if args.json {
        return out::json(&migrated.reports);
    }
    for MigrationReport {
        database,
        applied,
        up_to_date,
    } in &migrated.reports
    {
        match (up_to_date, args.dry_run) {
            (true, _) => out::line(format_args!("{database}: up to date"))?,
            (false, true) => out::line(format_args!(
                "{database}: would apply {}",
                applied.join(", ")
            ))?,
            (false, false) => {
                out::line(format_args!("{database}: applied {}", applied.join(", ")))?
            }
        }
    }
    Ok(())
}
