//! Empty databases: directories and shards of two deployments, and what is done with them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use backscroll_shard::db::{Connection, Database};
use backscroll_shard::error::{Error, Result};
use backscroll_shard::identity::making::Step;
use backscroll_shard::ids::{KeyFunction, ShardName};
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::model::Position;
use backscroll_shard::routing::Router;
use backscroll_shard::settings::{DatabaseUrl, StoreSettings};
use backscroll_testkit::{Dump, TestDatabases, dump};

use crate::bed::{Bed, PATIENCE, caller, text, user};

/// A backend on which empty databases can be had.
#[derive(Clone, Copy)]
pub(super) enum Backend {
    Sqlite,
    Server,
}

/// Empty databases: directories and shards of two deployments, and one more.
pub(super) struct Plot {
    pub(super) urls: BTreeMap<&'static str, DatabaseUrl>,
    databases: Option<TestDatabases>,
    _folder: tempfile::TempDir,
}

const NAMES: [&str; 8] = ["dir", "db1", "db2", "db3", "dir'", "db1'", "db2'", "spare"];

impl Plot {
    pub(super) async fn new(backend: Backend) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (urls, databases) = match backend {
            Backend::Sqlite => {
                let url = |name: &str| format!("sqlite://{}/{name}.db", folder.path().display());
                (NAMES.map(url).to_vec(), None)
            }
            Backend::Server => {
                let databases = TestDatabases::create(NAMES.len()).await;
                (databases.urls(), Some(databases))
            }
        };
        Self {
            urls: NAMES
                .into_iter()
                .zip(urls.into_iter().map(DatabaseUrl))
                .collect(),
            databases,
            _folder: folder,
        }
    }

    /// A directory, and shards `db1`, `db2` … with the databases of these names.
    pub(super) fn settings(&self, directory: &str, shards: &[&str]) -> StoreSettings {
        let count = u32::try_from(shards.len()).unwrap();
        let mut settings = StoreSettings::embedded("unused", count);
        settings.directory.url = self.urls[directory].clone();
        for (number, (shard, database)) in settings.shards.iter_mut().zip(shards).enumerate() {
            shard.name = name(&format!("db{}", number + 1));
            shard.primary = self.urls[database].clone();
        }
        settings.pool.max_connections = 4;
        settings
    }

    pub(super) async fn dump(&self) -> BTreeMap<&'static str, Dump> {
        let mut all = BTreeMap::new();
        for (name, url) in &self.urls {
            all.insert(*name, dump(&url.0).await);
        }
        all
    }

    pub(super) async fn execute(&self, database: &str, statement: &str) {
        if let Some(file) = self.urls[database].file() {
            let mut options = std::fs::File::options();
            options.append(true).create(true).open(file).unwrap();
        }
        let mut connection = connect(&self.urls[database]).await;
        connection.execute(statement, &[]).await.unwrap();
    }

    /// As a version left it that marked no database.
    pub(super) async fn age(&self, directory: &str, shards: &[&str]) {
        for database in [&[directory], shards].concat() {
            self.execute(database, "DROP TABLE identity").await;
            let forget = "DELETE FROM schema_migrations WHERE name LIKE '%_identity' OR name LIKE '%_shards_state%'";
            self.execute(database, forget).await;
        }
        for column in ["state", "incarnation"] {
            let drop = format!("ALTER TABLE shards DROP COLUMN {column}");
            self.execute(directory, &drop).await;
        }
        let forget = "DELETE FROM properties WHERE name = 'first_ranges'";
        self.execute(directory, forget).await;
    }

    /// Empties a database.
    pub(super) async fn lose(&self, database: &str) {
        let url = &self.urls[database];
        if let Some(file) = url.file() {
            std::fs::remove_file(file).unwrap();
            return;
        }
        for table in dump(&url.0).await.keys() {
            self.execute(database, &format!("DROP TABLE {table}")).await;
        }
    }

    pub(super) async fn end(self) {
        if let Some(databases) = self.databases {
            databases.drop_all().await;
        }
    }
}

pub(super) fn name(text: &str) -> ShardName {
    ShardName::new(text).unwrap()
}

pub(super) async fn connect(url: &DatabaseUrl) -> Connection {
    let settings = StoreSettings::default().pool;
    let database = Database::open_any(url, &settings).unwrap();
    database.writer(Instant::now() + PATIENCE).await.unwrap()
}

pub(super) async fn migrate(settings: &StoreSettings) {
    migrate_all(settings, false).await.unwrap();
}

/// Somebody who lives on the shard that has the key space's half.
pub(super) fn somebody_on(half: u64) -> String {
    let key = |name: &String| KeyFunction::Hashed.key(&user(name)).unwrap().0;
    let mut names = (0..).map(|n| format!("user{n}"));
    names.find(|name| key(name) >> 63 == half).unwrap()
}

/// A message on every half of the key space, and how to read them back.
pub(super) async fn talk(settings: &StoreSettings, words: &str) {
    let store = Bed::another(settings).await;
    for half in [0, 1] {
        let who = somebody_on(half);
        let (id, _) = store.import_begin("talk", &user(&who)).await.unwrap();
        let who = caller(&who);
        store.send(&who, id, text(words)).await.unwrap();
        let page = store.history(&who, id, Position::Latest, 1);
        assert_eq!(page.await.unwrap().messages[0].content, words);
    }
    store.close(Instant::now() + PATIENCE).await;
}

pub(super) async fn refusal(settings: &StoreSettings) -> Option<String> {
    match Router::open(settings).await {
        Ok(_) => None,
        Err(Error::WrongDatabase(why)) => Some(why),
        Err(other) => panic!("refused for another reason: {other}"),
    }
}

/// Dies at the step `at` for the `n`th time.
pub(super) fn dies(at: Step, n: usize) -> impl Fn(Step) -> Result<()> {
    let passed = AtomicUsize::new(0);
    move |step| {
        let is_it = step == at && passed.fetch_add(1, Ordering::Relaxed) + 1 == n;
        if is_it { Err(Error::Closing) } else { Ok(()) }
    }
}
