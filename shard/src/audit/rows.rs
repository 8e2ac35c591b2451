//! The statements on the table `audit`, and on the property that has the head of the log.

use super::act::Act;
use super::chain::{AuditHash, Content, Link};
use super::{AuditFilter, AuditRecord, Head};
use crate::db::{Connection, Row, Value, placeholders, values};
use crate::directory;
use crate::error::{Error, Result};
use crate::model::{RawJson, Timestamp};

/// The property with the number, time and hash of the newest record; empty before the first.
pub(super) const HEAD: &str = "audit_head";

/// By the primary key. After the property is locked: a transaction sees what is locked as it is, not as of its snapshot.
const LOCKED_HEAD: &str = "SELECT value, {now} FROM properties WHERE name = ? {for_update}";
/// By the primary key.
const READ_HEAD: &str = "SELECT value FROM properties WHERE name = ?";
const SET_HEAD: &str = "UPDATE properties SET value = ? WHERE name = ?";
const INSERT: &str = "INSERT INTO audit (number, at, action, actor, subject, reason, details, salt, digest, hash) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

macro_rules! columns {
    () => {
        "SELECT number, at, action, actor, subject, reason, details, salt, digest, hash FROM audit "
    };
}
/// By the primary key.
const AFTER: &str = concat!(columns!(), "WHERE number > ? ORDER BY number LIMIT ?");
/// By the index `audit_at`: times grow with the numbers.
const FIRST_FROM: &str =
    "SELECT number FROM audit {by audit_at} WHERE at >= ? ORDER BY at, number LIMIT 1";
/// Records that name somebody, by the indices on the two columns. What says that records were erased stays.
const NAMING: &str = "SELECT number FROM audit WHERE actor = ? AND action <> 'audit.erase' \
     UNION SELECT number FROM audit WHERE subject = ? AND action <> 'audit.erase' ORDER BY number LIMIT ?";
const ERASE: &str = "UPDATE audit SET actor = NULL, subject = NULL, reason = NULL, details = NULL, salt = NULL WHERE number IN ";

/// A record as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) action: String,
    /// None once it was erased.
    pub(super) content: Option<StoredContent>,
    pub(super) digest: AuditHash,
    pub(super) hash: AuditHash,
}

/// What a record says of people and things.
#[derive(Clone, Debug)]
pub(super) struct StoredContent {
    salt: Vec<u8>,
    actor: String,
    subject: Option<String>,
    reason: String,
    pub(super) details: String,
}

impl StoredContent {
    pub(super) fn digest(&self) -> AuditHash {
        let content = Content {
            salt: &self.salt,
            actor: &self.actor,
            subject: self.subject.as_deref(),
            reason: &self.reason,
            details: &self.details,
        };
        content.digest()
    }
}

impl Stored {
    pub(super) fn link(&self) -> Link<'_> {
        Link {
            number: self.number,
            at: self.at,
            action: &self.action,
            digest: self.digest,
        }
    }

    pub(super) fn record(self) -> Result<AuditRecord> {
        let is_erased = self.content.is_none();
        let (mut actor, mut subject, mut reason, mut details) = (None, None, None, None);
        if let Some(content) = self.content {
            let damaged = |error| Error::corrupt(format_args!("details of a record: {error}"));
            actor = Some(content.actor);
            subject = content.subject;
            reason = Some(content.reason).filter(|reason| !reason.is_empty());
            details = Some(RawJson::parse(content.details).map_err(damaged)?);
        }
        Ok(AuditRecord {
            number: self.number,
            at: self.at,
            action: self.action,
            actor,
            subject,
            reason,
            details,
            is_erased,
            hash: self.hash,
        })
    }
}

/// Last in a write transaction of the directory: adds a record. All other transactions that add one wait until this one has ended.
///
/// # Errors
/// [`Error::Invalid`] for details that are too long; when the database fails.
pub(crate) async fn append(connection: &mut Connection, act: &Act) -> Result<Head> {
    let details = act.details()?;
    directory::lock_property(connection, HEAD).await?;
    let row = connection
        .fetch_optional(LOCKED_HEAD, &values![HEAD])
        .await?;
    let row = row.ok_or(Error::Unexpected("a property that was just locked"))?;
    let previous = parse_head(&row.text(0)?)?;
    let now = Timestamp(row.int(1)?);
    let salt: [u8; 16] = rand::random();
    let content = Content {
        salt: &salt,
        actor: act.actor.as_str(),
        subject: act.subject.as_ref().map(|it| it.as_str()),
        reason: &act.reason,
        details: &details,
    };
    let link = Link {
        number: previous.map_or(0, |it| it.number) + 1,
        at: previous.map_or(now, |it| now.max(it.at)),
        action: act.action.name(),
        digest: content.digest(),
    };
    let head = Head {
        number: link.number,
        at: link.at,
        hash: link.hash(previous.map_or(AuditHash::NONE, |it| it.hash)),
    };
    let args = values![
        stored_number(head.number),
        head.at.0,
        link.action,
        content.actor.as_bytes(),
        content.subject.map(str::as_bytes),
        content.reason,
        content.details,
        content.salt,
        link.digest.as_bytes(),
        head.hash.as_bytes(),
    ];
    connection.execute(INSERT, &args).await?;
    let text = format!("{} {} {}", head.number, head.at.0, head.hash);
    let args = values![text.as_str(), HEAD];
    connection.execute(SET_HEAD, &args).await?;
    Ok(head)
}

