//! `backscroll shards views`: the SQL of the views that foreign readers are to read.

use backscroll_shard::db::Dialect;
use backscroll_shard::moves::owned_views;

use crate::config::Config;

use super::super::out;

/// Print the SQL of views that show only the rows that a shard owns
///
/// For reports, and for jobs that follow changes of the tables. While a range moves its rows are on two shards, and the first one keeps them for
/// a while after. The views `owned_messages`, `owned_conversations` and so on leave out what the shard does not own, so those of
/// all shards together have every row once; only for the moment at the end of a move, while writers wait, they lack the rows of its range.
/// Backscroll does not use them: make them on every shard with an account that may create views, and again after an upgrade.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  backscroll shards views | mysql --host db1.internal backscroll")]
pub(in crate::cli) struct Args {}

pub(super) fn print(config: &Config) -> anyhow::Result<()> {
    for shard in config.store.shards.iter().take(1) {
        for statement in owned_views(Dialect::of(&shard.primary)?) {
            out::line(format_args!("{statement};"))?;
        }
    }
    Ok(())
}
