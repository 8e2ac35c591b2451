//! The ledger: all conversations, and what was requested, acknowledged and observed in them.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::faults::conversation::{Certainty, Conversation, Finding};
use crate::faults::deployment::DATABASES;
use crate::faults::message::{Change, Message};
use crate::faults::observed::{Observed, Text};
use crate::faults::operation::{Action, Operation, Refusal, Watermarks, message, parse};

/// The time before the kill of a database server in which a commit may have been read that was not durable.
const NOT_DURABLE: Duration = Duration::from_secs(10);

/// The number of conversations that count as recent: those of the latest import or two.
const RECENT: usize = 60;

/// The totals of a run.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Sends that were requested.
    pub sent: u64,
    /// Sends that were acknowledged.
    pub acknowledged: u64,
    /// Sends that were given up without an answer.
    pub unknown: u64,
    /// Edits, deletions, reactions and watermarks that were acknowledged.
    pub changes: u64,
    /// Changes that were given up without an answer.
    pub unknown_changes: u64,
    /// Imported messages.
    pub imported: u64,
    /// Observations of messages that were checked.
    pub checked: u64,
    /// Messages on pages that came from the archive.
    pub archived: u64,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    /// The conversations.
    pub conversations: Vec<Conversation>,
    /// The totals.
    pub counts: Counts,
    by_id: HashMap<String, usize>,
    /// Whether ranges move between shards, and so between database servers.
    pub moves: bool,
    /// The latest kill of each database server.
    killed: [Instant; DATABASES],
    seed: u64,
    texts: u64,
}

