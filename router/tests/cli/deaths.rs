//! Processes that die at every step of an archive job, and what the next run finds.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backscroll_testkit::TestDatabases;
use serde_json::Value;

use crate::harness::{PATIENCE, Sandbox, finish, paste};
use crate::import::history;

/// A history of long ago in a sandbox, and what it exports.
struct Archived {
    sandbox: Sandbox,
    conversations: Vec<String>,
    exported: Vec<String>,
}

impl Archived {
    /// Imports it. The schedule is off, and nothing keeps a job or an object waiting for long.
    fn import(sandbox: Sandbox) -> Self {
        let sandbox = sandbox
            .with("BACKSCROLL_ARCHIVE__SCHEDULE", "\"\"")
            .with("BACKSCROLL_ARCHIVE__LEASE", "3s")
            .with("BACKSCROLL_ARCHIVE__ERASE_WITHIN", "1s");
        let input = history(1200, 7);
        let summary = sandbox
            .pipe(&["import", "-", "--json"], input.as_bytes())
            .exits(0)
            .json();
        let listed = summary["conversations"].as_array().unwrap();
        let id = |conversation: &Value| conversation["id"].as_str().unwrap().to_owned();
        let mut archived = Self {
            sandbox,
            conversations: listed.iter().map(id).collect(),
            exported: Vec::new(),
        };
        archived.exported = archived.export();
        archived
    }

    fn run(&self, arguments: &[&str]) -> Value {
        let arguments = [&["archive"], arguments, &["--json"]].concat();
        self.sandbox.run(&arguments).exits(0).json()
    }

    fn export(&self) -> Vec<String> {
        let export = |id: &String| {
            let command = ["export", "--conversation", id];
            self.sandbox.run(&command).exits(0).stdout
        };
        self.conversations.iter().map(export).collect()
    }

    /// Everything is there once, and the archive is as it should be.
    #[track_caller]
    fn assert_whole(&self, when: &str) {
        assert_eq!(self.export(), self.exported, "{when}");
        let report = self.run(&["verify"]);
        assert_eq!(report["problemCount"], 0, "{when}: {report:#}");
    }

