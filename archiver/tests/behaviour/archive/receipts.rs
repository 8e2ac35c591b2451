//! A receipt says that no object holds erased content any more, whatever the clocks say (INV-ERASE); and content that was
//! deleted while a job was at work is found.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use backscroll_archiver::jobs::{Progress, Step};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::{Position, Timestamp};
use backscroll_shard::settings::Span;
use futures_util::FutureExt as _;

use super::bed::{Backend, Bed, caller, message, on_both, order, sent_at, small, wait_for};

on_both!(
    a_receipt_waits_for_the_object_whatever_the_clock_said,
    a_receipt_waits_for_what_a_dead_job_has_uploaded,
    a_receipt_without_a_number_waits_for_every_object,
    what_was_deleted_before_a_hold_is_put_down,
    what_an_old_object_brings_back_is_erased_again,
    retentions_end_without_a_hole,
    numbers_only_grow,
    a_rebuild_puts_right_what_the_index_says_of_a_segment,
);

async fn has_receipt(bed: &Bed, id: ConversationId) -> bool {
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(!receipts.is_empty());
    receipts.iter().all(|erasure| erasure.erased_at.is_some())
}

/// The segment was superseded by a machine whose clock was a year ahead, or one that was behind.
async fn a_receipt_waits_for_the_object_whatever_the_clock_said(backend: Backend) {
    for ahead in [366 * 86_400_000i64, -7_200_000] {
        let bed = Bed::open_with(
            backend,
            ArchiveSettings {
                gc_grace: Span::secs(3 * 86_400),
                ..small()
            },
        )
        .await;
        let id = bed.import("talk", 40).await;
        bed.run().await;
        bed.delete(id, 12).await;
        bed.erase().await;
        let moved = format!(
            "UPDATE archive_segments SET changed_at = changed_at + {ahead} WHERE state = 'superseded'"
        );
        bed.execute(id, &moved).await;
        bed.collect().await;
        assert!(bed.stored_text().await.contains("talk message 12 "));
        assert!(!has_receipt(&bed, id).await, "{ahead}");
        bed.execute(id, "UPDATE archive_segments SET changed_at = 0")
            .await;
        bed.collect().await;
        assert!(!bed.stored_text().await.contains("talk message 12 "));
        assert!(has_receipt(&bed, id).await, "{ahead}");
        bed.close().await;
    }
}

async fn a_receipt_waits_for_what_a_dead_job_has_uploaded(backend: Backend) {
    let settings = ArchiveSettings {
        gc_grace: Span::secs(3 * 86_400),
        ..small()
    };
    let bed = Bed::open_with(backend, settings).await;
    let id = bed.import("talk", 40).await;
    bed.run().await;
    let (progress, order) = (Progress::default(), order());
    bed.react(id, 12).await;
    let dying = bed.archive_with(Arc::new(|now: Step| {
        if now == Step::Uploaded {
            std::panic::panic_any("a death on purpose");
        }
    }));
    let cutoff = Timestamp(Timestamp::now().0 + 1);
    let run = dying.run(&order, cutoff, &progress);
    assert!(AssertUnwindSafe(run).catch_unwind().await.is_err());
    bed.leases_end().await;
    bed.delete(id, 12).await;
    bed.erase().await;
    // Only what was superseded is old enough.
    let old = "UPDATE archive_segments SET changed_at = 0 WHERE state = 'superseded'";
    bed.execute(id, old).await;
    assert_eq!(bed.collect().await.superseded, 1);
    assert!(bed.stored_text().await.contains("talk message 12 "));
    assert!(!has_receipt(&bed, id).await);
    bed.execute(id, "UPDATE archive_segments SET changed_at = 0")
        .await;
    assert_eq!(bed.collect().await.abandoned, 1);
    assert!(!bed.stored_text().await.contains("talk message 12 "));
    assert!(has_receipt(&bed, id).await);
    bed.close().await;
}

/// As an older binary left them.
async fn a_receipt_without_a_number_waits_for_every_object(backend: Backend) {
    let settings = ArchiveSettings {
        gc_grace: Span::secs(3 * 86_400),
        ..small()
    };
    let bed = Bed::open_with(backend, settings).await;
    let (id, other) = (bed.import("talk", 40).await, bed.import("other", 40).await);
    bed.run().await;
    bed.delete(id, 12).await;
    bed.erase().await;
    bed.execute(id, "UPDATE erasures SET rewritten_generation = NULL")
        .await;
    bed.execute(id, "UPDATE archive_segments SET changed_at = 0")
        .await;
    bed.delete(other, 14).await;
    bed.erase().await; // superseded since, and in its grace period
    bed.collect().await;
    assert!(!bed.stored_text().await.contains("talk message 12 "));
    assert!(!has_receipt(&bed, id).await);
    bed.execute(id, "UPDATE archive_segments SET changed_at = 0")
        .await;
    bed.collect().await;
    assert!(has_receipt(&bed, id).await && has_receipt(&bed, other).await);
    bed.close().await;
}

