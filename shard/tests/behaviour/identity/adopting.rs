//! How a lost database is replaced: by a command, and only by one.

use backscroll_shard::db::Value;
use backscroll_shard::error::{Error, Result};
use backscroll_shard::identity::adoption::{self, Adoption};
use backscroll_shard::identity::making::Step;
use backscroll_shard::ids::{Epoch, Incarnation};
use backscroll_shard::routing::Router;
use backscroll_shard::settings::StoreSettings;

use super::plot::{Backend, Plot, connect, dies, migrate, name, refusal, talk};

super::on_empty_databases!(a_lost_database_is_replaced_by_a_command_only,);

pub(super) async fn adopt(settings: &StoreSettings, shard: &str) -> Result<Adoption> {
    adoption::adopt(settings, &name(shard), ("tester", "a test"), &|_| Ok(())).await
}

async fn a_lost_database_is_replaced_by_a_command_only(backend: Backend) {
    let plot = Plot::new(backend).await;
    let settings = plot.settings("dir", &["db1", "db2"]);
    migrate(&settings).await;
    talk(&settings, "before the loss").await;
    // Another database in its place: an empty one, while the lost one is only thought to be lost.
    let replaced = plot.settings("dir", &["db1", "spare"]);
    assert!(refusal(&replaced).await.is_some());
    let before = plot.dump().await;
    let planned = adoption::plan(&replaced, &name("db2")).await.unwrap();
    assert_eq!(plot.dump().await, before, "a plan changes nothing");
    assert!(planned.is_empty && planned.was == "empty");
    for step in [
        Step::ShardMigrated,
        Step::DirectoryMarked,
        Step::ShardMarked,
    ] {
        let dies = dies(step, 1);
        let died = adoption::adopt(&replaced, &name("db2"), ("tester", "a test"), &dies).await;
        assert!(matches!(died, Err(Error::Closing)), "{step:?}: {died:?}");
        assert!(
            Router::open(&replaced).await.is_err(),
            "{step:?}: served by half"
        );
    }
    let adopted = adopt(&replaced, "db2").await.unwrap();
    assert_eq!(adopted.ranges.len(), 1);
    assert_eq!(
        adopted.ranges[0].epoch,
        Epoch(4),
        "each try gave it another owner"
    );
    assert_eq!(adopted.incarnation, Incarnation(4));
    talk(&replaced, "after the loss").await;
    let dump = plot.dump().await;
    assert!(dump["spare"]["archive_jobs"][0].contains("a test"));

    // The old one turns up again.
    let why = refusal(&settings).await.unwrap();
    assert!(
        why.contains("an earlier database of shard db2 (incarnation 1, now 4)"),
        "{why}"
    );
    // It may be taken back: then the other one is the earlier one.
    adopt(&settings, "db2").await.unwrap();
    talk(&settings, "back again").await;
    assert!(
        refusal(&replaced)
            .await
            .unwrap()
            .contains("an earlier database")
    );

    // Both at once.
    for lost in ["db1", "db2", "spare"] {
        plot.lose(lost).await;
    }
    for shard in ["db1", "db2"] {
        assert!(refusal(&settings).await.is_some());
        adopt(&settings, shard).await.unwrap();
    }
    talk(&settings, "begun anew").await;

    // Never what belongs to something else, nor what another one has.
    migrate(&plot.settings("dir'", &["db1'", "db2'"])).await;
    let before = plot.dump().await;
    for (wrong, shard) in [
        (["db1", "db2'"], "db2"),
        (["db1", "dir"], "db2"),
        (["db1", "db1"], "db2"),
        (["db2", "db1"], "db1"),
        (["db1'", "spare"], "db2"),
    ] {
        let wrong = plot.settings("dir", &wrong);
        let outcome = adopt(&wrong, shard).await;
        assert!(
            matches!(outcome, Err(Error::WrongDatabase(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(plot.dump().await, before);
    // Another one takes writes for the shard's keys.
    let mut connection = connect(&plot.urls["db1"]).await;
    let (half, open) = ((1u64 << 63).to_be_bytes(), "open");
    let insert = "INSERT INTO fences (range_start, range_end, epoch, state) VALUES (?, NULL, 9, ?)";
    let args = [Value::from(&half), Value::from(open)];
    connection.execute(insert, &args).await.unwrap();
    drop(connection);
    let why = adopt(&settings, "db2").await.unwrap_err().to_string();
    assert!(why.contains("shard db1 has a fence for"), "{why}");
    plot.end().await;
}
