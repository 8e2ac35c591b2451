//! The two tiers as operators and users meet them: archived messages that are held, changed and deleted; lost databases;
//! mistakes, damage, and an object store that is away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backscroll_testkit::TestDatabases;
use serde_json::{Value, json};

use crate::harness::{Sandbox, Server, get};
use crate::import::history;

/// Messages of the history, and channels they are spread over.
const MESSAGES: usize = 600;
const CHANNELS: u64 = 3;

/// A history of long ago in a sandbox, and what it exports.
struct Archived {
    sandbox: Sandbox,
    conversations: Vec<String>,
    exported: Vec<String>,
    /// Where the objects are, in the sandbox.
    folder: &'static str,
}

impl Archived {
    fn embedded() -> Self {
        Self::import(Sandbox::new(), "backscroll-data/objects")
    }

    fn on_databases(databases: &TestDatabases) -> Self {
        let sandbox = Sandbox::new().on_databases(&databases.urls());
        sandbox.run(&["migrate"]).exits(0);
        Self::import(sandbox, "objects")
    }

    /// Imports the history. The schedule is off; frames and batches are small, so that there are several of each.
    fn import(sandbox: Sandbox, folder: &'static str) -> Self {
        let sandbox = sandbox
            .with("BACKSCROLL_ARCHIVE__SCHEDULE", "")
            .with("BACKSCROLL_ARCHIVE__FRAME_BYTES", "4096")
            .with("BACKSCROLL_ARCHIVE__DELETE_BATCH", "70")
            .with("BACKSCROLL_ARCHIVE__ERASE_WITHIN", "0s");
        let summary = sandbox
            .pipe(&["import", "-", "--json"], history(MESSAGES, 7).as_bytes())
            .exits(0)
            .json();
        let listed = summary["conversations"].as_array().unwrap();
        let id = |conversation: &Value| conversation["id"].as_str().unwrap().to_owned();
        let mut archived = Self {
            sandbox,
            conversations: listed.iter().map(id).collect(),
            exported: Vec::new(),
            folder,
        };
        archived.exported = archived.export();
        archived
    }

    /// What `archive …` prints as JSON.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Value {
        let arguments = [&["archive"], arguments, &["--json"]].concat();
        self.sandbox.run(&arguments).exits(0).json()
    }

    #[track_caller]
    fn export(&self) -> Vec<String> {
        let export = |id: &String| {
            let command = ["export", "--conversation", id];
            self.sandbox.run(&command).exits(0).stdout
        };
        self.conversations.iter().map(export).collect()
    }

    /// Every message is there once, and the archive is as it should be.
    #[track_caller]
    fn assert_whole(&self, when: &str) {
        assert!(self.export() == self.exported, "{when}: another export");
        let report = self.run(&["verify"]);
        assert_eq!(report["problemCount"], 0, "{when}: {report:#}");
    }

    /// A token of who sent message `seq` of a conversation.
    fn author(&self, conversation: usize, seq: usize) -> String {
        let line = self.exported[conversation].lines().nth(seq - 1).unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        let command = ["token", "--user", line["user"].as_str().unwrap()];
        self.sandbox.run(&command).exits(0).stdout.trim().to_owned()
    }

    /// The segments of the archive.
    fn objects(&self) -> Vec<PathBuf> {
        self.files_that_end_with(".jsonl.zst")
    }

    /// Their terms.
    fn terms(&self) -> Vec<PathBuf> {
        self.files_that_end_with(".terms1.zst")
    }

    fn files_that_end_with(&self, end: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        files_in(&self.sandbox.path(self.folder), &mut found);
        found.retain(|file| file.to_string_lossy().ends_with(end));
        found
    }

    /// What `search index …` prints as JSON.
    #[track_caller]
    fn index(&self, command: &str) -> Value {
        let arguments = ["search", "index", command, "--json"];
        self.sandbox.run(&arguments).exits(0).json()
    }

    /// What clients see of every conversation, from the newest page to the oldest, without where it came from.
    fn walk(&self) -> Vec<Value> {
        let server: Server = self.sandbox.serve(&[], 1);
        let mut pages = Vec::new();
        for (position, id) in self.conversations.iter().enumerate() {
            let token = self.author(position, 1);
            let messages = format!("{}/chat/conversations/{id}/messages?limit=50", server.url());
            let mut url = messages.clone();
            loop {
                let (status, mut page) = get(&url, &token);
                assert_eq!(status, 200, "{page:#}");
                page.as_object_mut().unwrap().remove("tiers").unwrap();
                url = format!("{messages}&before={}", page["messages"][0]["seq"]);
                let more = page["hasMoreBefore"].as_bool().unwrap();
                pages.push(page);
                if !more {
                    break;
                }
            }
        }
        server.stop();
        pages
    }
}

