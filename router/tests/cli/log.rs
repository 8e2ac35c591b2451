//! A log that cannot be written costs log lines, and nothing else; so does an output that nobody reads.

use std::fs::File;
use std::io::PipeReader;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use backscroll::metrics::LOG_LINES_LOST;

use crate::harness::{Connection, PATIENCE, Sandbox, Server, finish};

/// How long a stop may take without a connection.
const STOP: Duration = Duration::from_secs(20);

/// Every request is worth a line.
fn talkative() -> Sandbox {
    Sandbox::new()
        .with_one_shard()
        .with("BACKSCROLL_TELEMETRY__LOG", "trace")
}

fn lost(connection: &mut Connection, reason: &str) -> u64 {
    let (_, metrics) = connection.get("/metrics").unwrap();
    let name = format!("{}{{reason=\"{reason}\"}} ", LOG_LINES_LOST.name());
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
    count.map_or(0, |count| count.parse().unwrap())
}

/// It serves until lines are lost and after that, and stops when it is asked to.
fn serves_without_its_log(sandbox: &Sandbox, server: Server, reason: &str) {
    let token = sandbox.run(&["token", "--user", "alice"]).exits(0).stdout;
    let mut connection = server.connect().with_token(token.trim());
    let group = r#"{"kind":"group","members":["bob"],"title":"t"}"#;
    let (status, created) = connection.post("/chat/conversations", group).unwrap();
    assert_eq!(status, 201, "{created}");
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let path = format!(
        "/chat/conversations/{}/messages",
        created["id"].as_str().unwrap()
    );
    let until = Instant::now() + PATIENCE;
    let mut slowest = Duration::ZERO;
    loop {
        let lost = lost(&mut connection, reason);
        for _ in 0..20 {
            let begun = Instant::now();
            let (status, sent) = connection.post(&path, r#"{"content":"well"}"#).unwrap();
            assert_eq!(status, 201, "{sent}");
            slowest = slowest.max(begun.elapsed());
        }
        if lost > 0 {
            break;
        }
        assert!(Instant::now() < until, "no line was lost ({reason})");
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let (status, ready) = connection.get("/readyz").unwrap();
    assert_eq!(status, 200, "{ready}");
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < STOP, "{:?}", begun.elapsed());
}

fn pipe() -> (PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, writer.into())
}

#[test]
fn a_log_whose_reader_has_gone_is_lost() {
    let sandbox = talkative();
    let (reader, stderr) = pipe();
    let server = sandbox.serve_logging_to(stderr, &[], 1);
    drop(reader);
    serves_without_its_log(&sandbox, server, "unwritable");
}

#[test]
fn a_log_on_a_full_disk_is_lost() {
    let sandbox = talkative();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let server = sandbox.serve_logging_to(full.into(), &[], 1);
    serves_without_its_log(&sandbox, server, "unwritable");
}

#[test]
fn a_log_whose_reader_stands_still_is_lost_beyond_what_may_wait() {
    let sandbox = talkative();
    let (reader, stderr) = pipe();
    let server = sandbox.serve_logging_to(stderr, &[], 1);
    serves_without_its_log(&sandbox, server, "full");
    drop(reader);
}

/// With no standard error at all there is nothing to lose.
#[test]
fn a_closed_log_is_no_reason_to_fail() {
    let sandbox = talkative();
    let binary = env!("CARGO_BIN_EXE_backscroll");
    let script = format!("exec '{binary}' serve --listen 127.0.0.1:0 2>&-");
    let mut shell = sandbox.other_command("sh");
    let server = Server::started(shell.args(["-c", &script]), 1);
    let mut connection = server.connect();
    for _ in 0..50 {
        assert_eq!(connection.get("/readyz").unwrap().0, 200);
    }
    server.stop();
}

/// The lines that were lost are told of once there is somebody who reads.
#[test]
fn a_log_that_works_again_says_how_much_it_lacks() {
    let sandbox = talkative();
    let (reader, stderr) = pipe();
    let server = sandbox.serve_logging_to(stderr, &[], 1);
    let mut connection = server.connect();
    let until = Instant::now() + PATIENCE;
    while lost(&mut connection, "full") == 0 {
        assert!(Instant::now() < until);
    }
    let reading = thread::spawn(move || std::io::read_to_string(reader).unwrap());
    server.stop();
    let log = reading.join().unwrap();
    assert!(
        log.contains("lines of this log were lost before this one"),
        "{}",
        log.len()
    );
    assert!(
        log.lines()
            .last()
            .unwrap()
            .contains("\"message\":\"stopped\"")
    );
}

/// A command whose output nobody reads any more ends quietly; a service does not need its own.
#[test]
fn an_output_whose_reader_has_gone_is_no_failure() {
    let sandbox = Sandbox::new().with_one_shard();
    for arguments in [
        &["config", "dump"][..],
        &["config", "dump", "--json"],
        &["config", "check"],
        &["--help"],
    ] {
        let (reader, stdout) = pipe();
        drop(reader);
        let child = sandbox.command(arguments).stdout(stdout).spawn().unwrap();
        let outcome = finish(child);
        assert_eq!(
            (outcome.code, outcome.stderr.as_str()),
            (0, ""),
            "{arguments:?}"
        );
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let (reader, stdout) = pipe();
    drop(reader);
    let mut command = sandbox.command(&["serve", "--listen", &address]);
    let mut server = Server::started(command.stdout(stdout), 0);
    server.printed = vec![format!("listening on http://{address}")];
    let mut connection = server.connect();
    let until = Instant::now() + PATIENCE;
    while connection.get("/readyz").map_or(0, |(status, _)| status) != 200 {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(20));
    }
    server.stop();
}
