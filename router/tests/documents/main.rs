//! What the documents name is there: settings, commands and events of the protocol, files, headings, and targets of make.
//!
//! The names of the protocol are those of its snapshot, which another test compares with the program. What the documents tell people to
//! type is looked at in `tests/cli/documents.rs`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod markdown;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use markdown::Document;

/// The sources of the crate above this one, in which all documents are.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn documents() -> Vec<Document> {
    let folders = [
        "",
        "archiver",
        "realtime",
        "realtime/client",
        "router",
        "router/bench",
        "shard",
    ];
    let mut found = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "md") {
                found.push(Document::read(path));
            }
        }
    }
    assert!(found.len() >= 10, "the documents have moved");
    found
}

/// What is wrong, a line each; fails when anything is.
#[derive(Default)]
struct Findings {
    wrong: Vec<String>,
    looked_at: usize,
}

impl Findings {
    fn check(&mut self, document: &Document, what: &str, is_right: bool) {
        self.looked_at += 1;
        if !is_right {
            self.wrong
                .push(format!("{}: {what}", document.path.display()));
        }
    }

    /// None is wrong, and there were at least so many to look at.
    #[track_caller]
    fn assert_none(self, least: usize) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert!(
            self.looked_at >= least,
            "only {} were found",
            self.looked_at
        );
    }
}

/// The keys of the configuration: `section.key`.
fn settings() -> BTreeSet<String> {
    let (mut keys, mut section) = (BTreeSet::new(), String::new());
    for line in text("config/defaults.toml").lines() {
        let line = line.trim_start_matches("# ");
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_owned();
            keys.insert(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ")
            && markdown::is_identifier(key)
        {
            keys.insert(
                format!("{section}.{key}")
                    .trim_start_matches('.')
                    .to_owned(),
            );
        }
    }
    keys
}

#[test]
fn settings_exist() {
    let (settings, mut findings) = (settings(), Findings::default());
    let sections: BTreeSet<&str> = settings
        .iter()
        .filter_map(|key| Some(key.split_once('.')?.0))
        .collect();
    for document in &documents() {
        for code in document.code() {
            let key = code.split(" = ").next().unwrap();
            let parts: Vec<&str> = key.split('.').collect();
            let is_setting = parts.len() > 1
                && parts.iter().all(|part| markdown::is_identifier(part))
                && sections.contains(parts[0])
                && parts[1] != "rs";
            if is_setting {
                findings.check(document, key, settings.contains(key));
            }
        }
        for variable in document.variables("BACKSCROLL_") {
            if let Some((section, key)) = variable.split_once("__") {
                let key = format!("{section}.{key}").to_lowercase();
                // The example of a mistake.
                findings.check(
                    document,
                    &key,
                    settings.contains(&key) || key == "server.listn",
                );
            }
        }
    }
    findings.assert_none(80);
}

#[test]
fn every_command_and_event_of_the_protocol_is_described() {
    let protocol = text("realtime/PROTOCOL.md");
    let names = text("router/tests/snapshots/real-time-api.txt");
    let names = names.lines().filter_map(|line| {
        let (kind, rest) = line.split_once(' ')?;
        let name = rest.split(':').next()?;
        ["command", "event"].contains(&kind).then_some(name)
    });
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 30);
    let missing = names.iter().filter(|name| {
        ["`", "\""]
            .iter()
            .all(|quote| !protocol.contains(&format!("{quote}{name}")))
    });
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn links_lead_somewhere() {
    let (all, mut findings) = (documents(), Findings::default());
    for document in &all {
        for link in document.links() {
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.path.clone(),
                path => document.path.parent().unwrap().join(path),
            };
            let exists = target.exists();
            findings.check(document, &link, exists);
            if exists && !heading.is_empty() && target.extension().is_some_and(|it| it == "md") {
                let is_there = Document::read(target).headings().contains(heading);
                findings.check(document, &link, is_there);
            }
        }
    }
    findings.assert_none(100);
}

#[test]
fn targets_of_make_exist() {
    let (makefile, mut findings) = (text("Makefile"), Findings::default());
    for document in &documents() {
        for target in document
            .code()
            .filter_map(|code| code.strip_prefix("make "))
        {
            let target = target.split_whitespace().next().unwrap();
            let rule = format!("\n{target}: ##");
            findings.check(
                document,
                &format!("make {target}"),
                makefile.contains(&rule),
            );
        }
    }
    findings.assert_none(10);
}
