//! Sanctions: what moderators impose on users, for the whole deployment.
//!
//! They are rows of the directory. Each change of one takes the next `rev`, in a transaction that keeps all others waiting, so that
//! a node which has read up to a rev misses nothing below it. Every node holds the sanctions that are in force, asks for later revs
//! several times a second, and goes on with what it knows while the directory is away: a sanction is neither forgotten then, nor
//! is anybody shut out. One that is imposed through a node holds there at once.
//!
//! | kind | what it forbids |
//! |---|---|
//! | mute | whatever others would see: sending, editing, reacting, typing, starting conversations, adding members, files |
//! | suspend, ban | everything: no request is answered, no connection stays open |
//! | revoke | the same, with a token that was issued before: the user signs in again |
//!
//! Each change is recorded in the audit log, in its own transaction ([`crate::audit`]).
//!
//! A crash leaves nothing but what was committed. A node that starts while the directory is away knows none until it is back.

mod held;
mod rows;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use self::held::Held;
use crate::audit::{self, Act, Action, Reference};
use crate::db::Connection;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::model::Timestamp;
use crate::routing::Router;

/// How long a change of a sanction, and asking for changes, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest reason, in characters.
const REASON_MAX_CHARACTERS: usize = 500;
/// Most sanctions of a user that are in force at once, and most that are listed: the newest.
const OF_USER_MAX: usize = 100;

/// What is imposed, from what is least grave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SanctionKind {
    /// The user's tokens that were issued until now are refused: the user signs in again.
    Revoke,
    /// The user reads, and does nothing that others would see.
    Mute,
    /// The user is shut out until a time.
    Suspend,
    /// The user is shut out until the ban is lifted.
    Ban,
}

impl SanctionKind {
    const ALL: [Self; 4] = [Self::Revoke, Self::Mute, Self::Suspend, Self::Ban];

    /// As stored, and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mute => "mute",
            Self::Suspend => "suspend",
            Self::Ban => "ban",
            Self::Revoke => "revoke",
        }
    }
}

/// A sanction to be imposed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSanction {
    /// What is imposed.
    pub kind: SanctionKind,
    /// Until when, in the future. A suspension needs it, a ban and a revocation have none; a mute without it holds until it is lifted.
    #[serde(default)]
    #[schema(nullable = false)]
    pub until: Option<Timestamp>,
    /// Why, for the user and for other moderators. 1 to 500 characters.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
}

impl NewSanction {
    fn check(&self, now: Timestamp) -> Result<()> {
        let characters = self.reason.chars().count();
        if self.reason.trim().is_empty() || characters > REASON_MAX_CHARACTERS {
            let rule = format!("1 to {REASON_MAX_CHARACTERS} characters");
            return Err(Error::invalid("reason", rule));
        }
        match (self.kind, self.until) {
            (SanctionKind::Suspend, None) => Err(Error::invalid(
                "until",
                "a suspension ends at a time; to shut a user out without an end, impose a ban",
            )),
            (SanctionKind::Ban, Some(_)) => Err(Error::invalid(
                "until",
                "a ban has no end; to shut a user out until a time, impose a suspension",
            )),
            (SanctionKind::Revoke, Some(_)) => Err(Error::invalid(
                "until",
                "a revocation has no end; tokens that are issued after it are accepted",
            )),
            (_, Some(until)) if until <= now || until > Timestamp::MAX => {
                Err(Error::invalid("until", "a time in the future"))
            }
            _ => Ok(()),
        }
    }
}

/// A sanction, in force or not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sanction {
    /// The user on whom it was imposed.
    pub user_id: UserId,
    /// What was imposed.
    pub kind: SanctionKind,
    /// Until when; none: until it is lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// The moderator that imposed it.
    pub imposed_by: UserId,
    /// When, by the directory's clock.
    pub imposed_at: Timestamp,
    /// The moderator that lifted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifted_by: Option<UserId>,
    /// When it was lifted, by the directory's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifted_at: Option<Timestamp>,
}

/// A sanction that forbids what its user asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Sanctioned {
    /// What was imposed.
    pub kind: SanctionKind,
    /// Until when; none: until it is lifted.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: Arc<str>,
}

impl Sanctioned {
    fn text(&self) -> String {
        let what = match self.kind {
            SanctionKind::Mute => "you are muted",
            SanctionKind::Suspend => "you are suspended",
            SanctionKind::Ban => "you are banned",
            SanctionKind::Revoke => "the token was revoked, get a new one",
        };
        let until = self.until.map(|until| format!(" until {until}"));
        format!("{what}{}: {}", until.unwrap_or_default(), self.reason)
    }
}

/// The sanctions in force, as this node knows them.
#[derive(Debug)]
pub struct Sanctions {
    router: Arc<Router>,
    held: Held,
    changed: watch::Sender<()>,
    /// Held while changes are read, so that they are taken in by their order.
    reading: tokio::sync::Mutex<()>,
}

impl Sanctions {
    pub(crate) fn new(router: &Arc<Router>) -> Self {
        Self {
            router: Arc::clone(router),
            held: Held::default(),
            changed: watch::channel(()).0,
            reading: tokio::sync::Mutex::default(),
        }
    }

    fn directory(&self) -> &Directory {
        self.router.directory()
    }

    /// Whether `user` may ask for anything at all, with a token that was issued at a time, in seconds since 1970. Of a token that
    /// does not tell, the worst is believed.
    ///
    /// # Errors
    /// The suspension, ban or revocation that forbids it.
    pub fn admit(&self, user: &UserId, issued_at: Option<u64>) -> Result<(), Sanctioned> {
        let shuts_out = |kind, imposed_at: Timestamp| match kind {
            SanctionKind::Mute => false,
            SanctionKind::Suspend | SanctionKind::Ban => true,
            SanctionKind::Revoke => issued_at.is_none_or(|at| {
                i64::try_from(at).unwrap_or(i64::MAX) <= imposed_at.0.div_euclid(1000)
            }),
        };
        self.held.find(user, Timestamp::now(), shuts_out)
    }

