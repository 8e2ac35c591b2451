//! Reading archived messages while the object store is away, slow or lying, and by many at once.

use std::time::Duration;

use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::{ErrorKind, Operation};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{MessageId, Seq};
use backscroll_shard::model::{Caller, NewMessage, Position, SyncRequest};
use backscroll_testkit::warnings;

use super::bed::{Backend, Bed, caller, on_both, small, user};
use super::logged;

on_both!(
    many_readers_cost_one_request,
    a_page_costs_one_request_and_the_next_is_read_ahead,
    a_page_in_two_frames_costs_one_request,
    one_damaged_frame_does_not_spoil_its_neighbour,
    the_hot_part_is_there_while_the_archive_is_away,
    damage_is_noticed_and_named,
    a_slow_archive_keeps_nobody_else_waiting,
);

async fn many_readers_cost_one_request(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 400).await;
    bed.run().await;
    let before = bed.faults.requests(Operation::GetRange);
    let reads = (0..200).map(|_| bed.page(id, Position::Around(Seq(200)), 1));
    for page in futures_util::future::join_all(reads).await {
        assert_eq!(page.messages[0].seq, Seq(200));
    }
    assert_eq!(bed.faults.requests(Operation::GetRange) - before, 1);
    bed.close().await;
}

async fn a_page_costs_one_request_and_the_next_is_read_ahead(backend: Backend) {
    let settings = ArchiveSettings {
        frame_bytes: 16 << 10,
        ..small()
    };
    let bed = Bed::open_with(backend, settings).await;
    let id = bed.import("talk", 900).await;
    bed.run().await;
    let before = bed.faults.requests(Operation::GetRange);
    let log = bed.walk(id).await;
    let requests = bed.faults.requests(Operation::GetRange) - before;
    assert_eq!(log.len(), 900);
    let pages = 18;
    assert!(requests <= pages, "{requests} requests for {pages} pages");
    bed.walk(id).await;
    assert_eq!(bed.faults.requests(Operation::GetRange) - before, requests);

    // Somebody else's channel, read backwards: the frame before the page's is there before it is asked for.
    let other = bed.import("other", 900).await;
    bed.run().await;
    let page = bed.page(other, Position::Latest, 200).await;
    let first = bed.first_of_run(other, page.messages[0].seq).await;
    let read_ahead = async {
        let reads = bed.faults.requests(Operation::GetRange);
        while bed.faults.requests(Operation::GetRange) == reads {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), read_ahead).await;
    let gone = Fault::Before(ErrorKind::Unavailable);
    bed.faults.plan(Operation::GetRange, 1000, gone);
    let page = bed.page(other, Position::Before(first), 1).await;
    assert_eq!(page.messages[0].seq.next(), first);
    bed.close().await;
}

async fn a_page_in_two_frames_costs_one_request(backend: Backend) {
    let bed = Bed::open_with(backend, in_one_segment()).await;
    let id = bed.import("talk", 900).await;
    bed.run().await;
    assert_eq!(bed.keys().await.len(), 1);
    let first = bed.first_of_run(id, Seq(450)).await;
    assert!(first > Seq(10));
    let before = bed.faults.requests(Operation::GetRange);
    let page = bed.page(id, Position::Around(first), 20).await;
    let seqs: Vec<u64> = page.messages.iter().map(|message| message.seq.0).collect();
    let begin = first.0 - 9;
    assert_eq!(seqs, (begin..begin + 20).collect::<Vec<_>>());
    assert_eq!(bed.faults.requests(Operation::GetRange) - before, 1);
    // Of the next frame but one only that is fetched which is not there yet.
    let page = bed.page(id, Position::After(first), 200).await;
    assert_eq!(page.messages.len(), 200);
    assert_eq!(bed.faults.requests(Operation::GetRange) - before, 2);
    let all = bed.store.export(id, Seq(0), 900).await.unwrap();
    assert_eq!(all.len(), 900);
    bed.close().await;
}

async fn one_damaged_frame_does_not_spoil_its_neighbour(backend: Backend) {
    warnings::expect(logged::DAMAGED_FRAME);
    warnings::expect(logged::DAMAGED_PAGE);
    let bed = Bed::open_with(backend, in_one_segment()).await;
    let id = bed.import("talk", 900).await;
    bed.run().await;
    let first = bed.first_of_run(id, Seq(450)).await;
    // Damaged on the way, together and once more by itself.
    bed.faults.plan(Operation::GetRange, 2, Fault::FlippedBit);
    let page = bed.page(id, Position::Around(first), 20).await;
    let lost = page.archive_unavailable.unwrap();
    assert!([9, 11].contains(&page.messages.len()), "of one frame");
    let whole = page.messages.iter().all(|message| message.seq >= first);
    assert_eq!(whole, lost.to_seq < first);
    let page = bed.page(id, Position::Around(first), 20).await;
    assert_eq!(page.messages.len(), 20);
    bed.close().await;
}

