//! `import --as direct|group|channel`, `--members`, and what old systems knew of who has read.

use serde_json::{Value, json};

use crate::deployments::{Users, one_shard};
use crate::harness::Sandbox;

/// An old table of two people in each row: two conversations, and a note to oneself.
const ROWS: &str = r#"{"user":"cust-1","to":"shop","at":1551441600000,"text":"is it there?","status":"read"}
{"user":"cust-2","to":"shop","at":1551441601000,"text":"hello","status":"delivered"}
{"user":"shop","to":"cust-1","at":1551441602000,"text":"yes","status":"read"}
{"user":"shop","to":"shop","at":1551441603000,"text":"note","status":"read"}
{"user":"cust-1","to":"shop","at":1551441604000,"text":"good","status":"sent"}
"#;

fn import(sandbox: &Sandbox, arguments: &[&str], input: &str) -> Value {
    let arguments = [&["import", "-", "--json"], arguments].concat();
    sandbox.pipe(&arguments, input.as_bytes()).exits(0).json()
}

#[track_caller]
fn refused(sandbox: &Sandbox, arguments: &[&str], input: &str, problem: &str) {
    let arguments = [&["import", "-"], arguments].concat();
    let outcome = sandbox.pipe(&arguments, input.as_bytes()).exits(4);
    assert!(outcome.stderr.contains(problem), "{problem}: {outcome:#?}");
}

fn entry(users: &Users<'_>, user: &str, id: &str) -> Value {
    let listed = users.ask(user, ("GET", "/chat/conversations"), &Value::Null);
    let entries = listed["conversations"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["id"] == id);
    entry.unwrap_or_else(|| panic!("{listed:#}")).clone()
}

