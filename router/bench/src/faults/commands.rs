//! The operator's commands. Each is a process of its own that may be killed or paused, or have a wrong clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::timeout;

use crate::faults::context::RunContext;
use crate::faults::deployment::Deployment;
use crate::faults::process::{Clock, forget_clock};
use crate::harness::router::command;

/// The longest duration of a command, pauses included.
const PATIENCE: Duration = Duration::from_secs(300);
/// The number of characters of a command's errors in a report.
const REPORTED: usize = 400;
/// Parts of error messages that no command may print while nothing is damaged.
const DAMAGE: [&str; 4] = ["damaged", "has no message", "panicked", "Duplicate entry"];

/// The outcome of a command.
#[derive(Debug)]
pub struct CommandOutcome {
    /// The exit code; `None` if the command was killed.
    pub code: Option<i32>,
    /// Its standard output.
    pub output: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
    /// The time when it was started.
    pub began: Instant,
}

impl CommandOutcome {
    /// Whether it succeeded.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.code == Some(0)
    }

    /// The end of its standard error, in one line.
    #[must_use]
    pub fn last_errors(&self) -> String {
        let all = self.stderr.trim().replace('\n', " | ");
        let skipped = all.chars().count().saturating_sub(REPORTED);
        all.chars().skip(skipped).collect()
    }
}

/// The running commands, for fault injection.
#[derive(Clone, Default)]
pub struct RunningCommands {
    processes: Arc<Mutex<BTreeMap<u32, String>>>,
    count: Arc<AtomicU64>,
}

impl RunningCommands {
    fn processes(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Their process ids and arguments.
    #[must_use]
    pub fn list(&self) -> Vec<(u32, String)> {
        let processes = self.processes();
        processes
            .iter()
            .map(|(pid, name)| (*pid, name.clone()))
            .collect()
    }

    /// Whether the process is still running.
    #[must_use]
    pub fn has(&self, pid: u32) -> bool {
        self.processes().contains_key(&pid)
    }
}

/// Runs commands.
#[derive(Clone)]
pub struct Commands {
    /// The deployment.
    pub deployment: Arc<Deployment>,
    /// The shared state.
    pub context: Arc<RunContext>,
    /// The running commands.
    pub running: RunningCommands,
}

impl Commands {
    /// Runs a command to its end, with a clock that is `seconds` off.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn run(&self, arguments: &[&str], seconds: i64) -> Result<CommandOutcome> {
        self.run_with(arguments, seconds, &[]).await
    }

    /// The same, with these variables in its environment.
    ///
    /// # Errors
    /// As [`Commands::run`].
    pub async fn run_with(
        &self,
        arguments: &[&str],
        seconds: i64,
        variables: &[(&str, &str)],
    ) -> Result<CommandOutcome> {
        let command_host = &self.deployment.command_host;
        let number = self.running.count.fetch_add(1, Ordering::Relaxed);
        let clock = Clock::new(command_host.folder.join(format!("clock-{number}")))?;
        clock.set(seconds)?;
        let (subcommand, rest) = arguments.split_first().context("no command")?;
        let mut command = command(&command_host.setup, &command_host.folder, subcommand);
        command
            .args(rest)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        clock.apply(&mut command)?;
        let began = Instant::now();
        let child = command.spawn().context("cannot start backscroll")?;
        let pid = child.id().context("it has ended already")?;
        let name = arguments.join(" ");
        self.context.log(&format!(
            "{name} (process {pid}, clock {seconds:+} s) begins"
        ));
        self.running.processes().insert(pid, name.clone());
        let output = timeout(PATIENCE, child.wait_with_output()).await;
        self.running.processes().remove(&pid);
        forget_clock(pid);
        clock.remove();
        let output = output.with_context(|| format!("`{name}` does not end"))??;
        let ended = CommandOutcome {
            code: output.status.code(),
            output: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            began,
        };
        self.judge(&name, pid, &ended);
        Ok(ended)
    }

    fn judge(&self, name: &str, pid: u32, ended: &CommandOutcome) {
        let stderr = ended.stderr.trim();
        let errors = ended.last_errors();
        let code = ended
            .code
            .map_or("killed".to_owned(), |code| format!("exit code {code}"));
        self.context
            .log(&format!("{name} (process {pid}) ends: {code} {errors}"));
        if DAMAGE.iter().any(|sign| stderr.contains(sign)) {
            self.context
                .report_general(&format!("`{name}`: {errors}"), "operator");
        }
    }

    /// A file for commands to read or write.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.deployment.command_host.folder.join(name)
    }
}
