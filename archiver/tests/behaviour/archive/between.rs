//! What happens between two reads of one answer: rows become hot, segments are written anew, objects are deleted. Every
//! answer is whole, and has the newest copy of each message (INV-TIER, INV-COPY).

use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use backscroll_archiver::jobs::{Progress, Step};
use backscroll_archiver::tier::Tier;
use backscroll_shard::archive;
use backscroll_shard::cold_tier::{ColdPart, ColdTier};
use backscroll_shard::commit_event::NoListener;
use backscroll_shard::db::Connection;
use backscroll_shard::error::{Error, Result};
use backscroll_shard::head;
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::map::Assignment;
use backscroll_shard::message;
use backscroll_shard::message::{Cut, Room, StoredMessage};
use backscroll_shard::model::{Message, MessageType, NewMessage, Position, SyncRequest, Timestamp};
use backscroll_shard::node::Shard;
use backscroll_shard::owned::{OwnedReader, OwnedTransaction};
use backscroll_shard::store::Store;
use backscroll_shard::stretch::{Merged, Stretch};
use backscroll_shard::tasks::Supervisor;
use backscroll_testkit::warnings;

use super::bed::{
    Backend, Bed, PATIENCE, begin, caller, message, on_both, order, sent_at, wait_for,
};
use super::logged;

on_both!(
    a_row_that_becomes_hot_after_the_hot_rows_were_read_is_found,
    an_older_copy_is_not_shown_for_a_row_that_became_hot,
    restored_rows_are_found,
    a_segment_written_anew_while_it_is_read_is_no_damage,
    an_object_that_is_lost_is_damage_for_everybody,
    readers_beside_changes_and_jobs_see_every_message,
    a_row_is_not_taken_away_from_under_a_change,
    a_head_brought_up_to_date_knows_what_was_written_meanwhile,
    sync_tells_what_was_archived_and_restored,
);

/// What a reader knows who has read hot rows, and the conversation's rev before them.
struct Half {
    rows: OwnedReader<'static>,
    rev: Rev,
    hot: Cut<StoredMessage>,
    shard: Arc<Shard>,
    assignment: Assignment,
    tier: Tier,
    id: ConversationId,
    range: (Seq, Seq),
}

impl Half {
    async fn read(bed: &Bed, id: ConversationId, range: (Seq, Seq)) -> Self {
        let shard = bed.shard(id);
        let assignment = bed.store.map().locate(id.owner_key()).clone();
        let deadline = Instant::now() + PATIENCE;
        let mut rows = shard.read(&assignment, deadline).await.unwrap();
        let heads = head::read(&mut rows, &[id]).await;
        let rev = heads.unwrap()[0].rev;
        let room = Room::of_all(range);
        let hot = message::rows(&mut rows, id, range, room).await.unwrap();
        Self {
            rows,
            assignment,
            rev,
            hot,
            shard,
            tier: Tier::new(bed.objects.clone(), &bed.archive_settings),
            id,
            range,
        }
    }

    async fn and_the_rest(self) -> Result<Merged<StoredMessage>> {
        let stretch = Stretch {
            shard: &self.shard,
            assignment: &self.assignment,
            cold: &self.tier,
            id: self.id,
            range: self.range,
            room: Room::of_all(self.range),
            deadline: Instant::now() + PATIENCE,
        };
        stretch.read(self.rows, (self.rev, self.hot)).await
    }
}

fn contents(messages: &[StoredMessage]) -> Vec<(u64, &str)> {
    messages
        .iter()
        .map(|message| (message.seq.0, message.content.as_str()))
        .collect()
}

async fn a_row_that_becomes_hot_after_the_hot_rows_were_read_is_found(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let half = Half::read(&bed, id, (Seq(1), Seq(60))).await;
    bed.edit(id, 10, "anew").await;
    bed.delete(id, 12).await;
    bed.erase().await; // both are hot, and no segment names them any more
    let merged = half.and_the_rest().await.unwrap();
    let contents = contents(&merged.messages);
    assert_eq!(contents.len(), 60);
    assert_eq!((contents[9], contents[11]), ((10, "anew"), (12, "")));
    assert_eq!((merged.tiers.hot, merged.tiers.archive), (2, 58));
    bed.close().await;
}

