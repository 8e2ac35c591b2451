//! `import --format`: the exports of other systems, and `--dry-run`.

mod cases;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::deployments::{Users, one_shard};
use crate::harness::Sandbox;
use cases::{ANDROID, Case, DISCORD, IOS, MATTERMOST, MESSENGER, SLACK, TELEGRAM};

/// Copies the sample; gives its path and that of the file that tests change.
fn copy(case: &Case, sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cli/exports")
        .join(case.sample);
    let extension = Path::new(case.sample).extension().unwrap_or_default();
    let target = sandbox.path("export").with_extension(extension);
    copy_all(&source, &target);
    let file = match case.file {
        "" => target.clone(),
        file => target.join(file),
    };
    (target, file)
}

fn copy_all(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let name = entry.unwrap().file_name();
        copy_all(&from.join(&name), &to.join(&name));
    }
}

#[track_caller]
fn replace(file: &Path, (from, to): (&str, &str)) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from}: {text}");
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

/// Puts what is in a folder into a ZIP file.
fn zip(folder: &Path, file: &Path) {
    let mut zip = ZipWriter::new(fs::File::create(file).unwrap());
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in next.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(&fs::read(&path).unwrap()).unwrap();
        }
    }
    zip.finish().unwrap();
}

#[track_caller]
fn check(case: &Case) {
    check_as(case, false);
}

/// With the export as it is, or as a ZIP file.
#[track_caller]
fn check_as(case: &Case, is_zipped: bool) {
    let sandbox = one_shard();
    let (path, file) = copy(case, &sandbox);
    let zipped = path.with_extension("zip");
    let input = if is_zipped { &zipped } else { &path };
    let whole = [
        &["import", input.to_str().unwrap(), "--format", case.format],
        case.arguments,
    ]
    .concat();
    let run = |more: &[&str]| {
        if is_zipped {
            zip(&path, &zipped);
        }
        sandbox.run(&[&whole, more].concat())
    };

    let dry = run(&["--dry-run"]).exits(0).stdout;
    assert!(dry.starts_with("Dry run: nothing was written.\n"), "{dry}");
    for shown in case.shows {
        assert!(dry.contains(shown), "{shown}\n---\n{dry}");
    }
    assert!(!sandbox.path("s1.db").exists());
    let dry = run(&["--dry-run", "--json"]).exits(0).json();
    let expected: usize = case
        .messages
        .iter()
        .map(|(_, messages)| messages.len())
        .sum();
    assert_eq!(dry["messages"], expected, "{dry:#}");

    let made = run(&["--json"]).exits(0).json();
    assert_eq!(made["messages"], expected, "{made:#}");
    for (title, messages) in case.messages {
        assert_eq!(texts(&sandbox, &made, title), *messages, "{title}");
    }
    let again = run(&["--json"]).exits(0).json();
    assert_eq!(
        (&again["messages"], &again["alreadyStored"]),
        (&0.into(), &expected.into())
    );

    let before = fs::read(&file).unwrap();
    replace(&file, case.longer);
    let longer = run(&["--json"]).exits(0).json();
    assert_eq!(
        (&longer["messages"], &longer["alreadyStored"]),
        (&1.into(), &expected.into())
    );
    replace(&file, case.changed);
    let refused = run(&[]).exits(4).stderr;
    assert!(
        refused.contains("they are not the beginning of this input; nothing was changed"),
        "{refused}"
    );

    fs::write(&file, &before).unwrap();
    let (from, to, told) = case.broken;
    replace(&file, (from, to));
    for more in [&["--dry-run"][..], &[]] {
        let refused = run(more).exits(4).stderr;
        assert!(refused.contains(told), "{told}\n---\n{refused}");
    }
    for (bytes, told) in [
        (&b""[..], "is empty"),
        (b" \n", "is empty"),
        (b"\x1f\x8b\x08\0rest", "compressed with gzip; unpack it"),
        (b"\xff\xfe{\0\"\0", "text in UTF-16; convert it to UTF-8"),
        (b"{\"a\": \xff", "is not UTF-8"),
    ] {
        fs::write(&file, bytes).unwrap();
        let refused = run(&[]).exits(4).stderr;
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(
            refused.contains(told) && refused.contains(name),
            "{told}\n---\n{refused}"
        );
        let named = format!("{}/", input.display());
        assert!(!is_zipped || refused.contains(&named), "{refused}");
    }
}

/// What `export` has of a conversation, without its name.
#[track_caller]
fn texts(sandbox: &Sandbox, made: &Value, title: &str) -> Vec<String> {
    let all = made["conversations"].as_array().unwrap();
    let found = all.iter().find(|it| it["title"] == title);
    let id = found.unwrap_or_else(|| panic!("{title}: {made:#}"))["id"]
        .as_str()
        .unwrap();
    let exported = sandbox
        .run(&["export", "--conversation", id])
        .exits(0)
        .stdout;
    let rest = |line: &str| line[line.find("\"user\"").unwrap()..].to_owned();
    exported.lines().map(rest).collect()
}

#[test]
fn slack() {
    check(&SLACK);
}

#[test]
fn zip_files_as_they_are_downloaded() {
    for case in [&SLACK, &MESSENGER] {
        check_as(case, true);
    }
}

#[test]
fn mattermost() {
    check(&MATTERMOST);
}

#[test]
fn discord() {
    check(&DISCORD);
}

#[test]
fn whatsapp_of_android() {
    check(&ANDROID);
}

