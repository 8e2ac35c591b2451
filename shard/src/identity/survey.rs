//! A look into every database that the configuration names. It changes none of them: nothing is made, no table is locked,
//! and a file that is not there stays away.
//!
//! The shards are looked into first and the directory last, against the order in which a deployment is made: who finds the
//! directory empty has found the shards empty before, also while another process is making it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::db::identity::{Identity, Role};
use crate::db::{Connection, Database, Dialect, values};
use crate::directory::{self, Entries};
use crate::error::{Error, Result};
use crate::fence::{self, Fence};
use crate::ids::ShardName;
use crate::moves::job;
use crate::range::KeyRange;
use crate::schema::{self, Schema};
use crate::settings::{DatabaseUrl, PoolSettings, StoreSettings};

/// Longest look into one database.
const PATIENCE: Duration = Duration::from_secs(10);
/// A look into all databases may be older than the end of a move by so much.
const JUST_NOW: Duration = Duration::from_secs(60);

const TABLES_MYSQL: &str =
    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()";
const TABLES_SQLITE: &str =
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
/// By the primary key.
const ANY_CONVERSATION: &str = "SELECT 1 FROM conversations WHERE id > ? LIMIT 1";
/// One connection to a database can take it; it is free again when the connection ends.
const CLAIM_MYSQL: &str = "SELECT GET_LOCK(CONCAT(?, LEFT(SHA2(DATABASE(), 256), 32)), 0), \
     CAST(CONNECTION_ID() AS SIGNED), CAST(IS_USED_LOCK(CONCAT(?, LEFT(SHA2(DATABASE(), 256), 32))) AS SIGNED)";

/// What was seen in every database.
#[derive(Debug)]
pub struct Survey {
    /// The directory.
    pub directory: Look,
    /// The shards, in the order of the configuration.
    pub shards: Vec<Look>,
    /// Addresses that lead to the same database, of those that do not say which it is.
    pub(super) twins: Vec<(Role, Role)>,
}

/// What was seen in one database.
#[derive(Debug)]
pub struct Look {
    /// What its address stands for.
    pub role: Role,
    /// Its address.
    pub url: DatabaseUrl,
    /// What is in it, or why that is not known.
    pub found: Result<Found>,
}

/// What is in a database.
#[derive(Debug)]
pub struct Found {
    /// What it says it is.
    pub identity: Option<Identity>,
    /// What its schema lacks of this version.
    pub pending: Vec<&'static str>,
    /// The migrations of a later version that were applied to it.
    pub later: Vec<String>,
    /// A shard's fences.
    pub fences: Vec<Fence>,
    /// Of the directory: the ranges whose fences may be behind it, because a move is under way.
    pub(super) moving: Vec<KeyRange>,
    pub(super) kind: Kind,
    pub(super) entries: Option<Entries>,
}

/// What a database is by its tables and rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No table, or those of a deployment without any row that tells what it is.
    Empty,
    /// Tables, of which this is one, but none of a deployment.
    Foreign(String),
    /// A map.
    Directory,
    /// Fences, or conversations.
    Shard,
}

impl Survey {
    /// Looks into all databases, the shards all at once.
    pub async fn take(settings: &StoreSettings) -> Self {
        let shards = settings.shards.iter().map(|shard| {
            let role = Role::Shard(shard.name.clone());
            look(role, &shard.primary, &settings.pool)
        });
        let mut shards = join_all(shards).await;
        let directory = look(Role::Directory, &settings.directory.url, &settings.pool).await;
        let mut twins = Vec::new();
        let mut unmarked: Vec<&mut Opened> = shards
            .iter_mut()
            .filter(|opened| opened.is_unmarked())
            .collect();
        if unmarked.len() > 1 {
            twins = find_twins(&mut unmarked).await;
        }
        let mut looks = Vec::with_capacity(shards.len());
        for opened in shards {
            looks.push(opened.close().await);
        }
        Self {
            directory: directory.close().await,
            shards: looks,
            twins,
        }
    }

    /// The directory and the shards.
    pub fn looks(&self) -> impl Iterator<Item = &Look> {
        std::iter::once(&self.directory).chain(&self.shards)
    }

