//! How an empty database becomes a shard: by a command, and only by one.

use std::time::Instant;

use backscroll_shard::error::{Error, Result};
use backscroll_shard::identity::joining::{self, Joining};
use backscroll_shard::identity::making::Step;
use backscroll_shard::ids::Incarnation;
use backscroll_shard::model::Position;
use backscroll_shard::moves::{MoveState, Mover, Order};
use backscroll_shard::range::KeyRange;
use backscroll_shard::routing::Router;
use backscroll_shard::settings::StoreSettings;

use crate::bed::{Bed, PATIENCE, caller, text, user};

use super::plot::{Backend, Plot, dies, migrate, name, somebody_on, talk};

super::on_empty_databases!(
    a_shard_is_added_by_a_command,
    adding_a_shard_can_die,
    what_is_not_empty_is_not_added,
);

async fn add(settings: &StoreSettings, shard: &str) -> Result<Joining> {
    joining::join(settings, &name(shard), ("tester", "a test"), &|_| Ok(())).await
}

/// A deployment of two shards, its settings, and those with a third shard.
async fn two_shards(backend: Backend) -> (Plot, StoreSettings, StoreSettings) {
    let plot = Plot::new(backend).await;
    let old = plot.settings("dir", &["db1", "db2"]);
    migrate(&old).await;
    let new = plot.settings("dir", &["db1", "db2", "db3"]);
    (plot, old, new)
}

/// Servers that were started with the new configuration before and after, and a move to the new shard.
async fn a_shard_is_added_by_a_command(backend: Backend) {
    let (plot, _, settings) = two_shards(backend).await;
    let early = Bed::another(&settings).await;
    let who = somebody_on(1);
    let (id, _) = early.import_begin("talk", &user(&who)).await.unwrap();
    let who = caller(&who);
    early.send(&who, id, text("before")).await.unwrap();
    early.relay_idle(Instant::now() + PATIENCE).await.unwrap();

    let before = plot.dump().await;
    let planned = joining::plan(&settings, &name("db3")).await.unwrap();
    assert!(planned.was == "empty" && !planned.is_joined, "{planned:?}");
    assert_eq!(plot.dump().await, before, "a plan changes nothing");
    let added = add(&settings, "db3").await.unwrap();
    assert_eq!(added, planned);
    assert_eq!(added.incarnation, Incarnation(1));
    let dump = plot.dump().await;
    assert!(dump["db3"]["archive_jobs"][0].contains("a test"));
    assert!(dump["db3"]["fences"].is_empty());
    assert_eq!(dump["dir"]["ranges"], before["dir"]["ranges"]);
    let again = add(&settings, "db3").await.unwrap();
    assert!(again.is_joined && again.incarnation == Incarnation(1));
    assert_eq!(plot.dump().await, dump, "another run changes nothing");

    // The later one moves everything of `db2` there; the early one does not know of it yet, or has looked.
    let late = Bed::another(&settings).await;
    let mover = Mover::new(late.router().clone(), "tester");
    let order = Order {
        actor: "tester".into(),
        reason: "a test".into(),
    };
    let half = KeyRange::new(1 << 63, None).unwrap();
    let job = mover.begin(half, &name("db3"), &order).await.unwrap();
    let job = mover.run(job.id).await.unwrap();
    assert_eq!(job.state, MoveState::Draining);
    for store in [&early, &late] {
        store.send(&who, id, text("after")).await.unwrap();
        let page = store.history(&who, id, Position::Latest, 5).await.unwrap();
        assert_eq!(page.messages.last().unwrap().content, "after");
        let health = store.health(PATIENCE).await;
        assert!(health.shards.len() == 3 && health.shards.iter().all(|it| it.takes_writes));
        store.relay_idle(Instant::now() + PATIENCE).await.unwrap();
    }
    for store in [early, late] {
        store.close(Instant::now() + PATIENCE).await;
    }
    plot.end().await;
}

