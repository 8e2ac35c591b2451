//! The model of one conversation: its messages, the sends whose place is not known yet, its head, rev and watermarks; and
//! the checks of pages, messages and changes against it.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use crate::faults::lower_bound::LowerBound;
use crate::faults::message::{Change, Message};
use crate::faults::observed::{Observed, Text, token_of};
use crate::faults::page::{Page, Position};

/// A violation: the message's seq (0: the conversation) and a description.
pub type Finding = (u64, String);

/// How far an observation may be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It is an acknowledgement: durable.
    Acknowledged,
    /// It was read: it stays unless the database server is killed soon.
    Read,
    /// It was read while the database server was killed: what it shows for the first time may be rolled back.
    Volatile,
}

/// A conversation.
#[derive(Debug)]
pub struct Conversation {
    /// Its id.
    pub id: String,
    /// The database server that has it.
    pub database: usize,
    /// Its members, as positions of users.
    pub members: Vec<usize>,
    /// The number of messages that it began with, all old enough to be archived.
    pub old: u64,
    /// Whether it was deleted as a whole.
    pub deleted: bool,
    /// Its messages, by seq.
    pub messages: BTreeMap<u64, Message>,
    /// Everything that was sent to it, by the client's id.
    pub sends: HashMap<String, Send>,
    /// The greatest seq.
    pub head: LowerBound,
    /// The greatest rev.
    pub rev: LowerBound,
    /// The read watermark of each member that moved one.
    pub reads: HashMap<usize, LowerBound>,
}

/// A message that was sent.
#[derive(Clone, Debug)]
pub struct Send {
    /// The sender's name.
    pub sender: String,
    /// The text.
    pub text: Text,
    began: Instant,
    /// Its seq, once observed, and whether an acknowledgement has it.
    pub place: Option<(u64, bool)>,
    acknowledged_at: Option<Instant>,
    /// Whether it was sent again after the time for which INV-IDEM holds: it may become a second message then.
    is_repeated_late: bool,
    /// The place of the second message.
    second_place: Option<(u64, bool)>,
}

impl Send {
    /// Whether it is one of the first `old` messages, for which INV-IDEM does not hold any more.
    #[must_use]
    pub fn is_old(&self, old: u64) -> bool {
        self.place.is_some_and(|(seq, _)| seq <= old)
    }
}

impl Conversation {
    /// A conversation with these members. The caller adds its first `old` messages.
    #[must_use]
    pub fn new(id: String, database: usize, members: Vec<usize>, old: u64) -> Self {
        Self {
            id,
            database,
            members,
            old,
            deleted: false,
            messages: BTreeMap::new(),
            sends: HashMap::new(),
            head: LowerBound::default(),
            rev: LowerBound::default(),
            reads: HashMap::new(),
        }
    }

    /// Whether a message is acknowledged under this seq; only those are changed.
    #[must_use]
    pub fn is_acknowledged(&self, seq: u64, message: &Message) -> bool {
        let Some(client_id) = &message.client_id else {
            return true;
        };
        let Some(send) = self.sends.get(client_id) else {
            return false;
        };
        [send.place, send.second_place].contains(&Some((seq, true)))
    }

    /// The position of the member who may do everything.
    #[must_use]
    pub fn owner(&self) -> Option<usize> {
        match self.messages.get(&1) {
            Some(first) if first.client_id.is_none() => {
                first.sender.strip_prefix("user")?.parse().ok()
            }
            _ => self.members.first().copied(),
        }
    }

    /// Whether it was made by an import.
    #[must_use]
    pub fn is_imported(&self) -> bool {
        let first = self.messages.get(&1);
        first.is_some_and(|message| message.client_id.is_none())
    }

    /// Adds a send that begins at `began`.
    pub fn send(&mut self, client_id: String, sender: String, text: Text, began: Instant) {
        let send = Send {
            sender,
            text,
            began,
            place: None,
            acknowledged_at: None,
            is_repeated_late: false,
            second_place: None,
        };
        self.sends.entry(client_id).or_insert(send);
    }

    /// Notes that an old message is sent again, after the time for which INV-IDEM holds.
    pub fn repeat_late(&mut self, client_id: &str) {
        let send = self.sends.get_mut(client_id);
        send.into_iter()
            .for_each(|send| send.is_repeated_late = true);
    }

    /// Checks and adds an observation of a message, by a request that was sent at `asked` or by a push. `certainty` says
    /// how far it may be relied upon from now on.
    ///
    /// # Errors
    /// The violation.
    pub fn observe(
        &mut self,
        observed: &Observed,
        asked: Option<Instant>,
        certainty: Certainty,
    ) -> Result<(), Finding> {
        let at = Instant::now();
        let about = |problem| (observed.seq, problem);
        if observed.conversation_id != self.id {
            return Err(about(format!(
                "of conversation {}",
                observed.conversation_id
            )));
        }
        self.place(observed, at, certainty).map_err(about)?;
        let Some(message) = self.messages.get_mut(&observed.seq) else {
            return Ok(());
        };
        message.check(observed, asked).map_err(about)?;
        if certainty != Certainty::Volatile {
            let acknowledged = certainty == Certainty::Acknowledged;
            message.add(observed, at, acknowledged);
            self.head.raise(at, observed.seq, acknowledged);
            self.rev.raise(at, observed.rev, acknowledged);
        }
        Ok(())
    }

