//! Which server of a cluster writes a shard (INV-OWNER).
//!
//! Galera, and Group Replication with several primaries, take writes on every server, and compare what two transactions wrote but
//! not what they read. A transaction that locked its fence on one server is therefore not held up by a move that changes the fence on
//! another one. So one server writes a shard, and its name stands in the table `writer`:
//!
//! | by | when |
//! |---|---|
//! | `migrate`, `shards add` | the server is one of a Galera cluster, and no name is there |
//! | `shards adopt` | always: what a backup says of another cluster is forgotten |
//! | `shards writer` | the operator says so, after that server was lost |
//!
//! Every connection asks before it is handed out ([`crate::db`]), and every write transaction with its fence
//! ([`crate::fence`]): what is open on another server writes nothing from the moment on at which the name has reached that server.
//! There the change also ends the transactions that hold the row, as any row that comes from elsewhere does.
//!
//! A database without a name may be written by any server that has it: one that stands alone, or with read-only replicas.
//! Where several primaries take writes, no deployment is made.

use serde::Serialize;

use super::making::{self, in_transaction};
use crate::archive::{begin_job, end_job};
use crate::db::{Connection, Database, Dialect};
use crate::error::{Error, Result};
use crate::ids::ShardName;
use crate::settings::{DatabaseUrl, StoreSettings};

/// Whether a server takes writes in a Galera cluster. Servers without Galera have no such variable.
const IS_GALERA: &str = "SELECT CAST(@@wsrep_on AS SIGNED)";
/// Whether one member of a group takes writes. Servers without Group Replication have no such variable.
const HAS_ONE_PRIMARY: &str = "SELECT CAST(@@group_replication_single_primary_mode AS SIGNED)";
/// One row.
const THIS_SERVER: &str = "SELECT {this_server}";
/// By the primary key.
const WRITER: &str = "SELECT server FROM writer WHERE slot = 1";
const LOCK_WRITER: &str = "SELECT server FROM writer WHERE slot = 1 {for_update}";
const SET: &str = "INSERT INTO writer (slot, server, since) VALUES (1, {this_server}, {now}) \
     {on_duplicate slot} server = {new server}, since = {new since}";
const CLEAR: &str = "DELETE FROM writer WHERE slot = 1";

const MULTI_PRIMARY: &str = "all members of the database's group take writes (multi-primary), so two shards could own a key; switch \
     the group to one primary: SELECT group_replication_switch_to_single_primary_mode()";

/// What `shards writer` did, or with a dry run would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The shard.
    pub shard: ShardName,
    /// The database's address, without the password.
    pub address: String,
    /// The server that alone might write until then; none where any might.
    pub was: Option<String>,
    /// The server that alone may write from now on: the one that the address leads to. None where any may.
    pub writer: Option<String>,
}

/// Which server may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The one that the shard's address leads to.
    This,
    /// Any that has the database, which is in no cluster any more.
    Any,
}

/// What [`change`] would do. Changes nothing.
///
/// # Errors
/// As [`change`].
pub async fn plan(settings: &StoreSettings, shard: &ShardName, allowed: Allowed) -> Result<Change> {
    let database = own_database(settings, shard).await?;
    let look = async {
        let mut connection = making::writer(&database).await?;
        let was = name(&mut connection, WRITER).await?;
        let writer = allowed_server(&mut connection, allowed).await?;
        Ok((was, writer))
    };
    let looked: Result<_> = look.await;
    database.close().await;
    let (was, writer) = looked?;
    Change::new(settings, shard, was, writer)
}

/// Says which server may write `shard`. Connections to another one are refused from then on, and what is open there writes
/// nothing more.
///
/// # Errors
/// What [`super::find`] says where a database is not the one that its address stands for; [`Error::NotFound`] for a shard that is
/// not part of the deployment; [`Error::Unprepared`] where several primaries take writes; when the database fails.
pub async fn change(
    settings: &StoreSettings,
    shard: &ShardName,
    allowed: Allowed,
    (actor, reason): (&str, &str),
) -> Result<Change> {
    let database = own_database(settings, shard).await?;
    let work = async {
        let mut connection = making::writer(&database).await?;
        require_one_primary(&mut connection).await?;
        in_transaction(&mut connection, async |connection| {
            let was = name(connection, LOCK_WRITER).await?;
            let statement = match allowed {
                Allowed::This => SET,
                Allowed::Any => CLEAR,
            };
            connection.execute(statement, &[]).await?;
            let writer = name(connection, WRITER).await?;
            let job = begin_job(connection, ("writer", actor, reason)).await?;
            let figures = serde_json::json!({ "was": was, "writer": writer }).to_string();
            end_job(connection, &job, ("done", &figures)).await?;
            Ok((was, writer))
        })
        .await
    };
    let worked = work.await;
    database.close().await;
    let (was, writer) = worked?;
    Change::new(settings, shard, was, writer)
}

