//! What a segment says of its conversations, so that they can be made again when the databases are lost.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::db::Connection;
use crate::error::{Error, Result};
use crate::head::{self, FIRST_MEMBERS, Head};
use crate::ids::{ConversationId, Rev, UserId};
use crate::member::{self, Membership};
use crate::message::StoredMessage;
use crate::model::{ConversationKind, MessagePreview, RawJson, Role, Timestamp};
use crate::owned::{OwnedReader, OwnedTransaction};

/// Most members that are told; a larger conversation gets those back who wrote in it.
const MEMBERS_MAX: u64 = 1000;

/// A conversation, without its messages, as it was when they were archived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct About {
    /// What sort it is.
    pub kind: ConversationKind,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A JSON object, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// Whether every member may pin messages.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub members_pin: bool,
    /// Who created it.
    pub created_by: UserId,
    /// When, in milliseconds since 1970.
    pub created_at: i64,
    /// Its members; none when there are too many to be told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<UserId, Role>,
}

/// What is to be told of conversations; those that are not there are left out.
///
/// # Errors
/// When the database fails.
pub async fn describe(
    connection: &mut Connection,
    ids: &[ConversationId],
) -> Result<HashMap<ConversationId, About>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = &mut OwnedReader::for_job(connection);
    let heads = head::read(rows, ids).await?;
    let small = heads.iter().filter(|head| head.member_count <= MEMBERS_MAX);
    let small: Vec<ConversationId> = small.map(|head| head.id).collect();
    let mut members: HashMap<ConversationId, BTreeMap<UserId, Role>> = HashMap::new();
    if !small.is_empty() {
        for (id, member) in member::of_conversations(rows, &small).await? {
            if let Some(role) = member.role {
                members.entry(id).or_default().insert(member.user, role);
            }
        }
    }
    let about = |head: Head| {
        let about = About {
            kind: head.kind,
            title: head.title,
            metadata: head.metadata,
            members_pin: head.members_pin,
            created_by: head.created_by,
            created_at: head.created_at.0,
            members: members.remove(&head.id).unwrap_or_default(),
        };
        (head.id, about)
    };
    Ok(heads.into_iter().map(about).collect())
}

/// What archived messages tell of a conversation.
#[derive(Clone, Debug)]
pub struct Traces {
    /// The newest archived message.
    pub last: MessagePreview,
    /// Of the copy that `last` is of.
    pub last_rev: Rev,
    /// The greatest rev of them.
    pub rev: Rev,
    /// Who wrote, and when first.
    pub senders: BTreeMap<UserId, Timestamp>,
    /// What was told of it last.
    pub about: Option<About>,
}

/// In a job's transaction: makes a conversation again whose head is lost; `false` when it is there.
///
/// # Errors
/// When the database fails.
pub async fn recreate(
    connection: &mut Connection,
    id: ConversationId,
    traces: &Traces,
    max_relayed: u32,
) -> Result<bool> {
    let rows = &mut OwnedTransaction::for_job(connection);
    if !head::lock(rows, &[id]).await?.is_empty() {
        return Ok(false);
    }
    let about = traces.about.as_ref();
    let first_sender = traces.senders.keys().next().cloned();
    let created_by = about.map(|about| about.created_by.clone()).or(first_sender);
    let created_by = created_by.ok_or_else(|| Error::corrupt("a conversation without messages"))?;
    let kind = about.map_or(ConversationKind::Channel, |about| about.kind);
    let earliest = traces
        .senders
        .values()
        .min()
        .copied()
        .unwrap_or(traces.last.created_at);
    let created_at = about.map_or(earliest, |about| Timestamp(about.created_at));
    let mut roles = about.map(|about| about.members.clone()).unwrap_or_default();
    if roles.is_empty() {
        roles = traces
            .senders
            .keys()
            .map(|user| (user.clone(), Role::Member))
            .collect();
        roles.insert(created_by.clone(), Role::Owner);
    }
    let mut head = Head::new(id, kind, created_by, created_at);
    head.title = about.and_then(|about| about.title.clone());
    head.metadata = about
        .and_then(|about| about.metadata.clone())
        .filter(|text| RawJson::parse(text.clone()).is_ok());
    head.members_pin = about.is_some_and(|about| about.members_pin);
    head.head_seq = traces.last.seq;
    head.rev = traces.rev;
    let rev = head.change_members();
    head.marked = true;
    head.last_at = traces.last.created_at;
    head.last = Some(traces.last.clone());
    head.member_count = roles.len() as u64;
    head.set_relayed(max_relayed);
    head.first_members = roles.keys().take(FIRST_MEMBERS).cloned().collect();
    let membership = |(user, role): (UserId, Role)| {
        let joined_at = traces.senders.get(&user).copied().unwrap_or(created_at);
        Membership {
            user,
            role: Some(role),
            // Watermarks are lost; everything as unread would be the worse guess.
            read_seq: traces.last.seq,
            delivered_seq: traces.last.seq,
            rev,
            joined_at,
        }
    };
    let members: Vec<Membership> = roles.into_iter().map(membership).collect();
    head::save(rows, &[&head]).await?;
    member::save(rows, id, &members).await?;
    Ok(true)
}

impl Traces {
    /// Takes another archived message in.
    pub fn add(&mut self, message: &StoredMessage) {
        // Segments come in no order, so of the newest message an older copy may come last.
        if (message.seq, message.rev) > (self.last.seq, self.last_rev) {
            self.last = message.preview();
            self.last_rev = message.rev;
        }
        self.rev = self.rev.max(message.rev);
        let first = self
            .senders
            .entry(message.sender.clone())
            .or_insert(message.created_at);
        *first = (*first).min(message.created_at);
    }

    /// Of one message.
    #[must_use]
    pub fn of(message: &StoredMessage) -> Self {
        Self {
            last: message.preview(),
            last_rev: message.rev,
            rev: message.rev,
            senders: BTreeMap::from([(message.sender.clone(), message.created_at)]),
            about: None,
        }
    }
}
