//! The audit log: who did what to whom, as those can show who do not trust the database.
//!
//! Records are rows of the directory, numbered 1, 2, 3 … in the order in which they were committed. Each has the hash of the record
//! before in its own ([`chain`]), so one that is changed, taken out or put elsewhere is found by [`Audit::verify`]. Whoever can write
//! the directory can also compute all hashes anew; so the newest hash is put down elsewhere from time to time, in the object store and
//! in the log of the service, and compared ([`PublishedHead`]). Records that were added after the last of these can be taken away without
//! a trace, by somebody who also writes the property `audit_head` anew.
//!
//! | what is done | when it is recorded |
//! |---|---|
//! | in the directory: sanctions, moves, shards | in the same transaction: one is not there without the other |
//! | elsewhere: holds, archive jobs, exports, imports | before: the record says what is about to be done |
//!
//! So a crash, or a database that is away, leaves records of what was not done to its end, and nothing done without a record; where
//! the log cannot be written, what is to be recorded is refused. A job's own history says what came of it. An append whose
//! outcome is not known may be made again, and then be there twice.
//!
//! Transactions that add a record wait for each other at the property of the head, last of all their locks. No request of a user
//! adds one.
//!
//! What names people is not in the chain, but a salted digest of it: [`Audit::erase`] takes it away, and the chain holds. The log then
//! says how many records lost it.

mod act;
mod chain;
mod rows;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

pub use self::act::{Act, Action, DETAILS_MAX_BYTES, Reference};
pub use self::chain::AuditHash;
pub(crate) use self::rows::append;
pub use self::verify::{AuditProblem, PublishedHead, Verification};
use crate::db::Connection;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::model::{RawJson, Timestamp};
use crate::routing::Router;

/// How long adding a record, and reading some, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most records of which one transaction erases what they say.
const ERASED_AT_ONCE: usize = 256;
/// Most records in a page.
pub const RECORDS_MAX: usize = 100;

/// A record of the log.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// 1, 2, 3 …
    pub number: u64,
    /// When, by the directory's clock; never before the record before.
    pub at: Timestamp,
    /// What was done, or was about to be.
    #[schema(example = "sanction.impose")]
    pub action: String,
    /// Who did it: `user/`, `operator/` or `node/` and a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "user/root")]
    pub actor: Option<String>,
    /// To whom or to what.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "user/mallory")]
    pub subject: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// What else there is to know of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Object)]
    pub details: Option<RawJson>,
    /// Whether what named people was erased: actor, subject, reason and details.
    #[serde(rename = "erased")]
    pub is_erased: bool,
    /// Its hash, which the next record's is made of.
    #[schema(value_type = String)]
    pub hash: AuditHash,
}

/// The newest record at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number.
    pub number: u64,
    /// When it was added, by the directory's clock.
    pub at: Timestamp,
    /// Its hash.
    pub hash: AuditHash,
}

/// Which records are listed: those that all of it is true of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// The actor, whole: `user/root`.
    pub actor: Option<String>,
    /// The action.
    pub action: Option<String>,
    /// The subject, whole: `user/mallory`.
    pub subject: Option<String>,
    /// Added then or later.
    pub from: Option<Timestamp>,
    /// Added before.
    pub until: Option<Timestamp>,
}

/// Some records.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// The newest first.
    pub records: Vec<AuditRecord>,
    /// What to ask for the next page with; none at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_cursor: Option<String>,
}

/// The log of a deployment.
#[derive(Debug)]
pub struct Audit {
    router: Arc<Router>,
}

impl Audit {
    /// The log in the directory that `router` knows.
    pub(crate) fn new(router: &Arc<Router>) -> Self {
        Self {
            router: Arc::clone(router),
        }
    }

    /// Adds a record, before what it is about is done.
    ///
    /// # Errors
    /// [`Error::Invalid`] for details that are too long; [`Error::DirectoryUnavailable`]: then it must not be done.
    pub async fn append(&self, act: &Act) -> Result<Head> {
        let adding = |mut connection| async move {
            let added = append(&mut connection, act).await;
            (connection, added)
        };
        self.directory().write(PATIENCE, adding).await
    }

