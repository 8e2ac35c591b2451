//! What came of calls: acknowledged changes, readers' answers, jobs' outcomes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use backscroll_shard::error::Result;
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::model::{HistoryPage, HistoryRecord, Message, SyncPage, Timestamp};

use crate::actors::Action;
use crate::scheduler::Span;

/// A message as every reader must see it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) rev: Rev,
    pub(crate) sender: String,
    pub(crate) content: String,
    pub(crate) client_msg_id: Option<String>,
    pub(crate) reactions: String,
    pub(crate) created_at: Timestamp,
    pub(crate) is_edited: bool,
    pub(crate) is_deleted: bool,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rev,
            sender,
            content,
            reactions,
            ..
        } = self;
        write!(f, "rev {rev} {sender} {content:?} {reactions}")?;
        let marks = [(self.is_edited, " edited"), (self.is_deleted, " deleted")];
        marks
            .iter()
            .filter(|(is, _)| *is)
            .try_for_each(|(_, mark)| f.write_str(mark))?;
        write!(f, " id {:?}", self.client_msg_id)
    }
}

impl From<&Message> for View {
    fn from(message: &Message) -> Self {
        Self {
            rev: message.rev,
            sender: message.sender_id.as_str().into(),
            content: message.content.clone(),
            client_msg_id: message.client_msg_id.clone(),
            reactions: message.reactions.get().into(),
            created_at: message.created_at,
            is_edited: message.edited_at.is_some(),
            is_deleted: message.deleted_at.is_some(),
        }
    }
}

/// Sender, text, reactions, whether it is edited, whether it is deleted.
type Exported = (String, String, String, bool, bool);

impl View {
    /// A message that alice has sent, without its rev.
    fn sent(text: &str, client_msg_id: &str, created_at: Timestamp) -> Self {
        Self {
            rev: Rev(0),
            sender: "alice".into(),
            content: text.into(),
            client_msg_id: Some(client_msg_id.into()),
            reactions: "{}".into(),
            created_at,
            is_edited: false,
            is_deleted: false,
        }
    }

    /// As an export has it: without rev and client id.
    pub(crate) fn exported(&self) -> Exported {
        let reactions = if self.reactions == "{}" {
            ""
        } else {
            &self.reactions
        };
        (
            self.sender.clone(),
            self.content.clone(),
            reactions.to_owned(),
            self.is_edited,
            self.is_deleted,
        )
    }
}

/// A record of an export in the same form.
pub(crate) fn exported(record: &HistoryRecord) -> Exported {
    let reactions = record.reactions.as_ref().map(|json| json.get().to_owned());
    (
        record.user.as_str().into(),
        record.text.clone(),
        reactions.unwrap_or_default(),
        record.edited_at.is_some(),
        record.deleted_at.is_some(),
    )
}

/// A conversation, message by message.
pub(crate) type Log = BTreeMap<Seq, View>;

/// The messages of an answer.
pub(crate) fn log_of(messages: &[Message]) -> Log {
    let view = |message: &Message| (message.seq, View::from(message));
    messages.iter().map(view).collect()
}

/// A client that keeps a copy of the conversation.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) log: Log,
    pub(crate) rev: Rev,
}

impl Client {
    /// Takes a sync's answer in; `false` when that says to load the conversation anew.
    pub(crate) fn take(&mut self, conversation: ConversationId, page: &SyncPage) -> bool {
        for changes in &page.changes {
            if changes.conversation_id == conversation {
                self.log.extend(log_of(&changes.messages));
                self.rev = changes.rev;
            }
        }
        page.resync.is_empty()
    }
}

/// A change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    Edit(Seq, String),
    React(Seq, String),
    Delete(Seq),
    /// A message with this text and client id, which was stored now, or is one that was stored before.
    Send {
        text: String,
        client_msg_id: String,
        created: bool,
    },
}