    /// Finds the send that a message is of, and enters its place.
    fn place(
        &mut self,
        observed: &Observed,
        at: Instant,
        certainty: Certainty,
    ) -> Result<(), String> {
        let Some(client_id) = &observed.client_msg_id else {
            return match self.messages.contains_key(&observed.seq) {
                true => Ok(()),
                false => Err(format!(
                    "a message that was never sent: {}",
                    observed.brief()
                )),
            };
        };
        let Some(send) = self.sends.get_mut(client_id) else {
            return Err(format!(
                "a message that was never sent: {}",
                observed.brief()
            ));
        };
        let is_second = send.is_repeated_late && observed.seq > self.old;
        let (place, acknowledged_at) = match is_second {
            true => (&mut send.second_place, &mut None),
            false => (&mut send.place, &mut send.acknowledged_at),
        };
        match *place {
            Some((seq, _)) if seq != observed.seq => {
                return Err(format!(
                    "the same message as seq {seq}: {}",
                    observed.brief()
                ));
            }
            None if self.messages.contains_key(&observed.seq) => {
                return Err(format!(
                    "another message had this seq: {}",
                    observed.brief()
                ));
            }
            _ => {}
        }
        let acknowledged = certainty == Certainty::Acknowledged;
        if acknowledged {
            acknowledged_at.get_or_insert(at);
        }
        if certainty != Certainty::Volatile {
            let known = place.is_some_and(|(_, acknowledged)| acknowledged);
            *place = Some((observed.seq, acknowledged || known));
            let (sender, text, began) = (send.sender.clone(), send.text, send.began);
            self.messages.entry(observed.seq).or_insert_with(|| {
                Message::new(sender, Some(client_id.clone()), Change::done(text, began))
            });
        }
        Ok(())
    }

    /// Checks and adds a page.
    pub fn observe_page(
        &mut self,
        (position, limit): (Position, u64),
        page: &Page,
        asked: Instant,
        certainty: Certainty,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |problem: String| findings.push((0, problem));
        let (head, rev) = (self.head.at(asked), self.rev.at(asked));
        if page.head_seq < head {
            find(format!(
                "expected a head of {head} or more, observed {}",
                page.head_seq
            ));
        }
        if page.rev < rev {
            find(format!(
                "expected a rev of {rev} or more, observed {}",
                page.rev
            ));
        }
        let whole = position.bounds(limit, page.head_seq);
        let (first, last) = page.cut(position, whole).unwrap_or(whole);
        let unread = |seq: &u64| {
            let range = page.archive_unavailable.as_ref();
            range.is_some_and(|it| (it.from_seq..=it.to_seq).contains(seq))
        };
        let shown: Vec<u64> = page.messages.iter().map(|observed| observed.seq).collect();
        let is_whole = if page.archive_unavailable.is_some() {
            let mut missing = (first..=last).filter(|seq| !shown.contains(seq));
            shown.is_sorted() && missing.all(|seq| unread(&seq))
        } else {
            shown.iter().copied().eq(first..=last)
        };
        if !is_whole {
            let range = &page.archive_unavailable;
            find(format!(
                "expected messages {first} to {last}, observed {shown:?}, unavailable {range:?}"
            ));
        }
        let more = (first > 1 && page.head_seq > 0, last < page.head_seq);
        if more != (page.has_more_before, page.has_more_after) {
            find(format!(
                "hasMoreBefore and hasMoreAfter: expected {more:?} of {first} to {last}"
            ));
        }
        if page.tiers.hot + page.tiers.archive != shown.len() as u64 {
            find(format!("{:?} make {} messages", page.tiers, shown.len()));
        }
        let at = Instant::now();
        if certainty != Certainty::Volatile {
            self.head.raise(at, page.head_seq, false);
            self.rev.raise(at, page.rev, false);
        }
        let observed = page.messages.iter();
        findings.extend(
            observed.filter_map(|observed| self.observe(observed, Some(asked), certainty).err()),
        );
        findings
    }

    /// The messages whose latest change certainly has a rev after `from` and up to `through`, for a request that was sent at
    /// `asked`.
    #[must_use]
    pub fn changed(&self, (from, through): (u64, u64), asked: Instant) -> Vec<u64> {
        let changed = |message: &Message| {
            let rev = message.rev.at(asked);
            rev > from && rev <= through && rev == message.rev.now() && message.is_still(asked)
        };
        let changed = self.messages.iter().filter(|(_, message)| changed(message));
        changed.map(|(seq, _)| *seq).collect()
    }

    /// Whether a send of this text was requested.
    #[must_use]
    pub fn has_sent(&self, content: &str) -> bool {
        let token = token_of(content);
        self.sends
            .values()
            .any(|send| Some(send.text.token) == token)
    }

    /// Forgets observations that were not acknowledged, made at `since` or later: the database server was killed.
    pub fn forget(&mut self, since: Instant) {
        self.head.forget(since);
        self.rev.forget(since);
        for send in self.sends.values_mut() {
            // If the message was not rolled back, it is observed again.
            for place in [&mut send.place, &mut send.second_place] {
                if let Some((seq, false)) = *place {
                    *place = None;
                    self.messages.remove(&seq);
                }
            }
        }
        for message in self.messages.values_mut() {
            message.forget(since);
        }
    }

    /// Sends that break the commit order: a send that begins after another was acknowledged has a greater seq.
    #[must_use]
    pub fn out_of_order(&self) -> Vec<Finding> {
        let mut placed: Vec<(u64, &Send)> = Vec::new();
        for send in self.sends.values() {
            placed.extend(send.place.map(|(seq, _)| (seq, send)));
        }
        placed.sort_unstable_by_key(|(seq, _)| *seq);
        let mut findings = Vec::new();
        let mut latest: Option<(Instant, u64)> = None;
        for (seq, send) in placed {
            if let Some((began, before)) = latest
                && send.acknowledged_at.is_some_and(|at| at < began)
            {
                findings.push((
                    seq,
                    format!("acknowledged before the send of seq {before} began"),
                ));
            }
            if latest.is_none_or(|(began, _)| send.began > began) {
                latest = Some((send.began, seq));
            }
        }
        findings
    }
}
