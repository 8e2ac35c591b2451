//! Which database of which deployment a database is (INV-OWNER).
//!
//! The directory and every shard have a table `identity` with one row: the deployment's id, which of its databases this
//! is, and its incarnation. The directory's table `shards` says the same from its side. Addresses are in the configuration,
//! which people edit, so both are compared before anything is read or written: two addresses that were swapped, or one that
//! is mistyped, cost an error and nothing else.
//!
//! | module | what it holds |
//! |---|---|
//! | [`survey`] | a look into every database that the configuration names, which changes none of them |
//! | [`assessment`], `rules` | from what was seen: whether every database is the one that its address stands for |
//! | [`making`] | the only place where a deployment is made, and where one of an older version gets its identity |
//! | [`adoption`] | `backscroll shards adopt`: another database in the place of a lost one |
//! | [`joining`] | `backscroll shards add`: an empty database becomes a new shard |
//!
//! What a running process holds to is in [`crate::db`]: no connection to another database is handed out.

pub mod adoption;
pub mod assessment;
pub mod joining;
pub mod making;
mod rules;
pub mod survey;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::db::{Connection, Row, values};
use crate::error::{Error, Result, StatementFault};
use crate::ids::{Incarnation, ShardName};
use crate::settings::{DatabaseUrl, StoreSettings};

use assessment::Stage;
pub use assessment::{Assessment, Deployed};
pub use survey::Survey;

/// The name of a deployment: made up when it is made, and the same in all its databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeploymentId([u8; 16]);

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for DeploymentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a database is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It says which shard owns which keys.
    Directory,
    /// It holds the data of a shard.
    Shard(ShardName),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("the directory"),
            Self::Shard(name) => write!(f, "shard {name}"),
        }
    }
}

impl Role {
    /// The key of the configuration that has its address.
    fn key(&self) -> String {
        match self {
            Self::Directory => "directory.url".into(),
            Self::Shard(name) => format!("`primary` of {name} in `shards`"),
        }
    }
}

/// Which database it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// Which of its databases.
    pub role: Role,
    /// Which in the row of those that have been it.
    pub incarnation: Incarnation,
}

/// A database that is not what its address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// What the address stands for.
    pub role: Role,
    /// Where it leads.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Misplaced {
    fn new(role: &Role, address: &DatabaseUrl, leads_to: &str) -> Self {
        Self {
            role: role.clone(),
            what: format!(
                "the address of {role} ({}) leads to {leads_to}",
                address.redacted()
            ),
            remedy: format!("correct {}", role.key()),
        }
    }

    /// With something else that may be right to do.
    fn or(mut self, remedy: &str) -> Self {
        self.remedy = format!("{}; {remedy}", self.remedy);
        self
    }
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

impl From<Misplaced> for Error {
    fn from(misplaced: Misplaced) -> Self {
        Self::WrongDatabase(misplaced.to_string())
    }
}

/// The whole table: one row.
pub(crate) const SELECT: &str = "SELECT deployment, role, shard, incarnation FROM identity";
const INSERT: &str = "INSERT INTO identity (slot, deployment, role, shard, incarnation, since) VALUES (1, ?, ?, ?, ?, {now})";
const REPLACE: &str = " {on_duplicate slot} deployment = {new deployment}, role = {new role}, shard = {new shard}, \
     incarnation = {new incarnation}, since = {new since}";

const DIRECTORY: &str = "directory";
const SHARD: &str = "shard";

impl Identity {
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        let corrupt = |what: &str| Error::corrupt(format_args!("the row of `identity`: {what}"));
        let deployment: [u8; 16] = row
            .bytes(0)?
            .try_into()
            .map_err(|_| corrupt("a deployment's id has 16 bytes"))?;
        let role = match row.text(1)?.as_str() {
            DIRECTORY => Role::Directory,
            SHARD => Role::Shard(ShardName::new(row.text(2)?).map_err(|error| corrupt(error.0))?),
            other => return Err(corrupt(&format!("unknown role {other}"))),
        };
        Ok(Self {
            deployment: DeploymentId(deployment),
            role,
            incarnation: Incarnation::from_i64(row.int(3)?),
        })
    }

    fn of_directory(deployment: DeploymentId) -> Self {
        Self {
            deployment,
            role: Role::Directory,
            incarnation: Incarnation::FIRST,
        }
    }

    /// Whether a database that says it is `found` may be used for this one. One with a greater incarnation was adopted since
    /// this one was read.
    pub(crate) fn require(
        &self,
        found: Option<&Self>,
        address: &DatabaseUrl,
    ) -> std::result::Result<(), Misplaced> {
        let leads_to = match found {
            Some(found) if found.deployment != self.deployment => format!(
                "{} of another deployment ({}, this one is {})",
                found.role, found.deployment, self.deployment
            ),
            Some(found) if found.role != self.role => found.role.to_string(),
            Some(found) if found.incarnation < self.incarnation => format!(
                "an earlier database of {} (incarnation {}, now {}): another one has taken its place since",
                found.role, found.incarnation, self.incarnation
            ),
            Some(_) => return Ok(()),
            None => format!(
                "a database that is not marked as one of deployment {}",
                self.deployment
            ),
        };
        Err(Misplaced::new(&self.role, address, &leads_to))
    }

    /// In a write transaction: marks a database that is not marked yet.
    async fn write(&self, connection: &mut Connection) -> Result<()> {
        self.execute(connection, INSERT).await
    }

    /// In a write transaction: marks a database, whatever it was before.
    async fn overwrite(&self, connection: &mut Connection) -> Result<()> {
        self.execute(connection, &format!("{INSERT}{REPLACE}"))
            .await
    }

    async fn execute(&self, connection: &mut Connection, statement: &str) -> Result<()> {
        let (role, shard) = match &self.role {
            Role::Directory => (DIRECTORY, ""),
            Role::Shard(name) => (SHARD, name.as_str()),
        };
        let args = values![&self.deployment.0, role, shard, self.incarnation];
        connection.execute(statement, &args).await.map(drop)
    }
}

