//! The operator: adds a shard, moves ranges to it and back and forth, and drains a shard, with the commands that there are for it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use backscroll_shard::model::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use crate::harness::router::Router;
use crate::out;

/// The longest time of one command; a `drain` is several moves.
const PATIENCE: Duration = Duration::from_secs(1800);
/// The longest time until the rows of all moves are deleted on their sources.
const CLEANED_WITHIN: Duration = Duration::from_secs(600);
/// The reason that the history of moves gets.
const WHY: [&str; 3] = ["--reason", "bench", "--json"];

/// A range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Range {
    start: u64,
    end: Option<u64>,
}

impl Range {
    /// As commands take it.
    #[must_use]
    pub(super) fn argument(self) -> String {
        let end = self.end.map_or(String::new(), |end| end.to_string());
        format!("{}..{end}", self.start)
    }

    /// The last of `parts` equal parts of it.
    #[must_use]
    pub(super) fn last_part(self, parts: u64) -> Self {
        let last = self.end.unwrap_or(u64::MAX);
        Self {
            start: last - (last - self.start) / parts,
            end: self.end,
        }
    }
}

/// A move as commands print it.
#[derive(Debug, Deserialize)]
pub(super) struct Move {
    /// Its name.
    pub(super) id: String,
    state: String,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Event {
    at: Timestamp,
    event: String,
    detail: String,
}

/// What the history of a move says about its times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// From the freeze that was committed until the target served the range.
    pub(super) frozen: Duration,
    /// How many freezes were ended before.
    pub(super) ended: u64,
    /// From the beginning of the copy to its end.
    pub(super) copying: Duration,
    /// Rows that were copied.
    pub(super) rows: u64,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    ranges: Vec<Owned>,
}

#[derive(Deserialize)]
struct Owned {
    range: Range,
}

/// Runs commands beside a router.
pub(super) struct Operator<'a>(pub(super) &'a Router);

