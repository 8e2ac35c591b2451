//! Actors: what processes do. An actor is a list of actions that one process takes one after the other. Both have a written
//! form, in which a schedule is named on a command line: `run`, `edit:2`, `erase,gc`; `ahead/run` is a run on a machine whose
//! clock is two hours ahead.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::str::FromStr;
use std::sync::Arc;

use backscroll_archiver::jobs::verify::VerifyOptions;
use backscroll_archiver::jobs::{ArchiveError, ShardOutcome, Step};
use backscroll_shard::error::Result;
use backscroll_shard::history;
use backscroll_shard::ids::{MessageId, Rev, Seq};
use backscroll_shard::map::Assignment;
use backscroll_shard::model::{
    HistoryPage, HistoryRecord, Message, NewMessage, Position, SyncPage, SyncRequest, Timestamp,
};
use backscroll_shard::node::Shard;
use backscroll_shard::sync::{self, Delta, SyncRoom};
use futures_util::FutureExt as _;

use crate::deployment::{Process, caller, order, progress};
use crate::record::{Change, Client, Made, Observation, Read, Records};
use crate::states::{self, RETAIN, text};

/// A job, or a call of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Archives the old messages in several segments, and compacts segments that they overtake.
    Run,
    /// The same, but its process dies after this step.
    RunUntil(Step),
    /// Settles segments that an earlier run published, and archives nothing.
    Resume,
    /// Removes deleted content from segments.
    Erase,
    /// The same, and drops messages beyond the retention.
    Retain,
    /// Deletes objects that nothing names.
    Collect,
    /// Makes the archived messages of the conversation hot rows.
    Restore,
    /// Enters all segments of the bucket into the index.
    Rebuild,
    /// Verifies the archive.
    Verify,
    /// Reads the newest page, which holds the whole conversation.
    Page,
    /// Reads the conversation in pages of two messages.
    Walk,
    /// Reads one message.
    Message(u64),
    /// Reads the changes since the prepared state.
    Sync,
    /// Reads the changes since the conversation was made, in pages of one message.
    SyncPages,
    /// Exports the conversation.
    Export,
    /// Edits a message.
    Edit(u64),
    /// Reacts to a message.
    React(u64),
    /// Deletes a message.
    Delete(u64),
    /// Deletes the conversation.
    Drop,
    /// Sends a message.
    Send,
    /// Sends this message again, under the same client id.
    SendAgain(u64),
}

/// The written forms of the actions that name no message.
const WORDS: [(&str, Action); 15] = [
    ("run", Action::Run),
    ("resume", Action::Resume),
    ("erase", Action::Erase),
    ("retain", Action::Retain),
    ("gc", Action::Collect),
    ("restore", Action::Restore),
    ("rebuild", Action::Rebuild),
    ("verify", Action::Verify),
    ("page", Action::Page),
    ("walk", Action::Walk),
    ("sync", Action::Sync),
    ("sync-pages", Action::SyncPages),
    ("export", Action::Export),
    ("drop", Action::Drop),
    ("send", Action::Send),
];

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, action)) = WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*action);
        }
        let unknown = || format!("`{text}` is no action");
        let (word, of) = text.split_once(':').ok_or_else(unknown)?;
        if word == "run" {
            let step = Step::ALL.into_iter().find(|step| step.name() == of);
            return step.map(Self::RunUntil).ok_or_else(unknown);
        }
        let seq = of.parse().map_err(|_| unknown())?;
        match word {
            "message" => Ok(Self::Message(seq)),
            "edit" => Ok(Self::Edit(seq)),
            "react" => Ok(Self::React(seq)),
            "delete" => Ok(Self::Delete(seq)),
            "again" => Ok(Self::SendAgain(seq)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunUntil(step) => write!(f, "run:{}", step.name()),
            Self::Message(seq) => write!(f, "message:{seq}"),
            Self::Edit(seq) => write!(f, "edit:{seq}"),
            Self::React(seq) => write!(f, "react:{seq}"),
            Self::Delete(seq) => write!(f, "delete:{seq}"),
            Self::SendAgain(seq) => write!(f, "again:{seq}"),
            other => {
                let word = WORDS.iter().find(|(_, action)| action == other);
                f.write_str(word.map_or("?", |(word, _)| word))
            }
        }
    }
}