/// A message is read by a job, deleted, and its conversation put under a hold before the row could be taken away.
async fn what_was_deleted_before_a_hold_is_put_down(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 40).await;
    let (store, holding) = (bed.store.clone(), bed.archive.clone());
    let archive = bed.archive_with(Arc::new(move |now: Step| {
        if now != Step::ReadBack {
            return;
        }
        wait_for(async {
            let alice = caller("alice");
            let deleted = store.delete_message(&alice, message(id, 12));
            deleted.await.unwrap();
            holding.place_hold(&order(), id).await.unwrap();
        });
    }));
    let (order, progress) = (order(), Progress::default());
    let outcomes = archive.run(&order, sent_at(1000), &progress).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()));
    assert_eq!(bed.hot_rows(id).await, 40);
    bed.archive.lift_hold(&order, id).await.unwrap();
    let log = bed.walk(id).await;
    for _ in 0..2 {
        bed.run().await;
        bed.erase().await;
        bed.collect().await;
    }
    assert!(!bed.stored_text().await.contains("talk message 12 "));
    assert_eq!(bed.walk(id).await, log);
    assert!(has_receipt(&bed, id).await);
    bed.assert_clean().await;
    bed.close().await;
}

/// The databases are lost while an object that was superseded is still there.
async fn what_an_old_object_brings_back_is_erased_again(backend: Backend) {
    let settings = ArchiveSettings {
        gc_grace: Span::secs(3 * 86_400),
        ..small()
    };
    let bed = Bed::open_with(backend, settings).await;
    let id = bed.import("talk", 40).await;
    bed.run().await;
    bed.edit(id, 40, "the last").await;
    bed.delete(id, 12).await;
    bed.erase().await;
    bed.run().await;
    let log = bed.walk(id).await;
    let lost = bed.databases_lost(backend).await;
    lost.rebuild().await;
    let rebuilt = lost.walk(id).await;
    assert_eq!(rebuilt.len(), 40);
    for (now, before) in rebuilt.iter().zip(&log) {
        let same = |message: &backscroll_shard::model::Message| {
            (
                message.seq,
                message.rev,
                message.content.clone(),
                message.deleted_at,
            )
        };
        assert_eq!(same(now), same(before));
    }
    let list = lost.store.conversation(&caller("alice"), id).await.unwrap();
    assert_eq!(list.last_message.unwrap().content, "the last");
    lost.erase().await;
    lost.execute(id, "UPDATE archive_segments SET changed_at = 0")
        .await;
    lost.collect().await;
    assert!(!lost.stored_text().await.contains("talk message 12 "));
    assert!(has_receipt(&lost, id).await);
    assert_eq!(lost.walk(id).await, rebuilt);
    lost.close().await;
    bed.close().await;
}

/// Of a message that was archived again no copy is dropped before those of its neighbours.
async fn retentions_end_without_a_hole(backend: Backend) {
    let days = (Timestamp::now().0 - sent_at(400).0) / 86_400_000;
    let settings = ArchiveSettings {
        retain: Some(format!("{days} days").parse().unwrap()),
        frame_bytes: 16 << 10,
        ..small()
    };
    let retain = settings.retain.unwrap();
    let cutoff = retain.before(Timestamp::now(), &settings.zone());
    let bed = Bed::open_with(backend, settings).await;
    let id = bed.import("talk", 3000).await;
    bed.run().await;
    let stays = (1..).find(|n| sent_at(*n) >= cutoff).unwrap();
    let first = bed.first_of_run(id, Seq(stays)).await;
    bed.react(id, first.0).await;
    bed.run().await;
    let log = bed.walk(id).await;
    bed.erase().await;
    bed.collect().await;
    let left = bed.walk(id).await;
    assert_eq!(left.first().map(|message| message.seq), Some(first));
    assert_eq!(left, log[usize::try_from(first.0).unwrap() - 1..]);
    bed.assert_clean().await;
    bed.close().await;
}

async fn numbers_only_grow(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 40).await;
    let mut last = 0;
    for round in 1..=4u64 {
        bed.run().await;
        let number = bed
            .number(id, "SELECT MAX(generation) FROM archive_segments")
            .await;
        assert!(number > last && number < 1000, "{number} after {last}");
        last = number;
        bed.delete(id, round * 2).await;
        bed.erase().await;
        bed.collect().await; // forgets the greatest number
        let number = bed.number(id, "SELECT MAX(generation) FROM leases").await;
        assert!(number >= last, "{number} after {last}");
    }
    let twice = "SELECT COUNT(*) - COUNT(DISTINCT generation) FROM archive_segments";
    assert_eq!(bed.number(id, twice).await, 0);
    bed.close().await;
}

/// What a job of an older binary left behind: a row that was merged with another segment's, and one that is lost.
async fn a_rebuild_puts_right_what_the_index_says_of_a_segment(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 100).await;
    bed.run().await;
    bed.react(id, 100).await;
    bed.run().await;
    let log = bed.walk(id).await;
    let last = bed.first_of_run(id, Seq(99)).await;
    let merged = "UPDATE archive_runs SET first_seq = last_seq WHERE last_seq = 100";
    bed.execute(id, merged).await;
    let lost = format!("DELETE FROM archive_runs WHERE last_seq = {}", last.0 - 1);
    bed.execute(id, &lost).await;
    let refused = bed
        .store
        .history(&caller("alice"), id, Position::Latest, 100)
        .await;
    assert!(refused.is_err());
    for _ in 0..2 {
        bed.rebuild().await;
        assert_eq!(bed.walk(id).await, log);
        bed.assert_clean().await;
    }
    bed.close().await;
}
