//! From what was seen to what may be done.
//!
//! | the database of a shard | and the directory | so |
//! |---|---|---|
//! | says that it is this shard of this deployment, and has the fences of what the directory gives it | | it is used |
//! | says that it is anything else | | refused |
//! | is empty, or is not marked | says that its database is marked | refused |
//! | is empty | says that its database is being made | `migrate` goes on with that |
//! | is empty, or is marked with an earlier try | says that it is being added to a deployment that is made | it is not used; `shards add` goes on with that |
//! | is not marked, and its fences are exactly what the directory gives it | was written by a version that marked none | `migrate` marks it |
//! | is not marked, and its fences are not that | likewise | refused |
//! | is empty, all of them | is empty as well | `migrate` makes a deployment |
//! | is not empty, one of them | is empty | refused |
//!
//! A fence that a move is about to cut or to open is no fence that is missing.

use std::collections::{BTreeMap, BTreeSet};

use super::deployed::{Deployed, Stage};
use super::survey::{Found, Kind, Look, Survey};
use crate::db::identity::{DeploymentId, Identity, Misplaced, Role};
use crate::directory::{self, Entries, MemberState};
use crate::error::{Error, Result};
use crate::fence::{self, Fence, FenceState};
use crate::ids::ShardName;
use crate::map::{Assignment, ShardMap};
use crate::range::KeyRange;
use crate::settings::StoreSettings;

/// What may be right where the address is.
const RESTORE: &str = "or bring the directory back from a backup";

/// Looks at one database after the other.
pub(super) struct Assessor<'a> {
    survey: &'a Survey,
    settings: &'a StoreSettings,
    /// As far as it is known.
    deployment: Option<DeploymentId>,
    pub(super) problems: Vec<Misplaced>,
}

impl<'a> Assessor<'a> {
    pub(super) fn new(survey: &'a Survey, settings: &'a StoreSettings) -> Self {
        Self {
            survey,
            settings,
            deployment: None,
            problems: Vec::new(),
        }
    }

    /// Finds the problems.
    pub(super) fn check(&mut self) {
        self.check_directory();
        self.check_shards();
        self.check_twins();
    }

