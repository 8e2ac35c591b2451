//! Exports that are one ZIP file, as they are downloaded: their JSON, unpacked into a folder of this run.
//!
//! The file may be anybody's, so what it says of itself is compared with bounds before anything is written, and held to while it
//! is read (INV-BOUND): how many files, how large each of them, all together, and how much larger than the ZIP file. Only
//! files that end in .json are written, as plain files below the folder. The folder is deleted at the end; a run that is
//! killed leaves it among the temporary files.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;
use zip::ZipArchive;
use zip::result::ZipError;

use super::format::CONVERSATION_MAX_BYTES;
use crate::cli::{BadInput, out};

/// The first bytes of a ZIP file that has files.
const MAGIC: [u8; 4] = *b"PK\x03\x04";
/// Most files and folders in a ZIP file.
const FILES_MAX: usize = 1_000_000;
/// Most bytes of all files.
const ALL_MAX_BYTES: u64 = 64 << 30;
/// How many times larger than the ZIP file all files may be: JSON becomes ten to thirty times smaller.
const RATIO_MAX: u64 = 200;
/// So much may always come out, since what repeats itself becomes smaller than that.
const ALWAYS_BYTES: u64 = 64 << 20;

/// What a ZIP file held.
#[derive(Debug)]
pub(super) struct Unpacked(TempDir);

/// What a ZIP file may hold.
#[derive(Clone, Copy)]
struct Bounds {
    files: usize,
    each: u64,
    all: u64,
}

/// Unpacks the ZIP file at `path`; none when it is something else.
///
/// # Errors
/// [`BadInput`] when it is damaged, encrypted, or larger than an export may be; when the folder cannot be written.
pub(super) fn unpack(path: &Path) -> anyhow::Result<Option<Unpacked>> {
    let context = || format!("cannot read {}", path.display());
    if !path.is_file() {
        return Ok(None); // whoever reads it says what is wrong
    }
    let mut start = Vec::new();
    let file = File::open(path).with_context(context)?;
    let beginning = (&file).take(MAGIC.len() as u64).read_to_end(&mut start);
    beginning.with_context(context)?;
    if start != MAGIC {
        return Ok(None);
    }
    let zipped = file.metadata().with_context(context)?.len();
    let bounds = Bounds {
        files: FILES_MAX,
        each: CONVERSATION_MAX_BYTES,
        all: ALL_MAX_BYTES.min(zipped.saturating_mul(RATIO_MAX).max(ALWAYS_BYTES)),
    };
    let folder = TempDir::with_prefix("backscroll-import-");
    let folder = folder.context("cannot make a folder to unpack the export in")?;
    match write(file, folder.path(), bounds) {
        Ok(()) => Ok(Some(Unpacked(folder))),
        Err(Fault::Input(what)) => Err(BadInput(format!("{}: {what}", path.display())).into()),
        Err(Fault::Folder(error)) => {
            let folder = folder.path().display();
            Err(error).with_context(|| {
                format!("cannot unpack the export into {folder}; TMPDIR names another place")
            })
        }
    }
}

impl Unpacked {
    /// Where the export is: the folder, or the only one in it.
    pub(super) fn root(&self) -> PathBuf {
        let folder = self.0.path();
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut entries = entries.map(|entry| entry.path()).take(2);
        match (entries.next(), entries.next()) {
            (Some(only), None) if only.is_dir() => only,
            _ => folder.to_owned(),
        }
    }
}

enum Fault {
    Input(String),
    Folder(io::Error),
}

impl From<ZipError> for Fault {
    fn from(error: ZipError) -> Self {
        Self::Input(match error {
            ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => {
                "it is encrypted; unpack it, and name the folder".into()
            }
            ZipError::UnsupportedArchive(what) => {
                format!("it cannot be unpacked here ({what}); unpack it, and name the folder")
            }
            error => format!("it is damaged, or not complete: {error}"),
        })
    }
}

