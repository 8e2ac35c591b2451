//! The demo's grammar: word lists, and threads whose lines have gaps for the words. `phrases.txt` explains its form.

use std::collections::HashMap;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

const TEXT: &str = include_str!("phrases.txt");

/// How deep word lists may name word lists.
const DEPTH: u32 = 4;

/// Word lists and threads.
#[derive(Debug)]
pub(super) struct Phrases {
    lists: HashMap<&'static str, Words>,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Words {
    words: Vec<&'static str>,
    /// Drawn anew each time, not once a thread.
    fresh: bool,
}

/// Something that people talk about for a moment.
#[derive(Debug)]
pub(super) struct Thread {
    rooms: Vec<&'static str>,
    pub(super) lines: Vec<Line>,
}

/// A line of a thread.
#[derive(Debug)]
pub(super) struct Line {
    /// `A`, `B` … or `*` for anybody.
    pub(super) speaker: char,
    pub(super) text: &'static str,
    /// Half of the time it is not said.
    pub(super) optional: bool,
    /// It answers the thread's first line.
    pub(super) answers_first: bool,
    /// It comes much later than the line before.
    pub(super) later: bool,
    /// How others react to it.
    pub(super) reactions: Vec<&'static str>,
}

/// The words that one thread uses, and who speaks.
#[derive(Debug, Default)]
pub(super) struct Bound<'a> {
    pub(super) words: HashMap<&'static str, &'static str>,
    /// The people of the room, and who is A, B, C.
    pub(super) room: &'a [&'static str],
    pub(super) speakers: Vec<&'static str>,
}

impl Phrases {
    /// Reads the file that is built in.
    ///
    /// # Errors
    /// With the line that cannot be understood.
    pub(super) fn load() -> anyhow::Result<Self> {
        let mut phrases = Self {
            lists: HashMap::new(),
            threads: Vec::new(),
        };
        for (number, line) in TEXT
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        {
            phrases
                .take(line)
                .ok_or_else(|| anyhow::anyhow!("phrases.txt, line {}: `{line}`", number + 1))?;
        }
        Ok(phrases)
    }

    fn take(&mut self, line: &'static str) -> Option<()> {
        if let Some(rooms) = line.strip_prefix("= ") {
            self.threads.push(Thread {
                rooms: rooms.split(' ').collect(),
                lines: Vec::new(),
            });
        } else if let Some(emoji) = line.strip_prefix("! ") {
            self.threads
                .last_mut()?
                .lines
                .last_mut()?
                .reactions
                .push(emoji);
        } else if let Some(list) = line.strip_prefix(['@', '~']) {
            let (name, words) = list.split_once(": ")?;
            self.lists.insert(
                name,
                Words {
                    words: words.split(" | ").collect(),
                    fresh: line.starts_with('~'),
                },
            );
        } else {
            let (head, text) = line.split_once(": ")?;
            let (marks, speaker) = head.split_at(head.len().checked_sub(1)?);
            let speaker = speaker
                .chars()
                .next()
                .filter(|speaker| matches!(speaker, 'A'..='F' | '*'))?;
            let has = |mark| marks.contains(mark);
            let (optional, later, answers_first) = (has('?'), has('>'), has('^'));
            let line = Line {
                speaker,
                text,
                optional,
                answers_first,
                later,
                reactions: Vec::new(),
            };
            self.threads.last_mut()?.lines.push(line);
        }
        Some(())
    }

    /// The threads that fit a room.
    pub(super) fn threads_of(&self, room: &str) -> Vec<&Thread> {
        self.threads
            .iter()
            .filter(|thread| thread.rooms.contains(&room))
            .collect()
    }

    /// `text` with its gaps filled.
    pub(super) fn fill(&self, text: &str, bound: &mut Bound<'_>, rng: &mut StdRng) -> String {
        self.fill_to(text, bound, rng, DEPTH)
    }

