//! The model of one message: requested and acknowledged changes, and every version that was observed.
//!
//! A message has registers: its text, its deletion, and for each emoji and user a reaction. A register is changed by one
//! request at a time, and again only if the change before was acknowledged at the first attempt: a request whose answer was
//! lost may still wait in a paused process or a silent connection, take effect at any time, and would undo a later change
//! legitimately. So the values that a register may have are that of its last acknowledged change and those of the changes
//! after it. A deletion is final and may always follow.
//!
//! Each rev has one state: two different states under one rev are a violation.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::faults::lower_bound::LowerBound;
use crate::faults::observed::{Observed, Text, token_of};

/// A change of a register.
#[derive(Clone, Debug)]
pub struct Change<T> {
    /// The register's value after the change.
    pub value: T,
    done: Option<Instant>,
    at_first_attempt: bool,
}

impl<T> Change<T> {
    /// A change that is requested.
    #[must_use]
    pub fn requested(value: T) -> Self {
        Self {
            value,
            done: None,
            at_first_attempt: false,
        }
    }

    /// A change that was in effect at `done`.
    #[must_use]
    pub fn done(value: T, done: Instant) -> Self {
        Self {
            done: Some(done),
            at_first_attempt: true,
            ..Self::requested(value)
        }
    }

    /// Notes the acknowledgement.
    pub fn acknowledge(&mut self, at: Instant, at_first_attempt: bool) {
        self.done = Some(at);
        self.at_first_attempt = at_first_attempt;
    }

    /// Whether it is acknowledged.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.done.is_some()
    }

    /// Whether the register may be changed again: no earlier request for it can be pending.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.at_first_attempt
    }

    fn was_in_effect(&self, asked: Instant) -> bool {
        self.done.is_some_and(|done| done < asked)
    }
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// The sender.
    pub sender: String,
    /// The sender's id for it.
    pub client_id: Option<String>,
    /// Its texts, in order.
    pub texts: Vec<Change<Text>>,
    /// Its deletion, once requested.
    pub deletion: Option<Change<()>>,
    /// The reaction of each emoji and user.
    pub reactions: BTreeMap<(String, String), Vec<Change<bool>>>,
    /// Whether it is pinned.
    pub pins: Vec<Change<bool>>,
    /// Its rev.
    pub rev: LowerBound,
    /// Whether a change is under way.
    pub busy: bool,
    /// The observed versions, by rev.
    versions: BTreeMap<u64, Version>,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    digest: u64,
    acknowledged: bool,
    at: Instant,
}

impl Message {
    /// A message with this text.
    #[must_use]
    pub fn new(sender: String, client_id: Option<String>, text: Change<Text>) -> Self {
        Self {
            sender,
            client_id,
            texts: vec![text],
            deletion: None,
            reactions: BTreeMap::new(),
            pins: Vec::new(),
            rev: LowerBound::default(),
            busy: false,
            versions: BTreeMap::new(),
        }
    }

    /// Checks an observation by a request that was sent at `asked`. A push has no such time: it may be older than changes
    /// that are acknowledged already.
    ///
    /// # Errors
    /// The violation.
    pub fn check(&self, observed: &Observed, asked: Option<Instant>) -> Result<(), String> {
        if observed.sender_id != self.sender {
            return Err(format!(
                "expected it from {}, observed from {}",
                self.sender, observed.sender_id
            ));
        }
        if observed.client_msg_id != self.client_id {
            let (mine, other) = (&self.client_id, &observed.client_msg_id);
            return Err(format!(
                "expected the client's id {mine:?}, observed {other:?}"
            ));
        }
        let first = self.texts.first();
        let answered = first.and_then(|text| text.value.answered(&observed.conversation_id));
        if observed.reply_to != answered {
            let other = &observed.reply_to;
            return Err(format!(
                "expected a reply to {answered:?}, observed {other:?}"
            ));
        }
        let least = asked.map_or(0, |asked| self.rev.at(asked));
        if observed.rev < least {
            let brief = observed.brief();
            return Err(format!("expected rev {least} or later, observed {brief}"));
        }
        match self.versions.get(&observed.rev) {
            Some(known) if known.digest == observed.digest() => {}
            Some(_) => {
                return Err(format!(
                    "another state was observed at this rev: {}",
                    observed.brief()
                ));
            }
            None => self.check_new(observed)?,
        }
        self.check_values(observed, asked)
    }

    /// Checks a line of an export by a command that was started at `asked`; it has neither a rev nor a client's id.
    ///
    /// # Errors
    /// The violation.
    pub fn check_exported(&self, observed: &Observed, asked: Instant) -> Result<(), String> {
        if observed.sender_id != self.sender {
            return Err(format!(
                "expected it from {}, exported from {}",
                self.sender, observed.sender_id
            ));
        }
        self.check_new(observed)?;
        self.check_values(observed, Some(asked))
    }

    /// Compares the whole text of a version that was not observed before.
    fn check_new(&self, observed: &Observed) -> Result<(), String> {
        if observed.deleted_at.is_some() {
            return Ok(());
        }
        let text = self
            .texts
            .iter()
            .find(|text| Some(text.value.token) == token_of(&observed.content));
        match text {
            Some(text) if text.value.render() == observed.content => Ok(()),
            Some(_) => Err(format!(
                "the text is not what was sent: {}",
                observed.brief()
            )),
            None => Err(format!(
                "a text that was never sent for this message: {}",
                observed.brief()
            )),
        }
    }