impl Change {
    fn new(
        settings: &StoreSettings,
        shard: &ShardName,
        was: Option<String>,
        writer: Option<String>,
    ) -> Result<Self> {
        Ok(Self {
            shard: shard.clone(),
            address: address(settings, shard)?.redacted(),
            was,
            writer,
        })
    }
}

/// The database that the configuration names for a shard of the deployment, whichever server of a cluster it leads to.
async fn own_database(settings: &StoreSettings, shard: &ShardName) -> Result<Database> {
    let deployed = super::find(settings).await?;
    let expected = deployed.shard(shard);
    let expected = expected.ok_or(Error::NotFound("shard of this deployment"))?;
    let url = address(settings, shard)?;
    let database = Database::open_any(url, &settings.pool)?;
    let look = async { making::writer(&database).await?.identity().await };
    let looked = look.await.and_then(|found| {
        expected.require(found.as_ref(), url)?;
        Ok(())
    });
    if let Err(error) = looked {
        database.close().await;
        return Err(error);
    }
    Ok(database)
}

fn address<'a>(settings: &'a StoreSettings, shard: &ShardName) -> Result<&'a DatabaseUrl> {
    let configured = settings.shards.iter().find(|it| it.name == *shard);
    let configured = configured.ok_or(Error::NotFound("shard in the configuration"))?;
    Ok(&configured.primary)
}

/// After the tables of a shard were made, before it gets fences: where the server is one of a Galera cluster, it is the one
/// that writes, unless another one is already.
///
/// # Errors
/// [`Error::Unprepared`] where several primaries take writes; when the database fails.
pub(crate) async fn claim(database: &Database) -> Result<()> {
    if database.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    let mut connection = making::writer(database).await?;
    require_one_primary(&mut connection).await?;
    in_transaction(&mut connection, async |connection| {
        match name(connection, LOCK_WRITER).await? {
            None if is_galera(connection).await => connection.execute(SET, &[]).await.map(drop),
            _ => Ok(()),
        }
    })
    .await
}

/// In a write transaction on a database that becomes a shard's: what it says of the writer is of another time.
///
/// # Errors
/// When the database fails.
pub(super) async fn reset(connection: &mut Connection) -> Result<()> {
    connection.execute(CLEAR, &[]).await?;
    match is_galera(connection).await {
        true => connection.execute(SET, &[]).await.map(drop),
        false => Ok(()),
    }
}

/// The server that alone may write, and the one that answers, as far as a shard's database says them.
///
/// # Errors
/// When the database fails, or has no such table.
pub async fn look(connection: &mut Connection) -> Result<(Option<String>, String)> {
    let writer = name(connection, WRITER).await?;
    let this = name(connection, THIS_SERVER).await?;
    Ok((writer, this.unwrap_or_default()))
}

async fn allowed_server(connection: &mut Connection, allowed: Allowed) -> Result<Option<String>> {
    match allowed {
        Allowed::This => name(connection, THIS_SERVER).await,
        Allowed::Any => Ok(None),
    }
}

async fn name(connection: &mut Connection, statement: &str) -> Result<Option<String>> {
    let row = connection.fetch_optional(statement, &[]).await?;
    row.map(|row| row.text(0)).transpose()
}

/// Whether the server takes writes in a Galera cluster.
async fn is_galera(connection: &mut Connection) -> bool {
    variable(connection, IS_GALERA).await == Some(1)
}

async fn require_one_primary(connection: &mut Connection) -> Result<()> {
    match variable(connection, HAS_ONE_PRIMARY).await {
        Some(0) => Err(Error::Unprepared(MULTI_PRIMARY.into())),
        _ => Ok(()),
    }
}

/// The value of a variable that not every server has.
async fn variable(connection: &mut Connection, statement: &str) -> Option<i64> {
    let row = connection.fetch_optional(statement, &[]).await.ok()??;
    row.int(0).ok()
}