#[test]
fn two_party_rows_become_the_conversations_that_people_find() {
    let sandbox = one_shard();
    let made = import(&sandbox, &["--as", "direct"], ROWS);
    assert_eq!(
        (
            &made["messages"],
            made["conversations"].as_array().unwrap().len()
        ),
        (&json!(5), 3)
    );
    let longer = format!(
        "{ROWS}{}\n",
        ROWS.lines().last().unwrap().replace("good", "thanks")
    );
    let again = import(&sandbox, &["--as", "direct"], &longer);
    assert_eq!(
        (&again["messages"], &again["alreadyStored"]),
        (&json!(1), &json!(5))
    );

    let server = sandbox.serve(&[], 1);
    let users = Users {
        sandbox: &sandbox,
        server: &server,
    };
    let direct = |user: &str, other: &str| {
        users.make(user, &json!({ "kind": "direct", "members": [other] }))
    };
    let first = direct("shop", "cust-1");
    assert_eq!(first, direct("cust-1", "shop"));
    let customer = entry(&users, "cust-1", &first);
    assert_eq!(
        (
            &customer["kind"],
            &customer["headSeq"],
            &customer["unreadCount"]
        ),
        (&json!("direct"), &json!(4), &json!(2))
    );
    assert!(customer["title"].is_null(), "{customer:#}");
    assert_eq!(entry(&users, "shop", &first)["readSeq"], 1);
    let page = users.ask(
        "shop",
        ("GET", &format!("/chat/conversations/{first}/messages")),
        &Value::Null,
    );
    let statuses: Vec<&Value> = page["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| &message["status"])
        .collect();
    assert_eq!(statuses, ["read", "read", "sent", "sent"]);
    let second = direct("cust-2", "shop");
    let page = users.ask(
        "shop",
        ("GET", &format!("/chat/conversations/{second}/messages")),
        &Value::Null,
    );
    assert_eq!(page["messages"][0]["status"], "delivered");
    assert_eq!(entry(&users, "shop", &direct("shop", "shop"))["headSeq"], 1);

    // One that is there and empty is taken; where people have written it would be upside down.
    let empty = direct("ann", "ben");
    let talked = direct("cat", "dan");
    users.send("dan", &talked, &json!({ "content": "new" }));
    server.stop();
    let row = r#"{"user":"ben","to":"ann","at":1551441600000,"text":"old"}"#;
    assert_eq!(
        import(&sandbox, &["--as", "direct"], row)["conversations"][0]["id"],
        json!(empty)
    );
    let row = row.replace("ben", "cat").replace("ann", "dan");
    refused(
        &sandbox,
        &["--as", "direct"],
        &row,
        "have written to each other here already",
    );
}

#[test]
fn people_who_never_wrote_are_members_and_the_system_owns_nothing() {
    let sandbox = one_shard();
    let input = r#"{"channel":"a","user":"bot","at":1551441600000,"text":"x joined","type":"system"}
{"channel":"a","user":"ann","at":1551441601000,"text":"hi","status":"read"}
"#;
    let members = |lines: &str| {
        let path = sandbox.write("members.jsonl", lines);
        path.to_str().unwrap().to_owned()
    };
    let some = members(
        "{\"channel\":\"a\",\"user\":\"silent\"}\n{\"channel\":\"empty\",\"user\":\"eve\",\"role\":\"owner\"}\n",
    );
    let made = import(&sandbox, &["--as", "group", "--members", &some], input);
    let of = |title: &str| {
        let all = made["conversations"].as_array().unwrap();
        let found = all.iter().find(|it| it["title"] == title).unwrap();
        found["id"].as_str().unwrap().to_owned()
    };
    let more = members("{\"channel\":\"a\",\"user\":\"late\",\"role\":\"admin\"}\n");
    let again = import(&sandbox, &["--as", "group", "--members", &more], input);
    assert_eq!(again["messages"], 0);
    refused(&sandbox, &[], input, "was imported as another kind");

    let server = sandbox.serve(&[], 1);
    let users = Users {
        sandbox: &sandbox,
        server: &server,
    };
    let members = users.ask(
        "late",
        ("GET", &format!("/chat/conversations/{}/members", of("a"))),
        &Value::Null,
    );
    let role = |user: &str| {
        let all = members["members"].as_array().unwrap();
        all.iter()
            .find(|it| it["userId"] == user)
            .map(|it| it["role"].clone())
            .unwrap_or_default()
    };
    let roles = ["ann", "bot", "silent", "late"].map(role);
    assert_eq!(
        roles,
        [
            json!("owner"),
            json!("member"),
            json!("member"),
            json!("admin")
        ]
    );
    let silent = entry(&users, "silent", &of("a"));
    assert_eq!(
        (&silent["kind"], &silent["unreadCount"]),
        (&json!("group"), &json!(0))
    );
    assert_eq!(entry(&users, "eve", &of("empty"))["headSeq"], 0);
    server.stop();
}

#[test]
fn what_names_no_two_people_is_refused_by_line() {
    let sandbox = one_shard();
    let row = |json: &str| format!("{json}\n");
    let direct = ["--as", "direct"];
    let one = r#"{"channel":"c","user":"ann","at":1551441600000,"text":"x"}"#;
    refused(&sandbox, &direct, &row(one), "line 1: to: is missing");
    refused(
        &sandbox,
        &[],
        &row(&one.replace("\"at\"", "\"to\":\"ben\",\"at\"")),
        "line 1: to: only with --as direct",
    );
    let both = one.replace("\"at\"", "\"to\":\"ben\",\"at\"");
    let other = both.replace("ben", "cat");
    refused(
        &sandbox,
        &direct,
        &format!("{both}\n{other}\n"),
        "line 2: to: this channel is the conversation of `ann` and `ben`",
    );
    refused(
        &sandbox,
        &["--as", "direct", "--owner", "ann"],
        &row(&both),
        "leave out --owner",
    );
    refused(
        &sandbox,
        &[],
        &row(&one.replace("\"c\"", "\"\"")),
        "channel: 1 to 255 characters",
    );
    let members = sandbox.write(
        "members.jsonl",
        "{\"channel\":\"c\",\"user\":\"dan\"}\n{\"channel\":\"c\",\"user\":\"eve\"}\n",
    );
    let named = ["--as", "direct", "--members", members.to_str().unwrap()];
    refused(&sandbox, &named, &row(one), "`ann` is not one of the two");
    let by_members = import(&sandbox, &named, &row(&one.replace("\"ann\"", "\"dan\"")));
    assert_eq!(by_members["messages"], 1);
    let broken = sandbox.write("broken.jsonl", "{\"channel\":\"c\"}\n");
    refused(
        &sandbox,
        &["--members", broken.to_str().unwrap()],
        &row(one),
        "line 1: missing field `user`",
    );
}

#[test]
fn a_table_with_a_header_is_imported_by_its_columns() {
    let sandbox = one_shard();
    let columns = "--columns=user=sender_id,to=receiver_id,at=created_at,text=body,status=is_read";
    let rows = "id\tsender_id\treceiver_id\tbody\tis_read\tcreated_at\n\
        1\tann\tben\ttwo\\nlines\t1\t2019-03-01 12:00:00\n\
        2\tben\tann\tNULL\t0\t2019-03-01 12:00:01.5\n";
    let table = ["--as", "direct", "--time-zone", "UTC", columns];
    let made = import(&sandbox, &table, rows);
    assert_eq!(made["messages"], 2);
    let id = made["conversations"][0]["id"].as_str().unwrap();
    let exported = sandbox
        .run(&["export", "--conversation", id])
        .exits(0)
        .stdout;
    let times: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .collect();
    assert_eq!(
        (&times[0]["text"], &times[0]["at"]),
        (&json!("two\nlines"), &json!(1_551_441_600_000_i64))
    );
    assert_eq!(
        (&times[1]["text"], &times[1]["at"]),
        (&json!(""), &json!(1_551_441_601_500_i64))
    );

    let quoted = "sender_id,receiver_id,body,is_read,created_at\ncat,dan,\"a\nb\",1,2019-03-01 12:00:00\ncat,dan,\"open\n";
    refused(
        &sandbox,
        &table,
        quoted,
        "line 4: has a quote that is not closed",
    );
    refused(
        &sandbox,
        &["--as", "direct", columns],
        rows,
        "line 2: at: `2019-03-01 12:00:00` has no time zone",
    );
    refused(
        &sandbox,
        &table,
        "id\tbody\n",
        "line 1: no column is named `sender_id`",
    );
    refused(
        &sandbox,
        &table,
        &rows.replace("2019-03-01 12:00:00\n", "1551441600\n"),
        "looks like seconds",
    );
    sandbox
        .run(&["import", "-", "--columns", "user=a"])
        .exits(2);
    sandbox
        .run(&["import", "-", columns, "--time-zone", "Mars"])
        .exits(2);
}

#[test]
fn an_input_that_is_newest_first_is_refused() {
    let sandbox = one_shard();
    let line = |n: i64| {
        format!(
            "{{\"channel\":\"a\",\"user\":\"ann\",\"at\":{},\"text\":\"{n}\"}}\n",
            1_551_441_600_000 + n
        )
    };
    let lines = |order: &mut dyn Iterator<Item = i64>| order.map(line).collect::<String>();
    let down = sandbox.write("down.jsonl", lines(&mut (0..5).rev()));
    let outcome = sandbox.run(&["import", down.to_str().unwrap()]).exits(4);
    assert!(
        outcome.stderr.contains("newest first") && outcome.stderr.contains("tac FILE"),
        "{outcome:#?}"
    );
    refused(
        &sandbox,
        &[],
        &lines(&mut (0..50).rev()),
        "the input is newest first",
    );
    refused(
        &sandbox,
        &[],
        &lines(&mut (0..5).rev()),
        "the input is newest first",
    );
    let up = lines(&mut (0..3).chain([1, 0]));
    assert_eq!(import(&sandbox, &[], &up)["messages"], 5);
}

const NOTIFICATIONS: &str = r#"{"user":"ben","at":1551441600000,"type":"team:invitation","title":"Join us","body":"two\nlines","actionUrl":"/teams/7","read":1}
{"user":"ann","at":1551441601000,"type":"offer","title":"A new offer","priority":"high","metadata":{"a":1}}

{"user":"ben","at":1551441602000,"type":"offer","title":"A new offer","read":0}
{"user":"ben","at":1551441602000,"type":"offer","title":"Another","read":false}
"#;

#[test]
fn notifications_of_an_old_table_keep_their_times_and_whether_they_were_read() {
    let sandbox = one_shard();
    let made = import(&sandbox, &["--notifications"], NOTIFICATIONS);
    assert_eq!(
        (&made["notifications"], &made["leftOut"]),
        (&json!(4), &json!(0))
    );
    // Again, and longer.
    let longer = r#"{"user":"ben","at":1551441602000,"type":"alert","title":"Now"}"#;
    let longer = format!("{NOTIFICATIONS}{longer}\n");
    let file = sandbox.write("notifications.jsonl", &longer);
    let file = file.to_str().unwrap();
    let told = sandbox.run(&["import", file, "--notifications"]).exits(0);
    assert!(told.stdout.starts_with("1 notification,"), "{told:?}");
    assert!(told.stdout.contains("4 notifications left out"), "{told:?}");
    let server = sandbox.serve(&[], 1);
    let users = Users {
        sandbox: &sandbox,
        server: &server,
    };
    let list = users.ask("ben", ("GET", "/chat/notifications"), &Value::Null);
    let list = list["notifications"].as_array().unwrap();
    let titles: Vec<&Value> = list.iter().map(|one| &one["title"]).collect();
    assert_eq!(titles, ["Now", "Another", "A new offer", "Join us"]);
    assert_eq!(
        list[3],
        json!({
            "id": "1", "type": "team:invitation", "priority": "normal", "title": "Join us", "body": "two\nlines",
            "actionUrl": "/teams/7", "metadata": {}, "createdAt": "2019-03-01T12:00:00.000Z", "readAt": "2019-03-01T12:00:00.000Z",
        })
    );
    let unread = users.ask(
        "ben",
        ("GET", "/chat/notifications/unread-count"),
        &Value::Null,
    );
    assert_eq!(unread["total"], 3);
    let list = users.ask("ann", ("GET", "/chat/notifications"), &Value::Null);
    assert_eq!(list["notifications"][0]["metadata"], json!({"a": 1}));
}

#[test]
fn notifications_that_break_a_rule_are_refused_with_the_line() {
    let sandbox = one_shard();
    let good = r#"{"user":"ann","at":1551441601000,"type":"offer","title":"A new offer"}"#;
    for (from, to, problem) in [
        (good, "", "the input is empty"),
        (r#""ann""#, r#""""#, "line 1: a user id has 1 to 64 bytes"),
        (
            "1551441601000",
            "1551441601",
            "line 1: at: 1551441601 looks like seconds",
        ),
        ("1551441601000", "4102444800000", "is in the future"),
        (
            r#""offer""#,
            r#""an offer""#,
            "line 1: type: 1 to 64 of letters",
        ),
        (r#""title""#, r#""text""#, "line 1: unknown field `text`"),
        ("A new offer", "", "line 1: title: 1 to 255 characters"),
        (
            "}",
            r#","read":2}"#,
            "line 1: read: write true or false, 1 or 0",
        ),
        ("}", r#","actionUrl":"javascript:x"}"#, "line 1: actionUrl:"),
        ("}", "", "line 1: EOF while parsing"),
        (good, "[]", "line 1: is not a JSON object"),
        (
            "}",
            &format!("}}\n{}", good.replace("601000", "600999")),
            "line 2: at: is earlier than in the line before; sort the input by time; the lines before it are stored",
        ),
    ] {
        let input = format!("{}\n", good.replacen(from, to, 1));
        refused(&sandbox, &["--notifications"], &input, problem);
    }
    let file = sandbox.write("bad.jsonl", format!("{good}\n[]\n"));
    let file = file.to_str().unwrap();
    let told = sandbox.run(&["import", file, "--notifications"]).exits(4);
    assert!(
        told.stderr
            .contains("line 2: is not a JSON object; nothing was stored"),
        "{told:?}"
    );
    sandbox
        .run(&["import", file, "--notifications", "--as", "direct"])
        .exits(2);
}
