use std::collections::BTreeSet;
use std::path::PathBuf;

use backscroll_shard::ids::KeyFunction;
use backscroll_shard::settings::Span;

use super::*;

/// How values are written, and which variables are none.
mod forms;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config")
        .join(name)
}

fn variables(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(text: &str, given: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), variables(given))
}

/// The keys with problems, in order, and the whole message.
fn problems(text: &str, given: &[(&str, &str)]) -> (Vec<String>, String) {
    let error = load(text, given).unwrap_err();
    (
        error
            .problems
            .iter()
            .map(|problem| problem.key.clone())
            .collect(),
        error.to_string(),
    )
}

/// The keys of a section as its type knows them: what serde says when it meets a key it does not know.
fn keys_of(section: &str) -> BTreeSet<String> {
    let text = if section == "shards" {
        "[[shards]]\nno_such_key = 1".into()
    } else {
        format!("[{section}]\nno_such_key = 1")
    };
    let (_, message) = problems(&text, &[]);
    let (_, expected) = message
        .split_once("expected ")
        .unwrap_or_else(|| panic!("{section}: {message}"));
    let line = expected.lines().next().unwrap();
    line.split('`')
        .skip(1)
        .step_by(2)
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn defaults_toml_says_what_the_code_does() {
    let loaded = Config::load(Some(&shipped("defaults.toml")), []).unwrap();
    let (file, code) = (
        loaded.to_toml().unwrap(),
        Config::default().to_toml().unwrap(),
    );
    let differences: Vec<_> = file
        .lines()
        .zip(code.lines())
        .filter(|(a, b)| a != b)
        .collect();
    assert!(differences.is_empty(), "(file, code): {differences:#?}");
    assert_eq!(loaded, Config::default());
}

#[test]
fn defaults_toml_has_every_key() {
    let text = std::fs::read_to_string(shipped("defaults.toml")).unwrap();
    for section in KEYS.into_iter().filter(|key| *key != "data_dir") {
        let header = if section == "shards" {
            "[[shards]]".into()
        } else {
            format!("[{section}]")
        };
        let (_, after) = text
            .split_once(&format!("\n{header}\n"))
            .unwrap_or_else(|| panic!("no section {section}"));
        let body = after.split("\n[").next().unwrap();
        let keys = keys_of(section);
        assert!(!keys.is_empty(), "{section}");
        for key in keys {
            // A key without a default is shown commented out.
            let shown = body.lines().any(|line| {
                line.trim_start_matches("# ")
                    .starts_with(&format!("{key} = "))
            });
            assert!(shown, "{section}.{key} is not in defaults.toml");
        }
    }
}

#[test]
fn the_keys_commented_out_in_the_shipped_files_are_keys() {
    for name in ["defaults.toml", "production.toml"] {
        let text = std::fs::read_to_string(shipped(name)).unwrap();
        let mut section = "";
        for line in text.lines() {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_matches(['[', ']']);
            } else if let Some((key, _)) = line
                .strip_prefix("# ")
                .and_then(|comment| comment.split_once(" = "))
            {
                if key.contains([' ', '{']) {
                    continue; // prose, or the inside of a list
                }
                assert!(keys_of(section).contains(key), "{name}: {section}.{key}");
            }
        }
    }
}

