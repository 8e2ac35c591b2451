//! The command line: one file a command, each of which reads like what it does.
//!
//! What a command was asked for goes to standard output, everything else to standard error, so that output can be piped.
//! A reader that goes away early (`| head`) ends a command quietly.

mod archive;
mod audit;
mod config;
mod doctor;
mod export;
mod import;
mod lease;
mod media;
mod media_worker;
mod migrate;
mod out;
mod progress;
mod rebalance;
mod search;
mod serve;
mod shards;
mod token;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use backscroll_shard::model::Timestamp;
use backscroll_shard::tasks::panic_text;
use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::private;
use crate::signals::{self, StoppedLate};
use crate::telemetry::{self, LogFormat, TelemetrySettings};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; what failed, and what to do, is on standard error
  2  the command line was not understood
  3  the configuration cannot be used; every problem of it is on standard error
  4  the data given cannot be used (import: bad lines)
  5  told to stop, and something did not end in time; what, is on standard error

Every key of the configuration can be given as an environment variable: server.listen is \
BACKSCROLL_SERVER__LISTEN. Without a configuration everything is embedded: SQLite files in \
./backscroll-data, http://127.0.0.1:8080.

Try it:
  backscroll serve --demo";

/// A chat message store over several databases that answers as one.
#[derive(Debug, Parser)]
#[command(name = "backscroll", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    /// The configuration, a TOML file; without it, the embedded defaults
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "BACKSCROLL_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Migrate(migrate::Args),
    Token(token::Args),
    Import(import::Args),
    Export(export::Args),
    /// The archive: messages that left the databases for the object store
    #[command(subcommand)]
    Archive(archive::Command),
    /// The audit log: who did what to whom
    #[command(subcommand)]
    Audit(audit::Command),
    /// What searches use
    #[command(subcommand)]
    Search(search::Command),
    /// Files of conversations on the object store
    #[command(subcommand)]
    Media(media::Command),
    #[command(hide = true)]
    MediaWorker(media_worker::Args),
    /// The leases of jobs
    #[command(subcommand)]
    Lease(lease::Command),
    /// The shards: which keys they own, whether they answer, which databases they are
    #[command(subcommand)]
    Shards(shards::Command),
    /// Moves of key ranges between shards, while everybody writes
    #[command(subcommand)]
    Rebalance(rebalance::Command),
    Doctor(doctor::Args),
    /// The configuration in effect
    #[command(subcommand)]
    Config(config::Command),
}

/// The data given to a command cannot be used as it is; trying again does not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadInput(String);

/// How long background threads that wait for input may keep a finished process.
const LAST_MOMENTS: Duration = Duration::from_millis(100);

/// Runs the process: reads the command line, does what it says, and turns the outcome into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    telemetry::log_panics();
    private::for_new_files();
    let cli = Cli::parse();
    let code = match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if has_no_reader(&error) => ExitCode::SUCCESS,
        Err(error) => {
            out::note(format_args!("backscroll: {}", told(&error)));
            ExitCode::from(code_of(&error))
        }
    };
    telemetry::flush();
    code
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let work = AssertUnwindSafe(|| runtime.block_on(dispatch(cli)));
    let outcome = std::panic::catch_unwind(work);
    runtime.shutdown_timeout(LAST_MOMENTS);
    outcome.unwrap_or_else(|panic| Err(anyhow::anyhow!("{}", panic_text(&*panic))))
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let load = || load(cli.config.as_deref());
    match cli.command {
        Command::Serve(args) => serve::run(load, args).await,
        Command::Migrate(args) => migrate::run(load()?, args).await,
        Command::Token(args) => token::run(load()?, &args),
        Command::Import(args) => import::run(load()?, args).await,
        Command::Export(args) => export::run(load()?, args).await,
        Command::Archive(command) => archive::run(load()?, command).await,
        Command::Audit(command) => audit::run(load()?, command).await,
        Command::Search(command) => search::run(load()?, command).await,
        Command::Media(command) => media::run(load()?, command).await,
        Command::MediaWorker(args) => media_worker::run(&args),
        Command::Lease(command) => lease::run(load()?, command).await,
        Command::Shards(command) => shards::run(load()?, command).await,
        Command::Rebalance(command) => rebalance::run(load()?, command).await,
        Command::Doctor(args) => doctor::run(load, args).await,
        Command::Config(command) => config::run(load, &command),
    }
}

fn load(file: Option<&std::path::Path>) -> Result<Config, ConfigError> {
    // A variable that is not text cannot be a key's value; shown with replacement characters, it is refused as one.
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    Config::load(
        file,
        std::env::vars_os().map(|(name, value)| (text(name), text(value))),
    )
}

/// A time of the command line.
fn time(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(
        |_| "write a time with its zone, as 2026-11-29T22:00:00Z or 2026-11-29T23:00:00+01:00",
    )?;
    Ok(Timestamp(time.as_millisecond()))
}

/// Starts logging for a command that is not a service: what needs attention, for people, unless the configuration asks
/// for more.
fn log_for_people(config: &Config) -> anyhow::Result<()> {
    let usual = TelemetrySettings::default();
    let log = if config.telemetry.log == usual.log {
        "warn".into()
    } else {
        config.telemetry.log.clone()
    };
    telemetry::init(&TelemetrySettings {
        log,
        format: LogFormat::Human,
    })
}

fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() {
        3
    } else if error.is::<BadInput>() {
        4
    } else if error.is::<StoppedLate>() {
        signals::STUCK
    } else {
        1
    }
}

/// The error and its causes, without those that the text before repeats already.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether it ended because nobody reads its output any more.
fn has_no_reader(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .filter_map(std::io::Error::get_ref)
        .any(|inner| inner.is::<out::ReaderGone>())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let database =
            backscroll_shard::error::Error::DatabaseUnavailable("connection refused".into());
        let error = anyhow::Error::new(database).context("cannot open the store");
        let text = told(&error);
        assert_eq!(text.matches("refused").count(), 1, "{text}");
        assert!(
            text.starts_with("cannot open the store: database: "),
            "{text}"
        );
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut root = Cli::command();
        root.build();
        root.clone().debug_assert();
        let mut commands = vec![root];
        while let Some(mut command) = commands.pop() {
            if command.has_subcommands() {
                commands.extend(
                    command
                        .get_subcommands()
                        .filter(|c| c.get_name() != "help")
                        .cloned(),
                );
            } else if command.get_name() != "help" {
                let help = command.render_long_help().to_string();
                assert!(help.contains("backscroll "), "{}", command.get_name());
                assert!(
                    help.contains("Example"),
                    "{} has no example",
                    command.get_name()
                );
            }
        }
    }
}
