//! Threads in both tiers: whatever becomes of messages and their replies, what is shown of the replies is what a recount gives.

use std::collections::BTreeMap;

use backscroll_archiver::jobs::Progress;
use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::{ErrorKind, Operation};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::{HistoryRecord, Message, NewMessage};
use backscroll_testkit::warnings;

use super::bed::{Backend, Bed, caller, message, on_both, order, record, small, user};
use super::logged;
use super::moves::move_away;

on_both!(
    archived_messages_are_answered_without_being_read,
    replies_that_cannot_be_read_are_named,
    threads_are_found_again_when_the_databases_are_lost,
    threads_go_with_what_retention_drops,
    any_sequence_of_changes_leaves_the_threads_that_the_log_has,
);

impl Bed {
    async fn answer(&self, id: ConversationId, root: u64) -> Message {
        let reply = NewMessage {
            content: format!("about {root}"),
            reply_to: Some(message(id, root)),
            ..NewMessage::default()
        };
        let sent = self.store.send(&caller("alice"), id, reply).await;
        sent.unwrap().message
    }

    /// The replies of a message, read page by page.
    async fn replies(&self, id: ConversationId, root: u64) -> Vec<Message> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        let alice = caller("alice");
        loop {
            let page = self
                .store
                .replies(&alice, message(id, root), cursor.as_deref(), 3);
            let page = page.await.unwrap();
            assert!(page.archive_unavailable.is_empty(), "{page:?}");
            all.extend(page.messages);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return all;
            }
        }
    }

    /// What every message shows of its replies is what a recount of the log gives; so are the tables. Gives how many replies
    /// there are.
    async fn assert_threads_agree(&self, id: ConversationId) -> usize {
        let log = self.walk(id).await;
        let mut threads: BTreeMap<Seq, Vec<&Message>> = BTreeMap::new();
        let mut count = 0;
        for reply in log.iter().filter(|message| message.deleted_at.is_none()) {
            let Some(root) = reply.reply_to else { continue };
            threads.entry(root.seq).or_default().push(reply);
            count += 1;
        }
        for message in &log {
            let replies = threads.get(&message.seq).map_or(&[][..], Vec::as_slice);
            let shown = (message.reply_count, message.last_reply_at);
            let newest = replies.last().map(|reply| reply.created_at);
            assert_eq!(shown, (replies.len() as u64, newest), "{}", message.seq);
        }
        for (root, replies) in &threads {
            let listed = self.replies(id, root.0).await;
            assert!(listed.iter().eq(replies.iter().copied()), "{root}");
        }
        let rows = self.number(id, "SELECT COUNT(*) FROM replies").await;
        assert_eq!(rows, i64::try_from(count).unwrap());
        let rows = self.number(id, "SELECT COUNT(*) FROM threads").await;
        assert_eq!(rows, i64::try_from(threads.len()).unwrap());
        count
    }
}

/// A channel of which every fifth message answers one before it.
async fn imported(bed: &Bed, channel: &str, count: u64) -> ConversationId {
    let records = (1..=count).map(|n| HistoryRecord {
        reply_to: (n % 5 == 0).then_some(Seq(1 + n % 3)),
        ..record(channel, n)
    });
    bed.import_records(&user("alice"), channel, records).await
}

async fn archived_messages_are_answered_without_being_read(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = imported(&bed, "talk", 100).await;
    assert_eq!(bed.assert_threads_agree(id).await, 20);
    bed.run().await;
    assert_eq!(bed.hot_rows(id).await, 0);
    assert_eq!(bed.assert_threads_agree(id).await, 20);
    let gone = Fault::Before(ErrorKind::Unavailable);
    bed.faults.plan(Operation::GetRange, 1000, gone);
    let reply = bed.answer(id, 7).await;
    bed.faults.clear();
    assert_eq!(reply.thread.unwrap().reply_count, 1);
    assert_eq!(bed.hot_rows(id).await, 1, "only the reply is hot");
    assert_eq!(bed.assert_threads_agree(id).await, 21);
    // An archived reply is deleted, and one that is hot.
    bed.delete(id, 5).await;
    bed.delete(id, reply.seq.0).await;
    bed.edit(id, 10, "edited").await;
    assert_eq!(bed.assert_threads_agree(id).await, 19);
    bed.all_jobs().await;
    assert_eq!(bed.assert_threads_agree(id).await, 19);
    assert!(bed.restore(id).await > 0);
    assert_eq!(bed.assert_threads_agree(id).await, 19);
    bed.run().await;
    move_away(&bed, id).await;
    assert_eq!(bed.assert_threads_agree(id).await, 19);
    bed.answer(id, 7).await;
    assert_eq!(bed.assert_threads_agree(id).await, 20);
    bed.assert_clean().await;
    bed.close().await;
}

