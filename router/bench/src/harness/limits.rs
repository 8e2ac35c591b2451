//! How many files, and so connections, a process may have open.

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::out;

/// Files that a process has open besides its connections.
const OTHER_FILES: u64 = 500;

/// Raises the number of files that this process and the servers it starts may open, as far as the system lets it; the
/// hard limit too, where this process may. Returns how many of `wanted` connections are possible in each process, and
/// says so when these are fewer.
///
/// # Errors
/// When the limit cannot be raised to what is allowed.
pub fn allow_connections(wanted: usize) -> Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    let needed = wanted as u64 + OTHER_FILES;
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.unwrap_or(u64::MAX) >= needed {
        return Ok(wanted);
    }
    let higher = |current, maximum| {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        };
        setrlimit(Resource::Nofile, limit)
    };
    if hard >= needed || higher(needed, needed).is_err() {
        let current = needed.min(hard);
        higher(current, hard).context("cannot raise the limit of open files")?;
        if current < needed {
            let possible = (current - OTHER_FILES.min(current)) as usize;
            out::progress(format_args!(
                "WARNING: a process may open {hard} files here: {possible} connections instead of {wanted}"
            ));
            return Ok(possible);
        }
    }
    Ok(wanted)
}