    /// Whether `user` may do what others would see.
    ///
    /// # Errors
    /// [`Error::Sanctioned`] with the sanction that forbids it.
    pub fn may_speak(&self, user: &UserId) -> Result<()> {
        let forbids = |kind, _| kind != SanctionKind::Revoke;
        let found = self.held.find(user, Timestamp::now(), forbids);
        found.map_err(|sanctioned| Error::Sanctioned(Box::new(sanctioned)))
    }

    /// Tells that sanctions have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Imposes a sanction on `user`. This does not authorize: callers check for the role of a moderator.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::LimitReached`], [`Error::DirectoryUnavailable`].
    pub async fn impose(
        &self,
        moderator: &UserId,
        user: &UserId,
        new: &NewSanction,
    ) -> Result<Sanction> {
        user.check_new()?;
        new.check(Timestamp::now())?;
        if user == moderator {
            let rule = "another user than yourself, whom it would keep from lifting it";
            return Err(Error::invalid("userId", rule));
        }
        let mut connection = self.begin().await?;
        let imposing = async {
            let sanction = rows::impose(&mut connection, (moderator, user), new).await?;
            let act = act(moderator, Action::SanctionImpose, user).because(&new.reason);
            let act = act.with(json!({ "kind": new.kind, "until": new.until }));
            audit::append(&mut connection, &act).await?;
            Ok(sanction)
        };
        let imposed = imposing.await;
        let sanction = finish(connection, imposed).await?;
        self.refresh_now().await;
        Ok(sanction)
    }

    /// Lifts the sanctions of `user` that are in force: those of `kind`, or all. Gives those that it lifted. This does not authorize,
    /// either.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, [`Error::DirectoryUnavailable`].
    pub async fn lift(
        &self,
        moderator: &UserId,
        user: &UserId,
        kind: Option<SanctionKind>,
    ) -> Result<Vec<Sanction>> {
        let mut connection = self.begin().await?;
        let lifting = async {
            let lifted = rows::lift(&mut connection, (moderator, user), kind).await?;
            if !lifted.is_empty() {
                let kinds: Vec<SanctionKind> = lifted.iter().map(|it| it.kind).collect();
                let act = act(moderator, Action::SanctionLift, user);
                let act = act.with(json!({ "kinds": kinds }));
                audit::append(&mut connection, &act).await?;
            }
            Ok(lifted)
        };
        let lifted = lifting.await;
        let lifted = finish(connection, lifted).await?;
        if lifted.is_empty() {
            return Err(Error::NotFound("sanction in force"));
        }
        self.refresh_now().await;
        Ok(lifted)
    }

    /// The newest sanctions of `user`, at most 100, newest first, also those that are not in force any more.
    ///
    /// # Errors
    /// [`Error::DirectoryUnavailable`].
    pub async fn of_user(&self, user: &UserId) -> Result<Vec<Sanction>> {
        let read = async {
            let deadline = Instant::now() + PATIENCE;
            let mut connection = self.directory().database().reader(deadline).await?;
            rows::of_user(&mut connection, user).await
        };
        read.await.map_err(Error::in_directory)
    }

    /// A transaction in the directory.
    async fn begin(&self) -> Result<Connection> {
        let begin = async {
            let deadline = Instant::now() + PATIENCE;
            let mut connection = self.directory().database().writer(deadline).await?;
            connection.begin().await?;
            Ok(connection)
        };
        begin.await.map_err(Error::in_directory)
    }

    /// Takes in what was just committed; what cannot be read now is read by the next look.
    async fn refresh_now(&self) {
        if let Err(error) = self.refresh().await {
            tracing::warn!(%error, "a change of sanctions could not be read back yet");
        }
    }

    /// Reads what has changed.
    ///
    /// # Errors
    /// When the directory is away; what is known stays.
    pub async fn refresh(&self) -> Result<()> {
        let _reading = self.reading.lock().await;
        let mut has_changed = false;
        loop {
            let deadline = Instant::now() + PATIENCE;
            let mut connection = self.directory().database().reader(deadline).await?;
            let changes = rows::changes(&mut connection, self.held.rev()).await?;
            drop(connection);
            let whole = changes.len() < rows::CHANGES_AT_ONCE;
            has_changed |= !changes.is_empty();
            self.held.take_in(changes, Timestamp::now());
            if whole {
                break;
            }
        }
        if has_changed {
            self.changed.send_replace(());
        }
        Ok(())
    }

    /// Reads changes every `interval` until `closing`. That the directory is away is logged by those who watch the map.
    pub(crate) async fn watch(self: Arc<Self>, interval: Duration, closing: CancellationToken) {
        loop {
            if let Err(error) = self.refresh().await {
                tracing::debug!(%error, "changes of sanctions could not be read");
            }
            let rest = tokio::time::sleep(interval);
            if closing.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }
}

/// What a moderator does to a user.
fn act(moderator: &UserId, action: Action, user: &UserId) -> Act {
    Act::new(
        Reference::user(moderator),
        action,
        Some(Reference::user(user)),
    )
}

/// Commits what was done, or undoes it.
async fn finish<T>(mut connection: Connection, outcome: Result<T>) -> Result<T> {
    let outcome = match outcome {
        Ok(value) => connection.commit().await.map(|()| value),
        Err(error) => {
            connection.rollback().await;
            Err(error)
        }
    };
    outcome.map_err(Error::in_directory)
}
