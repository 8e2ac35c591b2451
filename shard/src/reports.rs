//! Reports: what a reader of a message tells the moderators of it.
//!
//! A report is a row of the directory: moderators read one list, whichever shards the conversations are on, and no move concerns it. It
//! holds the message as its reporter was shown it, so an edit or a deletion afterwards hides nothing. Whoever cannot read a message
//! cannot report it, and learns nothing by trying ([`Store::report`](crate::store::Store::report) reads it as any reader does, out of both
//! tiers). A user reports a message once.
//!
//! The evidence stays until the report is resolved, and 90 days more; then it is taken out, and that there was a report stays. An
//! erasure of the message does not reach it before.
//!
//! A resolution says what the moderator decided, and is recorded in the audit log in the same transaction. It does nothing by itself:
//! messages are deleted, and users are sanctioned, by their own calls.
//!
//! A crash leaves nothing but what was committed.

mod rows;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use self::rows::Reported;
use crate::audit::{self, Act, Action, Reference};
use crate::db::Connection;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::ids::{ConversationId, MessageId, ReportId, Rev, UserId};
use crate::model::{Message, MessageType, RawJson, Timestamp};
use crate::routing::Router;

/// How long a look-up or a change in the directory may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest note, in characters.
const NOTE_MAX_CHARACTERS: usize = 500;
/// Most reports of one user that are open at once.
const OPEN_MAX: i64 = 100;
/// How long the evidence stays after a report is resolved.
const EVIDENCE_DAYS: i64 = 90;
/// Most reports in a page.
pub const REPORTS_MAX: usize = 100;
/// How often evidence is looked for whose time has come.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// Most reports whose evidence one transaction takes out.
const FORGOTTEN_AT_ONCE: usize = 256;

macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $of:literal])+ $word:ident = $text:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[doc = $of])+ $word,)+
        }

        impl $name {
            /// As stored, and in the API.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)+
                }
            }

            fn of(name: &str) -> Option<Self> {
                [$(Self::$word),+].into_iter().find(|it| it.name() == name)
            }
        }
    };
}

words! {
    /// Why a message is reported.
    ReportReason {
        /// Advertising, or the same again and again.
        Spam = "spam",
        /// Insults, threats, persecution.
        Harassment = "harassment",
        /// Against a group of people.
        Hate = "hate",
        /// Violence, or praise of it.
        Violence = "violence",
        /// Unwanted sexual content.
        Sexual = "sexual",
        /// Against the law.
        Illegal = "illegal",
        /// As the note says.
        Other = "other",
    }
}

words! {
    /// How far a report is.
    ReportState {
        /// Nobody has decided.
        Open = "open",
        /// A moderator has.
        Resolved = "resolved",
    }
}

words! {
    /// What a moderator decided.
    Verdict {
        /// The message breaks no rule.
        Dismissed = "dismissed",
        /// The user was told.
        Warned = "warned",
        /// The message was deleted.
        Deleted = "deleted",
        /// The user was sanctioned.
        Sanctioned = "sanctioned",
    }
}

/// A report to be made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReport {
    /// Why.
    pub reason: ReportReason,
    /// What else there is to say. 1 to 500 characters.
    #[serde(default)]
    #[schema(nullable = false, min_length = 1, max_length = 500)]
    pub note: Option<String>,
}

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolution {
    /// What was decided.
    pub verdict: Verdict,
    /// Why, for other moderators. 1 to 500 characters.
    #[serde(default)]
    #[schema(nullable = false, min_length = 1, max_length = 500)]
    pub note: Option<String>,
}

fn check_note(note: Option<&str>) -> Result<()> {
    let fits = |note: &str| {
        !note.trim().is_empty()
            && note.chars().count() <= NOTE_MAX_CHARACTERS
            && !note.contains('\0')
    };
    match note.is_none_or(fits) {
        true => Ok(()),
        false => {
            let rule = format!("1 to {NOTE_MAX_CHARACTERS} characters");
            Err(Error::invalid("note", rule))
        }
    }
}

/// A message as its reporter was shown it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The text.
    content: String,
    /// What it carries.
    message_type: MessageType,
    /// As in messages.
    #[schema(value_type = Vec<Object>)]
    attachments: RawJson,
    /// When it was stored.
    created_at: Timestamp,
    /// When its content changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<Timestamp>,
}

/// A report, for moderators.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its number.
    pub id: ReportId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// The rev at which the message was reported.
    pub rev: Rev,
    /// Who sent the message.
    pub sender_id: UserId,
    /// Who reported it.
    pub reporter_id: UserId,
    /// Why.
    pub reason: ReportReason,
    /// What else the reporter says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub note: Option<String>,
    /// The message as it was reported; absent 90 days after the report was resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Evidence>)]
    pub evidence: Option<RawJson>,
    /// When, by the directory's clock.
    pub reported_at: Timestamp,
    /// Whether it is decided.
    pub state: ReportState,
    /// What was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why, as the moderator says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<String>,
    /// Who decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<UserId>,
    /// When, by the directory's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
}

/// Which reports are listed: those that all of it is true of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportFilter {
    /// How far they are.
    pub state: Option<ReportState>,
    /// The conversation of the message.
    pub conversation: Option<ConversationId>,
    /// Who sent the message.
    pub user: Option<UserId>,
}

