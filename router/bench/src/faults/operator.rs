//! Operators: they import, archive, restore and export histories, collect garbage, and rebuild the index now and then.

use std::time::Duration;

use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::time::sleep;

use crate::faults::commands::{CommandOutcome, Commands};
use crate::faults::context::Phase;
use crate::faults::deployment::SHARDS;
use crate::faults::history::{History, export};

/// The greatest error of a clock, in seconds.
pub const TWO_HOURS: i64 = 7200;
/// The number of attempts of a command that is refused while another job holds its lease.
const ATTEMPTS: u32 = 8;
/// The error of a restoration of a conversation that is not archived yet.
const NOTHING_TO_RESTORE: &str = "there is nothing to restore";
/// The number of conversations of a history.
const CONVERSATIONS: usize = 40;
/// The number of ranges from which on none is cut.
const RANGES_MAX: usize = 24;

/// An operator.
pub struct Operator {
    commands: Commands,
    random: SmallRng,
    /// Whether the clocks of its commands may be wrong.
    wrong_clocks: bool,
}

impl Operator {
    /// An operator who runs `commands`.
    #[must_use]
    pub fn new(commands: Commands, seed: u64, wrong_clocks: bool) -> Self {
        Self {
            commands,
            random: SmallRng::seed_from_u64(seed),
            wrong_clocks,
        }
    }

    /// The error of the next command's clock, in seconds.
    fn clock(&mut self) -> i64 {
        match self.wrong_clocks && self.random.random_ratio(1, 3) {
            true => self.random.random_range(-TWO_HOURS..=TWO_HOURS),
            false => 0,
        }
    }

    fn is_over(&self) -> bool {
        self.commands.context.phase() != Phase::Run
    }

    /// Imports one history after another, until there are `enough` messages; then restores conversations, so that there are
    /// messages to archive.
    ///
    /// # Errors
    /// When a command cannot be run.
    pub async fn import_histories(mut self, enough: u64) -> Result<()> {
        let mut number = 1;
        while !self.is_over() && self.commands.context.ledger().counts.imported < enough {
            let what = (number, CONVERSATIONS);
            let history = History::write(&self.commands, &mut self.random, what)?;
            self.import(&history).await?;
            number += 1;
        }
        while !self.is_over() {
            self.restore().await?;
        }
        Ok(())
    }

    /// Archives and collects garbage until the run ends.
    ///
    /// # Errors
    /// When a command cannot be run.
    pub async fn archive(mut self) -> Result<()> {
        while !self.is_over() {
            self.run(&["archive", "run"]).await?;
            self.run(&["archive", "gc"]).await?;
        }
        Ok(())
    }

    /// Exports, restores, archives single shards, collects garbage and rebuilds the index until the run ends.
    ///
    /// # Errors
    /// When a command cannot be run.
    pub async fn maintain(mut self) -> Result<()> {
        while !self.is_over() {
            let pause = self.random.random_range(100..1500);
            sleep(Duration::from_millis(pause)).await;
            match self.random.random_range(0..20) {
                0..11 => {
                    let clock = self.clock();
                    let position = self.somewhere();
                    export(&self.commands, position, clock).await?;
                }
                11..14 => self.restore().await?,
                14..17 => {
                    let shard = format!("shard{}", self.random.random_range(1..=SHARDS));
                    self.run(&["archive", "run", "--shard", &shard]).await?;
                }
                17 | 18 => {
                    self.run(&["archive", "gc"]).await?;
                }
                _ => self.insist(&["archive", "rebuild-index"]).await?,
            }
        }
        Ok(())
    }

    /// Moves ranges between shards, some of them back, until the run ends. Nodes go on with the moves of commands that are killed.
    ///
    /// # Errors
    /// When a command cannot be run.
    pub async fn rebalance(mut self) -> Result<()> {
        while !self.is_over() {
            let pause = self.random.random_range(100..3000);
            sleep(Duration::from_millis(pause)).await;
            let Some((range, target)) = self.part_of_a_range().await? else {
                continue;
            };
            let run = ["rebalance", "run", "--range", &range, "--to", &target];
            let reason = ["--reason", "faults", "--json"];
            let ended = self.run(&[&run[..], &reason].concat()).await?;
            let job: Value = serde_json::from_slice(&ended.output).unwrap_or_default();
            if let Some(id) = job["id"].as_str()
                && self.random.random_ratio(1, 3)
            {
                let reverse = ["rebalance", "reverse", id];
                self.run(&[&reverse[..], &reason].concat()).await?;
            }
        }
        Ok(())
    }

    /// A range of the map or part of one, and another shard.
    async fn part_of_a_range(&mut self) -> Result<Option<(String, String)>> {
        let listed = self.run(&["shards", "list", "--json"]).await?;
        let shards: Value = serde_json::from_slice(&listed.output).unwrap_or_default();
        let owned = shards.as_array().into_iter().flatten().flat_map(|shard| {
            let ranges = shard["ranges"].as_array().into_iter().flatten();
            ranges.map(|range| (shard["name"].as_str(), &range["range"]))
        });
        let owned: Vec<(Option<&str>, &Value)> = owned.collect();
        if owned.is_empty() {
            return Ok(None);
        }
        let (source, range) = owned[self.random.random_range(0..owned.len())];
        let start = range["start"].as_u64().unwrap_or(0);
        let end = range["end"].as_u64();
        let last = end.unwrap_or(u64::MAX);
        let is_cut = self.random.random_ratio(1, 3) && owned.len() < RANGES_MAX;
        let range = match is_cut {
            true => format!("{start}..{}", start + (last - start) / 2),
            false => format!(
                "{start}..{}",
                end.map_or(String::new(), |it| it.to_string())
            ),
        };
        let targets = (1..=SHARDS).map(|n| format!("shard{n}"));
        let targets: Vec<String> = targets.filter(|it| Some(it.as_str()) != source).collect();
        let target = targets[self.random.random_range(0..targets.len())].clone();
        Ok(Some((range, target)))
    }

    fn somewhere(&mut self) -> usize {
        let count = self.commands.context.ledger().conversations.len();
        self.random.random_range(0..count)
    }

    /// Imports a history, again if the import was interrupted.
    async fn import(&mut self, history: &History) -> Result<()> {
        loop {
            let clock = self.clock();
            if history.import(&self.commands, clock).await? || self.is_over() {
                return Ok(());
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn restore(&mut self) -> Result<()> {
        let position = self.somewhere();
        let (id, old) = {
            let ledger = self.commands.context.ledger();
            let conversation = &ledger.conversations[position];
            (conversation.id.clone(), conversation.old)
        };
        if old == 0 || self.is_over() {
            return Ok(());
        }
        self.insist(&["archive", "restore", "--conversation", &id])
            .await
    }

    /// Runs a command once.
    async fn run(&mut self, arguments: &[&str]) -> Result<CommandOutcome> {
        let clock = self.clock();
        self.commands.run(arguments, clock).await
    }

    /// Runs a command, again a few times if a lease or a fault prevents it.
    async fn insist(&mut self, arguments: &[&str]) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let ended = self.run(arguments).await?;
            let is_settled = ended.is_done() || ended.stderr.contains(NOTHING_TO_RESTORE);
            if is_settled || self.is_over() {
                break;
            }
            sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    }
}
