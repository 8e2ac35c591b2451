//! Which database of which deployment a database is: nothing is read from a wrong one, and nothing written (INV-OWNER).

mod adopting;
mod joining;
mod making;
mod plot;

use std::time::{Duration, Instant};

use backscroll_shard::db::{Connection, Dialect, Value};
use backscroll_shard::error::Error;
use backscroll_shard::ids::KeyFunction;
use backscroll_shard::migrate::{migrate_all, migrate_with};
use backscroll_shard::model::{Caller, Position};
use backscroll_shard::routing::Router;
use backscroll_shard::settings::{RangeSettings, StoreSettings};
use backscroll_shard::{clock, identity};

use crate::bed::{Bed, PATIENCE, caller, text, user};
use crate::logged;

use plot::{Backend, Plot, connect, migrate, name, refusal, somebody_on, talk};

macro_rules! on_empty_databases {
    ($($name:ident),* $(,)?) => {
        mod on_empty_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::identity::plot::Backend::Sqlite).await;
            })*
        }
        mod on_empty_server {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::identity::plot::Backend::Server).await;
            })*
        }
    };
}
use on_empty_databases;

on_empty_databases!(
    addresses_that_lead_elsewhere_are_refused,
    what_has_no_effect_is_said,
    a_schema_of_a_later_version_is_used_unless_it_contracts,
);

crate::on_every_backend!(
    what_becomes_another_database_is_not_used,
    clocks_are_compared
);

/// A name, the directory's and the shards' addresses, and what the refusal says.
type Case = (
    &'static str,
    (&'static str, [&'static str; 2]),
    &'static [&'static str],
);

async fn addresses_that_lead_elsewhere_are_refused(backend: Backend) {
    let plot = Plot::new(backend).await;
    let right = plot.settings("dir", &["db1", "db2"]);
    migrate(&right).await;
    migrate(&plot.settings("dir'", &["db1'", "db2'"])).await;
    talk(&right, "before").await;
    plot.execute("spare", "CREATE TABLE orders (id INTEGER)")
        .await;
    let before = plot.dump().await;

    let cases: [Case; 13] = [
        (
            "two shards swapped",
            ("dir", ["db2", "db1"]),
            &[
                "shard db1 (",
                "leads to shard db2",
                "shard db2 (",
                "leads to shard db1",
            ],
        ),
        (
            "another deployment's shard",
            ("dir", ["db1", "db2'"]),
            &["shard db2 (", "leads to shard db2 of another deployment"],
        ),
        (
            "another deployment's shards",
            ("dir", ["db1'", "db2'"]),
            &["shard db1 of another", "shard db2 of another"],
        ),
        (
            "another deployment's directory",
            ("dir'", ["db1", "db2"]),
            &["leads to shard db1 of another deployment"],
        ),
        (
            "a directory as a shard",
            ("dir", ["db1", "dir"]),
            &["shard db2 (", "leads to the directory"],
        ),
        (
            "another directory as a shard",
            ("dir", ["dir'", "db2"]),
            &["leads to the directory of another deployment"],
        ),
        (
            "a shard as the directory",
            ("db1", ["db1", "db2"]),
            &["the address of the directory (", "leads to shard db1"],
        ),
        (
            "directory and shard swapped",
            ("db2", ["db1", "dir"]),
            &["leads to shard db2", "leads to the directory"],
        ),
        (
            "the same database twice",
            ("dir", ["db1", "db1"]),
            &["shard db2 (", "leads to shard db1"],
        ),
        (
            "an empty database",
            ("dir", ["db1", "db3"]),
            &[
                "shard db2 (",
                "leads to an empty database",
                "shards adopt db2",
            ],
        ),
        (
            "an empty directory",
            ("db3", ["db1", "db2"]),
            &[
                "the address of the directory (",
                "an empty database",
                "db1 (",
            ],
        ),
        (
            "something else's database",
            ("dir", ["spare", "db2"]),
            &["shard db1 (", "tables of something else (`orders`)"],
        ),
        (
            "something else's as the directory",
            ("spare", ["db1", "db2"]),
            &["tables of something else (`orders`)"],
        ),
    ];
    for (case, (directory, shards), words) in cases {
        let wrong = plot.settings(directory, &shards);
        let why = refusal(&wrong)
            .await
            .unwrap_or_else(|| panic!("{case} was not refused"));
        for word in words {
            assert!(why.contains(word), "{case}: {word} is not in: {why}");
        }
        for dry_run in [true, false] {
            let migrated = migrate_all(&wrong, dry_run).await;
            assert!(
                matches!(migrated, Err(Error::WrongDatabase(_))),
                "{case}: {migrated:?}"
            );
        }
        assert_eq!(plot.dump().await, before, "{case} was written");
    }
    // Nothing of it was for ever.
    talk(&right, "after").await;

    plot.execute("db2", "DELETE FROM fences").await;
    let before = plot.dump().await;
    let why = refusal(&right).await.unwrap();
    assert!(
        why.contains("shard db2 without the fences of 9223372036854775808.. at epoch 1"),
        "{why}"
    );
    assert!(migrate_all(&right, false).await.is_err());
    assert_eq!(
        plot.dump().await,
        before,
        "fences are not opened by the way"
    );

    // Before there is a deployment.
    let fresh = plot.settings("db3", &["spare", "db3"]);
    assert!(matches!(
        migrate_all(&fresh, false).await,
        Err(Error::WrongDatabase(_))
    ));
    plot.lose("spare").await;
    let twice = plot.settings("db3", &["spare", "spare"]);
    let why = migrate_all(&twice, false).await.unwrap_err().to_string();
    assert!(why.contains("lead to the same database"), "{why}");
    assert!(plot.dump().await["spare"].is_empty() && plot.dump().await["db3"].is_empty());
    plot.end().await;
}

