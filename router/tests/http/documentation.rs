//! The OpenAPI document is the interface's contract: a change of it must be meant.
//!
//! `BACKSCROLL_UPDATE_SNAPSHOTS=1 cargo test -p backscroll --test http` writes the snapshot anew.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;

use backscroll::http::problem::Code;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Service};

fn document() -> Value {
    serde_json::from_slice(&backscroll::openapi::json()).unwrap()
}

/// Path, method and operation of each, in order.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let fields = item.as_object().unwrap().iter();
        for (method, operation) in fields.filter(|(_, field)| field["responses"].is_object()) {
            all.push((path.as_str(), method.as_str(), operation));
        }
    }
    all.sort_by_key(|(path, method, _)| (*path, *method));
    all
}

#[test]
fn the_interface_is_as_recorded() {
    recorded("http-api.txt", &describe(&document()));
}

#[test]
fn the_real_time_protocol_is_as_recorded() {
    let document: Value = serde_json::from_slice(&backscroll::asyncapi::json()).unwrap();
    let mut text = String::new();
    for (name, operation) in document["operations"].as_object().unwrap() {
        let payload = |name: &str| {
            let message = &document["components"]["messages"][name];
            message["payload"]["$ref"]
                .as_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned()
        };
        let data = payload(name);
        match operation["action"].as_str() {
            Some("receive") => {
                let reply = payload(&format!("{name}_reply"));
                writeln!(text, "command {name}: {data} -> {reply}").unwrap();
            }
            _ => writeln!(text, "event {name}: {data}").unwrap(),
        }
    }
    schemas(&document, &mut text);
    text.push('\n');
    for close in backscroll_realtime::protocol::Close::ALL {
        let (code, name) = (close.code(), close.name());
        writeln!(text, "close {code} {name}: {}", close.comes_back().words()).unwrap();
    }
    recorded("real-time-api.txt", &text);
}

/// The rows of the table in PROTOCOL.md whose first cell begins with `first`.
fn rows_of_protocol(first: char) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../realtime/PROTOCOL.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("\n## Closing\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect());
    cells
        .filter(|cells: &Vec<String>| cells[0].starts_with(first))
        .collect()
}

/// What PROTOCOL.md says of when a client may come back is what the documents say, from which clients are made.
#[test]
fn the_protocol_s_tables_are_whole() {
    use backscroll_realtime::protocol::Close;
    let closings: Vec<_> = rows_of_protocol('4')
        .into_iter()
        .map(|cells| (cells[0].clone(), cells[1].clone(), cells[3].clone()))
        .collect();
    let expected: Vec<_> = Close::ALL
        .iter()
        .map(|close| {
            let returns = close.comes_back().words().to_owned();
            (
                close.code().to_string(),
                format!("`{}`", close.name()),
                returns,
            )
        })
        .collect();
    assert_eq!(closings, expected);
    let mut errors = HashSet::new();
    for cells in rows_of_protocol('`') {
        for code in cells[0].split(", ") {
            let code = code.trim_matches('`').to_owned();
            assert!(errors.insert((code, cells[1].clone())));
        }
    }
    let expected = Code::ALL
        .iter()
        .map(|code| (code.name().to_owned(), code.comes_back().words().to_owned()));
    assert_eq!(errors, expected.collect());
}

/// Every reference in the document leads somewhere.
#[test]
fn the_real_time_document_is_whole() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_slice(&backscroll::asyncapi::json()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in found {
        let target = document.pointer(reference.trim_start_matches('#'));
        assert!(target.is_some(), "{reference} leads nowhere");
    }
}

fn recorded(snapshot: &str, actual: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    is_recorded(&folder.join(snapshot), actual);
}