    /// Those that could not be looked into, as `shard db2 (mysql://…)`, and why.
    pub fn away(&self) -> impl Iterator<Item = (String, &Error)> {
        self.looks()
            .filter_map(|look| Some((look.name(), look.found.as_ref().err()?)))
    }

    /// Those that could not be looked into, for people; nothing when there are none.
    pub(super) fn cannot_use(&self) -> Option<String> {
        let line = |(database, error): (String, &Error)| format!("{database}: {error}");
        let lines: Vec<String> = self.away().map(line).collect();
        (!lines.is_empty()).then(|| format!("cannot use\n  {}", lines.join("\n  ")))
    }

    /// What the schemas lack, a line a database, without those of the `outsiders`.
    pub(super) fn lacking(&self, outsiders: &BTreeSet<ShardName>) -> Vec<String> {
        let belongs =
            |look: &&Look| !matches!(&look.role, Role::Shard(name) if outsiders.contains(name));
        let line = |look: &Look| {
            let pending = &look.found.as_ref().ok()?.pending;
            let lacks = || format!("{} lacks {}", look.name(), pending.join(", "));
            (!pending.is_empty()).then(lacks)
        };
        self.looks().filter(belongs).filter_map(line).collect()
    }

    /// The databases with migrations of a later version, a line each: those that this version can use if `usable`, and
    /// else those that it cannot.
    pub(super) fn later(&self, usable: bool) -> Vec<String> {
        let line = |look: &Look| {
            let later = &look.found.as_ref().ok()?.later;
            let is_usable = !later.iter().any(|name| schema::contracts(name));
            let has = || format!("{} has {}", look.name(), later.join(", "));
            (!later.is_empty() && is_usable == usable).then(has)
        };
        self.looks().filter_map(line).collect()
    }

    /// What was seen of a shard.
    #[must_use]
    pub fn shard(&self, name: &ShardName) -> Option<&Look> {
        let role = Role::Shard(name.clone());
        self.shards.iter().find(|look| look.role == role)
    }
}

impl Look {
    /// As `db2 (mysql://…)`, without the password.
    #[must_use]
    pub fn name(&self) -> String {
        let name = match &self.role {
            Role::Directory => "directory",
            Role::Shard(name) => name.as_str(),
        };
        format!("{name} ({})", self.url.redacted())
    }
}

impl Found {
    /// What is in a file that is not there.
    fn nothing(role: &Role, dialect: Dialect) -> Self {
        Self {
            identity: None,
            pending: schema::pending(Schema::of(role), dialect, &BTreeSet::new()),
            later: Vec::new(),
            fences: Vec::new(),
            moving: Vec::new(),
            kind: Kind::Empty,
            entries: None,
        }
    }
}

/// A database, and the connection through which it was looked into.
struct Opened {
    look: Look,
    connection: Option<Connection>,
    database: Option<Database>,
}

impl Opened {
    fn is_unmarked(&self) -> bool {
        matches!(&self.look.found, Ok(found) if found.identity.is_none())
    }

    async fn close(self) -> Look {
        drop(self.connection);
        if let Some(database) = self.database {
            database.close().await;
        }
        self.look
    }
}

async fn look(role: Role, url: &DatabaseUrl, pool: &PoolSettings) -> Opened {
    let mut opened = Opened {
        look: Look {
            role,
            url: url.clone(),
            found: Err(Error::DeadlineExceeded),
        },
        connection: None,
        database: None,
    };
    let looked = look_into(&mut opened, pool);
    let looked = tokio::time::timeout(PATIENCE, looked).await;
    opened.look.found = looked.unwrap_or(Err(Error::DeadlineExceeded));
    opened
}

async fn look_into(opened: &mut Opened, pool: &PoolSettings) -> Result<Found> {
    let (role, url) = (&opened.look.role, &opened.look.url);
    let dialect = Dialect::of(url)?;
    if url.file().is_some_and(|file| !file.exists()) {
        return Ok(Found::nothing(role, dialect));
    }
    let one = PoolSettings {
        max_connections: 1,
        ..pool.clone()
    };
    let database = opened.database.insert(Database::look_into(url, &one)?);
    let connection = database.reader(Instant::now() + PATIENCE).await?;
    let connection = opened.connection.insert(connection);
    inspect(role, connection).await
}

