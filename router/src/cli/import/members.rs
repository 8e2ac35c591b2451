//! People who are members of what is imported though they may never have written: `--members`.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use backscroll_shard::ids::{KeyFunction, UserId};
use backscroll_shard::model::Role;
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
    channel: String,
    user: UserId,
    #[serde(default = "member")]
    role: Role,
}

fn member() -> Role {
    Role::Member
}

/// The members named, by channel, in the order of the file; nobody twice in one.
#[derive(Debug, Default)]
pub(super) struct Members(HashMap<String, Vec<(UserId, Role)>>);

impl Members {
    /// Reads the file.
    ///
    /// # Errors
    /// [`BadInput`] for the first line that is not good.
    pub(super) fn read(path: &Path, keys: KeyFunction) -> anyhow::Result<Self> {
        let mut source = Source::open(path)?;
        let mut members = Self::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = source.line(&mut line, LINE_MAX_BYTES);
            if !read.with_context(|| format!("cannot read {}", path.display()))? {
                return Ok(members);
            }
            let bad = |what: String| BadInput(format!("{}, line {number}: {what}", path.display()));
            if number > LINES_MAX {
                return Err(bad(format!("at most {LINES_MAX} lines")).into());
            }
            if !line.trim_ascii().is_empty() {
                members.add(&line, keys).map_err(bad)?;
            }
        }
        Ok(members)
    }

    fn add(&mut self, line: &[u8], keys: KeyFunction) -> Result<(), String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| {
            let error = error.to_string();
            let what = error.split_once(" at line ").map_or(error.as_str(), |(what, _)| what);
            format!("{what}; write {{\"channel\":\"general\",\"user\":\"carol\",\"role\":\"admin\"}}, the role if it is not `member`")
        })?;
        line.user
            .check_new()
            .map_err(|error| format!("user: {error}"))?;
        let user = &line.user;
        keys.key(user)
            .map_err(|error| format!("user: `{user}`: {error} (keyspace.function)"))?;
        let of = self.0.entry(line.channel).or_default();
        if of.iter().any(|(known, _)| *known == line.user) {
            return Err(format!(
                "user: `{}` is named twice for this channel",
                line.user
            ));
        }
        of.push((line.user, line.role));
        Ok(())
    }

    /// Those of a channel.
    pub(super) fn of(&self, channel: &str) -> &[(UserId, Role)] {
        self.0.get(channel).map_or(&[], Vec::as_slice)
    }

    /// The channels that have any, in order.
    pub(super) fn channels(&self) -> Vec<&String> {
        let mut channels: Vec<&String> = self.0.keys().collect();
        channels.sort();
        channels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_once_with_their_roles() {
        let mut members = Members::default();
        let mut add = |line: &str| members.add(line.as_bytes(), KeyFunction::Hashed);
        add(r#"{"channel":"a","user":"bob"}"#).unwrap();
        add(r#"{"channel":"a","user":"ann","role":"owner"}"#).unwrap();
        for (line, problem) in [
            (r#"{"channel":"a","user":"bob"}"#, "named twice"),
            (r#"{"channel":"a"}"#, "missing field `user`"),
            (r#"{"channel":"a","user":""}"#, "1 to 64 bytes"),
            (r#"{"channel":"a","user":".."}"#, "no address"),
            (
                r#"{"channel":"a","user":"x","role":"king"}"#,
                "unknown variant",
            ),
            ("nonsense", "write {"),
        ] {
            let told = add(line).unwrap_err();
            assert!(told.contains(problem), "{told}");
        }
        let [(first, _), (second, role)] = members.of("a") else {
            panic!()
        };
        assert_eq!(
            (first.as_str(), second.as_str(), *role),
            ("bob", "ann", Role::Owner)
        );
        assert!(members.of("b").is_empty());
    }
}