/// Compares `actual` with the file at `path`, or writes it there when that was asked for.
pub(crate) fn is_recorded(path: &Path, actual: &str) {
    if std::env::var_os("BACKSCROLL_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, actual).unwrap();
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    let changed: Vec<String> = actual
        .lines()
        .zip(recorded.lines().chain(std::iter::repeat("")))
        .filter(|(now, before)| now != before)
        .take(5)
        .map(|(now, before)| format!("- {before}\n+ {now}"))
        .collect();
    assert!(
        actual == recorded,
        "it differs from {}, first here:\n{}\nIf that is meant, run again with BACKSCROLL_UPDATE_SNAPSHOTS=1.",
        path.display(),
        changed.join("\n")
    );
}

/// Operations with parameters, bodies and answers; schemas with fields; codes.
fn describe(document: &Value) -> String {
    let mut text = String::new();
    for (path, method, operation) in operations(document) {
        writeln!(
            text,
            "{} {path}  {}",
            method.to_uppercase(),
            operation["operationId"].as_str().unwrap()
        )
        .unwrap();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let required = if parameter["required"] == true {
                ""
            } else {
                "?"
            };
            let (place, name) = (
                parameter["in"].as_str().unwrap(),
                parameter["name"].as_str().unwrap(),
            );
            writeln!(
                text,
                "    {place} {name}{required}: {}",
                kind(&parameter["schema"])
            )
            .unwrap();
        }
        if let Some(content) = operation["requestBody"]["content"].as_object() {
            let required = if operation["requestBody"]["required"] == true {
                ""
            } else {
                "?"
            };
            for (media_type, body) in content {
                writeln!(
                    text,
                    "    body{required} {media_type}: {}",
                    kind(&body["schema"])
                )
                .unwrap();
            }
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let content = response["content"].as_object().into_iter().flatten();
            let bodies: Vec<String> = content
                .map(|(media_type, body)| match body["examples"].as_object() {
                    Some(codes) => codes.keys().cloned().collect::<Vec<_>>().join(" "),
                    None => format!("{media_type}: {}", kind(&body["schema"])),
                })
                .collect();
            writeln!(text, "    {status} {}", bodies.join(", ")).unwrap();
        }
    }
    schemas(document, &mut text);
    text.push('\n');
    for code in Code::ALL {
        let retry = code
            .retry_after_ms()
            .map_or_else(|| "-".into(), |wait| format!("{wait}ms"));
        writeln!(
            text,
            "{} {} retry {retry}: {}",
            code.status().as_u16(),
            code.name(),
            code.title()
        )
        .unwrap();
    }
    text
}

/// Schemas with their fields.
fn schemas(document: &Value, text: &mut String) {
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        writeln!(text, "\n{name}: {}", kind(schema)).unwrap();
        let required: HashSet<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            let mark = if required.contains(field.as_str()) {
                ""
            } else {
                "?"
            };
            writeln!(text, "    {field}{mark}: {}", kind(schema)).unwrap();
        }
    }
}

/// A schema in a few words.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap().to_owned();
    }
    for word in ["oneOf", "allOf", "anyOf"] {
        if let Some(parts) = schema[word].as_array() {
            return parts.iter().map(kind).collect::<Vec<_>>().join(" | ");
        }
    }
    let mut text = match &schema["type"] {
        Value::String(one) => one.clone(),
        Value::Array(many) => many
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join("|"),
        _ => "any".into(),
    };
    if !schema["items"].is_null() {
        text = format!("{text} of {}", kind(&schema["items"]));
    }
    if schema["additionalProperties"].is_object() {
        text = format!("{text} of {}", kind(&schema["additionalProperties"]));
    }
    if schema["additionalProperties"] == false {
        text.push_str(" closed");
    }
    for bound in [
        "format",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "pattern",
        "default",
        "enum",
    ] {
        if !schema[bound].is_null() {
            write!(text, " {bound}={}", schema[bound]).unwrap();
        }
    }
    text
}

#[test]
fn the_document_is_complete_in_itself() {
    let document = document();
    let mut ids = HashSet::new();
    for (path, method, operation) in operations(&document) {
        let name = format!("{method} {path}");
        assert!(
            ids.insert(
                operation["operationId"]
                    .as_str()
                    .unwrap_or_else(|| panic!("{name} has no id"))
            ),
            "{name}: its id is taken"
        );
        assert!(
            !operation["summary"].as_str().unwrap_or_default().is_empty(),
            "{name} has no summary"
        );
        assert_eq!(
            operation["tags"].as_array().map_or(0, Vec::len),
            1,
            "{name}"
        );
        for parameter in path
            .split('{')
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap())
        {
            let declared = operation["parameters"].as_array().into_iter().flatten();
            assert_eq!(
                declared
                    .filter(|p| p["in"] == "path" && p["name"] == parameter)
                    .count(),
                1,
                "{name}: {parameter}"
            );
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        let item = &document["paths"][path];
        assert_eq!(
            item["servers"],
            json!([{ "url": "." }]),
            "{path} has one address"
        );
    }
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(
            document.pointer(pointer).is_some(),
            "{reference} points nowhere"
        );
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(reference) if name == "$ref" => found.push(reference.clone()),
                    _ => collect_references(value, found),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_documented_operation_is_served_at_both_mounts() {
    let service = Service::start().await;
    let document = document();
    let mut chat_operations = 0;
    for (path, method, _) in operations(&document)
        .into_iter()
        .filter(|(path, ..)| path.starts_with("/chat/"))
    {
        chat_operations += 1;
        for mount in ["", "/api"] {
            let path = format!("{mount}{path}").replace(['{', '}'], "");
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            // Who calls is asked before anything else.
            Answer::of(service.request(method, &path))
                .await
                .problem(401, "unauthenticated");
        }
    }
    assert_eq!(chat_operations, 40);
}
