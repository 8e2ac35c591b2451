//! `migrate`, `serve`, `doctor` and `shards list` on a SQL server, whole and broken.

use std::time::{Duration, Instant};

use backscroll_testkit::{Mode, Proxy, TestDatabases, redis_url, socket_address, sql_server_url};
use serde_json::Value;
use sqlx::mysql::MySqlRow;
use sqlx::{Connection as _, MySqlConnection, Row as _};

use crate::harness::{Sandbox, get};
use crate::import::{assert_exported, history};
use crate::own_redis::OwnRedis;

/// The findings of `doctor` about a subject.
fn about<'a>(findings: &'a Value, subject: &str) -> Vec<&'a Value> {
    findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["subject"].as_str().unwrap().contains(subject))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmigrated_deployment_is_refused_then_migrated_then_served() {
    let databases = TestDatabases::create(3).await;
    let sandbox = Sandbox::new().on_databases(&databases.urls());

    for arguments in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["import", "-"],
        &["shards", "list"],
    ] {
        let refused = sandbox.run(arguments).exits(1);
        assert!(
            refused.stderr.contains("run `backscroll migrate`"),
            "{refused:#?}"
        );
        assert!(refused.stderr.contains("db2 (mysql://"), "{refused:#?}");
    }
    let sick = sandbox.run(&["doctor", "--json"]).exits(1).json();
    assert_eq!(
        about(&sick, "schema of shard db1")[0]["verdict"],
        "failure",
        "{sick:#}"
    );
    assert!(
        about(&sick, "schema of directory")[0]["remedy"]
            .as_str()
            .unwrap()
            .contains("backscroll migrate"),
        "{sick:#}"
    );

    let planned = sandbox.run(&["migrate", "--dry-run"]).exits(0).stdout;
    assert!(
        planned.contains("db1: would apply 0001_fences"),
        "{planned}"
    );
    sandbox.run(&["shards", "list"]).exits(1); // nothing was done
    let done = sandbox.run(&["migrate", "--json"]).exits(0).json();
    assert_eq!(done.as_array().unwrap().len(), 3);
    let again = sandbox.run(&["migrate"]).exits(0).stdout;
    assert_eq!(
        again,
        "directory: up to date\ndb1: up to date\ndb2: up to date\n"
    );

    let healthy = sandbox.run(&["doctor", "--json"]).exits(0).json();
    assert!(
        healthy
            .as_array()
            .unwrap()
            .iter()
            .all(|finding| finding["verdict"] != "failure"),
        "{healthy:#}"
    );
    assert_eq!(about(&healthy, "ranges of shard").len(), 2);
    let listed = sandbox.run(&["shards", "list"]).exits(0).stdout;
    assert!(
        listed.lines().nth(2).unwrap().starts_with("db2    up "),
        "{listed}"
    );
    assert!(listed.contains("50.0 %"), "{listed}");

    let input = history(4000, 21);
    let summary = sandbox
        .pipe(&["import", "-", "--json"], input.as_bytes())
        .exits(0)
        .json();
    assert_exported(&sandbox, &summary, &input);

    let server = sandbox.serve(&[], 1);
    let token = sandbox.run(&["token", "--user", "alice"]).exits(0).stdout;
    let (status, list) = get(
        &format!("{}/chat/conversations", server.url()),
        token.trim(),
    );
    assert_eq!(
        (status, list["conversations"].as_array().unwrap().len()),
        (200, 3)
    );
    // The servers of the tests are not durable, unless they are asked to be.
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::env::var("BACKSCROLL_SQL_DURABLE").is_err() {
        let log = sandbox.log();
        let told = |subject: &str| {
            let line = log
                .lines()
                .find(|line| line.contains(subject) && line.contains("WARN"));
            line.is_some_and(|line| line.contains("innodb_flush_log_at_trx_commit is not 1"))
        };
        if told("directory") && told("shard db1") && told("shard db2") {
            break;
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop();
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_the_database_that_is_dead_and_serve_goes_on_without_it() {
    let databases = TestDatabases::create(3).await;
    let mut urls = databases.urls();
    let proxy = Proxy::start(socket_address(&sql_server_url()));
    urls[2] = proxy.url(&urls[2]);
    let sandbox = Sandbox::new().on_databases(&urls);
    sandbox.run(&["migrate"]).exits(0);
    proxy.set(Mode::Cut).await;

    let outcome = sandbox.run(&["doctor", "--json"]).exits(1);
    let findings = outcome.json();
    let failures: Vec<&Value> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["verdict"] == "failure")
        .collect();
    assert_eq!(failures.len(), 1, "{failures:#?}");
    assert_eq!(failures[0]["subject"], "shard db2");
    assert!(
        failures[0]["detail"]
            .as_str()
            .unwrap()
            .contains("Connection refused"),
        "{failures:#?}"
    );
    assert!(
        failures[0]["remedy"]
            .as_str()
            .unwrap()
            .contains("server runs"),
        "{failures:#?}"
    );
    let text = sandbox.run(&["doctor"]).exits(1);
    assert!(text.stdout.contains("FAIL  shard db2: "), "{text:#?}");

    let listed = sandbox.run(&["shards", "list"]).exits(0);
    assert!(
        listed
            .stdout
            .lines()
            .nth(2)
            .unwrap()
            .starts_with("db2    DOWN "),
        "{listed:#?}"
    );
    let refused = sandbox.run(&["migrate"]).exits(1);
    assert!(
        refused.stderr.contains("cannot use\n  db2 (mysql://"),
        "{refused:#?}"
    );

    // Whoever lives on the other shard is served.
    let server = sandbox.serve(&[], 1);
    let statuses: Vec<u16> = [
        "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi",
    ]
    .iter()
    .map(|user| {
        let token = sandbox.run(&["token", "--user", user]).exits(0).stdout;
        get(
            &format!("{}/chat/conversations", server.url()),
            token.trim(),
        )
        .0
    })
    .collect();
    assert!(
        statuses.contains(&200) && statuses.contains(&503),
        "{statuses:?}"
    );
    drop(server);
    databases.drop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_sees_fences_that_disagree_with_the_map_and_a_database_it_may_not_write() {
    let databases = TestDatabases::create(3).await;
    let urls = databases.urls();
    let sandbox = Sandbox::new().on_databases(&urls);
    sandbox.run(&["migrate"]).exits(0);
    let mut shard = MySqlConnection::connect(&urls[1]).await.unwrap();
    sqlx::query("UPDATE fences SET epoch = 7")
        .execute(&mut shard)
        .await
        .unwrap();
    let findings = sandbox.run(&["doctor", "--json"]).exits(1).json();
    let identity = about(&findings, "identity of shard db1");
    assert_eq!(identity[0]["verdict"], "failure", "{findings:#}");
    let lost = "without the fences of 0..9223372036854775808 at epoch 1";
    assert!(
        identity[0]["detail"].as_str().unwrap().contains(lost),
        "{findings:#}"
    );
    assert_eq!(about(&findings, "ranges of shard db2")[0]["verdict"], "ok");
    sqlx::query("UPDATE fences SET epoch = 1")
        .execute(&mut shard)
        .await
        .unwrap();

    // An account that may only read.
    let name = urls[1].rsplit('/').next().unwrap();
    let reader = format!("r{}", &name[name.len() - 12..]);
    let mut server = MySqlConnection::connect(&sql_server_url()).await.unwrap();
    let statements = [
        format!("CREATE USER '{reader}'@'%'"),
        format!("GRANT SELECT ON {name}.* TO '{reader}'@'%'"),
    ];
    for statement in statements {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut server)
            .await
            .unwrap();
    }
    let read_only = urls[1].replace("root@", &format!("{reader}@"));
    let sandbox = sandbox.with("BACKSCROLL_SHARDS__0__PRIMARY", read_only);
    let findings = sandbox.run(&["doctor", "--json"]).exits(1).json();
    let failures: Vec<&Value> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["verdict"] == "failure")
        .collect();
    assert_eq!(failures.len(), 1, "{failures:#?}");
    assert!(
        failures[0]["detail"]
            .as_str()
            .unwrap()
            .starts_with("cannot be written"),
        "{failures:#?}"
    );
    assert!(
        failures[0]["remedy"].as_str().unwrap().contains("grant"),
        "{failures:#?}"
    );
    let drop_user = format!("DROP USER '{reader}'@'%'");
    sqlx::query(sqlx::AssertSqlSafe(drop_user))
        .execute(&mut server)
        .await
        .unwrap();
    shard.close().await.unwrap();
    databases.drop_all().await;
}