fn files_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_in(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

/// A figure of each shard, added up.
#[track_caller]
fn sum(list: &Value, pointer: &str) -> u64 {
    let figure = |item: &Value| item.pointer(pointer).unwrap().as_u64().unwrap();
    list.as_array().unwrap().iter().map(figure).sum()
}

/// A request with a body, or without one: the status and the JSON.
#[track_caller]
fn ask(method: &str, url: &str, token: &str, body: Option<&Value>) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-w", "\n%{http_code}", "-X", method, url, "-H"])
        .arg(format!("Authorization: Bearer {token}"));
    if let Some(body) = body {
        curl.args(["-H", "Content-Type: application/json", "-d"])
            .arg(body.to_string());
    }
    let text = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.parse().unwrap(), body)
}

#[test]
fn a_history_leaves_the_databases_and_nobody_notices_embedded() {
    everything_in_turn(Archived::embedded());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_leaves_the_databases_and_nobody_notices_on_databases() {
    let databases = TestDatabases::create(3).await;
    tokio::task::block_in_place(|| everything_in_turn(Archived::on_databases(&databases)));
    databases.drop_all().await;
}

fn everything_in_turn(mut archived: Archived) {
    let before = archived.walk();
    let planned = archived.run(&["run", "--dry-run"]);
    assert_eq!(sum(&planned["plan"], "/messages"), MESSAGES as u64);
    let status = archived.run(&["status"]);
    assert_eq!(sum(&status, "/archived/messages"), 0);
    assert_eq!(sum(&status, "/waitingConversations"), CHANNELS);
    assert!(archived.run(&["run", "--older-than", "50years"])["run"].is_array());
    assert_eq!(sum(&archived.run(&["status"]), "/archived/messages"), 0);

    let done = archived.run(&["run", "--reason", "a test"]);
    assert_eq!(sum(&done["run"], "/figures/messages"), MESSAGES as u64);
    assert_eq!(sum(&done["run"], "/figures/deleted"), MESSAGES as u64);
    let status = archived.run(&["status"]);
    assert_eq!(sum(&status, "/archived/messages"), MESSAGES as u64);
    assert_eq!(sum(&status, "/waitingConversations"), 0);
    assert_eq!(status[0]["jobs"][0]["reason"], "a test");
    archived.assert_whole("after a run");
    assert!(archived.walk() == before, "clients see something else");
    let table = archived.sandbox.run(&["archive", "run"]).exits(0).stdout;
    assert!(table.starts_with("SHARD "), "{table}");

    holds_and_changes(&mut archived);
    let count = archived.exported[0].lines().count();
    let restored = archived.run(&["restore", "--conversation", &archived.conversations[0]]);
    assert_eq!(
        restored["figures"]["messages"],
        json!(count),
        "{restored:#}"
    );
    archived.assert_whole("after a restoration");
    archived.run(&["run"]);
    archived.assert_whole("archived again");

    // What was superseded has no grace here.
    let planned = archived.run(&["gc", "--dry-run"]);
    let superseded = sum(&planned, "/figures/superseded");
    assert!(superseded > 0, "{planned:#}");
    let collected = archived.run(&["gc"]);
    assert_eq!(sum(&collected, "/figures/deleted"), superseded);
    archived.run(&["gc"]); // its receipts are for what the first has deleted
    archived.assert_whole("after a collection");
    let receipts = archived.run(&["erasures", "--conversation", &archived.conversations[0]]);
    assert_eq!(receipts[0]["seq"], 7, "{receipts:#}");
    assert!(receipts[0]["erasedAt"].is_string(), "{receipts:#}");

    mistakes(&archived);
    damage(&archived);
}

/// A held conversation keeps what users delete; afterwards archived messages can be changed like others.
fn holds_and_changes(archived: &mut Archived) {
    let id = archived.conversations[0].clone();
    let hold = ["hold", "--conversation", &id, "--reason", "case 17"];
    assert_eq!(archived.run(&hold)["reason"], "case 17");
    assert_eq!(archived.run(&["holds"])[0]["conversationId"], json!(id));
    let server = archived.sandbox.serve(&[], 1);
    let message = |seq| format!("{}/chat/messages/{id}-{seq}", server.url());
    let author = archived.author(0, 7);
    let (status, refused) = ask("DELETE", &message(7), &author, None);
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("conflict")),
        "{refused:#}"
    );
    assert!(refused["detail"].as_str().unwrap().contains("legal hold"));

    let lift = [
        "archive",
        "hold",
        "--conversation",
        &id,
        "--reason",
        "closed",
        "--lift",
    ];
    archived.sandbox.run(&lift).exits(0);
    archived.sandbox.run(&lift).exits(1); // there is none any more
    let (status, deleted) = ask("DELETE", &message(7), &author, None);
    assert_eq!(
        (status, &deleted["content"]),
        (200, &json!("")),
        "{deleted:#}"
    );
    let text = json!({ "content": "edited in the archive" });
    let (status, edited) = ask("PATCH", &message(9), &archived.author(0, 9), Some(&text));
    assert_eq!(
        (status, &edited["content"]),
        (200, &text["content"]),
        "{edited:#}"
    );
    let reaction = format!("{}/reactions/%F0%9F%91%8D", message(11));
    let (status, reacted) = ask("PUT", &reaction, &author, None);
    assert_eq!(status, 200, "{reacted:#}");
    server.stop();
    archived.exported = archived.export();
    assert!(archived.exported[0].contains("edited in the archive"));
    archived.run(&["run"]);
    archived.assert_whole("changed and archived again");
}

