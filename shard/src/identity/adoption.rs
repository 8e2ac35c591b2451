//! `backscroll shards adopt`: another database takes the place of a shard's.
//!
//! An empty one after the shard's was lost, one that came back from a backup, or one whose row of `identity` or whose
//! fences were lost. Nothing else opens a fence or changes an identity once a deployment is made, so that no mistyped address
//! ever becomes a shard.
//!
//! The order, each step a transaction, and safe to die after:
//!
//! 1. the directory says that the shard is `joining`, with the next incarnation, and everything it owns gets the next epoch:
//!    from now on no router is answered by the database that was the shard's;
//! 2. the database gets its identity, and exactly the fences of what the directory gives the shard;
//! 3. the shard is `joined`.
//!
//! After a crash nothing is served until it is run again, which begins anew.

use serde::Serialize;
use serde_json::json;

use super::assessment::Assessment;
use super::making::{self, Hook, Making, Step, in_transaction, mark_anew};
use super::rules::foreign;
use super::survey::{Found, Kind, Survey};
use super::writer;
use crate::archive::{begin_job, end_job};
use crate::audit::{self, Act, Action, Reference};
use crate::db::identity::{DeploymentId, Identity, Misplaced, Role};
use crate::db::{Connection, Database};
use crate::directory::{self, Entries, Member, MemberState};
use crate::error::{Error, Result};
use crate::fence::{self, FenceState};
use crate::ids::{Incarnation, ShardName};
use crate::map::Assignment;
use crate::migrate;
use crate::settings::StoreSettings;

/// What an adoption does, or with a dry run would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// The shard.
    pub shard: ShardName,
    /// The database's address, without the password.
    pub address: String,
    /// What the database was, in words.
    pub was: String,
    /// Whether it has no data.
    pub is_empty: bool,
    /// Which in the row of the shard's databases it becomes.
    pub incarnation: Incarnation,
    /// What it then owns.
    pub ranges: Vec<Assignment>,
}

/// What an adoption of the database that is configured for `shard` would do. Changes nothing.
///
/// # Errors
/// [`Error::WrongDatabase`] when the database belongs to something else, or another database has what this one would own;
/// [`Error::Unprepared`] when the deployment is not made, or a database is away; [`Error::NotFound`] for a shard that is not
/// part of the deployment.
pub async fn plan(settings: &StoreSettings, shard: &ShardName) -> Result<Adoption> {
    let (survey, assessment) = super::examine(settings).await;
    let directory = survey.directory.found.as_ref().ok();
    let deployment = directory.and_then(|found| found.identity.as_ref());
    let deployment = deployment.map(|identity| identity.deployment);
    require_others(&survey, &assessment, (deployment, shard))?;
    let entries = directory.and_then(|found| found.entries.as_ref());
    let not_made =
        || Error::Unprepared("the deployment is not made; run `backscroll migrate`".into());
    let entries = entries.ok_or_else(not_made)?;
    let member = entries.members.get(shard);
    let member = member.ok_or(Error::NotFound("shard of this deployment"))?;
    let look = survey.shard(shard);
    let look = look.ok_or(Error::NotFound("shard in the configuration"))?;
    let found = look.found.as_ref().map_err(Error::clone)?;
    let ranges = owned(entries, shard);
    require_own(found, (deployment, shard), &ranges)
        .map_err(|leads_to| Misplaced::new(&look.role, &look.url, &leads_to))?;
    require_no_owner(&survey, shard, &ranges)?;
    let next = |a: Assignment| Assignment {
        epoch: a.epoch.next(),
        ..a
    };
    Ok(Adoption {
        shard: shard.clone(),
        address: look.url.redacted(),
        was: described(found),
        is_empty: found.kind == Kind::Empty,
        incarnation: member.incarnation.next(),
        ranges: ranges.into_iter().map(next).collect(),
    })
}

/// Gives the database that is configured for `shard` the shard's identity, and its fences.
///
/// # Errors
/// As [`plan`], before anything is written; when a database fails: run it again.
pub async fn adopt(
    settings: &StoreSettings,
    shard: &ShardName,
    (actor, reason): (&str, &str),
    hook: Hook<'_>,
) -> Result<Adoption> {
    let mut adoption = plan(settings, shard).await?;
    let configured = settings.shards.iter().find(|it| it.name == *shard);
    let url = &configured.ok_or(Error::NotFound("shard"))?.primary;
    migrate::migrate(&Role::Directory, &settings.directory.url).await?;
    migrate::migrate(&Role::Shard(shard.clone()), url).await?;
    hook(Step::ShardMigrated)?;

    let databases =
        [&settings.directory.url, url].map(|url| Database::open_any(url, &settings.pool));
    let [directory, database] = databases;
    let (directory, database) = (directory?, database?);
    let work = async {
        let mut directory = making::writer(&directory).await?;
        let mut connection = making::writer(&database).await?;
        // A directory that an older version left is marked by this.
        let making = Making::begin(&mut directory, settings).await?;
        let member = |state| Member {
            state,
            incarnation: adoption.incarnation,
        };
        adoption.ranges = in_transaction(&mut directory, async |connection| {
            directory::lock(connection, settings).await?;
            directory::set_member(connection, shard, member(MemberState::Joining)).await?;
            directory::next_epoch(connection, shard).await?;
            let entries = directory::entries(connection, true).await?;
            Ok(owned(&entries, shard))
        })
        .await?;
        hook(Step::DirectoryMarked)?;
        let identity = Identity {
            deployment: making.deployment(),
            role: Role::Shard(shard.clone()),
            incarnation: adoption.incarnation,
        };
        in_transaction(&mut connection, async |connection| {
            mark_anew(connection, &identity).await?;
            fence::reset(connection, &adoption.ranges.iter().collect::<Vec<_>>()).await?;
            writer::reset(connection).await?;
            put_down(connection, ("adopt", (actor, reason)), adoption.incarnation).await
        })
        .await?;
        hook(Step::ShardMarked)?;
        in_transaction(&mut directory, async |connection| {
            directory::lock(connection, settings).await?;
            directory::set_member(connection, shard, member(MemberState::Joined)).await?;
            let by = (actor, reason);
            let act = act(by, Action::ShardAdopt, (shard, adoption.incarnation));
            audit::append(connection, &act).await
        })
        .await?;
        hook(Step::Joined)
    };
    let outcome = work.await;
    directory.close().await;
    database.close().await;
    outcome.map(|()| adoption)
}