impl Operator<'_> {
    async fn ask<T: DeserializeOwned>(&self, subcommand: &str, arguments: &[&str]) -> Result<T> {
        let what = arguments.join(" ");
        let ran = timeout(PATIENCE, self.0.run(subcommand, arguments)).await;
        let printed = ran.with_context(|| format!("`{subcommand} {what}` does not end"))??;
        serde_json::from_str(&printed)
            .with_context(|| format!("what `{subcommand} {what}` printed"))
    }

    /// Makes a configured shard part of the deployment.
    ///
    /// # Errors
    /// When the command fails.
    pub(super) async fn add(&self, shard: &str) -> Result<()> {
        let add = [&["add", shard], &WHY[..]].concat();
        self.ask::<serde_json::Value>("shards", &add)
            .await
            .map(drop)
    }

    /// The ranges of a shard.
    ///
    /// # Errors
    /// When the command fails, or there is no such shard.
    pub(super) async fn ranges(&self, shard: &str) -> Result<Vec<Range>> {
        let listed: Vec<Listed> = self.ask("shards", &["list", "--json"]).await?;
        let listed = listed.into_iter().find(|it| it.name == shard);
        let listed = listed.with_context(|| format!("there is no shard {shard}"))?;
        Ok(listed.ranges.into_iter().map(|it| it.range).collect())
    }

    /// The arguments of the command that moves a range.
    pub(super) fn run_arguments<'a>(range: &'a str, target: &'a str) -> Vec<&'a str> {
        [&["run", "--range", range, "--to", target], &WHY[..]].concat()
    }

    /// Moves a range, to the moment in which the target serves it; gives the name of the move.
    ///
    /// # Errors
    /// When the command fails.
    pub(super) async fn move_to(&self, range: Range, target: &str) -> Result<String> {
        let range = range.argument();
        let moved: Move = self
            .ask("rebalance", &Self::run_arguments(&range, target))
            .await?;
        moved.served()
    }

    /// Moves the range of a move back; gives the name of that move.
    ///
    /// # Errors
    /// When the command fails.
    pub(super) async fn reverse(&self, id: &str) -> Result<String> {
        let back = [&["reverse", id], &WHY[..]].concat();
        let moved: Move = self.ask("rebalance", &back).await?;
        moved.served()
    }

    /// Moves everything of a shard away; gives the names of the moves.
    ///
    /// # Errors
    /// When the command fails, or the shard has ranges afterwards.
    pub(super) async fn drain(&self, shard: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Drained {
            moves: Vec<Move>,
        }
        let drain = [&["drain", shard], &WHY[..]].concat();
        let drained: Drained = self.ask("shards", &drain).await?;
        ensure!(
            self.ranges(shard).await?.is_empty(),
            "{shard} has ranges after it was drained"
        );
        drained.moves.into_iter().map(Move::served).collect()
    }

    /// Waits until the rows of all moves are deleted on their sources; `false` when that takes too long.
    ///
    /// # Errors
    /// When a command fails.
    pub(super) async fn wait_for_cleaning(&self) -> Result<bool> {
        let give_up_at = Instant::now() + CLEANED_WITHIN;
        loop {
            let rest: Vec<serde_json::Value> = self.ask("rebalance", &["status", "--json"]).await?;
            if rest.is_empty() || Instant::now() > give_up_at {
                return Ok(rest.is_empty());
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What the history says about the times of a move.
    ///
    /// # Errors
    /// When the command fails, or the history lacks an event.
    pub(super) async fn times(&self, id: &str) -> Result<Times> {
        let told: Move = self.ask("rebalance", &["history", id, "--json"]).await?;
        let last = |name: &str| told.events.iter().rev().find(|it| it.event == name);
        let last =
            |name: &str| last(name).with_context(|| format!("move {id} has no event {name}"));
        let span = |from: &Event, to: &Event| {
            Duration::from_millis(u64::try_from(to.at.0 - from.at.0).unwrap_or(0))
        };
        let copied = last("catching_up")?;
        let (rows, _) = copied.detail.split_once(' ').context("rows copied")?;
        let ended = told.events.iter().filter(|it| it.event == "unfrozen");
        Ok(Times {
            frozen: span(last("freezing")?, last("served")?),
            ended: ended.count() as u64,
            copying: span(last("copying")?, copied),
            rows: rows.parse().context("rows copied")?,
        })
    }
}

impl Move {
    fn served(self) -> Result<String> {
        let is_served = matches!(self.state.as_str(), "draining" | "done");
        ensure!(is_served, "move {} is {}", self.id, self.state);
        Ok(self.id)
    }
}

/// The moves of a run, in their order.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// To the shard that was added.
    pub(super) added: Vec<String>,
    /// Back and forth.
    pub(super) repeated: Vec<String>,
    /// Away from the shard that was drained.
    pub(super) drained: Vec<String>,
}

impl Moved {
    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        let all = [&self.added, &self.repeated, &self.drained];
        all.into_iter().flatten().map(String::as_str)
    }
}

impl Operator<'_> {
    /// The whole story: the last of `shards` joins and gets its share of each range; the last of these is moved back and forth
    /// `moves` times; then the second shard is drained.
    ///
    /// # Errors
    /// When a command fails.
    pub(super) async fn rebalance(&self, shards: usize, moves: usize) -> Result<Moved> {
        let new = format!("shard{shards}");
        let mut moved = Moved::default();
        out::progress(format_args!("adding {new}"));
        self.add(&new).await?;
        for n in 1..shards {
            for range in self.ranges(&format!("shard{n}")).await? {
                let part = range.last_part(shards as u64);
                moved.added.push(self.move_to(part, &new).await?);
            }
        }
        out::progress(format_args!("{} ranges are on it", moved.added.len()));
        let mut last = moved.added.last().context("nothing was moved")?.clone();
        for n in 1..=moves {
            last = self.reverse(&last).await?;
            moved.repeated.push(last.clone());
            if n.is_multiple_of(10) {
                out::progress(format_args!("moved back and forth {n} times"));
            }
        }
        out::progress("draining shard2");
        moved.drained = self.drain("shard2").await?;
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_ends_with_its_range() {
        let range = |start, end| Range { start, end };
        assert_eq!(range(0, Some(100)).last_part(4), range(75, Some(100)));
        let half = range(0, None).last_part(2);
        assert_eq!(half.argument(), "9223372036854775808..");
        assert_eq!(range(5, Some(9)).argument(), "5..9");
    }
}