/// Several frames side by side.
fn in_one_segment() -> ArchiveSettings {
    ArchiveSettings {
        segment_bytes: 8 << 20,
        frame_bytes: 8 << 10,
        ..small()
    }
}

async fn the_hot_part_is_there_while_the_archive_is_away(backend: Backend) {
    warnings::expect(logged::ARCHIVE_AWAY);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 100).await;
    let synced = bed.page(id, Position::Latest, 1).await.rev;
    bed.run().await;
    let alice = caller("alice");
    let edited = MessageId {
        conversation: id,
        seq: Seq(50),
    };
    bed.store
        .edit_message(&alice, edited, "anew".into())
        .await
        .unwrap();
    bed.run().await;
    for n in 1..=5 {
        let new = NewMessage {
            content: format!("new {n}"),
            ..Default::default()
        };
        bed.store.send(&alice, id, new).await.unwrap();
    }
    bed.faults.plan(
        Operation::GetRange,
        1000,
        Fault::Before(ErrorKind::Unavailable),
    );
    let cold = Position::Before(Seq(2)); // in a frame that nobody has read
    let hot = bed.page(id, Position::Latest, 5).await;
    assert_eq!((hot.tiers.hot, hot.archive_unavailable), (5, None));
    let both = bed.page(id, Position::Around(Seq(100)), 10).await;
    let missing = both.archive_unavailable.unwrap();
    assert_eq!(both.messages.iter().map(|m| m.seq.0).min(), Some(101));
    assert_eq!(missing.to_seq, Seq(100));
    let refused = bed.store.history(&alice, id, cold, 20).await;
    assert!(
        matches!(refused, Err(Error::ArchiveUnavailable)),
        "{refused:?}"
    );
    let first = MessageId {
        conversation: id,
        seq: Seq(1),
    };
    let refused = bed.store.delete_message(&caller("bob"), first).await;
    assert!(
        matches!(refused, Err(Error::ArchiveUnavailable)),
        "{refused:?}"
    );
    let request = SyncRequest {
        cursor: None,
        conversations: [(id, synced)].into(),
    };
    let page = bed.store.sync(&alice, request.clone()).await.unwrap();
    assert_eq!(page.resync.len(), 1, "whole or refused");
    bed.faults.clear();
    assert_eq!(bed.walk(id).await.len(), 105);
    assert_eq!(bed.store.sync(&alice, request).await.unwrap().resync, []);
    bed.close().await;
}

async fn damage_is_noticed_and_named(backend: Backend) {
    warnings::expect(logged::DAMAGED_FRAME);
    warnings::expect(logged::DAMAGED_PAGE);
    warnings::expect(logged::VERIFY_FINDS);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    // Damaged on the way: reading once more heals it.
    bed.faults.plan(Operation::GetRange, 1, Fault::FlippedBit);
    assert_eq!(bed.walk(id).await.len(), 60);
    // Damaged where it is kept.
    let bed2 = Bed::open(backend).await;
    let id = bed2.import("talk", 60).await;
    bed2.run().await;
    bed2.faults
        .plan(Operation::GetRange, 1000, Fault::FlippedBit);
    let refused = bed2
        .store
        .history(&caller("alice"), id, Position::Latest, 1)
        .await;
    let Err(Error::ArchiveDamaged(what)) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        what.contains("archive/") && what.contains("frame at"),
        "{what}"
    );
    let report = bed2.verify().await;
    assert!(!report.is_clean());
    bed2.faults.clear();
    bed2.assert_clean().await;
    bed.close().await;
    bed2.close().await;
}

async fn a_slow_archive_keeps_nobody_else_waiting(backend: Backend) {
    let mut settings = small();
    settings.max_reads = 2;
    let bed = Bed::open_with(backend, settings).await;
    let id = bed.import("talk", 900).await;
    bed.run().await;
    let busy = bed.import("busy", 20).await;
    bed.faults.plan(
        Operation::GetRange,
        10_000,
        Fault::Delay(Duration::from_secs(30)),
    );
    let impatient = || Caller::new(user("alice"), Duration::from_millis(1500));
    let cold = (0..60).map(|n| {
        let position = Position::Around(Seq(n * 15 + 1));
        let store = bed.store.clone();
        async move { store.history(&impatient(), id, position, 1).await }
    });
    let cold = futures_util::future::join_all(cold);
    let before = bed.faults.requests(Operation::GetRange);
    let hot = async {
        for n in 0..20 {
            let new = NewMessage {
                content: format!("on {n}"),
                ..Default::default()
            };
            bed.store.send(&caller("alice"), busy, new).await.unwrap();
            bed.page(busy, Position::Latest, 20).await;
        }
    };
    let (cold, ()) = futures_util::future::join(cold, hot).await;
    let asked = bed.faults.requests(Operation::GetRange) - before;
    assert_eq!(asked, 2, "no more than archive.max_reads at once");
    for read in cold {
        assert!(matches!(read, Err(Error::ArchiveUnavailable)), "{read:?}");
    }
    bed.faults.clear();
    bed.close().await;
}