impl Ledger {
    /// An empty ledger; `seed` determines the tokens.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            conversations: Vec::new(),
            counts: Counts::default(),
            by_id: HashMap::new(),
            moves: false,
            killed: [Instant::now(); DATABASES],
            seed,
            texts: 0,
        }
    }

    /// A new text.
    pub fn text(&mut self, padding: u16) -> Text {
        self.texts += 1;
        // The finalizer of SplitMix64, a bijection: tokens are unique.
        let mut token = self
            .seed
            .wrapping_add(self.texts.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        token = (token ^ (token >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        token = (token ^ (token >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let token = token ^ (token >> 31);
        Text {
            token,
            padding,
            mentions: None,
            answers: None,
        }
    }

    /// Adds a conversation, and returns its position.
    pub fn add(&mut self, conversation: Conversation) -> usize {
        let position = self.conversations.len();
        self.by_id.insert(conversation.id.clone(), position);
        self.conversations.push(conversation);
        position
    }

    /// The position of the conversation with this id.
    #[must_use]
    pub fn position(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// A random conversation, one of the recent ones half of the time: those are being archived.
    pub fn random_conversation(&self, random: &mut SmallRng) -> usize {
        let count = self.conversations.len();
        let first = match random.random_ratio(1, 2) {
            true => count.saturating_sub(RECENT),
            false => 0,
        };
        random.random_range(first..count)
    }

    /// The certainty of an answer to a request that was sent at `asked`.
    #[must_use]
    pub fn certainty(&self, conversation: usize, asked: Option<Instant>) -> Certainty {
        let killed = match self.moves {
            true => self.killed.iter().copied().max(),
            false => Some(self.killed[self.conversations[conversation].database]),
        };
        match asked {
            Some(asked) if killed.is_some_and(|killed| asked <= killed) => Certainty::Volatile,
            _ => Certainty::Read,
        }
    }

    /// Notes that a database server was killed.
    pub fn database_killed(&mut self, database: usize) {
        let now = Instant::now();
        self.killed[database] = now;
        for conversation in &mut self.conversations {
            if self.moves || conversation.database == database {
                conversation.forget(now - NOT_DURABLE);
            }
        }
    }

    /// Checks and adds an observation of a message, by a request that was sent at `asked` or by a push.
    ///
    /// # Errors
    /// The violation.
    pub fn observe(&mut self, observed: &Observed, asked: Option<Instant>) -> Result<(), Finding> {
        self.counts.checked += 1;
        let Some(position) = self.position(&observed.conversation_id) else {
            return Err((
                observed.seq,
                format!("of conversation {}", observed.conversation_id),
            ));
        };
        let certainty = self.certainty(position, asked);
        self.conversations[position].observe(observed, asked, certainty)
    }

    /// Notes that an operation is requested for the first time.
    pub fn begin(&mut self, operation: &Operation) {
        let now = Instant::now();
        let conversation = &mut self.conversations[operation.conversation];
        if let Action::Send { client_id, text } = &operation.action {
            self.counts.sent += 1;
            let sender = user_name(operation.user);
            conversation.send(client_id.clone(), sender, *text, now);
        }
        if let Action::RepeatLate { client_id, .. } = &operation.action {
            conversation.repeat_late(client_id);
        }
        let target = operation.target();
        let Some(message) = target.and_then(|seq| conversation.messages.get_mut(&seq)) else {
            return;
        };
        message.busy = true;
        match &operation.action {
            Action::Edit { text, .. } => message.texts.push(Change::requested(*text)),
            Action::Delete { .. } => message.deletion = Some(Change::requested(())),
            Action::React { emoji, add, .. } => {
                let register = (emoji.clone(), user_name(operation.user));
                let changes = message.reactions.entry(register).or_default();
                changes.push(Change::requested(*add));
            }
            Action::Pin { add, .. } => message.pins.push(Change::requested(*add)),
            _ => {}
        }
    }

    /// Checks and adds the acknowledgement of an operation, to a request that was sent at `asked`. `at_first_attempt`: no
    /// attempt before it may have had an effect.
    ///
    /// # Errors
    /// The violation.
    pub fn acknowledge(
        &mut self,
        operation: &Operation,
        answer: (u16, &[u8]),
        (asked, at_first_attempt): (Instant, bool),
    ) -> Result<(), Finding> {
        self.counts.checked += 1;
        let about = |problem| (operation.target().unwrap_or(0), problem);
        if let Action::Read { seq } = operation.action {
            self.counts.changes += 1;
            let marks: Watermarks = parse(answer.1).map_err(about)?;
            return self.read(operation, seq, marks.read_seq, asked);
        }
        let observed = message(answer.1).map_err(about)?;
        if matches!(operation.action, Action::Clash { .. }) {
            let brief = observed.brief();
            return Err((
                observed.seq,
                format!("another text under a used client's id is accepted: {brief}"),
            ));
        }
        let conversation = &mut self.conversations[operation.conversation];
        let outcome = conversation.observe(&observed, Some(asked), Certainty::Acknowledged);
        let expected = match &operation.action {
            Action::Repeat { seq, .. } => Some(*seq),
            _ => operation.target(),
        };
        let now = Instant::now();
        match &operation.action {
            Action::Send { .. } => self.counts.acknowledged += 1,
            Action::Repeat { .. } | Action::RepeatLate { .. } => {}
            _ => self.counts.changes += 1,
        }
        if let Some(message) = conversation.messages.get_mut(&observed.seq) {
            acknowledge_change(message, operation, (now, at_first_attempt));
        }
        outcome?;
        if expected.is_some_and(|seq| seq != observed.seq) {
            return Err(about(format!(
                "expected seq {expected:?}, observed {}",
                observed.seq
            )));
        }
        let new = matches!(operation.action, Action::Send { .. });
        if new && at_first_attempt && answer.0 == 200 {
            return Err((
                observed.seq,
                "the first send is answered as a repetition".into(),
            ));
        }
        let repeated = matches!(operation.action, Action::Repeat { .. });
        if repeated && answer.0 == 201 {
            return Err((
                observed.seq,
                "a repeated send is answered as a new message".into(),
            ));
        }
        reflects(operation, &observed).map_err(about)
    }

    fn read(
        &mut self,
        operation: &Operation,
        seq: u64,
        shown: u64,
        asked: Instant,
    ) -> Result<(), Finding> {
        let conversation = &mut self.conversations[operation.conversation];
        let watermark = conversation.reads.entry(operation.user).or_default();
        let least = watermark.at(asked).max(seq);
        watermark.raise(Instant::now(), seq, true);
        if shown < least {
            return Err((
                0,
                format!("expected a read watermark of {least} or more, observed {shown}"),
            ));
        }
        Ok(())
    }

    /// Checks the final refusal of an operation.
    ///
    /// # Errors
    /// The violation, if it had to be accepted.
    pub fn refuse(&mut self, operation: &Operation, refusal: &Refusal) -> Result<(), Finding> {
        let clash = matches!(operation.action, Action::Clash { .. });
        let expected = match (&operation.action, refusal.code.as_str()) {
            (Action::Clash { .. }, "conflict_idempotency") => true,
            (
                Action::Edit { seq, .. } | Action::React { seq, .. } | Action::Pin { seq, .. },
                "conflict",
            ) => {
                let messages = &self.conversations[operation.conversation].messages;
                messages
                    .get(seq)
                    .is_some_and(|message| message.deletion.is_some())
            }
            _ => false,
        };
        if !clash {
            self.give_up(operation);
        }
        match expected {
            true => Ok(()),
            false => {
                let problem = format!("{:?} refused: {}", operation.action, refusal.brief());
                Err((operation.target().unwrap_or(0), problem))
            }
        }
    }

    /// Notes that an operation is not requested any more; whether it took effect stays open.
    pub fn give_up(&mut self, operation: &Operation) {
        match operation.action {
            Action::Send { .. } => self.counts.unknown += 1,
            Action::Repeat { .. } | Action::RepeatLate { .. } | Action::Clash { .. } => {}
            _ => self.counts.unknown_changes += 1,
        }
        let conversation = &mut self.conversations[operation.conversation];
        let target = operation.target();
        if let Some(message) = target.and_then(|seq| conversation.messages.get_mut(&seq)) {
            message.busy = false;
        }
    }

    /// The conversation and the seq of the message with this text.
    #[must_use]
    pub fn message_with(&self, token: u64) -> Option<(String, u64)> {
        self.conversations.iter().find_map(|conversation| {
            let mut messages = conversation.messages.iter();
            let is_its = |message: &Message| message.texts.iter().any(|it| it.value.token == token);
            let (seq, _) = messages.find(|(_, message)| is_its(message))?;
            Some((conversation.id.clone(), *seq))
        })
    }

    /// The tokens of all texts whose deletion was acknowledged, and which no other message has.
    #[must_use]
    pub fn deleted_tokens(&self) -> BTreeSet<u64> {
        let (mut deleted, mut alive) = (BTreeSet::new(), BTreeSet::new());
        for conversation in &self.conversations {
            for message in conversation.messages.values() {
                let deletion = message.deletion.as_ref();
                let is_deleted =
                    conversation.deleted || deletion.is_some_and(Change::is_acknowledged);
                let tokens = if is_deleted { &mut deleted } else { &mut alive };
                tokens.extend(message.texts.iter().map(|text| text.value.token));
            }
        }
        &deleted - &alive
    }
}

/// Notes the acknowledgement of a change in its message.
fn acknowledge_change(
    message: &mut Message,
    operation: &Operation,
    (at, at_first_attempt): (Instant, bool),
) {
    match &operation.action {
        Action::Edit { .. } => {
            message
                .texts
                .last_mut()
                .into_iter()
                .for_each(|it| it.acknowledge(at, at_first_attempt));
        }
        Action::Delete { .. } => {
            message
                .deletion
                .iter_mut()
                .for_each(|it| it.acknowledge(at, at_first_attempt));
        }
        Action::React { emoji, .. } => {
            let register = (emoji.clone(), user_name(operation.user));
            let changes = message.reactions.get_mut(&register);
            let last = changes.and_then(|changes| changes.last_mut());
            last.into_iter()
                .for_each(|it| it.acknowledge(at, at_first_attempt));
        }
        Action::Pin { .. } => {
            let last = message.pins.last_mut();
            last.into_iter()
                .for_each(|it| it.acknowledge(at, at_first_attempt));
        }
        _ => return,
    }
    message.busy = false;
}

/// Whether an acknowledgement shows the requested state.
fn reflects(operation: &Operation, observed: &Observed) -> Result<(), String> {
    let reflected = match &operation.action {
        Action::Edit { text, .. } => observed.content == text.render(),
        Action::Delete { .. } => observed.deleted_at.is_some(),
        Action::React { emoji, add, .. } => {
            let users = observed.reactions.get(emoji);
            let user = user_name(operation.user);
            users.is_some_and(|users| users.contains(&user)) == *add
        }
        Action::Pin { add, .. } => observed.pinned_at.is_some() == *add,
        _ => true,
    };
    match reflected {
        true => Ok(()),
        false => Err(format!(
            "{:?} acknowledged with {}",
            operation.action,
            observed.brief()
        )),
    }
}

/// The name of the user at this position.
#[must_use]
pub fn user_name(user: usize) -> String {
    format!("user{user}")
}