/// The newest record, as the property says it.
pub(super) async fn head(connection: &mut Connection) -> Result<Option<Head>> {
    let row = connection.fetch_optional(READ_HEAD, &values![HEAD]).await?;
    row.map_or(Ok(None), |row| parse_head(&row.text(0)?))
}

fn parse_head(text: &str) -> Result<Option<Head>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parse = || {
        let mut parts = text.split(' ');
        let head = Head {
            number: parts.next()?.parse().ok()?,
            at: Timestamp(parts.next()?.parse().ok()?),
            hash: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(head)
    };
    let head = parse().ok_or_else(|| Error::corrupt("the head of the audit log"));
    head.map(Some)
}

/// The first `limit` records after number `after`.
pub(super) async fn after(
    connection: &mut Connection,
    after: u64,
    limit: usize,
) -> Result<Vec<Stored>> {
    let args = values![stored_number(after), stored_number(limit as u64)];
    let rows = connection.fetch_all(AFTER, &args).await?;
    rows.iter().map(stored).collect()
}

/// The number of the first record at `time` or later.
pub(super) async fn first_from(
    connection: &mut Connection,
    time: Timestamp,
) -> Result<Option<u64>> {
    let row = connection
        .fetch_optional(FIRST_FROM, &values![time.0])
        .await?;
    row.map(|row| Ok(row.int(0)?.cast_unsigned())).transpose()
}

/// The newest `limit` records that `filter` lets through with numbers from `first` to before `end`, the newest first. By the index of the
/// first of its conditions, or by the primary key.
pub(super) async fn matching(
    connection: &mut Connection,
    filter: &AuditFilter,
    (first, end): (u64, u64),
    limit: usize,
) -> Result<Vec<Stored>> {
    let conditions = [
        ("subject", filter.subject.as_deref().map(str::as_bytes)),
        ("actor", filter.actor.as_deref().map(str::as_bytes)),
        ("action", filter.action.as_deref().map(str::as_bytes)),
    ];
    let conditions = conditions
        .into_iter()
        .filter_map(|(column, value)| Some((column, value?)));
    let conditions: Vec<(&str, &[u8])> = conditions.collect();
    let mut statement = String::from(columns!());
    if let Some((column, _)) = conditions.first() {
        statement.push_str(&format!("{{by audit_{column}}} "));
    }
    statement.push_str("WHERE ");
    let mut args: Vec<Value<'_>> = Vec::new();
    for (column, value) in &conditions {
        statement.push_str(&format!("{column} = ? AND "));
        args.push(match (*column, std::str::from_utf8(value)) {
            ("action", Ok(action)) => action.into(),
            _ => (*value).into(),
        });
    }
    statement.push_str("number >= ? AND number < ? ORDER BY number DESC LIMIT ?");
    args.extend(values![
        stored_number(first),
        stored_number(end),
        stored_number(limit as u64)
    ]);
    let rows = connection.fetch_all(&statement, &args).await?;
    rows.iter().map(stored).collect()
}

/// In a write transaction: erases what at most `limit` of the records say that name `reference`, and gives how many it were.
pub(super) async fn erase(
    connection: &mut Connection,
    reference: &str,
    limit: usize,
) -> Result<usize> {
    let name = reference.as_bytes();
    let args = values![name, name, stored_number(limit as u64)];
    let rows = connection.fetch_all(NAMING, &args).await?;
    let numbers: Vec<i64> = rows.iter().map(|row| row.int(0)).collect::<Result<_>>()?;
    if !numbers.is_empty() {
        let statement = format!("{ERASE}({})", placeholders(numbers.len()));
        let args: Vec<Value<'_>> = numbers.iter().map(|number| (*number).into()).collect();
        connection.execute(&statement, &args).await?;
    }
    Ok(numbers.len())
}

fn stored_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn stored(row: &Row) -> Result<Stored> {
    let mut columns = row.columns();
    let text = |bytes| {
        String::from_utf8(bytes).map_err(|_| Error::corrupt("a name in the audit log is not UTF-8"))
    };
    let number = columns.int()?.cast_unsigned();
    let at = Timestamp(columns.int()?);
    let action = columns.text()?;
    let actor = columns.opt_bytes()?.map(text).transpose()?;
    let subject = columns.opt_bytes()?.map(text).transpose()?;
    let (reason, details) = (columns.opt_text()?, columns.opt_text()?);
    let content = columns.opt_bytes()?.map(|salt| StoredContent {
        salt,
        actor: actor.unwrap_or_default(),
        subject,
        reason: reason.unwrap_or_default(),
        details: details.unwrap_or_default(),
    });
    Ok(Stored {
        number,
        at,
        action,
        content,
        digest: AuditHash::from_bytes(&columns.bytes()?)?,
        hash: AuditHash::from_bytes(&columns.bytes()?)?,
    })
}