async fn inspect(role: &Role, connection: &mut Connection) -> Result<Found> {
    let dialect = connection.dialect();
    let tables = match dialect {
        Dialect::MySql => TABLES_MYSQL,
        Dialect::Sqlite => TABLES_SQLITE,
    };
    let rows = connection.fetch_all(tables, &[]).await?;
    let tables: BTreeSet<String> = rows.iter().map(|row| row.text(0)).collect::<Result<_>>()?;
    let applied = match tables.contains(schema::TABLE) {
        true => schema::applied(connection).await?,
        false => BTreeSet::new(),
    };
    let mut found = Found {
        pending: schema::pending(Schema::of(role), dialect, &applied),
        later: schema::later(Schema::of(role), dialect, &applied),
        ..Found::nothing(role, dialect)
    };
    let foreign = tables.first().filter(|_| !tables.contains(schema::TABLE));
    if let Some(table) = foreign {
        found.kind = Kind::Foreign(table.clone());
        return Ok(found);
    }
    if tables.contains("identity") {
        found.identity = connection.identity().await?;
    }
    if directory::TABLES
        .iter()
        .all(|table| tables.contains(*table))
    {
        let has_states = applied.contains(directory::SHARDS_STATE);
        let entries = directory::entries(connection, has_states).await?;
        if !entries.assignments.is_empty() {
            found.kind = Kind::Directory;
            found.entries = Some(entries);
        }
    }
    if tables.contains("moves") {
        found.moving = job::under_way(connection, JUST_NOW).await?;
    }
    if tables.contains("fences") {
        found.fences = fence::all(connection).await?;
    }
    let is_used = tables.contains("conversations")
        && connection
            .fetch_optional(ANY_CONVERSATION, &values![&[0u8; 16]])
            .await?
            .is_some();
    if is_used || !found.fences.is_empty() {
        found.kind = Kind::Shard;
    }
    Ok(found)
}

/// Which of these lead to one database. What says which database it is needs no such test.
async fn find_twins(opened: &mut [&mut Opened]) -> Vec<(Role, Role)> {
    // Only this survey knows the name of the lock, so who finds it taken has met itself.
    let nonce = format!("{:016x}", rand::random::<u64>());
    let mut places: Vec<(Place, Role)> = Vec::new();
    let mut twins = Vec::new();
    for one in opened {
        let Some(place) = place_of(one, &nonce).await else {
            continue;
        };
        let role = one.look.role.clone();
        if let Some((_, twin)) = places.iter().find(|(earlier, _)| place.is(earlier)) {
            twins.push((twin.clone(), role.clone()));
        }
        places.push((place, role));
    }
    twins
}

/// Where an address leads.
#[derive(Debug)]
enum Place {
    File(FileId),
    /// The number of the survey's connection, and of the one that was there first.
    Server(i64, i64),
}

impl Place {
    /// Whether it is the same as one that was looked at `earlier`.
    fn is(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::File(file), Self::File(other)) => file == other,
            (Self::Server(own, first), Self::Server(other, _)) => own != first && first == other,
            _ => false,
        }
    }
}

async fn place_of(opened: &mut Opened, nonce: &str) -> Option<Place> {
    if let Some(file) = file_of(&opened.look.url) {
        return Some(Place::File(file));
    }
    let connection = opened.connection.as_mut()?;
    // A cluster may refuse such locks: then two addresses of one database are found when the second is to be marked.
    let row = connection
        .fetch_optional(CLAIM_MYSQL, &values![nonce, nonce])
        .await
        .ok()??;
    Some(Place::Server(row.int(1).ok()?, row.opt_int(2).ok()??))
}

/// A file, by what the file system calls it; one that is not there, by its path.
#[derive(Debug, PartialEq, Eq)]
enum FileId {
    There(u64, u64),
    Missing(PathBuf),
}

fn file_of(url: &DatabaseUrl) -> Option<FileId> {
    let file = url.file()?;
    Some(match std::fs::metadata(file) {
        Ok(there) => FileId::There(there.dev(), there.ino()),
        Err(_) => FileId::Missing(full_path(file)),
    })
}

/// The path without links, as far as it exists.
fn full_path(file: &Path) -> PathBuf {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let mut missing = PathBuf::new();
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return real.join(missing);
        }
        let name = ancestor.file_name().unwrap_or_default();
        missing = Path::new(name).join(missing);
    }
    absolute
}
