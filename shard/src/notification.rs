//! A user's notifications, on the user's own shard: what is told to them apart from messages.
//!
//! They are numbered 1, 2, 3 … in the transaction that stores them. So few are kept that old ones go with it; what a push
//! did not bring is seen by the next number.

use crate::db::{Row, Value, values};
use crate::error::{Error, Result};
use crate::ids::{NotificationId, UserId, UserKey};
use crate::message::{check_object, stored_json};
use crate::model::{
    AnyObject, NewNotification, Notification, NotificationFilter, NotificationPriority, Timestamp,
};
use crate::owned::{OwnedReader, OwnedTransaction};

/// Longest type in characters.
const TYPE_MAX: usize = 64;
/// Longest title in characters.
const TITLE_MAX: usize = 255;
/// Longest body in characters.
const BODY_MAX: usize = 2000;
/// Longest action URL in bytes.
const ACTION_URL_MAX: usize = 2048;

/// Takes the next number, and with it the row's lock.
const BUMP_HEAD: &str = "INSERT INTO notification_heads (user_key, user_id, head) VALUES (?, ?, 1) \
     {on_duplicate user_key, user_id} head = head + 1";
const LOCK_HEAD: &str =
    "SELECT head FROM notification_heads WHERE user_key = ? AND user_id = ? {for_update}";
const INSERT: &str = "INSERT INTO notifications (user_key, user_id, number, type, priority, title, body, action_url, metadata, \
     created_at, read_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// By the primary key `(user_key, user_id, number)`.
const DROP_OLD: &str =
    "DELETE FROM notifications WHERE user_key = ? AND user_id = ? AND number <= ?";
macro_rules! select {
    () => {
        "SELECT number, type, priority, title, body, action_url, metadata, created_at, read_at FROM notifications \
         WHERE user_key = ? AND user_id = ? AND "
    };
}
const SELECT_ONE: &str = concat!(select!(), "number = ?");
const SELECT_BEFORE: &str = concat!(select!(), "number < ? ORDER BY number DESC LIMIT ?");
/// By the index `notifications_unread`, as are the others with `read_at IS NULL`.
const SELECT_UNREAD_BEFORE: &str = concat!(
    select!(),
    "read_at IS NULL AND number < ? ORDER BY number DESC LIMIT ?"
);
/// By the same keys: a user has few, so that those of other types are read past.
const SELECT_OF_TYPE_BEFORE: &str = concat!(
    select!(),
    "number < ? AND type = ? ORDER BY number DESC LIMIT ?"
);
const SELECT_UNREAD_OF_TYPE_BEFORE: &str = concat!(
    select!(),
    "read_at IS NULL AND number < ? AND type = ? ORDER BY number DESC LIMIT ?"
);
const COUNT_UNREAD: &str =
    "SELECT COUNT(*) FROM notifications WHERE user_key = ? AND user_id = ? AND read_at IS NULL";
const READ_ONE: &str = "UPDATE notifications SET read_at = ? \
     WHERE user_key = ? AND user_id = ? AND number = ? AND read_at IS NULL";
const READ_ALL: &str =
    "UPDATE notifications SET read_at = ? WHERE user_key = ? AND user_id = ? AND read_at IS NULL";

/// Checks what a notification is about.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn check_kind(kind: &str) -> Result<()> {
    let word = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    if kind.is_empty() || kind.len() > TYPE_MAX || !kind.chars().all(word) {
        return Err(Error::invalid(
            "type",
            format!("1 to {TYPE_MAX} of letters, digits and _ - . :"),
        ));
    }
    Ok(())
}

/// A notification that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    kind: String,
    priority: NotificationPriority,
    title: String,
    body: String,
    action_url: Option<String>,
    metadata: Option<String>,
}

