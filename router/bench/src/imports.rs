//! Histories brought in with `backscroll import`: given ones, and generated ones like them.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use tempfile::TempDir;

use crate::drafts::{Drafts, Texts};
use crate::harness::router::Router;
use crate::out;

/// Who owns the imported conversations, and reads them.
pub const OWNER: &str = "bench-owner";
/// How many people write a generated history.
const WRITERS: usize = 50;
/// When a generated history of long ago begins, in milliseconds since 1970, and the mean time between messages.
const BEGIN_MS: i64 = 1_600_000_000_000;
const MEAN_GAP_MS: i64 = 400_000;
/// It takes at most so long, so that it ends before today.
const SPAN_MS: i64 = 150_000_000_000;

/// A history to be generated.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    /// How many messages there are in all.
    pub messages: u64,
    /// In how many channels, evenly.
    pub channels: u64,
    /// What the channels' names begin with.
    pub name: &'static str,
    /// When it begins, in milliseconds since 1970.
    pub begin: i64,
    /// The mean time between two messages, in milliseconds.
    pub gap: i64,
}

impl Generated {
    /// `messages` messages of long ago in one channel.
    #[must_use]
    pub fn long_ago(messages: u64) -> Self {
        Self {
            messages,
            channels: 1,
            name: "bench",
            begin: BEGIN_MS,
            gap: MEAN_GAP_MS.min(SPAN_MS / messages.max(1).cast_signed()),
        }
    }

    fn write(&self, file: &Path) -> Result<()> {
        let texts = Texts::new(1)?;
        let mut drafts = Drafts::new(1, [0].into(), WRITERS)?;
        let mut rng = SmallRng::seed_from_u64(1);
        let mut lines = BufWriter::new(std::fs::File::create(file)?);
        let mut at = self.begin;
        for n in 0..self.messages {
            let draft = drafts.draw();
            at += rng.random_range(0..2 * self.gap);
            let (member, text) = (draft.member, texts.json(&draft));
            let (name, channel) = (self.name, n % self.channels);
            writeln!(
                lines,
                r#"{{"channel":"{name}-{channel}","user":"writer-{member}","at":{at},"text":{text}}}"#
            )?;
        }
        lines.flush()?;
        Ok(())
    }
}

/// A file that can be imported.
pub struct History {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl History {
    /// The file at `corpus` if there is one, and else a generated one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of(corpus: Option<&Path>, generated: Generated) -> Result<Self> {
        if let Some(corpus) = corpus {
            return Ok(Self {
                path: std::path::absolute(corpus)?,
                _folder: None,
            });
        }
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("history.jsonl");
        generated
            .write(&path)
            .context("cannot write the history to import")?;
        Ok(Self {
            path,
            _folder: Some(folder),
        })
    }

    /// Imports it with the command an operator would use, as conversations of `owner`.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn import(&self, router: &Router, owner: &str) -> Result<Imported> {
        #[derive(Deserialize)]
        struct Summary {
            conversations: Vec<ImportedConversation>,
        }
        out::progress(format_args!("importing {}", self.path.display()));
        let file = self.path.to_str().context("the file's path is not UTF-8")?;
        let begin = Instant::now();
        let summary = router
            .run("import", &[file, "--owner", owner, "--json"])
            .await?;
        let elapsed = begin.elapsed();
        let summary: Summary =
            serde_json::from_str(&summary).context("cannot read what the import printed")?;
        let mut conversations = summary.conversations;
        conversations.sort_by_key(|entry| std::cmp::Reverse(entry.messages));
        let messages = conversations.iter().map(|entry| entry.messages).sum();
        Ok(Imported {
            conversations,
            messages,
            per_second: messages as f64 / elapsed.as_secs_f64(),
        })
    }
}

/// A conversation that was imported.
#[derive(Clone, Debug, Deserialize)]
pub struct ImportedConversation {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// How many messages it has.
    pub messages: u64,
}

/// What was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The conversations, the longest first.
    pub conversations: Vec<ImportedConversation>,
    /// How many messages there are in all.
    pub messages: u64,
    /// How many were stored in a second.
    pub per_second: f64,
}

impl Imported {
    /// The conversation with the most messages.
    ///
    /// # Errors
    /// When nothing was imported.
    pub fn longest(&self) -> Result<&ImportedConversation> {
        self.conversations.first().context("nothing was imported")
    }
}
