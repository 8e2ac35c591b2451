//! Years of made-up conversations: who talks where, when, and how they write. The same seed and the same end give the
//! same history, to the last letter.

use std::collections::BTreeMap;

use backscroll_shard::ids::{Seq, UserId};
use backscroll_shard::model::{HistoryRecord, MessageType, RawJson, Timestamp};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};

use super::phrases::{Bound, Line, Phrases, Thread};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Everybody, and how each of them writes.
pub(super) const PEOPLE: [(&str, Hand); 9] = [
    ("alice", Hand::Plain),
    ("ben", Hand::Lower),
    ("carmen", Hand::Lively),
    ("dmitri", Hand::Lower),
    ("emeka", Hand::Proper),
    ("fumiko", Hand::Plain),
    ("greta", Hand::Proper),
    ("hassan", Hand::Lively),
    ("ines", Hand::Plain),
];

/// How somebody writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    Plain,
    /// Never a capital, never a full stop.
    Lower,
    /// With a full stop.
    Proper,
    /// Something more at the end, at times!
    Lively,
}

/// Where people meet.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: &'static str,
    pub(super) members: &'static [&'static str],
    /// How long ago it began.
    days: i64,
    /// Threads on an ordinary day.
    threads_a_day: f64,
    /// For Monday to Sunday, how much of an ordinary day it is.
    week: [f64; 7],
}

/// The rooms with a history.
pub(super) const ROOMS: [Room; 5] = [
    Room {
        name: "workshop",
        members: &[
            "alice", "ben", "carmen", "dmitri", "emeka", "fumiko", "greta", "hassan", "ines",
        ],
        days: 1690,
        threads_a_day: 2.3,
        week: [0.8, 1.0, 1.2, 1.0, 1.2, 2.0, 0.3],
    },
    Room {
        name: "random",
        members: &[
            "carmen", "alice", "ben", "dmitri", "emeka", "fumiko", "greta", "hassan",
        ],
        days: 1610,
        threads_a_day: 1.6,
        week: [1.0, 1.0, 1.0, 1.0, 1.3, 1.0, 0.8],
    },
    Room {
        name: "flat-12",
        members: &["ben", "alice", "fumiko"],
        days: 1420,
        threads_a_day: 1.4,
        week: [1.0, 1.0, 1.0, 1.0, 0.9, 1.2, 1.1],
    },
    Room {
        name: "climbing",
        members: &["greta", "alice", "emeka", "hassan", "ines"],
        days: 1250,
        threads_a_day: 0.9,
        week: [0.7, 1.3, 1.8, 0.7, 1.2, 1.2, 0.6],
    },
    Room {
        name: "summer-trip",
        members: &["emeka", "alice", "carmen", "ben", "greta"],
        days: 1100,
        threads_a_day: 0.35,
        week: [1.0; 7],
    },
];

/// How likely a thread begins in each hour of the day.
const HOURS: [u32; 24] = [
    4, 2, 1, 0, 0, 1, 6, 22, 40, 34, 30, 32, 42, 36, 28, 28, 32, 44, 56, 60, 54, 44, 30, 12,
];

/// A message before it knows its number.
struct Said {
    at: i64,
    user: &'static str,
    text: String,
    reactions: Option<RawJson>,
    /// This thread's first message, by its place in the order of making.
    answers: Option<usize>,
    made: usize,
}

/// The room's messages up to `until`, oldest first.
///
/// # Errors
/// When the phrases cannot be read.
pub(super) fn make(room: &Room, until: Timestamp, seed: u64) -> anyhow::Result<Vec<HistoryRecord>> {
    let phrases = Phrases::load()?;
    let mut talk = Talk {
        phrases: &phrases,
        room,
        rng: StdRng::seed_from_u64(seed),
        said: Vec::new(),
    };
    let today = until.0 - until.0.rem_euclid(DAY);
    let threads = phrases.threads_of(room.name);
    let mut recent = Vec::new();
    for day in (0..=room.days).rev().map(|days_ago| today - days_ago * DAY) {
        for _ in 0..talk.threads_on(day) {
            let begins = day + talk.time_of_day();
            let thread = talk_about(&threads, &mut recent, &mut talk.rng);
            talk.run(thread, begins);
        }
    }
    let mut said = talk.said;
    said.retain(|message| message.at < until.0);
    said.sort_by_key(|message| (message.at, message.made));
    let seqs: BTreeMap<usize, Seq> = said
        .iter()
        .zip(1..)
        .map(|(message, seq)| (message.made, Seq(seq)))
        .collect();
    let mut rng = talk.rng;
    said.into_iter()
        .map(|message| record(room, message, &seqs, &mut rng))
        .collect()
}

/// A thread that was not run lately.
fn talk_about<'a>(
    threads: &[&'a Thread],
    recent: &mut Vec<&'a Thread>,
    rng: &mut StdRng,
) -> Option<&'a Thread> {
    let fresh: Vec<&&Thread> = threads
        .iter()
        .filter(|thread| !recent.iter().any(|seen| std::ptr::eq(*seen, **thread)))
        .collect();
    let thread = **fresh.choose(rng)?;
    recent.push(thread);
    if recent.len() > threads.len() / 2 {
        recent.remove(0);
    }
    Some(thread)
}