fn mistakes(archived: &Archived) {
    let id = &archived.conversations[0];
    let nobody = "00000000000000000000000000000000";
    let long = "x".repeat(129);
    let mistakes: [(&[&str], i32, &str); 15] = [
        (&["run", "--older-than", "29days"], 1, "limits.idempotency"),
        (&["run", "--older-than", "soon"], 2, "is not an age"),
        (&["run", "--older-than", "-1year"], 2, ""),
        (
            &["run", "--shard", "nowhere"],
            1,
            "there is no shard `nowhere`",
        ),
        (&["gc", "--shard", "'; DROP TABLE leases; --"], 2, "--shard"),
        (&["verify", "--sample", "101"], 2, "from 0 to 100"),
        (&["verify", "--sample", "NaN"], 2, "from 0 to 100"),
        (&["repair", "--shard", "nowhere"], 1, "there is no shard"),
        (&["restore"], 2, "--conversation"),
        (
            &["restore", "--conversation", nobody],
            1,
            "there is no conversation",
        ),
        (
            &["restore", "--conversation", "../../etc/passwd"],
            2,
            "--conversation",
        ),
        (
            &["hold", "--conversation", nobody, "--reason", "x"],
            1,
            "no conversation",
        ),
        (&["hold", "--conversation", id], 2, "--reason"),
        (
            &["hold", "--conversation", id, "--reason", " "],
            2,
            "1 to 128",
        ),
        (
            &["hold", "--conversation", id, "--reason", &long],
            2,
            "1 to 128",
        ),
    ];
    for (mistake, code, told) in mistakes {
        let refused = archived
            .sandbox
            .run(&[&["archive"], mistake].concat())
            .exits(code);
        assert!(refused.stderr.contains(told), "{refused:#?}");
    }
    assert_eq!(archived.run(&["holds"]), json!([]));
    let nothing = ["archive", "verify", "--sample", "0"];
    let nothing = archived.sandbox.run(&nothing).exits(0);
    assert!(
        nothing.stdout.contains("no object was read") && !nothing.stdout.contains("clean"),
        "{nothing:#?}"
    );
    for repair in [&["repair", "--dry-run"][..], &["repair"]] {
        let repair = [&["archive"], repair].concat();
        let repaired = archived.sandbox.run(&repair).exits(0);
        assert!(repaired.stdout.starts_with("0 problems"), "{repaired:#?}");
    }
}

