//! As much of Markdown as the documents use.

use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::path::PathBuf;

/// A document.
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    /// Blocks of code with their languages: fenced, and the lines that are indented.
    blocks: Vec<(String, String)>,
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
        let (mut blocks, mut prose) = (Vec::<(String, String)>::new(), String::new());
        let mut fence = false;
        for line in text.lines() {
            if let Some(language) = line.strip_prefix("```") {
                fence = !fence;
                if fence {
                    blocks.push((language.to_owned(), String::new()));
                }
            } else if fence {
                let (_, block) = blocks.last_mut().unwrap();
                *block += &format!("{line}\n");
            } else if let Some(line) = line.strip_prefix("    ") {
                blocks.push((String::new(), format!("{line}\n")));
            } else {
                prose += &format!("{line}\n");
            }
        }
        let inline = prose.split("\n\n").flat_map(|paragraph| {
            let parts = paragraph.split('`').enumerate();
            parts.filter_map(|(n, part)| (n % 2 == 1).then(|| part.replace('\n', " ")))
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
        let lines = self.blocks.iter().flat_map(|(_, block)| block.lines());
        let lines = lines.map(|line| line.trim_start_matches("$ "));
        self.inline.iter().map(String::as_str).chain(lines)
    }

    /// Blocks in a language.
    pub(crate) fn blocks(&self, language: &'static str) -> impl Iterator<Item = &str> {
        let of = self.blocks.iter().filter(move |(its, _)| its == language);
        of.map(|(_, block)| &**block)
    }

    /// The words after `backscroll`, wherever it is run.
    pub(crate) fn commands(&self) -> Vec<Vec<String>> {
        let blocks = self
            .blocks
            .iter()
            .map(|(_, block)| block.replace("\\\n", " "));
        let lines = blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
        let lines: Vec<String> = lines.chain(self.inline.iter().cloned()).collect();
        lines.iter().flat_map(|line| runs(line)).collect()
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

/// The words of each run of `backscroll` in a line of the shell.
fn runs(line: &str) -> Vec<Vec<String>> {
    let line = line.replace("cargo run --release -- ", "backscroll ");
    let at_start = |place: usize| {
        let before = line[..place].trim_end();
        before.is_empty()
            || before.ends_with(['$', '(', '|', '&', '<', '='])
            || before.split_whitespace().all(|word| word.contains('='))
    };
    let places = line.match_indices("backscroll ").filter(|(place, _)| {
        at_start(*place) || line[..*place].ends_with("$ ") || line[..*place].ends_with("| ")
    });
    places
        .map(|(place, name)| words(&line[place + name.len()..]))
        .collect()
}

/// Words up to the end of the command, quotes taken off.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for next in text.chars().chain(iter::once(' ')) {
        match (quote, next) {
            (Some(open), next) if next == open => quote = None,
            (Some(_), next) => word.push(next),
            (None, '\'' | '"') => quote = Some(next),
            (None, '|' | '&' | ')' | '>' | ';' | '#' | '(' | ',') => {
                words.push(std::mem::take(&mut word));
                break;
            }
            (None, next) if next.is_whitespace() => words.push(std::mem::take(&mut word)),
            (None, next) => word.push(next),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
