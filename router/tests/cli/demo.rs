//! `serve --demo`: what a first-time user pastes works, and a second start finds the same.

use serde_json::Value;

use crate::harness::{Sandbox, get, paste};

/// Up to and with the third command.
const PRINTED: usize = 23;

#[test]
fn the_three_commands_work_when_pasted_and_a_second_start_adds_nothing() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&["--demo"], PRINTED);
    let commands: Vec<&String> = server
        .printed
        .iter()
        .filter(|line| line.starts_with("curl "))
        .collect();
    assert_eq!(commands.len(), 3, "{:#?}", server.printed);

    let list = paste(commands[0]);
    let conversations = list["conversations"].as_array().unwrap();
    assert_eq!(conversations.len(), 5);
    assert!(
        conversations
            .iter()
            .any(|conversation| conversation["kind"] == "direct")
    );
    assert!(
        conversations
            .iter()
            .any(|conversation| conversation["kind"] == "group")
    );

    let links = server.printed.iter();
    let (page, token) = links
        .filter_map(|line| line.split_once("#token="))
        .next()
        .unwrap();
    assert_eq!(page, format!("{}/console/chat", server.url()));
    assert_eq!(get(page, "none").0, 200);
    assert_eq!(get(&format!("{page}/people"), "none").0, 401);
    let (status, people) = get(&format!("{page}/people"), token);
    let people = people["people"].as_array().unwrap();
    assert_eq!((status, people.len()), (200, 9));
    for person in people {
        let mine = get(
            &format!("{}/chat/unread-count", server.url()),
            person["token"].as_str().unwrap(),
        );
        assert_eq!(mine.0, 200, "{person}");
    }

    let page = paste(commands[1]);
    let messages = page["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 5);
    assert_eq!(
        (&page["hasMoreBefore"], &page["hasMoreAfter"]),
        (&Value::Bool(true), &Value::Bool(true))
    );
    let two_years_ago = jiff::Timestamp::now().as_second() - 2 * 365 * 86_400;
    let sent: jiff::Timestamp = messages[4]["createdAt"].as_str().unwrap().parse().unwrap();
    assert!(sent.as_second() < two_years_ago, "{sent}");

    // The README's answer is from another day, when other messages were there.
    let documented = crate::documents::first_answer();
    assert_eq!(
        messages[0]["conversationId"], documented["conversationId"],
        "README.md shows another room"
    );
    let fields = |message: &Value| {
        let fields = message.as_object().unwrap().keys().cloned();
        fields.collect::<Vec<String>>()
    };
    assert_eq!(fields(&messages[0]), fields(&documented));

    let said = paste(commands[2]);
    assert_eq!(said["content"], "Hello from the command line");
    let head = page["headSeq"].as_u64().unwrap();
    assert_eq!(said["seq"], head + 1);
    let room = said["conversationId"].as_str().unwrap().to_owned();
    server.stop();

    // The token that `backscroll token` makes is good for the demo as well, and so is one made beside its data.
    let mut beside = sandbox.command(&["token", "--user", "ben"]);
    let beside = beside.env("BACKSCROLL_DATA_DIR", "backscroll-data/demo");
    let beside = crate::harness::finish(beside.spawn().unwrap());
    let beside = beside.exits(0).stdout;
    let token = sandbox.run(&["token", "--user", "ben"]).exits(0).stdout;
    let server = sandbox.serve(&["--demo"], PRINTED);
    let (status, page) = get(
        &format!(
            "{}/chat/conversations/{room}/messages?limit=1",
            server.url()
        ),
        token.trim(),
    );
    assert_eq!((status, page["headSeq"].as_u64()), (200, Some(head + 1)));
    let (status, list) = get(
        &format!("{}/chat/conversations?limit=50", server.url()),
        beside.trim(),
    );
    assert_eq!(
        (status, list["conversations"].as_array().unwrap().len()),
        (200, 6)
    );
}

