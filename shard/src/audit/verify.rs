//! Whether the log is what was written: every record is read, and its hashes are computed again.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::chain::AuditHash;
use super::rows::{self, Stored};
use super::{Action, Head, PATIENCE};
use crate::db::Connection;
use crate::error::Result;

/// Most records that are read at once.
const PAGE: usize = 500;
/// Most problems that are named; all are counted.
const PROBLEMS_MAX: usize = 1000;

/// A head of the log as it was put down where those who can write the directory cannot change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedHead {
    /// The number of the record that was the newest.
    pub number: u64,
    /// Its hash.
    pub hash: AuditHash,
    /// Where it is, for people.
    pub place: String,
}

/// What is wrong with the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum AuditProblem {
    /// Records are not there.
    Missing {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// What the record says is not what its digest was made of.
    Changed {
        /// Its number.
        number: u64,
    },
    /// The record's hash does not follow from the record before and its own number, time, action and digest: one of these is another, or
    /// the record stood elsewhere.
    Unchained {
        /// Its number.
        number: u64,
    },
    /// A head that was put down is not the record of its number.
    HeadDiffers {
        /// The head's number.
        number: u64,
        /// Where the head is.
        place: String,
    },
    /// Records that were there when a head was put down are not there any more, at the log's end.
    Truncated {
        /// The last record that is there.
        last: u64,
        /// The head's number.
        head: u64,
        /// Where the head is.
        place: String,
    },
    /// More records say nothing any more than were erased by `backscroll audit erase`.
    ErasedUnsaid {
        /// How many say nothing.
        erased: u64,
        /// How many of them the log itself says were erased.
        said: u64,
    },
}

impl fmt::Display for AuditProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { first, last } if first == last => {
                write!(f, "record {first} is missing")
            }
            Self::Missing { first, last } => write!(f, "records {first} to {last} are missing"),
            Self::Changed { number } => {
                write!(f, "record {number}: what it says was changed")
            }
            Self::Unchained { number } => write!(
                f,
                "record {number} does not follow the one before: either was changed, or stood elsewhere"
            ),
            Self::HeadDiffers { number, place } => {
                write!(f, "record {number} is not the one that {place} has")
            }
            Self::Truncated { last, head, place } => write!(
                f,
                "the log ends with record {last}, and {place} has record {head}"
            ),
            Self::ErasedUnsaid { erased, said } => write!(
                f,
                "{erased} records are erased, and the log says that {said} were"
            ),
        }
    }
}

/// What came of looking at the whole log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// How many records there are.
    pub records: u64,
    /// How many of them say nothing any more.
    pub erased: u64,
    /// The newest record.
    pub head: Option<Head>,
    /// How many heads were compared that were put down elsewhere.
    pub published_heads: u64,
    /// What is wrong, in the order of the records; at most 1000 are named.
    pub problems: Vec<AuditProblem>,
    /// How much is wrong.
    pub problem_count: u64,
}

/// What is known of the log up to a record.
#[derive(Default)]
struct Walk<'a> {
    last: Option<Head>,
    records: u64,
    erased: u64,
    /// How many records were erased, by what the log says.
    said: u64,
    heads: HashMap<u64, Vec<&'a PublishedHead>>,
    problems: Vec<AuditProblem>,
    problem_count: u64,
}

impl Walk<'_> {
    fn found(&mut self, problem: AuditProblem) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    fn take(&mut self, record: &Stored) {
        let number = record.number;
        let expected = self.last.map_or(1, |it| it.number + 1);
        if number > expected {
            self.found(AuditProblem::Missing {
                first: expected,
                last: number - 1,
            });
        }
        let previous = match self.last {
            None => Some(AuditHash::NONE),
            Some(last) => Some(last.hash),
        };
        let previous = previous.filter(|_| number == expected); // nothing is known of what followed a gap
        if previous.is_some_and(|previous| record.link().hash(previous) != record.hash) {
            self.found(AuditProblem::Unchained { number });
        }
        match &record.content {
            None => self.erased += 1,
            Some(content) if content.digest() != record.digest => {
                self.found(AuditProblem::Changed { number });
            }
            Some(content) if record.action == Action::AuditErase.name() => {
                self.said += erased_by(&content.details);
            }
            Some(_) => {}
        }
        for published in self.heads.remove(&number).unwrap_or_default() {
            if published.hash != record.hash {
                self.found(AuditProblem::HeadDiffers {
                    number,
                    place: published.place.clone(),
                });
            }
        }
        self.records += 1;
        self.last = Some(Head {
            number,
            at: record.at,
            hash: record.hash,
        });
    }

    fn end(mut self, published_heads: usize) -> Verification {
        let last = self.last.map_or(0, |it| it.number);
        let mut beyond: Vec<&PublishedHead> = self.heads.drain().flat_map(|(_, it)| it).collect();
        beyond.retain(|it| it.number > last); // others are of records that are missing
        beyond.sort_by_key(|it| it.number);
        for published in beyond {
            self.found(AuditProblem::Truncated {
                last,
                head: published.number,
                place: published.place.clone(),
            });
        }
        let (erased, said) = (self.erased, self.said);
        if erased > said {
            self.found(AuditProblem::ErasedUnsaid { erased, said });
        }
        Verification {
            records: self.records,
            erased,
            head: self.last,
            published_heads: published_heads as u64,
            problems: self.problems,
            problem_count: self.problem_count,
        }
    }
}

/// How many records were erased with the one that has these details.
fn erased_by(details: &str) -> u64 {
    let details: Option<serde_json::Value> = serde_json::from_str(details).ok();
    details
        .and_then(|it| it.get("records")?.as_u64())
        .unwrap_or(0)
}

/// Looks at all records, and compares them with the directory's own head and with `published`.
pub(super) async fn verify(
    connection: &mut Connection,
    published: &[PublishedHead],
) -> Result<Verification> {
    // First: what is added from now on comes after it.
    let own = rows::head(connection).await?.map(|head| PublishedHead {
        number: head.number,
        hash: head.hash,
        place: format!("the property {} of the directory", rows::HEAD),
    });
    let mut walk = Walk::default();
    for head in published.iter().chain(&own) {
        walk.heads.entry(head.number).or_default().push(head);
    }
    loop {
        connection.extend(Instant::now() + PATIENCE); // for each page
        let after = walk.last.map_or(0, |it| it.number);
        let page = rows::after(connection, after, PAGE).await?;
        page.iter().for_each(|record| walk.take(record));
        if page.len() < PAGE {
            return Ok(walk.end(published.len()));
        }
    }
}
