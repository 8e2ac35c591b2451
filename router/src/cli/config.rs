//! `backscroll config`

use serde_json::json;

use crate::boot::IGNORED;
use crate::config::{Config, ConfigError};

use super::out;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check the file and the environment, and report everything that is wrong
    #[command(after_help = "Example:\n  backscroll config check --config production.toml")]
    Check {
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print every key with the value in effect, secrets as ***
    #[command(
        after_help = "Example:\n  BACKSCROLL_POOL__MAX_CONNECTIONS=50 backscroll config dump --config production.toml"
    )]
    Dump {
        /// Print JSON instead of TOML
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(
    load: impl FnOnce() -> Result<Config, ConfigError>,
    command: &Command,
) -> anyhow::Result<()> {
    let loaded = load();
    match command {
        Command::Check { json: false } => {
            let config = loaded?;
            let kind = if config.is_embedded() {
                "embedded"
            } else {
                "MySQL"
            };
            let shards = config.store.shards.len();
            if !config.ignored.is_empty() {
                out::note(format_args!("{IGNORED}: {}", config.ignored.join(", ")));
            }
            Ok(out::line(format_args!(
                "the configuration is good: {shards} {kind} shards, listening on {}",
                config.server.listen
            ))?)
        }
        Command::Check { json: true } => {
            let problems = loaded
                .as_ref()
                .err()
                .map_or(&[][..], |error| &error.problems);
            out::json(&json!({ "ok": problems.is_empty(), "problems": problems }))?;
            loaded?;
            Ok(())
        }
        Command::Dump { json: false } => Ok(out::line(loaded?.to_toml()?.trim_end())?),
        Command::Dump { json: true } => out::json(&loaded?),
    }
}
