//! The rev of each user over the entries of their list: one number says which of them changed.

use std::collections::HashMap;

use crate::db::{Row, Value, in_rows, list_size, padded, rows_of, values};
use crate::error::Result;
use crate::ids::{Rev, UserId, UserKey};
use crate::owned::{OwnedReader, OwnedTransaction};

/// Takes revs for a user, and with them the row's lock: two relays of one user's entries come one after the other.
const BUMP_USERS: &str = "INSERT INTO users (user_key, user_id, rev) VALUES ";
const BUMP_USERS_UPDATE: &str = " {on_duplicate user_key, user_id} rev = rev + {new rev}";
const USER_REVS: &str = "SELECT user_id, rev FROM users {by PRIMARY} WHERE ";

/// In a write transaction: adds to each user's rev, and locks it; gives the revs before that.
///
/// # Errors
/// When the database fails.
pub(crate) async fn add(
    transaction: &mut OwnedTransaction<'_>,
    users: &HashMap<&UserId, (UserKey, i64)>,
) -> Result<HashMap<String, i64>> {
    transaction.require_users(users.keys().copied())?;
    let mut users: Vec<([u8; 8], &UserId, i64)> = users
        .iter()
        .map(|(user, (key, n))| (key.to_bytes(), *user, *n))
        .collect();
    users.sort_unstable(); // every relay locks users in the same order
    let mut args: Vec<Value<'_>> = users
        .iter()
        .flat_map(|(key, user, n)| values![key, *user, *n])
        .collect();
    let rows = list_size(users.len());
    if let Some((key, user, _)) = users.last() {
        for _ in users.len()..rows {
            args.extend(values![key, *user, 0]); // takes no rev
        }
    }
    transaction
        .execute(
            &format!("{BUMP_USERS}{}{BUMP_USERS_UPDATE}", rows_of(rows, 3)),
            &args,
        )
        .await?;
    let keyed: Vec<([u8; 8], &UserId)> = users.iter().map(|(key, user, _)| (*key, *user)).collect();
    let taken: HashMap<&str, i64> = users
        .iter()
        .map(|(_, user, n)| (user.as_str(), *n))
        .collect();
    let rows = rows_of_users(transaction, USER_REVS, &keyed).await?;
    rows.iter()
        .map(|row| {
            let user = row.user(0)?;
            let before = row.int(1)? - taken.get(user.as_str()).copied().unwrap_or(0);
            Ok((user.as_str().to_owned(), before))
        })
        .collect()
}

/// The revs of users; a user without list entries has none.
///
/// # Errors
/// When the database fails.
pub async fn of(
    rows: &mut OwnedReader<'_>,
    users: &[(UserKey, &UserId)],
) -> Result<Vec<(UserId, Rev)>> {
    let keyed: Vec<([u8; 8], &UserId)> = users
        .iter()
        .map(|(key, user)| (key.to_bytes(), *user))
        .collect();
    let found = rows_of_users(rows, USER_REVS, &keyed).await?;
    found
        .iter()
        .map(|row| Ok((row.user(0)?, Rev::from_i64(row.int(1)?))))
        .collect()
}

/// The rows of some users that `select`, which ends with `WHERE `, finds by the primary key `(user_key, user_id)`.
///
/// # Errors
/// When the database fails.
pub(crate) async fn rows_of_users(
    rows: &mut OwnedReader<'_>,
    select: &str,
    users: &[([u8; 8], &UserId)],
) -> Result<Vec<Row>> {
    let args: Vec<Value<'_>> = padded(users)
        .flat_map(|(key, user)| values![key, *user])
        .collect();
    let condition = in_rows(["user_key", "user_id"], args.len() / 2);
    rows.fetch_all(&format!("{select}{condition}"), &args).await
}
