//! The model: the conversation as it was prepared, and the changes that were acknowledged since, each from the step on that
//! committed it. A reader's answer is right when it was true after some step of its call.

use std::collections::{BTreeMap, BTreeSet};

use backscroll_shard::error::{Error, Result};
use backscroll_shard::ids::{Rev, Seq};
use backscroll_shard::model::{HistoryPage, Message, SyncPage, Timestamp};

use crate::actors::Action;
use crate::record::{Change, Client, Log, Made, Observation, Read, View, exported, log_of};
use crate::schedule::Scenario;
use crate::scheduler::Span;
use crate::states::{self, State};

/// What a caller is told of a conversation that is deleted.
const NOT_MEMBER: &str = "you are not a member of this conversation";

/// What a scenario allows beyond the usual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exceptions {
    /// Messages that a retention may have dropped.
    pub(crate) droppable: BTreeSet<Seq>,
    /// Messages that a send with their client id need not find, because they are archived, or were once.
    forgotten: BTreeSet<Seq>,
    /// Whether a job may have lost its lease, and meet the work of the next holder.
    pub(crate) short_lease: bool,
}

impl Exceptions {
    /// Those of a scenario that begins with `state`.
    pub(crate) fn of(scenario: &Scenario, state: &State) -> Self {
        let does = |is_it: fn(&Action) -> bool| scenario.actors.iter().any(|it| it.does(is_it));
        let sent_before = |time: Timestamp| -> BTreeSet<Seq> {
            let log = state.client.log.iter();
            let old = log.filter(|(_, view)| view.created_at < time);
            old.map(|(seq, _)| *seq).collect()
        };
        let mut exceptions = Self {
            short_lease: scenario.short_lease,
            ..Self::default()
        };
        if does(|action| *action == Action::Retain) {
            exceptions.droppable = sent_before(states::retained_from());
        }
        let archives = does(|action| matches!(action, Action::Run | Action::RunUntil(_)));
        if archives || scenario.state != states::NEVER_ARCHIVED {
            exceptions.forgotten = sent_before(states::cutoff());
        }
        exceptions
    }

    /// Whether a job may fail like this.
    fn allow_failure(&self, failure: &str) -> bool {
        let lost_lease = failure.contains("another job has taken over");
        let is_late = lost_lease || failure.contains("not found");
        failure.contains("is being worked on by") || self.short_lease && is_late
    }
}

/// What is true after each step.
#[derive(Debug)]
pub(crate) struct Model {
    start: Client,
    /// The acknowledged changes in the order of their commits: since which step a message is as follows.
    changes: Vec<(usize, Seq, View)>,
    /// The call that deleted the conversation.
    dropped: Option<Span>,
    pub(crate) exceptions: Exceptions,
    /// Messages whose text must be nowhere after their erasure: those that were deleted, unless it was sent again.
    pub(crate) deleted: BTreeSet<Seq>,
    pub(crate) violations: Vec<String>,
}

impl Model {
    /// From the prepared state and what came of the calls, each of which is checked.
    pub(crate) fn of(start: Client, observations: &[Observation], exceptions: Exceptions) -> Self {
        let deleted = start.log.iter().filter(|(_, view)| view.is_deleted);
        let mut model = Self {
            deleted: deleted.map(|(seq, _)| *seq).collect(),
            start,
            changes: Vec::new(),
            dropped: None,
            exceptions,
            violations: Vec::new(),
        };
        model.take_changes(observations);
        for observation in observations {
            match observation {
                Observation::Read { span, read } => model.check_read(*span, read),
                Observation::Job {
                    action,
                    failure: Some(failure),
                } => {
                    // There is nothing left to restore.
                    let is_late = model.is_dropped() && *action == Action::Restore;
                    if !is_late && !model.exceptions.allow_failure(failure) {
                        model.add_violation(format!("{action} failed: {failure}"));
                    }
                }
                _ => {}
            }
        }
        model
    }

    /// Of a conversation that does not change any more.
    pub(crate) fn at_rest(log: Log, exceptions: Exceptions) -> Self {
        Self {
            start: Client { log, rev: Rev(0) },
            changes: Vec::new(),
            dropped: None,
            exceptions,
            deleted: BTreeSet::new(),
            violations: Vec::new(),
        }
    }

    fn take_changes(&mut self, observations: &[Observation]) {
        for observation in observations {
            match observation {
                Observation::Drop {
                    span,
                    failure: None,
                } => self.dropped = Some(*span),
                Observation::Drop {
                    failure: Some(failure),
                    ..
                } if failure != NOT_MEMBER => {
                    self.add_violation(format!("drop failed: {failure}"));
                }
                _ => {}
            }
        }
        let changes = observations.iter().filter_map(Observation::change);
        let mut changes: Vec<&Change> = changes.collect();
        changes.sort_by_key(|change| change.committed);
        for change in &changes {
            if let Ok(message) = &change.outcome {
                self.take_change(change, message);
            }
        }
        for change in &changes {
            if let Err(error) = &change.outcome {
                self.check_refusal(change, error);
            }
        }
        if self.is_dropped() {
            self.deleted.extend(self.end().keys());
        }
    }

