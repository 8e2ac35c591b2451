//! A deployment as far as it is made, and one whose databases may be used.

use std::collections::BTreeMap;

use crate::db::identity::{DeploymentId, Identity, Role};
use crate::ids::{Incarnation, ShardName};
use crate::map::ShardMap;

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
