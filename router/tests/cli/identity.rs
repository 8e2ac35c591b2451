//! Addresses that lead to the wrong databases: refused by every command, with both names, and nothing is written in any.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use backscroll_testkit::{Dump, TestDatabases, dump};
use serde_json::Value;

use crate::harness::{Outcome, PATIENCE, Sandbox, get};
use crate::import::history;

/// The databases of two deployments of a directory and two shards, and an empty one.
struct Databases {
    urls: BTreeMap<&'static str, String>,
    databases: Option<TestDatabases>,
    _folder: tempfile::TempDir,
}

const NAMES: [&str; 7] = ["dir", "db1", "db2", "dir'", "db1'", "db2'", "empty"];

impl Databases {
    async fn on_server() -> Self {
        let databases = TestDatabases::create(NAMES.len()).await;
        let urls = databases.urls();
        Self::of(urls, Some(databases)).await
    }

    async fn in_files() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = |name: &str| format!("sqlite://{}/{name}.db", folder.path().display());
        let urls = NAMES.map(url).to_vec();
        let mut databases = Self::of(urls, None).await;
        databases._folder = folder;
        databases
    }

    /// With a history in the first deployment.
    async fn of(urls: Vec<String>, databases: Option<TestDatabases>) -> Self {
        let databases = Self {
            urls: NAMES.into_iter().zip(urls).collect(),
            databases,
            _folder: tempfile::tempdir().unwrap(),
        };
        let right = databases.sandbox(["dir", "db1", "db2"]);
        right.run(&["migrate"]).exits(0);
        let import = right.pipe(&["import", "-"], history(300, 3).as_bytes());
        import.exits(0);
        let other = databases.sandbox(["dir'", "db1'", "db2'"]);
        other.run(&["migrate"]).exits(0);
        databases
    }

    /// A configuration with these databases as the directory and the shards; a name with a `~` is spelled another way.
    fn sandbox(&self, names: [&str; 3]) -> Sandbox {
        let url = |name: &str| match name.strip_prefix('~') {
            Some(name) => respelled(&self.urls[name]),
            None => self.urls[name].clone(),
        };
        let sandbox = Sandbox::new().on_databases(&names.map(url));
        match self.urls["dir"].strip_prefix("sqlite://") {
            Some(file) => sandbox.with("BACKSCROLL_DATA_DIR", file.trim_end_matches("/dir.db")),
            None => sandbox,
        }
    }

    async fn dump(&self) -> BTreeMap<&'static str, Dump> {
        let mut all = BTreeMap::new();
        for (name, url) in &self.urls {
            all.insert(*name, dump(url).await);
        }
        all
    }

    async fn end(self) {
        if let Some(databases) = self.databases {
            databases.drop_all().await;
        }
    }
}

/// The same place in other words.
fn respelled(url: &str) -> String {
    match url.strip_prefix("sqlite://").map(Path::new) {
        Some(file) => {
            let folder = file.parent().unwrap();
            let name = file.file_name().unwrap().to_str().unwrap();
            format!("sqlite://{}/./{name}", folder.display())
        }
        None => url.replace("127.0.0.1", "localhost"),
    }
}

const MESSAGE: &str = "00000000000003e900000000000004d2";

/// Every command that uses databases.
const COMMANDS: [&[&str]; 22] = [
    &["serve", "--listen", "127.0.0.1:0"],
    &["migrate"],
    &["migrate", "--dry-run"],
    &["doctor"],
    &["archive", "run"],
    &["archive", "run", "--dry-run"],
    &["archive", "status"],
    &["archive", "verify"],
    &["archive", "repair"],
    &["archive", "repair", "--dry-run"],
    &["archive", "restore", "--conversation", MESSAGE],
    &["archive", "gc"],
    &["archive", "rebuild-index"],
    &[
        "archive",
        "hold",
        "--conversation",
        MESSAGE,
        "--reason",
        "x",
    ],
    &["archive", "holds"],
    &["archive", "erasures", "--conversation", MESSAGE],
    &["search", "index", "build"],
    &["search", "index", "verify"],
    &["search", "index", "drop"],
    &["lease", "clear", "--reason", "x"],
    &["shards", "list"],
    &["export", "--conversation", MESSAGE],
];

