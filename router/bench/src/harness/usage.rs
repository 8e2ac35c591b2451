//! Who used how much processor time: the load generator, the router, the database server, and everybody else on the
//! machine, whose share says how far the figures can be trusted.

use anyhow::{Context, Result};
use procfs::process::{FDTarget, Process, all_processes};
use procfs::{CurrentSI, KernelStats};
use serde::Serialize;

/// A process to watch.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What to call it.
    pub name: &'static str,
    /// Its id.
    pub pid: i32,
}

/// A reading of the clocks of some processes; [`Meter::stop`] tells the difference.
pub struct Meter {
    before: Vec<(Watched, f64)>,
    machine_before: f64,
    started: std::time::Instant,
}

/// Processor seconds used between two readings.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Wall-clock seconds in between.
    pub elapsed: f64,
    /// By each process watched.
    pub processes: Vec<(&'static str, f64)>,
    /// By everybody else, the kernel's own work included.
    pub others: f64,
}

impl Meter {
    /// Reads the clocks.
    ///
    /// # Errors
    /// When a process is gone or `/proc` cannot be read.
    pub fn start(watched: &[Watched]) -> Result<Self> {
        let read = |process: &Watched| anyhow::Ok((process.clone(), processor_seconds(process)?));
        let before = watched.iter().map(read).collect::<Result<_>>()?;
        Ok(Self {
            before,
            machine_before: machine_seconds()?,
            started: std::time::Instant::now(),
        })
    }

    /// Reads them again.
    ///
    /// # Errors
    /// As for [`Meter::start`].
    pub fn stop(&self) -> Result<Usage> {
        let elapsed = self.started.elapsed().as_secs_f64();
        let mut processes = Vec::with_capacity(self.before.len());
        for (process, before) in &self.before {
            processes.push((process.name, processor_seconds(process)? - before));
        }
        let watched: f64 = processes.iter().map(|(_, seconds)| seconds).sum();
        let others = (machine_seconds()? - self.machine_before - watched).max(0.0);
        Ok(Usage {
            elapsed,
            processes,
            others,
        })
    }
}

impl Usage {
    /// Adds another reading of the same processes.
    pub fn add(&mut self, other: &Self) {
        if self.processes.is_empty() {
            self.processes.clone_from(&other.processes);
        } else {
            for (mine, theirs) in self.processes.iter_mut().zip(&other.processes) {
                mine.1 += theirs.1;
            }
        }
        self.elapsed += other.elapsed;
        self.others += other.others;
    }

    /// Processor microseconds for each of `count` operations, by process.
    #[must_use]
    pub fn micros_each(&self, count: u64) -> Vec<(&'static str, f64)> {
        let each =
            |(name, seconds): &(&'static str, f64)| (*name, seconds * 1e6 / count.max(1) as f64);
        self.processes.iter().map(each).collect()
    }

    /// The share of `cores` that everybody else had, from 0 to 1.
    #[must_use]
    pub fn others_share(&self, cores: usize) -> f64 {
        self.others / (self.elapsed * cores as f64).max(f64::MIN_POSITIVE)
    }
}

/// This process.
#[must_use]
pub fn generator() -> Watched {
    Watched {
        name: "generator",
        pid: std::process::id().cast_signed(),
    }
}

/// The process that listens on `port` of this machine, if it is on this machine and may be seen.
#[must_use]
pub fn listener(name: &'static str, port: u16) -> Option<Watched> {
    let sockets = procfs::net::tcp()
        .unwrap_or_default()
        .into_iter()
        .chain(procfs::net::tcp6().unwrap_or_default());
    let listening = |socket: &procfs::net::TcpNetEntry| {
        socket.state == procfs::net::TcpState::Listen && socket.local_address.port() == port
    };
    let inodes: Vec<u64> = sockets
        .filter(listening)
        .map(|socket| socket.inode)
        .collect();
    let holds = |process: &Process| {
        process.fd().is_ok_and(|mut fds| {
            fds.any(|fd| {
                fd.is_ok_and(
                    |fd| matches!(fd.target, FDTarget::Socket(inode) if inodes.contains(&inode)),
                )
            })
        })
    };
    let process = all_processes().ok()?.filter_map(Result::ok).find(holds)?;
    Some(Watched {
        name,
        pid: process.pid,
    })
}

fn processor_seconds(process: &Watched) -> Result<f64> {
    let stat = Process::new(process.pid)
        .and_then(|process| process.stat())
        .with_context(|| {
            format!(
                "cannot read the processor time of the {} (process {})",
                process.name, process.pid
            )
        })?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// All processor time used on the machine since it started.
fn machine_seconds() -> Result<f64> {
    let total = KernelStats::current()
        .context("cannot read /proc/stat")?
        .total;
    let other = total.irq_ms().unwrap_or(0) + total.softirq_ms().unwrap_or(0);
    Ok((total.user_ms() + total.nice_ms() + total.system_ms() + other) as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_where_it_is_done() {
        let meter = Meter::start(&[generator()]).unwrap();
        // However little of a busy machine this process is given.
        let used = || processor_seconds(&generator()).unwrap();
        let begin = used();
        while used() < begin + 0.1 {
            std::hint::black_box(0);
        }
        let usage = meter.stop().unwrap();
        assert!(usage.processes[0].1 >= 0.05, "{usage:?}");
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener_here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener_here.local_addr().unwrap().port();
        assert_eq!(listener("me", port).unwrap().pid, generator().pid);
        drop(listener_here);
        assert!(listener("nobody", port).is_none());
    }
}