    fn check_values(&self, observed: &Observed, asked: Option<Instant>) -> Result<(), String> {
        let brief = || observed.brief();
        let done = |change: &Change<()>| asked.is_some_and(|asked| change.was_in_effect(asked));
        if let Some(history) = &observed.edit_history {
            let known = |content: &str| {
                let token = token_of(content);
                self.texts
                    .iter()
                    .any(|text| Some(text.value.token) == token)
            };
            if observed.deleted_at.is_some() || !history.iter().all(|it| known(&it.content)) {
                return Err(format!("an edit history with other texts: {}", brief()));
            }
        }
        match (&observed.deleted_at, &self.deletion) {
            (Some(_), None) => return Err(format!("deleted without a request: {}", brief())),
            (Some(_), Some(_)) if !observed.is_empty() => {
                return Err(format!("deleted, but not empty: {}", brief()));
            }
            (Some(_), Some(_)) => return Ok(()),
            (None, Some(deletion)) if done(deletion) => {
                return Err(format!("deleted before, and shown again: {}", brief()));
            }
            (None, _) => {}
        }
        self.check_text(observed, asked)?;
        if observed.mentions != self.mentioned() {
            let expected = self.mentioned();
            return Err(format!(
                "expected mentions of {expected:?}, observed {}",
                brief()
            ));
        }
        let is_pinned = observed.pinned_at.is_some();
        if !may_be(&self.pins, is_pinned, asked) {
            let last = self.pins.last().map(|change| change.value);
            return Err(format!("expected pinned {last:?}, observed {}", brief()));
        }
        self.check_reactions(observed, asked)
    }

    /// The seq of the message that it answers.
    #[must_use]
    pub fn answers(&self) -> Option<u64> {
        self.texts.first().and_then(|text| text.value.answers)
    }

    /// The names of the users whom it mentions while it is not deleted: edits keep them.
    #[must_use]
    pub fn mentioned(&self) -> Vec<String> {
        let first = self.texts.first();
        first.map_or_else(Vec::new, |text| text.value.mentioned())
    }

    /// Whether it certainly is pinned, or certainly is not, for a request that is sent at `asked`; `None` when both may be.
    #[must_use]
    pub fn is_pinned(&self, asked: Instant) -> Option<bool> {
        let both = [false, true].map(|value| may_be(&self.pins, value, Some(asked)));
        let may_be_deleted = self.deletion.is_some();
        match both {
            [true, false] => Some(false),
            [false, true] if !may_be_deleted => Some(true),
            _ => None,
        }
    }

    fn check_text(&self, observed: &Observed, asked: Option<Instant>) -> Result<(), String> {
        let done = |text: &Change<Text>| asked.is_some_and(|asked| text.was_in_effect(asked));
        let least = self.texts.iter().rposition(done).unwrap_or(0);
        let token = token_of(&observed.content);
        let shown = self
            .texts
            .iter()
            .rposition(|text| Some(text.value.token) == token);
        match shown {
            Some(shown) if shown >= least => Ok(()),
            _ => {
                let expected = self.texts[least].value.token;
                let brief = observed.brief();
                Err(format!(
                    "expected text {expected:016x} or a later one, observed {brief}"
                ))
            }
        }
    }

    fn check_reactions(&self, observed: &Observed, asked: Option<Instant>) -> Result<(), String> {
        let mut shown = 0;
        for ((emoji, user), changes) in &self.reactions {
            let is_there = observed
                .reactions
                .get(emoji)
                .is_some_and(|users| users.contains(user));
            shown += usize::from(is_there);
            if !may_be(changes, is_there, asked) {
                return Err(format!(
                    "expected {emoji} of {user}: {}, observed {}",
                    !is_there,
                    observed.brief()
                ));
            }
        }
        if observed.reactions.values().map(Vec::len).sum::<usize>() > shown {
            return Err(format!(
                "a reaction that was never requested: {}",
                observed.brief()
            ));
        }
        Ok(())
    }

    /// Adds an observed version.
    pub fn add(&mut self, observed: &Observed, at: Instant, acknowledged: bool) {
        self.rev.raise(at, observed.rev, acknowledged);
        let digest = observed.digest();
        let version = self.versions.entry(observed.rev).or_insert(Version {
            digest,
            acknowledged,
            at,
        });
        version.acknowledged |= acknowledged;
    }

    /// Forgets versions that were only read, at `since` or later.
    pub fn forget(&mut self, since: Instant) {
        self.rev.forget(since);
        self.versions
            .retain(|_, version| version.acknowledged || version.at < since);
    }

    /// Whether no change was pending at `asked` or requested since.
    #[must_use]
    pub fn is_still(&self, asked: Instant) -> bool {
        let texts = self.texts.iter().all(|change| change.was_in_effect(asked));
        let mut reactions = self.reactions.values().flatten();
        texts
            && reactions.all(|change| change.was_in_effect(asked))
            && self.pins.iter().all(|change| change.was_in_effect(asked))
            && self
                .deletion
                .iter()
                .all(|change| change.was_in_effect(asked))
    }

    /// The rev and the digest of its latest version.
    #[must_use]
    pub fn latest(&self) -> Option<(u64, u64)> {
        let (rev, version) = self.versions.last_key_value()?;
        Some((*rev, version.digest))
    }
}

/// Whether a register that is `false` at first may have this value for a request that was sent at `asked`: that of its last
/// change in effect by then, or of one after it.
fn may_be(changes: &[Change<bool>], value: bool, asked: Option<Instant>) -> bool {
    let done = |change: &Change<bool>| asked.is_some_and(|asked| change.was_in_effect(asked));
    let baseline = changes.iter().rposition(done);
    let before = baseline.is_some_and(|n| changes[n].value);
    let mut later = changes[baseline.map_or(0, |n| n + 1)..].iter();
    value == before || later.any(|change| change.value == value)
}