impl Draft {
    /// Checks what is to be sent.
    ///
    /// # Errors
    /// [`Error::Invalid`], which names the field and the rule.
    pub(crate) fn new(new: NewNotification, metadata_bytes: u32) -> Result<Self> {
        check_kind(&new.kind)?;
        let title = new.title.chars().count();
        if title == 0 || title > TITLE_MAX || new.title.chars().any(char::is_control) {
            return Err(Error::invalid(
                "title",
                format!("1 to {TITLE_MAX} characters, no control characters"),
            ));
        }
        if new.body.chars().count() > BODY_MAX || new.body.contains('\0') {
            return Err(Error::invalid(
                "body",
                format!("at most {BODY_MAX} characters, no NUL"),
            ));
        }
        if new.action_url.as_deref().is_some_and(|url| !is_safe(url)) {
            return Err(Error::invalid(
                "actionUrl",
                format!(
                    "https:// or http://, or a path that begins with one slash; at most {ACTION_URL_MAX} bytes, without spaces"
                ),
            ));
        }
        let metadata = new
            .metadata
            .map(|json| check_object("metadata", &json, metadata_bytes))
            .transpose()?
            .flatten();
        Ok(Self {
            kind: new.kind,
            priority: new.priority,
            title: new.title,
            body: new.body,
            action_url: new.action_url,
            metadata,
        })
    }
}

/// Whether a client may open it: no address that runs a script, and no path that is another host's.
fn is_safe(url: &str) -> bool {
    let path = url.starts_with('/') && !url.starts_with("//");
    let plain = !url.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\');
    let absolute = url.starts_with("https://") || url.starts_with("http://");
    url.len() <= ACTION_URL_MAX && plain && (path || absolute)
}

fn priority_code(priority: NotificationPriority) -> i64 {
    match priority {
        NotificationPriority::Low => 1,
        NotificationPriority::Normal => 2,
        NotificationPriority::High => 3,
        NotificationPriority::Urgent => 4,
    }
}

fn priority_of(code: i64) -> Result<NotificationPriority> {
    Ok(match code {
        1 => NotificationPriority::Low,
        2 => NotificationPriority::Normal,
        3 => NotificationPriority::High,
        4 => NotificationPriority::Urgent,
        other => {
            return Err(Error::corrupt(format_args!(
                "notification priority {other}"
            )));
        }
    })
}

fn from_row(row: &Row) -> Result<Notification> {
    let mut columns = row.columns();
    Ok(Notification {
        id: NotificationId::from_i64(columns.int()?),
        kind: columns.text()?,
        priority: priority_of(columns.int()?)?,
        title: columns.text()?,
        body: columns.text()?,
        action_url: columns.opt_text()?,
        metadata: stored_json::<AnyObject>("metadata", columns.opt_text()?, "{}"),
        created_at: Timestamp(columns.int()?),
        read_at: columns.opt_int()?.map(Timestamp),
    })
}

/// In a write transaction: locks the numbers of a user who has notifications.
///
/// # Errors
/// When the database fails.
pub(crate) async fn lock(
    transaction: &mut OwnedTransaction<'_>,
    (key, user): (UserKey, &UserId),
) -> Result<()> {
    let key = key.to_bytes();
    head(transaction, &values![&key, user]).await.map(drop)
}

/// In a write transaction: stores a notification under the user's next number, and drops those that are older than the
/// newest `keep`.
///
/// # Errors
/// When the database fails.
pub(crate) async fn add(
    transaction: &mut OwnedTransaction<'_>,
    (key, user): (UserKey, &UserId),
    draft: &Draft,
    (at, read_at, keep): (Timestamp, Option<Timestamp>, u32),
) -> Result<Notification> {
    transaction.require_users([user])?;
    let key = key.to_bytes();
    transaction.execute(BUMP_HEAD, &values![&key, user]).await?;
    let head = head(transaction, &values![&key, user]).await?;
    let args = values![
        &key,
        user,
        head,
        draft.kind.as_str(),
        priority_code(draft.priority),
        draft.title.as_str(),
        draft.body.as_str(),
        draft.action_url.as_deref(),
        draft.metadata.as_deref(),
        at.0,
        read_at.map(|at| at.0)
    ];
    transaction.execute(INSERT, &args).await?;
    let old = head.as_i64() - i64::from(keep);
    if old > 0 {
        let args = values![&key, user, old];
        transaction.execute(DROP_OLD, &args).await?;
    }
    one(transaction, &values![&key, user, head]).await
}

