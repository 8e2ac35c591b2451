//! `--help` of every command: part of the public surface, kept as a snapshot.
//!
//! `BACKSCROLL_UPDATE_SNAPSHOTS=1 cargo test -p backscroll --test cli help` writes it anew.

use std::path::Path;

use crate::harness::Sandbox;

const COMMANDS: [&[&str]; 55] = [
    &[],
    &["serve"],
    &["migrate"],
    &["token"],
    &["import"],
    &["export"],
    &["archive"],
    &["archive", "run"],
    &["archive", "status"],
    &["archive", "verify"],
    &["archive", "repair"],
    &["archive", "restore"],
    &["archive", "gc"],
    &["archive", "rebuild-index"],
    &["archive", "hold"],
    &["archive", "holds"],
    &["archive", "erasures"],
    &["audit"],
    &["audit", "list"],
    &["audit", "verify"],
    &["audit", "erase"],
    &["search"],
    &["search", "index"],
    &["search", "index", "build"],
    &["search", "index", "verify"],
    &["search", "index", "drop"],
    &["media"],
    &["media", "verify"],
    &["media", "gc"],
    &["media", "rebuild"],
    &["lease"],
    &["lease", "clear"],
    &["shards"],
    &["shards", "list"],
    &["shards", "add"],
    &["shards", "adopt"],
    &["shards", "drain"],
    &["shards", "views"],
    &["shards", "writer"],
    &["rebalance"],
    &["rebalance", "plan"],
    &["rebalance", "run"],
    &["rebalance", "status"],
    &["rebalance", "explain"],
    &["rebalance", "pause"],
    &["rebalance", "resume"],
    &["rebalance", "throttle"],
    &["rebalance", "abort"],
    &["rebalance", "reverse"],
    &["rebalance", "history"],
    &["rebalance", "merge"],
    &["doctor"],
    &["config"],
    &["config", "check"],
    &["config", "dump"],
];

#[test]
fn help_is_as_it_was_agreed() {
    let sandbox = Sandbox::new();
    let mut text = String::new();
    for command in COMMANDS {
        let shown = sandbox
            .run(&[command, &["--help"]].concat())
            .exits(0)
            .stdout;
        text += &format!(
            "==== backscroll {}\n\n{}\n",
            command.join(" "),
            shown.trim_end()
        );
        text += "\n";
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/help.txt");
    if std::env::var_os("BACKSCROLL_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let agreed = std::fs::read_to_string(&file).unwrap_or_default();
    let first_difference = text
        .lines()
        .zip(agreed.lines().chain(std::iter::repeat("(end)")))
        .find(|(new, old)| new != old);
    assert!(
        text == agreed,
        "--help differs from {}, first here: {first_difference:?}\nIf that is meant, run again with BACKSCROLL_UPDATE_SNAPSHOTS=1.",
        file.display()
    );
}