#[test]
fn doctor_looks_into_embedded_data_without_making_any() {
    let sandbox = Sandbox::new();
    let before = sandbox.run(&["doctor", "--json"]).exits(0).json();
    assert_eq!(about(&before, "data folder")[0]["verdict"], "warning");
    assert!(!sandbox.path("backscroll-data").exists());

    sandbox.serve(&[], 1).stop();
    let healthy = sandbox.run(&["doctor"]).exits(0);
    assert!(
        healthy
            .stdout
            .contains("ok    shard shard4: sqlite://backscroll-data/shard4.db answers"),
        "{healthy:#?}"
    );
    assert!(healthy.stderr.contains("all is well"), "{healthy:#?}");

    std::fs::remove_file(sandbox.path("backscroll-data/shard3.db")).unwrap();
    let sick = sandbox.run(&["doctor", "--json"]).exits(1).json();
    assert!(
        sick.as_array().unwrap().iter().any(|finding| {
            finding["verdict"] == "failure"
                && finding["subject"].as_str().unwrap().contains("shard3")
        }),
        "{sick:#}"
    );
    assert!(!sandbox.path("backscroll-data/shard3.db").exists());
}

/// What the first query of `import --help` on a table gives, run on it.
async fn lines_as_the_help_says(
    sandbox: &Sandbox,
    server: &mut MySqlConnection,
    table: &str,
) -> String {
    let help = sandbox.run(&["import", "--help"]).exits(0).stdout;
    let queries = help.split("SELECT JSON_OBJECT(").skip(1);
    let mut queries = queries.map(|rest| rest.split_once("olddb |").unwrap().0);
    let from = format!("FROM {table} ");
    let columns = queries.find(|query| query.contains(&from)).unwrap();
    let select = format!(
        "SELECT JSON_OBJECT({}",
        columns.trim().trim_end_matches('"')
    );
    sqlx::query("SET time_zone = '+00:00'")
        .execute(&mut *server)
        .await
        .unwrap();
    let rows = sqlx::query(sqlx::AssertSqlSafe(select))
        .fetch_all(server)
        .await
        .unwrap();
    // As text, whether the server calls it JSON (MySQL) or text (MariaDB).
    let line = |row: &MySqlRow| row.try_get_unchecked::<String, _>(0).unwrap() + "\n";
    rows.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_notifications_table_is_moved_as_the_help_says() {
    let databases = TestDatabases::create(1).await;
    let mut old = MySqlConnection::connect(&databases.urls()[0])
        .await
        .unwrap();
    let statements = [
        "CREATE TABLE notifications (
             id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL, type VARCHAR(50) NOT NULL, title VARCHAR(200) NOT NULL,
             message TEXT NULL, is_read TINYINT(1) NOT NULL, created_at DATETIME(3) NOT NULL
         ) DEFAULT CHARACTER SET utf8mb4",
        r#"INSERT INTO notifications (user_id, type, title, message, is_read, created_at) VALUES
             (7, 'offer', 'A "new" offer 😀', 'two\nlines', 0, '2019-03-01 12:00:01.125'),
             (7, 'team_invitation', 'Join us', NULL, 1, '2019-03-01 12:00:00')"#,
    ];
    for statement in statements {
        sqlx::query(statement).execute(&mut old).await.unwrap();
    }
    let sandbox = Sandbox::new();
    let lines = lines_as_the_help_says(&sandbox, &mut old, "notifications").await;
    let arguments = ["import", "-", "--json", "--notifications"];
    let summary = sandbox.pipe(&arguments, lines.as_bytes()).exits(0).json();
    assert_eq!(summary["notifications"], 2);
    let exported = sandbox.run(&["export", "--all"]).exits(0).stdout;
    for words in [
        r#"A \"new\" offer 😀"#,
        r"two\nlines",
        "team_invitation",
        "1551441601125",
    ] {
        assert!(exported.contains(words), "{words}: {exported}");
    }
    old.close().await.unwrap();
    databases.drop_all().await;
}

