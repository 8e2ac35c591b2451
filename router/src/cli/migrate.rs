//! `backscroll migrate`

use backscroll_shard::migrate::{MigrationReport, migrate_all};

use crate::boot;
use crate::config::Config;

use super::out;

/// Bring the schema of the directory and of every shard up to date
///
/// The first run also writes the shard map. Running it again, or twice at once, is safe. Every change keeps the running
/// version working, so migrate first and then replace the servers.
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
    let reports = match migrate_all(&config.store, args.dry_run).await {
        Ok(reports) => reports,
        Err(error) => return Err(boot::explain(error, &config).await),
    };
    if args.json {
        return out::json(&reports);
    }
    for MigrationReport {
        database,
        applied,
        up_to_date,
    } in &reports
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
