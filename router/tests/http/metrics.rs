//! Metrics are part of what operators build on: their names, labels and meanings are recorded, documented, and stand in one
//! place each.
//!
//! `BACKSCROLL_UPDATE_SNAPSHOTS=1 cargo test -p backscroll --test http metrics` writes the snapshot and the tables of
//! `router/METRICS.md` anew.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use backscroll::metrics::by_crate;
use backscroll_realtime::bus::SILENCE_MAX;
use backscroll_realtime::metrics::BUS_SILENCE_SECONDS;
use backscroll_shard::metrics::{Description, Kind, Unit};
use reqwest::Method;

use crate::documentation::is_recorded;
use crate::harness::Service;

/// What all names begin with.
const PREFIX: &str = concat!("backscroll", "_");

/// The end of what is written by hand in `METRICS.md`.
const MARKER: &str =
    "<!-- From here on it is written by a test, from the tables in metrics.rs of each crate. -->\n";

fn all() -> impl Iterator<Item = &'static Description> {
    by_crate()
        .into_iter()
        .flat_map(|(_, metrics)| metrics)
        .copied()
}

fn kind(metric: &Description) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

fn unit(metric: &Description) -> &'static str {
    match metric.unit {
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
        _ => "",
    }
}

#[test]
fn metrics_are_as_recorded() {
    let mut text = String::new();
    for metric in all() {
        let (name, labels) = (metric.name, metric.labels.join(", "));
        writeln!(
            text,
            "{} {name} {{{labels}}}: {}",
            kind(metric),
            metric.help
        )
        .unwrap();
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    is_recorded(&folder.join("tests/snapshots/metrics.txt"), &text);
}

#[test]
fn every_metric_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("METRICS.md");
    let document = fs::read_to_string(&path).unwrap();
    let (by_hand, _) = document.split_once(MARKER).unwrap();
    let mut text =
        format!("{by_hand}{MARKER}\n## Alerts\n\n| metric | look when it shows |\n|---|---|\n");
    for metric in all() {
        if let Some(alert) = metric.alert {
            writeln!(text, "| `{}` | {alert} |", metric.name).unwrap();
        }
    }
    for (area, metrics) in by_crate() {
        let head = "| name | kind | labels | meaning |\n|---|---|---|---|\n";
        write!(text, "\n## {area}\n\n{head}").unwrap();
        for metric in metrics {
            let (name, kind, labels) = (metric.name, kind(metric), metric.labels.join(", "));
            let kind = [kind, unit(metric)].join(" of ");
            let kind = kind.trim_end_matches(" of ");
            writeln!(text, "| `{name}` | {kind} | {labels} | {} |", metric.help).unwrap();
        }
    }
    is_recorded(&path, &text);
}

#[test]
fn names_say_kind_and_unit() {
    let mut names = HashSet::new();
    for metric in all() {
        let name = metric.name;
        assert!(names.insert(name), "{name} is there twice");
        let bare = name.strip_prefix(PREFIX).unwrap();
        let counts = bare.strip_suffix("_total");
        assert_eq!(counts.is_some(), metric.kind == Kind::Counter, "{name}");
        let measured = counts.unwrap_or(bare);
        let (seconds, bytes) = (measured.ends_with("_seconds"), measured.ends_with("_bytes"));
        assert_eq!(seconds, metric.unit == Unit::Seconds, "{name}");
        assert_eq!(bytes, metric.unit == Unit::Bytes, "{name}");
        assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
        assert!(!metric.help.contains('|'), "{name}: a table shows it");
    }
    let alert = format!("above {}", SILENCE_MAX.as_secs());
    assert_eq!(BUS_SILENCE_SECONDS.description().alert, Some(&*alert));
}

/// Nothing is counted under a name that is not in a table.
#[test]
fn names_stand_in_the_tables_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<PathBuf> = ["shard", "archiver", "realtime", "router"]
        .map(|name| root.join(name))
        .into();
    let (quoted, mut tables) = (format!("\"{PREFIX}"), 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            if path.ends_with("src/metrics.rs") {
                tables += 1;
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            for (at, _) in source.match_indices(&quoted) {
                let literal = source[at + 1..].split('"').next().unwrap_or_default();
                // What the names of the benchmark's databases begin with.
                let is_database = literal == format!("{PREFIX}bench_");
                assert!(
                    is_database,
                    "{}: \"{literal}\" is written here; use the constant of a table",
                    path.display()
                );
            }
        }
    }
    assert_eq!(tables, by_crate().len());
}

/// Every series that a server shows is of the kind that its table says.
#[tokio::test]
async fn metrics_are_shown_with_kind_and_meaning() {
    let service = Service::start().await;
    service.user("alice").get("/chat/unread-count").await;
    let shown = service.request(Method::GET, "/metrics").send();
    let text = shown.await.unwrap().text().await.unwrap();
    let mut count = 0;
    for line in text.lines() {
        let Some((name, shown)) = line
            .strip_prefix("# TYPE ")
            .and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        let metric = all().find(|metric| metric.name == name).unwrap();
        let is_kind = shown == kind(metric) || (metric.kind, shown) == (Kind::Histogram, "summary");
        assert!(is_kind, "{line}");
        assert!(text.contains(&format!("# HELP {name} ")), "{line}");
        count += 1;
    }
    assert!(count > 5, "{text}");
}
