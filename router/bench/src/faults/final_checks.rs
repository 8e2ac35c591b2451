//! The comparison after the last fault: stored data must agree with the ledger, however it is read.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::faults::commands::{CommandOutcome, Commands};
use crate::faults::context::{Phase, RunContext};
use crate::faults::follower::Follower;
use crate::faults::history::export;
use crate::faults::operation::Answer;
use crate::faults::operator::TWO_HOURS;
use crate::faults::page::Position;
use crate::faults::reader::{Progress, Reader};
use crate::faults::residue;
use crate::faults::transport::HttpClient;
use crate::out;

/// The longest time until everything works again after the last fault.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);
/// After this time no earlier request can take effect any more.
const LATE_EFFECTS: Duration = Duration::from_secs(15);
/// The longest time until followers have received the remaining events.
const RECEIVED_WITHIN: Duration = Duration::from_secs(90);
const PAGE: u64 = 200;
/// The number of conversations that are exported, and read by `sync` from the beginning.
const EXPORTED: usize = 30;
/// The number of conversations that are deleted as a whole.
const DELETED: usize = 3;
/// Twice as long as every grace period, in seconds.
const LATER: i64 = 2 * TWO_HOURS;

/// The checks at the end of a run.
pub struct FinalChecks {
    /// Runs commands.
    pub commands: Commands,
    /// The seed of choices.
    pub seed: u64,
}

impl FinalChecks {
    pub(super) fn context(&self) -> &Arc<RunContext> {
        &self.commands.context
    }

    fn find(&self, problem: &str) {
        self.context().report_general(problem, "checks");
    }

    /// Waits for the end of the last fault, and for the answers to all operations.
    ///
    /// # Errors
    /// When something does not come back.
    pub async fn finish(
        &self,
        writers: &mut JoinSet<()>,
        injectors: &mut JoinSet<Result<()>>,
    ) -> Result<()> {
        out::progress("waiting for answers");
        self.context().phase.send_replace(Phase::Finish);
        while let Some(injector) = injectors.join_next().await {
            injector.context("fault injection")??;
        }
        self.context().log("the last fault is over");
        self.check_nodes().await?;
        let all = async { while writers.join_next().await.is_some() {} };
        if timeout(PATIENCE, all).await.is_err() {
            let waiting = writers.len();
            self.find(&format!(
                "{waiting} writers have no answer {PATIENCE:?} after the last fault"
            ));
            writers.shutdown().await;
        }
        sleep(LATE_EFFECTS).await;
        Ok(())
    }

    /// Compares everything with the ledger. Returns the number of deleted texts that were searched for, and of the followers'
    /// connections.
    ///
    /// # Errors
    /// When a command cannot be run.
    pub async fn compare_all(
        &self,
        folder: &Path,
        followers: &mut JoinSet<Follower>,
    ) -> Result<(usize, u64)> {
        self.insist(&["archive", "run"], 0).await?;
        self.walk("after the last fault").await;
        let connected = self.settle(followers).await;
        self.compare().await?;
        self.verify(0).await?;
        self.delete_conversations().await?;
        let deleted = self.erase(folder).await?;
        self.insist(&["archive", "rebuild-index"], LATER).await?;
        self.verify(LATER).await?;
        self.walk("after the index was rebuilt").await;
        self.check_logs(folder)?;
        Ok((deleted, connected))
    }

    /// Checks that no node has panicked.
    fn check_logs(&self, folder: &Path) -> Result<()> {
        for n in 1..=self.commands.deployment.nodes.len() {
            let log = std::fs::read(folder.join(format!("node{n}.log")))?;
            let log = String::from_utf8_lossy(&log);
            for line in log.lines().filter(|line| line.contains("panicked at")) {
                self.find(&format!("node{n} {line}"));
            }
        }
        Ok(())
    }

    /// Checks that the nodes run and become ready.
    ///
    /// # Errors
    /// When the state of a process is unknown.
    async fn check_nodes(&self) -> Result<()> {
        for node in &self.commands.deployment.nodes {
            let mut process = node.process.lock().await;
            if let Some(status) = process.has_ended()? {
                self.context()
                    .report_general(&format!("ended by itself: {status}"), &process.name);
                node.start(&mut process).await?;
            }
            let give_up_at = Instant::now() + PATIENCE;
            while !matches!(node.status("/readyz").await, Ok(200)) {
                if Instant::now() > give_up_at {
                    self.context()
                        .report_general("is not ready again", &process.name);
                    break;
                }
                sleep(Duration::from_millis(300)).await;
            }
        }
        Ok(())
    }

