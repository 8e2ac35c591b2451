//! Of several copies of a message readers get the newest, whatever a job, a clock, a restoration or a rebuild did
//! (INV-COPY); and identities of archived messages never stand in the way of new ones (INV-IDEM).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use backscroll_archiver::jobs::{ArchiveJobs, Progress, Step};
use backscroll_shard::ids::Seq;
use backscroll_shard::model::{Message, NewMessage, Timestamp};

use super::bed::{Backend, Bed, caller, message, on_both, order, wait_for};

on_both!(
    a_change_beside_a_run_of_many_segments_is_kept,
    a_clock_that_was_ahead_undoes_nothing,
    copies_whose_order_the_index_does_not_know_are_compared,
    one_client_message_id_in_both_tiers,
);

/// Does `work` when the job passes `step` for the `nth` time.
fn at_step<F, W>(bed: &Bed, (step, nth): (Step, u32), work: W) -> ArchiveJobs
where
    F: Future<Output = ()> + Send,
    W: Fn() -> F + Send + Sync + 'static,
{
    let passed = AtomicU32::new(0);
    bed.archive_with(Arc::new(move |now: Step| {
        if now == step && passed.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            wait_for(work());
        }
    }))
}

async fn run_with(archive: &ArchiveJobs) {
    let (order, progress) = (order(), Progress::default());
    let cutoff = Timestamp(Timestamp::now().0 + 1);
    for outcome in archive.run(&order, cutoff, &progress).await.unwrap() {
        assert_eq!(outcome.error, None, "{outcome:?}");
    }
}

fn at(log: &[Message], seq: u64) -> &Message {
    &log[usize::try_from(seq).unwrap() - 1]
}

/// A conversation is read into the first segment, and some of its messages are changed before their rows are deleted.
/// The candidates that the job asks for after that include it again.
async fn a_change_beside_a_run_of_many_segments_is_kept(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import_after("talk", 100, 0).await;
    for n in 0..300 {
        bed.import_after(&format!("other {n}"), 20, 1).await;
    }
    let store = bed.store.clone();
    let archive = at_step(&bed, (Step::Published, 1), move || {
        let store = store.clone();
        async move {
            let alice = caller("alice");
            for seq in [50, 100] {
                let edited = store.edit_message(&alice, message(id, seq), "anew".into());
                edited.await.unwrap();
            }
            let reacted = store.react(&alice, message(id, 31), "👍");
            reacted.await.unwrap();
            let deleted = store.delete_message(&alice, message(id, 12));
            deleted.await.unwrap();
        }
    });
    run_with(&archive).await;
    assert_eq!(
        bed.hot_rows(id).await,
        4,
        "it is not taken again in the same run"
    );
    let log = bed.walk(id).await;
    assert_eq!(log.len(), 100);
    assert_eq!(at(&log, 50).content, "anew");
    assert_eq!(at(&log, 100).content, "anew");
    assert!(at(&log, 31).reactions.get().contains("alice"));
    assert!(at(&log, 12).deleted_at.is_some() && at(&log, 12).content.is_empty());
    assert!(at(&log, 99).content.starts_with("talk message 99"));
    bed.rebuild().await;
    assert_eq!(bed.walk(id).await, log);
    bed.all_jobs().await;
    assert_eq!(bed.walk(id).await, log);
    assert_eq!(bed.hot_rows(id).await, 0);
    let text = bed.stored_text().await;
    assert!(!text.contains("talk message 12 "));
    bed.assert_clean().await;
    bed.close().await;
}

/// What was archived while the machine's clock was two hours ahead.
async fn a_clock_that_was_ahead_undoes_nothing(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    for table in ["archive_runs", "archive_segments"] {
        let ahead = format!("UPDATE {table} SET generation = generation + 7200000");
        bed.execute(id, &ahead).await;
    }
    for seq in [10, 60] {
        bed.edit(id, seq, "anew").await;
    }
    bed.delete(id, 20).await;
    let log = bed.walk(id).await;
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    assert_eq!(bed.walk(id).await, log);
    bed.rebuild().await;
    assert_eq!(bed.walk(id).await, log);
    bed.all_jobs().await;
    assert_eq!(bed.walk(id).await, log);
    assert!(!bed.stored_text().await.contains("talk message 20 "));
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(receipts[0].erased_at.is_some(), "{receipts:?}");
    bed.assert_clean().await;
    bed.close().await;
}

/// Rows of the index that an older binary wrote do not say what their smallest rev is.
async fn copies_whose_order_the_index_does_not_know_are_compared(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let alice = caller("alice");
    for seq in [10, 14, 12, 60] {
        bed.edit(id, seq, "anew").await;
    }
    bed.delete(id, 20).await;
    let log = bed.walk(id).await;
    bed.run().await;
    bed.execute(id, "UPDATE archive_runs SET first_rev = NULL")
        .await;
    assert_eq!(bed.walk(id).await, log);
    let read = bed.store.message(&alice, message(id, 14)).await.unwrap();
    assert_eq!(read.content, "anew");
    assert_eq!(bed.react(id, 12).await.content, "anew");
    let log = bed.walk(id).await;
    bed.all_jobs().await;
    assert_eq!(bed.walk(id).await, log);
    assert!(!bed.stored_text().await.contains("talk message 20 "));
    bed.assert_clean().await;
    bed.close().await;
}

/// The same client message id again after its message was archived is a new message, and the old one can still be
/// changed, deleted and restored.
async fn one_client_message_id_in_both_tiers(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 3).await;
    let alice = caller("alice");
    let send = async |content: &str| {
        let new = NewMessage {
            content: content.into(),
            client_msg_id: Some("one".into()),
            ..NewMessage::default()
        };
        bed.store.send(&alice, id, new).await.unwrap()
    };
    assert_eq!(send("first").await.message.seq, Seq(4));
    bed.run().await;
    let second = send("first").await;
    assert!(second.created && second.message.seq == Seq(5));
    assert!(!send("first").await.created);
    let first = message(id, 4);
    let edited = bed.store.edit_message(&alice, first, "anew".into()).await;
    assert_eq!(edited.unwrap().client_msg_id.as_deref(), Some("one"));
    bed.react(id, 4).await;
    assert!(!send("first").await.created, "the hot one is found");
    let log = bed.walk(id).await;
    assert!(
        log[3..]
            .iter()
            .all(|message| message.client_msg_id.as_deref() == Some("one"))
    );
    bed.run().await;
    assert_eq!(bed.walk(id).await, log);
    assert_eq!(send("first").await.message.seq, Seq(6));
    assert_eq!(bed.restore(id).await, 5);
    assert!(!send("first").await.created);
    bed.delete(id, 4).await;
    let log = bed.walk(id).await;
    assert_eq!(log.len(), 6);
    bed.all_jobs().await;
    assert_eq!(bed.walk(id).await, log);
    bed.rebuild().await;
    assert_eq!(bed.walk(id).await, log);
    assert!(send("first").await.created);
    bed.assert_clean().await;
    bed.close().await;
}
