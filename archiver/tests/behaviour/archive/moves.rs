//! Ranges move between shards with their archived messages: objects stay, index rows move, and nothing of it shows.

use std::sync::Arc;

use backscroll_shard::ids::{ConversationId, KeyFunction, ShardName};
use backscroll_shard::moves::{MoveState, Mover, Order};
use backscroll_shard::range::KeyRange;
use backscroll_shard::settings::{RebalanceSettings, Span};
use backscroll_testkit::warnings;

use super::bed::{Backend, Bed, on_both, user};
use super::logged;

on_both!(
    archived_conversations_move,
    erased_content_leaves_every_object_after_a_move,
    segments_that_two_shards_share_are_clean_and_erased,
);

/// Moves the range of a conversation to the other shard, and waits until its first one has no rows left.
pub(super) async fn move_away(bed: &Bed, id: ConversationId) -> ShardName {
    let router = bed.store.router();
    router.refresh(&router.map()).await.unwrap();
    let range = router.map().locate(id.owner_key()).range;
    move_range(bed, id, range).await
}

/// The same with a part of that range, which has the conversation.
async fn move_range(bed: &Bed, id: ConversationId, range: KeyRange) -> ShardName {
    let router = bed.store.router();
    let from = router.map().locate(id.owner_key()).clone();
    let mut names = bed.settings.shards.iter().map(|shard| &shard.name);
    let to = names.find(|name| **name != from.shard).unwrap();
    let settings = RebalanceSettings {
        keep: Span::secs(0),
        load: 100,
        longest_freeze: Span::secs(4),
        freeze_budget: Span::secs(2),
        ..RebalanceSettings::default()
    };
    let mover = Mover::new(Arc::clone(router), "test").with_settings(settings);
    let order = Order {
        actor: "test".into(),
        reason: "to see".into(),
    };
    let job = mover.begin(range, to, &order).await.unwrap();
    assert_eq!(mover.run(job.id).await.unwrap().state, MoveState::Done);
    router.refresh(&router.map()).await.unwrap();
    to.clone()
}

async fn archived_conversations_move(backend: Backend) {
    let bed = Bed::open(backend).await;
    warnings::expect(logged::LISTS_WAIT);
    let (old, mixed) = (bed.import("old", 150).await, bed.import("mixed", 120).await);
    bed.run().await;
    bed.edit(mixed, 4, "thawed before the move").await;
    bed.react(mixed, 90).await;
    let (logs, text) = (
        (bed.walk(old).await, bed.walk(mixed).await),
        bed.stored_text().await,
    );
    for _ in 0..3 {
        for id in [old, mixed] {
            move_away(&bed, id).await;
            assert_eq!((bed.walk(old).await, bed.walk(mixed).await), logs);
            assert_eq!(bed.stored_text().await, text, "the bytes in the bucket");
            bed.assert_clean().await;
        }
    }
    // The archive goes on where they are now.
    bed.edit(old, 8, "after the move").await;
    let logs = (bed.walk(old).await, bed.walk(mixed).await);
    bed.all_jobs().await;
    move_away(&bed, old).await;
    bed.all_jobs().await;
    bed.assert_clean().await;
    assert_eq!((bed.walk(old).await, bed.walk(mixed).await), logs);
    assert!(bed.restore(old).await > 0);
    assert_eq!(bed.walk(old).await, logs.0);
    bed.close().await;
}

async fn erased_content_leaves_every_object_after_a_move(backend: Backend) {
    let bed = Bed::open(backend).await;
    warnings::expect(logged::LISTS_WAIT);
    let id = bed.import("talk", 200).await;
    bed.run().await;
    bed.edit(id, 42, "other words").await;
    bed.run().await;
    bed.delete(id, 42).await;
    move_away(&bed, id).await;
    // Rewritten on the target: the old objects are registered on both shards until they are collected.
    bed.erase().await;
    move_away(&bed, id).await;
    assert!(bed.stored_text().await.contains("other words"));
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(
        receipts[0].erased_at.is_none(),
        "the objects are still there: {receipts:?}"
    );
    bed.collect().await;
    bed.collect().await;
    let text = bed.stored_text().await;
    assert!(!text.contains("talk message 42 ") && !text.contains("other words"));
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(
        receipts.len() == 1 && receipts[0].erased_at.is_some(),
        "{receipts:?}"
    );
    bed.assert_clean().await;
    bed.close().await;
}

/// A part of a shard's range moves: its segments hold messages of both shards from then on.
async fn segments_that_two_shards_share_are_clean_and_erased(backend: Backend) {
    let bed = Bed::open(backend).await;
    warnings::expect(logged::LISTS_WAIT);
    let map = bed.store.router().map();
    let id = bed.import("leaving", 30).await;
    let home = map.locate(id.owner_key()).clone();
    let names = (0..).map(|n| user(&format!("neighbour{n}")));
    let mut neighbours = names.filter(|name| {
        let key = KeyFunction::Hashed.key(name).unwrap();
        key != id.owner_key() && home.range.contains(key)
    });
    let staying = bed
        .import_for(&neighbours.next().unwrap(), "staying", 30)
        .await;
    bed.run().await;
    let log = bed.walk(staying).await;
    let key = id.owner_key().0;
    move_range(&bed, id, KeyRange::new(key, Some(key + 1)).unwrap()).await;
    bed.assert_clean().await;
    bed.delete(id, 7).await;
    bed.erase().await;
    bed.assert_clean().await;
    bed.collect().await;
    assert!(!bed.stored_text().await.contains("leaving message 7 "));
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(receipts[0].erased_at.is_some(), "{receipts:?}");
    assert_eq!(bed.walk(staying).await, log);
    bed.assert_clean().await;
    bed.close().await;
}
