//! The latest senders of a conversation, each of whom has read up to their own newest message.
//!
//! Sending a message also moves the sender's watermarks to it. Instead of updating the sender's member row with every send,
//! the head, which is written anyway, names the last [`MOST`] senders with their newest message. Only a sender that falls
//! out of that list has a row to be written.
//!
//! So a member's watermarks are the greater of the row's and the head's:
//! [`StoredMembership::complete`](crate::member::StoredMembership::complete) makes them. The head is read **first**: a sender
//! that falls out between the two reads is in the row by then.

use crate::error::{Error, Result};
use crate::ids::{Seq, UserId};

/// Most senders that a head names (INV-BOUND).
const MOST: usize = 16;

/// The latest senders, each with their newest message; the latest is last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatestSenders(Vec<(UserId, Seq)>);

impl LatestSenders {
    /// As stored: a JSON list of pairs; none for none.
    ///
    /// # Errors
    /// When it is not what was stored.
    pub(crate) fn parse(stored: Option<&str>) -> Result<Self> {
        let Some(text) = stored else {
            return Ok(Self::default());
        };
        serde_json::from_str(text).map(Self).map_err(|error| {
            Error::corrupt(format_args!("a conversation's latest senders: {error}"))
        })
    }

    /// To be stored.
    pub(crate) fn to_json(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| crate::model::RawJson::of(&self.0).get().to_owned())
    }

    /// Takes in that `user` sent the message `seq`, the newest. Gives the sender that falls out, whose row is to be written
    /// now.
    #[must_use]
    pub(crate) fn sent(&mut self, user: &UserId, seq: Seq) -> Option<(UserId, Seq)> {
        if let Some(place) = self.0.iter().position(|(sender, _)| sender == user) {
            let (sender, _) = self.0.remove(place);
            self.0.push((sender, seq));
            return None;
        }
        let fallen = (self.0.len() == MOST).then(|| self.0.remove(0));
        self.0.push((user.clone(), seq));
        fallen
    }

    /// The latest senders with their newest messages.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(UserId, Seq)> {
        self.0.iter()
    }

    /// The newest message of `user`, a latest sender.
    #[must_use]
    pub(crate) fn newest_of(&self, user: &UserId) -> Option<Seq> {
        let sender = self.0.iter().find(|(sender, _)| sender == user);
        sender.map(|(_, seq)| *seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u64) -> UserId {
        UserId::new(format!("\"user\" {n}")).unwrap()
    }

    #[test]
    fn the_sender_that_has_not_sent_for_longest_falls_out() {
        let mut senders = LatestSenders::default();
        let most = MOST as u64;
        for n in 0..most {
            assert_eq!(senders.sent(&user(n), Seq(n + 1)), None);
        }
        assert_eq!(senders.sent(&user(0), Seq(most + 1)), None);
        let fallen = senders.sent(&user(most), Seq(most + 2));
        assert_eq!(fallen, Some((user(1), Seq(2))));
        assert_eq!(senders.0.len(), MOST);
        assert_eq!(senders.newest_of(&user(0)), Some(Seq(most + 1)));
        assert_eq!(senders.newest_of(&user(1)), None);
        let stored = senders.to_json();
        assert_eq!(LatestSenders::parse(stored.as_deref()).unwrap(), senders);
        assert_eq!(LatestSenders::default().to_json(), None);
    }
}