    /// Runs a command until it succeeds; reports a violation if it does not in time.
    ///
    /// # Errors
    /// When it cannot be run.
    async fn insist(&self, arguments: &[&str], clock: i64) -> Result<Option<CommandOutcome>> {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let ended = self.commands.run(arguments, clock).await?;
            if ended.is_done() {
                return Ok(Some(ended));
            }
            if Instant::now() > give_up_at {
                let name = arguments.join(" ");
                let errors = ended.last_errors();
                self.find(&format!(
                    "`{name}` does not succeed {PATIENCE:?} after the last fault: {errors}"
                ));
                return Ok(None);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Reads every conversation from its beginning to its end.
    async fn walk(&self, what: &str) {
        let count = self.context().ledger().conversations.len();
        out::progress(format_args!("reading all of {count} conversations {what}"));
        let mut readers = JoinSet::new();
        for task in 0..3 {
            let context = Arc::clone(self.context());
            let seed = self.seed.wrapping_add(task);
            readers.spawn(async move {
                let mut reader = Reader::new(Arc::clone(&context), seed, Duration::ZERO);
                for position in (task as usize..count).step_by(3) {
                    read_all(&context, &mut reader, position).await;
                }
            });
        }
        while readers.join_next().await.is_some() {}
        let ledger = self.context().ledger();
        let findings: Vec<_> = ledger
            .conversations
            .iter()
            .flat_map(|it| {
                it.out_of_order()
                    .into_iter()
                    .map(|finding| (it.id.clone(), finding))
            })
            .collect();
        drop(ledger);
        findings
            .iter()
            .for_each(|(id, finding)| self.context().report(id, finding, "checks"));
    }

    /// Waits until followers have received the remaining events.
    async fn settle(&self, followers: &mut JoinSet<Follower>) -> u64 {
        out::progress("waiting until followers have received everything");
        self.context().phase.send_replace(Phase::Settle);
        let deadline = Instant::now() + RECEIVED_WITHIN;
        let mut all = Vec::new();
        while let Ok(Some(follower)) = timeout(
            deadline.saturating_duration_since(Instant::now()),
            followers.join_next(),
        )
        .await
        {
            all.push(follower);
        }
        self.context().phase.send_replace(Phase::Over);
        while let Ok(Some(follower)) = timeout(RECEIVED_WITHIN, followers.join_next()).await {
            all.push(follower);
        }
        let mut connected = 0;
        for follower in all {
            match follower {
                Ok(follower) => {
                    connected += follower.connected;
                    for (id, seq, what) in follower.missing() {
                        let finding = (seq, format!("never received: {what}"));
                        self.context().report(&id, &finding, &follower.name());
                    }
                }
                Err(error) => self.find(&format!("a follower failed: {error}")),
            }
        }
        connected
    }

    /// Compares `sync` from the beginning, exports, lists, unread mentions, pins and watermarks.
    ///
    /// # Errors
    /// When a command cannot be run.
    async fn compare(&self) -> Result<()> {
        out::progress("comparing exports, changes, lists, mentions, pins, threads and watermarks");
        let count = self.context().ledger().conversations.len();
        for position in (0..count).step_by(count.div_ceil(EXPORTED)) {
            if !export(&self.commands, position, 0).await? {
                self.find("an export fails without a fault");
            }
        }
        let mut reader = Reader::new(Arc::clone(self.context()), self.seed, Duration::ZERO);
        for user in 0..self.context().users.len() {
            self.sync(&mut reader, user).await;
            self.compare_list(user).await;
        }
        for position in 0..count {
            self.compare_pins(position).await;
            self.compare_threads(position).await;
        }
        Ok(())
    }

    async fn sync(&self, reader: &mut Reader, user: usize) {
        let mut progress = Progress::default();
        {
            let ledger = self.context().ledger();
            let mine = ledger
                .conversations
                .iter()
                .filter(|it| it.members.contains(&user));
            let ids = mine.take(EXPORTED).map(|it| (it.id.clone(), 0));
            progress.revs.extend(ids);
        }
        // Until a round has no changes.
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let before = progress.revs.clone();
            let is_answered = reader.sync(user, &mut progress).await;
            if is_answered && before == progress.revs {
                return;
            }
            if Instant::now() > give_up_at {
                self.find("sync does not come to an end");
                return;
            }
        }
    }

    /// Checks that `archive verify` finds nothing.
    ///
    /// # Errors
    /// When it cannot be run.
    async fn verify(&self, clock: i64) -> Result<()> {
        out::progress("verifying the archive");
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let ended = self
                .commands
                .run(&["archive", "verify", "--json"], clock)
                .await?;
            let report: Value = serde_json::from_slice(&ended.output).unwrap_or_default();
            if ended.is_done() {
                return Ok(());
            }
            if Instant::now() > give_up_at || report["problemCount"].as_u64() > Some(0) {
                let errors = ended.last_errors();
                self.find(&format!("archive verify: {errors}"));
                for problem in report["problems"].as_array().into_iter().flatten().take(20) {
                    self.find(&format!("verify {problem}"));
                }
                return Ok(());
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Deletes some old conversations as a whole: nothing of them may remain in the end.
    async fn delete_conversations(&self) -> Result<()> {
        let context = self.context();
        let mut client = HttpClient::default();
        for n in 0..DELETED {
            let (position, id, owner) = {
                let ledger = context.ledger();
                let mut old = ledger.conversations.iter().enumerate();
                let imported = old.rfind(|(_, it)| !it.deleted && it.is_imported());
                let Some((position, known)) = imported else {
                    return Ok(());
                };
                let first = known.messages.values().next().context("an empty history")?;
                let owner = first.sender.strip_prefix("user").context("a user")?;
                (position, known.id.clone(), owner.parse::<usize>()?)
            };
            let path = format!("/chat/conversations/{id}");
            let request = ("DELETE", path.as_str(), None);
            let reply = client
                .ask(context, n % 2, &context.users[owner], request)
                .await;
            if !matches!(reply.answer, Answer::Done { .. }) {
                let problem = format!("cannot be deleted: {:?}", reply.answer);
                context.report(&id, &(0, problem), "checks");
            }
            context.ledger().conversations[position].deleted = true;
        }
        Ok(())
    }

    /// Checks that deleted texts are nowhere after all grace periods.
    ///
    /// # Errors
    /// When a command cannot be run, or data cannot be read.
    async fn erase(&self, folder: &Path) -> Result<usize> {
        out::progress("hours later: erasing, collecting, and searching for deleted texts");
        let deployment = &self.commands.deployment;
        // Objects that the first run replaces are collected two hours after it.
        for hours in [LATER / 2, LATER] {
            deployment.set_clocks(hours).await?;
            self.insist(&["archive", "run"], hours).await?;
            self.insist(&["archive", "gc"], hours).await?;
        }
        let Some(status) = self.insist(&["archive", "status", "--json"], LATER).await? else {
            return Ok(0);
        };
        let shards: Vec<Value> = serde_json::from_slice(&status.output).context("a status")?;
        ensure!(!shards.is_empty(), "there are no shards");
        for shard in &shards {
            for what in ["openErasures", "waitingConversations"] {
                if shard[what] != 0 {
                    let (name, count) = (&shard["shard"], &shard[what]);
                    self.find(&format!(
                        "{what}: {count} on {name} after everything was run"
                    ));
                }
            }
        }
        let deleted = self.context().ledger().deleted_tokens();
        let in_objects = residue::in_objects(&folder.join("objects"), &deleted)?;
        let in_rows = residue::in_databases(deployment, &deleted).await?;
        for (place, tokens) in in_objects.iter().chain(&in_rows) {
            let count = tokens.len();
            let first = tokens.first().copied().unwrap_or_default();
            let message = self.context().ledger().message_with(first);
            self.find(&format!(
                "{place} still has {count} deleted texts, one of {message:?}: {first:016x}"
            ));
        }
        Ok(deleted.len())
    }
}

/// Reads one conversation from its end to its beginning, until every page was answered.
async fn read_all(context: &Arc<RunContext>, reader: &mut Reader, conversation: usize) {
    let (user, gone) = {
        let known = &context.ledger().conversations[conversation];
        (known.members[0], known.deleted)
    };
    if gone {
        return;
    }
    let give_up_at = Instant::now() + PATIENCE;
    let mut position = Position::Latest;
    loop {
        let page = reader.page(conversation, user, (position, PAGE)).await;
        let whole = page.filter(|page| page.archive_unavailable.is_none());
        match whole.as_ref().map(|page| page.messages.first()) {
            Some(Some(first)) if first.seq > 1 => position = Position::Before(first.seq),
            Some(_) => return,
            None if Instant::now() > give_up_at => {
                let id = context.ledger().conversations[conversation].id.clone();
                let problem = format!("cannot be read at {position:?} without a fault");
                context.report(&id, &(0, problem), "checks");
                return;
            }
            None => sleep(Duration::from_millis(300)).await,
        }
    }
}
