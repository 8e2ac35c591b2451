//! `export`: to a pipe, to a file, and to a reader that goes away.

use serde_json::json;

use crate::harness::{Sandbox, finish};
use crate::import::{history, of_channel};

/// A sandbox with an imported history; its input, and one conversation's id and title.
fn with_history() -> (Sandbox, String, (String, serde_json::Value)) {
    let sandbox = Sandbox::new();
    let input = history(9000, 11);
    let summary = sandbox
        .pipe(&["import", "-", "--json"], input.as_bytes())
        .exits(0)
        .json();
    let conversation = &summary["conversations"][1];
    let id = conversation["id"].as_str().unwrap().to_owned();
    (sandbox, input, (id, conversation["title"].clone()))
}

#[test]
fn a_file_appears_whole_and_compressed_if_asked() {
    let (sandbox, input, (id, title)) = with_history();
    let expected = of_channel(&input, &title);
    let count = expected.lines().count();

    let done = sandbox
        .run(&[
            "export",
            "--conversation",
            &id,
            "--output",
            "plain.jsonl",
            "--json",
        ])
        .exits(0)
        .json();
    assert_eq!(done["messages"], json!(count));
    assert_eq!(
        std::fs::read_to_string(sandbox.path("plain.jsonl")).unwrap(),
        expected
    );

    sandbox
        .run(&[
            "export",
            "--conversation",
            &id,
            "--output",
            "packed.zst",
            "--zstd",
        ])
        .exits(0);
    let packed = std::fs::read(sandbox.path("packed.zst")).unwrap();
    assert!(packed.len() * 3 < expected.len());
    assert_eq!(
        zstd::decode_all(packed.as_slice()).unwrap(),
        expected.as_bytes()
    );

    // What cannot be written leaves the old file, and nothing beside it.
    let unknown = "4da10dd61a0116b09319b47bf90bcf31";
    sandbox
        .run(&[
            "export",
            "--conversation",
            unknown,
            "--output",
            "plain.jsonl",
        ])
        .exits(1);
    assert_eq!(
        std::fs::read_to_string(sandbox.path("plain.jsonl")).unwrap(),
        expected
    );
    let mut files: Vec<_> = std::fs::read_dir(sandbox.path(""))
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["backscroll-data", "packed.zst", "plain.jsonl"]);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let (sandbox, input, (id, title)) = with_history();
    let binary = env!("CARGO_BIN_EXE_backscroll");
    let script = format!("set -o pipefail; '{binary}' export --conversation {id} | head -n 1");
    let outcome = finish(
        sandbox
            .other_command("bash")
            .args(["-c", &script])
            .spawn()
            .unwrap(),
    )
    .exits(0);
    assert_eq!(outcome.stderr, "");
    assert_eq!(
        outcome.stdout.lines().next(),
        of_channel(&input, &title).lines().next()
    );
    assert_eq!(outcome.stdout.lines().count(), 1);
}

#[test]
fn what_is_not_there_is_not_made() {
    let sandbox = Sandbox::new();
    let outcome = sandbox
        .run(&[
            "export",
            "--conversation",
            "4da10dd61a0116b09319b47bf90bcf31",
        ])
        .exits(1);
    assert!(outcome.stderr.contains("there is no data"), "{outcome:#?}");
    let outcome = sandbox.run(&["shards", "list"]).exits(1);
    assert!(outcome.stderr.contains("there is no data"), "{outcome:#?}");
    assert!(!sandbox.path("backscroll-data").exists());
}
