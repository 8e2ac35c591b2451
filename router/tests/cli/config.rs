//! `config check`, `config dump`, and how every command takes a configuration that cannot be used.

use crate::harness::Sandbox;

#[test]
fn every_problem_is_told_at_once_with_its_own_exit_code() {
    let sandbox = Sandbox::new().with("BACKSCROLL_WRITE__LANES", "none");
    let file = sandbox.write("bad.toml", "[server]\nlistn = \"x\"\n[pool]\nmax_connections = 0\nstatement_timeout = \"soon\"\n[nonsense]\na = 1\n");
    let file = file.to_str().unwrap();
    let expected = [
        "server.listn",
        "pool.max_connections",
        "pool.statement_timeout",
        "nonsense",
        "BACKSCROLL_WRITE__LANES",
    ];
    for arguments in [
        &["config", "check"][..],
        &["serve"],
        &["migrate"],
        &["doctor"],
        &["shards", "list"],
        &["import", "-"],
    ] {
        let outcome = sandbox
            .run(&[arguments, &["--config", file]].concat())
            .exits(3);
        for key in expected {
            assert!(outcome.stderr.contains(key), "{key}: {outcome:#?}");
        }
        assert_eq!(outcome.stdout, "");
    }
    let checked = sandbox
        .run(&["config", "check", "--json", "--config", file])
        .exits(3)
        .json();
    assert_eq!(checked["ok"], false);
    assert_eq!(
        checked["problems"].as_array().unwrap().len(),
        expected.len()
    );
    assert!(
        !sandbox.path("backscroll-data").exists(),
        "nothing was started"
    );

    let missing = sandbox
        .run(&["config", "check", "--config", "none.toml"])
        .exits(3);
    assert!(
        missing.stderr.contains("none.toml: cannot be read"),
        "{missing:?}"
    );
}

#[test]
fn dump_shows_what_is_in_effect_and_no_secret() {
    let sandbox = Sandbox::new()
        .with("BACKSCROLL_POOL__MAX_CONNECTIONS", "33")
        .with(
            "BACKSCROLL_AUTH__SECRET",
            "hunter2 hunter2 hunter2 hunter2 hunter2",
        )
        .with("BACKSCROLL_CONFIG", "mine.toml");
    sandbox.write(
        "mine.toml",
        "[pool]\nmax_connections = 22\n[object_store]\npath = \"objects\"\nsecret_access_key = \"hunter2\"\naccess_key_id = \"id\"\n[directory]\nurl = \"mysql://bs:hunter2@h/d\"\n[[shards]]\nname = \"a\"\nprimary = \"mysql://bs:hunter2@h/a\"\n",
    );
    let dumped = sandbox.run(&["config", "dump"]).exits(0).stdout;
    assert!(dumped.contains("max_connections = 33"), "{dumped}");
    assert!(
        dumped.contains("mysql://bs:***@h/a") && !dumped.contains("hunter2"),
        "{dumped}"
    );
    let json = sandbox.run(&["config", "dump", "--json"]).exits(0).json();
    assert_eq!(json["pool"]["max_connections"], 33);
    assert_eq!(json["auth"]["secret"], "***");
    sandbox.run(&["config", "check"]).exits(0);
}

#[test]
fn a_dump_is_a_configuration() {
    let sandbox = Sandbox::new();
    let dumped = sandbox.run(&["config", "dump"]).exits(0).stdout;
    let file = sandbox.write("dumped.toml", &dumped);
    let again = sandbox
        .run(&["config", "dump", "--config", file.to_str().unwrap()])
        .exits(0)
        .stdout;
    assert_eq!(again, dumped);
}

#[test]
fn the_command_line_has_its_own_exit_code() {
    let sandbox = Sandbox::new();
    sandbox.run(&["frobnicate"]).exits(2);
    sandbox.run(&["export"]).exits(2);
    sandbox
        .run(&["export", "--conversation", "not-an-id"])
        .exits(2);
    sandbox
        .run(&[
            "export",
            "--conversation",
            "4da10dd61a0116b09319b47bf90bcf31",
            "--json",
        ])
        .exits(2);
}