fn write(file: File, folder: &Path, bounds: Bounds) -> Result<(), Fault> {
    let mut zip = ZipArchive::new(BufReader::new(file))?;
    let wanted = wanted(&mut zip, bounds)?;
    if wanted.is_empty() {
        return Err(Fault::Input("it has no JSON files".into()));
    }
    let mut left = bounds.all;
    for (index, place) in wanted {
        let place = folder.join(place);
        let parent = place.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(Fault::Folder)?;
        let mut written = match File::create_new(&place) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let name = place.strip_prefix(folder).unwrap_or(&place).display();
                return Err(Fault::Input(format!("it has two files {name}")));
            }
            Err(error) => return Err(Fault::Folder(error)),
        };
        let entry = zip.by_index(index)?;
        // What it says of its size was believed so far.
        let most = left.min(bounds.each);
        let mut bytes = entry.take(most + 1);
        left -= copy(&mut bytes, &mut written, most)?;
    }
    Ok(())
}

/// Copies up to `most` bytes, and says how many there were.
fn copy(from: &mut impl io::Read, to: &mut impl io::Write, most: u64) -> Result<u64, Fault> {
    let mut buffer = vec![0; 64 << 10];
    let mut copied = 0;
    loop {
        let read = from.read(&mut buffer);
        let read = read.map_err(|error| Fault::from(ZipError::Io(error)))?;
        if read == 0 {
            return Ok(copied);
        }
        copied += read as u64;
        if copied > most {
            return Err(Fault::Input(
                "its files are larger than it says; this is no export".into(),
            ));
        }
        to.write_all(&buffer[..read]).map_err(Fault::Folder)?;
    }
}