    fn fill_to(&self, text: &str, bound: &mut Bound<'_>, rng: &mut StdRng, depth: u32) -> String {
        let mut filled = String::with_capacity(text.len() + 16);
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let Some((gap, after)) = after.split_once('}') else {
                break;
            };
            rest = after;
            let word = self.word(gap, bound, rng);
            let word = if depth > 0 {
                self.fill_to(&word, bound, rng, depth - 1)
            } else {
                word
            };
            let is_fresh = self.lists.get(gap).is_some_and(|list| list.fresh);
            filled.push_str(&if is_fresh {
                fitting(&filled, word)
            } else {
                word
            });
        }
        filled.push_str(rest);
        filled
    }

    fn word(&self, gap: &str, bound: &mut Bound<'_>, rng: &mut StdRng) -> String {
        if let Some((low, high)) = gap.split_once('-') {
            let bounds = (low.parse::<u32>(), high.parse::<u32>());
            return if let (Ok(low), Ok(high)) = bounds {
                rng.random_range(low..=high).to_string()
            } else {
                gap.to_owned()
            };
        }
        if gap == "someone" {
            let others: Vec<&&str> = bound
                .room
                .iter()
                .filter(|user| !bound.speakers.contains(user))
                .collect();
            return others
                .choose(rng)
                .map_or_else(|| "somebody".into(), |user| name_of(user));
        }
        if let Some(position) = "ABCDEF".find(gap) {
            return bound
                .speakers
                .get(position)
                .map_or_else(|| "you".into(), |user| name_of(user));
        }
        let (name, another) = gap
            .strip_prefix('~')
            .map_or((gap, false), |name| (name, true));
        let Some((name, list)) = self.lists.get_key_value(name) else {
            return gap.to_owned();
        };
        let keeps = !list.fresh && !another;
        let used = bound.words.get(name).copied();
        if let Some(word) = used.filter(|_| keeps) {
            return word.to_owned();
        }
        let word = loop {
            let word = list.words.choose(rng).copied().unwrap_or_default();
            if Some(word) != used || list.words.len() < 2 {
                break word;
            }
        };
        if keeps {
            bound.words.insert(*name, word);
        }
        word.to_owned()
    }
}

/// An exclamation in the middle of a sentence begins with a small letter; I stays I.
fn fitting(before: &str, word: String) -> String {
    let begins_sentence =
        before.trim_end().is_empty() || before.trim_end().ends_with(['.', '!', '?', ':']);
    if begins_sentence || word.starts_with("I ") || word.starts_with("I'") {
        return word;
    }
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

/// A user as others write the name.
pub(super) fn name_of(user: &str) -> String {
    let mut letters = user.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_gap_of_every_line_can_be_filled() {
        let phrases = Phrases::load().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let room = ["alice", "ben", "carmen", "dmitri", "emeka"];
        let words = phrases
            .lists
            .values()
            .flat_map(|list| list.words.iter().copied());
        let lines = phrases
            .threads
            .iter()
            .flat_map(|thread| &thread.lines)
            .map(|line| line.text);
        for text in words.chain(lines) {
            for gap in text
                .split('{')
                .skip(1)
                .map(|rest| rest.split_once('}').unwrap().0)
            {
                let name = gap.trim_start_matches('~');
                let number = name
                    .split_once('-')
                    .is_some_and(|(low, high)| low.parse::<u32>().unwrap() < high.parse().unwrap());
                let known = number
                    || name == "someone"
                    || "ABCDEF".contains(name)
                    || phrases.lists.contains_key(name);
                assert!(known, "{{{gap}}} in {text}");
            }
            let mut bound = Bound {
                room: &room,
                speakers: vec!["alice", "ben", "carmen"],
                ..Bound::default()
            };
            let filled = phrases.fill(text, &mut bound, &mut rng);
            assert!(!filled.contains(['{', '}', '~']), "{filled}");
        }
    }

    #[test]
    fn a_thread_keeps_its_words() {
        let phrases = Phrases::load().unwrap();
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..50 {
            let mut bound = Bound::default();
            let first = phrases.fill("{town}", &mut bound, &mut rng);
            assert_eq!(phrases.fill("{town}", &mut bound, &mut rng), first);
            assert_ne!(phrases.fill("{~town}", &mut bound, &mut rng), first);
        }
    }
}
