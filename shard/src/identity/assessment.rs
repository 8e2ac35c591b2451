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
        Some(Identity {
            deployment: self.deployment,
            role: Role::Shard(name.clone()),
            incarnation,
        })
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

    /// The deployment, if it may be used.
    ///
    /// # Errors
    /// As [`super::find`].
    pub fn deployed(self) -> Result<Deployed> {
        self.require_right_databases()?;
        let stage = self.stage?;
        if !self.lacking.is_empty() {
            return Err(unprepared(&self.lacking));
        }
        match stage {
            Stage::Made(deployed) => Ok(deployed),
            Stage::New | Stage::Unfinished => Err(Error::Unprepared(
                "the deployment is not made to its end; run `backscroll migrate` with this configuration, then try again"
                    .into(),
            )),
        }
    }
}
