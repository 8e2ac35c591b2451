//! Whether an input is the newest first: it would be stored upside down. Times may go down now and then, but not always.

use std::collections::HashMap;

use backscroll_shard::model::HistoryRecord;

/// After so many times that only went down, reading ends: before a batch is full, so that nothing is stored.
const ONLY_DOWN: u64 = 20;
/// At the end of the input, so many are enough.
const ONLY_DOWN_IN_ALL: u64 = 2;

/// How times follow each other within the channels.
#[derive(Debug, Default)]
pub(super) struct Order {
    last: HashMap<String, i64>,
    went_down: u64,
    went_up: bool,
}

impl Order {
    /// Takes the next record of its channel.
    ///
    /// # Errors
    /// When times have only gone down.
    pub(super) fn add(&mut self, record: &HistoryRecord) -> Result<(), String> {
        if self.went_up {
            return Ok(()); // nothing is to be found out any more
        }
        match self.last.insert(record.channel.clone(), record.at) {
            Some(last) if record.at > last => {
                self.went_up = true;
                self.last = HashMap::new();
            }
            Some(last) if record.at < last => self.went_down += 1,
            _ => {}
        }
        self.refuse_after(ONLY_DOWN)
    }

    /// At the end of the input.
    ///
    /// # Errors
    /// When times have only gone down.
    pub(super) fn check(&self) -> Result<(), String> {
        self.refuse_after(ONLY_DOWN_IN_ALL)
    }

    fn refuse_after(&self, most: u64) -> Result<(), String> {
        match !self.went_up && self.went_down >= most {
            true => Err(
                "the input is newest first, and would be stored upside down; turn it round: for JSON Lines tac FILE | backscroll import -, \
                 for a table with ORDER BY created_at, id"
                    .into(),
            ),
            false => Ok(()),
        }
    }
}