async fn what_has_no_effect_is_said(backend: Backend) {
    let plot = Plot::new(backend).await;
    let mut settings = plot.settings("dir", &["db1", "db2"]);
    settings.keyspace.ranges = vec![RangeSettings {
        from: 0,
        shard: name("db1"),
    }];
    migrate(&settings).await;
    let remarks = async |settings: &StoreSettings| {
        let router = Router::open(settings).await.unwrap();
        assert!(router.map().ranges_of(&name("db1")).next().is_some());
        router.deployed().remarks().join("\n")
    };
    assert_eq!(
        remarks(&settings).await,
        "shard db2 owns no keys: nothing is stored on it"
    );

    let half = RangeSettings {
        from: 1 << 63,
        shard: name("db2"),
    };
    settings.keyspace.ranges.push(half);
    assert!(
        remarks(&settings)
            .await
            .contains("keyspace.ranges has no effect")
    );
    let migrated = migrate_with(&settings, false, &|_| Ok(())).await.unwrap();
    assert!(
        migrated
            .remarks
            .join("")
            .contains("keyspace.ranges has no effect")
    );
    settings.keyspace.ranges.clear();
    assert!(!remarks(&settings).await.contains("keyspace.ranges"));

    let more = plot.settings("dir", &["db1", "db2", "db3"]);
    let before = plot.dump().await;
    migrate(&more).await;
    assert!(
        remarks(&more)
            .await
            .contains("shard db3 is in the configuration, but")
    );
    assert_eq!(plot.dump().await, before, "its database is left alone");
    let wrong = plot.settings("dir", &["db1", "db2", "dir"]);
    assert!(
        refusal(&wrong)
            .await
            .unwrap()
            .contains("leads to the directory")
    );
    plot.end().await;
}