async fn replies_that_cannot_be_read_are_named(backend: Backend) {
    warnings::expect(logged::ARCHIVE_AWAY);
    let bed = Bed::open(backend).await;
    let id = imported(&bed, "talk", 8).await;
    bed.run().await;
    let gone = Fault::Before(ErrorKind::Unavailable);
    bed.faults.plan(Operation::GetRange, 1000, gone);
    let alice = caller("alice");
    let root = message(id, 3); // 5 answers it
    let page = bed.store.replies(&alice, root, None, 10).await;
    assert!(matches!(page, Err(Error::ArchiveUnavailable)), "{page:?}");
    bed.faults.clear();
    let reply = bed.answer(id, 3).await;
    bed.faults.plan(Operation::GetRange, 1000, gone);
    let page = bed.store.replies(&alice, root, None, 10).await.unwrap();
    assert_eq!(page.archive_unavailable, [message(id, 5)]);
    assert_eq!(page.messages[0].id, reply.id);
    bed.faults.clear();
    let page = bed.store.replies(&alice, root, None, 1).await.unwrap();
    assert_eq!(page.next_cursor.as_deref(), Some("5"));
    let wrong = bed.store.replies(&alice, root, Some("x"), 1).await;
    assert!(matches!(wrong, Err(Error::Invalid(_))), "{wrong:?}");
    let beyond = bed.store.replies(&alice, message(id, 99), None, 1).await;
    assert!(matches!(beyond, Err(Error::NotFound(_))), "{beyond:?}");
    let stranger = bed.store.replies(&caller("eve"), root, None, 1).await;
    assert!(matches!(stranger, Err(Error::NotMember)), "{stranger:?}");
    bed.close().await;
}

async fn threads_are_found_again_when_the_databases_are_lost(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = imported(&bed, "talk", 50).await;
    bed.delete(id, 5).await;
    bed.run().await;
    bed.delete(id, 10).await;
    bed.run().await;
    let lost = bed.databases_lost(backend).await;
    lost.rebuild().await;
    assert_eq!(lost.assert_threads_agree(id).await, 8);
    lost.close().await;
    bed.close().await;
}

async fn threads_go_with_what_retention_drops(backend: Backend) {
    let settings = ArchiveSettings {
        retain: Some("300 days".parse().unwrap()),
        ..small()
    };
    let bed = Bed::open_with(backend, settings).await;
    let id = imported(&bed, "talk", 60).await;
    bed.run().await;
    bed.erase().await;
    for table in ["replies", "threads"] {
        let count = format!("SELECT COUNT(*) FROM {table}");
        assert_eq!(bed.number(id, &count).await, 0);
    }
    bed.close().await;
}

/// Replies, edits, deletions and jobs in an order of chance; after each of them every message shows what a recount gives.
async fn any_sequence_of_changes_leaves_the_threads_that_the_log_has(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = imported(&bed, "talk", 40).await;
    let alice = caller("alice");
    let mut random = backend as u64 + 11;
    let mut below = |bound: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let (mut head, mut deleted) = (40, 0);
    for _ in 0..50 {
        let target = message(id, 1 + below(head));
        match below(12) {
            0..=4 => head = bed.answer(id, target.seq.0).await.seq.0,
            5..=6 => deleted += u64::from(bed.store.delete_message(&alice, target).await.is_ok()),
            7 => drop(bed.store.react(&alice, target, "👍").await),
            8..=9 => drop(bed.run().await),
            10 => bed.all_jobs().await,
            // Refused while nothing is archived.
            _ => drop(
                bed.archive
                    .restore(&order(), id, &Progress::default())
                    .await,
            ),
        }
        bed.assert_threads_agree(id).await;
    }
    assert!(head > 45 && deleted > 2, "{head} {deleted}");
    bed.close().await;
}
