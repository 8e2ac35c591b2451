//! `export --all`, and `import` of it: everything of a used deployment goes into another one, on another kind of database, and
//! comes out of it byte for byte.

use std::path::PathBuf;

use backscroll_testkit::TestDatabases;
use serde_json::{Value, json};

use crate::harness::{Connection, Sandbox, Server};
use crate::import::history;

/// Users of a service, each with a connection of their own.
pub(crate) struct Users<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) server: &'a Server,
}

impl Users<'_> {
    fn as_user(&self, user: &str, role: &[&str]) -> Connection {
        let arguments = [&["token", "--user", user], role].concat();
        let token = self.sandbox.run(&arguments).exits(0).stdout;
        self.server.connect().with_token(token.trim())
    }

    /// A request by a user: the answer's body.
    #[track_caller]
    pub(crate) fn ask(&self, user: &str, (method, path): (&str, &str), body: &Value) -> Value {
        let role: &[&str] = if user == "admin" {
            &["--role", "admin"]
        } else {
            &[]
        };
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, answer) = self.as_user(user, role).ask(method, path, &body).unwrap();
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    pub(crate) fn make(&self, user: &str, conversation: &Value) -> String {
        let made = self.ask(user, ("POST", "/chat/conversations"), conversation);
        made["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn send(&self, user: &str, id: &str, message: &Value) -> String {
        let path = format!("/chat/conversations/{id}/messages");
        let sent = self.ask(user, ("POST", &path), message);
        sent["id"].as_str().unwrap().to_owned()
    }
}

