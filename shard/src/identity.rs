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
//! | `deployed` | what comes of it: a deployment whose databases are what they have to be |
//! | [`making`] | the only place where a deployment is made, and where one of an older version gets its identity |
//! | [`adoption`] | `backscroll shards adopt`: another database in the place of a lost one |
//! | [`joining`] | `backscroll shards add`: an empty database becomes a new shard |
//! | [`writer`] | which server of a cluster writes a shard |
//!
//! The row itself, and what a running process holds to, are in [`crate::db`]: no connection to another database is handed out.

pub mod adoption;
pub mod assessment;
mod deployed;
pub mod joining;
pub mod making;
mod rules;
pub mod survey;
pub mod writer;

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::ids::ShardName;
use crate::settings::StoreSettings;

pub use assessment::Assessment;
pub use deployed::Deployed;
use deployed::Stage;
pub use survey::Survey;

pub use crate::db::identity::{DeploymentId, Identity, Misplaced, Role};

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
