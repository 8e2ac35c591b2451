//! Making a deployment, and marking the databases of one that was made by a version that marked none.
//!
//! The order, each step a transaction, and safe to die after:
//!
//! 1. the directory's identity and the first map, with every shard `joining`;
//! 2. on each shard, its identity and the fences of what the map gives it;
//! 3. every shard is `joined`.
//!
//! Before 1 there is nothing but empty tables. Between 1 and 3 the directory says which shards are still to be made, so
//! that their empty databases are no mistake; nothing is served, and the next [`crate::migrate`] goes on. From 3 on a
//! database that is not marked is refused, and no fence is opened any more (INV-OWNER). A deployment of an older version
//! goes the same way, but for the fences, which it has.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::db::identity::{DeploymentId, Identity, Role};
use crate::db::{Connection, Database};
use crate::directory::{self, Member, MemberState};
use crate::error::{Error, Result, StatementFault};
use crate::fence;
use crate::ids::ShardName;
use crate::map::ShardMap;
use crate::settings::{DatabaseUrl, StoreSettings};
use crate::transaction::back_off;

/// How long a transaction here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a transaction here is run again after contention.
const RETRIES: u32 = 10;

/// The steps between which the making of a deployment may die; tests make it do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The directory has its tables.
    DirectoryMigrated,
    /// The directory has its identity and the map.
    DirectoryMarked,
    /// A shard has its tables.
    ShardMigrated,
    /// A shard has its identity and its fences.
    ShardMarked,
    /// Every shard is part of the deployment.
    Joined,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::DirectoryMigrated,
        Self::DirectoryMarked,
        Self::ShardMigrated,
        Self::ShardMarked,
        Self::Joined,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DirectoryMigrated => "directory-migrated",
            Self::DirectoryMarked => "directory-marked",
            Self::ShardMigrated => "shard-migrated",
            Self::ShardMarked => "shard-marked",
            Self::Joined => "joined",
        }
    }
}

/// Is told of every step that is done; its error ends the making there, as a crash would.
pub type Hook<'a> = &'a (dyn Fn(Step) -> Result<()> + Send + Sync);

/// A deployment that is being made, as its directory has it.
pub(crate) struct Making {
    deployment: DeploymentId,
    map: ShardMap,
    members: BTreeMap<ShardName, Member>,
}

impl Making {
    /// Marks the directory, and writes the first map, unless that is done.
    ///
    /// # Errors
    /// When the database fails; [`Error::WrongDatabase`] when it was marked as another one meanwhile.
    pub(crate) async fn begin(
        connection: &mut Connection,
        settings: &StoreSettings,
    ) -> Result<Self> {
        in_transaction(connection, async |connection| {
            directory::lock(connection, settings).await?;
            let deployment = match connection.identity().await? {
                Some(identity) => {
                    let expected = Identity::of_directory(identity.deployment);
                    expected.require(Some(&identity), &settings.directory.url)?;
                    identity.deployment
                }
                None => {
                    let deployment = DeploymentId(rand::random());
                    mark(connection, &Identity::of_directory(deployment)).await?;
                    deployment
                }
            };
            directory::write_first_map(connection, settings).await?;
            let entries = directory::entries(connection, true).await?;
            Ok(Self {
                deployment,
                map: entries.map()?,
                members: entries.members,
            })
        })
        .await
    }

    /// The deployment's id.
    pub(crate) fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// Marks a shard's database, and opens its first fences, unless that is done.
    ///
    /// # Errors
    /// When the database fails; [`Error::WrongDatabase`] when it was marked as another one meanwhile.
    pub(crate) async fn mark(
        &self,
        connection: &mut Connection,
        shard: &ShardName,
        url: &DatabaseUrl,
    ) -> Result<()> {
        let joins = self
            .members
            .get(shard)
            .filter(|it| it.state != MemberState::Joined);
        let Some(member) = joins else {
            return Ok(());
        };
        let expected = Identity {
            deployment: self.deployment,
            role: Role::Shard(shard.clone()),
            incarnation: member.incarnation,
        };
        let marked = in_transaction(connection, async |connection| {
            if connection.identity().await?.is_some() {
                return Ok(());
            }
            mark(connection, &expected).await?;
            if member.state == MemberState::Joining {
                let owned: Vec<_> = self.map.ranges_of(shard).collect();
                fence::open(connection, &owned).await?;
            }
            Ok(())
        });
        match marked.await {
            // Another process was sooner.
            Err(Error::Statement {
                fault: StatementFault::UniqueKey,
                ..
            }) => {}
            outcome => outcome?,
        }
        let found = connection.identity().await?;
        Ok(expected.require(found.as_ref(), url)?)
    }

    /// Says that all shards are part of the deployment.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn finish(
        &self,
        connection: &mut Connection,
        settings: &StoreSettings,
    ) -> Result<()> {
        in_transaction(connection, async |connection| {
            directory::lock(connection, settings).await?;
            let stored = directory::entries(connection, true).await?.members;
            for shard in &settings.shards {
                let (marked, stored) = (self.members.get(&shard.name), stored.get(&shard.name));
                let Some(member) = marked.filter(|marked| Some(*marked) == stored) else {
                    continue; // another process was sooner
                };
                let joined = Member {
                    state: MemberState::Joined,
                    ..*member
                };
                directory::set_member(connection, &shard.name, joined).await?;
            }
            Ok(())
        })
        .await
    }
}

/// A write transaction: committed when `work` succeeds, else undone. It is run again where another process, which makes the
/// same deployment, was in its way.
pub(crate) async fn in_transaction<T>(
    connection: &mut Connection,
    work: impl AsyncFn(&mut Connection) -> Result<T>,
) -> Result<T> {
    let mut retries = 0;
    loop {
        match attempt(connection, &work).await {
            Err(Error::Contention(_)) if retries < RETRIES => {
                tokio::time::sleep(back_off(retries)).await;
                retries += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn attempt<T>(
    connection: &mut Connection,
    work: &impl AsyncFn(&mut Connection) -> Result<T>,
) -> Result<T> {
    connection.begin().await?;
    match work(connection).await {
        Ok(value) => connection.commit().await.map(|()| value),
        Err(error) => {
            connection.rollback().await;
            Err(error)
        }
    }
}

/// A connection to a database that is being made or adopted.
pub(crate) async fn writer(database: &Database) -> Result<Connection> {
    database.writer(Instant::now() + PATIENCE).await
}

const INSERT: &str = "INSERT INTO identity (slot, deployment, role, shard, incarnation, since) VALUES (1, ?, ?, ?, ?, {now})";
const REPLACE: &str = " {on_duplicate slot} deployment = {new deployment}, role = {new role}, shard = {new shard}, \
     incarnation = {new incarnation}, since = {new since}";

/// In a write transaction: marks a database that is not marked yet.
pub(super) async fn mark(connection: &mut Connection, identity: &Identity) -> Result<()> {
    connection.execute(INSERT, &identity.columns()).await?;
    Ok(())
}

/// In a write transaction: marks a database, whatever it was before.
pub(super) async fn mark_anew(connection: &mut Connection, identity: &Identity) -> Result<()> {
    let statement = format!("{INSERT}{REPLACE}");
    connection.execute(&statement, &identity.columns()).await?;
    Ok(())
}
