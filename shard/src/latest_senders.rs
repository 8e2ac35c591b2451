//! Who wrote in a conversation lately, and so has read up to their own message.
//!
//! Whoever writes has read. A message moves its sender's watermarks to itself, and to write that into the member's row
//! would cost a send a second row. The head is written with every message anyway: it names the latest [`MOST`] writers
//! with their newest message. Only who falls out of it has a row to be written.
//!
//! So a member's watermarks are the greater of the row's and the head's. Whoever needs them reads the head **first**: who
//! falls out between the two reads is in the row by then.

use crate::error::{Error, Result};
use crate::ids::{Seq, UserId};
use crate::member::Membership;

/// Most writers a head names (INV-BOUND).
const MOST: usize = 16;

/// The latest writers, each with their newest message; the latest is last.
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
        serde_json::from_str(text)
            .map(Self)
            .map_err(|error| Error::corrupt(format_args!("a conversation's writers: {error}")))
    }

    /// To be stored.
    pub(crate) fn to_json(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| crate::model::RawJson::of(&self.0).get().to_owned())
    }

    /// `user` wrote the message `seq`, the newest. Gives who falls out, whose row is to be written now.
    #[must_use]
    pub(crate) fn wrote(&mut self, user: &UserId, seq: Seq) -> Option<(UserId, Seq)> {
        if let Some(place) = self.0.iter().position(|(writer, _)| writer == user) {
            let (writer, _) = self.0.remove(place);
            self.0.push((writer, seq));
            return None;
        }
        let fallen = (self.0.len() == MOST).then(|| self.0.remove(0));
        self.0.push((user.clone(), seq));
        fallen
    }

    /// Moves the watermarks of members, read after the head, to their newest message if it is one of these.
    pub fn move_on<'a>(&self, members: impl IntoIterator<Item = &'a mut Membership>) {
        for member in members {
            if let Some((_, seq)) = self.0.iter().find(|(writer, _)| *writer == member.user) {
                member.read_seq = member.read_seq.max(*seq);
                member.delivered_seq = member.delivered_seq.max(*seq);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u64) -> UserId {
        UserId::new(format!("\"user\" {n}")).unwrap()
    }

    #[test]
    fn who_has_not_written_for_longest_falls_out() {
        let mut writers = LatestSenders::default();
        let most = MOST as u64;
        for n in 0..most {
            assert_eq!(writers.wrote(&user(n), Seq(n + 1)), None);
        }
        assert_eq!(writers.wrote(&user(0), Seq(most + 1)), None);
        let fallen = writers.wrote(&user(most), Seq(most + 2));
        assert_eq!(fallen, Some((user(1), Seq(2))));
        assert_eq!(writers.0.len(), MOST);
        let stored = writers.to_json();
        assert_eq!(LatestSenders::parse(stored.as_deref()).unwrap(), writers);
    }

    #[test]
    fn a_watermark_only_moves_on() {
        let mut writers = LatestSenders::parse(None).unwrap();
        assert_eq!(writers.to_json(), None);
        assert_eq!(writers.wrote(&user(1), Seq(5)), None);
        let moved = |name: UserId, read: u64| {
            let mut member = Membership::unknown(name);
            member.read_seq = Seq(read);
            writers.move_on([&mut member]);
            (member.read_seq.0, member.delivered_seq.0)
        };
        assert_eq!(moved(user(1), 3), (5, 5));
        assert_eq!(moved(user(1), 9), (9, 5));
        assert_eq!(moved(user(2), 3), (3, 0));
    }
}