/// A database is exchanged under a running router.
async fn what_becomes_another_database_is_not_used(bed: &Bed) {
    logged::expect_outage();
    let (here, there) = (somebody_on(0), somebody_on(1));
    let mut groups = Vec::new();
    for who in [&here, &there] {
        let id = bed.group(who, &[]).await;
        bed.say(who, id, "before").await;
        groups.push(id);
    }
    let home = bed
        .store
        .map()
        .locate(KeyFunction::Hashed.key(&user(&here)).unwrap())
        .shard
        .clone();
    let shard = bed
        .settings
        .shards
        .iter()
        .find(|shard| shard.name == home)
        .unwrap();
    let mut operator = connect(&shard.primary).await;
    let renamed = "UPDATE identity SET shard = 'another'";
    operator.execute(renamed, &[]).await.unwrap();
    let health = async || bed.store.health(PATIENCE).await;
    let wrong = health()
        .await
        .shards
        .into_iter()
        .find(|it| it.name == home)
        .unwrap();
    assert!(wrong.primary.wrong_database && !wrong.primary.ok);
    let why = wrong.primary.error.unwrap();
    assert!(
        why.contains(&format!("the address of shard {home} ("))
            && why.contains("leads to shard another"),
        "{why}"
    );

    let sent_before = count(&mut operator).await;
    for _ in 0..20 {
        let caller = Caller::new(user(&here), Duration::from_secs(5));
        let sent = bed
            .store
            .send(&caller, groups[0], text("to the wrong database"))
            .await;
        assert!(matches!(sent, Err(Error::ShardUnavailable(_))), "{sent:?}");
        let page = bed
            .store
            .history(&caller, groups[0], Position::Latest, 1)
            .await;
        assert!(matches!(page, Err(Error::ShardUnavailable(_))), "{page:?}");
    }
    assert_eq!(count(&mut operator).await, sent_before);
    bed.say(&there, groups[1], "the other shard does not notice")
        .await;

    let args = [Value::from(home.as_str())];
    operator
        .execute("UPDATE identity SET shard = ?", &args)
        .await
        .unwrap();
    let heals = async {
        let message = || text("after");
        while bed
            .store
            .send(&caller(&here), groups[0], message())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, heals)
        .await
        .expect("it is used again");
    assert!(health().await.shards.iter().all(|shard| shard.primary.ok));
}

async fn count(connection: &mut Connection) -> i64 {
    let counted = connection
        .fetch_optional("SELECT COUNT(*) FROM messages", &[])
        .await;
    counted.unwrap().unwrap().int(0).unwrap()
}

async fn clocks_are_compared(bed: &Bed) {
    let shard = bed.store.router().shards().next().unwrap();
    let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
    let connection = &mut connection;
    let offset = clock::offset(connection).await.unwrap();
    assert!(offset.abs() < 10_000, "{offset} ms");
    let now = clock::agreed_now(connection).await.unwrap();
    assert!(now >= clock::now(connection).await.unwrap().min(now));
    if connection.dialect() == Dialect::Sqlite {
        return; // its clock is this process's
    }
    for (seconds, words) in [(400, "400 s behind"), (-400, "s ahead of")] {
        let ahead = format!("SET timestamp = UNIX_TIMESTAMP(SYSDATE()) + {seconds}");
        connection.execute(&ahead, &[]).await.unwrap();
        let refused = clock::agreed_now(connection).await;
        let Err(Error::ClocksDiffer(why)) = refused else {
            panic!("{refused:?}");
        };
        assert!(why.contains(words) || why.contains("399 s behind"), "{why}");
    }
}

async fn a_schema_of_a_later_version_is_used_unless_it_contracts(backend: Backend) {
    let plot = Plot::new(backend).await;
    let settings = plot.settings("dir", &["db1", "db2"]);
    migrate(&settings).await;
    let add = |name: &str| {
        format!("INSERT INTO schema_migrations (name, applied_at) VALUES ('{name}', 1)")
    };
    plot.execute("db1", &add("9998_more")).await;
    let deployed = identity::find(&settings).await.unwrap();
    let is_said = |remarks: &[String]| remarks.iter().any(|it| it.contains("9998_more"));
    assert!(is_said(deployed.remarks()), "{:?}", deployed.remarks());
    let migrated = migrate_with(&settings, false, &|_| Ok(())).await.unwrap();
    assert!(is_said(&migrated.remarks), "{migrated:?}");
    talk(&settings, "as before").await;

    plot.execute("dir", &add("9999_contract_less")).await;
    for refused in [
        identity::find(&settings).await.map(drop),
        migrate_all(&settings, false).await.map(drop),
    ] {
        let Err(Error::Unprepared(why)) = refused else {
            panic!("{refused:?}");
        };
        let names = why.contains("9999_contract_less") && !why.contains("9998");
        assert!(names && why.contains("later version"), "{why}");
    }
    plot.end().await;
}
