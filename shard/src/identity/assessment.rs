//! What a survey says: whether every database is what its address stands for, and how far the deployment is.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Assessor;
use super::{DeploymentId, Identity, Misplaced, Role, Survey, unprepared};
use crate::error::{Error, Result};
use crate::ids::{Incarnation, ShardName};
use crate::map::ShardMap;
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

/// How far a deployment is.
#[derive(Debug)]
pub(super) enum Stage {
    /// There is none: all databases are empty.
    New,
    /// It is being made, or some of its databases are not marked yet.
    Unfinished,
    /// It is there.
    Made(Deployed),
}

/// A deployment whose databases were found to be what their addresses stand for. Only [`super::find`] gives one.
#[derive(Clone, Debug)]
pub struct Deployed {
    pub(super) deployment: DeploymentId,
    pub(super) map: ShardMap,
    pub(super) members: BTreeMap<ShardName, Incarnation>,
    pub(super) remarks: Vec<String>,
}

impl Deployed {
    /// Its id.
    #[must_use]
    pub fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// Which shard owns which keys.
    #[must_use]
    pub fn map(&self) -> &ShardMap {
        &self.map
    }

    /// What the directory has to be.
    #[must_use]
    pub fn directory(&self) -> Identity {
        Identity::of_directory(self.deployment)
    }

    /// What a shard's database has to be; nothing for a shard that is configured but not part of the deployment.
    #[must_use]
    pub fn shard(&self, name: &ShardName) -> Option<Identity> {
        let incarnation = *self.members.get(name)?;
        Some(self.joined(name, incarnation))
    }

    /// What the database of a shard has to be that is part of the deployment with this incarnation.
    pub(crate) fn joined(&self, name: &ShardName, incarnation: Incarnation) -> Identity {
        Identity {
            deployment: self.deployment,
            role: Role::Shard(name.clone()),
            incarnation,
        }
    }

    /// What of the configuration has no effect, and may be thought to have one.
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
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
