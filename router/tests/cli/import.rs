//! `import`: whole, in order, once, however often it is killed; and what it says about bad lines.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Sandbox, imported};

/// `count` lines of three channels, with everything that a text may have in it; the same for the same `seed`.
pub(crate) fn history(count: usize, seed: u64) -> String {
    let texts = [
        "hello",
        "how \"so\"?",
        "a\ttab, a \\ and a\nline end",
        "日本語 😀 é",
        "",
        "\u{1}\u{7f}\u{2028} </script>",
        "0",
        "null",
    ];
    let (channels, users) = (
        ["general", "zig", "caf\u{e9} \u{1f600}"],
        ["alice", "bob", "carol", "\u{65e5}\u{672c}", "42"],
    );
    let mut state = seed;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut at = 1_507_466_702_000_i64;
    let mut lines = String::new();
    for number in 0..count {
        at += i64::try_from(random(60_000)).unwrap();
        let text = format!("{} {number}", texts[random(texts.len())]);
        let (channel, user) = (channels[random(channels.len())], users[random(users.len())]);
        // In the order of the fields that `export` writes.
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        writeln!(
            lines,
            r#"{{"channel":{},"user":{},"at":{at},"text":{}}}"#,
            quoted(channel),
            quoted(user),
            quoted(&text)
        )
        .unwrap();
    }
    lines
}