#[test]
fn the_production_example_only_lacks_its_secrets() {
    let error = Config::load(Some(&shipped("production.toml")), []).unwrap_err();
    let keys: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    assert_eq!(keys, ["auth.secret"]);
    let secrets = variables(&[
        (
            "BACKSCROLL_AUTH__SECRET",
            "0123456789abcdef0123456789abcdef",
        ),
        (
            "BACKSCROLL_SHARDS__2__PRIMARY",
            "mysql://backscroll:hush@db3.internal/backscroll",
        ),
    ]);
    let config = Config::load(Some(&shipped("production.toml")), secrets).unwrap();
    assert!(!config.is_embedded());
    assert_eq!(config.store.shards.len(), 4);
    assert_eq!(
        config.store.shards[2].primary.0,
        "mysql://backscroll:hush@db3.internal/backscroll"
    );
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let text = r#"
        colour = "blue"
        [server]
        listen = "nowhere"
        listn = "127.0.0.1:80"
        max_body = 1
        [pool]
        max_connections = "many"
        statement_timeout = "soon"
        lock_timeout = "1ms"
        [keyspace]
        function = "random"
        ranges = [{ from = 5, shard = "db1" }, { from = 5, shard = "Nobody" }, { from = 7, shard = "db9", to = 8 }]
        [[shards]]
        name = "db1"
        primary = "mysql://h/a"
        [[shards]]
        primary = "mysql://h/b"
        [[shards]]
        name = "db1"
        primary = "postgres://h/c"
        color = 1
    "#;
    let (keys, message) = problems(
        text,
        &[
            ("BACKSCROLL_WRITE__LANES", "none"),
            ("BACKSCROLL_WRITE__LANE", "4"),
        ],
    );
    let expected = [
        "keyspace.function",
        "keyspace.ranges.1.shard",
        "keyspace.ranges.2.to",
        "shards.1",
        "shards.2.color",
        "pool.max_connections",
        "pool.statement_timeout",
        "write.lane",
        "write.lanes",
        "server.listen",
        "server.listn",
        "colour",
        "server.max_body",
        "auth.secret",
        // `shards.1` could not be read, so the third shard stands second where whole shards are compared.
        "shards.1.name",
        "shards.1.primary",
        "directory.url",
        "keyspace.ranges.0.from",
        "keyspace.ranges.1.shard",
        "pool.lock_timeout",
    ];
    let missing: Vec<_> = expected
        .iter()
        .filter(|key| !keys.iter().any(|found| found == *key))
        .collect();
    assert!(missing.is_empty(), "{missing:?} in\n{message}");
    assert!(
        message.contains("(from BACKSCROLL_WRITE__LANES)"),
        "{message}"
    );
    assert!(
        message.contains("unknown field `listn`, expected one of `listen`"),
        "{message}"
    );
    let (_, semantic) = problems("", &[("BACKSCROLL_POOL__MAX_CONNECTIONS", "0")]);
    assert!(
        semantic.contains("10000 (from BACKSCROLL_POOL__MAX_CONNECTIONS)"),
        "{semantic}"
    );
    assert!(
        message.contains("shards.1: missing field `name`"),
        "{message}"
    );
    let (_, message) = problems("pool = 3", &[]);
    assert!(
        message.contains("pool: invalid type: integer `3`, expected a table"),
        "{message}"
    );
}

