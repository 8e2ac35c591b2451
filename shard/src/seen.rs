//! When users were connected last, on their own shards. It only moves forward, except from a time that is still to come,
//! which a node with a wrong clock has left.

use crate::clock;
use crate::db::{Value, padded, rows_of, values};
use crate::error::Result;
use crate::ids::{UserId, UserKey};
use crate::model::Timestamp;
use crate::owned::{OwnedReader, OwnedTransaction};
use crate::user_revs;

const SAVE: &str = "INSERT INTO last_seen (user_key, user_id, at) VALUES ";
const SAVE_UPDATE: &str = " {on_duplicate user_key, user_id} at = {greatest}(CASE WHEN at > {now} + ? THEN 0 ELSE at END, {new at})";
/// By the primary key.
const SELECT: &str = "SELECT user_id, at FROM last_seen {by PRIMARY} WHERE ";

/// In a write transaction: users (no two alike) were seen.
///
/// # Errors
/// When the database fails.
pub async fn save(
    transaction: &mut OwnedTransaction<'_>,
    seen: &[(UserKey, &UserId, Timestamp)],
) -> Result<()> {
    transaction.require_users(seen.iter().map(|(_, user, _)| *user))?;
    let mut keyed: Vec<([u8; 8], &UserId, i64)> = seen
        .iter()
        .map(|(key, user, at)| (key.to_bytes(), *user, at.0))
        .collect();
    keyed.sort_unstable(); // everybody locks in the same order
    let mut args: Vec<Value<'_>> = padded(&keyed)
        .flat_map(|(key, user, at)| values![key, *user, *at])
        .collect();
    let rows = rows_of(args.len() / 3, 3);
    args.push(clock::tolerance_millis().into());
    transaction
        .execute(&format!("{SAVE}{rows}{SAVE_UPDATE}"), &args)
        .await?;
    Ok(())
}

/// When users were seen last; users that never were are absent.
///
/// # Errors
/// When the database fails.
pub async fn of(
    rows: &mut OwnedReader<'_>,
    users: &[(UserKey, &UserId)],
) -> Result<Vec<(UserId, Timestamp)>> {
    let keyed: Vec<([u8; 8], &UserId)> = users
        .iter()
        .map(|(key, user)| (key.to_bytes(), *user))
        .collect();
    let found = user_revs::rows_of_users(rows, SELECT, &keyed).await?;
    let now = Timestamp::now();
    found
        .iter()
        .map(|row| Ok((row.user(0)?, clock::believed(Timestamp(row.int(1)?), now))))
        .collect()
}
