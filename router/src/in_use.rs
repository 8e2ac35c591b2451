//! One server at a time on embedded data.
//!
//! A server delivers what it commits to those who are connected to it; of what another one commits to the same files it
//! knows nothing. So a second `serve` on the same data is refused, with the process that holds it. Commands are not: they
//! work beside a server.
//!
//! The lock is the kernel's, on a file beside the directory's, so that it ends with the process however that ends; the file
//! stays.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::config::Config;

/// Embedded data in use by this process, until it is dropped.
#[derive(Debug)]
pub struct InUse(#[expect(dead_code, reason = "held for its lock")] Option<File>);

impl InUse {
    /// Claims the data of `config` for this process; databases on servers are shared by any number of them.
    ///
    /// # Errors
    /// When another process serves it, or the lock cannot be taken.
    pub fn claim(config: &Config) -> anyhow::Result<Self> {
        let directory = config.store.directory.url.file();
        let Some(directory) = directory.filter(|_| config.is_embedded()) else {
            return Ok(Self(None));
        };
        let mut path = directory.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let cannot = || format!("cannot lock {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(cannot)?;
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).with_context(cannot)?;
                bail!(
                    "{} is served by process {} already; stop that one first, or choose another folder with data_dir",
                    directory.parent().unwrap_or(directory).display(),
                    holder.trim()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        file.set_len(0).with_context(cannot)?;
        file.rewind().with_context(cannot)?;
        writeln!(file, "{}", std::process::id()).with_context(cannot)?;
        Ok(Self(Some(file)))
    }
}
