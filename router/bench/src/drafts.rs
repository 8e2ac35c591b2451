//! What is said: a stream of messages to send, the same for Backscroll and for the row-by-row inserts.

use std::fmt::Write as _;

use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// How many different texts there are.
const TEXTS: usize = 4096;
/// Mean length of a text in bytes, as in the chat histories at hand; few are long.
const MEAN_TEXT_BYTES: f64 = 62.0;
/// The longest text.
const MAX_TEXT_BYTES: usize = 1000;
/// What texts are made of: short words are frequent, some letters are not ASCII, and some need an escape in JSON.
const WORDS: [&str; 24] = [
    "a",
    "so",
    "the",
    "and",
    "you",
    "not",
    "with",
    "that",
    "from",
    "have",
    "this",
    "\"what\"",
    "would",
    "there",
    "später",
    "thanks",
    "compile",
    "without",
    "tomorrow",
    "question",
    "déjà vu",
    "🙂",
    "something",
    "understand",
];

/// A message to send: positions of what it is made of, and an id of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Which conversation.
    pub conversation: u32,
    /// Which of its members says it.
    pub member: u16,
    /// Which text.
    pub text: u16,
    /// The client message id, as a number.
    pub id: u128,
}

/// Positions of conversations in the population.
pub type Conversations = std::sync::Arc<[u32]>;

/// A stream of drafts. Two streams with different seeds have no id in common.
#[derive(Clone, Debug)]
pub struct Drafts {
    rng: SmallRng,
    conversations: Conversations,
    members: u16,
}

impl Drafts {
    /// Messages from all of `members` members to all of these conversations, evenly.
    ///
    /// # Errors
    /// When there is no conversation or no member.
    pub fn new(seed: u64, conversations: Conversations, members: usize) -> Result<Self> {
        anyhow::ensure!(
            !conversations.is_empty() && members > 0,
            "there is nobody to talk to"
        );
        Ok(Self {
            rng: SmallRng::seed_from_u64(seed),
            conversations,
            members: u16::try_from(members)?,
        })
    }

    /// The next one.
    pub fn draw(&mut self) -> Draft {
        let conversation = self.conversations[self.rng.random_range(0..self.conversations.len())];
        let member = self.rng.random_range(0..self.members);
        let text = self.rng.random_range(0..TEXTS) as u16;
        Draft {
            conversation,
            member,
            text,
            id: self.rng.random(),
        }
    }
}

/// The texts, as they are and as JSON strings.
#[derive(Debug)]
pub struct Texts {
    plain: Vec<String>,
    json: Vec<String>,
}

impl Texts {
    /// The same texts for the same seed.
    ///
    /// # Errors
    /// Never: every string has a JSON form.
    pub fn new(seed: u64) -> Result<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plain: Vec<String> = (0..TEXTS).map(|_| text(&mut rng)).collect();
        let json = plain
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        Ok(Self { plain, json })
    }

    /// The text of `draft`.
    #[must_use]
    pub fn plain(&self, draft: &Draft) -> &str {
        &self.plain[usize::from(draft.text)]
    }

    /// The same as a JSON string, quotes included.
    #[must_use]
    pub fn json(&self, draft: &Draft) -> &str {
        &self.json[usize::from(draft.text)]
    }
}

/// Words up to a length drawn from an exponential distribution.
fn text(rng: &mut SmallRng) -> String {
    let uniform: f64 = rng.random();
    let bytes = (-(1.0 - uniform).ln() * MEAN_TEXT_BYTES).min(MAX_TEXT_BYTES as f64) as usize;
    let mut text = String::from(WORDS[rng.random_range(0..WORDS.len())]);
    while text.len() < bytes {
        text.push(' ');
        text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
    }
    text
}

/// A client message id as clients write it: a UUID's 36 characters.
pub fn write_id(id: u128, text: &mut String) {
    let (a, b, c, d, e) = (
        id >> 96,
        id >> 80 & 0xffff,
        id >> 64 & 0xffff,
        id >> 48 & 0xffff,
        id & 0xffff_ffff_ffff,
    );
    // Writing to a string cannot fail.
    let _ = write!(text, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}");
}

/// The number of a client message id written by [`write_id`].
#[must_use]
pub fn read_id(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut id = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return None;
            }
        } else {
            id = id << 4 | u128::from(char::from(*byte).to_digit(16)?);
        }
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back() {
        for id in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677] {
            let mut text = String::new();
            write_id(id, &mut text);
            assert_eq!(read_id(&text), Some(id), "{text}");
        }
        assert_eq!(read_id("01234567-89ab-cdef-0011_223344556677"), None);
        assert_eq!(read_id("1"), None);
    }

    #[test]
    fn texts_are_as_long_as_people_write() {
        let texts = Texts::new(1).unwrap();
        let mean = texts.plain.iter().map(String::len).sum::<usize>() as f64 / TEXTS as f64;
        assert!((50.0..80.0).contains(&mean), "{mean}");
        assert!(texts.json.iter().any(|text| text.contains('\\')));
    }

    #[test]
    fn drafts_of_different_seeds_differ() {
        let mut one = Drafts::new(1, [0, 1].into(), 3).unwrap();
        let mut two = Drafts::new(2, [0, 1].into(), 3).unwrap();
        assert_ne!(one.draw().id, two.draw().id);
        assert!(
            (0..100)
                .map(|_| one.draw())
                .all(|draft| draft.conversation < 2 && draft.member < 3)
        );
        assert!(Drafts::new(1, [].into(), 3).is_err());
    }
}
