//! The rows of sanctions in the directory.

use super::{NewSanction, OF_USER_MAX, Sanction, SanctionKind};
use crate::db::{Connection, Row, values};
use crate::directory;
use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::model::Timestamp;

/// How many changes are read at once.
pub(super) const CHANGES_AT_ONCE: usize = 500;

/// The row of the directory's properties that changes of sanctions lock.
const LOCK: &str = "sanctions";
/// By the key on `rev`.
const LAST_REV: &str = "SELECT COALESCE(MAX(rev), 0) FROM sanctions";
const INSERT: &str = "INSERT INTO sanctions (id, rev, user_id, kind, ends_at, reason, imposed_by, imposed_at) \
     VALUES (?, ?, ?, ?, ?, ?, ?, {now})";
const LIFT: &str = "UPDATE sanctions SET rev = ?, lifted_by = ?, lifted_at = {now} WHERE id = ?";
/// By the key on `(user_id, id)`.
const IN_FORCE: &str = "SELECT id, kind FROM sanctions \
     WHERE user_id = ? AND lifted_at IS NULL AND (ends_at IS NULL OR ends_at > {now}) ORDER BY id";

macro_rules! columns {
    () => {
        "SELECT rev, id, user_id, kind, ends_at, reason, imposed_by, imposed_at, lifted_by, lifted_at FROM sanctions"
    };
}
/// By the key on `rev`.
const CHANGES: &str = concat!(columns!(), " WHERE rev > ? ORDER BY rev LIMIT ?");
/// By the key on `rev`.
const OF_REV: &str = concat!(columns!(), " WHERE rev = ?");
/// By the key on `(user_id, id)`.
const OF_USER: &str = concat!(columns!(), " WHERE user_id = ? ORDER BY id DESC LIMIT ?");

/// A sanction after a change.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) rev: i64,
    pub(super) id: i64,
    pub(super) sanction: Sanction,
}

/// In a write transaction: imposes a sanction.
pub(super) async fn impose(
    connection: &mut Connection,
    (moderator, user): (&UserId, &UserId),
    new: &NewSanction,
) -> Result<Sanction> {
    if new.kind == SanctionKind::Revoke {
        // The newest says all.
        lift(connection, (moderator, user), Some(new.kind)).await?;
    }
    let rev = next_rev(connection).await?;
    if in_force(connection, user).await?.len() >= OF_USER_MAX {
        return Err(Error::LimitReached {
            what: "sanctions of one user that are in force",
            max: OF_USER_MAX as u64,
        });
    }
    let until = new.until.map(|until| until.0);
    let (kind, reason) = (new.kind.name(), new.reason.as_str());
    let args = values![rev, rev, user, kind, until, reason, moderator];
    connection.execute(INSERT, &args).await?;
    of_rev(connection, rev).await
}

/// In a write transaction: lifts the sanctions of a user that are in force, those of `kind` or all.
pub(super) async fn lift(
    connection: &mut Connection,
    (moderator, user): (&UserId, &UserId),
    kind: Option<SanctionKind>,
) -> Result<Vec<Sanction>> {
    let mut rev = next_rev(connection).await?;
    let mut lifted = Vec::new();
    for (id, its_kind) in in_force(connection, user).await? {
        if kind.is_none_or(|kind| kind == its_kind) {
            connection
                .execute(LIFT, &values![rev, moderator, id])
                .await?;
            lifted.push(of_rev(connection, rev).await?);
            rev += 1;
        }
    }
    Ok(lifted)
}

/// Keeps all other changes waiting, and says which rev is the next.
async fn next_rev(connection: &mut Connection) -> Result<i64> {
    directory::lock_property(connection, LOCK).await?;
    let row = connection.fetch_optional(LAST_REV, &[]).await?;
    let last = row.map_or(Ok(0), |row| row.int(0))?;
    Ok(last + 1)
}

/// Which sanctions of a user are in force, and of which kinds.
async fn in_force(connection: &mut Connection, user: &UserId) -> Result<Vec<(i64, SanctionKind)>> {
    let rows = connection.fetch_all(IN_FORCE, &values![user]).await?;
    let read = |row: &Row| {
        let mut columns = row.columns();
        Ok((columns.int()?, kind_of(&columns.text()?)?))
    };
    rows.iter().map(read).collect()
}

/// The sanction that was changed last by `rev`.
async fn of_rev(connection: &mut Connection, rev: i64) -> Result<Sanction> {
    let row = connection.fetch_optional(OF_REV, &values![rev]).await?;
    let row = row.ok_or(Error::Unexpected("a sanction that was just written"))?;
    Ok(change(&row)?.sanction)
}

pub(super) async fn of_user(connection: &mut Connection, user: &UserId) -> Result<Vec<Sanction>> {
    let limit = i64::try_from(OF_USER_MAX).unwrap_or(i64::MAX);
    let rows = connection.fetch_all(OF_USER, &values![user, limit]).await?;
    rows.iter().map(|row| Ok(change(row)?.sanction)).collect()
}

/// What has changed after `rev`, in order, at most [`CHANGES_AT_ONCE`].
pub(super) async fn changes(connection: &mut Connection, rev: i64) -> Result<Vec<Change>> {
    let limit = i64::try_from(CHANGES_AT_ONCE).unwrap_or(i64::MAX);
    let rows = connection.fetch_all(CHANGES, &values![rev, limit]).await?;
    rows.iter().map(change).collect()
}

fn change(row: &Row) -> Result<Change> {
    let mut columns = row.columns();
    Ok(Change {
        rev: columns.int()?,
        id: columns.int()?,
        sanction: Sanction {
            user_id: columns.user()?,
            kind: kind_of(&columns.text()?)?,
            until: columns.opt_int()?.map(Timestamp),
            reason: columns.text()?,
            imposed_by: columns.user()?,
            imposed_at: Timestamp(columns.int()?),
            lifted_by: columns.opt_user()?,
            lifted_at: columns.opt_int()?.map(Timestamp),
        },
    })
}

fn kind_of(stored: &str) -> Result<SanctionKind> {
    let mut all = SanctionKind::ALL.into_iter();
    let kind = all.find(|kind| kind.name() == stored);
    kind.ok_or_else(|| Error::corrupt(format_args!("unknown kind of sanction {stored}")))
}
