//! Marks: what was written to while its range is being moved away.
//!
//! A write transaction that finds its fence `moving` marks the entities that it touches, so mark and change are committed
//! together. The mover reads a mark, then copies the entity, then clears the mark if it still has the same token: a change
//! that was committed in between has set another one. A crash leaves the mark, and the entity is copied again, which changes
//! nothing.

use super::tables::Owner;
use crate::db::{
    Connection, Dialect, Row, Statement, Value, list_size, padded, placeholders, rows_of, values,
};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, UserId, UserKey};
use crate::owned::Entity;
use crate::range::KeyRange;

/// Most marks that one statement clears.
const CLEARED_AT_ONCE: usize = 64;

const MARK: &str = "INSERT INTO move_marks (kind, entity, token) VALUES ";
const MARK_AGAIN: &str = " {on_duplicate kind, entity} token = {new token}";
/// By the primary key.
const NEXT: &str = "SELECT entity, token FROM move_marks WHERE kind = ? AND entity >= ? AND entity < ? ORDER BY entity LIMIT ?";
/// The same where the range has no end: no entity is that long and that great.
const END: [u8; 80] = [u8::MAX; 80];
/// By the primary key.
const ONE: &str = "SELECT token FROM move_marks WHERE kind = ? AND entity = ?";
/// By the primary key; at most as many as are counted for an estimate.
const COUNT: &str = "SELECT COUNT(*) FROM (SELECT token FROM move_marks WHERE kind = ? AND entity >= ? AND entity < ? LIMIT ?) marks";
/// By the primary key; the entities are named beside the pairs, since not every version looks for pairs by an index.
const CLEAR: &str = " move_marks WHERE kind = ? AND entity IN (";
/// By the primary key.
const DROP: &str = "DELETE FROM move_marks WHERE kind = ? AND entity IN (";

/// A mark as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) entity: Entity,
    pub(crate) token: i64,
}

impl Mark {
    fn from_row(owner: Owner, row: &Row) -> Result<Self> {
        Ok(Self {
            entity: entity(owner, &row.bytes(0)?)?,
            token: row.int(1)?,
        })
    }
}

fn kind(owner: Owner) -> i64 {
    match owner {
        Owner::Conversation => 1,
        Owner::User => 2,
    }
}

fn stored(entity: &Entity) -> Vec<u8> {
    match entity {
        Entity::Conversation(id) => id.as_bytes().to_vec(),
        Entity::User(key, id) => [&key.to_bytes()[..], id.as_str().as_bytes()].concat(),
    }
}

fn entity(owner: Owner, bytes: &[u8]) -> Result<Entity> {
    let corrupt = || Error::corrupt("the entity of a mark");
    match owner {
        Owner::Conversation => ConversationId::from_bytes(bytes)
            .map(Entity::Conversation)
            .ok_or_else(corrupt),
        Owner::User => {
            let (key, id) = bytes.split_at_checked(8).ok_or_else(corrupt)?;
            let key = UserKey::from_bytes(key).ok_or_else(corrupt)?;
            let id = String::from_utf8(id.to_vec()).map_err(|_| corrupt())?;
            Ok(Entity::User(key, UserId::new(id).map_err(|_| corrupt())?))
        }
    }
}

/// In a write transaction, before its commit: marks what it touched. Everybody marks in the same order.
///
/// # Errors
/// When the database fails.
pub(crate) async fn mark(connection: &mut Connection, entities: &[Entity]) -> Result<()> {
    let mut rows: Vec<(i64, Vec<u8>, i64)> = entities
        .iter()
        .map(|it| (kind(it.owner()), stored(it), rand::random()))
        .collect();
    rows.sort_unstable();
    rows.dedup_by(|one, other| (one.0, &one.1) == (other.0, &other.1));
    if rows.is_empty() {
        return Ok(());
    }
    let args: Vec<Value<'_>> = padded(&rows)
        .flat_map(|(kind, entity, token)| values![*kind, entity.as_slice(), *token])
        .collect();
    let rows = rows_of(args.len() / 3, 3);
    let statement = format!("{MARK}{rows}{MARK_AGAIN}");
    connection.execute(&statement, &args).await.map(drop)
}

