//! What was acknowledged, and whether the store still has exactly that: INV-SEQ, INV-ACK and INV-IDEM seen from outside.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::drafts::{Draft, read_id};
use crate::report::{Verdict, thousands};

/// A message that was answered with 201.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// What was sent.
    pub draft: Draft,
    /// The number it got.
    pub seq: u64,
    /// When its request was written, in nanoseconds since the run began.
    pub sent: u64,
    /// When its answer had been read.
    pub acknowledged: u64,
}

/// Everything that was sent.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Answered with 201.
    pub acknowledged: Vec<Acknowledged>,
    /// Refused with an error that leaves open whether it is stored.
    pub unknown: Vec<Draft>,
}

impl Ledger {
    /// Adds another sender's.
    pub fn append(&mut self, mut other: Self) {
        self.acknowledged.append(&mut other.acknowledged);
        self.unknown.append(&mut other.unknown);
    }

    /// A ledger for each of `conversations` conversations.
    #[must_use]
    pub fn by_conversation(self, conversations: usize) -> Vec<Self> {
        let mut ledgers: Vec<Self> = (0..conversations).map(|_| Self::default()).collect();
        for acknowledged in self.acknowledged {
            ledgers[acknowledged.draft.conversation as usize]
                .acknowledged
                .push(acknowledged);
        }
        for draft in self.unknown {
            ledgers[draft.conversation as usize].unknown.push(draft);
        }
        ledgers
    }
}

/// A message as history shows it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Its number.
    pub seq: u64,
    /// Who sent it.
    pub sender_id: String,
    /// The text.
    pub content: String,
    /// The sender's id for it.
    pub client_msg_id: Option<String>,
}

/// What reading everything back found. All but the first three are faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages read back.
    pub read: u64,
    /// Messages stored though their sends were refused with an error that leaves it open.
    pub stored_unacknowledged: u64,
    /// Acknowledged, but not stored under the number given.
    pub lost: u64,
    /// Stored a second time under another number.
    pub duplicated: u64,
    /// Numbers from 1 to the head that no message has, or more than one.
    pub gaps: u64,
    /// Stored with another sender or another text.
    pub altered: u64,
    /// Sent after a message with a higher number had been acknowledged.
    pub out_of_order: u64,
    /// Stored, but sent by nobody.
    pub unexplained: u64,
}

impl Findings {
    /// Adds those of another conversation.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.read += other.read;
        self.stored_unacknowledged += other.stored_unacknowledged;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.gaps += other.gaps;
        self.altered += other.altered;
        self.out_of_order += other.out_of_order;
        self.unexplained += other.unexplained;
    }

    /// Whether everything is as it was acknowledged.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let found = format!(
            "{} lost, {} duplicated, {} gaps, {} altered, {} out of order, {} unexplained of {} acknowledged",
            self.lost,
            self.duplicated,
            self.gaps,
            self.altered,
            self.out_of_order,
            self.unexplained,
            thousands(self.acknowledged as f64)
        );
        let sound = self.faults() == 0 && self.acknowledged > 0 && self.read >= self.acknowledged;
        Verdict::new(
            "everything acknowledged is there, once, in order",
            found,
            sound,
        )
    }

    /// How many faults there are.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.lost
            + self.duplicated
            + self.gaps
            + self.altered
            + self.out_of_order
            + self.unexplained
    }
}

/// Compares one conversation's `ledger` with what history shows, in the order it shows it. `expected` gives a draft's
/// sender and text.
#[must_use]
pub fn compare<'a>(
    ledger: &Ledger,
    head: u64,
    stored: &[Stored],
    expected: impl Fn(&Draft) -> (&'a str, &'a str),
) -> Findings {
    let mut findings = Findings {
        acknowledged: ledger.acknowledged.len() as u64,
        read: stored.len() as u64,
        ..Findings::default()
    };
    findings.gaps = gaps(head, stored);

    let mut by_id: HashMap<u128, &Stored> = HashMap::with_capacity(stored.len());
    for message in stored {
        match message.client_msg_id.as_deref().and_then(read_id) {
            Some(id) => findings.duplicated += u64::from(by_id.insert(id, message).is_some()),
            None => findings.unexplained += 1,
        }
    }
    let mut check_content = |draft: &Draft, message: &Stored| {
        findings.altered +=
            u64::from(expected(draft) != (message.sender_id.as_str(), message.content.as_str()));
    };
    let mut known: HashSet<u128> = HashSet::with_capacity(ledger.acknowledged.len());
    for entry in &ledger.acknowledged {
        known.insert(entry.draft.id);
        match by_id.get(&entry.draft.id) {
            Some(message) if message.seq == entry.seq => check_content(&entry.draft, message),
            _ => findings.lost += 1,
        }
    }
    for draft in &ledger.unknown {
        known.insert(draft.id);
        if let Some(message) = by_id.get(&draft.id) {
            check_content(draft, message);
            findings.stored_unacknowledged += 1;
        }
    }
    findings.unexplained += by_id.keys().filter(|id| !known.contains(id)).count() as u64;
    findings.out_of_order = out_of_order(&ledger.acknowledged);
    findings
}