/// A process, by what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    /// Whether its machine's clock is ahead.
    is_ahead: bool,
    actions: Vec<Action>,
}

/// How far a clock is ahead that is, in milliseconds.
const AHEAD: i64 = 2 * 3_600_000;

impl FromStr for Actor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ahead = text.strip_prefix("ahead/");
        let actions = ahead.unwrap_or(text).split(',').map(str::parse);
        Ok(Self {
            is_ahead: ahead.is_some(),
            actions: actions.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.actions.iter().map(Action::to_string).collect();
        let ahead = if self.is_ahead { "ahead/" } else { "" };
        write!(f, "{ahead}{}", words.join(","))
    }
}

impl From<Action> for Actor {
    fn from(action: Action) -> Self {
        Self {
            is_ahead: false,
            actions: vec![action],
        }
    }
}

impl Actor {
    /// How far its clock is ahead, in milliseconds.
    pub(crate) fn clock_skew(&self) -> i64 {
        if self.is_ahead { AHEAD } else { 0 }
    }

    /// Whether one of its actions is such.
    pub(crate) fn does(&self, is_it: impl Fn(&Action) -> bool) -> bool {
        self.actions.iter().any(is_it)
    }

    /// Takes its actions, and records what comes of them. `name` signs the texts that it writes.
    pub(crate) async fn act(&self, name: &str, process: &Process, records: &Records) {
        for action in &self.actions {
            process.gate.begin_call();
            if !action.act(name, process, records).await {
                return;
            }
        }
    }
}

impl Action {
    /// `false` when the process has died.
    async fn act(self, name: &str, process: &Process, records: &Records) -> bool {
        match self {
            Self::RunUntil(step) => return run_until(step, process).await,
            Self::Page
            | Self::Walk
            | Self::Message(_)
            | Self::Sync
            | Self::SyncPages
            | Self::Export => self.read(process, records).await,
            Self::Edit(_) | Self::React(_) | Self::Delete(_) | Self::Send | Self::SendAgain(_) => {
                self.change(name, process, records).await;
            }
            Self::Drop => {
                let failure = drop_conversation(process).await.err();
                records.add(Observation::Drop {
                    span: process.gate.end_call(),
                    failure: failure.map(|error| error.to_string()),
                });
            }
            _ => {
                let failure = self.job(process).await.err();
                records.add(Observation::Job {
                    action: self,
                    failure,
                });
            }
        }
        true
    }

    async fn job(self, process: &Process) -> Result<(), String> {
        let (order, progress) = (order(), progress());
        let archive = &process.archive;
        match self {
            Self::Run => all(archive.run(&order, states::cutoff(), &progress).await),
            Self::Resume => all(archive.run(&order, Timestamp(i64::MIN), &progress).await),
            Self::Erase => all(archive.erase(&order, &progress).await),
            Self::Retain => {
                let archive =
                    process.archive_with(|settings| settings.retain = RETAIN.parse().ok());
                all(archive.erase(&order, &progress).await)
            }
            Self::Collect => all(archive.collect(&order, false).await),
            Self::Restore => {
                let id = process.conversations.main;
                match archive.restore(&order, id, &progress).await {
                    Err(ArchiveError::NothingArchived(_)) => Ok(()), // not yet, or not any more
                    restored => one(restored),
                }
            }
            Self::Rebuild => {
                let rebuilt = archive.rebuild(&order, &progress).await;
                if let Ok(outcome) = &rebuilt
                    && !outcome.figures.problems.is_empty()
                {
                    return Err(format!("problems: {:?}", outcome.figures.problems));
                }
                one(rebuilt)
            }
            Self::Verify => {
                let verified = archive.verify(&order, VerifyOptions::default(), &progress);
                let report = verified.await.map_err(|error| error.to_string())?;
                if report.is_clean() {
                    Ok(())
                } else {
                    Err(format!("not clean: {:?}", report.problems))
                }
            }
            _ => Err(format!("{self} is no job")),
        }
    }