/// The query for an old `messages` table that `import --help` shows, run on one.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_messages_table_is_moved_as_the_help_says() {
    let databases = TestDatabases::create(1).await;
    let mut old = MySqlConnection::connect(&databases.urls()[0])
        .await
        .unwrap();
    let statements = [
        "CREATE TABLE messages (
             id BIGINT AUTO_INCREMENT PRIMARY KEY, room_id BIGINT NOT NULL, sender_id BIGINT NOT NULL, body TEXT NOT NULL, created_at DATETIME(3) NOT NULL
         ) DEFAULT CHARACTER SET utf8mb4",
        r#"INSERT INTO messages (room_id, sender_id, body, created_at) VALUES
             (1, 100, 'hello "you"', '2019-03-01 12:00:00.125'),
             (2, 300, 'another room', '2019-03-01 12:00:00.500'),
             (1, 200, 'two\nlines, a \\ and a \t tab', '2019-03-01 12:00:01'),
             (1, 100, '日本語 😀', '2019-03-31 02:30:00'),
             (1, 200, 'same moment, first', '2019-04-01 00:00:00'),
             (1, 100, 'same moment, second', '2019-04-01 00:00:00')"#,
    ];
    for statement in statements {
        sqlx::query(statement).execute(&mut old).await.unwrap();
    }
    let sandbox = Sandbox::new();
    let lines = lines_as_the_help_says(&sandbox, &mut old, "messages").await;
    let summary = sandbox
        .pipe(&["import", "-", "--json"], lines.as_bytes())
        .exits(0)
        .json();
    assert_eq!(summary["messages"], 6);

    let first = &summary["conversations"][0];
    assert_eq!(
        (first["title"].as_str(), first["messages"].as_u64()),
        (Some("1"), Some(5))
    );
    let exported = sandbox
        .run(&["export", "--conversation", first["id"].as_str().unwrap()])
        .exits(0)
        .stdout;
    let expected = concat!(
        r#"{"channel":"1","user":"100","at":1551441600125,"text":"hello \"you\""}"#,
        "\n",
        r#"{"channel":"1","user":"200","at":1551441601000,"text":"two\nlines, a \\ and a \t tab"}"#,
        "\n",
        r#"{"channel":"1","user":"100","at":1553999400000,"text":"日本語 😀"}"#,
        "\n",
        r#"{"channel":"1","user":"200","at":1554076800000,"text":"same moment, first"}"#,
        "\n",
        r#"{"channel":"1","user":"100","at":1554076800000,"text":"same moment, second"}"#,
        "\n",
    );
    assert_eq!(exported, expected);
    old.close().await.unwrap();
    databases.drop_all().await;
}

