//! Repeated messages are recognised for as long as that is promised (INV-IDEM), whatever the archive's jobs are told to do.

use std::time::Instant;

use backscroll_archiver::jobs::Progress;
use backscroll_shard::archive;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{
    Conversation, ConversationKind, ConversationPatch, NewConversation, NewMessage, Sent, Timestamp,
};
use backscroll_shard::settings::Span;

use super::bed::{Backend, Bed, PATIENCE, caller, on_both, order, small, user};

on_both!(
    a_message_stays_hot_while_its_repeat_is_recognised,
    a_database_tells_the_time,
    a_rebuilt_conversation_is_found_by_its_key_while_it_is_as_asked_for,
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
            matches!(other, Err(Error::IdempotencyConflict(_))),
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

/// The digest of the request is lost with the database; segments tell what the conversation was.
async fn a_rebuilt_conversation_is_found_by_its_key_while_it_is_as_asked_for(backend: Backend) {
    let bed = Bed::open(backend).await;
    let create = async |bed: &Bed, others: &[&str]| -> Result<(Conversation, bool), Error> {
        let new = NewConversation {
            kind: ConversationKind::Group,
            members: others.iter().map(|name| user(name)).collect(),
            title: Some("Lunch".into()),
            metadata: None,
        };
        let store = &bed.store;
        store
            .create_conversation(&caller("alice"), new, Some("key"))
            .await
    };
    let (first, _) = create(&bed, &["bob", "carol"]).await.unwrap();
    send(&bed, first.id, "kept").await.unwrap();
    bed.run().await;
    let lost = bed.databases_lost(backend).await;
    let rebuilt = lost.archive.rebuild(&order(), &Progress::default()).await;
    assert_eq!(rebuilt.unwrap().figures.conversations, 1);
    let (again, created) = create(&lost, &["carol", "bob"]).await.unwrap();
    assert!(!created && again.id == first.id);
    let other = create(&lost, &["eve"]).await;
    assert!(
        matches!(other, Err(Error::IdempotencyConflict(_))),
        "{other:?}"
    );
    let rename = ConversationPatch {
        title: Some("Dinner".into()),
        ..ConversationPatch::default()
    };
    let alice = caller("alice");
    lost.store
        .update_conversation(&alice, first.id, rename)
        .await
        .unwrap();
    let renamed = create(&lost, &["bob", "carol"]).await;
    assert!(
        matches!(renamed, Err(Error::IdempotencyConflict(_))),
        "{renamed:?}"
    );
    lost.close().await;
    bed.close().await;
}
