//! What a record says: who did what to whom, and why.

use std::fmt::Display;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::ids::{ConversationId, ReportId, ShardName, UserId};
use crate::moves::MoveId;

/// Longest reference, in bytes.
const REFERENCE_MAX_BYTES: usize = 128;
/// Longest reason, in characters.
const REASON_MAX_CHARACTERS: usize = 500;
/// Longest details, in bytes of JSON.
pub const DETAILS_MAX_BYTES: usize = 64 << 10;

macro_rules! actions {
    ($($(#[doc = $doc:literal])+ $action:ident = $name:literal;)+) => {
        /// What is recorded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action {
            $($(#[doc = $doc])+ $action,)+
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$action),+];

            /// As stored, and in the API.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)+
                }
            }
        }
    };
}

actions! {
    /// A sanction was imposed on a user.
    SanctionImpose = "sanction.impose";
    /// Sanctions of a user were lifted.
    SanctionLift = "sanction.lift";
    /// A move of a range was put down.
    MoveBegin = "move.begin";
    /// A move was paused.
    MovePause = "move.pause";
    /// A move was resumed.
    MoveResume = "move.resume";
    /// A move was given another rate.
    MoveThrottle = "move.throttle";
    /// A move was given up.
    MoveAbort = "move.abort";
    /// A move was reversed.
    MoveReverse = "move.reverse";
    /// Neighbouring ranges of the map were made one.
    RangeMerge = "range.merge";
    /// A shard became part of the deployment.
    ShardAdd = "shard.add";
    /// A database was taken as a shard's.
    ShardAdopt = "shard.adopt";
    /// An archive job of an operator is about to begin.
    ArchiveRun = "archive.run";
    /// The archive is about to be repaired.
    ArchiveRepair = "archive.repair";
    /// A conversation is about to be restored to hot rows.
    ArchiveRestore = "archive.restore";
    /// The archive's index is about to be rebuilt.
    ArchiveRebuild = "archive.rebuild";
    /// Objects that nothing names are about to be deleted.
    ArchiveCollect = "archive.gc";
    /// A legal hold is about to be placed.
    HoldPlace = "hold.place";
    /// A legal hold is about to be lifted.
    HoldLift = "hold.lift";
    /// Leases of jobs are about to be freed.
    LeaseClear = "lease.clear";
    /// Messages are about to be read by somebody who is no member.
    ContentRead = "content.read";
    /// A report was resolved.
    ReportResolve = "report.resolve";
    /// A node has started.
    NodeStart = "node.start";
    /// What named a person was erased from records.
    AuditErase = "audit.erase";
}

/// Who or what a record names: a kind, a slash and an id, as in `user/alice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(String);

impl Reference {
    /// A user of the deployment.
    #[must_use]
    pub fn user(id: &UserId) -> Self {
        Self::of("user", id.as_str())
    }

    /// An account of a machine on which a command is run.
    #[must_use]
    pub fn operator(name: &str) -> Self {
        Self::of("operator", name)
    }

    /// A process of the service.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::of("node", name)
    }

    /// A shard.
    #[must_use]
    pub fn shard(name: &ShardName) -> Self {
        Self::of("shard", name.as_str())
    }

    /// A conversation.
    #[must_use]
    pub fn conversation(id: ConversationId) -> Self {
        Self::of("conversation", id)
    }

    /// A report.
    #[must_use]
    pub fn report(id: ReportId) -> Self {
        Self::of("report", id)
    }

    /// A move.
    #[must_use]
    pub fn moving(id: MoveId) -> Self {
        Self::of("move", id)
    }

    /// What does not fit is cut off.
    fn of(kind: &str, id: impl Display) -> Self {
        let mut text = format!("{kind}/{id}");
        text.truncate(text.floor_char_boundary(REFERENCE_MAX_BYTES));
        Self(text)
    }

    /// As stored, and in the API.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Something to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// Who does it.
    pub actor: Reference,
    /// What is done.
    pub action: Action,
    /// To whom or to what.
    pub subject: Option<Reference>,
    /// Why; empty where nobody gave a reason. At most 500 characters are kept.
    pub reason: String,
    /// What else there is to know: a JSON object of at most [`DETAILS_MAX_BYTES`], without the content of messages.
    pub details: Value,
}

impl Act {
    /// `actor` does `action` to `subject`, without a reason and without details.
    #[must_use]
    pub fn new(actor: Reference, action: Action, subject: Option<Reference>) -> Self {
        Self {
            actor,
            action,
            subject,
            reason: String::new(),
            details: Value::Object(serde_json::Map::new()),
        }
    }

    /// The same, for a reason.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = reason.chars().take(REASON_MAX_CHARACTERS).collect();
        self
    }

    /// The same, with details.
    #[must_use]
    pub fn with(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// The details as they are stored.
    pub(super) fn details(&self) -> Result<String> {
        let text = self.details.to_string();
        if !self.details.is_object() || text.len() > DETAILS_MAX_BYTES {
            let rule = format!("a JSON object of at most {DETAILS_MAX_BYTES} bytes");
            return Err(Error::invalid("details", rule));
        }
        Ok(text)
    }
}