#[test]
fn doctor_tries_redis_and_serve_goes_on_without_it() {
    for (url, verdict) in [
        (redis_url(), "ok"),
        ("redis://127.0.0.1:1/".to_owned(), "failure"),
    ] {
        let sandbox = Sandbox::new().with("BACKSCROLL_REDIS__URL", url);
        sandbox.serve(&[], 1).stop();
        let findings = sandbox.run(&["doctor", "--json"]).json();
        assert_eq!(
            about(&findings, "redis")[0]["verdict"],
            verdict,
            "{findings:#}"
        );
    }
}

#[test]
fn doctor_and_readyz_say_why_redis_refuses() {
    for (setting, words, remedy) in [
        ("--replicaof 127.0.0.1 1", "replica", "the primary"),
        ("--maxmemory 1", "OOM", "maxmemory"),
        ("--requirepass secret", "WRONGPASS", "user and password"),
    ] {
        let setting: Vec<&str> = setting.split(' ').collect();
        let redis = OwnRedis::start(&setting);
        let url = format!("redis://:wrong@127.0.0.1:{}/", redis.port());
        let url = if words == "WRONGPASS" {
            url
        } else {
            url.replace(":wrong@", "")
        };
        let sandbox = Sandbox::new().with("BACKSCROLL_REDIS__URL", url);
        let server = sandbox.serve(&[], 1);
        let deadline = Instant::now() + Duration::from_secs(20);
        let bus = loop {
            let (status, ready) = get(&format!("{}/readyz", server.url()), "");
            assert_eq!(status, 200, "{ready:#}"); // what needs no other node is served
            let problem = ready["bus"]["problem"].as_str().unwrap_or_default();
            if problem.contains(words) {
                break ready["bus"].clone();
            }
            assert!(Instant::now() < deadline, "{ready:#}");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(bus["ok"], false, "{bus:#}");
        assert!(bus["problem"].as_str().unwrap().contains(remedy), "{bus:#}");
        server.stop();
        let findings = sandbox.run(&["doctor", "--json"]).exits(1).json();
        let finding = about(&findings, "redis")[0];
        let said = |key: &str| finding[key].as_str().unwrap().to_owned();
        assert_eq!(said("verdict"), "failure", "{finding:#}");
        assert!(said("detail").contains(words), "{finding:#}");
        assert!(said("remedy").contains(remedy), "{finding:#}");
        assert!(!sandbox.log().contains("secret") && !sandbox.log().contains(":wrong"));
    }
}
