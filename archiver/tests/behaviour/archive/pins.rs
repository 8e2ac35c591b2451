//! Pinned messages in both tiers: whatever becomes of them, the list of pins is what the messages say themselves.

use backscroll_archiver::jobs::Progress;
use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::{ErrorKind, Operation};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::error::Error;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::Message;
use backscroll_testkit::warnings;

use super::bed::{Backend, Bed, caller, message, on_both, order, small};
use super::logged;
use super::moves::move_away;

on_both!(
    archived_messages_are_pinned_and_stay_so,
    pins_that_cannot_be_read_are_named,
    pins_are_found_again_when_the_databases_are_lost,
    pins_go_with_what_retention_drops,
    any_sequence_of_changes_leaves_the_pins_that_the_log_has,
);

impl Bed {
    async fn pin(&self, id: ConversationId, seq: u64) {
        let alice = caller("alice");
        let pinned = self.store.pin_message(&alice, message(id, seq));
        assert!(pinned.await.unwrap().pinned_at.is_some());
    }

    async fn unpin(&self, id: ConversationId, seq: u64) {
        let alice = caller("alice");
        let unpinned = self.store.unpin_message(&alice, message(id, seq));
        assert!(unpinned.await.unwrap().pinned_at.is_none());
    }

    /// The list of pins, read page by page.
    async fn pins(&self, id: ConversationId) -> Vec<Message> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        let alice = caller("alice");
        loop {
            let page = self.store.pins(&alice, id, cursor.as_deref(), 3);
            let page = page.await.unwrap();
            assert!(page.archive_unavailable.is_empty(), "{page:?}");
            all.extend(page.messages);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return all;
            }
        }
    }

    /// What the log says of itself is what the list of pins and the table have.
    async fn assert_pins_agree(&self, id: ConversationId) -> usize {
        let mut logged = self.walk(id).await;
        logged.retain(|message| message.pinned_at.is_some());
        logged.reverse();
        assert_eq!(self.pins(id).await, logged);
        let rows = self.number(id, "SELECT COUNT(*) FROM pins").await;
        assert_eq!(rows, i64::try_from(logged.len()).unwrap());
        logged.len()
    }
}

async fn archived_messages_are_pinned_and_stay_so(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 200).await;
    for seq in [4, 50, 199] {
        bed.pin(id, seq).await;
    }
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    assert!(bed.stored_text().await.contains("pinnedBy"));
    assert_eq!(bed.assert_pins_agree(id).await, 3);
    // What is archived is pinned, unpinned and edited like everything else.
    bed.pin(id, 120).await;
    bed.unpin(id, 50).await;
    bed.edit(id, 4, "edited").await;
    assert_eq!(bed.assert_pins_agree(id).await, 3);
    bed.all_jobs().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    assert_eq!(bed.assert_pins_agree(id).await, 3);
    assert_eq!(bed.pins(id).await[2].content, "edited");
    bed.delete(id, 120).await;
    assert_eq!(bed.assert_pins_agree(id).await, 2);
    bed.all_jobs().await;
    assert!(bed.restore(id).await > 0);
    assert_eq!(bed.assert_pins_agree(id).await, 2);
    bed.run().await;
    let before = bed.pins(id).await;
    move_away(&bed, id).await;
    assert_eq!(bed.pins(id).await, before);
    assert_eq!(bed.assert_pins_agree(id).await, 2);
    bed.assert_clean().await;
    bed.close().await;
}

async fn pins_that_cannot_be_read_are_named(backend: Backend) {
    warnings::expect(logged::ARCHIVE_AWAY);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 300).await;
    bed.pin(id, 7).await;
    bed.run().await;
    let gone = Fault::Before(ErrorKind::Unavailable);
    bed.faults.plan(Operation::GetRange, 1000, gone);
    let alice = caller("alice");
    let page = bed.store.pins(&alice, id, None, 10).await;
    assert!(matches!(page, Err(Error::ArchiveUnavailable)), "{page:?}");
    bed.faults.clear();
    bed.pin(id, 280).await;
    bed.faults.plan(Operation::GetRange, 1000, gone);
    let page = bed.store.pins(&alice, id, None, 10).await.unwrap();
    assert_eq!(page.archive_unavailable, [message(id, 7)]);
    assert_eq!(page.messages[0].id, message(id, 280));
    bed.faults.clear();
    assert_eq!(bed.assert_pins_agree(id).await, 2);
    bed.close().await;
}

async fn pins_are_found_again_when_the_databases_are_lost(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 120).await;
    for seq in [4, 40, 80] {
        bed.pin(id, seq).await;
    }
    bed.run().await;
    bed.unpin(id, 40).await;
    bed.run().await;
    let before = bed.pins(id).await;
    let lost = bed.databases_lost(backend).await;
    lost.rebuild().await;
    assert_eq!(lost.assert_pins_agree(id).await, 2);
    for (now, before) in lost.pins(id).await.iter().zip(&before) {
        assert_eq!((now.seq, now.pinned_at), (before.seq, before.pinned_at));
    }
    lost.close().await;
    bed.close().await;
}

async fn pins_go_with_what_retention_drops(backend: Backend) {
    let settings = ArchiveSettings {
        retain: Some("300 days".parse().unwrap()),
        ..small()
    };
    let bed = Bed::open_with(backend, settings).await;
    let id = bed.import("talk", 60).await;
    bed.pin(id, 7).await;
    bed.run().await;
    bed.erase().await;
    assert!(bed.pins(id).await.is_empty());
    assert_eq!(bed.number(id, "SELECT COUNT(*) FROM pins").await, 0);
    bed.close().await;
}

/// Pins, unpins, edits, deletions and jobs in an order of chance; after each the list of pins is that of the log.
async fn any_sequence_of_changes_leaves_the_pins_that_the_log_has(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 40).await;
    let alice = caller("alice");
    let mut random = Lcg(backend as u64 + 7);
    for _ in 0..60 {
        let target = message(id, 1 + random.below(40));
        match random.below(12) {
            0..=4 => drop(bed.store.pin_message(&alice, target).await),
            5..=6 => drop(bed.store.unpin_message(&alice, target).await),
            7 => drop(bed.store.delete_message(&alice, target).await),
            8 => drop(bed.store.react(&alice, target, "👍").await),
            9 => drop(bed.run().await),
            10 => bed.all_jobs().await,
            // Refused while nothing is archived.
            _ => drop(
                bed.archive
                    .restore(&order(), id, &Progress::default())
                    .await,
            ),
        }
        bed.assert_pins_agree(id).await;
    }
    bed.close().await;
}

/// Numbers that are the same in every run.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