fn bounds(range: KeyRange) -> ([u8; 8], Vec<u8>) {
    let end = range
        .end
        .map_or(END.to_vec(), |end| end.to_be_bytes().to_vec());
    (range.start.to_be_bytes(), end)
}

/// The first `limit` marks of one kind in a range, or the first after an entity.
///
/// # Errors
/// When the database fails.
pub(crate) async fn next(
    connection: &mut Connection,
    (range, owner): (KeyRange, Owner),
    after: Option<&Entity>,
    limit: usize,
) -> Result<Vec<Mark>> {
    let (start, end) = bounds(range);
    // No bytes are between an entity's and these.
    let start = after.map_or(start.to_vec(), |it| [stored(it), vec![0]].concat());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let args = values![kind(owner), start.as_slice(), end.as_slice(), limit];
    let rows = connection.fetch_all(NEXT, &args).await?;
    rows.iter().map(|row| Mark::from_row(owner, row)).collect()
}

/// The first `limit` marks of a range, those of conversations before those of users; both kinds in one round trip.
///
/// # Errors
/// When the database fails.
pub(crate) async fn first(
    connection: &mut Connection,
    range: KeyRange,
    limit: usize,
) -> Result<Vec<Mark>> {
    let (start, end) = bounds(range);
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let owners = [Owner::Conversation, Owner::User];
    let statements = owners.map(|owner| {
        Statement::new(
            NEXT,
            values![kind(owner), start.as_slice(), end.as_slice(), most],
        )
    });
    let answers = connection.run_all(&statements).await?;
    let mut found = Vec::new();
    for (owner, answer) in owners.into_iter().zip(&answers) {
        for row in &answer.rows {
            found.push(Mark::from_row(owner, row)?);
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// How many marks a range has, counted up to `most` of each kind.
///
/// # Errors
/// When the database fails.
pub(crate) async fn count(connection: &mut Connection, range: KeyRange, most: u64) -> Result<u64> {
    let (start, end) = bounds(range);
    let mut all = 0;
    for owner in [Owner::Conversation, Owner::User] {
        let args = values![kind(owner), &start, end.as_slice(), most.cast_signed()];
        let row = connection.fetch_optional(COUNT, &args).await?;
        let row = row.ok_or(Error::Unexpected("a COUNT gave no row"))?;
        all += row.int(0)?.cast_unsigned();
    }
    Ok(all)
}

/// Whether an entity is marked.
///
/// # Errors
/// When the database fails.
pub(crate) async fn is_marked(connection: &mut Connection, entity: &Entity) -> Result<bool> {
    let stored = stored(entity);
    let args = values![kind(entity.owner()), stored.as_slice()];
    Ok(connection.fetch_optional(ONE, &args).await?.is_some())
}

/// In a write transaction: clears the marks of entities that are copied, but those that were set again.
///
/// # Errors
/// When the database fails.
pub(crate) async fn clear(connection: &mut Connection, marks: &[Mark]) -> Result<()> {
    for owner in [Owner::Conversation, Owner::User] {
        let of_kind = marks.iter().filter(|mark| mark.entity.owner() == owner);
        let pairs: Vec<(Vec<u8>, i64)> = of_kind
            .map(|mark| (stored(&mark.entity), mark.token))
            .collect();
        for pairs in pairs.chunks(CLEARED_AT_ONCE) {
            clear_some(connection, owner, pairs).await?;
        }
    }
    Ok(())
}

async fn clear_some(
    connection: &mut Connection,
    owner: Owner,
    pairs: &[(Vec<u8>, i64)],
) -> Result<()> {
    let from = match connection.dialect() {
        Dialect::MySql => "DELETE move_marks FROM",
        Dialect::Sqlite => "DELETE FROM",
    };
    let n = list_size(pairs.len());
    let (entities, rows) = (placeholders(n), rows_of(n, 2));
    let statement = format!("{from}{CLEAR}{entities}) AND (entity, token) IN ({{rows}}{rows})");
    let mut args = values![kind(owner)].to_vec();
    args.extend(padded(pairs).map(|(entity, _)| Value::Bytes(entity)));
    args.extend(padded(pairs).flat_map(|(entity, token)| values![entity.as_slice(), *token]));
    connection.execute(&statement, &args).await.map(drop)
}

/// In a write transaction on a range that no move changes any more: drops some of its marks; `false` when there are none left.
///
/// # Errors
/// When the database fails.
pub(crate) async fn drop_some(connection: &mut Connection, range: KeyRange) -> Result<bool> {
    let mut dropped = false;
    for owner in [Owner::Conversation, Owner::User] {
        let marks = next(connection, (range, owner), None, CLEARED_AT_ONCE).await?;
        if marks.is_empty() {
            continue;
        }
        let entities: Vec<Vec<u8>> = marks.iter().map(|mark| stored(&mark.entity)).collect();
        let mut args = values![kind(owner)].to_vec();
        args.extend(entities.iter().map(|it| Value::Bytes(it)));
        let statement = format!("{DROP}{})", placeholders(entities.len()));
        connection.execute(&statement, &args).await?;
        dropped = true;
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::db::Database;
    use crate::identity::Role;
    use crate::identity::making::in_transaction;
    use crate::ids::ShardName;
    use crate::migrate;
    use crate::settings::{DatabaseUrl, PoolSettings};

    async fn read_and_clear(url: DatabaseUrl) {
        let role = Role::Shard(ShardName::new("s1").unwrap());
        migrate::migrate(&role, &url).await.unwrap();
        let database = Database::open_any(&url, &PoolSettings::default()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut connection = database.writer(deadline).await.unwrap();
        let all = KeyRange::ALL;
        let mut entities: Vec<Entity> = (0..150)
            .map(|n| Entity::Conversation(ConversationId::new(UserKey(n * 3), n)))
            .collect();
        let user = |name: &str| Entity::User(UserKey(9), UserId::new(name).unwrap());
        entities.extend(["a", "aa", "b"].map(user));
        in_transaction(&mut connection, async |it| mark(it, &entities).await)
            .await
            .unwrap();

        let mut found: Vec<Mark> = Vec::new();
        for owner in [Owner::Conversation, Owner::User] {
            let mut after = None;
            loop {
                let some = next(&mut connection, (all, owner), after.as_ref(), 2).await;
                let some = some.unwrap();
                let Some(last) = some.last() else { break };
                after = Some(last.entity.clone());
                found.extend(some);
            }
        }
        let seen: Vec<Entity> = found.iter().map(|it| it.entity.clone()).collect();
        assert_eq!(seen, entities, "in order, each once");

        // One was marked again meanwhile: its mark stays.
        let again = &entities[100..101];
        in_transaction(&mut connection, async |it| mark(it, again).await)
            .await
            .unwrap();
        in_transaction(&mut connection, async |it| clear(it, &found).await)
            .await
            .unwrap();
        assert_eq!(count(&mut connection, all, 1000).await.unwrap(), 1);
        assert!(is_marked(&mut connection, &again[0]).await.unwrap());
        drop(connection);
        database.close().await;
    }

    #[tokio::test]
    async fn marks_are_read_in_pages_and_cleared_together_on_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shard.db");
        read_and_clear(DatabaseUrl(format!("sqlite://{}", file.display()))).await;
    }

    #[tokio::test]
    async fn marks_are_read_in_pages_and_cleared_together_on_server() {
        let databases = backscroll_testkit::TestDatabases::create(1).await;
        read_and_clear(DatabaseUrl(databases.urls().remove(0))).await;
        databases.drop_all().await;
    }
}