#[test]
fn whatsapp_of_ios() {
    check(&IOS);
}

#[test]
fn messenger() {
    check(&MESSENGER);
}

#[test]
fn telegram() {
    check(&TELEGRAM);
}

#[test]
fn people_who_never_wrote_are_members_under_the_names_given() {
    let sandbox = one_shard();
    let (path, _) = copy(&SLACK, &sandbox);
    let people = sandbox.write(
        "people.jsonl",
        "{\"from\":\"U1\",\"user\":\"alice\"}\n{\"from\":\"U2\",\"user\":\"benjamin\"}\n",
    );
    let arguments = [
        "import",
        path.to_str().unwrap(),
        "--format",
        "slack",
        "--people",
        people.to_str().unwrap(),
        "--json",
    ];
    let made = sandbox.run(&arguments).exits(0).json();
    let of = |title: &str| {
        let all = made["conversations"].as_array().unwrap();
        all.iter().find(|it| it["title"] == title).unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let server = sandbox.serve(&[], 1);
    let users = Users {
        sandbox: &sandbox,
        server: &server,
    };
    let path = format!("/chat/conversations/{}/members", of("general"));
    let members = users.ask("U3", ("GET", &path), &Value::Null);
    let role = |user: &str| {
        let all = members["members"].as_array().unwrap();
        all.iter()
            .find(|it| it["userId"] == user)
            .map(|it| it["role"].clone())
            .unwrap_or_default()
    };
    assert_eq!(
        ["alice", "benjamin", "U3"].map(role),
        ["owner", "member", "member"]
    );
    // What people find when they write to each other.
    let direct = users.make(
        "benjamin",
        &serde_json::json!({ "kind": "direct", "members": ["alice"] }),
    );
    assert_eq!(direct, of("alice\tbenjamin"));
    server.stop();
}

#[test]
fn what_an_export_does_not_say_is_asked_for() {
    let sandbox = one_shard();
    let chat = sandbox.write(
        "chat.txt",
        "1/2/20, 9:15 PM - Ann: x\n3/4/20, 9:15 PM - Ann: y\n",
    );
    let chat = chat.to_str().unwrap();
    let whatsapp = ["import", chat, "--format", "whatsapp", "--dry-run"];
    let zone = ["--time-zone", "UTC"];
    for (arguments, told) in [
        (
            whatsapp.to_vec(),
            "its times have no zone; say that of the phone with --time-zone",
        ),
        (
            [&whatsapp[..], &zone].concat(),
            "say which: --date-order dmy or --date-order mdy",
        ),
        (
            [
                &whatsapp[..],
                &zone,
                &["--as", "direct", "--date-order", "dmy"],
            ]
            .concat(),
            "only one person wrote, whose export does not name the other: 2",
        ),
        (
            vec!["import", "-", "--format", "slack"],
            "the input is a file or a folder",
        ),
        (
            vec!["import", chat, "--format", "slack"],
            "is neither a ZIP file nor a folder",
        ),
        (
            vec!["import", chat, "--format", "slack", "--as", "group"],
            "--as is for whatsapp",
        ),
        (
            vec!["import", chat, "--time-zone", "UTC"],
            "--time-zone is for --columns and --format",
        ),
    ] {
        let refused = sandbox.run(&arguments).exits(4).stderr;
        assert!(refused.contains(told), "{told}\n---\n{refused}");
    }
    let dry = |order| {
        let arguments = [&whatsapp[..], &zone, &["--json", "--date-order", order]].concat();
        sandbox.run(&arguments).exits(0).json()["conversations"]["chat"]["first"].clone()
    };
    assert_eq!(
        (dry("dmy"), dry("mdy")),
        (
            "2020-02-01T21:15:00+00:00[UTC]".into(),
            "2020-01-02T21:15:00+00:00[UTC]".into()
        )
    );
}

#[test]
fn a_dry_run_of_our_own_lines_writes_nothing() {
    let sandbox = one_shard();
    let lines = "{\"channel\":\"a\\u001b[2J\",\"user\":\"ann\",\"at\":1551441600000,\"text\":\"x\",\"reactions\":{\"👍\":[\"ben\",\"cat\"]}}\n\
        {\"channel\":\"a\\u001b[2J\",\"user\":\"ben\",\"at\":1551441601000,\"text\":\"y\",\"replyTo\":1,\"attachments\":[{\"url\":\"x\"}]}\n";
    let dry = sandbox
        .pipe(&["import", "-", "--dry-run"], lines.as_bytes())
        .exits(0)
        .stdout;
    for shown in [
        "People: 2\n  ann\n  ben\n",
        "  channel a\\u{1b}[2J: 2 messages, 2 members, 2019-03-01T12:00:00+00:00[UTC] to 2019-03-01T12:00:01+00:00[UTC]\n",
        "Messages: 2\n  replies: 1\n  reactions: 2\n",
        "  attachments (name,",
    ] {
        assert!(dry.contains(shown), "{shown}\n---\n{dry}");
    }
    let bad = format!("{lines}{{}}\n");
    let refused = sandbox
        .pipe(&["import", "-", "--dry-run"], bad.as_bytes())
        .exits(4);
    assert!(
        refused.stdout.contains("Messages: 2") && refused.stderr.contains("line 3: missing field"),
        "{refused:#?}"
    );
    sandbox.pipe(&["import", "-", "--dry-run"], b"").exits(4);
    assert!(!sandbox.path("s1.db").exists());
}