    async fn read(self, process: &Process, records: &Records) {
        let read = match self {
            Self::Page => Read::Page(None, 200, page(process, None, 200).await),
            Self::Walk => return walk(process, records).await,
            Self::SyncPages => return sync_pages(process, records).await,
            Self::Message(seq) => Read::Message(Seq(seq), message(process, seq).await),
            Self::Sync => {
                let client = records.client();
                Read::Sync(client.rev, sync(process, client.rev).await)
            }
            _ => Read::Export(export(process, 200).await),
        };
        let span = process.gate.end_call();
        records.add(Observation::Read { span, read });
    }

    async fn change(self, name: &str, process: &Process, records: &Records) {
        let (made, outcome) = match self {
            Self::Edit(seq) => {
                let content = format!("{} by {name}", text("S", seq));
                let edited = edit(process, seq, content.clone()).await;
                (Made::Edit(Seq(seq), content), edited)
            }
            Self::React(seq) => {
                let emoji = format!("+{name}");
                let reacted = react(process, seq, &emoji).await;
                (Made::React(Seq(seq), emoji), reacted)
            }
            Self::Delete(seq) => (Made::Delete(Seq(seq)), delete(process, seq).await),
            Self::Send => send(process, format!("new by {name}"), format!("c-{name}")).await,
            Self::SendAgain(seq) => send(process, text("S", seq), format!("c{seq}")).await,
            _ => return,
        };
        let span = process.gate.end_call();
        records.add(Observation::Change(Change {
            made,
            span,
            committed: process.gate.last_commit(),
            outcome: outcome.map_err(|error| error.to_string()),
        }));
    }
}

fn one<T>(outcome: Result<ShardOutcome<T>, ArchiveError>) -> Result<(), String> {
    match outcome {
        Ok(outcome) => outcome.error.map_or(Ok(()), Err),
        Err(error) => Err(error.to_string()),
    }
}

fn all<T>(outcomes: Result<Vec<ShardOutcome<T>>, ArchiveError>) -> Result<(), String> {
    let outcomes = outcomes.map_err(|error| error.to_string())?;
    outcomes
        .into_iter()
        .try_for_each(|outcome| one(Ok(outcome)))
}

/// A run whose process dies after a step, as by `kill -9`; `false` when it has.
async fn run_until(step: Step, process: &Process) -> bool {
    let dies = move |now: Step| {
        if now == step {
            resume_unwind(Box::new("the process dies"));
        }
    };
    let archive = process.archive.clone().with_hook(Arc::new(dies));
    let (order, progress) = (order(), progress());
    let run = archive.run(&order, states::cutoff(), &progress);
    AssertUnwindSafe(run).catch_unwind().await.is_ok()
}

/// At most `limit` messages before `before`, or the newest.
pub(crate) async fn page(
    process: &Process,
    before: Option<Seq>,
    limit: u32,
) -> Result<HistoryPage> {
    let id = process.conversations.main;
    let position = before.map_or(Position::Latest, Position::Before);
    let caller = caller("alice");
    process.store.history(&caller, id, position, limit).await
}

async fn walk(process: &Process, records: &Records) {
    let mut before = None;
    loop {
        process.gate.begin_call();
        let page = page(process, before, 2).await;
        let next = match &page {
            Ok(page) if page.has_more_before => page.messages.first().map(|first| first.seq),
            _ => None,
        };
        let span = process.gate.end_call();
        let read = Read::Page(before, 2, page);
        records.add(Observation::Read { span, read });
        if next.is_none() {
            return;
        }
        before = next;
    }
}

fn id_of(process: &Process, seq: u64) -> MessageId {
    MessageId {
        conversation: process.conversations.main,
        seq: Seq(seq),
    }
}

pub(crate) async fn message(process: &Process, seq: u64) -> Result<Message> {
    let id = id_of(process, seq);
    process.store.message(&caller("bob"), id).await
}

async fn edit(process: &Process, seq: u64, content: String) -> Result<Message> {
    let id = id_of(process, seq);
    let caller = caller("alice");
    process.store.edit_message(&caller, id, content).await
}