async fn an_older_copy_is_not_shown_for_a_row_that_became_hot(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let alice = caller("alice");
    bed.edit(id, 10, "anew").await;
    let new = NewMessage {
        content: "on".into(),
        ..NewMessage::default()
    };
    bed.store.send(&alice, id, new).await.unwrap();
    bed.run().await;
    let half = Half::read(&bed, id, (Seq(1), Seq(61))).await;
    bed.react(id, 10).await;
    bed.delete(id, 61).await;
    // The second segment is written anew without the message that is hot; the first still has its oldest copy.
    bed.erase().await;
    let merged = half.and_the_rest().await.unwrap();
    assert_eq!(merged.messages.len(), 61);
    assert_eq!(merged.messages[9].content, "anew");
    assert!(merged.messages[9].reactions.is_some());
    bed.close().await;
}

async fn restored_rows_are_found(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let log = bed.walk(id).await;
    let half = Half::read(&bed, id, (Seq(1), Seq(60))).await;
    assert_eq!(bed.restore(id).await, 60);
    bed.delete(id, 12).await;
    bed.erase().await; // nothing of it is archived any more
    let merged = half.and_the_rest().await.unwrap();
    assert_eq!(merged.messages.len(), 60);
    assert_eq!(bed.walk(id).await.len(), log.len());
    bed.assert_clean().await;
    bed.close().await;
}

type Meddling = Box<dyn FnOnce() + Send>;

/// A tier before whose first read something else happens.
struct Meddled {
    tier: Tier,
    before: Mutex<Option<Meddling>>,
}

#[async_trait]
impl ColdTier for Meddled {
    async fn read(
        &self,
        conversation: ConversationId,
        parts: &[ColdPart],
        deadline: Instant,
    ) -> Vec<Result<Vec<StoredMessage>>> {
        let before = self.before.lock().unwrap().take();
        if let Some(before) = before {
            before();
        }
        self.tier.read(conversation, parts, deadline).await
    }

    fn read_ahead(&self, _shard: &Arc<Shard>, _conversation: ConversationId, _before: Seq) {}
}

/// What a reader may ask for, as text.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Page,
    Message,
    Export,
    Edit,
    Sync,
}

async fn ask(store: &Store, what: Ask, id: ConversationId, synced: u64) -> Result<Vec<String>> {
    let alice = caller("alice");
    let texts = |messages: Vec<Message>| messages.into_iter().map(|it| it.content).collect();
    Ok(match what {
        Ask::Page => {
            let page = store.history(&alice, id, Position::Latest, 60).await?;
            assert_eq!(page.archive_unavailable, None);
            texts(page.messages)
        }
        Ask::Message => vec![store.message(&alice, message(id, 10)).await?.content],
        Ask::Export => {
            let records = store.export(id, Seq(0), 100).await?;
            records.into_iter().map(|(_, record)| record.text).collect()
        }
        Ask::Edit => {
            let edit = store.edit_message(&alice, message(id, 10), "by edit".into());
            vec![edit.await?.content]
        }
        Ask::Sync => {
            let request = SyncRequest {
                cursor: None,
                conversations: [(id, Rev(synced))].into(),
            };
            let page = store.sync(&alice, request).await?;
            assert_eq!(page.resync, []);
            let mine = page.changes.into_iter();
            let mine = mine.filter(|change| change.conversation_id == id);
            mine.flat_map(|change| texts(change.messages) as Vec<String>)
                .collect()
        }
    })
}