/// The lines of one channel.
pub(crate) fn of_channel(lines: &str, channel: &Value) -> String {
    let is_in = |line: &&str| serde_json::from_str::<Value>(line).unwrap()["channel"] == *channel;
    lines
        .lines()
        .filter(is_in)
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Exports every conversation of an import's summary and compares it with the input.
#[track_caller]
pub(crate) fn assert_exported(sandbox: &Sandbox, summary: &Value, input: &str) {
    let conversations = summary["conversations"].as_array().unwrap();
    let mut messages = 0;
    for conversation in conversations {
        let exported = sandbox
            .run(&[
                "export",
                "--conversation",
                conversation["id"].as_str().unwrap(),
            ])
            .exits(0)
            .stdout;
        assert!(
            exported == of_channel(input, &conversation["title"]),
            "{} differs",
            conversation["title"]
        );
        messages += exported.lines().count();
    }
    assert_eq!(messages, input.lines().count());
}

#[test]
fn what_goes_in_comes_out_byte_for_byte() {
    let input = history(5000, 1);
    for (name, bytes) in [
        ("plain.jsonl", input.clone().into_bytes()),
        ("packed", zstd::encode_all(input.as_bytes(), 3).unwrap()),
    ] {
        let sandbox = Sandbox::new();
        let file = sandbox.write(name, bytes);
        let summary = sandbox
            .run(&["import", file.to_str().unwrap(), "--json"])
            .exits(0)
            .json();
        assert_eq!(
            (&summary["messages"], &summary["alreadyStored"]),
            (&json!(5000), &json!(0))
        );
        assert_eq!(summary["conversations"].as_array().unwrap().len(), 3);
        assert_exported(&sandbox, &summary, &input);

        let again = sandbox
            .run(&["import", file.to_str().unwrap(), "--json"])
            .exits(0)
            .json();
        assert_eq!(
            (&again["messages"], &again["alreadyStored"]),
            (&json!(0), &json!(5000))
        );
        assert_eq!(again["conversations"], summary["conversations"]);
    }
}

#[test]
fn an_import_that_was_killed_is_resumed_exactly() {
    let sandbox = Sandbox::new();
    let input = history(30_000, 2);
    let data = sandbox.path("backscroll-data");
    let half = input
        .lines()
        .take(15_000)
        .map(|line| line.len() + 1)
        .sum::<usize>();

    // It gets half of the input, and is killed while it waits for the rest with some of it stored.
    let mut child = sandbox
        .command(&["import", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&input.as_bytes()[..half]).unwrap();
    let give_up_at = Instant::now() + PATIENCE;
    while !data.exists() || imported(&data) < 3000 {
        assert!(Instant::now() < give_up_at, "nothing is stored");
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    let before = imported(&data);
    assert!(
        (3000..30_000).contains(&before),
        "killed in the middle: {before}"
    );

    // Then at several moments in the middle of writing.
    let file = sandbox.write("history.jsonl", &input);
    let file = file.to_str().unwrap();
    let mut reached = vec![before];
    for patience in [2, 5, 9, 14, 20] {
        let mut child = sandbox.command(&["import", file]).spawn().unwrap();
        let stop_above = before + patience * 500;
        while imported(&data) < stop_above && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < give_up_at);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        reached.push(imported(&data));
    }
    assert!(reached.is_sorted(), "{reached:?}");

    let summary = sandbox.run(&["import", file, "--json"]).exits(0).json();
    let already = summary["alreadyStored"].as_i64().unwrap();
    assert_eq!(already, *reached.last().unwrap());
    assert_eq!(summary["messages"].as_i64().unwrap() + already, 30_000);
    assert_exported(&sandbox, &summary, &input);
}

#[test]
fn a_file_with_bad_lines_stores_nothing_and_names_them() {
    let sandbox = Sandbox::new();
    let mut lines: Vec<String> = history(2000, 3).lines().map(str::to_owned).collect();
    lines[6] = "{\"channel\":\"zig\"".into();
    lines[1500] = r#"{"channel":"zig","user":7,"at":1507466700001,"text":"x"}"#.into();
    let file = sandbox.write("bad.jsonl", lines.join("\n"));
    let file = file.to_str().unwrap();

    let refused = sandbox.run(&["import", file]).exits(4);
    assert!(
        refused.stderr.contains("2 of 2,000 lines")
            && refused.stderr.contains("nothing was stored"),
        "{refused:#?}"
    );
    assert!(
        refused.stderr.contains("line 7: is cut off"),
        "{refused:#?}"
    );
    assert!(
        refused
            .stderr
            .contains("line 1501: user: invalid type: integer `7`, expected a string"),
        "{refused:#?}"
    );
    assert!(!sandbox.path("backscroll-data").exists());

    let skipped = sandbox
        .run(&["import", file, "--skip-bad", "--json"])
        .exits(0);
    assert!(
        skipped.stderr.contains("line 7: is cut off"),
        "{skipped:#?}"
    );
    let summary = skipped.json();
    assert_eq!(
        (&summary["messages"], &summary["badLines"]),
        (&json!(1998), &json!(2))
    );
    lines.remove(1500);
    lines.remove(6);
    assert_exported(&sandbox, &summary, &(lines.join("\n") + "\n"));
}

#[test]
fn standard_input_keeps_what_precedes_a_bad_line() {
    let sandbox = Sandbox::new();
    let input = history(100, 4);
    let mut lines: Vec<&str> = input.lines().collect();
    lines[60] = "nonsense";
    let refused = sandbox
        .pipe(&["import", "-"], lines.join("\n").as_bytes())
        .exits(4);
    assert!(
        refused.stderr.contains("line 61: is not a JSON object"),
        "{refused:#?}"
    );
    assert!(
        refused
            .stderr
            .contains("The lines before line 61 are stored"),
        "{refused:#?}"
    );
    assert_eq!(imported(&sandbox.path("backscroll-data")), 60);

    let summary = sandbox
        .pipe(&["import", "-", "--json"], input.as_bytes())
        .exits(0)
        .json();
    assert_eq!(
        (&summary["messages"], &summary["alreadyStored"]),
        (&json!(40), &json!(60))
    );
    assert_exported(&sandbox, &summary, &input);
}

#[test]
fn another_history_under_the_same_name_is_refused_not_skipped() {
    let sandbox = Sandbox::new();
    let line = |user: &str, at: i64| {
        format!("{{\"channel\":\"news\",\"user\":\"{user}\",\"at\":{at},\"text\":\"x\"}}\n")
    };
    let january = line("alice", 1_507_466_701_000) + &line("bob", 1_507_466_702_000);
    let february = line("alice", 1_507_466_705_000)
        + &line("bob", 1_507_466_706_000)
        + &line("alice", 1_507_466_707_000);
    sandbox.pipe(&["import", "-"], january.as_bytes()).exits(0);
    let refused = sandbox.pipe(&["import", "-"], february.as_bytes()).exits(4);
    assert!(
        refused
            .stderr
            .contains("line 1 (message 1): from alice at 1507466705000 here, from alice at 1507466701000 there"),
        "{refused:#?}"
    );
    let same_first = line("alice", 1_507_466_701_000) + &line("carol", 1_507_466_702_000);
    let refused = sandbox
        .pipe(&["import", "-"], same_first.as_bytes())
        .exits(4);
    assert!(
        refused.stderr.contains(
            "line 2 (message 2): from carol at 1507466702000 here, from bob at 1507466702000 there"
        ),
        "{refused:#?}"
    );
    let whole = january + &february;
    let summary = sandbox
        .pipe(&["import", "-", "--json"], whole.as_bytes())
        .exits(0)
        .json();
    assert_eq!(
        (&summary["messages"], &summary["alreadyStored"]),
        (&json!(3), &json!(2))
    );
}

#[test]
fn people_who_talk_in_it_after_the_import_are_not_in_its_way() {
    let sandbox = Sandbox::new();
    let input = history(300, 5);
    let first = input
        .lines()
        .take(200)
        .fold(String::new(), |text, line| text + line + "\n");
    let summary = sandbox
        .pipe(&["import", "-", "--json"], first.as_bytes())
        .exits(0)
        .json();
    let room = summary["conversations"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let server = sandbox.serve(&[], 1);
    let token = sandbox.run(&["token", "--user", "alice"]).exits(0).stdout;
    let post = format!(
        "curl -sS -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' -d '{{\"content\":\"live\"}}' {}/chat/conversations/{room}/messages",
        token.trim(),
        server.url()
    );
    assert_eq!(crate::harness::paste(&post)["content"], "live");
    server.stop();
    let summary = sandbox
        .pipe(&["import", "-", "--json"], input.as_bytes())
        .exits(0)
        .json();
    assert_eq!(
        (&summary["messages"], &summary["alreadyStored"]),
        (&json!(100), &json!(200))
    );
    let exported = sandbox
        .run(&["export", "--conversation", &room])
        .exits(0)
        .stdout;
    let without_live: String = exported
        .lines()
        .filter(|line| !line.contains("\"live\""))
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(
        without_live,
        of_channel(&input, &summary["conversations"][0]["title"])
    );
}

#[test]
fn the_owner_is_the_first_who_spoke_unless_one_is_named() {
    let input = b"{\"channel\":\"news\",\"user\":\"7\",\"at\":1507466702000,\"text\":\"x\"}\n{\"channel\":\"news\",\"user\":\"8\",\"at\":1507466703000,\"text\":\"y\"}\n";
    let id = |sandbox: &Sandbox, arguments: &[&str]| {
        let summary = sandbox
            .pipe(&[&["import", "-", "--json"], arguments].concat(), input)
            .exits(0)
            .json();
        summary["conversations"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let numeric = || Sandbox::new().with("BACKSCROLL_KEYSPACE__FUNCTION", "numeric");
    // With numeric keys the first 16 digits of a conversation's id are its owner's number.
    assert!(id(&numeric(), &[]).starts_with("0000000000000007"));
    assert!(id(&numeric(), &["--owner", "255"]).starts_with("00000000000000ff"));

    let named = String::from_utf8(input.to_vec())
        .unwrap()
        .replace("\"8\"", "\"pupp\"");
    let sandbox = numeric();
    let file = sandbox.write("named.jsonl", named);
    let refused = sandbox.run(&["import", file.to_str().unwrap()]).exits(4);
    assert!(
        refused
            .stderr
            .contains("line 2: user: `pupp`: with numeric keys"),
        "{refused:#?}"
    );
    sandbox
        .pipe(&["import", "-", "--owner", "pupp"], input)
        .exits(4);
}

#[test]
fn optional_fields_are_kept() {
    let sandbox = Sandbox::new();
    let input = concat!(
        r#"{"channel":"news","user":"a","at":1507466700001,"text":"look","type":"image","attachments":[{"url":"x"}],"reactions":{"👍":["b"]},"metadata":{"k":1}}"#,
        "\n",
        r#"{"channel":"news","user":"b","at":1507466700002,"text":"nice","replyTo":1,"editedAt":1507466700003}"#,
        "\n",
        r#"{"channel":"news","user":"b","at":1507466700004,"text":"","deletedAt":1507466700005}"#,
        "\n",
    );
    let summary = sandbox
        .pipe(&["import", "-", "--json"], input.as_bytes())
        .exits(0)
        .json();
    assert_exported(&sandbox, &summary, input);
}

#[test]
fn a_cut_off_file_is_an_error() {
    let sandbox = Sandbox::new();
    let mut packed = zstd::encode_all(history(3000, 6).as_bytes(), 3).unwrap();
    packed.truncate(packed.len() / 2);
    let file = sandbox.write("cut.zst", packed);
    sandbox.run(&["import", file.to_str().unwrap()]).exits(1);
    sandbox.run(&["import", "no-such-file"]).exits(1);
}

#[test]
fn elsewhere_than_on_a_terminal_progress_is_lines() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["import", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(history(50, 7).as_bytes()).unwrap();
    // It goes on telling how far it is for as long as the input is not at its end.
    let mut progress = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut progress).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(
        progress.starts_with("importing: ") && progress.contains(" messages, "),
        "{progress}"
    );
    assert!(!progress.contains(['\r', '\u{1b}']), "{progress}");
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(
        summary.starts_with("50 messages in 3 conversations, "),
        "{summary}"
    );
}