pub(crate) async fn react(process: &Process, seq: u64, emoji: &str) -> Result<Message> {
    let id = id_of(process, seq);
    process.store.react(&caller("bob"), id, emoji).await
}

async fn delete(process: &Process, seq: u64) -> Result<Message> {
    let id = id_of(process, seq);
    process.store.delete_message(&caller("alice"), id).await
}

async fn drop_conversation(process: &Process) -> Result<()> {
    let id = process.conversations.main;
    let caller = caller("alice");
    process.store.delete_conversation(&caller, id).await
}

async fn send(process: &Process, text: String, client_msg_id: String) -> (Made, Result<Message>) {
    let message = NewMessage {
        content: text.clone(),
        client_msg_id: Some(client_msg_id.clone()),
        ..NewMessage::default()
    };
    let id = process.conversations.main;
    let sent = process.store.send(&caller("alice"), id, message).await;
    let made = Made::Send {
        text,
        client_msg_id,
        created: sent.as_ref().is_ok_and(|sent| sent.created),
    };
    (made, sent.map(|sent| sent.message))
}

/// The changes of the conversation after `rev`, without those of the caller's list.
pub(crate) async fn sync(process: &Process, rev: Rev) -> Result<SyncPage> {
    let id = process.conversations.main;
    let request = SyncRequest {
        cursor: Some(u64::from(u32::MAX).to_string()),
        conversations: BTreeMap::from([(id, rev)]),
    };
    process.store.sync(&caller("alice"), request).await
}

async fn sync_pages(process: &Process, records: &Records) {
    let mut rev = Rev(0);
    loop {
        process.gate.begin_call();
        let page = sync_page(process, rev).await;
        let next = match &page {
            Ok(page) if page.has_more => page.changes.first().map(|changes| changes.rev),
            _ => None,
        };
        let span = process.gate.end_call();
        let read = Read::Sync(rev, page);
        records.add(Observation::Read { span, read });
        match next {
            Some(next) => rev = next,
            None => return,
        }
    }
}

/// The next change of the conversation after `rev`: a page of [`sync`] with room for one message.
async fn sync_page(process: &Process, rev: Rev) -> Result<SyncPage> {
    let (id, caller) = (process.conversations.main, &caller("alice"));
    let read = |shard: Arc<Shard>, assignment: Assignment| async move {
        let reader = (id, &caller.user);
        let (rows, access) = history::access(&shard, &assignment, reader, caller.deadline).await?;
        let tiers = (&*shard, &assignment, &*process.cold);
        let room = SyncRoom {
            messages: 1,
            bytes: usize::MAX,
            begun: false,
        };
        let room = (room, u32::MAX);
        sync::delta(rows, tiers, id, access, rev, room, caller.deadline).await
    };
    let router = process.store.router();
    let delta = router.call(id.owner_key(), caller.deadline, read).await?;
    let mut page = SyncPage {
        changes: Vec::new(),
        cursor: sync::to_cursor(Rev(0)),
        has_more: false,
        resync: Vec::new(),
    };
    match delta {
        Delta::None => {}
        Delta::Changes {
            changes, complete, ..
        } => {
            page.changes.push(changes);
            page.has_more = !complete;
        }
        Delta::Resync(head) => page.resync.push(head),
    }
    Ok(page)
}

/// The whole conversation, `limit` records at a time.
pub(crate) async fn export(process: &Process, limit: u32) -> Result<Vec<(Seq, HistoryRecord)>> {
    let id = process.conversations.main;
    let mut records: Vec<(Seq, HistoryRecord)> = Vec::new();
    loop {
        let after = records.last().map_or(Seq(0), |(seq, _)| *seq);
        let next = process.store.export(id, after, limit).await?;
        if next.is_empty() {
            return Ok(records);
        }
        records.extend(next);
    }
}

/// Syncs `client` until it is up to date; `None` when it is told to load the conversation anew.
pub(crate) async fn catch_up(process: &Process, client: &mut Client) -> Result<Option<()>> {
    loop {
        let page = sync(process, client.rev).await?;
        if !client.take(process.conversations.main, &page) {
            return Ok(None);
        }
        if !page.has_more {
            return Ok(Some(()));
        }
    }
}
