//! As much of Markdown as the documents use.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A document.
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    /// Blocks of code: fenced, and the lines that are indented.
    blocks: Vec<String>,
    /// Code within lines.
    inline: Vec<String>,
    prose: String,
}

/// Whether it is a word of the configuration.
pub(crate) fn is_identifier(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !text.is_empty() && text.bytes().all(fits)
}

impl Document {
    pub(crate) fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let (mut blocks, mut prose) = (Vec::<String>::new(), String::new());
        let mut fence = false;
        for line in text.lines() {
            if line.starts_with("```") {
                fence = !fence;
                if fence {
                    blocks.push(String::new());
                }
            } else if fence {
                *blocks.last_mut().unwrap() += &format!("{line}\n");
            } else if let Some(line) = line.strip_prefix("    ") {
                blocks.push(format!("{line}\n"));
            } else {
                prose += &format!("{line}\n");
            }
        }
        let inline = prose.split("\n\n").flat_map(|paragraph| {
            let parts = paragraph.split('`').enumerate();
            let inside = parts.filter(|(n, _)| n % 2 == 1);
            inside.map(|(_, part)| part.replace('\n', " "))
        });
        Self {
            path,
            inline: inline.collect(),
            blocks,
            prose,
        }
    }

    /// Every line of code.
    pub(crate) fn code(&self) -> impl Iterator<Item = &str> {
        let lines = self.blocks.iter().flat_map(|block| block.lines());
        let lines = lines.map(|line| line.trim_start_matches("$ "));
        self.inline.iter().map(String::as_str).chain(lines)
    }

    /// Names that begin with `prefix`.
    pub(crate) fn variables(&self, prefix: &str) -> BTreeSet<&str> {
        let words = self.code().flat_map(|code| {
            code.split(|it: char| !(it.is_ascii_uppercase() || it.is_ascii_digit() || it == '_'))
        });
        words.filter_map(|word| word.strip_prefix(prefix)).collect()
    }

    /// Links within the repository.
    pub(crate) fn links(&self) -> Vec<String> {
        let after = self.prose.split("](").skip(1);
        let links = after.filter_map(|rest| rest.split(')').next());
        let inside = links.filter(|link| !link.starts_with("http") && !link.contains(' '));
        inside.map(str::to_owned).collect()
    }

    /// Headings, as links name them.
    pub(crate) fn headings(&self) -> BTreeSet<String> {
        let lines = self.prose.lines().filter(|line| line.starts_with('#'));
        lines
            .map(|line| {
                let words = line.trim_start_matches('#').trim().to_lowercase();
                let kept = words
                    .chars()
                    .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
                kept.map(|it| if it == ' ' { '-' } else { it }).collect()
            })
            .collect()
    }
}
