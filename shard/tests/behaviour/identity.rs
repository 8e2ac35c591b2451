//! Which database of which deployment a database is: nothing is read from a wrong one, and nothing written (INV-OWNER).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backscroll_shard::clock;
use backscroll_shard::db::{Connection, Database, Dialect, Value};
use backscroll_shard::error::{Error, Result};
use backscroll_shard::identity::making::Step;
use backscroll_shard::identity::{
    self,
    adoption::{self, Adoption},
    joining::{self, Joining},
};
use backscroll_shard::ids::{Epoch, Incarnation, KeyFunction, ShardName};
use backscroll_shard::migrate::{migrate_all, migrate_with};
use backscroll_shard::model::{Caller, Position};
use backscroll_shard::moves::{MoveState, Mover, Order};
use backscroll_shard::range::KeyRange;
use backscroll_shard::routing::Router;
use backscroll_shard::settings::{DatabaseUrl, RangeSettings, StoreSettings};
use backscroll_testkit::{Dump, TestDatabases, dump};

use crate::bed::{Bed, PATIENCE, caller, text, user};
use crate::logged;

/// A backend on which empty databases can be had.
#[derive(Clone, Copy)]
enum Backend {
    Sqlite,
    Server,
}

macro_rules! on_empty_databases {
    ($($name:ident),* $(,)?) => {
        mod on_empty_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Backend::Sqlite).await;
            })*
        }
        mod on_empty_server {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Backend::Server).await;
            })*
        }
    };
}

on_empty_databases!(
    addresses_that_lead_elsewhere_are_refused,
    a_deployment_can_die_while_it_is_made,
    a_deployment_of_an_older_version_is_marked_once,
    a_lost_database_is_replaced_by_a_command_only,
    a_shard_is_added_by_a_command,
    adding_a_shard_can_die,
    what_is_not_empty_is_not_added,
    what_has_no_effect_is_said,
    a_schema_of_a_later_version_is_used_unless_it_contracts,
);

crate::on_every_backend!(
    what_becomes_another_database_is_not_used,
    clocks_are_compared
);

/// Empty databases: directories and shards of two deployments, and one more.
struct Plot {
    urls: BTreeMap<&'static str, DatabaseUrl>,
    databases: Option<TestDatabases>,
    _folder: tempfile::TempDir,
}

const NAMES: [&str; 8] = ["dir", "db1", "db2", "db3", "dir'", "db1'", "db2'", "spare"];