/// What the database says it is; nothing in one of an older version, and in one that is not a deployment's.
///
/// # Errors
/// When the database fails.
pub async fn read(connection: &mut Connection) -> Result<Option<Identity>> {
    found(connection.fetch_optional(SELECT, &[]).await)
}

/// What an answer to [`SELECT`] says.
pub(crate) fn found(answer: Result<Option<Row>>) -> Result<Option<Identity>> {
    match answer {
        Ok(row) => row.as_ref().map(Identity::from_row).transpose(),
        Err(Error::Statement {
            fault: StatementFault::MissingTable,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The deployment that the configuration names, once every database that answers was found to be the one that its address
/// stands for, with the schema of this version. One that does not answer is left out: it is asked when it is back.
///
/// # Errors
/// [`Error::WrongDatabase`]; [`Error::Unprepared`] when the deployment is not made, or of an older version;
/// [`Error::DirectoryUnavailable`] when neither the directory nor the fences give a map; [`Error::Invalid`] when the
/// configuration does not fit the deployment.
pub async fn find(settings: &StoreSettings) -> Result<Deployed> {
    let (survey, assessment) = examine(settings).await;
    let deployed = assessment.deployed()?;
    for (database, error) in survey.away() {
        tracing::warn!(%database, %error, "cannot be reached; going on without it");
    }
    Ok(deployed)
}

/// A look into every database, and what it says; nothing is changed. Another process may be making the deployment
/// meanwhile, so that what was seen of two databases is not of one moment: what is refused is looked at again.
pub async fn examine(settings: &StoreSettings) -> (Survey, Assessment) {
    let survey = Survey::take(settings).await;
    let assessment = Assessment::of(&survey, settings);
    if assessment.problems.is_empty() {
        return (survey, assessment);
    }
    let survey = Survey::take(settings).await;
    let assessment = Assessment::of(&survey, settings);
    (survey, assessment)
}

/// What `migrate` has to do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The deployment is there, and every database is marked.
    pub(crate) is_made: bool,
    pub(crate) remarks: Vec<String>,
    outsiders: BTreeSet<ShardName>,
}

impl Plan {
    /// Whether a database is part of the deployment, or will be.
    pub(crate) fn concerns(&self, role: &Role) -> bool {
        !matches!(role, Role::Shard(name) if self.outsiders.contains(name))
    }
}

/// For who may change the databases: all of them have to be there, and what their addresses stand for.
///
/// # Errors
/// [`Error::WrongDatabase`]; [`Error::Unprepared`] with the databases that are away; [`Error::Invalid`] when the configuration
/// does not fit the deployment.
pub(crate) async fn look_to_migrate(settings: &StoreSettings) -> Result<(Survey, Plan)> {
    let (survey, assessment) = examine(settings).await;
    assessment.require_right_databases()?;
    assessment.require_usable_schemas()?;
    if let Some(away) = survey.cannot_use() {
        return Err(Error::Unprepared(away));
    }
    let later = assessment.later_remarks();
    let plan = Plan {
        is_made: matches!(assessment.stage?, Stage::Made(_)),
        remarks: assessment.remarks.into_iter().chain(later).collect(),
        outsiders: assessment.outsiders,
    };
    Ok((survey, plan))
}

fn unprepared(lacking: &[String]) -> Error {
    Error::Unprepared(format!(
        "the schema is not up to date; run `backscroll migrate` with this configuration, then try again\n  {}",
        lacking.join("\n  ")
    ))
}
