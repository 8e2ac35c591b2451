//! What is found in a deployment of a test's own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_archiver::jobs::Progress;
use backscroll_archiver::jobs::verify::{VerifyOptions, VerifyReport};
use backscroll_archiver::object_store::{KeyPrefix, ObjectKey, transfer};
use backscroll_archiver::terms::segment_of_terms;
use backscroll_shard::archive::Copies;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::{HistoryPage, Message, Position};
use backscroll_shard::node::Shard;
use futures_util::TryStreamExt as _;

use super::{Bed, PATIENCE, begin, caller, order};

impl Bed {
    pub(crate) async fn verify(&self) -> VerifyReport {
        let progress = Progress::default();
        let options = VerifyOptions::default();
        self.archive
            .verify(&order(), options, &progress)
            .await
            .unwrap()
    }

    pub(crate) async fn assert_clean(&self) {
        let report = self.verify().await;
        assert!(report.is_clean(), "{report:#?}");
    }

    /// The conversation page by page, from the newest to the oldest, as clients see it.
    pub(crate) async fn walk(&self, id: ConversationId) -> Vec<Message> {
        let mut log: Vec<Message> = Vec::new();
        let mut position = Position::Latest;
        loop {
            let page = self.page(id, position, 50).await;
            if let Some(first) = page.messages.first() {
                position = Position::Before(first.seq);
            }
            log.splice(0..0, page.messages);
            if !page.has_more_before {
                return log;
            }
        }
    }

    pub(crate) async fn page(
        &self,
        id: ConversationId,
        position: Position,
        limit: u32,
    ) -> HistoryPage {
        self.store
            .history(&caller("alice"), id, position, limit)
            .await
            .unwrap()
    }

    /// The shard of a conversation.
    pub(crate) fn shard(&self, id: ConversationId) -> Arc<Shard> {
        let map = self.store.map();
        let name = &map.locate(id.owner_key()).shard;
        self.store.router().shard(name).unwrap().clone()
    }

    /// Runs a statement on the shard of a conversation: to craft what another program, or another clock, left behind.
    pub(crate) async fn execute(&self, id: ConversationId, statement: &str) {
        let mut connection = begin(&self.shard(id)).await;
        connection.execute(statement, &[]).await.unwrap();
        connection.commit().await.unwrap();
    }

    /// The number that a statement on the shard of a conversation gives.
    pub(crate) async fn number(&self, id: ConversationId, statement: &str) -> i64 {
        let shard = self.shard(id);
        let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
        let row = connection.fetch_optional(statement, &[]).await.unwrap();
        row.unwrap().int(0).unwrap()
    }

    /// Waits until a transaction on the conversation's shard waits for another's lock. SQLite has one writer at a time,
    /// which waits before it reads anything.
    pub(crate) async fn until_somebody_waits_for(&self, id: ConversationId) {
        const MARIADB: &str = "SELECT COUNT(*) FROM information_schema.innodb_trx t \
             JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id \
             WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()";
        // Of MySQL, both of these tables give an error while a statement runs that has bytes which are no text.
        const MYSQL: &str = "SELECT COUNT(*) FROM performance_schema.data_lock_waits w \
             JOIN performance_schema.threads t ON t.thread_id = w.requesting_thread_id \
             WHERE t.processlist_db = DATABASE()";
        let flavor = std::env::var("BACKSCROLL_TEST_SQL_FLAVOR");
        let waiting = match flavor.as_deref() {
            Ok("mysql") => MYSQL,
            _ => MARIADB,
        };
        if self.proxy.is_none() {
            return;
        }
        let shard = self.shard(id);
        loop {
            let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
            let row = connection.fetch_optional(waiting, &[]).await.unwrap();
            if row.unwrap().int(0).unwrap() > 0 {
                return;
            }
            drop(connection);
            // InnoDB shows what it has shown before to who asks again within 100 ms, whoever asked; a few tests do.
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }

    pub(crate) async fn hot_rows(&self, id: ConversationId) -> u64 {
        let shard = self.shard(id);
        let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
        let all = (Seq(1), Seq(i64::MAX.cast_unsigned()));
        backscroll_shard::archive::hot_count(&mut connection, id, all)
            .await
            .unwrap()
    }

    /// Where the archived run begins that has message `seq`.
    pub(crate) async fn first_of_run(&self, id: ConversationId, seq: Seq) -> Seq {
        let shard = self.shard(id);
        let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
        let copies = Copies::find(&mut connection, id, (seq, seq)).await.unwrap();
        let parts = copies.plan(&[seq].into()).parts();
        parts[0].run().first_seq
    }

    /// The text of every object but the terms, unpacked.
    pub(crate) async fn stored_text(&self) -> String {
        let mut text = String::new();
        for key in self.keys().await {
            text.push_str(std::str::from_utf8(&self.plain(&key).await).unwrap());
        }
        text
    }

    /// The bytes of an object, unpacked.
    async fn plain(&self, key: &ObjectKey) -> Vec<u8> {
        let content = transfer::get_stream(self.objects.as_ref(), key).await;
        let (_, content) = content.unwrap();
        let bytes: Vec<u8> = content.try_collect::<Vec<_>>().await.unwrap().concat();
        zstd::decode_all(bytes.as_slice()).unwrap()
    }

    /// Every object but the terms of segments.
    pub(crate) async fn keys(&self) -> Vec<ObjectKey> {
        let (_, others) = self.terms_and_others().await;
        others
    }

    /// The terms of segments.
    pub(crate) async fn terms_keys(&self) -> Vec<ObjectKey> {
        let (terms, _) = self.terms_and_others().await;
        terms
    }

    async fn terms_and_others(&self) -> (Vec<ObjectKey>, Vec<ObjectKey>) {
        let prefix = KeyPrefix::default();
        let listed = transfer::list(self.objects.as_ref(), &prefix);
        let listed: Vec<ObjectKey> = listed.map_ok(|meta| meta.key).try_collect().await.unwrap();
        let is_terms = |key: &ObjectKey| segment_of_terms(key).is_some();
        listed.into_iter().partition(is_terms)
    }

    /// The terms of all segments, a line each.
    pub(crate) async fn stored_terms(&self) -> BTreeSet<String> {
        let mut terms = BTreeSet::new();
        for key in self.terms_keys().await {
            // Behind the terms are numbers.
            let plain = String::from_utf8_lossy(&self.plain(&key).await).into_owned();
            terms.extend(plain.lines().map(str::to_owned));
        }
        terms
    }

    /// Waits until the shards are as they were before their server went away: no pool has a dead connection left.
    pub(crate) async fn shards_come_back(&self) {
        for shard in self.store.router().shards() {
            let mut answers = 0;
            while answers < 10 {
                let deadline = Instant::now() + PATIENCE;
                let asked = async {
                    shard
                        .reader(deadline)
                        .await?
                        .fetch_optional("SELECT 1", &[])
                        .await
                };
                answers = if asked.await.is_ok() { answers + 1 } else { 0 };
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits until the leases of jobs that died are over.
    pub(crate) async fn leases_end(&self) {
        tokio::time::sleep(self.archive_settings.lease.0 * 2).await;
    }
}
