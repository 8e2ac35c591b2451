//! Databases that cannot do it now: whatever they say, it is no fault of the data or of this program, and nothing that was
//! acknowledged is lost.

mod cut_off;
mod failover;
mod numbers;
mod replicas;
mod scene;
mod sessions;

use std::time::{Duration, Instant};

use backscroll_shard::db::Dialect;
use backscroll_shard::ids::MessageId;
use backscroll_shard::model::Position;
use backscroll_shard::settings::Span;

use self::scene::assert_not_now;
use crate::bed::{Bed, PATIENCE, caller, text};
use crate::faults::{connect, home_of};
use crate::logged;

crate::on_every_backend!(
    a_lock_that_is_held_for_too_long_means_not_now,
    a_store_closes_in_time_while_lists_wait,
);

/// Within this time after the end of its cause an outage is over.
const WELL_AGAIN: Duration = Duration::from_secs(1);

/// A backup or an ALTER holds locks for longer than a transaction is run again.
async fn a_lock_that_is_held_for_too_long_means_not_now(bed: &Bed) {
    logged::expect_outage();
    let mut settings = bed.settings.clone();
    settings.pool.lock_timeout = Span::secs(1);
    settings.write.max_retries = 1;
    let impatient = Bed::another(&settings).await;
    let id = bed.group("alice", &["bob"]).await;
    let first = bed.say("bob", id, "before").await;
    bed.settle().await;
    let alice = caller("alice");
    let home = home_of(bed, "alice").shard;

    let mut holder = connect(bed, &home).await;
    holder.begin().await.unwrap();
    if holder.dialect() == Dialect::MySql {
        let lock = "SELECT id FROM conversations FOR UPDATE";
        holder.fetch_all(lock, &[]).await.unwrap();
    }
    let (bob, message) = (
        caller("bob"),
        MessageId {
            conversation: id,
            seq: first.seq,
        },
    );
    let (alone, together, edited, read) = futures_util::join!(
        impatient.send(&alice, id, text("alone")),
        impatient.send_all(&bob, id, vec![text("one"), text("two")]),
        impatient.edit_message(&bob, message, "after".into()),
        impatient.mark_read(&alice, id, None),
    );
    assert_not_now(&home, "a message", &alone);
    for outcome in &together {
        assert_not_now(&home, "messages sent together", outcome);
    }
    assert_not_now(&home, "an edit", &edited);
    assert_not_now(&home, "a watermark", &read);
    let page = impatient.history(&alice, id, Position::Latest, 10).await;
    assert_eq!(page.unwrap().messages.len(), 1, "reads do not wait");
    holder.rollback().await;
    drop(holder);

    let well = Instant::now() + WELL_AGAIN;
    while let Err(error) = impatient.send(&alice, id, text("well again")).await {
        assert!(error.is_retryable() && Instant::now() < well, "{error}");
    }
    impatient.close(Instant::now() + PATIENCE).await;
}

/// What a closing store's relay does not get done waits in the database; the next process does it.
async fn a_store_closes_in_time_while_lists_wait(bed: &Bed) {
    logged::expect_outage();
    let home = home_of(bed, "alice").shard;
    let names = (0..).map(|n| format!("member{n}"));
    let mut far = names.filter(|name| home_of(bed, name).shard != home);
    let far = far.next().unwrap();
    let id = bed.group("alice", &[&far]).await;
    bed.settle().await;
    let closing = Bed::another(&bed.settings).await;

    let mut holder = connect(bed, &home_of(bed, &far).shard).await;
    holder.begin().await.unwrap();
    if holder.dialect() == Dialect::MySql {
        let lock = "SELECT user_id FROM list_entries FOR UPDATE";
        holder.fetch_all(lock, &[]).await.unwrap();
    }
    closing
        .send(&caller("alice"), id, text("last"))
        .await
        .unwrap();
    let begun = Instant::now();
    closing.close(begun + PATIENCE).await;
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    holder.rollback().await;
    drop(holder);

    bed.settle().await;
    let unread = bed.store.unread_count(&caller(&far)).await.unwrap();
    assert_eq!(unread.total, 1);
}
