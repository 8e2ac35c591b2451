//! Files of an export, within a bound, and JSON of them with errors that name the place.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use crate::cli::import::source::Source;
use crate::cli::{BadInput, out};

/// Most bytes of input of one conversation, or of one file that has several. They are held in memory to be put in order, at
/// about twice this.
pub(in crate::cli::import) const CONVERSATION_MAX_BYTES: u64 = 1 << 30;
/// Most files of an export.
const FILES_MAX: usize = 1_000_000;
/// How deep folders are searched.
const DEPTH_MAX: usize = 8;

/// What may still be read of a conversation.
pub(super) struct Room(u64);

impl Room {
    pub(super) fn new() -> Self {
        Self(CONVERSATION_MAX_BYTES)
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// [`BadInput`] when it is empty, in another form, or larger than what may still be read.
    pub(super) fn bytes(&mut self, path: &Path) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut source = Source::open(path)?.take(self.0 + 1);
        let read = source.read_to_end(&mut bytes);
        read.with_context(|| format!("cannot read {}", path.display()))?;
        self.0 = self.0.checked_sub(bytes.len() as u64).ok_or_else(|| {
            let most = out::bytes(CONVERSATION_MAX_BYTES);
            bad(path, format_args!("a conversation, or a file, may have {most}, since it is put in order in memory; export a shorter period"))
        })?;
        if bytes.trim_ascii().is_empty() {
            return Err(bad(path, "is empty; look whether the export was complete").into());
        }
        if bytes.starts_with(b"\xEF\xBB\xBF") {
            bytes.drain(..3); // a byte order mark
        }
        Ok(bytes)
    }

    /// The JSON of a file.
    ///
    /// # Errors
    /// As [`Room::bytes`], and when it is not what is expected.
    pub(super) fn json<T: DeserializeOwned>(&mut self, path: &Path) -> anyhow::Result<T> {
        Ok(json(&self.bytes(path)?).map_err(|what| bad(path, what))?)
    }
}

/// Reads JSON; says where it is not what is expected.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if std::str::from_utf8(bytes).is_err() {
        return Err("is not UTF-8: convert it, for example with iconv".into());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        match cause.is_eof() {
            true => format!("is cut off: the JSON ends in the middle ({cause})"),
            false => format!("{path}: {cause}"),
        }
    })?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(read)
}

/// A fault of a file.
pub(super) fn bad(path: &Path, what: impl std::fmt::Display) -> BadInput {
    BadInput(format!("{}: {what}", path.display()))
}

/// The name by which messages of a file are known: its path below `root`.
pub(super) fn shown(path: &Path, root: &Path) -> Arc<str> {
    let below = path
        .strip_prefix(root)
        .ok()
        .filter(|below| below.iter().next().is_some());
    below.unwrap_or(path).display().to_string().into()
}

/// The files at `path`: itself, or those below it whose name is `wanted`, in the order of their paths.
///
/// # Errors
/// [`BadInput`] when there are none, or too many.
pub(super) fn find(
    path: &Path,
    wanted: impl Fn(&str) -> bool,
    what: &str,
) -> anyhow::Result<Vec<PathBuf>> {
    if !is_folder(path)? {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut folders = vec![(path.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let context = || format!("cannot read {}", folder.display());
        for entry in folder.read_dir().with_context(context)? {
            let entry = entry.with_context(context)?;
            let kind = entry.file_type().with_context(context)?;
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() && entry.file_name().to_str().is_some_and(&wanted) {
                found.push(entry.path());
            }
            if found.len() + folders.len() > FILES_MAX {
                return Err(bad(path, format_args!("has more than {FILES_MAX} files")).into());
            }
        }
    }
    if found.is_empty() {
        return Err(bad(path, format_args!("has no {what}")).into());
    }
    found.sort();
    Ok(found)
}

/// Whether `path` is a folder.
///
/// # Errors
/// When there is nothing.
pub(super) fn is_folder(path: &Path) -> anyhow::Result<bool> {
    let metadata = path.metadata();
    let metadata = metadata.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(metadata.is_dir())
}

/// The milliseconds of a time with its zone, as RFC 3339 writes it.
pub(super) fn millis(text: &str) -> Result<i64, String> {
    let at = text.parse::<jiff::Timestamp>();
    at.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| format!("`{text}` is no time with a zone, as 2020-12-31T21:15:03Z"))
}