/// Old channels, archived; an archived message that is changed; and new conversations of every kind with all that there is.
fn use_it(sandbox: &Sandbox) {
    let input = history(300, 5);
    sandbox.pipe(&["import", "-"], input.as_bytes()).exits(0);
    let owned =
        r#"{"channel":"owned","user":"zoe","at":1507466702000,"text":"x","metadata":{"a": 1e400}}"#;
    sandbox
        .pipe(&["import", "-", "--owner", "ann"], owned.as_bytes())
        .exits(0);
    sandbox.run(&["archive", "run"]).exits(0);
    let server = sandbox.serve(&[], 1);
    let users = Users {
        sandbox,
        server: &server,
    };
    let direct = users.make("ann", &json!({ "kind": "direct", "members": ["ben"] }));
    let group = json!({ "kind": "group", "title": "L\u{fc}nch \u{1f35c}", "members": ["ben", "silent", "gone"], "metadata": { "b": [1, "x\n"] } });
    let group = users.make("ann", &group);
    let channel = users.make(
        "cat",
        &json!({ "kind": "channel", "title": "News", "members": ["ann"] }),
    );
    users.send(
        "ann",
        &direct,
        &json!({ "content": "hello", "clientMsgId": "one" }),
    );
    for n in 0..5 {
        users.send(
            "ben",
            &group,
            &json!({ "content": format!("message {n}"), "metadata": { "a": n } }),
        );
    }
    users.send("cat", &channel, &json!({ "content": "quiet" }));
    for (user, method, path, body) in [
        (
            "ben",
            "PATCH",
            format!("/chat/messages/{group}-1"),
            json!({ "content": "edited\u{2028}" }),
        ),
        (
            "ben",
            "DELETE",
            format!("/chat/messages/{group}-2"),
            Value::Null,
        ),
        (
            "silent",
            "PUT",
            format!("/chat/messages/{group}-3/reactions/%F0%9F%91%8D"),
            Value::Null,
        ),
        (
            "silent",
            "PATCH",
            format!("/chat/conversations/{group}/read"),
            json!({ "seq": 3 }),
        ),
        (
            "silent",
            "PATCH",
            format!("/chat/conversations/{group}"),
            json!({ "pinned": true, "muted": true }),
        ),
        (
            "gone",
            "DELETE",
            format!("/chat/conversations/{group}/members/gone"),
            Value::Null,
        ),
        (
            "ann",
            "PATCH",
            format!("/chat/conversations/{group}/members/ben"),
            json!({ "role": "admin" }),
        ),
        (
            "ann",
            "POST",
            format!("/chat/conversations/{group}/messages"),
            json!({ "content": "re", "replyTo": format!("{group}-1") }),
        ),
        ("silent", "PUT", "/chat/blocks/ben".to_owned(), Value::Null),
        (
            "ann",
            "POST",
            format!("/chat/conversations/{group}/messages"),
            json!({ "content": "look", "mentions": ["ben", "silent"] }),
        ),
        (
            "ann",
            "PATCH",
            format!("/chat/conversations/{group}"),
            json!({ "membersMayPin": true }),
        ),
        (
            "silent",
            "PUT",
            format!("/chat/messages/{group}-3/pin"),
            Value::Null,
        ),
        (
            "admin",
            "POST",
            "/admin/notifications".to_owned(),
            json!({ "userIds": ["ann"], "type": "order", "title": "T", "body": "B", "metadata": { "n": 1 } }),
        ),
    ] {
        users.ask(user, (method, &path), &body);
    }
    let listed = users.ask(
        "alice",
        ("GET", "/chat/conversations?limit=10"),
        &Value::Null,
    );
    let old = listed["conversations"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    users.ask(
        "bob",
        (
            "PUT",
            &format!("/chat/messages/{old}-1/reactions/%F0%9F%91%8D"),
        ),
        &Value::Null,
    );
    let doomed = users.make(
        "ann",
        &json!({ "kind": "group", "title": "Doomed", "members": ["ben"] }),
    );
    users.send("ann", &doomed, &json!({ "content": "never seen again" }));
    users.ask(
        "ann",
        ("DELETE", &format!("/chat/conversations/{doomed}")),
        &Value::Null,
    );
    server.stop();
}

/// What each of some users sees of their conversations: lists, members, pages.
fn seen(sandbox: &Sandbox) -> Vec<Value> {
    let server = sandbox.serve(&[], 1);
    let users = Users {
        sandbox,
        server: &server,
    };
    let mut seen = Vec::new();
    for user in ["ann", "ben", "silent", "gone", "cat", "alice"] {
        let listed = users.ask(user, ("GET", "/chat/conversations?limit=50"), &Value::Null);
        for entry in listed["conversations"].as_array().unwrap() {
            let path = format!("/chat/conversations/{}", entry["id"].as_str().unwrap());
            seen.push(users.ask(user, ("GET", &path), &Value::Null));
            // As text: it has a number that is none in this program. Without where the messages came from.
            let path = format!("{path}/messages?limit=200");
            let (status, page) = users.as_user(user, &[]).get(&path).unwrap();
            assert_eq!(status, 200, "{page}");
            let (before, tiers) = page.split_once("\"tiers\":").unwrap();
            seen.push(json!([before, tiers.split_once('}').unwrap().1]));
        }
        seen.push(listed);
        for path in ["/chat/notifications", "/chat/blocks"] {
            seen.push(users.ask(user, ("GET", path), &Value::Null));
        }
    }
    server.stop();
    seen
}

fn used() -> Sandbox {
    let sandbox = Sandbox::new().with("BACKSCROLL_ARCHIVE__SCHEDULE", "");
    use_it(&sandbox);
    sandbox
}

#[track_caller]
fn export(sandbox: &Sandbox, since: &[&str]) -> String {
    let arguments = [&["export", "--all"], since].concat();
    sandbox.run(&arguments).exits(0).stdout
}

#[track_caller]
fn assert_same(one: &str, other: &str) {
    for (place, (one, other)) in one.lines().zip(other.lines()).enumerate() {
        assert_eq!(one, other, "line {}", place + 1);
    }
    assert_eq!(one.len(), other.len());
}

fn file(sandbox: &Sandbox, content: &str) -> String {
    let path: PathBuf = sandbox.write("everything.jsonl", content);
    path.to_str().unwrap().to_owned()
}

pub(crate) fn one_shard() -> Sandbox {
    let secret = "0123456789abcdef0123456789abcdef";
    Sandbox::new()
        .with_one_shard()
        .with("BACKSCROLL_AUTH__SECRET", secret)
        .with("BACKSCROLL_ARCHIVE__SCHEDULE", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_deployment_moves_to_another_database_and_back() {
    let source = used();
    let everything = export(&source, &[]);
    for part in [
        "\"kind\":\"direct\"",
        "\"kind\":\"group\"",
        "\"kind\":\"channel\"",
        "\"role\":\"left\"",
        "{\"notifications\":",
        "\"pinned\":1",
        "\"pinnedBy\":\"silent\"",
        "\"membersPin\":1",
        "\"mentions\":[\"ben\",\"silent\"]",
        "{\"importedChannel\":",
        "\"clientMsgId\":\"one\"",
        "\"edits\":[",
        "\"deletedAt\":",
        "1e400",
    ] {
        assert!(everything.contains(part), "{part}");
    }
    assert!(!everything.contains("Doomed") && !everything.contains("never seen"));

    let databases = TestDatabases::create(3).await;
    let target = Sandbox::new()
        .on_databases(&databases.urls())
        .with("BACKSCROLL_ARCHIVE__SCHEDULE", "");
    target.run(&["migrate"]).exits(0);
    let packed = zstd::encode_all(everything.as_bytes(), 3).unwrap();
    let packed = target.write("packed.zst", packed);
    let import = ["import", packed.to_str().unwrap(), "--json"];
    let first = target.run(&import).exits(0).json();
    assert_eq!(first["messages"], 300 + 1 + 9, "{first:#}");
    assert_same(&everything, &export(&target, &[]));
    let again = target.run(&import).exits(0).json();
    assert_eq!(
        (&again["messages"], &again["rows"]),
        (&json!(0), &json!(0)),
        "{again:#}"
    );
    assert_eq!(again["alreadyStored"], 310);
    assert!(seen(&source) == seen(&target), "users see the same");

    // A longer history of an imported channel goes to the same conversation, and the way back is the same.
    let longer = history(310, 5);
    let appended = target
        .pipe(&["import", "-", "--json"], longer.as_bytes())
        .exits(0)
        .json();
    assert_eq!(
        (&appended["messages"], &appended["alreadyStored"]),
        (&json!(10), &json!(300))
    );
    target.run(&["archive", "run"]).exits(0);
    let longer = export(&target, &[]);
    let back = one_shard();
    back.run(&["import", &file(&back, &longer)]).exits(0);
    assert_same(&longer, &export(&back, &[]));
    databases.drop_all().await;
}

#[test]
fn an_import_that_was_cut_off_is_run_again() {
    let source = used();
    let everything = export(&source, &[]);
    let target = one_shard();
    for part in [5, 2] {
        let cut =
            &everything[..everything.floor_char_boundary(everything.len() * (part - 1) / part)];
        let outcome = target.pipe(&["import", "-"], cut.as_bytes()).exits(4);
        assert!(
            outcome.stderr.contains("not all was stored"),
            "{outcome:#?}"
        );
        // From a file, nothing of it is stored.
        let outcome = target.run(&["import", &file(&target, cut)]).exits(4);
        assert!(
            outcome.stderr.contains("nothing was stored"),
            "{outcome:#?}"
        );
    }
    let done = target
        .pipe(&["import", "-", "--json"], everything.as_bytes())
        .exits(0)
        .json();
    assert!(done["alreadyStored"].as_u64() > Some(0), "{done:#}");
    assert_same(&everything, &export(&target, &[]));
}

#[test]
fn what_changed_since_is_added_and_two_logs_are_not_mixed() {
    let source = used();
    let target = one_shard();
    let base = export(&source, &[]);
    let whole = ["import", &file(&target, &base)].map(str::to_owned);
    target.run(&whole.each_ref().map(String::as_str)).exits(0);

    // What is found is found by its rev, whatever its time: a time that is to come gives the least.
    let server = source.serve(&[], 1);
    let users = Users {
        sandbox: &source,
        server: &server,
    };
    let direct = users.make("ben", &json!({ "kind": "direct", "members": ["ann"] }));
    users.send("ben", &direct, &json!({ "content": "later" }));
    users.ask(
        "ann",
        (
            "PUT",
            &format!("/chat/messages/{direct}-1/reactions/%F0%9F%91%8D"),
        ),
        &Value::Null,
    );
    users.ask(
        "ann",
        ("DELETE", &format!("/chat/messages/{direct}-1")),
        &Value::Null,
    );
    let new = users.make(
        "dan",
        &json!({ "kind": "group", "title": "New", "members": ["ann"] }),
    );
    server.stop();
    let since = ["--since", "2999-01-01T00:00:00Z"];
    let changes = export(&source, &since);
    assert!(base.contains("\"message 3\"") && !changes.contains("\"message 3\""));
    assert!(changes.contains(&new) && changes.contains("2999-01-01"));
    target.run(&["import", &file(&target, &changes)]).exits(0);
    assert_same(&export(&source, &[]), &export(&target, &[]));

    // Both go on: nothing of the conversation is mixed, all else is taken.
    for (sandbox, text) in [(&source, "here"), (&target, "there")] {
        let server = sandbox.serve(&[], 1);
        let users = Users {
            sandbox,
            server: &server,
        };
        users.send("ben", &direct, &json!({ "content": text }));
        if text == "here" {
            users.send("dan", &new, &json!({ "content": "to be taken" }));
        }
        server.stop();
    }
    let changes = export(&source, &since);
    let refused = target.run(&["import", &file(&target, &changes)]).exits(4);
    assert!(
        refused
            .stderr
            .contains(&format!("{direct}: it was changed here")),
        "{refused:#?}"
    );
    let now = export(&target, &[]);
    assert!(now.contains("there") && !now.contains("\"here\"") && now.contains("to be taken"));

    // Changes without what they follow are no conversation.
    let other = one_shard();
    let refused = other.run(&["import", &file(&other, &changes)]).exits(4);
    assert!(
        refused.stderr.contains("messages of it are missing"),
        "{refused:#?}"
    );
}

#[test]
fn what_is_no_whole_export_for_this_deployment_is_refused_by_line() {
    let sandbox = Sandbox::new();
    sandbox.serve(&[], 1).stop();
    let empty = export(&sandbox, &[]);
    assert_eq!(
        empty,
        "{\"backscroll\":\"deployment\",\"keys\":\"hashed\",\"version\":1}\n{\"end\":\"deployment\",\"lines\":1}\n"
    );
    let id = "4da10dd61a0116b09319b47bf90bcf31";
    let first = empty.lines().next().unwrap();
    let end = |lines: usize| format!("{{\"end\":\"deployment\",\"lines\":{lines}}}\n");
    for (text, problem) in [
        (
            format!("{first}\n"),
            "ends after line 1 without its closing line".to_owned(),
        ),
        (
            empty.replace("hashed", "numeric"),
            "line 1: the export is of a deployment with numeric keys".into(),
        ),
        (
            empty.replace(":1}", ":2}").replacen(":2}", ":9}", 1),
            "line 1: the export has version 9".into(),
        ),
        (
            format!("{first}\n{}", end(2)),
            "line 2: it is not whole: 2 lines were written, 1 are here".into(),
        ),
        (
            format!("{empty}{{}}\n"),
            "line 3: comes after the closing line".into(),
        ),
        (
            format!("{first}\n{{\"channels\":{{}}}}\n"),
            "line 2: `channels` is nothing that this version knows".into(),
        ),
        (
            format!("{first}\n{{\"users\":{{\"userId\":\"\"}}}}\n"),
            "line 2: userId: ".into(),
        ),
        (
            format!(
                "{first}\n{{\"conversation\":\"{id}\",\"rev\":1}}\n{}",
                end(2)
            ),
            format!("line 3: conversation {id} has not ended"),
        ),
        (
            format!(
                "{first}\n{{\"conversation\":\"{id}\",\"rev\":1}}\n{{\"conversations\":{{\"kind\":\"group\"}},\"rows\":0,\"messages\":3}}\n"
            ),
            "is not whole: 3 messages were written, 0 are here".into(),
        ),
        (
            format!(
                "{first}\n{{\"conversation\":\"{id}\",\"rev\":1}}\n{{\"seq\":1,\"at\":1,\"by\":\"a\\u001b\",\"rev\":1}}\n"
            ),
            "line 3: a user id has no control characters".into(),
        ),
    ] {
        let refused = sandbox.run(&["import", &file(&sandbox, &text)]).exits(4);
        assert!(refused.stderr.contains(&problem), "{problem}: {refused:#?}");
        assert!(
            refused.stderr.contains("nothing was stored"),
            "{refused:#?}"
        );
    }
    let refused = sandbox
        .run(&["import", &file(&sandbox, &empty), "--owner", "ann"])
        .exits(4);
    assert!(refused.stderr.contains("leave out --owner"), "{refused:#?}");
    sandbox.run(&["import", &file(&sandbox, &empty)]).exits(0);
    for arguments in [
        &["export"][..],
        &["export", "--all", "--conversation", id],
        &[
            "export",
            "--since",
            "2026-01-01T00:00:00Z",
            "--conversation",
            id,
        ],
        &["export", "--all", "--since", "yesterday"],
    ] {
        sandbox.run(arguments).exits(2);
    }
}
