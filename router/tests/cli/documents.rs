//! What the documents tell people to type, and what they show of it: commands are commands, requests are in the API, and
//! what is shown is what comes.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::Sandbox;

const DOCUMENTS: [&str; 8] = [
    "README.md",
    "router/README.md",
    "router/bench/README.md",
    "realtime/README.md",
    "realtime/PROTOCOL.md",
    "shard/README.md",
    "archiver/README.md",
    "config/defaults.toml",
];

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(path).unwrap()
}

/// The blocks of code, each with its language, and as one block each the lines that are indented.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, block))) => *block += &format!("{line}\n"),
            (None, None) => {
                let indented = line.strip_prefix("    ");
                blocks.extend(indented.map(|line| ("", format!("{line}\n"))));
            }
        }
    }
    assert!(open.is_none(), "a block of code has no end");
    blocks
}

/// What stands between backticks in the prose.
fn spans(text: &str) -> Vec<String> {
    let prose = text.split("```").step_by(2);
    let spans = prose.flat_map(|part| part.split('`').skip(1).step_by(2));
    spans.map(|span| span.replace('\n', " ")).collect()
}

/// Lines of shells: of several that a backslash joins, one.
fn shell_lines(text: &str) -> Vec<String> {
    let blocks = blocks(text).into_iter();
    let code = blocks.filter(|(language, _)| language.is_empty());
    let joined = code.map(|(_, block)| block).collect::<String>();
    let joined = joined.replace("\\\n", " ");
    joined.lines().map(str::to_owned).collect()
}

/// The words of a line up to the end of its command; a word in quotation marks is one.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, '|' | '>' | '<' | '#' | ';' | '&' | ')') => break,
            (None, ' ') => words.push(String::new()),
            (_, letter) => words.last_mut().unwrap().push(letter),
        }
    }
    words.retain(|word| !word.is_empty() && word != "…");
    words
}

/// The arguments with which `program` is called in a line, each time.
fn calls(line: &str, program: &str) -> Vec<Vec<String>> {
    let starts = line.match_indices(program).map(|(place, _)| place);
    let is_command = |place: &usize| {
        let before = line[..*place].trim_end();
        let is_first = before.is_empty()
            || before.ends_with(['$', '|', '('])
            || before.rsplit(' ').next().unwrap().contains('=');
        is_first && line[*place + program.len()..].starts_with(' ')
    };
    starts
        .filter(is_command)
        .map(|place| words(&line[place + program.len()..]))
        .collect()
}

/// `--help` after the rest of a line shows help when the rest can be understood, and the fault otherwise.
#[test]
fn every_command_in_the_documents_is_one() {
    let sandbox = Sandbox::new();
    let mut found = 0;
    for name in DOCUMENTS {
        let text = document(name);
        let mut lines = spans(&text);
        if name.ends_with(".md") {
            lines.extend(shell_lines(&text));
        }
        for line in lines {
            let own = calls(&line, "backscroll");
            let built = calls(&line, "cargo run --release --");
            for arguments in own.into_iter().chain(built) {
                let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                arguments.push("--help");
                let shown = sandbox.run(&arguments);
                assert_eq!(shown.code, 0, "{name}: {line}: {}", shown.stderr);
                found += 1;
            }
        }
    }
    assert!(found > 60, "{found} commands were found");
}

/// Whether a path of a document is one of the API: parts in braces, and what stands in their places, fit each other.
fn fits(path: &str, template: &str) -> bool {
    let path: Vec<&str> = path.split('/').collect();
    let template: Vec<&str> = template.split('/').collect();
    let is_part = |(part, of): (&&str, &&str)| of.starts_with('{') || part == of;
    path.len() == template.len() && path.iter().zip(&template).all(is_part)
}

/// The method and path of a line with curl.
fn request(line: &str) -> Option<(String, String)> {
    let arguments = calls(line, "curl").into_iter().next()?;
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let after = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).cloned()
    };
    let method = match after("-X") {
        Some(method) => method,
        None if has("-d") => "POST".to_owned(),
        None if has("-T") => "PUT".to_owned(),
        None => "GET".to_owned(),
    };
    let hosts = [
        "http://127.0.0.1:8080/",
        "https://chat.example.com/",
        "$api/",
    ];
    let path = arguments
        .iter()
        .find_map(|argument| hosts.iter().find_map(|host| argument.strip_prefix(host)))?;
    Some((method, format!("/{path}")))
}

