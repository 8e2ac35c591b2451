//! What the documents name is there: commands and their options, settings, addresses, events, files and headings.
//!
//! The programs' own words are taken from the snapshots of `--help`, of the API and of the real-time protocol, which other tests
//! compare with the programs, and from `config/defaults.toml`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod markdown;

use std::collections::{BTreeMap, BTreeSet};
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

/// The help of every command, by its words.
fn helps() -> BTreeMap<Vec<String>, String> {
    let helps = text("router/tests/snapshots/help.txt");
    let helps = helps.split("==== backscroll").skip(1);
    helps
        .map(|help| {
            let (words, help) = help.split_once('\n').unwrap();
            let words = words.split_whitespace().map(str::to_owned).collect();
            (words, help.to_owned())
        })
        .collect()
}

/// Whether `help` has the option, as a word of its own.
fn has_option(help: &str, option: &str) -> bool {
    let mut words = help.split(|it: char| !(it.is_ascii_alphanumeric() || it == '-'));
    words.any(|word| word == option)
}

/// A command that the server runs, and no person.
const HIDDEN: &str = "media-worker";

#[test]
fn commands_and_options_exist() {
    let (helps, mut findings) = (helps(), Findings::default());
    for document in &documents() {
        for line in document.commands() {
            let mut words = line.iter().peekable();
            let mut command = Vec::new();
            while let Some(word) = words.peek() {
                let longer = [&command[..], &[(*word).clone()]].concat();
                if word.starts_with("--") {
                    words.next(); // `--config FILE` may come before the command
                    words.next_if(|value| value.ends_with(".toml"));
                } else if helps.contains_key(&longer) {
                    command = longer;
                    words.next();
                } else {
                    break;
                }
            }
            let help = &helps[&command];
            let is_group = help.contains("\nCommands:");
            let rest = words.peek();
            let is_whole = !is_group || rest.is_none_or(|it| !is_word(it) || HIDDEN == *it);
            findings.check(
                document,
                &format!("backscroll {}", line.join(" ")),
                is_whole,
            );
            for option in line.iter().filter(|word| word.starts_with("--")) {
                let option = option.split('=').next().unwrap();
                let what = format!("backscroll {}: {option}", command.join(" "));
                let is_known = has_option(help, option) || has_option(&helps[&vec![]], option);
                findings.check(document, &what, is_known);
            }
        }
    }
    findings.assert_none(60);
}

/// Whether it could be the name of a command.
fn is_word(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
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

/// The routes of the API: method and address, without the names of its parameters.
fn routes() -> BTreeSet<(String, String)> {
    let routes = text("router/tests/snapshots/http-api.txt");
    let routes = routes.lines().filter(|line| !line.starts_with(' '));
    routes
        .filter_map(|line| {
            let (method, rest) = line.split_once(' ')?;
            let address = rest.split_whitespace().next()?;
            Some((method.to_owned(), shape(address)))
        })
        .collect()
}

/// An address with its variable parts left open.
fn shape(address: &str) -> String {
    let path = address.split('?').next().unwrap();
    let open = |part: &str| part.starts_with(['{', ':']) || part.contains('…');
    let parts = path
        .split('/')
        .map(|part| if open(part) { "*" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// Whether a documented address may be this route: a literal part stands for a parameter, too.
fn is_of(address: &str, route: &str) -> bool {
    let (mut ours, mut theirs) = (address.split('/'), route.split('/'));
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return true,
            (Some(our), Some(their)) if our == their || their == "*" => {}
            _ => return false,
        }
    }
}

#[test]
fn addresses_exist() {
    /// Taken by front-ends that were written for other servers: the same operations as `PATCH`.
    const ALSO: [&str; 2] = ["POST", "PUT"];
    let (routes, mut findings) = (routes(), Findings::default());
    for document in &documents() {
        for code in document.code() {
            let mut words = code.split_whitespace();
            let (Some(method), Some(address)) = (words.next(), words.next()) else {
                continue;
            };
            let is_route = ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method)
                && ["/chat/", "/api/chat/", "/admin/"]
                    .iter()
                    .any(|it| address.starts_with(it));
            if !is_route {
                continue;
            }
            let address = shape(&address.replacen("/api/chat/", "/chat/", 1));
            let exists = routes.iter().any(|(its, route)| {
                let also = ALSO.contains(&method) && its == "PATCH" && route.ends_with("/read");
                (its == method || also) && is_of(&address, route)
            });
            findings.check(document, code, exists);
        }
    }
    findings.assert_none(20);
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

#[test]
fn examples_of_json_are_json() {
    let mut findings = Findings::default();
    for document in &documents() {
        for block in document.blocks("json").filter(|block| !block.contains('…')) {
            let mut values =
                serde_json::Deserializer::from_str(block).into_iter::<serde_json::Value>();
            findings.check(document, block, values.all(|value| value.is_ok()));
        }
    }
    findings.assert_none(3);
}