/// Bytes that changed and an object that is gone are told apart from "away", by number and by name.
fn damage(archived: &Archived) {
    let objects = archived.objects();
    let mut whole: Vec<Vec<u8>> = Vec::new();
    for file in &objects {
        let mut bytes = fs::read(file).unwrap();
        whole.push(bytes.clone());
        bytes[40..].fill(0x55);
        fs::remove_file(file).unwrap(); // they are written read-only, or not: both are fine
        fs::write(file, bytes).unwrap();
    }
    let found = archived.sandbox.run(&["archive", "verify"]).exits(1);
    assert!(found.stderr.contains("problem"), "{found:#?}");
    let left = archived.sandbox.run(&["archive", "repair"]).exits(1);
    assert!(left.stdout.contains("cannot be put right"), "{left:#?}");
    let server = archived.sandbox.serve(&[], 1);
    let id = &archived.conversations[1];
    let page = format!(
        "{}/chat/conversations/{id}/messages?before=40",
        server.url()
    );
    let (status, problem) = get(&page, &archived.author(1, 1));
    assert_eq!(
        (status, &problem["code"]),
        (500, &json!("archive_damaged")),
        "{problem:#}"
    );
    assert!(
        !problem["detail"].as_str().unwrap().contains("archive/"),
        "{problem:#}"
    );
    server.stop();
    for (file, bytes) in objects.iter().zip(whole) {
        fs::write(file, bytes).unwrap();
    }
    archived.assert_whole("mended");
    fs::remove_file(&objects[0]).unwrap();
    let found = archived.sandbox.run(&["archive", "verify"]).exits(1);
    assert!(found.stdout.contains("missing"), "{found:#?}");
}

#[test]
fn lost_databases_are_made_again_from_the_objects_alone_embedded() {
    let archived = Archived::embedded();
    archived.run(&["run"]);
    for file in [
        "directory.db",
        "shard1.db",
        "shard2.db",
        "shard3.db",
        "shard4.db",
    ] {
        for ending in ["", "-wal", "-shm"] {
            let file = format!("backscroll-data/{file}{ending}");
            let _ = fs::remove_file(archived.sandbox.path(&file)); // some are not there
        }
    }
    rebuild(&archived);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_databases_are_made_again_from_the_objects_alone_on_databases() {
    let (lost, empty) = (
        TestDatabases::create(3).await,
        TestDatabases::create(3).await,
    );
    tokio::task::block_in_place(|| {
        let mut archived = Archived::on_databases(&lost);
        archived.run(&["run"]);
        archived.sandbox = archived.sandbox.on_databases(&empty.urls());
        archived.sandbox.run(&["migrate"]).exits(0);
        rebuild(&archived);
    });
    lost.drop_all().await;
    empty.drop_all().await;
}

fn rebuild(archived: &Archived) {
    archived.sandbox.serve(&[], 1).stop(); // embedded, this makes the empty databases
    let nothing = ["export", "--conversation", &archived.conversations[0]];
    archived.sandbox.run(&nothing).exits(1);
    let rebuilt = archived.run(&["rebuild-index"]);
    assert_eq!(
        rebuilt["figures"]["messages"],
        json!(MESSAGES),
        "{rebuilt:#}"
    );
    assert_eq!(rebuilt["figures"]["conversations"], json!(CHANNELS));
    archived.assert_whole("rebuilt");
}

#[test]
fn an_object_store_that_is_away_holds_up_nothing_else() {
    let archived = Archived::embedded();
    archived.run(&["run"]);
    let away = [
        ("BACKSCROLL_OBJECT_STORE__KIND", "s3"),
        ("BACKSCROLL_OBJECT_STORE__BUCKET", "nowhere"),
        ("BACKSCROLL_OBJECT_STORE__ENDPOINT", "http://127.0.0.1:9"),
        ("BACKSCROLL_OBJECT_STORE__PATH_STYLE", "true"),
        ("BACKSCROLL_OBJECT_STORE__ACCESS_KEY_ID", "somebody"),
        (
            "BACKSCROLL_OBJECT_STORE__SECRET_ACCESS_KEY",
            "hunter2hunter2",
        ),
    ];
    let Archived { mut sandbox, .. } = archived;
    for (name, value) in away {
        sandbox = sandbox.with(name, value);
    }
    let id = &archived.conversations[0];
    let server = sandbox.serve(&[], 1);
    let token = sandbox.run(&["token", "--user", "alice"]).exits(0).stdout;
    let token = token.trim();
    let (status, ready) = get(&format!("{}/readyz", server.url()), token);
    assert_eq!(
        (status, &ready["status"]),
        (200, &json!("degraded")),
        "{ready:#}"
    );
    assert_eq!(ready["objectStore"]["ok"], false, "{ready:#}");
    let messages = format!("{}/chat/conversations/{id}/messages", server.url());
    let (status, problem) = get(&format!("{messages}?before=40"), token);
    assert_eq!(
        (status, &problem["code"]),
        (503, &json!("archive_unavailable")),
        "{problem:#}"
    );
    let (status, sent) = ask(
        "POST",
        &messages,
        token,
        Some(&json!({ "content": "still here" })),
    );
    assert_eq!(status, 201, "{sent:#}");
    let (status, page) = get(&messages, token);
    assert_eq!(
        (status, &page["tiers"]["hot"]),
        (200, &json!(1)),
        "{page:#}"
    );
    let missing = &page["archiveUnavailable"]["toSeq"];
    assert_eq!(
        missing.as_u64(),
        sent["seq"].as_u64().map(|seq| seq - 1),
        "{page:#}"
    );
    server.stop();

    let sick = sandbox.run(&["doctor", "--json"]).exits(1);
    let findings = sick.json();
    let about = findings.as_array().unwrap().iter();
    let failures: Vec<&Value> = about
        .filter(|found| found["verdict"] == "failure")
        .collect();
    assert_eq!(failures.len(), 1, "{findings:#}");
    assert_eq!(failures[0]["subject"], "object store");
    assert!(
        failures[0]["remedy"]
            .as_str()
            .unwrap()
            .contains("object_store.endpoint")
    );
    let failed = sandbox.run(&["archive", "verify"]).exits(1);
    assert!(failed.stderr.contains("object store"), "{failed:#?}");
    let dumped = sandbox.run(&["config", "dump"]).exits(0);
    for text in [&sick.stdout, &sick.stderr, &failed.stderr, &dumped.stdout] {
        assert!(!text.contains("hunter2"), "{text}");
    }

    // Settings that can never work are another matter.
    let refused = sandbox
        .with("BACKSCROLL_OBJECT_STORE__BUCKET", "No Bucket")
        .run(&["serve", "--listen", "127.0.0.1:0"])
        .exits(3);
    assert!(
        refused.stderr.contains("object_store.bucket"),
        "{refused:#?}"
    );
}

#[test]
fn a_folder_that_cannot_be_made_is_refused_at_the_start() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "no folder");
    let refused = sandbox
        .with("BACKSCROLL_OBJECT_STORE__PATH", "file/objects")
        .run(&["serve", "--listen", "127.0.0.1:0"])
        .exits(1);
    assert!(refused.stderr.contains("object_store"), "{refused:#?}");
}

