//! Repeated messages are recognised for as long as that is promised (INV-IDEM), whatever the archive's jobs are told to do.

use std::time::Instant;

use backscroll_shard::archive;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{NewMessage, Sent, Timestamp};
use backscroll_shard::settings::Span;

use super::bed::{Backend, Bed, PATIENCE, caller, on_both, order, small};

on_both!(
    a_message_stays_hot_while_its_repeat_is_recognised,
    a_database_tells_the_time,
);

async fn send(bed: &Bed, id: ConversationId, content: &str) -> Result<Sent, Error> {
    let message = NewMessage {
        content: content.into(),
        client_msg_id: Some("one".into()),
        ..NewMessage::default()
    };
    bed.store.send(&caller("bob"), id, message).await
}

async fn a_message_stays_hot_while_its_repeat_is_recognised(backend: Backend) {
    let day = Span::secs(86_400);
    let bed = Bed::open_promising(backend, small(), day).await;
    let id = bed.import("talk", 60).await; // years old
    let sent = send(&bed, id, "hello").await.unwrap().message;
    assert_eq!(sent.seq, Seq(61));
    let plans = bed.archive.plan(&order(), Timestamp::MAX).await.unwrap();
    assert_eq!(plans.iter().map(|plan| plan.messages).sum::<u64>(), 60);
    let repeated = async || {
        for outcome in bed.run_before(Timestamp::MAX).await {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
        assert_eq!(bed.hot_rows(id).await, 1, "only the imported ones left");
        let again = send(&bed, id, "hello").await.unwrap();
        assert!(!again.created && again.message.seq == sent.seq, "{again:?}");
        let other = send(&bed, id, "something else").await;
        assert!(
            matches!(other, Err(Error::IdempotencyConflict)),
            "{other:?}"
        );
    };
    repeated().await;
    let message = MessageId {
        conversation: id,
        seq: sent.seq,
    };
    let bob = caller("bob");
    let edited = bed.store.edit_message(&bob, message, "edited".into()).await;
    assert_eq!(edited.unwrap().content, "edited");
    repeated().await;
    bed.store.delete_message(&bob, message).await.unwrap();
    repeated().await;
    bed.assert_clean().await;
    bed.close().await;
}

/// The bound is by the clock that is behind, this machine's or the database's.
async fn a_database_tells_the_time(backend: Backend) {
    let bed = Bed::open(backend).await;
    for shard in bed.store.router().shards() {
        let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
        let before = Timestamp::now();
        let told = archive::clock(&mut connection).await.unwrap();
        let after = Timestamp::now();
        let tolerance = 100; // the server's clock has other ticks
        assert!(
            told.0 >= before.0 - tolerance && told.0 <= after.0 + tolerance,
            "{before} {told} {after}"
        );
    }
    bed.close().await;
}