impl Made {
    /// Whether message `seq` as it was acknowledged is what was asked for, after what the conversation was before.
    pub(crate) fn agrees(&self, seq: Seq, acknowledged: &View, before: &Log) -> bool {
        let known = before.get(&seq);
        if known == Some(acknowledged) {
            return self.is_done(acknowledged);
        }
        let expected = match (self, known) {
            (
                Self::Send {
                    text,
                    client_msg_id,
                    created: true,
                },
                None,
            ) => {
                let head = before.keys().next_back().copied().unwrap_or_default();
                let is_next = seq == head.next();
                is_next.then(|| View::sent(text, client_msg_id, acknowledged.created_at))
            }
            (Self::Edit(_, content), Some(known)) => Some(View {
                content: content.clone(),
                is_edited: true,
                ..known.clone()
            }),
            (Self::React(_, emoji), Some(known)) => Some(View {
                reactions: with_reaction(&known.reactions, emoji),
                ..known.clone()
            }),
            (Self::Delete(_), Some(known)) => Some(View {
                content: String::new(),
                reactions: "{}".into(),
                is_deleted: true,
                ..known.clone()
            }),
            _ => None,
        };
        let rev = acknowledged.rev;
        expected.is_some_and(|expected| View { rev, ..expected } == *acknowledged)
    }

    /// Whether a message that was not changed is as it was asked for.
    fn is_done(&self, view: &View) -> bool {
        match self {
            Self::Edit(_, content) => view.content == *content,
            Self::React(_, emoji) => with_reaction("{}", emoji) == view.reactions,
            Self::Delete(_) => view.is_deleted,
            Self::Send {
                client_msg_id,
                created,
                ..
            } => !created && view.client_msg_id.as_ref() == Some(client_msg_id),
        }
    }
}

/// Reactions with another one by bob, from whom they all are.
fn with_reaction(reactions: &str, emoji: &str) -> String {
    let mut all: BTreeMap<String, Vec<String>> = serde_json::from_str(reactions).unwrap();
    all.entry(emoji.into()).or_default().push("bob".into());
    serde_json::to_string(&all).unwrap()
}

/// A change, and what its caller was answered.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) made: Made,
    pub(crate) span: Span,
    /// How many steps had been taken when it was committed.
    pub(crate) committed: usize,
    pub(crate) outcome: Result<Message, String>,
}

/// An answer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
pub(crate) enum Read {
    /// Messages before this one, or the newest; at most so many.
    Page(Option<Seq>, u64, Result<HistoryPage>),
    Message(Seq, Result<Message>),
    Sync(Rev, Result<SyncPage>),
    Export(Result<Vec<(Seq, HistoryRecord)>>),
}

impl Read {
    /// Whether it is a sync that says nothing of the conversation, as of one whose member the caller is not.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Sync(_, Ok(page)) if page.changes.is_empty() && page.resync.is_empty())
    }
}

/// What came of a call.
#[derive(Debug)]
pub(crate) enum Observation {
    Change(Change),
    Read {
        span: Span,
        read: Read,
    },
    /// The deletion of the conversation.
    Drop {
        span: Span,
        failure: Option<String>,
    },
    Job {
        action: Action,
        failure: Option<String>,
    },
}

impl Observation {
    /// The change, if it is one.
    pub(crate) fn change(&self) -> Option<&Change> {
        match self {
            Self::Change(change) => Some(change),
            _ => None,
        }
    }

    /// What was answered, without times.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Change(Change { made, outcome, .. }) => {
                format!("{made:?}: {:?}", outcome.as_ref().map(View::from))
            }
            Self::Read { read, .. } => match read {
                Read::Page(before, _, Ok(page)) => {
                    let messages = log_of(&page.messages);
                    format!("page before {before:?}: {messages:?} of {}", page.head_seq)
                }
                Read::Message(seq, Ok(message)) => {
                    format!("message {seq}: {:?}", View::from(message))
                }
                Read::Sync(_, Ok(page)) => {
                    let changes = page.changes.iter();
                    let told = changes.map(|changes| (log_of(&changes.messages), changes.rev));
                    format!("sync: {:?}", told.collect::<Vec<_>>())
                }
                Read::Export(Ok(records)) => {
                    let records = records.iter().map(|(seq, record)| (*seq, exported(record)));
                    format!("export: {:?}", records.collect::<Vec<_>>())
                }
                other => format!("{other:?}"),
            },
            Self::Drop { failure, .. } => format!("drop: {failure:?}"),
            Self::Job { action, failure } => format!("{action}: {failure:?}"),
        }
    }
}

/// What came of all calls so far. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    client: Client,
    all: Arc<Mutex<Vec<Observation>>>,
}

impl Records {
    /// Without any; `client` has the conversation as it was prepared.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            all: Arc::default(),
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) fn add(&self, observation: Observation) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(observation);
    }

    /// Takes all of them out.
    pub(crate) fn take(&self) -> Vec<Observation> {
        std::mem::take(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
