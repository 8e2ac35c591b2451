//! The state that all tasks of a run share: the ledger, the users, the log of faults, and the violations.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use tokio::sync::watch;

use crate::faults::conversation::Finding;
use crate::faults::ledger::Ledger;
use crate::faults::operation::{Answer, Operation, Reply, message};
use crate::out;
use crate::population::User;

/// The number of the latest faults that a violation lists.
const LAST_FAULTS: usize = 12;
/// The number of violations that are printed; the file has all of them.
const PRINTED: usize = 40;
/// How long the effects of a fault of the object store may last after its end: retries and queued requests.
const AFTERMATH: Duration = Duration::from_secs(20);

/// The phase of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Requests and faults.
    Run,
    /// No new operations and no faults: operations under way are repeated until they are answered.
    Finish,
    /// No changes: followers receive the remaining events.
    Settle,
    /// The end.
    Over,
}

/// The state that all tasks share.
pub struct RunContext {
    /// The users.
    pub users: Vec<User>,
    /// The addresses of the nodes for clients.
    pub fronts: Vec<SocketAddr>,
    /// The phase.
    pub phase: watch::Sender<Phase>,
    /// The begin of the run.
    pub began: Instant,
    ledger: Mutex<Ledger>,
    fault_log: Mutex<FaultLog>,
    verdict: Mutex<Verdict>,
}

/// The faults and their times.
#[derive(Debug, Default)]
struct FaultLog {
    entries: Vec<Entry>,
    file: Option<File>,
}

#[derive(Debug)]
struct Entry {
    kind: &'static str,
    what: String,
    began: Instant,
    ended: Option<Instant>,
    /// The nodes that meanwhile cannot reach the object store, or do not run.
    nodes: Vec<usize>,
}

#[derive(Debug, Default)]
struct Verdict {
    file: Option<File>,
    journal: Option<BufWriter<File>>,
    /// The number of each, by place and kind.
    violations: BTreeMap<String, u64>,
    answers: BTreeMap<String, u64>,
}

/// A fault that lasts, as its position in the log.
#[derive(Debug)]
#[must_use = "a fault ends"]
pub struct Ongoing(usize);