    /// The newest record; none before the first.
    ///
    /// # Errors
    /// [`Error::DirectoryUnavailable`].
    pub async fn head(&self) -> Result<Option<Head>> {
        let mut connection = self.directory().reading(PATIENCE).await?;
        let head = rows::head(&mut connection).await;
        head.map_err(Error::in_directory)
    }

    /// At most `limit` of the records that `filter` lets through, the newest first, beginning after the page that gave `cursor`. This
    /// does not authorize: callers check for a role.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor that no page gave; [`Error::DirectoryUnavailable`].
    pub async fn list(
        &self,
        filter: &AuditFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<AuditPage> {
        let before = cursor.map(str::parse::<u64>).transpose();
        let before = before.map_err(|_| Error::invalid("cursor", "`nextCursor` of a page"))?;
        let limit = limit.clamp(1, RECORDS_MAX);
        let mut connection = self.directory().reading(PATIENCE).await?;
        let range = (before.unwrap_or(u64::MAX), limit + 1);
        let stored = matching(&mut connection, filter, range).await;
        let mut stored = stored.map_err(Error::in_directory)?;
        let has_more = stored.len() > limit;
        stored.truncate(limit);
        let last = stored.last().map(|it| it.number.to_string());
        let records = stored.into_iter().map(rows::Stored::record);
        Ok(AuditPage {
            records: records.collect::<Result<_>>()?,
            next_cursor: last.filter(|_| has_more),
        })
    }

    /// Reads the whole log, and says what of it is not as it was written. `published` are heads that were put down elsewhere, read
    /// before this is asked.
    ///
    /// # Errors
    /// [`Error::DirectoryUnavailable`]; [`Error::Corrupt`] for a row that is no record at all.
    pub async fn verify(&self, published: &[PublishedHead]) -> Result<Verification> {
        let mut connection = self.directory().reading(PATIENCE).await?;
        let verified = verify::verify(&mut connection, published).await;
        verified.map_err(Error::in_directory)
    }

    /// Erases what the records say that have `person` as their actor or subject: actor, subject, reason and details. Number, time,
    /// action and hashes stay, and the log says by whom, why and of how many records. Gives how many they were. A crash leaves some of
    /// them as they were; do it again.
    ///
    /// # Errors
    /// [`Error::DirectoryUnavailable`].
    pub async fn erase(&self, person: &Reference, by: &Reference, reason: &str) -> Result<usize> {
        let mut erased = 0;
        loop {
            let erasing = |mut connection| async move {
                let some = erase_some(&mut connection, person, (by, reason)).await;
                (connection, some)
            };
            match self.directory().write(PATIENCE, erasing).await? {
                0 => return Ok(erased),
                records => erased += records,
            }
        }
    }

    fn directory(&self) -> &Directory {
        self.router.directory()
    }
}

/// The newest `limit` records before number `end` that a filter lets through.
async fn matching(
    connection: &mut Connection,
    filter: &AuditFilter,
    (mut end, limit): (u64, usize),
) -> Result<Vec<rows::Stored>> {
    let mut first = 0;
    if let Some(from) = filter.from {
        first = rows::first_from(connection, from).await?.unwrap_or(end);
    }
    if let Some(until) = filter.until {
        end = end.min(rows::first_from(connection, until).await?.unwrap_or(end));
    }
    rows::matching(connection, filter, (first, end), limit).await
}

/// In a write transaction: erases what some records say of a person, and records that; gives how many they were.
async fn erase_some(
    connection: &mut Connection,
    person: &Reference,
    (by, reason): (&Reference, &str),
) -> Result<usize> {
    let records = rows::erase(connection, person.as_str(), ERASED_AT_ONCE).await?;
    if records > 0 {
        let act = Act::new(by.clone(), Action::AuditErase, None);
        let act = act.because(reason).with(json!({ "records": records }));
        append(connection, &act).await?;
    }
    Ok(records)
}