impl Plot {
    async fn new(backend: Backend) -> Self {
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
    fn settings(&self, directory: &str, shards: &[&str]) -> StoreSettings {
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

    async fn dump(&self) -> BTreeMap<&'static str, Dump> {
        let mut all = BTreeMap::new();
        for (name, url) in &self.urls {
            all.insert(*name, dump(&url.0).await);
        }
        all
    }

    async fn execute(&self, database: &str, statement: &str) {
        if let Some(file) = self.urls[database].file() {
            let mut options = std::fs::File::options();
            options.append(true).create(true).open(file).unwrap();
        }
        let mut connection = connect(&self.urls[database]).await;
        connection.execute(statement, &[]).await.unwrap();
    }

    /// As a version left it that marked no database.
    async fn age(&self, directory: &str, shards: &[&str]) {
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
    async fn lose(&self, database: &str) {
        let url = &self.urls[database];
        if let Some(file) = url.file() {
            std::fs::remove_file(file).unwrap();
            return;
        }
        for table in dump(&url.0).await.keys() {
            self.execute(database, &format!("DROP TABLE {table}")).await;
        }
    }

    async fn end(self) {
        if let Some(databases) = self.databases {
            databases.drop_all().await;
        }
    }
}

fn name(text: &str) -> ShardName {
    ShardName::new(text).unwrap()
}

async fn connect(url: &DatabaseUrl) -> Connection {
    let settings = StoreSettings::default().pool;
    let database = Database::open_any(url, &settings).unwrap();
    database.writer(Instant::now() + PATIENCE).await.unwrap()
}

async fn migrate(settings: &StoreSettings) {
    migrate_all(settings, false).await.unwrap();
}

/// Somebody who lives on the shard that has the key space's half.
fn somebody_on(half: u64) -> String {
    let key = |name: &String| KeyFunction::Hashed.key(&user(name)).unwrap().0;
    let mut names = (0..).map(|n| format!("user{n}"));
    names.find(|name| key(name) >> 63 == half).unwrap()
}

/// A message on every half of the key space, and how to read them back.
async fn talk(settings: &StoreSettings, words: &str) {
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

async fn refusal(settings: &StoreSettings) -> Option<String> {
    match Router::open(settings).await {
        Ok(_) => None,
        Err(Error::WrongDatabase(why)) => Some(why),
        Err(other) => panic!("refused for another reason: {other}"),
    }
}

/// A name, the directory's and the shards' addresses, and what the refusal says.
type Case = (
    &'static str,
    (&'static str, [&'static str; 2]),
    &'static [&'static str],
);

async fn addresses_that_lead_elsewhere_are_refused(backend: Backend) {
    let plot = Plot::new(backend).await;
    let right = plot.settings("dir", &["db1", "db2"]);
    migrate(&right).await;
    migrate(&plot.settings("dir'", &["db1'", "db2'"])).await;
    talk(&right, "before").await;
    plot.execute("spare", "CREATE TABLE orders (id INTEGER)")
        .await;
    let before = plot.dump().await;

    let cases: [Case; 13] = [
        (
            "two shards swapped",
            ("dir", ["db2", "db1"]),
            &[
                "shard db1 (",
                "leads to shard db2",
                "shard db2 (",
                "leads to shard db1",
            ],
        ),
        (
            "another deployment's shard",
            ("dir", ["db1", "db2'"]),
            &["shard db2 (", "leads to shard db2 of another deployment"],
        ),
        (
            "another deployment's shards",
            ("dir", ["db1'", "db2'"]),
            &["shard db1 of another", "shard db2 of another"],
        ),
        (
            "another deployment's directory",
            ("dir'", ["db1", "db2"]),
            &["leads to shard db1 of another deployment"],
        ),
        (
            "a directory as a shard",
            ("dir", ["db1", "dir"]),
            &["shard db2 (", "leads to the directory"],
        ),
        (
            "another directory as a shard",
            ("dir", ["dir'", "db2"]),
            &["leads to the directory of another deployment"],
        ),
        (
            "a shard as the directory",
            ("db1", ["db1", "db2"]),
            &["the address of the directory (", "leads to shard db1"],
        ),
        (
            "directory and shard swapped",
            ("db2", ["db1", "dir"]),
            &["leads to shard db2", "leads to the directory"],
        ),
        (
            "the same database twice",
            ("dir", ["db1", "db1"]),
            &["shard db2 (", "leads to shard db1"],
        ),
        (
            "an empty database",
            ("dir", ["db1", "db3"]),
            &[
                "shard db2 (",
                "leads to an empty database",
                "shards adopt db2",
            ],
        ),
        (
            "an empty directory",
            ("db3", ["db1", "db2"]),
            &[
                "the address of the directory (",
                "an empty database",
                "db1 (",
            ],
        ),
        (
            "something else's database",
            ("dir", ["spare", "db2"]),
            &["shard db1 (", "tables of something else (`orders`)"],
        ),
        (
            "something else's as the directory",
            ("spare", ["db1", "db2"]),
            &["tables of something else (`orders`)"],
        ),
    ];
    for (case, (directory, shards), words) in cases {
        let wrong = plot.settings(directory, &shards);
        let why = refusal(&wrong)
            .await
            .unwrap_or_else(|| panic!("{case} was not refused"));
        for word in words {
            assert!(why.contains(word), "{case}: {word} is not in: {why}");
        }
        for dry_run in [true, false] {
            let migrated = migrate_all(&wrong, dry_run).await;
            assert!(
                matches!(migrated, Err(Error::WrongDatabase(_))),
                "{case}: {migrated:?}"
            );
        }
        assert_eq!(plot.dump().await, before, "{case} was written");
    }
    // Nothing of it was for ever.
    talk(&right, "after").await;

    plot.execute("db2", "DELETE FROM fences").await;
    let before = plot.dump().await;
    let why = refusal(&right).await.unwrap();
    assert!(
        why.contains("shard db2 without the fences of 9223372036854775808.. at epoch 1"),
        "{why}"
    );
    assert!(migrate_all(&right, false).await.is_err());
    assert_eq!(
        plot.dump().await,
        before,
        "fences are not opened by the way"
    );

    // Before there is a deployment.
    let fresh = plot.settings("db3", &["spare", "db3"]);
    assert!(matches!(
        migrate_all(&fresh, false).await,
        Err(Error::WrongDatabase(_))
    ));
    plot.lose("spare").await;
    let twice = plot.settings("db3", &["spare", "spare"]);
    let why = migrate_all(&twice, false).await.unwrap_err().to_string();
    assert!(why.contains("lead to the same database"), "{why}");
    assert!(plot.dump().await["spare"].is_empty() && plot.dump().await["db3"].is_empty());
    plot.end().await;
}

/// Dies at the step `at` for the `n`th time.
fn dies(at: Step, n: usize) -> impl Fn(Step) -> Result<()> {
    let passed = AtomicUsize::new(0);
    move |step| {
        let is_it = step == at && passed.fetch_add(1, Ordering::Relaxed) + 1 == n;
        if is_it { Err(Error::Closing) } else { Ok(()) }
    }
}

/// Every step at which the making of a deployment with two shards can die.
fn deaths() -> Vec<(Step, usize)> {
    let twice = |step| matches!(step, Step::ShardMigrated | Step::ShardMarked);
    let of = |step| (1..=if twice(step) { 2 } else { 1 }).map(move |n| (step, n));
    Step::ALL.into_iter().flat_map(of).collect()
}

async fn a_deployment_can_die_while_it_is_made(backend: Backend) {
    for (step, n) in deaths() {
        let plot = Plot::new(backend).await;
        let settings = plot.settings("dir", &["db1", "db2"]);
        let died = migrate_with(&settings, false, &dies(step, n)).await;
        assert!(
            matches!(died, Err(Error::Closing)),
            "{step:?} {n}: {died:?}"
        );
        if step != Step::Joined {
            let opened = Router::open(&settings).await;
            let Err(Error::Unprepared(why)) = opened else {
                panic!("{step:?} {n}: served when it is made by half: {opened:?}");
            };
            assert!(why.contains("backscroll migrate"), "{why}");
        }
        migrate(&settings).await;
        let made = plot.dump().await;
        migrate(&settings).await;
        assert_eq!(
            plot.dump().await,
            made,
            "{step:?} {n}: another run changes nothing"
        );
        for shard in ["db1", "db2"] {
            assert_eq!(made[shard]["fences"].len(), 1, "{step:?} {n}");
        }
        talk(&settings, "it goes on").await;
        plot.end().await;
    }
}

/// A deployment with a message on each shard, as a version left it that marked no database.
async fn an_old_deployment(backend: Backend) -> (Plot, StoreSettings) {
    let plot = Plot::new(backend).await;
    let settings = plot.settings("dir", &["db1", "db2"]);
    migrate(&settings).await;
    talk(&settings, "of old").await;
    plot.age("dir", &["db1", "db2"]).await;
    (plot, settings)
}

async fn a_deployment_of_an_older_version_is_marked_once(backend: Backend) {
    for (step, n) in deaths() {
        let (plot, settings) = an_old_deployment(backend).await;
        let old = plot.dump().await;
        let died = migrate_with(&settings, false, &dies(step, n)).await;
        assert!(
            matches!(died, Err(Error::Closing)),
            "{step:?} {n}: {died:?}"
        );
        if step != Step::Joined {
            let opened = Router::open(&settings).await;
            assert!(matches!(opened, Err(Error::Unprepared(_))), "{step:?} {n}");
        }
        migrate(&settings).await;
        let marked = plot.dump().await;
        for database in ["dir", "db1", "db2"] {
            assert_eq!(marked[database]["identity"].len(), 1, "{step:?} {n}");
            for table in ["messages", "fences", "ranges", "conversations"] {
                let (before, after) = (old[database].get(table), marked[database].get(table));
                assert_eq!(before, after, "{step:?} {n}: {table} of {database}");
            }
        }
        talk(&settings, "marked").await;
        plot.end().await;
    }

    let (plot, settings) = an_old_deployment(backend).await;
    let old = plot.dump().await;
    let swapped = plot.settings("dir", &["db2", "db1"]);
    let why = refusal(&swapped).await.unwrap();
    let words = [
        "shard db1 (",
        "with the fences of shard db2",
        "with the fences of shard db1",
    ];
    assert!(words.iter().all(|word| why.contains(word)), "{why}");
    for wrong in [["db2", "db1"], ["db1", "db3"], ["db1", "db1"]] {
        let outcome = migrate_all(&plot.settings("dir", &wrong), false).await;
        assert!(
            matches!(outcome, Err(Error::WrongDatabase(_))),
            "{wrong:?}: {outcome:?}"
        );
    }
    assert_eq!(plot.dump().await, old, "nothing was written");

    migrate(&settings).await;
    // Only once: a database that has lost its mark is not taken for one of an older version.
    plot.execute("db2", "DELETE FROM identity").await;
    let why = refusal(&settings).await.unwrap();
    assert!(
        why.contains("not marked with the fences of shard db2"),
        "{why}"
    );
    assert!(migrate_all(&settings, false).await.is_err());
    plot.end().await;

    let (plot, settings) = an_old_deployment(backend).await;
    plot.execute("db1", "UPDATE fences SET epoch = 2").await;
    let why = migrate_all(&settings, false).await.unwrap_err().to_string();
    assert!(why.contains("at epoch 1, its fences do not"), "{why}");
    adopt(&settings, "db1").await.unwrap();
    migrate(&settings).await;
    talk(&settings, "adopted").await;
    plot.end().await;
}

async fn adopt(settings: &StoreSettings, shard: &str) -> Result<Adoption> {
    adoption::adopt(settings, &name(shard), ("tester", "a test"), &|_| Ok(())).await
}

async fn a_lost_database_is_replaced_by_a_command_only(backend: Backend) {
    let plot = Plot::new(backend).await;
    let settings = plot.settings("dir", &["db1", "db2"]);
    migrate(&settings).await;
    talk(&settings, "before the loss").await;
    // Another database in its place: an empty one, while the lost one is only thought to be lost.
    let replaced = plot.settings("dir", &["db1", "spare"]);
    assert!(refusal(&replaced).await.is_some());
    let before = plot.dump().await;
    let planned = adoption::plan(&replaced, &name("db2")).await.unwrap();
    assert_eq!(plot.dump().await, before, "a plan changes nothing");
    assert!(planned.is_empty && planned.was == "empty");
    for step in [
        Step::ShardMigrated,
        Step::DirectoryMarked,
        Step::ShardMarked,
    ] {
        let dies = dies(step, 1);
        let died = adoption::adopt(&replaced, &name("db2"), ("tester", "a test"), &dies).await;
        assert!(matches!(died, Err(Error::Closing)), "{step:?}: {died:?}");
        assert!(
            Router::open(&replaced).await.is_err(),
            "{step:?}: served by half"
        );
    }
    let adopted = adopt(&replaced, "db2").await.unwrap();
    assert_eq!(adopted.ranges.len(), 1);
    assert_eq!(
        adopted.ranges[0].epoch,
        Epoch(4),
        "each try gave it another owner"
    );
    assert_eq!(adopted.incarnation, Incarnation(4));
    talk(&replaced, "after the loss").await;
    let dump = plot.dump().await;
    assert!(dump["spare"]["archive_jobs"][0].contains("a test"));

    // The old one turns up again.
    let why = refusal(&settings).await.unwrap();
    assert!(
        why.contains("an earlier database of shard db2 (incarnation 1, now 4)"),
        "{why}"
    );
    // It may be taken back: then the other one is the earlier one.
    adopt(&settings, "db2").await.unwrap();
    talk(&settings, "back again").await;
    assert!(
        refusal(&replaced)
            .await
            .unwrap()
            .contains("an earlier database")
    );

    // Both at once.
    for lost in ["db1", "db2", "spare"] {
        plot.lose(lost).await;
    }
    for shard in ["db1", "db2"] {
        assert!(refusal(&settings).await.is_some());
        adopt(&settings, shard).await.unwrap();
    }
    talk(&settings, "begun anew").await;

    // Never what belongs to something else, nor what another one has.
    migrate(&plot.settings("dir'", &["db1'", "db2'"])).await;
    let before = plot.dump().await;
    for (wrong, shard) in [
        (["db1", "db2'"], "db2"),
        (["db1", "dir"], "db2"),
        (["db1", "db1"], "db2"),
        (["db2", "db1"], "db1"),
        (["db1'", "spare"], "db2"),
    ] {
        let wrong = plot.settings("dir", &wrong);
        let outcome = adopt(&wrong, shard).await;
        assert!(
            matches!(outcome, Err(Error::WrongDatabase(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(plot.dump().await, before);
    // Another one takes writes for the shard's keys.
    let mut connection = connect(&plot.urls["db1"]).await;
    let (half, open) = ((1u64 << 63).to_be_bytes(), "open");
    let insert = "INSERT INTO fences (range_start, range_end, epoch, state) VALUES (?, NULL, 9, ?)";
    let args = [Value::from(&half), Value::from(open)];
    connection.execute(insert, &args).await.unwrap();
    drop(connection);
    let why = adopt(&settings, "db2").await.unwrap_err().to_string();
    assert!(why.contains("shard db1 has a fence for"), "{why}");
    plot.end().await;
}

async fn add(settings: &StoreSettings, shard: &str) -> Result<Joining> {
    joining::join(settings, &name(shard), ("tester", "a test"), &|_| Ok(())).await
}

/// A deployment of two shards, its settings, and those with a third shard.
async fn two_shards(backend: Backend) -> (Plot, StoreSettings, StoreSettings) {
    let plot = Plot::new(backend).await;
    let old = plot.settings("dir", &["db1", "db2"]);
    migrate(&old).await;
    let new = plot.settings("dir", &["db1", "db2", "db3"]);
    (plot, old, new)
}

/// Servers that were started with the new configuration before and after, and a move to the new shard.
async fn a_shard_is_added_by_a_command(backend: Backend) {
    let (plot, _, settings) = two_shards(backend).await;
    let early = Bed::another(&settings).await;
    let who = somebody_on(1);
    let (id, _) = early.import_begin("talk", &user(&who)).await.unwrap();
    let who = caller(&who);
    early.send(&who, id, text("before")).await.unwrap();
    early.relay_idle(Instant::now() + PATIENCE).await.unwrap();

    let before = plot.dump().await;
    let planned = joining::plan(&settings, &name("db3")).await.unwrap();
    assert!(planned.was == "empty" && !planned.is_joined, "{planned:?}");
    assert_eq!(plot.dump().await, before, "a plan changes nothing");
    let added = add(&settings, "db3").await.unwrap();
    assert_eq!(added, planned);
    assert_eq!(added.incarnation, Incarnation(1));
    let dump = plot.dump().await;
    assert!(dump["db3"]["archive_jobs"][0].contains("a test"));
    assert!(dump["db3"]["fences"].is_empty());
    assert_eq!(dump["dir"]["ranges"], before["dir"]["ranges"]);
    let again = add(&settings, "db3").await.unwrap();
    assert!(again.is_joined && again.incarnation == Incarnation(1));
    assert_eq!(plot.dump().await, dump, "another run changes nothing");

    // The later one moves everything of `db2` there; the early one does not know of it yet, or has looked.
    let late = Bed::another(&settings).await;
    let mover = Mover::new(late.router().clone(), "tester");
    let order = Order {
        actor: "tester".into(),
        reason: "a test".into(),
    };
    let half = KeyRange::new(1 << 63, None).unwrap();
    let job = mover.begin(half, &name("db3"), &order).await.unwrap();
    let job = mover.run(job.id).await.unwrap();
    assert_eq!(job.state, MoveState::Draining);
    for store in [&early, &late] {
        store.send(&who, id, text("after")).await.unwrap();
        let page = store.history(&who, id, Position::Latest, 5).await.unwrap();
        assert_eq!(page.messages.last().unwrap().content, "after");
        let health = store.health(PATIENCE).await;
        assert!(health.shards.len() == 3 && health.shards.iter().all(|it| it.takes_writes));
        store.relay_idle(Instant::now() + PATIENCE).await.unwrap();
    }
    for store in [early, late] {
        store.close(Instant::now() + PATIENCE).await;
    }
    plot.end().await;
}

async fn adding_a_shard_can_die(backend: Backend) {
    for step in Step::ALL {
        if step == Step::DirectoryMigrated {
            continue; // of a deployment that is made
        }
        let (plot, old, settings) = two_shards(backend).await;
        let at = || dies(step, 1);
        let died = joining::join(&settings, &name("db3"), ("tester", "a test"), &at()).await;
        assert!(matches!(died, Err(Error::Closing)), "{step:?}: {died:?}");
        // Everything is served as before, also by a new server of either configuration; `migrate` leaves it alone.
        let made = plot.dump().await;
        for settings in [&old, &settings] {
            talk(settings, "meanwhile").await;
            migrate(settings).await;
        }
        let dump = plot.dump().await;
        for (database, table) in [("dir", "shards"), ("db3", "fences"), ("db3", "identity")] {
            assert_eq!(
                dump[database].get(table),
                made[database].get(table),
                "{step:?}"
            );
        }
        let router = Router::open(&settings).await.unwrap();
        let is_joined = step == Step::Joined;
        assert_eq!(router.shard(&name("db3")).is_ok(), is_joined, "{step:?}");
        let remarks = router.deployed().remarks().join(" ");
        let says = remarks.contains("`backscroll shards add db3`");
        assert_eq!(says, !is_joined, "{step:?}: {remarks}");
        // Another database under the name: the first one is never taken for the shard's.
        let was_begun = matches!(step, Step::DirectoryMarked | Step::ShardMarked);
        let other = plot.settings("dir", &["db1", "db2", "spare"]);
        if was_begun {
            let added = add(&other, "db3").await.unwrap();
            assert_eq!(added.incarnation, Incarnation(2), "{step:?}");
            let refused = add(&settings, "db3").await;
            assert!(
                matches!(refused, Err(Error::WrongDatabase(_))),
                "{step:?}: {refused:?}"
            );
        } else {
            add(&settings, "db3").await.unwrap();
        }
        let settings = if was_begun { other } else { settings };
        let router = Router::open(&settings).await.unwrap();
        assert!(router.shard(&name("db3")).is_ok(), "{step:?}");
        talk(&settings, "added").await;
        plot.end().await;

        let (plot, _, settings) = two_shards(backend).await;
        let died = joining::join(&settings, &name("db3"), ("tester", "a test"), &at()).await;
        assert!(matches!(died, Err(Error::Closing)), "{step:?}: {died:?}");
        add(&settings, "db3").await.unwrap();
        let dump = plot.dump().await;
        assert_eq!(dump["db3"]["identity"].len(), 1);
        assert!(
            Router::open(&settings)
                .await
                .unwrap()
                .shard(&name("db3"))
                .is_ok()
        );
        plot.end().await;
    }
}

async fn what_is_not_empty_is_not_added(backend: Backend) {
    let (plot, old, _) = two_shards(backend).await;
    migrate(&plot.settings("dir'", &["db1'", "db2'"])).await;
    plot.execute("spare", "CREATE TABLE orders (id INTEGER)")
        .await;
    talk(&old, "before").await;
    let before = plot.dump().await;
    let cases: [(&str, &str); 5] = [
        ("spare", "tables of something else (`orders`)"),
        ("db1'", "leads to shard db1 of another deployment ("),
        ("dir'", "leads to the directory of another deployment ("),
        ("db1", "leads to shard db1"),
        ("dir", "leads to the directory"),
    ];
    for (database, words) in cases {
        let settings = plot.settings("dir", &["db1", "db2", database]);
        for outcome in [
            joining::plan(&settings, &name("db3")).await,
            add(&settings, "db3").await,
        ] {
            let Err(Error::WrongDatabase(why)) = outcome else {
                panic!("{database}: {outcome:?}");
            };
            let all = [
                "the address of shard db3 (",
                words,
                "correct `primary` of db3",
            ];
            assert!(all.iter().all(|it| why.contains(it)), "{database}: {why}");
        }
        assert_eq!(plot.dump().await, before, "{database} was written");
    }
    // One that has lost its mark, and one of a deployment whose directory is of an older backup.
    let settings = plot.settings("dir", &["db1", "db2", "db1'"]);
    plot.execute("db1'", "DELETE FROM identity").await;
    let why = add(&settings, "db3").await.unwrap_err().to_string();
    assert!(
        why.contains("data or fences of a shard") && why.contains("an empty database"),
        "{why}"
    );
    let settings = plot.settings("dir", &["db1", "db2", "db3"]);
    add(&settings, "db3").await.unwrap();
    plot.execute("dir", "DELETE FROM shards WHERE name = 'db3'")
        .await;
    let why = add(&settings, "db3").await.unwrap_err().to_string();
    assert!(why.contains("which the directory does not know"), "{why}");
    // Before there is a deployment there is nothing that a shard could join.
    let fresh = plot.settings("db2'", &["db3", "spare"]);
    assert!(add(&fresh, "db2").await.is_err());
    plot.end().await;
}

async fn what_has_no_effect_is_said(backend: Backend) {
    let plot = Plot::new(backend).await;
    let mut settings = plot.settings("dir", &["db1", "db2"]);
    settings.keyspace.ranges = vec![RangeSettings {
        from: 0,
        shard: name("db1"),
    }];
    migrate(&settings).await;
    let remarks = async |settings: &StoreSettings| {
        let router = Router::open(settings).await.unwrap();
        assert!(router.map().ranges_of(&name("db1")).next().is_some());
        router.deployed().remarks().join("\n")
    };
    assert_eq!(
        remarks(&settings).await,
        "shard db2 owns no keys: nothing is stored on it"
    );

    let half = RangeSettings {
        from: 1 << 63,
        shard: name("db2"),
    };
    settings.keyspace.ranges.push(half);
    assert!(
        remarks(&settings)
            .await
            .contains("keyspace.ranges has no effect")
    );
    let migrated = migrate_with(&settings, false, &|_| Ok(())).await.unwrap();
    assert!(
        migrated
            .remarks
            .join("")
            .contains("keyspace.ranges has no effect")
    );
    settings.keyspace.ranges.clear();
    assert!(!remarks(&settings).await.contains("keyspace.ranges"));

    let more = plot.settings("dir", &["db1", "db2", "db3"]);
    let before = plot.dump().await;
    migrate(&more).await;
    assert!(
        remarks(&more)
            .await
            .contains("shard db3 is in the configuration, but")
    );
    assert_eq!(plot.dump().await, before, "its database is left alone");
    let wrong = plot.settings("dir", &["db1", "db2", "dir"]);
    assert!(
        refusal(&wrong)
            .await
            .unwrap()
            .contains("leads to the directory")
    );
    plot.end().await;
}

/// A database is exchanged under a running router.
async fn what_becomes_another_database_is_not_used(bed: &Bed) {
    logged::expect_outage();
    let (here, there) = (somebody_on(0), somebody_on(1));
    let mut groups = Vec::new();
    for who in [&here, &there] {
        let id = bed.group(who, &[]).await;
        bed.say(who, id, "before").await;
        groups.push(id);
    }
    let home = bed
        .store
        .map()
        .locate(KeyFunction::Hashed.key(&user(&here)).unwrap())
        .shard
        .clone();
    let shard = bed
        .settings
        .shards
        .iter()
        .find(|shard| shard.name == home)
        .unwrap();
    let mut operator = connect(&shard.primary).await;
    let renamed = "UPDATE identity SET shard = 'another'";
    operator.execute(renamed, &[]).await.unwrap();
    let health = async || bed.store.health(PATIENCE).await;
    let wrong = health()
        .await
        .shards
        .into_iter()
        .find(|it| it.name == home)
        .unwrap();
    assert!(wrong.primary.wrong_database && !wrong.primary.ok);
    let why = wrong.primary.error.unwrap();
    assert!(
        why.contains(&format!("the address of shard {home} ("))
            && why.contains("leads to shard another"),
        "{why}"
    );

    let sent_before = count(&mut operator).await;
    for _ in 0..20 {
        let caller = Caller::new(user(&here), Duration::from_secs(5));
        let sent = bed
            .store
            .send(&caller, groups[0], text("to the wrong database"))
            .await;
        assert!(matches!(sent, Err(Error::ShardUnavailable(_))), "{sent:?}");
        let page = bed
            .store
            .history(&caller, groups[0], Position::Latest, 1)
            .await;
        assert!(matches!(page, Err(Error::ShardUnavailable(_))), "{page:?}");
    }
    assert_eq!(count(&mut operator).await, sent_before);
    bed.say(&there, groups[1], "the other shard does not notice")
        .await;

    let args = [Value::from(home.as_str())];
    operator
        .execute("UPDATE identity SET shard = ?", &args)
        .await
        .unwrap();
    let heals = async {
        let message = || text("after");
        while bed
            .store
            .send(&caller(&here), groups[0], message())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, heals)
        .await
        .expect("it is used again");
    assert!(health().await.shards.iter().all(|shard| shard.primary.ok));
}

async fn count(connection: &mut Connection) -> i64 {
    let counted = connection
        .fetch_optional("SELECT COUNT(*) FROM messages", &[])
        .await;
    counted.unwrap().unwrap().int(0).unwrap()
}

async fn clocks_are_compared(bed: &Bed) {
    let shard = bed.store.router().shards().next().unwrap();
    let mut connection = shard.reader(Instant::now() + PATIENCE).await.unwrap();
    let connection = &mut connection;
    let offset = clock::offset(connection).await.unwrap();
    assert!(offset.abs() < 10_000, "{offset} ms");
    let now = clock::agreed_now(connection).await.unwrap();
    assert!(now >= clock::now(connection).await.unwrap().min(now));
    if connection.dialect() == Dialect::Sqlite {
        return; // its clock is this process's
    }
    for (seconds, words) in [(400, "400 s behind"), (-400, "s ahead of")] {
        let ahead = format!("SET timestamp = UNIX_TIMESTAMP(SYSDATE()) + {seconds}");
        connection.execute(&ahead, &[]).await.unwrap();
        let refused = clock::agreed_now(connection).await;
        let Err(Error::ClocksDiffer(why)) = refused else {
            panic!("{refused:?}");
        };
        assert!(why.contains(words) || why.contains("399 s behind"), "{why}");
    }
}

async fn a_schema_of_a_later_version_is_used_unless_it_contracts(backend: Backend) {
    let plot = Plot::new(backend).await;
    let settings = plot.settings("dir", &["db1", "db2"]);
    migrate(&settings).await;
    let add = |name: &str| {
        format!("INSERT INTO schema_migrations (name, applied_at) VALUES ('{name}', 1)")
    };
    plot.execute("db1", &add("9998_more")).await;
    let deployed = identity::find(&settings).await.unwrap();
    let is_said = |remarks: &[String]| remarks.iter().any(|it| it.contains("9998_more"));
    assert!(is_said(deployed.remarks()), "{:?}", deployed.remarks());
    let migrated = migrate_with(&settings, false, &|_| Ok(())).await.unwrap();
    assert!(is_said(&migrated.remarks), "{migrated:?}");
    talk(&settings, "as before").await;

    plot.execute("dir", &add("9999_contract_less")).await;
    for refused in [
        identity::find(&settings).await.map(drop),
        migrate_all(&settings, false).await.map(drop),
    ] {
        let Err(Error::Unprepared(why)) = refused else {
            panic!("{refused:?}");
        };
        let names = why.contains("9999_contract_less") && !why.contains("9998");
        assert!(names && why.contains("later version"), "{why}");
    }
    plot.end().await;
}
