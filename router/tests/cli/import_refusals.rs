//! What `import` does not take, and how it says so.

use serde_json::json;

use crate::harness::Sandbox;
use crate::import::assert_exported;

fn refused(input: &str) -> String {
    let sandbox = Sandbox::new();
    let file = sandbox.write("input.jsonl", input);
    let refused = sandbox.run(&["import", file.to_str().unwrap()]).exits(4);
    assert!(!sandbox.path("backscroll-data").exists(), "{refused:#?}");
    refused.stderr
}

#[test]
fn times_that_cannot_be_are_named_by_line() {
    let told = refused(concat!(
        r#"{"channel":"future","user":"alice","at":1507466702000,"text":"one"}"#,
        "\n",
        r#"{"channel":"future","user":"bob","at":15074667020000,"text":"one digit too many"}"#,
        "\n",
        r#"{"channel":"future","user":"alice","at":1507466703,"text":"seconds"}"#,
        "\n",
    ));
    for line in [
        "line 2: at: 15074667020000 is in the future; write milliseconds since 1970",
        "line 3: at: 1507466703 looks like seconds; write milliseconds since 1970",
    ] {
        assert!(told.contains(line), "{told}");
    }
}

#[test]
fn what_clients_may_not_send_is_named_by_line() {
    let told = refused(concat!(
        r#"{"channel":"r","user":"alice","at":1507466702000,"text":"hi","reactions":{"👍":"bob"}}"#,
        "\n",
        r#"{"channel":"r","user":"alice","at":1507466702000,"text":"hi","reactions":{"👍":{"count":2,"users":["bob"]}}}"#,
        "\n",
        r#"{"channel":"r","user":"alice","at":1507466702000,"text":"hi","reactions":{"👍":null}}"#,
        "\n",
        r#"{"channel":"r","user":"alice","at":1507466702000,"text":"hi","reactions":{"👍":[7]}}"#,
        "\n",
        r#"{"channel":"r","user":"alice","at":1507466702000,"text":"hi","replyTo":0}"#,
        "\n",
        r#"{"channel":"r","user":"alice","at":1507466702000,"text":"the first that is good"}"#,
        "\n",
        r#"{"channel":"r","user":"alice","at":1507466702000,"text":"hi","replyTo":3}"#,
        "\n",
    ));
    for line in 1..=4 {
        let named = format!("line {line}: reactions: \"👍\" must have a list of user ids");
        assert!(told.contains(&named), "{told}");
    }
    for line in [
        "line 5: replyTo: 0 is not the number of an earlier message of the channel; this is message 1",
        "line 7: replyTo: 3 is not the number of an earlier message of the channel; this is message 2",
    ] {
        assert!(told.contains(line), "{told}");
    }
}

#[test]
fn of_deleted_messages_only_their_place_is_stored() {
    let sandbox = Sandbox::new();
    let input = concat!(
        r#"{"channel":"del","user":"alice","at":1507466702000,"text":"my secret password","deletedAt":1507466707000,"reactions":{"👍":["bob"]},"attachments":[{"url":"secret.png"}],"metadata":{"k":"secret"}}"#,
        "\n",
        r#"{"channel":"del","user":"bob","at":1507466711000,"text":"last deleted secret","deletedAt":1507466711002}"#,
        "\n",
    );
    let summary = sandbox
        .pipe(&["import", "-", "--json"], input.as_bytes())
        .exits(0)
        .json();
    assert_eq!(summary["messages"], json!(2));
    let stored = concat!(
        r#"{"channel":"del","user":"alice","at":1507466702000,"text":"","deletedAt":1507466707000}"#,
        "\n",
        r#"{"channel":"del","user":"bob","at":1507466711000,"text":"","deletedAt":1507466711002}"#,
        "\n",
    );
    assert_exported(&sandbox, &summary, stored);
}

#[test]
fn an_empty_input_is_no_success() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("empty.jsonl", "\n");
    let file = file.to_str().unwrap();
    for refused in [
        sandbox.run(&["import", file]).exits(4),
        sandbox.pipe(&["import", "-"], b"").exits(4),
    ] {
        assert!(
            refused.stderr.contains("the input is empty"),
            "{refused:#?}"
        );
    }
}

#[test]
fn other_encodings_are_named() {
    let sandbox = Sandbox::new();
    let line = r#"{"channel":"a","user":"b","at":1507466702000,"text":"c"}"#;
    let wide: Vec<u8> = line.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let file = sandbox.write("wide.jsonl", wide);
    let refused = sandbox.run(&["import", file.to_str().unwrap()]).exits(4);
    assert!(refused.stderr.contains("iconv -f UTF-16"), "{refused:#?}");
    let refused = sandbox
        .pipe(&["import", "-"], b"\x1f\x8b\x08\0\0\0")
        .exits(4);
    assert!(refused.stderr.contains("zcat"), "{refused:#?}");
}

#[test]
fn titles_command_no_terminal() {
    let sandbox = Sandbox::new();
    let input = r#"{"channel":"a\n\u001b[31mred","user":"b","at":1507466702000,"text":"c"}"#;
    let told = sandbox.pipe(&["import", "-"], input.as_bytes()).exits(0);
    assert!(
        told.stdout.contains(r"a\n\u{1b}[31mred (1 message)"),
        "{told:#?}"
    );
    assert!(!told.stdout.contains('\u{1b}'));
    let input = r#"{"channel":"a","user":"\u001b[31m","at":1507466702000,"text":"c"}"#;
    let told = sandbox.pipe(&["import", "-"], input.as_bytes()).exits(4);
    assert!(!told.stderr.contains('\u{1b}'), "{told:#?}");
}
