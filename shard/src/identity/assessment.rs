//! What a survey says: whether every database is what its address stands for, and how far the deployment is.

use std::collections::BTreeSet;

use super::deployed::{Deployed, Stage};
use super::rules::Assessor;
use super::survey::Survey;
use crate::db::identity::{Misplaced, Role};
use crate::error::{Error, Result};
use crate::ids::ShardName;
use crate::settings::StoreSettings;

/// What a survey says about the configuration.
#[derive(Debug)]
pub struct Assessment {
    /// Databases that are not what their addresses stand for.
    pub problems: Vec<Misplaced>,
    /// What has no effect, and may be thought to have one.
    pub remarks: Vec<String>,
    pub(super) stage: Result<Stage>,
    /// Shards that are configured, and not part of the deployment.
    pub(super) outsiders: BTreeSet<ShardName>,
    lacking: Vec<String>,
    /// Databases that a later version has migrated, and that this version can use.
    pub(super) later: Vec<String>,
    /// Likewise, and that it cannot use.
    pub(super) too_late: Vec<String>,
}

impl Assessment {
    /// What `survey` says about the databases of `settings`.
    #[must_use]
    pub fn of(survey: &Survey, settings: &StoreSettings) -> Self {
        let mut assessor = Assessor::new(survey, settings);
        assessor.check();
        let outsiders = assessor.outsiders();
        Self {
            lacking: survey.lacking(&outsiders),
            later: survey.later(true),
            too_late: survey.later(false),
            remarks: assessor.remarks(),
            stage: assessor.stage(),
            problems: assessor.problems,
            outsiders,
        }
    }

    /// Whether a shard is configured, but not part of the deployment.
    #[must_use]
    pub fn is_outsider(&self, role: &Role) -> bool {
        matches!(role, Role::Shard(name) if self.outsiders.contains(name))
    }

    /// The deployment as far as it is known, for who looks for what is wrong with it.
    #[must_use]
    pub fn known(&self) -> Option<&Deployed> {
        match &self.stage {
            Ok(Stage::Made(deployed)) => Some(deployed),
            _ => None,
        }
    }

    /// Why nothing may be done, if that is so.
    ///
    /// # Errors
    /// [`Error::WrongDatabase`] with every problem.
    pub fn require_right_databases(&self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        Err(Error::WrongDatabase(lines.join("\n")))
    }

    /// Whether a later version has taken away from a database what this version uses.
    ///
    /// # Errors
    /// [`Error::Unprepared`] with these databases.
    pub(super) fn require_usable_schemas(&self) -> Result<()> {
        if self.too_late.is_empty() {
            return Ok(());
        }
        Err(Error::Unprepared(format!(
            "a later version has migrated these databases, and older versions cannot use them any more; run that version\n  {}",
            self.too_late.join("\n  ")
        )))
    }

    /// What is to be said of databases that a later version has migrated, and that this version can use.
    pub(super) fn later_remarks(&self) -> impl Iterator<Item = String> + use<> {
        let lines = self.later.clone().into_iter();
        lines.map(|line| {
            format!("{line} of a later version; this version does not use what it brings")
        })
    }

    /// The deployment, if it may be used.
    ///
    /// # Errors
    /// As [`super::find`].
    pub fn deployed(self) -> Result<Deployed> {
        self.require_right_databases()?;
        self.require_usable_schemas()?;
        let remarks = self.later_remarks();
        let stage = self.stage?;
        if !self.lacking.is_empty() {
            return Err(unprepared(&self.lacking));
        }
        match stage {
            Stage::Made(mut deployed) => {
                deployed.remarks.extend(remarks);
                Ok(deployed)
            }
            Stage::New | Stage::Unfinished => Err(Error::Unprepared(
                "the deployment is not made to its end; run `backscroll migrate` with this configuration, then try again"
                    .into(),
            )),
        }
    }
}

fn unprepared(lacking: &[String]) -> Error {
    Error::Unprepared(format!(
        "the schema is not up to date; run `backscroll migrate` with this configuration, then try again\n  {}",
        lacking.join("\n  ")
    ))
}