async fn a_segment_written_anew_while_it_is_read_is_no_damage(backend: Backend) {
    warnings::expect(logged::DAMAGED_FRAME);
    for what in [Ask::Page, Ask::Message, Ask::Export, Ask::Edit, Ask::Sync] {
        let bed = Arc::new(Bed::open(backend).await);
        let id = bed.import("talk", 60).await;
        bed.run().await;
        let meddler = bed.clone();
        let before: Meddling = Box::new(move || {
            wait_for(async {
                meddler.delete(id, 12).await;
                meddler.erase().await;
                assert!(meddler.collect().await.deleted > 0);
            });
        });
        let tier = Meddled {
            tier: Tier::new(bed.objects.clone(), &bed.archive_settings),
            before: Mutex::new(Some(before)),
        };
        let supervisor = Supervisor::default();
        let listener = Arc::new(NoListener);
        let store = Store::open(&bed.settings, Arc::new(tier), listener, &supervisor);
        let store = store.await.unwrap();
        let texts = ask(&store, what, id, 2).await;
        let texts = texts.unwrap_or_else(|error| panic!("{what:?}: {error}"));
        match what {
            Ask::Page | Ask::Export => {
                assert_eq!((texts.len(), texts[11].as_str()), (60, ""), "{what:?}");
            }
            // The deletion came after what is synced, and comes with the next page.
            Ask::Sync => assert_eq!(texts.len(), 59),
            Ask::Message => assert!(texts[0].starts_with("talk message 10")),
            Ask::Edit => assert_eq!(texts, ["by edit"]),
        }
        store.close(Instant::now() + PATIENCE).await;
        Arc::into_inner(bed).unwrap().close().await;
    }
}

async fn an_object_that_is_lost_is_damage_for_everybody(backend: Backend) {
    warnings::expect(logged::DAMAGED_FRAME);
    warnings::expect(logged::DAMAGED_PAGE);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let key = bed.keys().await.remove(0);
    bed.objects.delete(&key).await.unwrap();
    for what in [Ask::Page, Ask::Message, Ask::Export, Ask::Edit] {
        let refused = ask(&bed.store, what, id, 2).await;
        assert!(
            matches!(refused, Err(Error::ArchiveDamaged(_))),
            "{what:?}: {refused:?}"
        );
    }
    bed.close().await;
}

