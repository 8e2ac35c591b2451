//! What clocks that were wrong have left: leases, and times of states, that are still to come.

use std::sync::{Arc, Mutex};

use backscroll_archiver::jobs::{Progress, Step};
use backscroll_shard::archive::JobRecord;
use backscroll_shard::db::Value;
use backscroll_shard::model::{NewMessage, Timestamp};
use backscroll_testkit::warnings;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::bed::{Backend, Bed, PATIENCE, begin, caller, on_both, order, sent_at};
use super::logged;

on_both!(
    a_lease_from_the_future_keeps_no_job_out,
    a_job_whose_lease_is_cleared_stops,
    a_segment_given_up_in_the_future_is_collected,
    messages_from_the_future_are_as_old_as_what_follows_them,
);

const YEAR: i64 = 365 * 86_400_000;

async fn set_leases(bed: &Bed, expires_at: i64) {
    for shard in bed.store.router().shards() {
        let mut connection = begin(shard).await;
        let set = "UPDATE leases SET holder = 'a machine a year ahead', expires_at = ?";
        let args = [Value::from(expires_at)];
        assert_eq!(connection.execute(set, &args).await.unwrap(), 1);
        connection.commit().await.unwrap();
    }
}

async fn a_lease_from_the_future_keeps_no_job_out(backend: Backend) {
    warnings::expect(logged::JOB_ENDS_EARLY);
    let bed = Bed::open(backend).await;
    bed.import("general", 100).await;
    bed.run().await;
    set_leases(&bed, Timestamp::now().0 + YEAR).await;
    let status = bed.archive.status(&order()).await.unwrap();
    assert!(
        status.iter().all(|shard| shard.leases.is_empty()),
        "{status:?}"
    );
    bed.run().await;

    // One that may be right is believed.
    set_leases(&bed, Timestamp::now().0 + 60_000).await;
    let status = bed.archive.status(&order()).await.unwrap();
    assert!(
        status.iter().all(|shard| shard.leases.len() == 1),
        "{status:?}"
    );
    let refused = bed.run_before(Timestamp::now()).await;
    for outcome in refused {
        let error = outcome.error.unwrap();
        assert!(
            error.contains("is being worked on by a machine a year ahead"),
            "{error}"
        );
    }
    bed.close().await;
}

async fn a_job_whose_lease_is_cleared_stops(backend: Backend) {
    warnings::expect(logged::JOB_ENDS_EARLY);
    let bed = Bed::open(backend).await;
    bed.import("general", 300).await;
    // It waits with its first segment until the lease is cleared.
    let (passed, mut steps) = tokio::sync::mpsc::channel(1000);
    let (go_on, wait) = std::sync::mpsc::channel();
    let wait = Mutex::new(Some(wait));
    let archive = bed.archive_with(Arc::new(move |step| {
        passed.try_send(step).unwrap();
        let first = wait.lock().unwrap().take_if(|_| step == Step::Intended);
        if let Some(wait) = first {
            wait.recv_timeout(PATIENCE).unwrap();
        }
    }));
    let (mut job, runtime) = (JoinSet::new(), Handle::current());
    job.spawn_blocking(move || {
        let (order, progress) = (order(), Progress::default());
        runtime.block_on(archive.run(&order, Timestamp::now(), &progress))
    });
    while steps.recv().await != Some(Step::Intended) {}
    let cleared = bed.archive.clear_leases(&order()).await.unwrap();
    let held: Vec<&str> = cleared
        .iter()
        .flat_map(|(_, held)| held.iter().map(|lease| lease.holder.as_str()))
        .collect();
    assert_eq!(held, ["archive run (tester)"]);
    go_on.send(()).unwrap();
    let outcomes = job.join_next().await.unwrap().unwrap().unwrap();
    let errors: Vec<&String> = outcomes.iter().filter_map(|it| it.error.as_ref()).collect();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].contains("another job has taken over the range"),
        "{errors:?}"
    );

    let status = bed.archive.status(&order()).await.unwrap();
    let jobs: Vec<&JobRecord> = status.iter().flat_map(|shard| &shard.jobs).collect();
    let clear = jobs.iter().find(|job| job.kind == "lease clear").unwrap();
    assert_eq!(
        (clear.reason.as_str(), clear.actor.as_str()),
        ("a test", "tester")
    );
    let lost = |job: &&&JobRecord| {
        job.outcome
            .as_ref()
            .is_some_and(|it| it.contains("taken over"))
    };
    assert_eq!(
        jobs.iter().filter(lost).count(),
        1,
        "its end is put down: {jobs:?}"
    );
    bed.run().await;
    bed.close().await;
}

async fn a_segment_given_up_in_the_future_is_collected(backend: Backend) {
    let bed = Bed::open(backend).await;
    let shard = bed.store.router().shards().next().unwrap();
    let ahead = Timestamp(Timestamp::now().0 + YEAR);
    let mut connection = begin(shard).await;
    let insert = "INSERT INTO archive_segments (id, generation, state, bytes, messages, created_at, changed_at) \
         VALUES (?, 0, 'superseded', 1, 1, ?, ?)";
    let args = [Value::from(&[7u8; 16]), ahead.0.into(), ahead.0.into()];
    connection.execute(insert, &args).await.unwrap();
    connection.commit().await.unwrap();
    drop(connection);
    // Its grace period begins now, and is none here.
    assert_eq!(bed.collect().await.deleted + bed.collect().await.deleted, 1);
    bed.close().await;
}

async fn messages_from_the_future_are_as_old_as_what_follows_them(backend: Backend) {
    let bed = Bed::open(backend).await;
    let ahead = Timestamp::now().0 + 400 * YEAR;
    let mut ids = Vec::new();
    for (channel, seq) in [("first", 1), ("middle", 5), ("last", 10)] {
        let id = bed.import(channel, 10).await;
        bed.execute(
            id,
            &format!("UPDATE messages SET created_at = {ahead} WHERE conversation_id = x'{id}' AND seq = {seq}"),
        )
        .await;
        ids.push(id);
    }
    // A head that says nothing is taken to be as old as its conversation.
    let (first, last) = (ids[0], ids[2]);
    let head = format!("SET oldest_hot_at = {ahead}, created_at = 1 WHERE id = x'{first}'");
    bed.execute(first, &format!("UPDATE conversations {head}"))
        .await;
    bed.run().await;
    assert_eq!(
        (bed.hot_rows(first).await, bed.hot_rows(ids[1]).await),
        (0, 0)
    );
    assert_eq!(bed.hot_rows(last).await, 1, "nothing says how old it is");
    bed.run().await;
    assert_eq!(bed.hot_rows(last).await, 1);

    // What follows says it.
    let new = NewMessage {
        content: "live".into(),
        ..NewMessage::default()
    };
    bed.store.send(&caller("alice"), last, new).await.unwrap();
    let head = format!("SET oldest_hot_at = {ahead}, created_at = 1 WHERE id = x'{last}'");
    bed.execute(last, &format!("UPDATE conversations {head}"))
        .await;
    bed.run_before(sent_at(100)).await;
    assert_eq!(bed.hot_rows(last).await, 2, "what follows is not old");
    bed.run().await;
    assert_eq!(bed.hot_rows(last).await, 0);
    for (id, messages) in ids.into_iter().zip([10, 10, 11]) {
        let seqs = bed.walk(id).await.into_iter().map(|message| message.seq.0);
        assert!(seqs.eq(1..=messages));
    }
    bed.assert_clean().await;
    bed.close().await;
}
