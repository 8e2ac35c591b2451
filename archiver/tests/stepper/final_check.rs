//! The check of a final state: what holds when all processes are finished, in whatever order their steps were. Every reader
//! shows what was acknowledged, the archive is clean, and what has its receipt of erasure is in no row and no object. The same
//! holds after the index was rebuilt from the bucket, and after the jobs that are due have run: then every deleted message has
//! its receipt, and every other can be changed and restored.

use std::collections::BTreeSet;
use std::path::Path;

use backscroll_shard::archive::{self, Erasure};
use backscroll_shard::db::Value;
use backscroll_shard::error::Error;
use backscroll_shard::ids::{Rev, Seq};
use backscroll_shard::model::Timestamp;

use crate::actors::{self, Action, Actor};
use crate::deployment::Process;
use crate::final_state;
use crate::model::Model;
use crate::record::{Client, Log, Observation, Read, Records, log_of};
use crate::scheduler::{Scheduler, Span};
use crate::states::{self, State, text};

/// From which the names follow of what the check makes.
const SEED: u64 = 999;

/// How long after the schedule the state is checked, in milliseconds: longer than a clock was ahead, which delays a collection.
const LATER: i64 = 3 * 3_600_000;

/// What is wrong with the final state in `folder` of a schedule of so many steps.
pub(crate) async fn violations(
    (model, observations): (&Model, &[Observation]),
    state: &State,
    folder: &Path,
    steps: usize,
) -> Vec<String> {
    let elapsed = i64::try_from(steps).expect("few steps") + LATER;
    let scheduler = Scheduler::new(Timestamp(states::present().0 + elapsed));
    let process = states::open_alone((&scheduler, SEED), folder, state.conversations).await;
    let mut check = FinalCheck {
        model,
        state,
        process: &process,
        expected: model.end(),
        violations: Vec::new(),
    };
    check.forget_leases().await;
    check.readers("at rest").await;
    check.syncing_clients(observations).await;
    check.receipts("at rest").await;
    check.job(Action::Verify, "at rest").await;
    check.job(Action::Rebuild, "at rest").await;
    check.pages("after a rebuild").await;
    for action in [Action::Run, Action::Erase, Action::Collect, Action::Verify] {
        check.job(action, "in the end").await;
    }
    check.readers("in the end").await;
    check.erasures("in the end").await;
    if !model.is_dropped() {
        check.reactions("in the end").await;
        check.job(Action::Restore, "in the end").await;
        check.readers("restored").await;
    }
    check.violations
}

struct FinalCheck<'a> {
    model: &'a Model,
    state: &'a State,
    process: &'a Process,
    expected: Log,
    violations: Vec<String>,
}