/// What is recorded of making a database a shard's.
pub(super) fn act(
    (actor, reason): (&str, &str),
    action: Action,
    (shard, incarnation): (&ShardName, Incarnation),
) -> Act {
    let act = Act::new(
        Reference::operator(actor),
        action,
        Some(Reference::shard(shard)),
    );
    act.because(reason)
        .with(json!({ "incarnation": incarnation }))
}

/// Who did it, and why, for the history of jobs.
pub(super) async fn put_down(
    connection: &mut Connection,
    (kind, (actor, reason)): (&str, (&str, &str)),
    incarnation: Incarnation,
) -> Result<()> {
    let id = begin_job(connection, (kind, actor, reason)).await?;
    let figures = format!("{{\"incarnation\":{incarnation}}}");
    end_job(connection, &id, ("done", &figures)).await
}

fn owned(entries: &Entries, shard: &ShardName) -> Vec<Assignment> {
    let assignments = entries.assignments.iter();
    assignments.filter(|a| a.shard == *shard).cloned().collect()
}

/// The directory is right, every other database is there, and none of them says that it is another one than its address
/// stands for. One that was lost as well does not matter.
fn require_others(
    survey: &Survey,
    assessment: &Assessment,
    (deployment, shard): (Option<DeploymentId>, &ShardName),
) -> Result<()> {
    let own = Role::Shard(shard.clone());
    let is_lost = |role: &Role| {
        let look = survey.shards.iter().find(|look| look.role == *role);
        let identity = look.and_then(|look| look.found.as_ref().ok()?.identity.as_ref());
        let is_own = |it: &Identity| it.role == *role && Some(it.deployment) == deployment;
        look.is_some() && identity.is_none_or(is_own)
    };
    let problems = assessment.problems.iter();
    let others = problems.filter(|problem| problem.role != own && !is_lost(&problem.role));
    let mut texts: Vec<String> = others.map(ToString::to_string).collect();
    // Of two addresses that lead to the same database neither is known to be the right one.
    let is_twin = |(one, other): &(Role, Role)| *one == own || *other == own;
    if survey.twins.iter().any(is_twin) {
        texts.push(format!(
            "another address leads to the same database as that of shard {shard}"
        ));
    }
    if !texts.is_empty() {
        return Err(Error::WrongDatabase(texts.join("\n")));
    }
    match survey.cannot_use() {
        Some(away) => Err(Error::Unprepared(away)),
        None => Ok(()),
    }
}

/// Nothing says that the database belongs to anything but the shard.
fn require_own(
    found: &Found,
    (deployment, shard): (Option<DeploymentId>, &ShardName),
    ranges: &[Assignment],
) -> std::result::Result<(), String> {
    let live = || {
        found
            .fences
            .iter()
            .filter(|it| it.state != FenceState::Gone)
    };
    match (&found.identity, &found.kind) {
        (Some(identity), _) if Some(identity.deployment) != deployment => {
            let (role, id) = (&identity.role, identity.deployment);
            Err(format!("{role} of another deployment ({id})"))
        }
        (Some(identity), _) if identity.role != Role::Shard(shard.clone()) => {
            Err(identity.role.to_string())
        }
        (Some(_), _) | (None, Kind::Empty) => Ok(()),
        (None, Kind::Foreign(table)) => Err(foreign(table)),
        (None, Kind::Directory) => Err("the database of a directory".into()),
        (None, Kind::Shard) => {
            let is_own = |range| ranges.iter().any(|owned| owned.range == range);
            match live().find(|fence| !is_own(fence.range)) {
                Some(fence) => Err(format!(
                    "a database with a fence for {}, which is not the shard's",
                    fence.range
                )),
                None => Ok(()),
            }
        }
    }
}

/// No other shard takes writes for what the directory gives this one (INV-OWNER).
fn require_no_owner(survey: &Survey, shard: &ShardName, ranges: &[Assignment]) -> Result<()> {
    for look in &survey.shards {
        let (Role::Shard(name), Ok(found)) = (&look.role, &look.found) else {
            continue;
        };
        let live = found
            .fences
            .iter()
            .filter(|fence| fence.state != FenceState::Gone);
        let mut owned = live.filter(|fence| {
            ranges
                .iter()
                .any(|owned| owned.range.overlaps(&fence.range))
        });
        if let Some(fence) = owned.next().filter(|_| name != shard) {
            return Err(Error::WrongDatabase(format!(
                "shard {name} has a fence for {}, which the directory gives {shard}",
                fence.range
            )));
        }
    }
    Ok(())
}

pub(super) fn described(found: &Found) -> String {
    match (&found.identity, &found.kind) {
        (Some(identity), _) => format!("{}, incarnation {}", identity.role, identity.incarnation),
        (None, Kind::Empty) => "empty".into(),
        (None, _) => "not marked".into(),
    }
}