/// The addresses of the directory and the shards, and what has to be said.
type Case = (&'static str, [&'static str; 3], &'static [&'static str]);

const CASES: [Case; 7] = [
    (
        "two shards swapped",
        ["dir", "db2", "db1"],
        &[
            "the address of shard db1 (",
            "leads to shard db2",
            "the address of shard db2 (",
            "leads to shard db1",
        ],
    ),
    (
        "a mistyped name, which an empty database has",
        ["dir", "db1", "empty"],
        &[
            "the address of shard db2 (",
            "leads to an empty database",
            "shard db2 has 9223372036854775808.. at epoch 1",
        ],
    ),
    (
        "another deployment's shard",
        ["dir", "db1'", "db2"],
        &[
            "the address of shard db1 (",
            "leads to shard db1 of another deployment (",
        ],
    ),
    (
        "another deployment's directory",
        ["dir'", "db1", "db2"],
        &[
            "shard db1 (",
            "leads to shard db1 of another deployment (",
            "leads to shard db2 of another deployment (",
        ],
    ),
    (
        "the same database twice",
        ["dir", "db1", "~db1"],
        &["the address of shard db2 (", "leads to shard db1"],
    ),
    (
        "the directory as a shard",
        ["dir", "db1", "~dir"],
        &["the address of shard db2 (", "leads to the directory"],
    ),
    (
        "a shard as the directory",
        ["~db1", "db1", "db2"],
        &["the address of the directory (", "leads to shard db1"],
    ),
];

fn assert_refused(outcome: Outcome, case: &Case, command: &[&str]) {
    let outcome = outcome.exits(1);
    // What doctor finds is what it was asked for.
    let said = outcome.stderr.clone() + &outcome.stdout;
    for word in case.2 {
        assert!(
            said.contains(word),
            "{}: {command:?}: {word} is not in {outcome:#?}",
            case.0
        );
    }
    let advises_migrate = said.contains("run `backscroll migrate`");
    assert!(!advises_migrate, "{}: {command:?}: {outcome:#?}", case.0);
}

