//! What a phase came to.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

const PRECISION: u8 = 3;

/// What a phase came to.
#[derive(Clone, Debug)]
pub struct Tally {
    /// How long its clock ran.
    pub duration: Duration,
    /// Messages sent, acknowledged and refused, also after the clock had stopped.
    pub sent: u64,
    /// See [`Tally::sent`].
    pub acknowledged: u64,
    /// Refusals, by their text.
    pub refused: BTreeMap<String, u64>,
    /// Messages that were acknowledged and that all others of their room had, before the clock stopped.
    pub complete_in_time: u64,
    /// Deliveries, speakers' own included.
    pub deliveries: u64,
    /// Those before the clock stopped.
    pub deliveries_in_time: u64,
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries that came twice.
    pub doubled: u64,
    /// Deliveries that came after a later one of the same room.
    pub out_of_order: u64,
    /// Commands that were never answered.
    pub unanswered: u64,
    /// Events other than new messages, by name.
    pub events: BTreeMap<String, u64>,
    /// From when it was meant to be sent until somebody else had it, in microseconds.
    pub to_receiver: Histogram<u64>,
    /// From when it was meant to be sent until it was acknowledged, in microseconds.
    pub to_acknowledgement: Histogram<u64>,
    /// From its acknowledgement until somebody else had it, in microseconds: 0 when they had it first.
    pub after_acknowledgement: Histogram<u64>,
    /// How many had it before it was acknowledged.
    pub before_acknowledgement: u64,
}

impl Tally {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            duration: Duration::ZERO,
            sent: 0,
            acknowledged: 0,
            refused: BTreeMap::new(),
            complete_in_time: 0,
            deliveries: 0,
            deliveries_in_time: 0,
            lost: 0,
            doubled: 0,
            out_of_order: 0,
            unanswered: 0,
            events: BTreeMap::new(),
            to_receiver: Histogram::new(PRECISION)?,
            to_acknowledgement: Histogram::new(PRECISION)?,
            after_acknowledgement: Histogram::new(PRECISION)?,
            before_acknowledgement: 0,
        })
    }

    /// Adds another phase. The durations add up.
    ///
    /// # Errors
    /// Never for histograms of this module, which grow as needed.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.duration += other.duration;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.complete_in_time += other.complete_in_time;
        self.deliveries += other.deliveries;
        self.deliveries_in_time += other.deliveries_in_time;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.unanswered += other.unanswered;
        self.before_acknowledgement += other.before_acknowledgement;
        for (mine, theirs) in [
            (&mut self.refused, &other.refused),
            (&mut self.events, &other.events),
        ] {
            for (name, count) in theirs {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
        self.to_receiver.add(&other.to_receiver)?;
        self.to_acknowledgement.add(&other.to_acknowledgement)?;
        self.after_acknowledgement
            .add(&other.after_acknowledgement)?;
        Ok(())
    }

    /// Messages a second that were acknowledged and that all others of their room had.
    #[must_use]
    pub fn message_rate(&self) -> f64 {
        self.complete_in_time as f64 / self.duration.as_secs_f64()
    }

    /// Deliveries a second.
    #[must_use]
    pub fn delivery_rate(&self) -> f64 {
        self.deliveries_in_time as f64 / self.duration.as_secs_f64()
    }

    /// What went wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults {
            lost: self.lost,
            doubled: self.doubled,
            out_of_order: self.out_of_order,
            refused: self.refused.values().sum(),
            unanswered: self.unanswered,
        }
    }
}

/// What went wrong with messages and their deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Faults {
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries that came twice.
    pub doubled: u64,
    /// Deliveries that came after a later one.
    pub out_of_order: u64,
    /// Sends that were refused.
    pub refused: u64,
    /// Sends that were never answered.
    pub unanswered: u64,
}

impl Faults {
    /// Whether there were none.
    #[must_use]
    pub fn none(&self) -> bool {
        *self == Self::default()
    }

    /// The headings of [`Faults::cells`].
    pub const COLUMNS: [&str; 5] = ["lost", "doubled", "out of order", "refused", "unanswered"];

    /// The cells of a table row.
    #[must_use]
    pub fn cells(&self) -> Vec<String> {
        [
            self.lost,
            self.doubled,
            self.out_of_order,
            self.refused,
            self.unanswered,
        ]
        .map(|n| n.to_string())
        .into()
    }
}