#[test]
fn a_demo_that_was_killed_while_it_was_filled_is_filled_by_the_next_start() {
    // Nothing is archived: the messages are counted where they were imported to.
    let sandbox = Sandbox::new().with("BACKSCROLL_ARCHIVE__SCHEDULE", "");
    let mut command = sandbox.command(&["serve", "--demo", "--listen", "127.0.0.1:0"]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let data = sandbox.path("backscroll-data/demo");
    let give_up_at = std::time::Instant::now() + crate::harness::PATIENCE;
    while !data.exists() || crate::harness::imported(&data) == 0 {
        assert!(std::time::Instant::now() < give_up_at);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let in_between = crate::harness::imported(&data);

    let server = sandbox.serve(&["--demo"], PRINTED);
    server.stop();
    let whole = crate::harness::imported(&data);
    assert!(
        in_between < whole,
        "it was killed in the middle: {in_between} of {whole}"
    );

    // The same history as one that was filled at once, up to the moment at which it ends.
    let note = std::fs::read_to_string(data.join("demo.json")).unwrap();
    let other = Sandbox::new().with("BACKSCROLL_ARCHIVE__SCHEDULE", "");
    std::fs::create_dir_all(other.path("backscroll-data/demo")).unwrap();
    let unfilled = serde_json::from_str::<Value>(&note)
        .map(|note| serde_json::json!({ "until": note["until"] }))
        .unwrap();
    other.write("backscroll-data/demo/demo.json", unfilled.to_string());
    other.serve(&["--demo"], PRINTED).stop();
    assert_eq!(
        crate::harness::imported(&other.path("backscroll-data/demo")),
        whole
    );
    let room = serde_json::from_str::<Value>(&note).unwrap()["filled"]["room"]
        .as_str()
        .unwrap()
        .to_owned();
    let export = |sandbox: &Sandbox| {
        let folder = "backscroll-data/demo";
        let command = sandbox
            .command(&["export", "--conversation", &room])
            .env("BACKSCROLL_DATA_DIR", folder)
            .spawn()
            .unwrap();
        crate::harness::finish(command).exits(0).stdout
    };
    let (killed, at_once) = (export(&sandbox), export(&other));
    let imported_lines = |text: &str| text.lines().count() - 4; // the newest four are sent, at the time of sending
    let history = |text: &str| {
        text.lines()
            .take(imported_lines(text))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(history(&killed), history(&at_once));
}

#[test]
fn the_chat_page_is_only_where_it_is_wanted_and_gives_tokens_in_the_demo_only() {
    let sandbox = Sandbox::new();
    let token = |sandbox: &Sandbox| {
        let printed = sandbox.run(&["token", "--user", "ben"]).exits(0).stdout;
        printed.trim().to_owned()
    };
    let server = sandbox.serve(&[], 1);
    let ben = token(&sandbox);
    for path in [
        "/",
        "/console/chat",
        "/console/chat/",
        "/console/chat/people",
    ] {
        assert_eq!(
            get(&format!("{}{path}", server.url()), &ben).0,
            404,
            "{path}"
        );
    }
    server.stop();
    let sandbox = sandbox.with("BACKSCROLL_CONSOLE__CHAT", "true");
    let server = sandbox.serve(&[], 1);
    for (path, status) in [
        ("/", 307),
        ("/console/chat/", 307),
        ("/console/chat", 200),
        ("/console/chat/chat.js", 404),
        ("/console/chat/people", 404),
    ] {
        let answer = get(&format!("{}{path}", server.url()), &ben);
        assert_eq!(answer.0, status, "{path}");
    }
    server.stop();
}

#[test]
fn it_does_not_touch_databases_that_are_configured() {
    let sandbox = Sandbox::new().on_databases(&[
        "mysql://127.0.0.1:1/a".into(),
        "mysql://127.0.0.1:1/b".into(),
    ]);
    let outcome = sandbox.run(&["serve", "--demo"]).exits(1);
    assert!(
        outcome
            .stderr
            .contains("take `shards` and `directory.url` out"),
        "{outcome:?}"
    );
}