async fn adding_a_shard_can_die(backend: Backend) {
    for step in Step::ALL {
        if step == Step::DirectoryMigrated {
            continue; // of a deployment that is made
        }
        let (plot, old, settings) = two_shards(backend).await;
        let at = || dies(step, 1);
        let died = joining::join(&settings, &name("db3"), ("tester", "a test"), &at()).await;
        assert!(matches!(died, Err(Error::Closing)), "{step:?}: {died:?}");
        // Everything is served as before, also by a new server of either configuration; `migrate` leaves it alone.
        let made = plot.dump().await;
        for settings in [&old, &settings] {
            talk(settings, "meanwhile").await;
            migrate(settings).await;
        }
        let dump = plot.dump().await;
        for (database, table) in [("dir", "shards"), ("db3", "fences"), ("db3", "identity")] {
            assert_eq!(
                dump[database].get(table),
                made[database].get(table),
                "{step:?}"
            );
        }
        let router = Router::open(&settings).await.unwrap();
        let is_joined = step == Step::Joined;
        assert_eq!(router.shard(&name("db3")).is_ok(), is_joined, "{step:?}");
        let remarks = router.deployed().remarks().join(" ");
        let says = remarks.contains("`backscroll shards add db3`");
        assert_eq!(says, !is_joined, "{step:?}: {remarks}");
        // Another database under the name: the first one is never taken for the shard's.
        let was_begun = matches!(step, Step::DirectoryMarked | Step::ShardMarked);
        let other = plot.settings("dir", &["db1", "db2", "spare"]);
        if was_begun {
            let added = add(&other, "db3").await.unwrap();
            assert_eq!(added.incarnation, Incarnation(2), "{step:?}");
            let refused = add(&settings, "db3").await;
            assert!(
                matches!(refused, Err(Error::WrongDatabase(_))),
                "{step:?}: {refused:?}"
            );
        } else {
            add(&settings, "db3").await.unwrap();
        }
        let settings = if was_begun { other } else { settings };
        let router = Router::open(&settings).await.unwrap();
        assert!(router.shard(&name("db3")).is_ok(), "{step:?}");
        talk(&settings, "added").await;
        plot.end().await;

        let (plot, _, settings) = two_shards(backend).await;
        let died = joining::join(&settings, &name("db3"), ("tester", "a test"), &at()).await;
        assert!(matches!(died, Err(Error::Closing)), "{step:?}: {died:?}");
        add(&settings, "db3").await.unwrap();
        let dump = plot.dump().await;
        assert_eq!(dump["db3"]["identity"].len(), 1);
        assert!(
            Router::open(&settings)
                .await
                .unwrap()
                .shard(&name("db3"))
                .is_ok()
        );
        plot.end().await;
    }
}

async fn what_is_not_empty_is_not_added(backend: Backend) {
    let (plot, old, _) = two_shards(backend).await;
    migrate(&plot.settings("dir'", &["db1'", "db2'"])).await;
    plot.execute("spare", "CREATE TABLE orders (id INTEGER)")
        .await;
    talk(&old, "before").await;
    let before = plot.dump().await;
    let cases: [(&str, &str); 5] = [
        ("spare", "tables of something else (`orders`)"),
        ("db1'", "leads to shard db1 of another deployment ("),
        ("dir'", "leads to the directory of another deployment ("),
        ("db1", "leads to shard db1"),
        ("dir", "leads to the directory"),
    ];
    for (database, words) in cases {
        let settings = plot.settings("dir", &["db1", "db2", database]);
        for outcome in [
            joining::plan(&settings, &name("db3")).await,
            add(&settings, "db3").await,
        ] {
            let Err(Error::WrongDatabase(why)) = outcome else {
                panic!("{database}: {outcome:?}");
            };
            let all = [
                "the address of shard db3 (",
                words,
                "correct `primary` of db3",
            ];
            assert!(all.iter().all(|it| why.contains(it)), "{database}: {why}");
        }
        assert_eq!(plot.dump().await, before, "{database} was written");
    }
    // One that has lost its mark, and one of a deployment whose directory is of an older backup.
    let settings = plot.settings("dir", &["db1", "db2", "db1'"]);
    plot.execute("db1'", "DELETE FROM identity").await;
    let why = add(&settings, "db3").await.unwrap_err().to_string();
    assert!(
        why.contains("data or fences of a shard") && why.contains("an empty database"),
        "{why}"
    );
    let settings = plot.settings("dir", &["db1", "db2", "db3"]);
    add(&settings, "db3").await.unwrap();
    plot.execute("dir", "DELETE FROM shards WHERE name = 'db3'")
        .await;
    let why = add(&settings, "db3").await.unwrap_err().to_string();
    assert!(why.contains("which the directory does not know"), "{why}");
    // Before there is a deployment there is nothing that a shard could join.
    let fresh = plot.settings("db2'", &["db3", "spare"]);
    assert!(add(&fresh, "db2").await.is_err());
    plot.end().await;
}
