//! Histories of past years, imported with `backscroll import` so that there are messages to archive, and exports with
//! `backscroll export`, which are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::index::sample;
use serde::Deserialize;
use serde_json::json;

use crate::faults::commands::{CommandOutcome, Commands};
use crate::faults::conversation::{Conversation, Finding};
use crate::faults::deployment::{Deployment, SHARDS};
use crate::faults::ledger::{Ledger, user_name};
use crate::faults::message::{Change, Message};
use crate::faults::observed::{Observed, Record, Text};
use crate::population;

/// The number of members of a conversation.
const PEOPLE: usize = 4;
/// The number of messages of a conversation.
const MESSAGES: std::ops::Range<usize> = 30..270;
/// The longest padding of a text: it hardly compresses, so that segments fill soon.
const PADDING: u16 = 2800;
/// The age of histories in days: the youngest is old enough to be archived.
const DAYS: std::ops::Range<i64> = 240..2000;
const DAY_MS: i64 = 86_400_000;

/// A history to import.
pub struct History {
    file: String,
    channels: BTreeMap<String, Vec<(usize, Text)>>,
    /// The number of its messages.
    pub messages: usize,
}

#[derive(Deserialize)]
struct Summary {
    conversations: Vec<Imported>,
}

#[derive(Deserialize)]
struct Imported {
    id: String,
    title: String,
}

impl History {
    /// Writes history number `number` with this number of conversations, for `commands`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(
        commands: &Commands,
        random: &mut SmallRng,
        (number, conversations): (usize, usize),
    ) -> Result<Self> {
        let file = commands.file(&format!("history-{number}.jsonl"));
        let mut lines = std::io::BufWriter::new(std::fs::File::create(&file)?);
        let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let today = i64::try_from(today.as_millis())?;
        let mut channels = BTreeMap::new();
        let mut messages = 0;
        let users = commands.context.users.len();
        for n in 0..conversations {
            let title = format!("history {number} {n}");
            let people = sample(random, users, PEOPLE.min(users)).into_vec();
            let count = random.random_range(MESSAGES);
            let mut times: Vec<i64> = (0..count)
                .map(|_| today - random.random_range(DAYS.start * DAY_MS..DAYS.end * DAY_MS))
                .collect();
            times.sort_unstable();
            let mut sent = Vec::with_capacity(count);
            for at in times {
                let user = people[random.random_range(0..people.len())];
                let text = commands
                    .context
                    .ledger()
                    .text(random.random_range(0..PADDING));
                let line = json!({"channel": title, "user": user_name(user), "at": at, "text": text.render()});
                writeln!(lines, "{line}")?;
                sent.push((user, text));
            }
            messages += count;
            channels.insert(title, sent);
        }
        lines.flush()?;
        Ok(Self {
            file: file
                .to_str()
                .context("the folder's path is not UTF-8")?
                .to_owned(),
            channels,
            messages,
        })
    }

    /// Tries to import it, with a clock that is `seconds` off. Returns whether it is imported.
    ///
    /// # Errors
    /// When the command cannot be run, or its output is wrong.
    pub async fn import(&self, commands: &Commands, seconds: i64) -> Result<bool> {
        let ended = commands
            .run(&["import", &self.file, "--json"], seconds)
            .await?;
        if !ended.is_done() {
            return Ok(false);
        }
        let summary: Summary = serde_json::from_slice(&ended.output)?;
        ensure!(
            summary.conversations.len() == self.channels.len(),
            "another number of conversations was imported"
        );
        let mut ledger = commands.context.ledger();
        for imported in summary.conversations {
            let sent = self
                .channels
                .get(&imported.title)
                .context("an unknown conversation")?;
            enter(&mut ledger, imported.id, sent)?;
        }
        ledger.counts.imported += self.messages as u64;
        drop(ledger);
        std::fs::remove_file(&self.file)?;
        Ok(true)
    }
}

