//! Memory of processes, and of the kernel for their sockets.

use anyhow::{Context, Result};
use procfs::process::Process;

use crate::harness::usage::Watched;

/// The kernel's caches that grow with the number of TCP connections.
const SOCKET_CACHES: [&str; 6] = [
    "TCP",
    "sock_inode_cache",
    "filp",
    "dentry",
    "eventpoll_epi",
    "eventpoll_pwq",
];

/// Resident memory of all of `processes`, in bytes.
///
/// # Errors
/// When one is gone.
pub fn resident(processes: &[Watched]) -> Result<u64> {
    let mut total = 0;
    for process in processes {
        let stat = Process::new(process.pid)
            .and_then(|process| process.stat())
            .with_context(|| format!("cannot read the memory of the {}", process.name))?;
        total += stat.rss * procfs::page_size();
    }
    Ok(total)
}

/// Memory in the kernel's caches of what a connection is made of, of the whole machine, in bytes; `None` where it may
/// not be read.
#[must_use]
pub fn socket_caches() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/slabinfo").ok()?;
    let caches = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        let _active: u64 = fields.next()?.parse().ok()?;
        let objects: u64 = fields.next()?.parse().ok()?;
        let bytes: u64 = fields.next()?.parse().ok()?;
        SOCKET_CACHES.contains(&name).then_some(objects * bytes)
    });
    Some(caches.sum())
}

/// Memory of what waits in TCP sockets, of the whole machine, in bytes.
///
/// # Errors
/// When it cannot be read.
pub fn socket_buffers() -> Result<u64> {
    let table = std::fs::read_to_string("/proc/net/sockstat")?;
    pages_of_tcp(&table)
        .map(|pages| pages * procfs::page_size())
        .context("/proc/net/sockstat has no memory of TCP")
}

fn pages_of_tcp(sockstat: &str) -> Option<u64> {
    let line = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))?;
    let mut fields = line.split_whitespace().skip_while(|field| *field != "mem");
    fields.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::usage::generator;

    #[test]
    fn this_process_has_memory() {
        assert!(resident(&[generator()]).unwrap() > 1 << 20);
        socket_buffers().unwrap();
    }

    #[test]
    fn pages_are_found_in_the_table() {
        let table =
            "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 7 mem 12\nUDP: inuse 1 mem 2\n";
        assert_eq!(pages_of_tcp(table), Some(12));
        assert_eq!(pages_of_tcp("UDP: mem 2\n"), None);
    }
}
