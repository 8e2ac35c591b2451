//! `backscroll shards add`: an empty database becomes a new shard of the deployment (INV-OWNER).
//!
//! The shard owns nothing at first; [`crate::moves`] gives it keys. The order, each step a transaction, and safe to die after:
//!
//! 1. the database gets its tables;
//! 2. the directory says that the shard is `joining`, with an incarnation that no earlier try had: of two commands that add
//!    different databases under one name, the later one counts, and the database of the earlier one is never taken for the shard's;
//! 3. the database gets its identity;
//! 4. the shard is `joined`. Steps 3 and 4 hold the lock of the directory, so that no other command comes between them.
//!
//! After a crash the deployment serves as before, without the shard, until the command is run again. A server whose configuration
//! names the shard uses it from 4 on (`Router::admit`).

use serde::Serialize;

use super::adoption::{act, described, put_down};
use super::deployed::Stage;
use super::making::{self, Hook, Step, in_transaction, mark_anew};
use super::rules::foreign;
use super::survey::{Found, Kind};
use super::writer;
use crate::audit::{self, Action};
use crate::db::identity::{DeploymentId, Identity, Misplaced, Role};
use crate::db::{Connection, Database};
use crate::directory::{self, Entries, Member, MemberState};
use crate::error::{Error, Result, StatementFault};
use crate::ids::{Incarnation, ShardName};
use crate::migrate;
use crate::settings::StoreSettings;

/// What adding a shard does, or with a dry run would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joining {
    /// The shard.
    pub shard: ShardName,
    /// The database's address, without the password.
    pub address: String,
    /// What the database was, in words.
    pub was: String,
    /// Whether it was the database of the shard already, so that nothing is to be done.
    pub is_joined: bool,
    /// Which in the row of the shard's databases it becomes, or is.
    pub incarnation: Incarnation,
}

/// Why a database cannot become the shard's, if it is not empty.
const REMEDY: &str = "or give the shard an empty database";
const OVERTAKEN: Error = Error::Conflict(
    "another process adds or adopts the shard, or has marked its database; run the command again when it is done",
);

/// What adding `shard` with the database that is configured for it would do. Changes nothing.
///
/// # Errors
/// [`Error::WrongDatabase`] when a database is not what its address stands for, or that of the shard is not empty;
/// [`Error::Unprepared`] when the deployment is not made, the shard is being adopted, or the directory or the shard's database is
/// away; [`Error::NotFound`] for a shard that is not in the configuration.
pub async fn plan(settings: &StoreSettings, shard: &ShardName) -> Result<Joining> {
    look(settings, shard).await.map(|(joining, _)| joining)
}

async fn look(settings: &StoreSettings, shard: &ShardName) -> Result<(Joining, DeploymentId)> {
    let (survey, assessment) = super::examine(settings).await;
    assessment.require_right_databases()?;
    assessment.require_usable_schemas()?;
    let look = survey.shard(shard);
    let look = look.ok_or(Error::NotFound("shard in the configuration"))?;
    for it in [&survey.directory, look] {
        if let Err(error) = &it.found {
            return Err(Error::Unprepared(format!(
                "cannot use {}: {error}",
                it.name()
            )));
        }
    }
    let (Stage::Made(deployed), Ok(found), Some(entries)) = (
        assessment.stage?,
        &look.found,
        survey
            .directory
            .found
            .as_ref()
            .ok()
            .and_then(|it| it.entries.as_ref()),
    ) else {
        return Err(Error::Unprepared(
            "the deployment is not made to its end; run `backscroll migrate` without the new shard, then try again".into(),
        ));
    };
    let member = member(entries, shard)?;
    let is_joined = member.is_some_and(|it| it.state == MemberState::Joined);
    if !is_joined {
        let deployment = deployed.deployment();
        require_unused(found, (deployment, shard), member)
            .map_err(|leads_to| Misplaced::new(&look.role, &look.url, &leads_to).or(REMEDY))?;
    }
    let incarnation = match member {
        Some(member) if is_joined => member.incarnation,
        Some(member) => member.incarnation.next(),
        None => Incarnation::FIRST,
    };
    let joining = Joining {
        shard: shard.clone(),
        address: look.url.redacted(),
        was: described(found),
        is_joined,
        incarnation,
    };
    Ok((joining, deployed.deployment()))
}

/// What the directory knows of a shard that may be added.
fn member(entries: &Entries, shard: &ShardName) -> Result<Option<Member>> {
    let member = entries.members.get(shard).copied();
    let owns = entries.assignments.iter().any(|a| a.shard == *shard);
    match member.map(|it| it.state) {
        Some(MemberState::Joining) if owns => Err(Error::Unprepared(format!(
            "shard {shard} is part of the deployment and is being adopted; run `backscroll shards adopt {shard}`"
        ))),
        Some(MemberState::Unmarked) => Err(Error::Unprepared(format!(
            "shard {shard} is part of the deployment, and its database is not marked; run `backscroll migrate`"
        ))),
        _ => Ok(member),
    }
}