impl RunContext {
    /// A context whose log of faults and violations are files in `folder`.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn new(
        users: Vec<User>,
        fronts: Vec<SocketAddr>,
        ledger: Ledger,
        folder: &Path,
    ) -> Result<Self> {
        Ok(Self {
            users,
            fronts,
            phase: watch::Sender::new(Phase::Run),
            began: Instant::now(),
            ledger: Mutex::new(ledger),
            fault_log: Mutex::new(FaultLog {
                entries: Vec::new(),
                file: Some(File::create(folder.join("faults.log"))?),
            }),
            verdict: Mutex::new(Verdict {
                file: Some(File::create(folder.join("violations.jsonl"))?),
                journal: Some(BufWriter::new(File::create(folder.join("operations.log"))?)),
                ..Verdict::default()
            }),
        })
    }

    /// The ledger. It is never held across an await.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Seconds since the run began.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Logs the begin of a fault, during which `nodes` cannot reach the object store or do not run.
    pub fn disturb(&self, kind: &'static str, what: &str, nodes: &[usize]) -> Ongoing {
        let mut fault_log = lock(&self.fault_log);
        let line = format!("{:8.3} {kind} {what}", self.seconds());
        fault_log.write(&line);
        fault_log.entries.push(Entry {
            kind,
            what: what.to_owned(),
            began: Instant::now(),
            ended: None,
            nodes: nodes.to_vec(),
        });
        Ongoing(fault_log.entries.len() - 1)
    }

    /// Logs something that is no fault.
    pub fn log(&self, what: &str) {
        let line = format!("{:8.3} {what}", self.seconds());
        lock(&self.fault_log).write(&line);
    }

    /// Whether `node` ran and could reach the object store all the time since `since`.
    #[must_use]
    pub fn was_undisturbed(&self, node: usize, since: Instant) -> bool {
        let disturbed = |entry: &Entry| {
            let over = entry.ended.is_some_and(|ended| ended + AFTERMATH < since);
            entry.nodes.contains(&node) && !over
        };
        !lock(&self.fault_log).entries.iter().any(disturbed)
    }

    /// The number of faults of each kind.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for entry in &lock(&self.fault_log).entries {
            *counts.entry(entry.kind).or_default() += 1;
        }
        counts
    }

    /// Counts an answer by its status or code.
    pub fn count(&self, answer: &str) {
        *lock(&self.verdict)
            .answers
            .entry(answer.to_owned())
            .or_default() += 1;
    }

    /// The number of answers of each status or code.
    #[must_use]
    pub fn answers(&self) -> BTreeMap<String, u64> {
        lock(&self.verdict).answers.clone()
    }

    /// Logs an operation and its answer, for tracing.
    pub fn log_operation(&self, operation: &Operation, reply: &Reply) {
        let (id, action) = (&operation.id, &operation.action);
        let answer = match &reply.answer {
            Answer::Done { body, .. } => match message(body) {
                Ok(observed) => format!("seq {} {}", observed.seq, observed.brief()),
                Err(_) => "done".into(),
            },
            Answer::Refused(refusal) => refusal.brief(),
            Answer::Unknown(why) => why.clone(),
        };
        let asked = (reply.asked - self.began).as_secs_f64();
        let (now, node) = (self.seconds(), reply.node + 1);
        let mut verdict = lock(&self.verdict);
        if let Some(journal) = &mut verdict.journal {
            // A run goes on without its journal.
            let _ = writeln!(
                journal,
                "{asked:9.3}–{now:.3} node{node} {id} {action:x?}: {answer}"
            );
        }
    }

    /// Reports a violation in a conversation, observed by `observer`.
    pub fn report(&self, conversation: &str, (seq, problem): &Finding, observer: &str) {
        let place = format!("{conversation}-{seq}");
        let mut verdict = lock(&self.verdict);
        let times = verdict
            .violations
            .entry(format!("{place} {}", kind_of(problem)))
            .or_default();
        *times += 1;
        if *times > 1 {
            return;
        }
        let faults = lock(&self.fault_log).last(self.began);
        let at = self.seconds();
        let line = json!({
            "at": at, "conversation": conversation, "seq": seq, "problem": problem, "observed by": observer, "faults": faults,
        });
        if let Some(file) = &mut verdict.file {
            // It is also printed.
            let _ = writeln!(file, "{line}");
        }
        match verdict.violations.len() {
            0..=PRINTED => {
                out::progress(format_args!(
                    "{at:8.3} VIOLATION {place}: {problem} (observed by {observer})"
                ));
            }
            n if n == PRINTED + 1 => out::progress("… more violations are in violations.jsonl"),
            _ => {}
        }
    }

    /// Reports a violation that is of no conversation.
    pub fn report_general(&self, problem: &str, observer: &str) {
        self.report("", &(0, problem.to_owned()), observer);
    }

    /// The number of different violations.
    #[must_use]
    pub fn violations(&self) -> usize {
        lock(&self.verdict).violations.len()
    }
}

impl Ongoing {
    /// Logs the end of the fault.
    pub fn end(self, context: &RunContext) {
        let mut fault_log = lock(&context.fault_log);
        let Some(entry) = fault_log.entries.get_mut(self.0) else {
            return;
        };
        entry.ended = Some(Instant::now());
        let (kind, what) = (entry.kind, &entry.what);
        let line = format!("{:8.3} end of {kind} {what}", context.seconds());
        fault_log.write(&line);
    }
}

impl FaultLog {
    fn write(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            // A run goes on without its log.
            let _ = writeln!(file, "{line}");
        }
    }

    fn last(&self, began: Instant) -> Vec<String> {
        let seconds = |at: Instant| (at - began).as_secs_f64();
        let last = self.entries.iter().rev().take(LAST_FAULTS);
        last.map(|entry| {
            let ended = entry
                .ended
                .map_or(String::new(), |at| format!("{:.1}", seconds(at)));
            format!(
                "{:.1}–{ended} {} {}",
                seconds(entry.began),
                entry.kind,
                entry.what
            )
        })
        .collect()
    }
}

/// The first words of a problem: the rest differs between observations of the same problem.
fn kind_of(problem: &str) -> String {
    let words = problem.split(' ').take(2);
    words.collect::<Vec<_>>().join(" ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