async fn wrong_databases_are_refused_by_every_command(databases: Databases) {
    let before = databases.dump().await;
    assert!(before["db1"]["messages"].len() + before["db2"]["messages"].len() >= 300);
    for case in &CASES {
        let sandbox = databases.sandbox(case.1);
        // One command each is enough of those that open everything in the same way.
        let commands = if case.0 == CASES[0].0 {
            &COMMANDS[..]
        } else {
            &COMMANDS[..5]
        };
        for command in commands {
            assert_refused(sandbox.run(command), case, command);
        }
        let import = sandbox.pipe(&["import", "-"], history(10, 4).as_bytes());
        assert_refused(import, case, &["import", "-"]);
        assert_eq!(
            databases.dump().await,
            before,
            "{}: something was written",
            case.0
        );
    }
    databases.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_databases_are_refused_by_every_command_on_servers() {
    wrong_databases_are_refused_by_every_command(Databases::on_server().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_databases_are_refused_by_every_command_in_files() {
    wrong_databases_are_refused_by_every_command(Databases::in_files().await).await;
}

/// Waits until `/readyz` says so.
#[track_caller]
fn ready(url: &str, status: u16) -> Value {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        let (answered, body) = get(&format!("{url}/readyz"), "none");
        if answered == status {
            return body;
        }
        assert!(Instant::now() < give_up_at, "{answered}: {body:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_not_ready_while_an_address_leads_elsewhere() {
    let databases = TestDatabases::create(3).await;
    let urls = databases.urls();
    let sandbox = Sandbox::new().on_databases(&urls);
    sandbox.run(&["migrate"]).exits(0);
    let server = sandbox.serve(&[], 1);
    assert_eq!(ready(&server.url(), 200)["status"], "ready");
    let mut pool = sqlx::mysql::MySqlPoolOptions::new().max_connections(1);
    pool = pool.acquire_timeout(PATIENCE);
    for (url, part) in [(&urls[1], "/shards/0/primary"), (&urls[0], "/directory")] {
        let database = pool.clone().connect(url).await.unwrap();
        let deployment: Vec<u8> = sqlx::query_scalar("SELECT deployment FROM identity")
            .fetch_one(&database)
            .await
            .unwrap();
        let set = "UPDATE identity SET deployment = ?";
        sqlx::query(set)
            .bind(vec![7u8; 16])
            .execute(&database)
            .await
            .unwrap();
        let body = ready(&server.url(), 503);
        assert_eq!(body["status"], "unavailable", "{body:#}");
        let wrong = body.pointer(part).unwrap();
        assert_eq!(
            (&wrong["ok"], &wrong["wrongDatabase"]),
            (&false.into(), &true.into())
        );
        sqlx::query(set)
            .bind(deployment)
            .execute(&database)
            .await
            .unwrap();
        assert_eq!(ready(&server.url(), 200)["status"], "ready");
        database.close().await;
    }
    server.stop();
    let log = fs::read_to_string(sandbox.path("serve.log")).unwrap();
    assert!(
        log.contains("leads to shard db1 of another deployment (0707"),
        "{log}"
    );
    databases.drop_all().await;
}

#[test]
fn a_second_server_on_the_same_folder_is_refused_and_commands_are_not() {
    let sandbox = Sandbox::new();
    let mut first = sandbox.serve(&[], 1);
    let second = sandbox.run(&["serve", "--listen", "127.0.0.1:0"]).exits(1);
    let pid = format!("is served by process {} already", first.pid());
    assert!(second.stderr.contains(&pid), "{second:#?}");
    let summary = sandbox.pipe(&["import", "-", "--json"], history(50, 5).as_bytes());
    let summary = summary.exits(0).json();
    let id = summary["conversations"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    sandbox.run(&["export", "--conversation", &id]).exits(0);
    sandbox.run(&["archive", "run"]).exits(0);
    sandbox.run(&["migrate"]).exits(0);
    // Other data is another matter.
    sandbox.serve(&["--demo"], 1).stop();
    first.kill();
    sandbox.serve(&[], 1).stop();
}

#[test]
fn a_start_that_dies_while_it_makes_a_deployment_is_made_up_for() {
    for step in ["directory-marked", "shard-marked:2", "shard-migrated:4"] {
        let sandbox = Sandbox::new();
        let arguments = ["serve", "--listen", "127.0.0.1:0"];
        let died = sandbox
            .command(&arguments)
            .env("BACKSCROLL_ABORT_AT", step)
            .output()
            .unwrap();
        assert!(
            !died.status.success() && died.status.code().is_none(),
            "{step}: {died:?}"
        );
        let refused = sandbox.run(&["shards", "list"]).exits(1);
        assert!(
            refused.stderr.contains("backscroll serve"),
            "{step}: {refused:#?}"
        );
        sandbox.serve(&[], 1).stop();
        let doctor = sandbox.run(&["doctor", "--json"]).exits(0).json();
        let findings = doctor.as_array().unwrap();
        let about = |words| {
            let subjects = findings.iter().map(|it| it["subject"].as_str().unwrap());
            subjects
                .filter(|subject| subject.starts_with(words))
                .count()
        };
        assert_eq!(
            (about("identity of"), about("ranges of")),
            (5, 4),
            "{doctor:#}"
        );
    }
}

#[test]
fn what_of_the_configuration_has_no_effect_is_said_aloud() {
    let sandbox = Sandbox::new();
    sandbox.serve(&[], 1).stop();
    let shard = |position: usize, number: usize, sandbox: Sandbox| {
        let key = format!("BACKSCROLL_SHARDS__{position}__");
        let url = format!("sqlite://backscroll-data/shard{number}.db");
        sandbox
            .with(&format!("{key}NAME"), format!("shard{number}"))
            .with(&format!("{key}PRIMARY"), url)
    };
    let mut more = sandbox.with(
        "BACKSCROLL_DIRECTORY__URL",
        "sqlite://backscroll-data/directory.db",
    );
    for number in 1..=5 {
        more = shard(number - 1, number, more);
    }
    let ranges = "[{ from = 0, shard = \"shard1\" }, { from = 7, shard = \"shard5\" }]";
    let more = more.with("BACKSCROLL_KEYSPACE__RANGES", ranges);
    more.serve(&[], 1).stop();
    let log = fs::read_to_string(more.path("serve.log")).unwrap();
    let doctor = more.run(&["doctor"]).exits(0).stdout;
    let migrated = more.run(&["migrate"]).exits(0).stderr;
    for said in [log, doctor, migrated] {
        for words in [
            "shard shard5 is in the configuration, but is not part of the deployment",
            "keyspace.ranges has no effect",
        ] {
            assert!(said.contains(words), "{words} is not in {said}");
        }
    }
    assert!(!more.path("backscroll-data/shard5.db").exists());
}

#[test]
fn a_lost_shard_is_begun_anew_by_a_command_and_the_archive_brings_back_what_it_has() {
    let sandbox = Sandbox::new();
    let input = history(900, 6);
    let summary = sandbox.pipe(&["import", "-", "--json"], input.as_bytes());
    let summary = summary.exits(0).json();
    sandbox.run(&["archive", "run"]).exits(0);
    let export = |id: &str| {
        sandbox
            .run(&["export", "--conversation", id])
            .exits(0)
            .stdout
    };
    let ids: Vec<&str> = summary["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conversation| conversation["id"].as_str().unwrap())
        .collect();
    let before: Vec<String> = ids.iter().map(|id| export(id)).collect();
    // The shard of the first conversation: its id begins with the owner's key.
    let key = u64::from_str_radix(&ids[0][..16], 16).unwrap();
    let lost = format!("shard{}", key / (1 << 62) + 1);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(sandbox.path(&format!("backscroll-data/{lost}.db{suffix}")));
    }
    for arguments in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["archive", "rebuild-index"],
    ] {
        let refused = sandbox.run(arguments).exits(1);
        let advice = format!("`backscroll shards adopt {lost}`");
        assert!(refused.stderr.contains(&advice), "{refused:#?}");
    }
    let planned = sandbox
        .run(&["shards", "adopt", &lost, "--dry-run"])
        .exits(0);
    assert!(
        planned
            .stdout
            .contains("(empty) would become the database of shard"),
        "{planned:#?}"
    );
    assert!(!sandbox.path(&format!("backscroll-data/{lost}.db")).exists());
    sandbox.run(&["shards", "adopt", &lost]).exits(2); // without a reason
    let adopted = sandbox
        .run(&["shards", "adopt", &lost, "--reason", "disk lost"])
        .exits(0);
    assert!(adopted.stdout.contains(", incarnation 2\n"), "{adopted:#?}");
    assert!(
        adopted.stderr.contains("archive rebuild-index"),
        "{adopted:#?}"
    );
    sandbox.run(&["archive", "rebuild-index"]).exits(0);
    let after: Vec<String> = ids.iter().map(|id| export(id)).collect();
    assert!(after == before, "what was archived is there again");
    sandbox.serve(&[], 1).stop();
    let status = sandbox.run(&["archive", "status", "--shard", &lost, "--json"]);
    let status = status.exits(0).json();
    let jobs = status[0]["jobs"].as_array().unwrap();
    assert!(
        jobs.iter()
            .any(|job| job["kind"] == "adopt" && job["reason"] == "disk lost")
    );
}
