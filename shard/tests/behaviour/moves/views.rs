//! What foreign readers see of a range that moves.

use backscroll_shard::db::Dialect;
use backscroll_shard::error::Error;
use backscroll_shard::moves::{Step, owned_views};
use backscroll_shard::settings::{RebalanceSettings, Span};

use super::{another_shard, connect, dying_at, fill, finish, home, mover, order, quick};
use crate::bed::Bed;

crate::on_every_backend!(views_show_every_row_once);

/// How many messages and list entries the tables, or the views, of all shards have.
async fn rows(bed: &Bed, prefix: &str) -> (i64, i64) {
    let mut sums = (0, 0);
    for shard in &bed.settings.shards {
        let mut connection = connect(bed, &shard.primary).await;
        let mut count = async |table: &str| {
            let statement = format!("SELECT COUNT(*) FROM {prefix}{table}");
            let row = connection.fetch_optional(&statement, &[]).await.unwrap();
            row.unwrap().int(0).unwrap()
        };
        sums = (
            sums.0 + count("messages").await,
            sums.1 + count("list_entries").await,
        );
    }
    sums
}

async fn views_show_every_row_once(bed: &Bed) {
    fill(bed).await;
    for shard in &bed.settings.shards {
        let mut connection = connect(bed, &shard.primary).await;
        for _ in 0..2 {
            for statement in owned_views(Dialect::of(&shard.primary).unwrap()) {
                connection.execute(&statement, &[]).await.unwrap();
            }
        }
    }
    let all = rows(bed, "owned_").await;
    assert_eq!(all, rows(bed, "").await);
    assert!(all.0 > 50 && all.1 > 10, "{all:?}");
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let keeps = RebalanceSettings {
        keep: Span::secs(3600),
        ..quick()
    };
    let job = mover(bed, quick())
        .begin(from.range, &to, &order())
        .await
        .unwrap();
    for step in [Step::Copied, Step::Frozen, Step::TargetOpened] {
        let dying = mover(bed, keeps.clone()).with_hook(dying_at(step));
        while !matches!(dying.run(job.id).await, Err(Error::Closing)) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await; // the lease of the one before
        }
        assert_eq!(rows(bed, "owned_").await, all, "{step:?}");
        assert!(rows(bed, "").await.0 > all.0, "{step:?}: on both shards");
    }
    finish(&mover(bed, keeps), job.id).await.unwrap();
    assert_eq!(rows(bed, "owned_").await, all);
    assert!(rows(bed, "").await.0 > all.0, "the source keeps its rows");
}