#[test]
fn variables_win_over_the_file() {
    let text = "[server]\nlisten = \"127.0.0.1:1\"\n[pool]\nmax_connections = 7\n[auth]\nsecret = \"0123456789abcdef0123456789abcdef\"";
    let config = load(
        text,
        &[
            ("BACKSCROLL_SERVER__LISTEN", "[::1]:9000"),
            (
                "BACKSCROLL_SERVER__CORS_ORIGINS",
                r#"["https://a.example", "https://b.example"]"#,
            ),
            ("BACKSCROLL_POOL__STATEMENT_TIMEOUT", "10 seconds"),
            ("BACKSCROLL_KEYSPACE__FUNCTION", "numeric"),
            ("BACKSCROLL_DATA_DIR", "/tmp/elsewhere"),
            (
                "BACKSCROLL_SHARDS",
                r#"[{ name = "one", primary = "mysql://h/one" }]"#,
            ),
            ("BACKSCROLL_SHARDS__0__PRIMARY", "mysql://u:p@h/two"),
            ("BACKSCROLL_SHARDS__1__NAME", "two"),
            ("BACKSCROLL_SHARDS__1__PRIMARY", "mysql://h/three"),
            ("BACKSCROLL_DIRECTORY__URL", "mysql://h/directory"),
            ("BACKSCROLL_OBJECT_STORE__KIND", "s3"),
            ("BACKSCROLL_OBJECT_STORE__BUCKET", "12345"),
            ("BACKSCROLL_ARCHIVE__AFTER", "1 year"),
            ("BACKSCROLL_ARCHIVE__SCHEDULE", ""),
            ("BACKSCROLL_TEST_SQL_URL", "for the tests, not for us"),
            ("BACKSCROLL_CONFIG", "the option's own variable"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.server.listen, "[::1]:9000".parse().unwrap());
    assert_eq!(
        config.server.cors_origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.store.pool.max_connections, 7);
    assert_eq!(config.store.pool.statement_timeout, Span::secs(10));
    assert_eq!(config.store.keyspace.function, KeyFunction::Numeric);
    assert_eq!(config.data_dir, Path::new("/tmp/elsewhere"));
    assert_eq!(config.object_store.bucket, "12345");
    assert_eq!(config.archive.after.to_string(), "1 year");
    assert_eq!(config.archive.schedule, "");
    let primaries: Vec<&str> = config
        .store
        .shards
        .iter()
        .map(|shard| shard.primary.0.as_str())
        .collect();
    assert_eq!(primaries, ["mysql://u:p@h/two", "mysql://h/three"]);
}

#[test]
fn a_text_that_reads_as_toml_is_still_a_text() {
    let digits = "12345678901234567"; // a TOML integer
    let config = load(
        "",
        &[
            ("BACKSCROLL_AUTH__SECRET", &format!("{digits}{digits}")),
            ("BACKSCROLL_TELEMETRY__LOG", "off"),
        ],
    );
    assert_eq!(config.unwrap().auth.secret.expose().len(), 34);
    let config = load(
        "",
        &[
            ("BACKSCROLL_AUTH__ISSUER", "42"),
            ("BACKSCROLL_AUTH__AUDIENCE", "true"),
        ],
    )
    .unwrap();
    assert_eq!(config.auth.issuer.as_deref(), Some("42"));
    assert_eq!(config.auth.audience.as_deref(), Some("true"));
}

#[test]
fn variables_that_name_no_key_are_refused() {
    let (keys, message) = problems(
        "",
        &[
            ("BACKSCROLL_SERVER__LISTN", "127.0.0.1:80"),
            ("BACKSCROLL_SERVR__LISTEN", "127.0.0.1:80"),
            ("BACKSCROLL_SERVER__LISTEN__PORT", "80"),
            ("BACKSCROLL_SERVER__LISTEN", "127.0.0.1:80"),
            ("BACKSCROLL___", "x"),
            ("BACKSCROLL_SERVER__CORS_ORIGINS__7", "x"),
        ],
    );
    for key in [
        "server.listn",
        "servr",
        "BACKSCROLL_SERVER__LISTEN__PORT",
        "BACKSCROLL___",
        "BACKSCROLL_SERVER__CORS_ORIGINS__7",
    ] {
        assert!(keys.iter().any(|found| found == key), "{key} in {message}");
    }
}

#[test]
fn secrets_are_never_shown() {
    const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";
    let url = format!("mysql://bs:{SECRET}@h/");
    let objects = format!(
        "[object_store]\nkind = \"s3\"\nbucket = \"b-1\"\naccess_key_id = \"id\"\nsecret_access_key = \"{SECRET}\""
    );
    let text = format!(
        "[auth]\nsecret = \"{SECRET}\"\n[directory]\nurl = \"{url}directory\"\n{objects}\n[[shards]]\nname = \"a\"\nprimary = \"{url}a\"\nreplicas = [\"{url}r\"]"
    );
    let config = load(&text, &[]).unwrap();
    for shown in [
        config.to_toml().unwrap(),
        format!("{config:?}"),
        serde_json::to_string(&config).unwrap(),
    ] {
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("***"), "{shown}");
    }
    let broken = [
        format!("[auth]\nsecret = \"{SECRET}\nx"),       // not TOML
        format!("[auth]\nsecret = [\"{SECRET}\"]"),      // another type
        format!("[auth]\nother_secrets = \"{SECRET}\""), // another type
        format!("[[shards]]\nname = \"a\"\nprimary = \"bs:{SECRET}@h\""), // not an address
        format!("[[shards]]\nname = \"a\"\nprimary = \"mysql://bs:{SECRET}@h:port/a\""), // nor this
        format!("[[shards]]\nname = \"a\"\nprimary = \"postgres://bs:{SECRET}@h/a\""),
        format!("[[shards]]\nname = \"a\"\nprimary = {{ url = \"{SECRET}\" }}"),
        format!("[directory]\nurl = \"mysql://bs:{SECRET}@h\""), // no database
        format!("[object_store]\nsecret_access_key = [\"{SECRET}\"]"),
        format!("[object_store]\nkind = \"s3\"\nsecret_access_key = \"{SECRET}\""), // no bucket, no id
        format!("[auth]\nalgorithm = \"RS256\"\njwks_url = \"https://h/\"\nsecret = \"{SECRET}\""),
    ];
    for text in broken {
        let error = load(&text, &[]).unwrap_err();
        let (shown, debug) = (error.to_string(), format!("{error:?}"));
        assert!(
            !shown.contains("hunter2") && !debug.contains("hunter2"),
            "{text}\n→ {shown}"
        );
    }
    let error = load(
        "",
        &[
            ("BACKSCROLL_AUTH__SECRET", "hunter2"),
            ("BACKSCROLL_SHARDS", "hunter2"),
        ],
    )
    .unwrap_err()
    .to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_syntax_error_says_the_line() {
    let error = load(
        "[server]\nlisten = \"127.0.0.1:80\"\nlisten = \"127.0.0.1:81\"\n",
        &[],
    )
    .unwrap_err();
    assert_eq!(error.problems[0].key, "line 3");
    assert!(
        error.problems[0].problem.contains("duplicate key"),
        "{error}"
    );
    let error = Config::load(Some(Path::new("/nonexistent.toml")), []).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/nonexistent.toml: cannot be read"),
        "{error}"
    );
}

#[test]
fn values_must_fit_together() {
    let no_objects = "[auth]\nsecret = \"0123456789abcdef0123456789abcdef\"\n[directory]\nurl = \"mysql://h/directory\"\n";
    let mysql = &format!("{no_objects}[object_store]\npath = \"/mnt/shared\"\n");
    let shard =
        |name: &str, url: &str| format!("[[shards]]\nname = \"{name}\"\nprimary = \"{url}\"\n");
    let good = format!(
        "{mysql}{}{}",
        shard("a", "mysql://h/a"),
        shard("b", "mysql://h:3307/a")
    );
    load(&good, &[]).unwrap();
    let cases = [
        ("shards = []".to_owned(), "shards"),
        (format!("{mysql}{}", shard("a", "sqlite://a.db")), "shards.0.primary"),
        (shard("a", "mysql://h/a"), "directory.url"),
        (format!("{mysql}{}{}", shard("a", "mysql://h/a"), shard("b", "mysql://h:3306/a")), "shards.1.primary"),
        (format!("{mysql}{}", shard("a", "mysql://h/directory")), "shards.0.primary"),
        (format!("{mysql}{}", shard("a", "mysql://h")), "shards.0.primary"),
        ("[[shards]]\nname = \"a\"\nprimary = \"sqlite://a.db\"\nreplicas = [\"sqlite://b.db\"]".into(), "shards.0.replicas.0"),
        ("[keyspace]\nranges = [{ from = 1, shard = \"shard1\" }]".into(), "keyspace.ranges.0.from"),
        ("[keyspace]\nranges = [{ from = 0, shard = \"shard1\" }, { from = 0, shard = \"shard2\" }]".into(), "keyspace.ranges.1.from"),
        ("[keyspace]\nranges = [{ from = 0, shard = \"other\" }]".into(), "keyspace.ranges.0.shard"),
        ("[pool]\nmax_connections = 0".into(), "pool.max_connections"),
        ("[write]\nqueue = 10".into(), "write.queue"),
        ("[write]\nmax_batch = 0".into(), "write.max_batch"),
        ("[write]\ngather = \"1s\"".into(), "write.gather"),
        ("[relay]\ninterval = \"0s\"".into(), "relay.interval"),
        ("[rebalance]\nload = 0".into(), "rebalance.load"),
        ("[rebalance]\nmin_gain = 0".into(), "rebalance.min_gain"),
        ("[rebalance]\nmax_threads_running = 0".into(), "rebalance.max_threads_running"),
        ("[rebalance]\nmax_latency = \"0s\"".into(), "rebalance.max_latency"),
        ("[rebalance]\nweight_rows = 0\nweight_bytes = 0\nweight_writes = 0".into(), "rebalance.weight_rows"),
        ("[rebalance]\nfreeze_lease = \"1s\"".into(), "rebalance.freeze_lease"),
        ("[limits]\nmessage_characters = 0".into(), "limits.message_characters"),
        ("[limits]\nreads_at_once = 0".into(), "limits.reads_at_once"),
        ("[search]\nat_once = 0".into(), "search.at_once"),
        ("[search]\ntime = \"1ms\"".into(), "search.time"),
        ("[telemetry]\nlog = \"\"".into(), "telemetry.log"),
        ("data_dir = \"a?mode=ro\"".into(), "data_dir"),
        (format!("{no_objects}{}", shard("a", "mysql://h/a")), "object_store.path"),
        ("[object_store]\nkind = \"s3\"".into(), "object_store.bucket"),
        ("[object_store]\nmax_requests = 0".into(), "object_store.max_requests"),
        ("[media]\nunused_after = \"1 minute\"".into(), "media.unused_after"),
        ("[media]\nclamd = \"clamd:3310\"".into(), "media.clamd"),
        ("[media]\nclamd = \"tcp://clamd:3310\"\nscan_time = \"10s\"".into(), "media.scan_time"),
        ("[media]\ncdn = \"https://cdn.example\"".into(), "media.cdn"),
        ("[archive]\nafter = \"29 days\"".into(), "archive.after"),
        ("[archive]\nafter = \"1 month\"".into(), "archive.after"),
        ("[limits]\nidempotency = \"1 day\"\n[archive]\nafter = \"5 seconds\"".into(), "archive.after"),
        ("[limits]\nidempotency = \"200 days\"".into(), "archive.after"),
        ("[limits]\nidempotency = \"23 hours\"".into(), "limits.idempotency"),
        ("[archive]\nafter = \"5s\"".into(), "archive.after"),
        ("[archive]\nschedule = \"nightly\"".into(), "archive.schedule"),
    ];
    for (text, key) in cases {
        let (keys, message) = problems(&text, &[]);
        assert!(
            keys.iter().any(|found| found == key),
            "{key} in {message}\n{text}"
        );
    }
}

#[test]
fn embedded_databases_are_in_the_data_folder() {
    let config = load(
        "data_dir = \"/srv/chat\"\n[directory]\nrefresh_interval = \"2s\"",
        &[],
    )
    .unwrap();
    assert_eq!(
        config.store.directory.url.0,
        "sqlite:///srv/chat/directory.db"
    );
    assert_eq!(config.store.directory.refresh_interval, Span::secs(2));
    assert_eq!(
        config.store.shards[3].primary.0,
        "sqlite:///srv/chat/shard4.db"
    );
    assert_eq!(config.object_store.path, Path::new("/srv/chat/objects"));
    let elsewhere = config.clone().embedded_in(Path::new("/srv/demo"));
    assert_eq!(elsewhere.object_store.path, Path::new("/srv/demo/objects"));
    assert!(config.is_embedded() && config.uses_embedded_secret());
}
