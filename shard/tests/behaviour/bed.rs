//! A store of a test's own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backscroll_shard::cold_tier::NoArchive;
use backscroll_shard::commit_event::NoListener;
use backscroll_shard::error::Result;
use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::model::{
    Caller, ConversationKind, HistoryPage, Message, NewConversation, NewMessage, Position,
};
use backscroll_shard::settings::{DatabaseUrl, StoreSettings};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use backscroll_testkit::{TestDatabases, warnings};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A migrated deployment with four shards, and a store on it.
pub(crate) struct Bed {
    pub(crate) store: Arc<Store>,
    pub(crate) settings: StoreSettings,
    databases: Option<TestDatabases>,
    _folder: tempfile::TempDir,
}

impl Bed {
    pub(crate) async fn sqlite() -> Self {
        Self::sqlite_with(|_| {}).await
    }

    pub(crate) async fn server() -> Self {
        Self::server_with(|_| {}).await
    }

    pub(crate) async fn sqlite_with(adjust: impl FnOnce(&mut StoreSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings::embedded(folder.path().to_str().unwrap(), 4);
        Self::open(settings, None, folder, adjust).await
    }

    pub(crate) async fn server_with(adjust: impl FnOnce(&mut StoreSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let databases = TestDatabases::create(5).await;
        let mut settings = StoreSettings::embedded("unused", 4);
        let mut urls = databases.urls().into_iter().map(DatabaseUrl);
        settings.directory.url = urls.next().unwrap();
        for shard in &mut settings.shards {
            shard.primary = urls.next().unwrap();
        }
        settings.pool.max_connections = 8; // many tests share one server
        Self::open(settings, Some(databases), folder, adjust).await
    }

    async fn open(
        mut settings: StoreSettings,
        databases: Option<TestDatabases>,
        folder: tempfile::TempDir,
        adjust: impl FnOnce(&mut StoreSettings),
    ) -> Self {
        warnings::watch();
        adjust(&mut settings);
        migrate_all(&settings, false).await.expect("the schema");
        let store = Self::another(&settings).await;
        Self {
            store,
            settings,
            databases,
            _folder: folder,
        }
    }

    /// Another process on the same deployment.
    pub(crate) async fn another(settings: &StoreSettings) -> Arc<Store> {
        Store::open(
            settings,
            Arc::new(NoArchive),
            Arc::new(NoListener),
            &Supervisor::default(),
        )
        .await
        .expect("a store")
    }

    pub(crate) async fn close(self) {
        self.store.close(Instant::now() + PATIENCE).await;
        if let Some(databases) = self.databases {
            databases.drop_all().await;
        }
        warnings::check();
    }

    pub(crate) async fn group(&self, owner: &str, others: &[&str]) -> ConversationId {
        self.create(owner, ConversationKind::Group, others)
            .await
            .unwrap()
    }

    pub(crate) async fn create(
        &self,
        owner: &str,
        kind: ConversationKind,
        others: &[&str],
    ) -> Result<ConversationId> {
        let members = others.iter().map(|name| user(name)).collect();
        let new = NewConversation {
            kind,
            members,
            title: None,
            metadata: None,
        };
        Ok(self
            .store
            .create_conversation(&caller(owner), new, None)
            .await?
            .0
            .id)
    }

    pub(crate) async fn say(&self, name: &str, id: ConversationId, content: &str) -> Message {
        self.store
            .send(&caller(name), id, text(content))
            .await
            .unwrap()
            .message
    }

    /// The whole conversation, walked from the newest page to the oldest.
    pub(crate) async fn log(&self, name: &str, id: ConversationId) -> Vec<Message> {
        let mut log: Vec<Message> = Vec::new();
        let mut position = Position::Latest;
        loop {
            let page = self.page(name, id, position, 200).await;
            let more = page.has_more_before;
            if let Some(first) = page.messages.first() {
                position = Position::Before(first.seq);
            }
            log.splice(0..0, page.messages);
            if !more {
                return log;
            }
        }
    }

    pub(crate) async fn page(
        &self,
        name: &str,
        id: ConversationId,
        position: Position,
        limit: u32,
    ) -> HistoryPage {
        self.store
            .history(&caller(name), id, position, limit)
            .await
            .unwrap()
    }

    /// Waits until every list has followed.
    pub(crate) async fn settle(&self) {
        self.store
            .relay_idle(Instant::now() + PATIENCE)
            .await
            .unwrap();
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn caller(name: &str) -> Caller {
    Caller::new(user(name), PATIENCE)
}

pub(crate) fn text(content: &str) -> NewMessage {
    NewMessage {
        content: content.into(),
        ..NewMessage::default()
    }
}

pub(crate) fn text_as(client_msg_id: &str, content: &str) -> NewMessage {
    NewMessage {
        client_msg_id: Some(client_msg_id.into()),
        ..text(content)
    }
}