impl FinalCheck<'_> {
    fn add_violation(&mut self, violation: String) {
        self.violations.push(violation);
    }

    /// Ends the leases of processes that died, and forgets that there were any, as on a shard to which a range has moved.
    async fn forget_leases(&self) {
        for mut connection in self.process.shard_connections().await {
            let forget = "DELETE FROM leases WHERE expires_at > ?";
            connection.execute(forget, &[Value::Int(0)]).await.unwrap();
        }
    }

    /// What every reader shows.
    async fn readers(&mut self, when: &str) {
        self.pages(when).await;
        if self.model.is_dropped() {
            return;
        }
        for (seq, view) in self.expected.clone() {
            match actors::message(self.process, seq.0).await {
                Ok(message) => {
                    let shown = log_of(&[message]);
                    if shown.get(&seq) != Some(&view) {
                        let shown = shown.get(&seq);
                        self.add_violation(format!(
                            "{when}: message {seq} is {shown:?} instead of {view:?}"
                        ));
                    }
                }
                Err(Error::NotFound(_)) if self.model.exceptions.droppable.contains(&seq) => {}
                Err(error) => self.add_violation(format!("{when}: message {seq}: {error}")),
            }
        }
        match actors::export(self.process, 3).await {
            Ok(records) => {
                let mut truth =
                    Model::at_rest(self.expected.clone(), self.model.exceptions.clone());
                truth.check_read(Span { from: 0, to: 0 }, &Read::Export(Ok(records)));
                let wrong = truth.violations.iter().map(|it| format!("{when}: {it}"));
                self.violations.extend(wrong);
            }
            Err(Error::NotFound(_)) if self.model.is_dropped() => {}
            Err(error) => self.add_violation(format!("{when}: export: {error}")),
        }
        let nothing = Client {
            log: Log::new(),
            rev: Rev(0),
        };
        self.catch_up(when, nothing).await;
    }

    /// What pages show.
    async fn pages(&mut self, when: &str) {
        match actors::page(self.process, None, 200).await {
            Err(Error::NotMember) if self.model.is_dropped() => {}
            Ok(_) if self.model.is_dropped() => {
                self.add_violation(format!("{when}: it can still be read"))
            }
            Ok(page) => self.compare(&format!("{when}: page"), &log_of(&page.messages)),
            Err(error) => self.add_violation(format!("{when}: page: {error}")),
        }
        let other = self.process.with_other_conversation();
        let shown = match actors::page(&other, None, 200).await {
            Ok(page) => log_of(&page.messages),
            Err(error) => {
                return self.add_violation(format!("{when}: the other conversation: {error}"));
            }
        };
        let mut expected = self.state.other.clone();
        if !self.model.exceptions.droppable.is_empty() {
            expected.retain(|seq, _| shown.contains_key(seq));
        }
        if shown != expected {
            self.add_violation(format!(
                "{when}: the other conversation is {:?}",
                shown.keys()
            ));
        }
    }

    fn compare(&mut self, what: &str, shown: &Log) {
        let seqs: BTreeSet<Seq> = self.expected.keys().chain(shown.keys()).copied().collect();
        for seq in seqs {
            let (is, should) = (shown.get(&seq), self.expected.get(&seq));
            let is_dropped = is.is_none() && self.model.exceptions.droppable.contains(&seq);
            if is != should && !is_dropped {
                let violation = format!("{what}: message {seq} is {is:?} instead of {should:?}");
                return self.add_violation(violation);
            }
        }
    }

    /// Clients that sync from the prepared state, and from what a sync told them meanwhile, are up to date in the end.
    async fn syncing_clients(&mut self, observations: &[Observation]) {
        if self.model.is_dropped() {
            return;
        }
        self.catch_up("from the prepared state", self.state.client.clone())
            .await;
        for observation in observations {
            if let Observation::Read {
                read: Read::Sync(_, Ok(page)),
                ..
            } = observation
            {
                let mut client = self.state.client.clone();
                if client.take(self.state.conversations.main, page) {
                    self.catch_up("from a sync meanwhile", client).await;
                }
            }
        }
    }

    async fn catch_up(&mut self, what: &str, mut client: Client) {
        match actors::catch_up(self.process, &mut client).await {
            Ok(Some(())) => {
                // A sync does not tell what a retention drops: the client keeps what it has.
                for seq in &self.model.exceptions.droppable {
                    client.log.remove(seq);
                }
                self.compare(&format!("{what}: sync"), &client.log);
            }
            Ok(None) => {} // told to load anew, which pages do
            Err(error) => self.add_violation(format!("{what}: sync: {error}")),
        }
    }

    async fn job(&mut self, action: Action, when: &str) {
        let records = Records::new(self.state.client.clone());
        Actor::from(action)
            .act("check", self.process, &records)
            .await;
        for observation in records.take() {
            if let Observation::Job {
                failure: Some(failure),
                ..
            } = observation
            {
                self.add_violation(format!("{when}: {action}: {failure}"));
            }
        }
    }

    async fn all_erasures(&self) -> Vec<Erasure> {
        let id = self.state.conversations.main;
        let mut erasures = Vec::new();
        for mut connection in self.process.shard_connections().await {
            let page = archive::erasures_of(&mut connection, id, None, 1000).await;
            erasures.extend(page.unwrap());
        }
        erasures
    }

    /// Where the text of a message is.
    async fn traces(&self, seq: Seq) -> Vec<String> {
        let secret = text("S", seq.0);
        let mut traces = Vec::new();
        let places = [
            ("messages", "content"),
            ("messages", "edit_history"),
            ("conversations", "last_preview"),
        ];
        for mut connection in self.process.shard_connections().await {
            for (table, column) in places {
                let held = format!("SELECT COUNT(*) FROM {table} WHERE instr({column}, ?) > 0");
                let held = connection
                    .fetch_optional(&held, &[Value::Text(&secret)])
                    .await;
                if held.unwrap().unwrap().int(0).unwrap() > 0 {
                    traces.push(format!("{table}.{column}"));
                }
            }
        }
        for (path, content) in final_state::objects(self.process) {
            if content.contains(&secret) {
                traces.push(path.display().to_string());
            }
        }
        traces
    }

    /// Where an erasure has its receipt, its content is nowhere (INV-ERASE). After a job that lost its lease, objects do not
    /// count that no shard has registered: such a job may upload one at any time, and a collection finds it.
    async fn receipts(&mut self, when: &str) {
        let registered = self.registered_segments().await;
        let is_known = |place: &String| {
            let is_object = place.starts_with("objects/");
            !is_object || registered.iter().any(|segment| place.contains(segment))
        };
        for erasure in self.all_erasures().await {
            let (seq, deleted) = (erasure.seq, &self.model.deleted);
            if erasure.erased_at.is_none() {
                continue;
            }
            let erased = deleted.iter().filter(|it| seq == Seq(0) || seq == **it);
            for seq in erased.copied().collect::<Vec<Seq>>() {
                let mut traces = self.traces(seq).await;
                if self.model.exceptions.short_lease {
                    traces.retain(is_known);
                }
                if !traces.is_empty() {
                    let violation = format!("{when}: message {seq} has its receipt, and is in");
                    self.add_violation(format!("{violation} {traces:?}"));
                }
            }
        }
    }

    /// The names of all registered segments.
    async fn registered_segments(&self) -> Vec<String> {
        let mut segments = Vec::new();
        for mut connection in self.process.shard_connections().await {
            let names = "SELECT lower(hex(id)) FROM archive_segments";
            let rows = connection.fetch_all(names, &[]).await.unwrap();
            segments.extend(rows.iter().map(|row| row.text(0).unwrap()));
        }
        segments
    }

    /// After the jobs, no deleted content is left, and every receipt is given.
    async fn erasures(&mut self, when: &str) {
        for seq in self.model.deleted.clone() {
            let traces = self.traces(seq).await;
            if !traces.is_empty() {
                self.add_violation(format!("{when}: deleted message {seq} is in {traces:?}"));
            }
        }
        for erasure in self.all_erasures().await {
            if erasure.erased_at.is_none() {
                let seq = erasure.seq;
                self.add_violation(format!("{when}: message {seq} has no receipt"));
            }
        }
    }

    /// Every message that is not deleted can be changed, whatever it has been through (INV-TIER, INV-IDEM).
    async fn reactions(&mut self, when: &str) {
        for (seq, view) in self.expected.clone() {
            if view.is_deleted {
                continue;
            }
            match actors::react(self.process, seq.0, "+check").await {
                Ok(message) => self.expected.extend(log_of(&[message])),
                Err(Error::NotFound(_)) if self.model.exceptions.droppable.contains(&seq) => {}
                Err(error) => {
                    self.add_violation(format!("{when}: a reaction to message {seq}: {error}"))
                }
            }
        }
    }
}