struct Talk<'a> {
    phrases: &'a Phrases,
    room: &'a Room,
    rng: StdRng,
    said: Vec<Said>,
}

impl Talk<'_> {
    /// How many threads begin on a day: more on some weekdays, in waves over the year, and now and then hardly any.
    fn threads_on(&mut self, day: i64) -> usize {
        let number = day / DAY;
        let weekday = usize::try_from((number + 3).rem_euclid(7)).unwrap_or(0); // 1970-01-01 was a Thursday
        #[expect(clippy::cast_precision_loss, reason = "a wave over the year")]
        let season = 1.0 + 0.35 * (number as f64 / 365.25 * std::f64::consts::TAU).sin();
        let mood = if self.rng.random_ratio(1, 9) {
            0.15
        } else {
            self.rng.random_range(0.5..1.6)
        };
        let expected = self.room.threads_a_day * self.room.week[weekday] * season * mood;
        // Poisson: count how many exponential gaps fit.
        let mut left = expected;
        let mut count = 0;
        loop {
            left += self.rng.random_range(f64::MIN_POSITIVE..1.0).ln();
            if left < 0.0 {
                return count;
            }
            count += 1;
        }
    }

    fn time_of_day(&mut self) -> i64 {
        let mut place = self.rng.random_range(0..HOURS.iter().sum());
        let hour = HOURS.iter().position(|weight| {
            let here = place < *weight;
            place = place.saturating_sub(*weight);
            here
        });
        let hour = hour.and_then(|hour| i64::try_from(hour).ok()).unwrap_or(12);
        hour * HOUR + self.rng.random_range(0..HOUR)
    }

    fn run(&mut self, thread: Option<&Thread>, begins: i64) {
        let Some(thread) = thread else { return };
        let mut speakers = self.room.members.to_vec();
        speakers.shuffle(&mut self.rng);
        let mut bound = Bound {
            room: self.room.members,
            speakers,
            ..Bound::default()
        };
        let named = thread
            .lines
            .iter()
            .filter_map(|line| position(line.speaker))
            .max()
            .unwrap_or(0);
        bound.speakers.truncate(named + 1);
        let first = self.said.len();
        let mut at = begins;
        for line in &thread.lines {
            if line.optional && self.rng.random_bool(0.5) {
                continue;
            }
            let pause = if line.later {
                self.rng.random_range(15 * MINUTE..5 * HOUR)
            } else {
                self.pause()
            };
            at += if self.said.len() == first { 0 } else { pause };
            let user = self.speaker(line, &bound);
            let text = self.phrases.fill(line.text, &mut bound, &mut self.rng);
            let text = self.write(user, &text);
            let reactions = self.reactions(line, user);
            let made = self.said.len();
            let answers = (line.answers_first && made > first).then_some(first);
            self.said.push(Said {
                at,
                user,
                text,
                reactions,
                answers,
                made,
            });
        }
    }

    /// Between two lines: mostly seconds, at times minutes.
    fn pause(&mut self) -> i64 {
        let seconds = 3.0 - 40.0 * self.rng.random_range(f64::MIN_POSITIVE..1.0).ln();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "some minutes in milliseconds"
        )]
        let pause = (seconds * 1000.0) as i64;
        if self.rng.random_ratio(1, 12) {
            pause * 8
        } else {
            pause
        }
    }

    fn speaker(&mut self, line: &Line, bound: &Bound<'_>) -> &'static str {
        let named =
            position(line.speaker).map(|position| bound.speakers[position % bound.speakers.len()]);
        named
            .or_else(|| self.room.members.choose(&mut self.rng).copied())
            .unwrap_or("alice")
    }

    /// The text as `user` would write it.
    fn write(&mut self, user: &str, text: &str) -> String {
        let hand = PEOPLE
            .iter()
            .find(|(name, _)| *name == user)
            .map_or(Hand::Plain, |(_, hand)| *hand);
        let ends_in_a_letter = text.ends_with(char::is_alphanumeric);
        match hand {
            Hand::Lower => {
                let lower = text.to_lowercase();
                let ends_a_sentence = lower.ends_with('.') && !lower.ends_with("..");
                if ends_a_sentence {
                    lower.trim_end_matches('.').to_owned()
                } else {
                    lower
                }
            }
            Hand::Proper if ends_in_a_letter => capitalised(text) + ".",
            Hand::Lively if ends_in_a_letter && self.rng.random_ratio(1, 4) => {
                let more = ["!", "!!", " :)", " 😊", " 🙂"]
                    .choose(&mut self.rng)
                    .copied()
                    .unwrap_or_default();
                capitalised(text) + more
            }
            Hand::Plain | Hand::Proper | Hand::Lively => capitalised(text),
        }
    }

    fn reactions(&mut self, line: &Line, author: &str) -> Option<RawJson> {
        let mut reactions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for emoji in &line.reactions {
            let mut others: Vec<&str> = self
                .room
                .members
                .iter()
                .copied()
                .filter(|user| *user != author)
                .collect();
            others.shuffle(&mut self.rng);
            others.truncate(self.rng.random_range(0..=3));
            others.sort_unstable();
            if !others.is_empty() {
                reactions.insert(emoji, others);
            }
        }
        (!reactions.is_empty()).then(|| RawJson::of(&reactions))
    }
}