#[test]
fn every_request_in_the_documents_is_in_the_api() {
    let api: Value = serde_json::from_slice(&backscroll::openapi::json()).unwrap();
    let operations = api["paths"].as_object().unwrap();
    let mut found = 0;
    for name in DOCUMENTS {
        let text = document(name);
        let spans = spans(&text);
        let inline = spans.iter().filter_map(|span| {
            let (method, path) = span.split_once(" /")?;
            let path = path.split(' ').next()?;
            let is_method = !method.is_empty() && method.chars().all(|it| it.is_ascii_uppercase());
            is_method.then(|| (method.to_owned(), format!("/{path}")))
        });
        let typed: Vec<_> = shell_lines(&text)
            .iter()
            .filter_map(|line| request(line))
            .collect();
        for (method, path) in inline.chain(typed) {
            let (bare, query) = path.split_once('?').unwrap_or((&path, ""));
            let fitting = operations.iter().filter(|(it, _)| fits(bare, it));
            let method = method.to_lowercase();
            let mut operations = fitting.filter_map(|(_, methods)| methods.get(&method));
            let operation = operations.next();
            let operation = operation.unwrap_or_else(|| panic!("{name}: {method} {path}"));
            let known = operation["parameters"].as_array();
            for parameter in query.split('&').filter(|it| !it.is_empty()) {
                let parameter = parameter.split('=').next().unwrap();
                let is_it = |known: &Value| known["in"] == "query" && known["name"] == parameter;
                assert!(
                    known.is_some_and(|known| known.iter().any(is_it)),
                    "{name}: {method} {path}: {parameter}"
                );
            }
            found += 1;
        }
    }
    assert!(found > 15, "{found} requests were found");
}

/// Blocks of JSON are JSON, and those that are messages have no fields but a message's.
#[test]
fn every_message_in_the_documents_is_one() {
    let api: Value = serde_json::from_slice(&backscroll::openapi::json()).unwrap();
    let fields = &api["components"]["schemas"]["Message"]["properties"];
    let mut found = 0;
    for name in DOCUMENTS {
        let text = document(name);
        for (language, block) in blocks(&text) {
            if language != "json" {
                continue;
            }
            let whole: String = block.lines().filter(|line| line.trim() != "…").collect();
            let value: Value = serde_json::from_str(&whole)
                .unwrap_or_else(|error| panic!("{name}: {error} in {block}"));
            for (field, _) in value.as_object().unwrap() {
                assert!(fields.get(field).is_some(), "{name}: {field} of {block}");
            }
            found += 1;
        }
    }
    assert!(found >= 2, "{found} messages were found");
}

/// The block of a document that begins with `first`, line by line.
fn shown(name: &str, first: &str) -> Vec<String> {
    let text = document(name);
    let block = blocks(&text)
        .into_iter()
        .map(|(_, block)| block)
        .find(|block| block.starts_with(first));
    let block = block.unwrap_or_else(|| panic!("{name} has no block that begins with {first}"));
    block.lines().map(str::to_owned).collect()
}

/// Types the first line of a block, and gets its other lines; `…` stands for anything.
fn comes(sandbox: &Sandbox, name: &str, first: &str) {
    let lines = shown(name, first);
    let typed = lines[0].strip_prefix("$ ").unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_backscroll"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let mut shell = sandbox.other_command("sh");
    let output = shell
        .args(["-c", typed])
        .env("PATH", path)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), lines.len() - 1, "{typed}: {said:#?}");
    for (said, line) in said.iter().zip(&lines[1..]) {
        let (begin, end) = line.split_once('…').unwrap_or((line, ""));
        let is_it = match line.contains('…') {
            true => said.starts_with(begin) && said.ends_with(end),
            false => said == line,
        };
        assert!(is_it, "{name}: after `{typed}` it says {said}, not {line}");
    }
}

#[test]
fn what_is_shown_of_commands_is_what_they_say() {
    let sandbox = Sandbox::new();
    let router = "router/README.md";
    comes(&sandbox, router, "$ BACKSCROLL_SERVER__LISTN=x");
    let lines = shown(router, "{\"channel\":\"general\"");
    let good = lines.join("\n") + "\n";
    let last = lines.last().unwrap();
    let bad = last.replace("\"bob\"", "7");
    sandbox.write("general.jsonl", format!("{good}{last}\n{bad}\n"));
    comes(&sandbox, router, "$ backscroll import general.jsonl");
    sandbox.write("good.jsonl", good);
    let imported = sandbox.run(&["import", "good.jsonl", "--json"]).exits(0);
    assert_eq!(imported.json()["messages"], lines.len());

    let listed = sandbox.run(&["shards", "list"]).exits(0).stdout;
    let columns = |line: &str| {
        let columns = line.split("  ").map(|column| column.trim().to_owned());
        columns.filter(|it| !it.is_empty()).collect::<Vec<_>>()
    };
    let documented = shown(router, "SHARD  STATE");
    let first = listed.lines().next().unwrap();
    assert_eq!(columns(&documented[0]), columns(first));
}

/// The message that the README shows.
pub(crate) fn first_answer() -> Value {
    let text = document("README.md");
    let blocks = blocks(&text);
    let block = blocks.iter().find(|(language, _)| *language == "json");
    serde_json::from_str(&block.unwrap().1).unwrap()
}