/// Numbers from 1 to `head` that are missing, and places where the numbers do not rise by one.
fn gaps(head: u64, stored: &[Stored]) -> u64 {
    let numbers: HashSet<u64> = stored
        .iter()
        .map(|message| message.seq)
        .filter(|seq| (1..=head).contains(seq))
        .collect();
    let missing = head - numbers.len() as u64;
    let steps = stored
        .windows(2)
        .filter(|pair| pair[1].seq != pair[0].seq + 1)
        .count() as u64;
    let outside = stored
        .iter()
        .filter(|message| !(1..=head).contains(&message.seq))
        .count() as u64;
    missing.max(steps) + outside
}

/// How many messages were acknowledged before one with a lower number had been sent: with commit order, none.
fn out_of_order(acknowledged: &[Acknowledged]) -> u64 {
    let mut by_seq: Vec<&Acknowledged> = acknowledged.iter().collect();
    by_seq.sort_unstable_by_key(|entry| entry.seq);
    let mut latest_sent = 0;
    let mut count = 0;
    for entry in by_seq {
        count += u64::from(entry.acknowledged < latest_sent);
        latest_sent = latest_sent.max(entry.sent);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafts::write_id;

    fn draft(id: u128) -> Draft {
        Draft {
            conversation: 0,
            member: 0,
            text: 0,
            id,
        }
    }

    fn acknowledged(id: u128, seq: u64) -> Acknowledged {
        Acknowledged {
            draft: draft(id),
            seq,
            sent: seq * 100,
            acknowledged: seq * 100 + 150,
        }
    }

    fn stored(id: u128, seq: u64) -> Stored {
        let mut text = String::new();
        write_id(id, &mut text);
        Stored {
            seq,
            sender_id: "anna".into(),
            content: "hello".into(),
            client_msg_id: Some(text),
        }
    }

    fn check(ledger: &Ledger, head: u64, stored: &[Stored]) -> Findings {
        compare(ledger, head, stored, |_| ("anna", "hello"))
    }

    /// Messages 1 to 5 with ids 11 to 15, all as they should be.
    fn sound() -> (Ledger, Vec<Stored>) {
        let ledger = Ledger {
            acknowledged: (1..=5)
                .map(|n| acknowledged(u128::from(n) + 10, n))
                .collect(),
            unknown: Vec::new(),
        };
        (
            ledger,
            (1..=5).map(|n| stored(u128::from(n) + 10, n)).collect(),
        )
    }

    #[test]
    fn a_sound_log_has_no_faults() {
        let (ledger, log) = sound();
        let findings = check(&ledger, 5, &log);
        assert_eq!(
            (findings.acknowledged, findings.read, findings.faults()),
            (5, 5, 0)
        );
        assert_eq!(check(&Ledger::default(), 0, &[]).faults(), 0);
    }

    #[test]
    fn a_lost_message_is_found_at_the_end_and_in_the_middle() {
        let (ledger, mut log) = sound();
        log.pop();
        assert_eq!(
            check(&ledger, 4, &log),
            Findings {
                acknowledged: 5,
                read: 4,
                lost: 1,
                ..Findings::default()
            }
        );
        let (ledger, mut log) = sound();
        log.remove(2);
        let findings = check(&ledger, 5, &log);
        assert_eq!((findings.lost, findings.gaps), (1, 1));
    }

    #[test]
    fn a_message_under_another_number_is_lost() {
        let (ledger, mut log) = sound();
        log[1] = stored(13, 2);
        log[2] = stored(12, 3);
        assert_eq!(check(&ledger, 5, &log).lost, 2);
    }

    #[test]
    fn a_second_copy_is_found() {
        let (ledger, mut log) = sound();
        log.push(stored(13, 6));
        let findings = check(&ledger, 6, &log);
        assert_eq!(findings.duplicated, 1);
    }

    #[test]
    fn numbers_that_repeat_or_run_past_the_head_are_found() {
        let (ledger, mut log) = sound();
        log[3].seq = 3;
        assert_eq!(check(&ledger, 5, &log).gaps, 2);
        let (ledger, log) = sound();
        assert_eq!(check(&ledger, 4, &log).gaps, 1);
    }

    #[test]
    fn another_text_or_sender_is_found() {
        let (ledger, mut log) = sound();
        log[0].content.push('!');
        log[1].sender_id = "ben".into();
        assert_eq!(check(&ledger, 5, &log).altered, 2);
    }

    #[test]
    fn what_nobody_sent_is_found_and_what_was_refused_is_explained() {
        let (mut ledger, mut log) = sound();
        log.push(stored(99, 6));
        assert_eq!(check(&ledger, 6, &log).unexplained, 1);
        ledger.unknown.push(draft(99));
        let findings = check(&ledger, 6, &log);
        assert_eq!((findings.faults(), findings.stored_unacknowledged), (0, 1));
        log[5].client_msg_id = None;
        assert_eq!(check(&ledger, 6, &log).unexplained, 1);
    }

    #[test]
    fn an_order_against_time_is_found() {
        let (mut ledger, log) = sound();
        // The fifth had been acknowledged before the second was sent.
        ledger.acknowledged[1].sent = 900;
        ledger.acknowledged[1].acknowledged = 950;
        assert!(check(&ledger, 5, &log).out_of_order >= 1);
    }
}
