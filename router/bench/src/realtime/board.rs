//! What was said, acknowledged and delivered, when, and whether anything was lost, doubled or out of order.
//!
//! Every message carries its room, its number in the room and when it was meant to be sent, so whoever receives it can
//! tell what it is without asking. Each room has one speaker: numbers are in the order in which it was said.

mod tally;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

pub use self::tally::{Faults, Tally};
use crate::drafts::{Draft, Texts, write_id};

/// How errors are told apart: by the start of their text.
const ERROR_TEXT_BYTES: usize = 120;

/// The notes of all clients of a fleet, over its phases.
pub struct Board {
    origin: Instant,
    texts: Texts,
    notes: Mutex<Notes>,
}

struct Notes {
    rooms: Vec<Room>,
    /// When the clock of this phase stops, in nanoseconds; what comes later is not part of a rate.
    until: u64,
    /// Gets a permit back for each message that everybody has.
    in_flight: Option<Arc<Semaphore>>,
    tally: Tally,
}

#[derive(Default)]
struct Room {
    listeners: u32,
    sent: u64,
    /// Messages that are not acknowledged, or that somebody does not have yet.
    open: VecDeque<Open>,
    acknowledged_in_time: u64,
    delivered_to_others_in_time: u64,
}

struct Open {
    number: u64,
    missing: u32,
    acknowledged_at: Option<u64>,
    received_before: u64,
}

/// What one client has heard in one room.
#[derive(Debug)]
pub struct Listening {
    /// The room.
    pub room: u32,
    /// Whether it is this client that speaks there.
    pub own: bool,
    next: u64,
    skipped: Vec<u64>,
}

/// A message about to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The room.
    pub room: u32,
    /// Its number in the room.
    pub number: u64,
    /// When it was meant to be sent, in nanoseconds.
    pub intended: u64,
}

impl Board {
    /// A board for rooms with so many listeners each, the speaker included.
    ///
    /// # Errors
    /// Never: the texts have JSON forms.
    pub fn new(listeners: impl IntoIterator<Item = u32>) -> Result<Arc<Self>> {
        let rooms = listeners.into_iter().map(|listeners| Room {
            listeners,
            ..Room::default()
        });
        let notes = Notes {
            rooms: rooms.collect(),
            until: 0,
            in_flight: None,
            tally: Tally::new()?,
        };
        Ok(Arc::new(Self {
            origin: Instant::now(),
            texts: Texts::new(1)?,
            notes: Mutex::new(notes),
        }))
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, in nanoseconds since the board was put up.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.nanos(Instant::now())
    }