    /// What the directory has; nothing when it is away, empty, or not the directory.
    fn entries(&self) -> Option<&'a Entries> {
        let found = self.survey.directory.found.as_ref().ok()?;
        let is_directory = match &found.identity {
            Some(identity) => identity.role == Role::Directory,
            None => found.kind == Kind::Directory,
        };
        found.entries.as_ref().filter(|_| is_directory)
    }

    /// The ranges of moves that are under way, as far as the directory can be asked.
    fn moving(&self) -> &'a [KeyRange] {
        let found = self.survey.directory.found.as_ref();
        found.map_or(&[], |found| &found.moving)
    }

    fn check_directory(&mut self) {
        let look = &self.survey.directory;
        let identities = self.survey.shards.iter().filter_map(identity_of);
        let of_shards = identities.map(|identity| identity.deployment).next();
        let Ok(found) = &look.found else {
            self.deployment = of_shards;
            return;
        };
        let leads_to = |what: &str| Misplaced::new(&look.role, &look.url, what);
        let problem = match (&found.identity, &found.kind) {
            (Some(identity), kind) => {
                self.deployment = Some(identity.deployment);
                let expected = Identity::of_directory(identity.deployment);
                match (expected.require(Some(identity), &look.url), kind) {
                    (Err(problem), _) => problem,
                    (Ok(()), Kind::Directory) => return,
                    (Ok(()), _) => leads_to("a directory that has lost its map").or(RESTORE),
                }
            }
            (None, Kind::Empty) => match self.survey.shards.iter().find(|look| is_used(look)) {
                None => return,
                Some(shard) => {
                    let what = format!("an empty database, but {} is not", shard.name());
                    leads_to(&what).or(RESTORE)
                }
            },
            (None, Kind::Foreign(table)) => leads_to(&foreign(table)),
            (None, Kind::Shard) => leads_to("the database of a shard"),
            (None, Kind::Directory) => match of_shards {
                None => return,
                Some(deployment) => {
                    let what =
                        format!("a directory that is not marked, but the shards are: {deployment}");
                    leads_to(&what).or(RESTORE)
                }
            },
        };
        self.problems.push(problem);
    }

    fn check_shards(&mut self) {
        for look in &self.survey.shards {
            if let (Role::Shard(name), Ok(found)) = (&look.role, &look.found) {
                self.problems.extend(self.check_shard(name, look, found));
            }
        }
    }

    /// Why a database is not that of shard `name`, if so.
    fn check_shard(&self, name: &ShardName, look: &Look, found: &Found) -> Option<Misplaced> {
        let member = self.entries().and_then(|entries| entries.members.get(name));
        if let Some(identity) = &found.identity {
            let joined = member.filter(|member| member.state == MemberState::Joined);
            let expected = Identity {
                deployment: self.deployment.unwrap_or(identity.deployment),
                role: look.role.clone(),
                incarnation: joined.map_or(identity.incarnation, |member| member.incarnation),
            };
            let required = expected.require(Some(identity), &look.url).err();
            return required.or_else(|| self.lost_fences(name, look, found));
        }
        let leads_to = |what: &str| Misplaced::new(&look.role, &look.url, what);
        let adopt = |when: &str| format!("{when}, `backscroll shards adopt {name}`");
        match (&found.kind, member.map(|member| member.state)) {
            (Kind::Foreign(table), _) => Some(leads_to(&foreign(table))),
            (Kind::Directory, _) => Some(leads_to("the database of a directory")),
            (Kind::Empty, Some(MemberState::Joining)) => None,
            (Kind::Empty, Some(MemberState::Unmarked)) if self.owned(name).is_empty() => None,
            (Kind::Empty, Some(_)) => {
                let what = format!(
                    "an empty database, and shard {name} has {}",
                    shown(&self.owned(name))
                );
                let when = "bring the shard back from a backup; or, to begin it anew with an empty database";
                Some(leads_to(&what).or(&adopt(when)))
            }
            (Kind::Shard, Some(MemberState::Unmarked)) => {
                let differences = self.disagreement(name, found)?;
                let what = format!("a database{}: {differences}", self.whose(found));
                Some(leads_to(&what).or(&adopt("if it is the shard's all the same")))
            }
            (Kind::Shard, Some(_)) => {
                let what = format!("a database that is not marked{}", self.whose(found));
                Some(leads_to(&what).or(&adopt("if it is a backup of the shard")))
            }
            (_, None) => None, // not part of the deployment, and not used
        }
    }

    /// A marked database without the fences that the directory knows of.
    fn lost_fences(&self, name: &ShardName, look: &Look, found: &Found) -> Option<Misplaced> {
        let mut lost = self.owned(name);
        let moving = self.moving();
        let is_there = |a: &Assignment, it: &Fence| it.range == a.range && it.epoch == a.epoch;
        // Where a move is under way the directory is changed first, and the fences follow ([`crate::moves`]).
        let is_cut_later = |a: &Assignment, it: &Fence| {
            it.epoch.next() == a.epoch
                && it.range.covers(&a.range)
                && moving.iter().any(|range| it.range.covers(range))
        };
        lost.retain(|a| {
            let mut fences = found.fences.iter();
            let opens_later = moving.contains(&a.range);
            !opens_later && !fences.any(|fence| is_there(a, fence) || is_cut_later(a, fence))
        });
        if lost.is_empty() {
            return None;
        }
        let what = format!(
            "a database of shard {name} without the fences of {}",
            shown(&lost)
        );
        let adopt = format!("if it is a backup of the shard, `backscroll shards adopt {name}`");
        Some(Misplaced::new(&look.role, &look.url, &what).or(&adopt))
    }

    /// How the fences of a database that is not marked differ from what the directory gives the shard, in words.
    fn disagreement(&self, name: &ShardName, found: &Found) -> Option<String> {
        let map = self.entries()?.map().ok()?;
        let differences = fence::disagreements(&map, name, &found.fences);
        (!differences.is_empty()).then(|| differences.join(", "))
    }

    /// Whose fences a database has, if they are all those of one shard.
    fn whose(&self, found: &Found) -> String {
        let whose = || {
            let map = self.entries()?.map().ok()?;
            let members = self.entries()?.members.keys();
            let mut owners = members.filter(|name| map.ranges_of(name).next().is_some());
            owners
                .find(|name| fence::disagreements(&map, name, &found.fences).is_empty())
                .map(|name| format!(" with the fences of shard {name}"))
        };
        whose().unwrap_or_default()
    }

    fn owned(&self, name: &ShardName) -> Vec<&'a Assignment> {
        let assignments = self
            .entries()
            .map_or(&[][..], |entries| &entries.assignments);
        let owned = assignments.iter().filter(|a| a.shard == *name);
        owned.collect()
    }

    fn check_twins(&mut self) {
        for (first, second) in &self.survey.twins {
            let name = |role: &Role| match role {
                Role::Shard(name) => self.survey.shard(name).map(Look::name),
                Role::Directory => None,
            };
            let names: Vec<String> = [first, second].into_iter().filter_map(name).collect();
            self.problems.push(Misplaced {
                role: second.clone(),
                what: format!(
                    "the addresses of {} lead to the same database",
                    names.join(" and ")
                ),
                remedy: format!("correct {}: every shard needs its own", second.key()),
            });
        }
    }

    /// How far the deployment is, where there are no problems.
    pub(super) fn stage(&self) -> Result<Stage> {
        let Ok(directory) = &self.survey.directory.found else {
            return self.stage_without_directory();
        };
        let Some(entries) = self.entries() else {
            return Ok(Stage::New);
        };
        self.fits(entries)?;
        let mut members = BTreeMap::new();
        for shard in &self.settings.shards {
            match entries.members.get(&shard.name) {
                Some(member) if member.state == MemberState::Joined => {
                    members.insert(shard.name.clone(), member.incarnation);
                }
                Some(_) if self.is_added(entries, &shard.name) => {}
                Some(_) => return Ok(Stage::Unfinished),
                None => {}
            }
        }
        let Some(identity) = &directory.identity else {
            return Ok(Stage::Unfinished);
        };
        Ok(Stage::Made(Deployed {
            deployment: identity.deployment,
            map: entries.map()?,
            members,
            remarks: self.remarks(),
        }))
    }

    /// The map put together from the fences of the shards, which all have to be there then.
    fn stage_without_directory(&self) -> Result<Stage> {
        let unavailable = |why: String| {
            let away = self.survey.cannot_use().unwrap_or_default();
            let what = "no map can be put together from the fences of the shards";
            Error::DirectoryUnavailable(format!("{what}: {why}; {away}"))
        };
        let mut members = BTreeMap::new();
        let mut assignments = Vec::new();
        for look in &self.survey.shards {
            let (Role::Shard(name), Ok(found)) = (&look.role, &look.found) else {
                return Err(unavailable("not all of them are there".into()));
            };
            // One that is not marked may be none of the deployment's; if it is missed, the map has a gap.
            let Some(identity) = &found.identity else {
                continue;
            };
            members.insert(name.clone(), identity.incarnation);
            let live = found
                .fences
                .iter()
                .filter(|it| it.state != FenceState::Gone);
            assignments.extend(live.map(|fence| Assignment {
                range: fence.range,
                shard: name.clone(),
                epoch: fence.epoch,
            }));
        }
        let map = ShardMap::new(assignments).map_err(|error| unavailable(error.to_string()))?;
        let deployment = self.deployment;
        let deployment = deployment.ok_or_else(|| unavailable("none is marked".into()))?;
        Ok(Stage::Made(Deployed {
            deployment,
            map,
            members,
            remarks: Vec::new(),
        }))
    }

    /// Whether the configuration fits what was decided when the deployment was made.
    fn fits(&self, entries: &Entries) -> Result<()> {
        let configured = self.settings.keyspace.function.name();
        if entries.key_function != configured {
            let rule = format!(
                "this deployment's users are placed by `{}`, not by `{configured}`; that cannot be changed",
                entries.key_function
            );
            return Err(Error::invalid("keyspace.function", rule));
        }
        for assignment in &entries.assignments {
            let mut shards = self.settings.shards.iter();
            if !shards.any(|shard| shard.name == assignment.shard) {
                let missing = format!(
                    "the directory gives keys to shard `{}`, which is not configured",
                    assignment.shard
                );
                return Err(Error::invalid("shards", missing));
            }
        }
        Ok(())
    }

    /// Whether a shard is being added to a deployment that is made ([`super::joining`]): it has no keys yet, so that everything
    /// is served without it.
    fn is_added(&self, entries: &Entries, name: &ShardName) -> bool {
        let has_state = |name, state| {
            entries
                .members
                .get(name)
                .is_some_and(|it| it.state == state)
        };
        let mut names = entries.members.keys();
        has_state(name, MemberState::Joining)
            && self.owned(name).is_empty()
            && names.any(|other| has_state(other, MemberState::Joined))
    }

    /// Shards that are configured, and not part of the deployment.
    pub(super) fn outsiders(&self) -> BTreeSet<ShardName> {
        let Some(entries) = self.entries() else {
            return BTreeSet::new();
        };
        let names = self.settings.shards.iter().map(|shard| &shard.name);
        let outsiders = names.filter(|name| !entries.members.contains_key(*name));
        outsiders.cloned().collect()
    }

    /// What has no effect, and may be thought to have one.
    pub(super) fn remarks(&self) -> Vec<String> {
        let Some(entries) = self.entries() else {
            return Vec::new();
        };
        let mut remarks = Vec::new();
        for shard in &self.settings.shards {
            let name = &shard.name;
            if !entries.members.contains_key(name) {
                remarks.push(format!(
                    "shard {name} is in the configuration, but is not part of the deployment: it owns no keys, and its \
                     database is not used; `backscroll shards add {name}` makes it part of the deployment"
                ));
            } else if self.is_added(entries, name) {
                remarks.push(format!(
                    "adding shard {name} was begun, and is not done: run `backscroll shards add {name}` again"
                ));
            } else if self.owned(name).is_empty() {
                remarks.push(format!(
                    "shard {name} owns no keys: nothing is stored on it"
                ));
            }
        }
        let first = || directory::first_ranges(&entries.assignments);
        let first = entries.first_ranges.clone().unwrap_or_else(first);
        let configured = directory::configured_ranges(&self.settings.keyspace);
        if configured.is_some_and(|configured| configured != first) {
            remarks.push(
                "keyspace.ranges has no effect: it counted when the deployment was made, and was changed since, or was not given \
                 then; `backscroll shards list` shows which shard owns what"
                    .into(),
            );
        }
        remarks
    }
}

fn identity_of(look: &Look) -> Option<&Identity> {
    look.found.as_ref().ok()?.identity.as_ref()
}

fn is_used(look: &Look) -> bool {
    let found = look.found.as_ref();
    found.is_ok_and(|found| found.identity.is_some() || found.kind == Kind::Shard)
}

/// A database that is somebody else's, in words.
pub(super) fn foreign(table: &str) -> String {
    format!("a database with tables of something else (`{table}`)")
}

fn shown(owned: &[&Assignment]) -> String {
    let ranges: Vec<String> = owned
        .iter()
        .map(|a| format!("{} at epoch {}", a.range, a.epoch))
        .collect();
    match ranges.is_empty() {
        true => "no keys".into(),
        false => ranges.join(", "),
    }
}
