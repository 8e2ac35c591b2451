//! No statement of a move reads a whole table.

use backscroll_shard::db::explain;
use backscroll_shard::error::Error;
use backscroll_shard::moves::{MoveState, Step};
use backscroll_shard::settings::StoreSettings;

use super::{another_shard, dying_at, fill, finish, home, order, quick};
use crate::bed::Bed;
use crate::plans::LARGE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_a_move_scans_on_sqlite() {
    let bed = Bed::sqlite_with(watch).await;
    no_statement_scans(&bed).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_a_move_scans_on_server() {
    let bed = Bed::server_with(watch).await;
    no_statement_scans(&bed).await;
    bed.close().await;
}

fn watch(settings: &mut StoreSettings) {
    for shard in &settings.shards {
        explain::watch(&shard.primary.0);
    }
}

async fn no_statement_scans(bed: &Bed) {
    let ids = fill(bed).await;
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let mover = super::mover(bed, quick());
    let job = mover.begin(from.range, &to, &order()).await.unwrap();
    let dying = super::mover(bed, quick()).with_hook(dying_at(Step::Copied));
    assert!(matches!(dying.run(job.id).await, Err(Error::Closing)));
    bed.say("alice", ids[0], "copied again").await;
    let done = finish(&mover, job.id).await.unwrap();
    assert_eq!(done.state, MoveState::Done);
    let (mut statements, mut by_keys) = (0, false);
    for shard in &bed.settings.shards {
        for (statement, steps) in explain::seen(&shard.primary.0) {
            statements += 1;
            // Its keys may be all rows of a small table, which a server then reads as a whole. The same conditions are looked at
            // where rows are read, by their keys or of a range.
            if statement.starts_with("DELETE") || statement.starts_with("SELECT EXISTS") {
                continue;
            }
            by_keys |= statement.contains("mentions FROM messages") && statement.contains(" IN (");
            for step in steps {
                let is_large = LARGE.contains(&step.table.as_str()) || step.table == "move_marks";
                assert!(
                    !(step.scans && is_large),
                    "{statement}\nscans {}",
                    step.table
                );
            }
        }
    }
    assert!(by_keys, "no plan of reading rows by their keys was seen");
    assert!(statements > 60, "only {statements} statements were seen");
}
