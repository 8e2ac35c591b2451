//! What is written and which jobs run in a deployment of a test's own.

use std::time::Instant;

use backscroll_archiver::jobs::collect::CollectFigures;
use backscroll_archiver::jobs::run::RunFigures;
use backscroll_archiver::jobs::{Progress, ShardOutcome};
use backscroll_shard::ids::{ConversationId, ShardName, UserId};
use backscroll_shard::model::{HistoryRecord, Message, Timestamp};

use super::{Bed, PATIENCE, caller, message, order, order_on, record, user};

impl Bed {
    /// A channel of messages of long ago, a minute after one another, by two users in turn.
    pub(crate) async fn import(&self, channel: &str, count: u64) -> ConversationId {
        self.import_after(channel, count, 0).await
    }

    /// The same for another owner.
    pub(crate) async fn import_for(
        &self,
        owner: &UserId,
        channel: &str,
        count: u64,
    ) -> ConversationId {
        self.import_records(owner, channel, (1..=count).map(|n| record(channel, n)))
            .await
    }

    /// The same, so many milliseconds later.
    pub(crate) async fn import_after(
        &self,
        channel: &str,
        count: u64,
        later: i64,
    ) -> ConversationId {
        let record = |n| {
            let usual = record(channel, n);
            let at = usual.at + later;
            HistoryRecord { at, ..usual }
        };
        self.import_records(&user("alice"), channel, (1..=count).map(record))
            .await
    }

    pub(crate) async fn import_records(
        &self,
        owner: &UserId,
        channel: &str,
        records: impl Iterator<Item = HistoryRecord>,
    ) -> ConversationId {
        let begun = Box::pin(self.store.import_begin(channel, owner));
        let (id, stored) = begun.await.unwrap();
        assert_eq!(stored, 0);
        let records: Vec<HistoryRecord> = records.collect();
        for (chunk, position) in records.chunks(500).zip((0u64..).step_by(500)) {
            let appended = Box::pin(self.store.import_append(id, position, chunk));
            appended.await.unwrap();
        }
        id
    }

    /// A cursor that is at the end of alice's list.
    pub(crate) async fn cursor(&self) -> String {
        let users = [user("alice")];
        let deadline = Instant::now() + PATIENCE;
        let revs = self.store.list_revs(&users, deadline).await;
        revs.get(&users[0]).map_or(0, |rev| rev.0).to_string()
    }

    /// Archives everything that is there.
    pub(crate) async fn run(&self) -> Vec<ShardOutcome<RunFigures>> {
        let outcomes = self.run_before(Timestamp(Timestamp::now().0 + 1)).await;
        for outcome in &outcomes {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
        outcomes
    }

    pub(crate) async fn run_before(&self, cutoff: Timestamp) -> Vec<ShardOutcome<RunFigures>> {
        let progress = Progress::default();
        self.archive.run(&order(), cutoff, &progress).await.unwrap()
    }

    pub(crate) async fn collect(&self) -> CollectFigures {
        let mut all = CollectFigures::default();
        for outcome in self.archive.collect(&order(), false).await.unwrap() {
            assert_eq!(outcome.error, None, "{outcome:?}");
            all.abandoned += outcome.figures.abandoned;
            all.superseded += outcome.figures.superseded;
            all.orphans += outcome.figures.orphans;
            all.deleted += outcome.figures.deleted;
            all.erased += outcome.figures.erased;
        }
        all
    }

    /// Erases what is put down, and drops what is too old.
    pub(crate) async fn erase(&self) {
        let (order, progress) = (order(), Progress::default());
        for outcome in self.archive.erase(&order, &progress).await.unwrap() {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
    }

    /// Erases on one shard alone.
    pub(crate) async fn erase_on(&self, shard: &ShardName) {
        let (order, progress) = (order_on(shard), Progress::default());
        for outcome in self.archive.erase(&order, &progress).await.unwrap() {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
    }

    /// Collects on one shard alone.
    pub(crate) async fn collect_on(&self, shard: &ShardName) {
        for outcome in self.archive.collect(&order_on(shard), false).await.unwrap() {
            assert_eq!(outcome.error, None, "{outcome:?}");
        }
    }

    /// Archives what is there, erases and collects, until nothing is left to do.
    pub(crate) async fn all_jobs(&self) {
        self.run().await;
        self.erase().await;
        self.collect().await;
        self.collect().await;
    }

    /// Brings a conversation back, and says how many messages that were.
    pub(crate) async fn restore(&self, id: ConversationId) -> u64 {
        let (order, progress) = (order(), Progress::default());
        let outcome = self.archive.restore(&order, id, &progress).await.unwrap();
        assert_eq!(outcome.error, None);
        outcome.figures.messages
    }

    /// Makes the index anew.
    pub(crate) async fn rebuild(&self) {
        let (order, progress) = (order(), Progress::default());
        let outcome = self.archive.rebuild(&order, &progress).await.unwrap();
        assert_eq!((outcome.error, outcome.figures.problems), (None, vec![]));
    }

    /// Alice edits one of her messages, which are those with even numbers.
    pub(crate) async fn edit(&self, id: ConversationId, seq: u64, content: &str) -> Message {
        let (alice, message) = (caller("alice"), message(id, seq));
        let edited = self.store.edit_message(&alice, message, content.into());
        edited.await.unwrap()
    }

    /// Alice, who owns every channel, deletes a message.
    pub(crate) async fn delete(&self, id: ConversationId, seq: u64) {
        let (alice, message) = (caller("alice"), message(id, seq));
        self.store.delete_message(&alice, message).await.unwrap();
    }

    /// Bob reacts to a message.
    pub(crate) async fn react(&self, id: ConversationId, seq: u64) -> Message {
        let (bob, message) = (caller("bob"), message(id, seq));
        self.store.react(&bob, message, "👍").await.unwrap()
    }
}