/// The files that an export is read from, by what the ZIP file says of itself.
fn wanted(
    zip: &mut ZipArchive<BufReader<File>>,
    bounds: Bounds,
) -> Result<Vec<(usize, PathBuf)>, Fault> {
    if zip.len() > bounds.files {
        let (files, most) = (zip.len(), bounds.files);
        return Err(Fault::Input(format!(
            "it has {files} files, and may have {most}"
        )));
    }
    let mut wanted = Vec::new();
    let mut all = 0_u64;
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index)?;
        let name = entry.name()?.escape_debug().to_string();
        let Some(place) = entry.enclosed_name() else {
            return Err(Fault::Input(format!(
                "{name} is a place outside of the export"
            )));
        };
        let is_json = place.extension().is_some_and(|it| it == "json");
        let is_of_finder = place.starts_with("__MACOSX");
        if !entry.is_file() || !is_json || is_of_finder {
            continue;
        }
        let size = entry.size();
        if size > bounds.each {
            let (size, most) = (out::bytes(size), out::bytes(bounds.each));
            return Err(Fault::Input(format!(
                "{name} would be {size}, and a file may have {most}; export a shorter period"
            )));
        }
        all = all.saturating_add(size);
        wanted.push((index, place));
    }
    if all > bounds.all {
        let (all, most) = (out::bytes(all), out::bytes(bounds.all));
        return Err(Fault::Input(format!(
            "its files would be {all}, and those of a ZIP file of its size may be {most}; if it is an export, unpack it and name the folder"
        )));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A ZIP file of these files, and the folder that it is in.
    fn zipped(files: &[(&str, &[u8])]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("export.zip");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        (folder, path)
    }

    fn refused(path: &Path) -> String {
        let error = unpack(path).expect_err("it is refused");
        assert!(error.is::<BadInput>(), "{error:#}");
        error.to_string()
    }

    #[test]
    fn json_is_unpacked_and_nothing_else_is() {
        let files: [(&str, &[u8]); 4] = [
            ("users.json", b"[]"),
            ("general/2020-01-01.json", b"[1]"),
            ("general/picture.png", b"x"),
            ("__MACOSX/._users.json", b"x"),
        ];
        let (_folder, path) = zipped(&files);
        let unpacked = unpack(&path).unwrap().unwrap();
        let root = unpacked.root();
        assert_eq!(fs::read(root.join("users.json")).unwrap(), b"[]");
        let day = root.join("general/2020-01-01.json");
        assert_eq!(fs::read(day).unwrap(), b"[1]");
        let entries = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((entries(&root), entries(&root.join("general"))), (2, 1));
        drop(unpacked);
        assert!(!root.exists());
    }

    #[test]
    fn a_folder_around_the_export_is_passed_over() {
        let (_folder, path) = zipped(&[("My export/users.json", b"[]")]);
        let unpacked = unpack(&path).unwrap().unwrap();
        assert!(unpacked.root().join("users.json").is_file());
    }

    #[test]
    fn what_is_no_zip_file_is_left_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        fs::write(&text, "{}").unwrap();
        assert!(unpack(&text).unwrap().is_none());
        assert!(unpack(folder.path()).unwrap().is_none());
        assert!(unpack(&folder.path().join("nothing")).unwrap().is_none());
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let large = vec![b' '; usize::try_from(ALWAYS_BYTES).unwrap() + 1];
        let (_folder, path) = zipped(&[("a.json", &large)]);
        let told = refused(&path);
        assert!(told.contains("its files would be 64.0 MiB"), "{told}");
    }

    /// A ZIP file says the size of each file twice: this changes both, and what comes out is more.
    #[test]
    fn a_file_that_is_larger_than_it_says_is_cut_off() {
        let size = 3 << 20;
        let (_folder, path) = zipped(&[("a.json", &vec![b' '; size])]);
        let mut bytes = fs::read(&path).unwrap();
        let told = u32::try_from(size).unwrap().to_le_bytes();
        let places: Vec<usize> = (0..bytes.len() - 4)
            .filter(|place| bytes[*place..*place + 4] == told)
            .collect();
        assert_eq!(places.len(), 2);
        for place in places {
            bytes[place..place + 4].copy_from_slice(&7_u32.to_le_bytes());
        }
        fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds {
            files: 1,
            each: 1 << 20,
            all: 1 << 20,
        };
        let written = write(file, folder.path(), bounds);
        assert!(matches!(written, Err(Fault::Input(_))));
        let unpacked = folder.path().join("a.json").metadata().unwrap().len();
        assert!(unpacked <= 1 << 20, "{unpacked}");
    }

    #[test]
    fn bounds_hold_for_each_file_and_for_their_number() {
        let (_folder, path) = zipped(&[("a.json", b"[1, 2]"), ("b.json", b"[]")]);
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds {
            files: 2,
            each: 6,
            all: 8,
        };
        let told = |bounds| {
            let file = File::open(&path).unwrap();
            match write(file, &folder.path().join("other"), bounds) {
                Err(Fault::Input(what)) => what,
                Err(Fault::Folder(error)) => panic!("{error}"),
                Ok(()) => String::new(),
            }
        };
        assert_eq!(told(bounds), "");
        for (bounds, words) in [
            (Bounds { files: 1, ..bounds }, "it has 2 files"),
            (Bounds { each: 5, ..bounds }, "a.json would be 6 B"),
            (Bounds { all: 7, ..bounds }, "its files would be 8 B"),
        ] {
            let told = told(bounds);
            assert!(told.starts_with(words), "{told}");
        }
    }

    #[test]
    fn paths_that_lead_outside_and_files_that_end_early_are_refused() {
        for (inside, outside) in [
            ("__/users.json", "../users.json"),
            ("a/__/__/users.json", "a/../../users.json"),
        ] {
            let (_folder, path) = zipped(&[(inside, b"[]")]);
            let bytes = fs::read(&path).unwrap();
            let mut places = 0;
            let mut renamed = bytes.clone();
            for place in 0..bytes.len() - inside.len() {
                let name = place..place + inside.len();
                if bytes[name.clone()] == *inside.as_bytes() {
                    renamed[name].copy_from_slice(outside.as_bytes());
                    places += 1;
                }
            }
            assert_eq!(places, 2);
            fs::write(&path, renamed).unwrap();
            let told = refused(&path);
            assert!(told.contains("outside of the export"), "{told}");
        }
        let (_folder, path) = zipped(&[("users.json", b"[1, 2, 3]")]);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(refused(&path).contains("it is damaged, or not complete"));
        let (_folder, path) = zipped(&[("picture.png", b"x")]);
        assert!(refused(&path).contains("no JSON files"));
    }
}
