//! How a deployment is made, and how one of an older version is marked, whatever dies when.

use backscroll_shard::error::Error;
use backscroll_shard::identity::making::Step;
use backscroll_shard::migrate::{migrate_all, migrate_with};
use backscroll_shard::routing::Router;
use backscroll_shard::settings::StoreSettings;

use super::adopting::adopt;
use super::plot::{Backend, Plot, dies, migrate, refusal, talk};

super::on_empty_databases!(
    a_deployment_can_die_while_it_is_made,
    a_deployment_of_an_older_version_is_marked_once,
);

/// Every step at which the making of a deployment with two shards can die.
fn deaths() -> Vec<(Step, usize)> {
    let twice = |step| matches!(step, Step::ShardMigrated | Step::ShardMarked);
    let of = |step| (1..=if twice(step) { 2 } else { 1 }).map(move |n| (step, n));
    Step::ALL.into_iter().flat_map(of).collect()
}

async fn a_deployment_can_die_while_it_is_made(backend: Backend) {
    for (step, n) in deaths() {
        let plot = Plot::new(backend).await;
        let settings = plot.settings("dir", &["db1", "db2"]);
        let died = migrate_with(&settings, false, &dies(step, n)).await;
        assert!(
            matches!(died, Err(Error::Closing)),
            "{step:?} {n}: {died:?}"
        );
        if step != Step::Joined {
            let opened = Router::open(&settings).await;
            let Err(Error::Unprepared(why)) = opened else {
                panic!("{step:?} {n}: served when it is made by half: {opened:?}");
            };
            assert!(why.contains("backscroll migrate"), "{why}");
        }
        migrate(&settings).await;
        let made = plot.dump().await;
        migrate(&settings).await;
        assert_eq!(
            plot.dump().await,
            made,
            "{step:?} {n}: another run changes nothing"
        );
        for shard in ["db1", "db2"] {
            assert_eq!(made[shard]["fences"].len(), 1, "{step:?} {n}");
        }
        talk(&settings, "it goes on").await;
        plot.end().await;
    }
}

/// A deployment with a message on each shard, as a version left it that marked no database.
async fn an_old_deployment(backend: Backend) -> (Plot, StoreSettings) {
    let plot = Plot::new(backend).await;
    let settings = plot.settings("dir", &["db1", "db2"]);
    migrate(&settings).await;
    talk(&settings, "of old").await;
    plot.age("dir", &["db1", "db2"]).await;
    (plot, settings)
}

async fn a_deployment_of_an_older_version_is_marked_once(backend: Backend) {
    for (step, n) in deaths() {
        let (plot, settings) = an_old_deployment(backend).await;
        let old = plot.dump().await;
        let died = migrate_with(&settings, false, &dies(step, n)).await;
        assert!(
            matches!(died, Err(Error::Closing)),
            "{step:?} {n}: {died:?}"
        );
        if step != Step::Joined {
            let opened = Router::open(&settings).await;
            assert!(matches!(opened, Err(Error::Unprepared(_))), "{step:?} {n}");
        }
        migrate(&settings).await;
        let marked = plot.dump().await;
        for database in ["dir", "db1", "db2"] {
            assert_eq!(marked[database]["identity"].len(), 1, "{step:?} {n}");
            for table in ["messages", "fences", "ranges", "conversations"] {
                let (before, after) = (old[database].get(table), marked[database].get(table));
                assert_eq!(before, after, "{step:?} {n}: {table} of {database}");
            }
        }
        talk(&settings, "marked").await;
        plot.end().await;
    }

    let (plot, settings) = an_old_deployment(backend).await;
    let old = plot.dump().await;
    let swapped = plot.settings("dir", &["db2", "db1"]);
    let why = refusal(&swapped).await.unwrap();
    let words = [
        "shard db1 (",
        "with the fences of shard db2",
        "with the fences of shard db1",
    ];
    assert!(words.iter().all(|word| why.contains(word)), "{why}");
    for wrong in [["db2", "db1"], ["db1", "db3"], ["db1", "db1"]] {
        let outcome = migrate_all(&plot.settings("dir", &wrong), false).await;
        assert!(
            matches!(outcome, Err(Error::WrongDatabase(_))),
            "{wrong:?}: {outcome:?}"
        );
    }
    assert_eq!(plot.dump().await, old, "nothing was written");

    migrate(&settings).await;
    // Only once: a database that has lost its mark is not taken for one of an older version.
    plot.execute("db2", "DELETE FROM identity").await;
    let why = refusal(&settings).await.unwrap();
    assert!(
        why.contains("not marked with the fences of shard db2"),
        "{why}"
    );
    assert!(migrate_all(&settings, false).await.is_err());
    plot.end().await;

    let (plot, settings) = an_old_deployment(backend).await;
    plot.execute("db1", "UPDATE fences SET epoch = 2").await;
    let why = migrate_all(&settings, false).await.unwrap_err().to_string();
    assert!(why.contains("at epoch 1, its fences do not"), "{why}");
    adopt(&settings, "db1").await.unwrap();
    migrate(&settings).await;
    talk(&settings, "adopted").await;
    plot.end().await;
}