/// The database is empty and nobody's, or was marked by a try of this command that was not finished.
fn require_unused(
    found: &Found,
    (deployment, shard): (DeploymentId, &ShardName),
    member: Option<Member>,
) -> std::result::Result<(), String> {
    match (&found.identity, &found.kind) {
        (Some(identity), _) if identity.deployment != deployment => Err(format!(
            "{} of another deployment ({})",
            identity.role, identity.deployment
        )),
        (Some(identity), _) if identity.role != Role::Shard(shard.clone()) => {
            Err(identity.role.to_string())
        }
        (Some(_), _) if member.is_none() => Err(format!(
            "a database of shard {shard}, which the directory does not know"
        )),
        (_, Kind::Empty) => Ok(()),
        (_, Kind::Foreign(table)) => Err(foreign(table)),
        (_, Kind::Directory) => Err("the database of a directory".into()),
        (_, Kind::Shard) => Err("a database with data or fences of a shard".into()),
    }
}

/// Adds `shard` with the database that is configured for it. Where that is done already, nothing changes.
///
/// # Errors
/// As [`plan`], before anything is written; [`Error::Conflict`] when another process does the same; when a database fails: run it
/// again.
pub async fn join(
    settings: &StoreSettings,
    shard: &ShardName,
    (actor, reason): (&str, &str),
    hook: Hook<'_>,
) -> Result<Joining> {
    let (mut joining, deployment) = look(settings, shard).await?;
    if joining.is_joined {
        return Ok(joining);
    }
    let configured = settings.shards.iter().find(|it| it.name == *shard);
    let url = &configured.ok_or(Error::NotFound("shard"))?.primary;
    migrate::migrate(&Role::Directory, &settings.directory.url).await?;
    migrate::migrate(&Role::Shard(shard.clone()), url).await?;
    hook(Step::ShardMigrated)?;

    let directory = Database::open_any(&settings.directory.url, &settings.pool)?;
    let database = Database::open_any(url, &settings.pool)?;
    let work = async {
        writer::claim(&database).await?;
        let mut directory = making::writer(&directory).await?;
        let mut connection = making::writer(&database).await?;
        let member = in_transaction(&mut directory, async |connection| {
            directory::lock(connection, settings).await?;
            begin(connection, (deployment, settings), shard).await
        })
        .await?;
        joining.incarnation = member.incarnation;
        hook(Step::DirectoryMarked)?;
        let identity = Identity {
            deployment,
            role: Role::Shard(shard.clone()),
            incarnation: member.incarnation,
        };
        directory.begin().await?;
        let finishing = async {
            let marking = async {
                mark(&mut connection, &identity, (actor, reason)).await?;
                hook(Step::ShardMarked)
            };
            finish(&mut directory, settings, (shard, member), marking).await?;
            let act = act(
                (actor, reason),
                Action::ShardAdd,
                (shard, member.incarnation),
            );
            audit::append(&mut directory, &act).await
        };
        match finishing.await {
            Ok(_) => directory.commit().await?,
            Err(error) => {
                directory.rollback().await;
                return Err(error);
            }
        }
        hook(Step::Joined)
    };
    let outcome = work.await;
    directory.close().await;
    database.close().await;
    outcome.map(|()| joining)
}

/// In a write transaction, after [`directory::lock`]: the shard is `joining`, with an incarnation of this try's own.
async fn begin(
    connection: &mut Connection,
    (deployment, settings): (DeploymentId, &StoreSettings),
    shard: &ShardName,
) -> Result<Member> {
    let expected = Identity::of_directory(deployment);
    let found = connection.identity().await?;
    expected.require(found.as_ref(), &settings.directory.url)?;
    let joining = |incarnation| Member {
        state: MemberState::Joining,
        incarnation,
    };
    let entries = directory::entries(connection, true).await?;
    match member(&entries, shard)? {
        Some(known) if known.state == MemberState::Joined => Err(OVERTAKEN),
        Some(known) => {
            let next = joining(known.incarnation.next());
            directory::set_member(connection, shard, next).await?;
            Ok(next)
        }
        None => {
            let first = joining(Incarnation::FIRST);
            directory::insert_member(connection, shard, first).await?;
            Ok(first)
        }
    }
}

/// In a write transaction: the shard is `joined` once its database is marked, unless another command has come between.
async fn finish(
    connection: &mut Connection,
    settings: &StoreSettings,
    (shard, member): (&ShardName, Member),
    marking: impl Future<Output = Result<()>>,
) -> Result<()> {
    directory::lock(connection, settings).await?;
    let entries = directory::entries(connection, true).await?;
    if entries.members.get(shard) != Some(&member) {
        return Err(OVERTAKEN);
    }
    marking.await?;
    let joined = Member {
        state: MemberState::Joined,
        ..member
    };
    directory::set_member(connection, shard, joined).await
}

/// Marks the database of the shard, and puts down who did it, and why. The caller holds the lock of the directory.
async fn mark(connection: &mut Connection, identity: &Identity, by: (&str, &str)) -> Result<()> {
    let marked = in_transaction(connection, async |connection| {
        match connection.identity().await? {
            None => making::mark(connection, identity).await?,
            Some(found) if found == *identity => return Ok(()),
            Some(found) => {
                let is_earlier = found.incarnation < identity.incarnation;
                let is_own = found.deployment == identity.deployment && found.role == identity.role;
                if !is_own || !is_earlier {
                    return Err(OVERTAKEN);
                }
                mark_anew(connection, identity).await?;
            }
        }
        put_down(connection, ("add", by), identity.incarnation).await
    });
    match marked.await {
        Err(Error::Statement {
            fault: StatementFault::UniqueKey,
            ..
        }) => Err(OVERTAKEN),
        outcome => outcome,
    }
}
