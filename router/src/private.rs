//! Files of this process are its account's alone: others on the machine read neither databases nor objects nor secrets.
//!
//! What is made later has no permissions for others ([`for_new_files`]); what an older version left is set right when the
//! embedded data are taken into use ([`for_data`]).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use backscroll_shard::settings::DatabaseUrl;
use rustix::fs::Mode;

use crate::config::Config;

/// The permissions of others.
const OTHERS: u32 = 0o077;

/// Files and folders that the process makes from now on are private.
pub fn for_new_files() {
    let _ = rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Makes the folder of embedded data, and the databases in it, private.
///
/// # Errors
/// When a file belongs to another account.
pub fn for_data(config: &Config) -> anyhow::Result<()> {
    if !config.is_embedded() {
        return Ok(());
    }
    let shards = config.store.shards.iter().map(|shard| &shard.primary);
    let databases = shards.chain([&config.store.directory.url]);
    let files = databases.filter_map(DatabaseUrl::file).flat_map(files_of);
    let folder = Some(config.data_dir.clone()).filter(|folder| folder.file_name().is_some());
    for path in folder.into_iter().chain(files) {
        let cannot = || format!("cannot make {} private", path.display());
        make_private(&path).with_context(cannot)?;
    }
    Ok(())
}

/// A SQLite database and the files beside it.
fn files_of(database: &Path) -> Vec<PathBuf> {
    let beside = |suffix: &str| {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    ["", "-wal", "-shm"].map(beside).into()
}

fn make_private(path: &Path) -> io::Result<()> {
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match mode & OTHERS {
        0 => Ok(()),
        _ => fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_could_read_is_set_right() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let config = Config::default().embedded_in(&data);
        for_data(&config).unwrap(); // nothing is there
        fs::create_dir(&data).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        set(&data, 0o755).unwrap();
        let files = ["directory.db", "shard1.db", "shard1.db-wal"].map(|name| data.join(name));
        for file in &files {
            fs::write(file, "").unwrap();
            set(file, 0o644).unwrap();
        }
        for_data(&config).unwrap();
        assert_eq!(mode(&data), 0o700);
        for file in &files {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
    }
}
