//! Processes that can be killed, paused and started again, with clocks that can be set.
//!
//! A clock is Debian's libfaketime: a library that is loaded before the C library and reads the error of the process's clock
//! from a file, once a second. Only the time of day is changed; timers are not.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The path of the library in Debian's packages, on each architecture.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];
/// The longest time until a killed process is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// The error of the clock of some processes, in a file that they read.
#[derive(Clone, Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A correct clock, in `file`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(file: PathBuf) -> Result<Self> {
        let clock = Self { file };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets its error in seconds: processes see it after a second.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // Under another name first: a process must never read half of it.
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n")).context("cannot set a clock")?;
        std::fs::rename(&next, &self.file).context("cannot set a clock")
    }

    /// Deletes the file, which no process reads any more.
    pub fn remove(&self) {
        // It is deleted with its folder at the latest.
        let _ = std::fs::remove_file(&self.file);
    }

    /// Starts `command` with this clock.
    ///
    /// # Errors
    /// When the library is not installed.
    pub fn apply(&self, command: &mut Command) -> Result<()> {
        let library = LIBRARIES.iter().find(|path| Path::new(path).is_file());
        let library = library.context("libfaketime is not installed: install faketime")?;
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
        Ok(())
    }
}

/// A process that is started and killed again and again, always with the same command.
pub struct Process {
    /// Its name in the log of faults.
    pub name: String,
    command: Box<dyn Fn() -> Result<Command> + Send + Sync>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A process that is not started yet. Its output is appended to `log`.
    pub fn new(
        name: impl Into<String>,
        log: PathBuf,
        command: impl Fn() -> Result<Command> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            command: Box::new(command),
            log,
            child: None,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = (self.command)()?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// Whether it has ended by itself, and how.
    ///
    /// # Errors
    /// When its state is unknown.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it is not gone in time.
    pub async fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let pid = child.id();
        if child.try_wait()?.is_none() {
            timeout(PATIENCE, child.kill())
                .await
                .with_context(|| format!("{} cannot be killed", self.name))??;
        }
        pid.into_iter().for_each(forget_clock);
        Ok(())
    }

    /// Terminates it with SIGTERM and waits until it has ended.
    ///
    /// # Errors
    /// When it has not ended within `patience`, or without success.
    pub async fn stop(&mut self, patience: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let pid = child.id();
        let ended = timeout(patience, child.wait()).await;
        let status = ended.with_context(|| format!("{} does not stop", self.name))??;
        pid.into_iter().for_each(forget_clock);
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Suspends it with SIGSTOP.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Resumes it with SIGCONT.
    ///
    /// # Errors
    /// As for [`Process::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.child.as_ref().and_then(Child::id) else {
            return Ok(());
        };
        send(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }
}

impl Drop for Process {
    /// Kills the process, without waiting for its end.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let pid = child.id();
            let _ = child.start_kill(); // it may have ended by itself
            pid.into_iter().for_each(forget_clock);
        }
    }
}

/// Sends a signal to a process that this one started.
///
/// # Errors
/// When there is no such process any more.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("not a process id")?;
    Ok(kill_process(pid, signal)?)
}

/// Deletes the files that the clock's library leaves in shared memory when its process is killed: a later process with the
/// same id would wait for a lock that is never released.
pub fn forget_clock(pid: u32) {
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        // They do not exist if the process has deleted them.
        let _ = std::fs::remove_file(format!("/dev/shm/{name}{pid}"));
    }
}