/// Pages, messages and exports again and again, while messages are changed and archived, and segments written anew.
async fn readers_beside_changes_and_jobs_see_every_message(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let store = &bed.store;
    let work = async {
        for round in 0..6 {
            for n in 1..=4 {
                bed.edit(id, round * 10 + n * 2, "anew").await;
            }
            bed.delete(id, round * 10 + 10).await;
            bed.erase().await;
            bed.run().await;
            bed.collect().await;
            bed.restore(id).await;
        }
    };
    let read = async {
        loop {
            let log = bed.walk(id).await;
            assert_eq!(log.len(), 60);
            let exported = store.export(id, Seq(0), 100).await.unwrap();
            assert_eq!(exported.len(), 60);
            for seq in [10, 11, 60] {
                store
                    .message(&caller("bob"), message(id, seq))
                    .await
                    .unwrap();
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = read => unreachable!("it goes on for ever"),
    }
    bed.assert_clean().await;
    bed.close().await;
}

/// A change reads a hot row; a job deletes it, since its copy is published; the change is stored. It is not lost.
async fn a_row_is_not_taken_away_from_under_a_change(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    let stop = bed.archive_with(Arc::new(|now: Step| {
        if now == Step::Published {
            std::panic::panic_any("a death on purpose");
        }
    }));
    let dead = std::panic::AssertUnwindSafe(async {
        let cutoff = Timestamp(Timestamp::now().0 + 1);
        stop.run(&order(), cutoff, &Progress::default()).await
    });
    assert!(futures_util::FutureExt::catch_unwind(dead).await.is_err());
    let shard = bed.shard(id);
    let mut job = begin(&shard).await;
    let rev = Rev(1000);
    let all = (Seq(1), Seq(60));
    let now = Timestamp::now();
    archive::delete_run(&mut job, id, all, rev, now)
        .await
        .unwrap();
    let alice = caller("alice");
    let edit = bed
        .store
        .edit_message(&alice, message(id, 10), "anew".into());
    let delete = bed.store.delete_message(&alice, message(id, 12));
    let changes = futures_util::future::join(edit, delete);
    let waiting = bed.until_somebody_waits_for(id);
    let commit = async move {
        waiting.await;
        job.commit().await.unwrap();
        drop(job); // the only writer that SQLite has
    };
    let ((edited, deleted), ()) = futures_util::future::join(changes, commit).await;
    edited.unwrap();
    deleted.unwrap();
    let log = bed.walk(id).await;
    assert_eq!((log.len(), log[9].content.as_str()), (60, "anew"));
    assert!(log[11].deleted_at.is_some());
    assert_eq!(bed.hot_rows(id).await, 2);
    let erasures = bed.archive.erasures(id).await.unwrap();
    assert_eq!(erasures.len(), 1);
    bed.close().await;
}

/// A job brings the heads of two conversations up to date; the second is locked by somebody who makes a message hot again.
async fn a_head_brought_up_to_date_knows_what_was_written_meanwhile(backend: Backend) {
    let bed = Bed::open(backend).await;
    let mut ids = [bed.import("one", 20).await, bed.import("two", 20).await];
    bed.run().await;
    ids.sort_unstable();
    let shard = bed.shard(ids[1]);
    let mut writer = begin(&shard).await;
    let heads = head::lock(&mut OwnedTransaction::for_job(&mut writer), &ids[1..]).await;
    assert_eq!(heads.unwrap().len(), 1);
    let settle = async {
        let mut job = begin(&shard).await;
        archive::settle_heads(&mut job, &ids).await.unwrap();
        job.commit().await.unwrap();
    };
    let waiting = bed.until_somebody_waits_for(ids[1]);
    let write = async move {
        waiting.await;
        let row = stored(&mut writer, ids[1]).await;
        let restored = archive::restore_rows(&mut writer, ids[1], vec![row]).await;
        assert_eq!(restored.unwrap(), 1);
        writer.commit().await.unwrap();
        drop(writer);
    };
    futures_util::future::join(settle, write).await;
    let forgotten = "SELECT COUNT(*) FROM messages m JOIN conversations c ON c.id = m.conversation_id \
         WHERE c.oldest_hot_at IS NULL";
    assert_eq!(bed.number(ids[1], forgotten).await, 0);
    bed.run().await;
    assert_eq!(bed.hot_rows(ids[1]).await, 0);
    bed.close().await;
}

/// Some message of a conversation, as a row.
async fn stored(connection: &mut Connection, id: ConversationId) -> StoredMessage {
    let head = head::read(&mut OwnedReader::for_job(connection), &[id])
        .await
        .unwrap()
        .remove(0);
    StoredMessage {
        seq: Seq(7),
        rev: Rev(9),
        sender: head.created_by,
        client_msg_id: None,
        body_digest: None,
        message_type: MessageType::Text,
        content: "seven".into(),
        reply_to: None,
        attachments: None,
        reactions: None,
        metadata: None,
        edit_history: None,
        created_at: sent_at(7),
        edited_at: None,
        deleted_at: None,
        pin: None,
        mentions: None,
    }
}

async fn sync_tells_what_was_archived_and_restored(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    let synced = bed.page(id, Position::Latest, 1).await.rev.0;
    for seq in [10, 20] {
        bed.edit(id, seq, &format!("anew {seq}")).await;
    }
    bed.run().await;
    let told = ask(&bed.store, Ask::Sync, id, synced).await.unwrap();
    assert_eq!(told, ["anew 10", "anew 20"]);
    bed.restore(id).await;
    let told = ask(&bed.store, Ask::Sync, id, synced).await.unwrap();
    assert_eq!(told, ["anew 10", "anew 20"]);
    // A client that knows all of it hears of the conversation's new rev, and of nothing else.
    let told = ask(&bed.store, Ask::Sync, id, synced + 2).await.unwrap();
    assert_eq!(told, Vec::<String>::new());
    bed.run().await;
    bed.react(id, 20).await;
    let told = ask(&bed.store, Ask::Sync, id, synced).await.unwrap();
    assert_eq!(told, ["anew 10", "anew 20"]);
    bed.close().await;
}