    fn add_violation(&mut self, violation: String) {
        self.violations.push(violation);
    }

    /// Whether the conversation was deleted.
    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.is_some()
    }

    /// Whether the conversation may have been deleted when a call ended.
    fn may_be_dropped(&self, span: Span) -> bool {
        self.dropped.is_some_and(|dropped| span.to > dropped.from)
    }

    /// The conversation after so many steps.
    pub(crate) fn at(&self, steps: usize) -> Log {
        let mut log = self.start.log.clone();
        for (committed, seq, view) in &self.changes {
            if *committed <= steps {
                log.insert(*seq, view.clone());
            }
        }
        log
    }

    /// The conversation in the end.
    pub(crate) fn end(&self) -> Log {
        self.at(usize::MAX)
    }

    /// What the check of the final state depends on besides that state.
    pub(crate) fn digest(&self, observations: &[Observation]) -> String {
        let end = self.end();
        let told = observations.iter().filter(|observation| {
            matches!(
                observation,
                Observation::Read {
                    read: Read::Sync(..),
                    ..
                }
            )
        });
        let told: Vec<String> = told.map(Observation::summary).collect();
        let Self {
            deleted,
            exceptions,
            ..
        } = self;
        let is_dropped = self.is_dropped();
        format!("{end:?} {told:?} {is_dropped} {deleted:?} {exceptions:?}")
    }

    /// Takes an acknowledged change in: what was asked for, on top of those before (INV-ACK, INV-SEQ, INV-REV, INV-IDEM).
    fn take_change(&mut self, change: &Change, message: &Message) {
        let (made, seq) = (&change.made, message.seq);
        let (before, view) = (self.end(), View::from(message));
        let known = before.get(&seq);
        if !made.agrees(seq, &view, &before) {
            self.add_violation(format!(
                "{made:?} was acknowledged as message {seq}: {view:?}, on top of {known:?}"
            ));
        }
        if known == Some(&view) {
            return; // it was so before
        }
        if let Made::Send {
            text,
            client_msg_id,
            ..
        } = made
        {
            let is_same = |(seq, known): &(&Seq, &View)| {
                let is_same = known.client_msg_id.as_ref() == Some(client_msg_id);
                is_same && !self.exceptions.forgotten.contains(seq)
            };
            if let Some((first, _)) = before.iter().find(is_same) {
                self.add_violation(format!("message {first} was stored again as message {seq}"));
            }
            self.deleted.retain(|seq| *text != states::text("S", seq.0));
        }
        let is_late = |dropped: Span| change.committed > dropped.to;
        if self.dropped.is_some_and(is_late) {
            let violation = format!("{made:?} was acknowledged after the conversation was deleted");
            self.add_violation(violation);
        }
        let revs = self.changes.iter().map(|(_, _, view)| view.rev);
        let newest = revs.chain([self.start.rev]).max().unwrap_or_default();
        if view.rev <= newest {
            let rev = view.rev;
            self.add_violation(format!(
                "{made:?} was acknowledged with rev {rev}, after rev {newest}"
            ));
        }
        if view.is_deleted {
            self.deleted.insert(seq);
        }
        self.changes.push((change.committed, seq, view));
    }

    /// A change may be refused when its message or its conversation is deleted, or dropped by a retention.
    fn check_refusal(&mut self, change: &Change, error: &str) {
        if error == NOT_MEMBER && self.may_be_dropped(change.span) {
            return;
        }
        let (Made::Edit(seq, _) | Made::React(seq, _) | Made::Delete(seq)) = &change.made else {
            return self.add_violation(format!("{:?} failed: {error}", change.made));
        };
        let is_deleted = |steps: usize| self.at(steps).get(seq).is_some_and(|view| view.is_deleted);
        let mut steps = change.span.from..=change.span.to;
        let is_excused = error == "the message is deleted" && steps.any(is_deleted)
            || error == "no such message" && self.exceptions.droppable.contains(seq);
        if !is_excused {
            self.add_violation(format!("{:?} failed: {error}", change.made));
        }
    }

    /// Checks an answer.
    pub(crate) fn check_read(&mut self, span: Span, read: &Read) {
        let failure = match read {
            Read::Page(_, _, answer) => answer.as_ref().err(),
            Read::Message(_, answer) => answer.as_ref().err(),
            Read::Sync(_, answer) => answer.as_ref().err(),
            Read::Export(answer) => answer.as_ref().err(),
        };
        match failure {
            Some(
                Error::NotMember | Error::NotFound("conversation" | "conversation: it was deleted"),
            ) if self.may_be_dropped(span) => {
                return;
            }
            None if self.is_forbidden(span, read) => {
                let violation = format!("{read:?} was answered after its conversation was deleted");
                return self.add_violation(violation);
            }
            _ => {}
        }
        match read {
            Read::Page(before, limit, Ok(page)) => self.check_page(span, (*before, *limit), page),
            Read::Message(seq, Ok(message)) => {
                let shown = log_of(std::slice::from_ref(message));
                let outcome = self.was_true(span, &shown, (*seq, *seq), Log::clone);
                self.add_violation_unless("message", outcome);
            }
            Read::Message(seq, Err(Error::NotFound(_)))
                if self.exceptions.droppable.contains(seq) => {}
            Read::Sync(since, Ok(page)) => self.check_sync(span, *since, page),
            Read::Export(Ok(records)) => {
                let shown: BTreeMap<Seq, _> = records
                    .iter()
                    .map(|(seq, record)| (*seq, exported(record)))
                    .collect();
                let as_exported = |log: &Log| {
                    let entries = log.iter().map(|(seq, view)| (*seq, view.exported()));
                    entries.collect::<BTreeMap<Seq, _>>()
                };
                let range = (Seq(1), Seq(i64::MAX.cast_unsigned()));
                let outcome = self.was_true(span, &shown, range, as_exported);
                self.add_violation_unless("export", outcome);
            }
            Read::Page(_, _, Err(error)) => self.add_violation(format!("page failed: {error}")),
            Read::Message(seq, Err(error)) => {
                self.add_violation(format!("message {seq} failed: {error}"))
            }
            Read::Sync(_, Err(error)) => self.add_violation(format!("sync failed: {error}")),
            Read::Export(Err(error)) => self.add_violation(format!("export failed: {error}")),
        }
    }

    /// Whether an answer tells of a conversation that was deleted before the call.
    fn is_forbidden(&self, span: Span, read: &Read) -> bool {
        let is_late = self.dropped.is_some_and(|dropped| span.from >= dropped.to);
        is_late && !read.is_silent()
    }

    /// A page is arithmetic: so many seqs before the one given, or before the head and with it.
    fn check_page(&mut self, span: Span, (before, limit): (Option<Seq>, u64), page: &HistoryPage) {
        let shown = log_of(&page.messages);
        let head = page.head_seq;
        let heads = |steps: usize| self.at(steps).keys().next_back().copied();
        if !(span.from..=span.to).any(|steps| heads(steps) == Some(head)) {
            self.add_violation(format!("page: the head never was {head}"));
        }
        let end = before.unwrap_or(head.next()).0;
        let range = (
            Seq(end.saturating_sub(limit).max(1)),
            Seq(end.saturating_sub(1)),
        );
        let outcome = self.was_true(span, &shown, range, Log::clone);
        self.add_violation_unless("page", outcome);
        if let Some(range) = page.archive_unavailable {
            self.add_violation(format!("page: {range:?} is said to be unavailable"));
        }
    }

    fn add_violation_unless(&mut self, what: &str, outcome: Result<(), String>) {
        if let Err(difference) = outcome {
            self.add_violation(format!("{what}: {difference}"));
        }
    }

    /// Whether what was shown of a stretch was so after some step of the call.
    fn was_true<T: PartialEq + std::fmt::Debug>(
        &self,
        span: Span,
        shown: &BTreeMap<Seq, T>,
        (first, last): (Seq, Seq),
        form: impl Fn(&Log) -> BTreeMap<Seq, T>,
    ) -> Result<(), String> {
        let mut best: Option<String> = None;
        for steps in span.from..=span.to {
            let mut log = form(&self.at(steps));
            log.retain(|seq, _| (first..=last).contains(seq));
            // What is dropped is not shown.
            log.retain(|seq, _| {
                shown.contains_key(seq) || !self.exceptions.droppable.contains(seq)
            });
            if log == *shown {
                return Ok(());
            }
            let differs = log
                .keys()
                .chain(shown.keys())
                .find(|seq| log.get(seq) != shown.get(seq));
            best = differs.map(|seq| {
                format!(
                    "message {seq} is {:?} instead of {:?}",
                    shown.get(seq),
                    log.get(seq)
                )
            });
        }
        Err(best.unwrap_or_default())
    }

    /// Each message that is told must have been so after some step of the call, and none up to the rev that is told may be
    /// left out.
    fn check_sync(&mut self, span: Span, since: Rev, page: &SyncPage) {
        for changes in &page.changes {
            for message in &changes.messages {
                let view = View::from(message);
                let mut logs = (span.from..=span.to).map(|steps| self.at(steps));
                if !logs.any(|log| log.get(&message.seq) == Some(&view)) {
                    let seq = message.seq;
                    self.add_violation(format!("sync: message {seq} was not {view:?} then"));
                }
            }
            let told = log_of(&changes.messages);
            let due = self
                .end()
                .into_iter()
                .filter(|(_, view)| view.rev > since && view.rev <= changes.rev);
            let left_out: Vec<Seq> = due
                .filter(|(seq, view)| told.get(seq) != Some(view))
                .map(|(seq, _)| seq)
                .filter(|seq| !self.exceptions.droppable.contains(seq))
                .collect();
            if !left_out.is_empty() {
                let rev = changes.rev;
                self.add_violation(format!(
                    "sync: from rev {since} to rev {rev} it leaves out {left_out:?}"
                ));
            }
        }
    }
}