/// Adds a conversation that begins with these messages to the ledger.
fn enter(ledger: &mut Ledger, id: String, sent: &[(usize, Text)]) -> Result<()> {
    let members: BTreeSet<usize> = sent.iter().map(|(user, _)| *user).collect();
    let database = Deployment::database_of(shard_of(&id)?);
    let count = sent.len() as u64;
    let mut conversation = Conversation::new(id, database, members.into_iter().collect(), count);
    let now = Instant::now();
    for (seq, (user, text)) in (1..).zip(sent) {
        let message = Message::new(user_name(*user), None, Change::done(*text, now));
        conversation.messages.insert(seq, message);
    }
    conversation.head.raise(now, count, true);
    ledger.add(conversation);
    Ok(())
}

/// The shard of the conversation with this id.
///
/// # Errors
/// When it is not an id.
pub fn shard_of(id: &str) -> Result<usize> {
    let conversation = population::Conversation {
        id: id.to_owned(),
        members: Vec::new(),
    };
    conversation.shard(SHARDS)
}

/// Exports a conversation and checks the export. Returns whether there was one.
///
/// # Errors
/// When the command cannot be run.
pub async fn export(commands: &Commands, conversation: usize, seconds: i64) -> Result<bool> {
    let id = commands.context.ledger().conversations[conversation]
        .id
        .clone();
    let ended = commands
        .run(&["export", "--conversation", &id], seconds)
        .await?;
    if !ended.is_done() {
        return Ok(false);
    }
    let findings = {
        let mut ledger = commands.context.ledger();
        let (checked, findings) = check(&ledger.conversations[conversation], &ended);
        ledger.counts.checked += checked;
        findings
    };
    findings
        .iter()
        .for_each(|finding| commands.context.report(&id, finding, "export"));
    Ok(true)
}

fn check(conversation: &Conversation, ended: &CommandOutcome) -> (u64, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut seq = 0;
    for line in ended
        .output
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        seq += 1;
        let outcome = serde_json::from_slice::<Record>(line)
            .map_err(|error| format!("not a record: {error}"))
            .and_then(|record| {
                let observed = Observed::exported(seq, record);
                match conversation.messages.get(&seq) {
                    Some(message) => message.check_exported(&observed, ended.began),
                    None if conversation.has_sent(&observed.content) => Ok(()),
                    None if observed.deleted_at.is_some() => Ok(()),
                    None => Err(format!(
                        "a message that was never sent: {}",
                        observed.brief()
                    )),
                }
            });
        findings.extend(outcome.err().map(|problem| (seq, problem)));
    }
    let head = conversation.head.at(ended.began);
    if seq < head {
        findings.push((
            0,
            format!("expected {head} or more messages, exported {seq}"),
        ));
    }
    (seq, findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(lines: &[serde_json::Value]) -> CommandOutcome {
        let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
        CommandOutcome {
            code: Some(0),
            output: lines.concat().into_bytes(),
            stderr: String::new(),
            began: Instant::now(),
        }
    }

    #[test]
    fn an_export_is_compared_with_the_ledger() {
        let mut ledger = Ledger::new(1);
        let [one, two] = [5, 6].map(|padding| ledger.text(padding));
        enter(&mut ledger, format!("{:032x}", 1), &[(0, one), (1, two)]).unwrap();
        let known = &ledger.conversations[0];
        let line = |user: &str, text: Text| json!({"user": user, "text": text.render(), "at": 1});
        let [first, second] = [line("user0", one), line("user1", two)];
        let found = |lines: &[serde_json::Value]| check(known, &ended(lines)).1;
        assert!(found(&[first.clone(), second.clone()]).is_empty());
        assert_eq!(
            found(std::slice::from_ref(&first))[0].0,
            0,
            "one is missing"
        );
        assert_eq!(
            found(&[second.clone(), first.clone()]).len(),
            2,
            "out of order"
        );
        let mut more = second.clone();
        more["reactions"] = json!({"e": ["user0"]});
        assert_eq!(found(&[first.clone(), more])[0].0, 2);
        assert_eq!(found(&[first, second.clone(), second])[0].0, 3);
    }
}
