//! Ranges move between shards with their archived messages: objects stay, index rows move, and nothing of it shows.

use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::ids::{ConversationId, KeyFunction, MessageId, Seq, ShardName, UserId};
use backscroll_shard::model::Caller;
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
    a_move_that_is_reversed_leaves_no_object_behind,
    receipts_wait_for_a_segment_that_is_named_again,
    what_a_source_keeps_is_not_written_anew,
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
    let mover = mover(bed, 0);
    let order = order();
    let job = mover.begin(range, to, &order).await.unwrap();
    assert_eq!(mover.run(job.id).await.unwrap().state, MoveState::Done);
    router.refresh(&router.map()).await.unwrap();
    to.clone()
}

/// Moves ranges; their source keeps its rows for so many seconds.
fn mover(bed: &Bed, keep: u64) -> Mover {
    let settings = RebalanceSettings {
        keep: Span::secs(keep),
        load: 100,
        longest_freeze: Span::secs(4),
        freeze_budget: Span::secs(2),
        ..RebalanceSettings::default()
    };
    Mover::new(Arc::clone(bed.store.router()), "test").with_settings(settings)
}

fn order() -> Order {
    Order {
        actor: "test".into(),
        reason: "to see".into(),
    }
}

/// Archives two conversations of one range and of different keys into one segment: `leaving`, and `other`, which the user owns.
async fn in_one_segment(bed: &Bed, other: &str) -> (ConversationId, ConversationId, UserId) {
    let map = bed.store.router().map();
    let id = bed.import("leaving", 30).await;
    let range = map.locate(id.owner_key()).range;
    let mut names = (0..).map(|n| user(&format!("neighbour{n}")));
    let is_near = |name: &UserId| {
        let key = KeyFunction::Hashed.key(name).unwrap();
        key != id.owner_key() && range.contains(key)
    };
    let neighbour = names.find(is_near).unwrap();
    let other = bed.import_for(&neighbour, other, 30).await;
    bed.run().await;
    (id, other, neighbour)
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
    let (id, staying, _) = in_one_segment(&bed, "staying").await;
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

/// What was deleted is put down as erased only once no object has it any more.
async fn assert_erased(bed: &Bed, id: ConversationId, text: &str) {
    bed.all_jobs().await;
    bed.collect().await;
    let receipts = bed.archive.erasures(id).await.unwrap();
    let is_erased = receipts.iter().all(|it| it.erased_at.is_some());
    assert!(is_erased && !receipts.is_empty(), "{receipts:?}");
    assert!(!bed.stored_text().await.contains(text));
    bed.assert_clean().await;
}

/// The source keeps its rows, which name what the target writes anew; when the range comes back, they are replaced.
async fn a_move_that_is_reversed_leaves_no_object_behind(backend: Backend) {
    let bed = Bed::open(backend).await;
    warnings::expect(logged::LISTS_WAIT);
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let router = bed.store.router();
    let home = router.map().locate(id.owner_key()).clone();
    let mut names = bed.settings.shards.iter().map(|shard| &shard.name);
    let away = names.find(|name| **name != home.shard).unwrap();
    let mover = mover(&bed, 3600);
    let job = mover.begin(home.range, away, &order()).await.unwrap();
    let kept = mover.run(job.id).await.unwrap();
    assert_eq!(kept.state, MoveState::Draining);
    router.refresh(&router.map()).await.unwrap();
    bed.delete(id, 7).await;
    bed.erase_on(away).await;
    let log = bed.walk(id).await;
    let back = mover.reverse(job.id, &order()).await.unwrap();
    mover.run(back.id).await.unwrap();
    router.refresh(&router.map()).await.unwrap();
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert_eq!(receipts[0].erased_at, None, "the object is there");
    // What the shard from which it came back kept must not be needed for it.
    bed.collect_on(&home.shard).await;
    assert!(!bed.stored_text().await.contains("talk message 7 "));
    assert_erased(&bed, id, "talk message 7 ").await;
    assert_eq!(bed.walk(id).await, log);
    bed.close().await;
}

/// One shard writes a segment anew without what was deleted; then a conversation comes to it that still needs the segment.
async fn receipts_wait_for_a_segment_that_is_named_again(backend: Backend) {
    let bed = Bed::open(backend).await;
    warnings::expect(logged::LISTS_WAIT);
    let (id, other, _) = in_one_segment(&bed, "following").await;
    let log = bed.walk(other).await;
    let only = |id: ConversationId| {
        let key = id.owner_key().0;
        KeyRange::new(key, Some(key + 1)).unwrap()
    };
    let away = move_range(&bed, id, only(id)).await;
    bed.delete(id, 7).await;
    bed.erase_on(&away).await;
    move_range(&bed, other, only(other)).await;
    bed.assert_clean().await;
    bed.collect_on(&away).await;
    let receipts = bed.archive.erasures(id).await.unwrap();
    let is_there = bed.stored_text().await.contains("leaving message 7 ");
    assert!(is_there && receipts[0].erased_at.is_none(), "{receipts:?}");
    assert_erased(&bed, id, "leaving message 7 ").await;
    assert_eq!(bed.walk(other).await, log);
    bed.close().await;
}

/// A source keeps the rows of what has moved away beside those of a conversation that stays, in one segment. It writes the segment
/// anew without the former.
async fn what_a_source_keeps_is_not_written_anew(backend: Backend) {
    let bed = Bed::open(backend).await;
    warnings::expect(logged::LISTS_WAIT);
    let (id, staying, neighbour) = in_one_segment(&bed, "staying").await;
    let home = bed.store.router().map().locate(id.owner_key()).clone();
    let mut names = bed.settings.shards.iter().map(|shard| &shard.name);
    let away = names.find(|name| **name != home.shard).unwrap();
    let key = id.owner_key().0;
    let range = KeyRange::new(key, Some(key + 1)).unwrap();
    let leaving = mover(&bed, 1);
    let job = leaving.begin(range, away, &order()).await.unwrap();
    let kept = leaving.run(job.id).await.unwrap();
    let router = bed.store.router();
    router.refresh(&router.map()).await.unwrap();
    assert_eq!(kept.state, MoveState::Draining);
    let neighbour = Caller::new(neighbour, Duration::from_secs(20));
    let third = MessageId {
        conversation: staying,
        seq: Seq(3),
    };
    bed.store.delete_message(&neighbour, third).await.unwrap();
    bed.erase_on(&home.shard).await;
    let log = bed.walk(staying).await;
    // The kept rows go, and with them the last that names what was written of them.
    while leaving.run(job.id).await.unwrap().state != MoveState::Done {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bed.delete(id, 7).await;
    let (all, gone) = ("leaving message 7 ", "staying message 3 ");
    bed.all_jobs().await;
    let text = bed.stored_text().await;
    assert!(!text.contains(all) && !text.contains(gone));
    assert_erased(&bed, id, all).await;
    assert_eq!(bed.walk(staying).await, log);
    bed.close().await;
}
