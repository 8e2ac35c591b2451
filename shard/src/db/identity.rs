//! Which database of which deployment a database is, as the one row of its table `identity` says.

use std::fmt;

use serde::{Serialize, Serializer};

use super::Row;
use super::value::{Value, values};
use crate::error::{Error, Result, StatementFault};
use crate::ids::{Incarnation, ShardName};
use crate::settings::DatabaseUrl;

/// The name of a deployment: made up when it is made, and the same in all its databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeploymentId(pub(crate) [u8; 16]);

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
    pub(crate) fn key(&self) -> String {
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
    pub(crate) fn new(role: &Role, address: &DatabaseUrl, leads_to: &str) -> Self {
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
    pub(crate) fn or(mut self, remedy: &str) -> Self {
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
const DIRECTORY: &str = "directory";
const SHARD: &str = "shard";

impl Identity {
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        let mut columns = row.columns();
        let corrupt = |what: &str| Error::corrupt(format_args!("the row of `identity`: {what}"));
        let deployment: [u8; 16] = columns
            .bytes()?
            .try_into()
            .map_err(|_| corrupt("a deployment's id has 16 bytes"))?;
        let (role, shard) = (columns.text()?, columns.text()?);
        let role = match role.as_str() {
            DIRECTORY => Role::Directory,
            SHARD => {
                let name = ShardName::new(shard);
                Role::Shard(name.map_err(|error| corrupt(error.0))?)
            }
            other => return Err(corrupt(&format!("unknown role {other}"))),
        };
        Ok(Self {
            deployment: DeploymentId(deployment),
            role,
            incarnation: Incarnation::from_i64(columns.int()?),
        })
    }

    /// What the directory of a deployment has to be.
    pub(crate) fn of_directory(deployment: DeploymentId) -> Self {
        Self {
            deployment,
            role: Role::Directory,
            incarnation: Incarnation::FIRST,
        }
    }

    /// The values of the columns `deployment`, `role`, `shard` and `incarnation`.
    pub(crate) fn columns(&self) -> [Value<'_>; 4] {
        let (role, shard) = match &self.role {
            Role::Directory => (DIRECTORY, ""),
            Role::Shard(name) => (SHARD, name.as_str()),
        };
        values![&self.deployment.0, role, shard, self.incarnation]
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
}

/// Of a shard's primary: the server that writes the shard and the one that answers, where these differ.
pub(crate) const SELECT_OTHER_WRITER: &str =
    "SELECT server, {this_server} FROM writer WHERE server <> {this_server}";

/// A server of a cluster that may not write the shard, because another one does.
#[derive(Debug)]
pub(crate) struct OtherWriter {
    writer: String,
    this: String,
}

impl OtherWriter {
    /// What an answer to [`SELECT_OTHER_WRITER`] says.
    pub(crate) fn found(answer: Result<Option<Row>>) -> Result<Option<Self>> {
        let read = |row: &Row| {
            Ok(Self {
                writer: row.text(0)?,
                this: row.text(1)?,
            })
        };
        one_row(answer, read)
    }

    /// Of the shard that is `role`, with this address.
    pub(crate) fn misplaced(&self, role: &Role, address: &DatabaseUrl) -> Misplaced {
        let Self { writer, this } = self;
        let leads_to = format!("{this}, and of its cluster only {writer} may write");
        let misplaced = Misplaced::new(role, address, &leads_to);
        match role {
            Role::Directory => misplaced,
            Role::Shard(name) => misplaced.or(&format!(
                "if {writer} is lost, `backscroll shards writer {name}` lets {this} write"
            )),
        }
    }
}

/// What an answer to [`SELECT`] says.
pub(crate) fn found(answer: Result<Option<Row>>) -> Result<Option<Identity>> {
    one_row(answer, Identity::from_row)
}

/// The row of a table, if there are both.
fn one_row<T>(answer: Result<Option<Row>>, read: impl Fn(&Row) -> Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(row) => row.as_ref().map(read).transpose(),
        Err(Error::Statement {
            fault: StatementFault::MissingTable,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}