#[test]
fn an_unknown_failpoint_is_refused() {
    let sandbox = Sandbox::new().with("BACKSCROLL_ABORT_AT", "lunch");
    let refused = sandbox.run(&["serve", "--listen", "127.0.0.1:0"]).exits(1);
    assert!(refused.stderr.contains("deletion-begun"), "{refused:#?}");
}

#[test]
fn terms_are_built_verified_and_dropped() {
    let archived = Archived::embedded();
    archived.run(&["run"]);
    let segments = archived.objects().len();
    assert!(segments > 0);
    let read = |archived: &Archived| -> Vec<Vec<u8>> {
        let files = archived.terms().into_iter();
        files.map(|file| fs::read(file).unwrap()).collect()
    };
    let written = read(&archived);
    assert_eq!(written.len(), segments);
    let verified = archived.index("verify");
    assert_eq!(verified["withTerms"], segments, "{verified:#}");
    assert_eq!(archived.index("drop")["dropped"], segments);
    assert_eq!(archived.terms(), [] as [PathBuf; 0]);
    let verified = archived.index("verify");
    assert_eq!(verified["missing"], segments, "{verified:#}");
    archived.assert_whole("without terms");
    let built = |archived: &Archived| -> u64 {
        let outcomes = archived.index("build");
        let outcomes = outcomes.as_array().unwrap().iter();
        let built = outcomes.map(|outcome| outcome["figures"]["built"].as_u64().unwrap());
        built.sum()
    };
    assert_eq!(built(&archived), segments as u64);
    assert_eq!(read(&archived), written, "as the archive job has made them");
    assert_eq!(built(&archived), 0, "nothing is left to do");
    let file = archived.terms().remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    fs::remove_file(&file).unwrap(); // it may be written read-only
    fs::write(&file, bytes).unwrap();
    let found = archived.sandbox.run(&["search", "index", "verify"]);
    assert!(found.exits(1).stderr.contains("1 problem found"));
    assert_eq!(built(&archived), 1);
    archived.index("verify");
    archived.assert_whole("with terms");
}
