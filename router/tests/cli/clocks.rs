//! Machines with wrong clocks: a lease is judged by the database's, and nothing is deleted while two clocks disagree.
//!
//! `faketime` (the Debian package of that name) gives a process another clock.

use std::process::Command;

use backscroll_testkit::{TestDatabases, dump};

use crate::harness::{Outcome, Sandbox, finish};
use crate::import::history;

/// The binary with a clock that is `offset` from this machine's, as `+365d`.
fn faked(sandbox: &Sandbox, offset: &str, arguments: &[&str]) -> Command {
    let mut command = sandbox.other_command("faketime");
    // Timeouts count on.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.args(["-f", offset, env!("CARGO_BIN_EXE_backscroll")]);
    command.args(arguments);
    command
}

#[track_caller]
fn run_at(sandbox: &Sandbox, offset: &str, arguments: &[&str]) -> Outcome {
    match faked(sandbox, offset, arguments).spawn() {
        Ok(child) => finish(child),
        Err(error) => panic!("faketime: {error}; `make test` installs it"),
    }
}

/// A lease that a machine left whose clock was a year ahead kept everybody out for a year.
#[test]
fn a_job_that_ran_a_year_ahead_keeps_nobody_out() {
    let sandbox = Sandbox::new();
    let import = sandbox.pipe(&["import", "-"], history(200, 8).as_bytes());
    import.exits(0);
    run_at(
        &sandbox,
        "+365d",
        &["archive", "run", "--reason", "a year ahead"],
    )
    .exits(0);
    sandbox.run(&["archive", "run"]).exits(0);

    // Nor one that died.
    let mut dies = faked(&sandbox, "+365d", &["archive", "gc"]);
    let died = dies.env("BACKSCROLL_ABORT_AT", "leased").output().unwrap();
    assert!(!died.status.success(), "{died:?}");
    sandbox.run(&["archive", "gc"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_clock_is_wrong_archives_and_deletes_nothing() {
    let databases = TestDatabases::create(3).await;
    let urls = databases.urls();
    let sandbox = Sandbox::new()
        .on_databases(&urls)
        .with("BACKSCROLL_ARCHIVE__RETAIN", "50 years");
    sandbox.run(&["migrate"]).exits(0);
    let import = sandbox.pipe(&["import", "-"], history(200, 9).as_bytes());
    import.exits(0);
    sandbox.run(&["archive", "run"]).exits(0);
    let before = [dump(&urls[1]).await, dump(&urls[2]).await];
    for (offset, words) in [
        ("+100y", "s ahead of the database's"),
        ("-2d", "s behind the database's"),
    ] {
        for arguments in [
            &["archive", "run"][..],
            &["archive", "gc"],
            &["archive", "rebuild-index"],
        ] {
            let refused = run_at(&sandbox, offset, arguments).exits(1);
            let says = refused.stderr.contains("this machine's clock is")
                && refused.stderr.contains(words);
            assert!(says, "{arguments:?}: {refused:#?}");
        }
        let doctor = run_at(&sandbox, offset, &["doctor"]).exits(1);
        assert!(
            doctor.stdout.contains("FAIL  shard db1: its clock is"),
            "{doctor:#?}"
        );
    }
    let after = [dump(&urls[1]).await, dump(&urls[2]).await];
    assert_eq!(after, before);
    // What is a little off is right.
    run_at(&sandbox, "+60s", &["archive", "gc"]).exits(0);
    databases.drop_all().await;
}

#[test]
fn a_dead_jobs_lease_is_shown_and_cleared_with_its_reason() {
    let sandbox = Sandbox::new();
    let import = sandbox.pipe(&["import", "-"], history(50, 10).as_bytes());
    import.exits(0);
    let idle = sandbox
        .run(&["lease", "clear", "--reason", "none"])
        .exits(0);
    assert_eq!(idle.stdout, "no lease is held; nothing was done\n");
    let died = sandbox
        .command(&["archive", "run"])
        .env("BACKSCROLL_ABORT_AT", "leased")
        .output()
        .unwrap();
    assert!(died.status.code().is_none(), "{died:?}");

    let busy = sandbox
        .run(&["archive", "run", "--shard", "shard1"])
        .exits(1);
    for words in [
        "shard1: shard shard1 is being worked on by archive run (",
        "by the clock of the shard's database",
        "`backscroll lease clear --shard shard1 --reason TEXT`",
    ] {
        assert!(busy.stderr.contains(words), "{words} is not in {busy:#?}");
    }
    let status = sandbox.run(&["archive", "status"]).exits(0).stdout;
    assert!(
        status.contains("shard1 is being worked on by archive run ("),
        "{status}"
    );
    sandbox.run(&["lease", "clear"]).exits(2); // without a reason
    sandbox
        .run(&["lease", "clear", "--shard", "shard9", "--reason", "x"])
        .exits(1);
    let arguments = [
        "lease",
        "clear",
        "--shard",
        "shard1",
        "--reason",
        "that machine is gone",
    ];
    let cleared = sandbox.run(&arguments).exits(0).stdout;
    assert!(
        cleared.starts_with("shard1: freed the lease of archive run ("),
        "{cleared}"
    );
    sandbox
        .run(&["archive", "run", "--shard", "shard1"])
        .exits(0);
    let status = sandbox.run(&["archive", "status", "--shard", "shard1", "--json"]);
    let status = status.exits(0).json();
    let jobs = status[0]["jobs"].as_array().unwrap();
    let job = jobs
        .iter()
        .find(|job| job["kind"] == "lease clear")
        .unwrap();
    assert_eq!(job["reason"], "that machine is gone");
    assert!(
        job["figures"]["held"][0]
            .as_str()
            .unwrap()
            .starts_with("archive run (")
    );
}