fn position(speaker: char) -> Option<usize> {
    "ABCDEF".find(speaker)
}

fn capitalised(text: &str) -> String {
    super::phrases::name_of(text)
}

fn record(
    room: &Room,
    message: Said,
    seqs: &BTreeMap<usize, Seq>,
    rng: &mut StdRng,
) -> anyhow::Result<HistoryRecord> {
    let shortly_after = message.at + rng.random_range(5_000..4 * MINUTE);
    let edited = rng.random_ratio(1, 120);
    let deleted = !edited && rng.random_ratio(1, 700);
    let user = UserId::new(message.user)?;
    let mentions = mentioned(room.members, message.user, &message.text)?;
    let pinned = !deleted && rng.random_ratio(1, 1500);
    Ok(HistoryRecord {
        channel: room.name.to_owned(),
        user: user.clone(),
        at: message.at,
        text: if deleted { String::new() } else { message.text },
        message_type: MessageType::Text,
        reply_to: message.answers.and_then(|made| seqs.get(&made).copied()),
        attachments: None,
        reactions: message.reactions.filter(|_| !deleted),
        metadata: None,
        mentions: if deleted { Vec::new() } else { mentions },
        pinned_at: pinned.then_some(shortly_after),
        pinned_by: pinned.then_some(user),
        edited_at: edited.then_some(shortly_after),
        deleted_at: deleted.then_some(shortly_after),
        to: None,
        status: None,
    })
}

/// The others of `members` whose name stands in the text of `user`.
///
/// # Errors
/// When a member's name is no user id.
pub(super) fn mentioned(members: &[&str], user: &str, text: &str) -> anyhow::Result<Vec<UserId>> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split(|letter: char| !letter.is_alphabetic()).collect();
    let others = members.iter().filter(|member| **member != user);
    let named = others.filter(|member| words.contains(member));
    named.map(|member| Ok(UserId::new(*member)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: Timestamp = Timestamp(1_760_000_000_000);

    fn all() -> Vec<HistoryRecord> {
        ROOMS
            .iter()
            .flat_map(|room| make(room, UNTIL, 7).unwrap())
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        assert_eq!(
            make(&ROOMS[1], UNTIL, 7).unwrap(),
            make(&ROOMS[1], UNTIL, 7).unwrap()
        );
        assert_ne!(
            make(&ROOMS[1], UNTIL, 7).unwrap(),
            make(&ROOMS[1], UNTIL, 8).unwrap()
        );
    }

    #[test]
    fn it_is_years_long_in_order_and_mostly_by_day() {
        for room in &ROOMS {
            let records = make(room, UNTIL, 7).unwrap();
            assert!(
                records.is_sorted_by_key(|record| record.at),
                "{}",
                room.name
            );
            assert!(
                records
                    .iter()
                    .all(|record| room.members.contains(&record.user.as_str()))
            );
            assert!(
                records.last().unwrap().at > UNTIL.0 - 14 * DAY
                    && records.last().unwrap().at < UNTIL.0
            );
            let earlier =
                |record: &HistoryRecord, seq: u64| record.reply_to.is_none_or(|to| to.0 < seq);
            assert!(
                records
                    .iter()
                    .zip(1..)
                    .all(|(record, seq)| earlier(record, seq)),
                "{}",
                room.name
            );
        }
        let records = all();
        assert!(
            (20_000..80_000).contains(&records.len()),
            "{}",
            records.len()
        );
        let night = records
            .iter()
            .filter(|record| (1..6).contains(&(record.at.rem_euclid(DAY) / HOUR)))
            .count();
        assert!(
            night * 20 < records.len(),
            "{night} of {} at night",
            records.len()
        );
        let span = records.iter().map(|record| record.at).max().unwrap()
            - records.iter().map(|record| record.at).min().unwrap();
        assert!(span > 3 * 365 * DAY);
        for found in [
            records
                .iter()
                .filter(|record| record.reply_to.is_some())
                .count(),
            records
                .iter()
                .filter(|record| record.reactions.is_some())
                .count(),
            records
                .iter()
                .filter(|record| record.edited_at.is_some())
                .count(),
            records
                .iter()
                .filter(|record| record.deleted_at.is_some())
                .count(),
            records
                .iter()
                .filter(|record| !record.mentions.is_empty())
                .count(),
            records
                .iter()
                .filter(|record| record.pinned_at.is_some())
                .count(),
        ] {
            assert!(found > 10, "{found}");
        }
    }
}