/// Some reports.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReportPage {
    /// The newest first.
    pub reports: Vec<Report>,
    /// What to ask for the next page with; none at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_cursor: Option<String>,
}

/// The reports of a deployment.
#[derive(Debug)]
pub struct Reports {
    router: Arc<Router>,
}

impl Reports {
    pub(crate) fn new(router: &Arc<Router>) -> Self {
        Self {
            router: Arc::clone(router),
        }
    }

    /// Stores a report of a message as `reporter` was shown it; a second one of the same message gives the first. Says whether it is
    /// new.
    pub(crate) async fn add(
        &self,
        reporter: &UserId,
        message: &Message,
        new: &NewReport,
    ) -> Result<(Report, bool)> {
        check_note(new.note.as_deref())?;
        if message.sender_id == *reporter {
            return Err(Error::invalid("messageId", "a message of somebody else"));
        }
        if message.deleted_at.is_some() {
            return Err(Error::Conflict("the message is deleted"));
        }
        let evidence = Evidence {
            content: message.content.clone(),
            message_type: message.message_type,
            attachments: message.attachments.clone(),
            created_at: message.created_at,
            edited_at: message.edited_at,
        };
        let evidence = RawJson::of(&evidence);
        let reported = Reported {
            message: message.id,
            rev: message.rev,
            sender: &message.sender_id,
            evidence: evidence.get(),
        };
        let reported = &reported;
        let adding = |mut connection| async move {
            let added = rows::add(&mut connection, reporter, reported, new).await;
            (connection, added)
        };
        self.directory().write(PATIENCE, adding).await
    }

    /// The report of a message by `reporter`, if there is one.
    pub(crate) async fn find(
        &self,
        reporter: &UserId,
        message: MessageId,
    ) -> Result<Option<Report>> {
        let mut connection = self.directory().reading(PATIENCE).await?;
        let found = rows::find(&mut connection, reporter, message).await;
        found.map_err(Error::in_directory)
    }

    /// At most `limit` of the reports that `filter` lets through, the newest first, beginning after the page that gave `cursor`. This
    /// does not authorize: callers check for a role.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor that no page gave; [`Error::DirectoryUnavailable`].
    pub async fn list(
        &self,
        filter: &ReportFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<ReportPage> {
        let end = cursor.map_or(Ok(ReportId::MAX), str::parse);
        let end = end.map_err(|_| Error::invalid("cursor", "`nextCursor` of a page"))?;
        let limit = limit.clamp(1, REPORTS_MAX);
        let mut connection = self.directory().reading(PATIENCE).await?;
        let reports = rows::matching(&mut connection, filter, end, limit + 1).await;
        let mut reports = reports.map_err(Error::in_directory)?;
        let has_more = reports.len() > limit;
        reports.truncate(limit);
        let last = reports.last().map(|it| it.id.to_string());
        Ok(ReportPage {
            reports,
            next_cursor: last.filter(|_| has_more),
        })
    }

    /// Says what `moderator` has decided on a report. This does not authorize, either.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is decided already; [`Error::DirectoryUnavailable`].
    pub async fn resolve(
        &self,
        moderator: &UserId,
        id: ReportId,
        resolution: &Resolution,
    ) -> Result<Report> {
        check_note(resolution.note.as_deref())?;
        let resolving = |mut connection| async move {
            let resolved = resolve(&mut connection, moderator, (id, resolution)).await;
            (connection, resolved)
        };
        self.directory().write(PATIENCE, resolving).await
    }

    /// Takes out the evidence whose time has come; gives of how many reports.
    ///
    /// # Errors
    /// [`Error::DirectoryUnavailable`].
    pub async fn forget(&self) -> Result<usize> {
        let mut forgotten = 0;
        loop {
            let forgetting = |mut connection| async move {
                let some = rows::forget(&mut connection, FORGOTTEN_AT_ONCE).await;
                (connection, some)
            };
            match self.directory().write(PATIENCE, forgetting).await? {
                0 => return Ok(forgotten),
                reports => forgotten += reports,
            }
        }
    }

    /// Takes out evidence every hour until `closing`.
    pub(crate) async fn forget_in_time(self: Arc<Self>, closing: CancellationToken) {
        loop {
            match self.forget().await {
                Ok(0) => {}
                Ok(reports) => tracing::info!(reports, "evidence of resolved reports was deleted"),
                Err(error) => {
                    tracing::debug!(%error, "evidence of resolved reports is still there")
                }
            }
            let rest = tokio::time::sleep(FORGET_EVERY);
            if closing.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }

    fn directory(&self) -> &Directory {
        self.router.directory()
    }
}

/// In a write transaction: resolves a report, and records that.
async fn resolve(
    connection: &mut Connection,
    moderator: &UserId,
    (id, resolution): (ReportId, &Resolution),
) -> Result<Report> {
    let was_open = rows::resolve(connection, id, moderator, resolution).await?;
    let report = rows::one(connection, id).await?;
    if !was_open {
        return Err(Error::Conflict("the report is resolved already"));
    }
    let (actor, subject) = (Reference::user(moderator), Reference::report(id));
    let act = Act::new(actor, Action::ReportResolve, Some(subject));
    let act = act.because(resolution.note.as_deref().unwrap_or_default());
    let verdict = resolution.verdict;
    let act = act.with(json!({ "verdict": verdict, "messageId": report.message_id }));
    audit::append(connection, &act).await?;
    Ok(report)
}