    /// Runs a job until the lease of a dead one is over.
    #[track_caller]
    fn run_after_death(&self, arguments: &[&str], when: &str) {
        let give_up_at = Instant::now() + PATIENCE;
        let arguments = [&["archive"], arguments].concat();
        loop {
            let outcome = self.sandbox.run(&arguments);
            if outcome.code == 0 {
                return;
            }
            let is_busy = outcome.stderr.contains("being worked on");
            assert!(
                is_busy && Instant::now() < give_up_at,
                "{when}: {outcome:#?}"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn token(&self, user: &Value) -> String {
        let command = ["token", "--user", user.as_str().unwrap()];
        self.sandbox.run(&command).exits(0).stdout.trim().to_owned()
    }

    /// Deletes a message of each conversation, as their authors would.
    fn delete_some(&mut self) {
        let server = self.sandbox.serve(&[], 1);
        for (id, exported) in self.conversations.iter().zip(&self.exported) {
            let token = self.token(&line(exported, 6)["user"]);
            let deleted = paste(&format!(
                "curl -sS -X DELETE -H 'Authorization: Bearer {}' {}/chat/messages/{id}-7",
                token,
                server.url()
            ));
            assert_eq!(deleted["content"], "", "{deleted:#}");
        }
        server.stop();
        self.exported = self.export();
    }
}

/// A line of an export.
fn line(exported: &str, position: usize) -> Value {
    serde_json::from_str(exported.lines().nth(position).unwrap()).unwrap()
}

fn on(databases: &TestDatabases) -> Sandbox {
    let sandbox = Sandbox::new().on_databases(&databases.urls());
    sandbox.run(&["migrate"]).exits(0);
    sandbox
}

fn sum<'a>(list: &'a Value, part: impl Fn(&'a Value) -> &'a Value) -> u64 {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| part(item).as_u64().unwrap())
        .sum()
}

/// Who does the work that dies.
#[derive(Clone, Copy, Debug)]
enum Process {
    /// A command of the operator.
    Job,
    /// The service, by its schedule.
    Router,
}

/// Every step of archiving.
const ARCHIVING: [&str; 8] = [
    "leased",
    "intended",
    "uploaded",
    "read-back",
    "published",
    "deleted",
    "emptied",
    "settled",
];
/// Every step of erasing and collecting that archiving does not have.
const ERASING: [&str; 3] = ["rewritten", "deletion-begun", "object-deleted"];

#[test]
fn a_job_may_be_killed_after_every_step_embedded() {
    die_at_every_step(Process::Job, Sandbox::new);
}

#[test]
fn a_router_may_be_killed_after_every_step_embedded() {
    die_at_every_step(Process::Router, Sandbox::new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_may_be_killed_after_every_step_on_databases() {
    die_at_every_step_on_databases(Process::Job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_may_be_killed_after_every_step_on_databases() {
    die_at_every_step_on_databases(Process::Router).await;
}

async fn die_at_every_step_on_databases(process: Process) {
    let steps = ARCHIVING.len() + ERASING.len() + 1;
    let mut all = Vec::new();
    for _ in 0..steps {
        all.push(TestDatabases::create(3).await);
    }
    let mut unused = all.iter();
    let sandbox = || on(unused.next().unwrap());
    tokio::task::block_in_place(|| die_at_every_step(process, sandbox));
    for databases in all {
        databases.drop_all().await;
    }
}

fn die_at_every_step(process: Process, mut sandbox: impl FnMut() -> Sandbox) {
    for step in ARCHIVING {
        let archived = Archived::import(sandbox());
        die(&archived, process, step, &["run"]);
        archived.assert_whole(&format!("{process:?} killed: {step}"));
        come_through(
            &archived,
            &format!("{process:?} killed and run again: {step}"),
        );
    }
    for step in ERASING {
        let mut archived = Archived::import(sandbox());
        archived.run(&["run"]);
        archived.delete_some();
        let job: &[&str] = match step {
            "rewritten" => &["run"],
            _ => {
                archived.run(&["run"]);
                std::thread::sleep(Duration::from_millis(600)); // half of erase_within
                &["gc"]
            }
        };
        die(&archived, process, step, job);
        archived.assert_whole(&format!("{process:?} killed: {step}"));
        come_through(
            &archived,
            &format!("{process:?} killed and run again: {step}"),
        );
        let receipts = archived.run(&["erasures", "--conversation", &archived.conversations[0]]);
        assert!(receipts[0]["erasedAt"].is_string(), "{step}: {receipts:#}");
    }
    if let Process::Job = process {
        let archived = Archived::import(sandbox());
        archived.run(&["run"]);
        let id = archived.conversations[0].clone();
        die(
            &archived,
            process,
            "restored",
            &["restore", "--conversation", &id],
        );
        archived.assert_whole("killed while restoring");
        archived.run_after_death(&["restore", "--conversation", &id], "restored");
        archived.assert_whole("restored");
    }
}

/// The next runs finish the work, and everything is archived, once.
fn come_through(archived: &Archived, when: &str) {
    archived.run_after_death(&["run"], when);
    std::thread::sleep(Duration::from_millis(600));
    archived.run_after_death(&["gc"], when);
    archived.run_after_death(&["gc"], when); // receipts for what the first has deleted
    archived.assert_whole(when);
    let status = archived.run(&["status"]);
    assert_eq!(
        sum(&status, |shard| &shard["waitingConversations"]),
        0,
        "{when}"
    );
    assert_eq!(
        sum(&status, |shard| &shard["unsettled"]["segments"]),
        0,
        "{when}"
    );
}

/// Has a process do the work until it dies at `step`.
#[track_caller]
fn die(archived: &Archived, process: Process, step: &str, job: &[&str]) {
    let mut command: Command = match process {
        Process::Job => archived.sandbox.command(&[&["archive"], job].concat()),
        Process::Router => {
            let mut command = archived
                .sandbox
                .command(&["serve", "--listen", "127.0.0.1:0"]);
            command
                .env("BACKSCROLL_ARCHIVE__SCHEDULE", "* * * * * *")
                .stdout(Stdio::piped());
            command
        }
    };
    command.env("BACKSCROLL_ABORT_AT", step);
    let child: Child = command.spawn().unwrap();
    let outcome = finish(child);
    assert_eq!(
        outcome.code, -1,
        "{process:?} does not die at {step}: {outcome:#?}"
    );
}
