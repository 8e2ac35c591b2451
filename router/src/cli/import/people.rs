//! Which user each person of another system is here: `--people`. A person who is not named keeps the id of the export.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use backscroll_shard::ids::UserId;
use serde::Deserialize;

use super::source::Source;
use crate::cli::BadInput;

/// Most lines of the file, which is held in memory (INV-BOUND).
const LINES_MAX: usize = 1_000_000;
/// Longest line, in bytes.
const LINE_MAX_BYTES: u64 = 16 << 10;

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    from: String,
    user: UserId,
}

/// Users by the ids of the export.
#[derive(Debug, Default)]
pub(super) struct People(HashMap<String, UserId>);

impl People {
    /// Reads the file.
    ///
    /// # Errors
    /// [`BadInput`] for the first line that is not good.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut source = Source::open(path)?;
        let mut people = Self::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = source.line(&mut line, LINE_MAX_BYTES);
            if !read.with_context(|| format!("cannot read {}", path.display()))? {
                break;
            }
            let bad = |what: String| BadInput(format!("{}, line {number}: {what}", path.display()));
            if number > LINES_MAX {
                return Err(bad(format!("at most {LINES_MAX} lines")).into());
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let Line { from, user } = serde_json::from_slice(&line).map_err(|error| {
                bad(format!(
                    "{error}; write {{\"from\":\"U024BE7LH\",\"user\":\"alice\"}}"
                ))
            })?;
            if people.0.insert(from.clone(), user).is_some() {
                return Err(bad(format!("from: `{from}` is named twice")).into());
            }
        }
        Ok(people)
    }

    /// The user that a person is.
    ///
    /// # Errors
    /// When the id of the export cannot be that of a user.
    pub(super) fn user(&self, person: &str) -> Result<UserId, String> {
        if let Some(user) = self.0.get(person) {
            return Ok(user.clone());
        }
        let user = UserId::new(person);
        user.map_err(|error| format!("`{person}`: {error}; name the user with --people"))
    }
}