    /// A point in time, on the same clock.
    #[must_use]
    pub fn nanos(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.origin).as_nanos() as u64
    }

    /// Starts a phase of this length: its clock runs from now. With `in_flight`, that gets a permit back for each
    /// message that all listeners have.
    ///
    /// # Errors
    /// Never: histograms of this module can be made.
    pub fn begin(&self, duration: Duration, in_flight: Option<Arc<Semaphore>>) -> Result<()> {
        let mut tally = Tally::new()?;
        tally.duration = duration;
        let mut notes = self.notes();
        for room in &mut notes.rooms {
            room.acknowledged_in_time = 0;
            room.delivered_to_others_in_time = 0;
        }
        notes.tally = tally;
        notes.in_flight = in_flight;
        notes.until = self.now() + duration.as_nanos() as u64;
        Ok(())
    }

    /// Whether the clock of the phase runs.
    #[must_use]
    pub fn in_time(&self) -> bool {
        self.now() < self.notes().until
    }

    /// How many messages are on their way, and how many deliveries there were: when neither changes, no more will come.
    #[must_use]
    pub fn progress(&self) -> (usize, u64) {
        let notes = self.notes();
        let open = notes.rooms.iter().map(|room| room.open.len()).sum();
        (open, notes.tally.deliveries + notes.tally.acknowledged)
    }

    /// Ends the phase: what is still on its way is lost.
    ///
    /// # Errors
    /// Never: histograms of this module can be made.
    pub fn end(&self) -> Result<Tally> {
        let mut notes = self.notes();
        notes.in_flight = None;
        let mut tally = std::mem::replace(&mut notes.tally, Tally::new()?);
        for room in &mut notes.rooms {
            for open in room.open.drain(..) {
                if open.acknowledged_at.is_some() {
                    tally.lost += u64::from(open.missing);
                } else {
                    tally.unanswered += 1;
                }
            }
            let others = u64::from(room.listeners.saturating_sub(1)).max(1);
            tally.complete_in_time += room
                .acknowledged_in_time
                .min(room.delivered_to_others_in_time / others);
        }
        Ok(tally)
    }

    /// Takes the next number of `room`.
    pub fn say(&self, room: u32, intended: u64) -> Said {
        let mut notes = self.notes();
        notes.tally.sent += 1;
        let room_notes = &mut notes.rooms[room as usize];
        room_notes.sent += 1;
        room_notes.open.push_back(Open {
            number: room_notes.sent,
            missing: room_notes.listeners,
            acknowledged_at: None,
            received_before: 0,
        });
        Said {
            room,
            number: room_notes.sent,
            intended,
        }
    }

    /// Writes the data of the command that sends it to `conversation`.
    pub fn write_message(&self, said: &Said, conversation: &str, data: &mut String) {
        use std::fmt::Write as _;

        let text = Draft {
            conversation: said.room,
            member: 0,
            text: (said.number.wrapping_mul(37) + u64::from(said.room)) as u16 % 4096,
            id: u128::from(said.intended) << 64
                | u128::from(said.room) << 32
                | u128::from(said.number),
        };
        data.clear();
        // Writing to a string cannot fail.
        let _ = write!(
            data,
            "{{\"conversationId\":\"{conversation}\",\"clientMsgId\":\""
        );
        write_id(text.id, data);
        let Said {
            room,
            number,
            intended,
        } = said;
        let _ = write!(data, "\",\"content\":\"{room}:{number}:{intended}:");
        data.push_str(&self.texts.json(&text)[1..]);
        data.push('}');
    }

    /// `said` was acknowledged.
    pub fn acknowledged(&self, said: &Said) {
        let now = self.now();
        let mut guard = self.notes();
        let notes = &mut *guard;
        let tally = &mut notes.tally;
        tally.acknowledged += 1;
        record(&mut tally.to_acknowledgement, now, said.intended);
        let room = &mut notes.rooms[said.room as usize];
        room.acknowledged_in_time += u64::from(now < notes.until);
        let Some(position) = room.position(said.number) else {
            return;
        };
        let open = &mut room.open[position];
        open.acknowledged_at = Some(now);
        for _ in 0..std::mem::take(&mut open.received_before) {
            tally.before_acknowledgement += 1;
            record(&mut tally.after_acknowledgement, now, now);
        }
        notes.settle(said.room, position);
    }

    /// `said` was refused: nobody will have it.
    pub fn refused(&self, said: &Said, error: &str) {
        let mut notes = self.notes();
        *notes.tally.refused.entry(start_of(error)).or_default() += 1;
        let room = &mut notes.rooms[said.room as usize];
        if let Some(position) = room.position(said.number) {
            room.open.remove(position);
            notes.give_back();
        }
    }

    /// A client begins to listen to `room`, whose speaker is `own`.
    #[must_use]
    pub fn listen(&self, room: u32, own: bool) -> Listening {
        Listening {
            room,
            own,
            next: self.notes().rooms[room as usize].sent + 1,
            skipped: Vec::new(),
        }
    }

    /// A client received `said`.
    pub fn received(&self, listening: &mut Listening, said: &Said) {
        let now = self.now();
        let mut guard = self.notes();
        let notes = &mut *guard;
        let tally = &mut notes.tally;
        if said.number >= listening.next {
            listening.skipped.extend(listening.next..said.number);
            listening.next = said.number + 1;
        } else if let Some(at) = listening.skipped.iter().position(|n| *n == said.number) {
            listening.skipped.swap_remove(at);
            tally.out_of_order += 1;
        } else {
            tally.doubled += 1;
            return;
        }
        tally.deliveries += 1;
        let in_time = u64::from(now < notes.until);
        tally.deliveries_in_time += in_time;
        let room = &mut notes.rooms[said.room as usize];
        let position = room.position(said.number);
        if !listening.own {
            record(&mut tally.to_receiver, now, said.intended);
            room.delivered_to_others_in_time += in_time;
            if let Some(open) = position.map(|position| &mut room.open[position]) {
                match open.acknowledged_at {
                    Some(at) => record(&mut tally.after_acknowledgement, now, at),
                    None => open.received_before += 1,
                }
            }
        }
        if let Some(position) = position {
            room.open[position].missing = room.open[position].missing.saturating_sub(1);
            notes.settle(said.room, position);
        }
    }

    /// An event that is not a new message.
    pub fn event(&self, name: &str) {
        let mut notes = self.notes();
        match notes.tally.events.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                notes.tally.events.insert(name.to_owned(), 1);
            }
        }
    }
}

impl Notes {
    /// Strikes out a message that is acknowledged and that all have.
    fn settle(&mut self, room: u32, position: usize) {
        let room = &mut self.rooms[room as usize];
        let open = &room.open[position];
        if open.missing == 0 && open.acknowledged_at.is_some() {
            room.open.remove(position);
            self.give_back();
        }
    }

    fn give_back(&self) {
        if let Some(in_flight) = &self.in_flight {
            in_flight.add_permits(1);
        }
    }
}

impl Room {
    fn position(&self, number: u64) -> Option<usize> {
        self.open.iter().position(|open| open.number == number)
    }
}

impl Said {
    /// Reads it from the data of a `new_message`; `None` when it is not one of ours.
    #[must_use]
    pub fn read(data: &str) -> Option<Self> {
        let content = data.split_once("\"content\":\"")?.1;
        let mut parts = content.splitn(4, ':');
        let room = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        let intended = parts.next()?.parse().ok()?;
        Some(Self {
            room,
            number,
            intended,
        })
    }
}

fn record(histogram: &mut Histogram<u64>, now: u64, since: u64) {
    // It grows as needed: nothing is too large.
    let _ = histogram.record(now.saturating_sub(since) / 1000);
}

fn start_of(text: &str) -> String {
    text.chars().take(ERROR_TEXT_BYTES).collect()
}

#[cfg(test)]
mod tests;
