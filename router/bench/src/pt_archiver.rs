//! The other side of the archive's comparison: `pt-archiver` of Debian's percona-toolkit, which writes rows to a file,
//! uncompressed, and deletes them.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::harness::databases::Databases;

/// How it is run, besides where from and where to.
const OPTIONS: [&str; 5] = [
    "--limit=1000",
    "--commit-each",
    "--bulk-delete",
    "--no-version-check", // which would ask a server of its makers
    "--where",
];

/// Refuses to go on without it.
///
/// # Errors
/// When it cannot be run.
pub async fn require() -> Result<()> {
    let version = Command::new("pt-archiver").arg("--version").output().await;
    version.context("cannot run pt-archiver: install Debian's percona-toolkit")?;
    Ok(())
}

/// Archives the rows of the table `messages` of `database` that were created before `cutoff` into a file, and says how
/// long that took, the start of the program included, and how many rows are in the file.
///
/// # Errors
/// When it fails.
pub async fn run(databases: &Databases, database: &str, cutoff: i64) -> Result<(Duration, u64)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("messages.txt");
    let source = format!("{},t=messages,i=PRIMARY,A=utf8mb4", databases.dsn(database));
    let begin = Instant::now();
    let output = Command::new("pt-archiver")
        .args(["--source", &source])
        .args(OPTIONS)
        .arg(format!("created_at < {cutoff}"))
        .arg("--file")
        .arg(&file)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run pt-archiver")?;
    let elapsed = begin.elapsed();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && complaint.is_empty(),
        "pt-archiver: {}, {complaint}",
        output.status
    );
    Ok((elapsed, rows(&file)?))
}

/// How many rows a file of its has: lines that do not go on, as one whose end is escaped does.
fn rows(file: &Path) -> Result<u64> {
    let mut escaped = false;
    let mut rows = 0;
    for byte in std::fs::read(file).context("pt-archiver wrote no file")? {
        rows += u64::from(byte == b'\n' && !escaped);
        escaped = byte == b'\\' && !escaped;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_may_have_several_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "1\ta\\\nb\n2\tends in \\\\\n3\tc\n").unwrap();
        assert_eq!(rows(file.path()).unwrap(), 3);
    }
}