/// The number of the newest, locked.
async fn head(
    transaction: &mut OwnedTransaction<'_>,
    user: &[Value<'_>],
) -> Result<NotificationId> {
    let row = transaction.fetch_optional(LOCK_HEAD, user).await?;
    row.map_or(Ok(NotificationId(0)), |row| {
        row.int(0).map(NotificationId::from_i64)
    })
}

async fn one(rows: &mut OwnedReader<'_>, args: &[Value<'_>]) -> Result<Notification> {
    let row = rows.fetch_optional(SELECT_ONE, args).await?;
    from_row(&row.ok_or(Error::NotFound("notification"))?)
}

/// Those of `filter` before `before`, the newest first.
///
/// # Errors
/// When the database fails.
pub(crate) async fn page(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
    (before, filter): (NotificationId, NotificationFilter<'_>),
    limit: u32,
) -> Result<Vec<Notification>> {
    let NotificationFilter { unread, kind } = filter;
    let statement = match (unread, kind.is_some()) {
        (false, false) => SELECT_BEFORE,
        (true, false) => SELECT_UNREAD_BEFORE,
        (false, true) => SELECT_OF_TYPE_BEFORE,
        (true, true) => SELECT_UNREAD_OF_TYPE_BEFORE,
    };
    let (key, limit) = (key.to_bytes(), i64::from(limit));
    let place = values![&key, user, before].into_iter();
    let kind = kind.map(Value::from);
    let args: Vec<Value<'_>> = place.chain(kind).chain(values![limit]).collect();
    let found = rows.fetch_all(statement, &args).await?;
    found.iter().map(from_row).collect()
}

/// How many are unread.
///
/// # Errors
/// When the database fails.
pub(crate) async fn unread(
    rows: &mut OwnedReader<'_>,
    (key, user): (UserKey, &UserId),
) -> Result<u64> {
    let key = key.to_bytes();
    let args = values![&key, user];
    let row = rows.fetch_optional(COUNT_UNREAD, &args).await?;
    let row = row.ok_or(Error::Unexpected("a count without a row"))?;
    Ok(u64::try_from(row.int(0)?).unwrap_or(0))
}

/// In a write transaction: one is read. Gives it, and whether it was unread.
///
/// # Errors
/// [`Error::NotFound`] when it is not there, or not any more.
pub(crate) async fn mark_read(
    transaction: &mut OwnedTransaction<'_>,
    (key, user): (UserKey, &UserId),
    id: NotificationId,
    at: Timestamp,
) -> Result<(Notification, bool)> {
    transaction.require_users([user])?;
    let key = key.to_bytes();
    let args = values![at.0, &key, user, id];
    let changed = transaction.execute(READ_ONE, &args).await?;
    let read = one(transaction, &values![&key, user, id]).await?;
    Ok((read, changed > 0))
}

/// In a write transaction: all are read that are there now. Gives the newest, when there was something unread.
///
/// # Errors
/// When the database fails.
pub(crate) async fn mark_all_read(
    transaction: &mut OwnedTransaction<'_>,
    (key, user): (UserKey, &UserId),
    at: Timestamp,
) -> Result<Option<NotificationId>> {
    transaction.require_users([user])?;
    let key = key.to_bytes();
    let head = head(transaction, &values![&key, user]).await?; // new ones wait
    let args = values![at.0, &key, user];
    let changed = transaction.execute(READ_ALL, &args).await?;
    Ok((changed > 0).then_some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_open_a_page_are_taken() {
        for url in [
            "/offers/7?x=1#y",
            "https://example.com/a",
            "http://localhost/",
        ] {
            assert!(is_safe(url), "{url}");
        }
        let long = format!("/{}", "x".repeat(ACTION_URL_MAX));
        for url in [
            "",
            "offers",
            "//evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "JaVaScRiPt:alert(1)",
            "https://a b",
            "/a\nb",
            &long,
        ] {
            assert!(!is_safe(url), "{url}");
        }
    }
}
