//! Archive jobs and moves exclude each other, to the transaction.

use std::time::{Duration, Instant};

use backscroll_shard::archive;
use backscroll_shard::db::{Connection, Value};
use backscroll_shard::ids::ShardName;
use backscroll_shard::map::Assignment;
use backscroll_shard::model::Timestamp;
use backscroll_shard::moves::MoveState;

use super::{another_shard, contents, fill, finish, home, mover, order, quick, url_of};
use crate::bed::Bed;

crate::on_every_backend!(a_job_dates_its_own_ranges_only);

/// Hot messages claim to be from after this.
const LONG_AGO: Timestamp = Timestamp(1);

async fn begin(bed: &Bed, shard: &ShardName) -> Connection {
    let mut connection = super::connect(bed, url_of(bed, shard)).await;
    connection.begin().await.unwrap();
    connection
}

/// The rows of a conversation that a move has copied, or left for a while, are not the job's.
async fn a_job_dates_its_own_ranges_only(bed: &Bed) {
    fill(bed).await;
    let before = contents(bed).await;
    let all: Vec<Assignment> = bed.store.map().assignments().to_vec();
    for foreign in &all {
        let mut connection = begin(bed, &foreign.shard).await;
        for other in all.iter().filter(|it| it.range != foreign.range) {
            let dated = archive::date_heads(&mut connection, other.range, LONG_AGO);
            dated.await.unwrap();
        }
        connection.commit().await.unwrap();
    }
    before.assert_eq(&contents(bed).await);
}

/// A transaction of a job that has begun ends before rows of others come, however long its process stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_waits_for_a_job_s_transaction() {
    let bed = Bed::server().await;
    fill(&bed).await;
    let from = home(&bed).await;
    let to = another_shard(&bed, &from.shard);
    let map = bed.store.map();
    let ranges: Vec<Assignment> = map.ranges_of(&to).cloned().collect();
    let mut job = begin(&bed, &to).await;
    let ttl = Duration::from_millis(1);
    let lease = archive::take_lease(&mut job, (&to, ranges), "a job", ttl).await;
    let lease = lease.unwrap();
    job.commit().await.unwrap();
    job.begin().await.unwrap();
    archive::check_lease(&mut job, &lease).await.unwrap();

    let mover = mover(&bed, quick());
    let moved = mover.begin(from.range, &to, &order()).await.unwrap();
    let count = "SELECT COUNT(*) FROM conversations WHERE id >= ? AND id < ?";
    let (start, end) = (
        from.range.start.to_be_bytes(),
        from.range.end.unwrap_or(u64::MAX).to_be_bytes(),
    );
    let stands_still = async {
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            let args = [Value::from(&start), Value::from(&end)];
            let row = job.fetch_optional(count, &args).await.unwrap();
            assert_eq!(row.unwrap().int(0).unwrap(), 0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        job.commit().await.unwrap();
        std::future::pending::<()>().await;
    };
    let done = tokio::select! {
        done = finish(&mover, moved.id) => done.unwrap(),
        () = stands_still => unreachable!(),
    };
    assert_eq!(done.state, MoveState::Done);
    bed.close().await;
}
