//! The secret of an embedded deployment that was given none: made on the first start, kept beside the data.
//!
//! It is written whole under another name and then linked to its own, so that two processes that start at once agree on
//! one, and a crash leaves no half of it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::auth::settings::SECRET_GOOD_BYTES;

/// Where the secret of the data in `data_dir` is.
fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("secret")
}

/// The secret kept in `data_dir`, made now if there is none and `create` is set. `None` when there is none.
///
/// # Errors
/// When the file cannot be read or written.
pub(super) fn embedded_secret(data_dir: &Path, create: bool) -> anyhow::Result<Option<String>> {
    let file = path(data_dir);
    let failed = || format!("the secret in {}", file.display());
    match read(&file).with_context(failed)? {
        Some(secret) => Ok(Some(secret)),
        None if create => {
            make(data_dir, &file).with_context(failed)?;
            read(&file).with_context(failed)
        }
        None => Ok(None),
    }
}

fn read(file: &Path) -> anyhow::Result<Option<String>> {
    let secret = match fs::read_to_string(file) {
        Ok(secret) => secret.trim_end().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    anyhow::ensure!(
        secret.len() >= SECRET_GOOD_BYTES,
        "has fewer than {SECRET_GOOD_BYTES} characters; delete the file to make a new one"
    );
    Ok(Some(secret))
}

fn make(data_dir: &Path, file: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(data_dir)?;
    let mut random = [0u8; SECRET_GOOD_BYTES];
    rand::fill(&mut random);
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // The temporary file has mode 0600, and is gone again however this ends.
    let mut temporary = tempfile::NamedTempFile::new_in(data_dir)?;
    writeln!(temporary, "{digits}")?;
    temporary.as_file().sync_all()?;
    match temporary.persist_noclobber(file) {
        Ok(_) => Ok(fs::File::open(data_dir)?.sync_all()?),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        assert_eq!(embedded_secret(&data_dir, false).unwrap(), None);
        let made = embedded_secret(&data_dir, true).unwrap().unwrap();
        assert_eq!(made.len(), 64);
        assert_eq!(embedded_secret(&data_dir, true).unwrap().unwrap(), made);
        assert_eq!(embedded_secret(&data_dir, false).unwrap().unwrap(), made);
        let mode = fs::metadata(path(&data_dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(&data_dir).unwrap().count(),
            1,
            "the temporary file is gone"
        );
    }

    #[test]
    fn many_who_start_at_once_agree() {
        let folder = tempfile::tempdir().unwrap();
        let make = || embedded_secret(folder.path(), true).unwrap().unwrap();
        let secrets: std::collections::HashSet<String> = std::thread::scope(|scope| {
            (0..8)
                .map(|_| scope.spawn(make))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|t| t.join().unwrap())
                .collect()
        });
        assert_eq!(secrets.len(), 1);
    }

    #[test]
    fn a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(path(folder.path()), "short\n").unwrap();
        assert!(embedded_secret(folder.path(), true).is_err());
    }
}
