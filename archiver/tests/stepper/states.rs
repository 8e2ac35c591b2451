//! Prepared states, with which schedules begin. Each is prepared once, by the same actions, and copied for every schedule.
//!
//! There are two conversations. The main one has three old messages and a recent one, the other has five old ones. A segment
//! has about four messages, so that a run writes two or three of them. The first message of the other conversation was sent
//! between the first and the second of the main one: a message of the main conversation that becomes hot while a run works
//! makes the conversation a candidate again.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use backscroll_shard::cold_tier::NoArchive;
use backscroll_shard::commit_event::NoListener;
use backscroll_shard::ids::{Rev, Seq, UserId};
use backscroll_shard::migrate::migrate_all;
use backscroll_shard::model::{ConversationKind, NewConversation, NewMessage, Timestamp};
use backscroll_shard::settings::Span;
use backscroll_shard::steps;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use tempfile::TempDir;

use crate::actors::Actor;
use crate::deployment::{
    Conversations, Process, archive_settings, caller, copy, folder, store_settings,
    wait_until_closed,
};
use crate::record::{Client, Log, Observation, Records, log_of};
use crate::scheduler::Scheduler;
use crate::{actors, schedule};

/// The state in which nothing was ever archived.
pub(crate) const NEVER_ARCHIVED: &str = "hot";

/// The states, and the actors that lead to them, one after the other.
const STATES: [(&str, &[&str]); 10] = [
    (NEVER_ARCHIVED, &[]),
    ("archived", &["run"]),
    ("thawed", &["run", "edit:2,react:3"]),
    ("overtaken", &["run", "edit:1,edit:2,react:3"]),
    ("twice", &["run", "edit:2,react:3", "run"]),
    ("deleted", &["run", "delete:2"]),
    ("tombstone", &["run", "delete:2", "run"]),
    ("restored", &["run", "restore"]),
    ("unsettled", &["run:published"]),
    ("superseded", &["run", "delete:2", "erase"]),
];

/// A retention that drops everything that is archived.
pub(crate) const RETAIN: &str = "365 days";

const DAY: i64 = 86_400_000;

/// The present of all schedules.
pub(crate) fn present() -> Timestamp {
    static PRESENT: OnceLock<Timestamp> = OnceLock::new();
    // A day after the machine's present, so that no file was changed in the future.
    *PRESENT.get_or_init(|| Timestamp(Timestamp::now().0 + DAY))
}

fn days_ago(days: i64) -> Timestamp {
    Timestamp(present().0 - days * DAY)
}

/// Older messages are archived.
pub(crate) fn cutoff() -> Timestamp {
    days_ago(180)
}

/// Older messages are dropped by the retention.
pub(crate) fn retained_from() -> Timestamp {
    days_ago(365)
}

/// A prepared deployment.
pub(crate) struct State {
    folder: TempDir,
    pub(crate) conversations: Conversations,
    /// The main conversation as every reader must see it, and the other one.
    pub(crate) client: Client,
    pub(crate) other: Log,
}

/// The names of all states.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    STATES.iter().map(|(name, _)| *name)
}

/// The state of that name, which is prepared when it is asked for first.
pub(crate) fn state(name: &str) -> Option<&'static State> {
    static PREPARED: [OnceLock<State>; STATES.len()] = [const { OnceLock::new() }; STATES.len()];
    let place = STATES.iter().position(|(known, _)| *known == name)?;
    let (_, script) = STATES[place];
    Some(PREPARED[place].get_or_init(|| prepare(script)))
}

/// The text of a message; all its later texts contain it, so that it is what must be nowhere once the message is erased.
pub(crate) fn text(conversation: &str, seq: u64) -> String {
    format!("«{conversation}{seq}»")
}

fn prepare(script: &[&str]) -> State {
    let folder = folder();
    let closed = || wait_until_closed(folder.path());
    let runtime = schedule::runtime();
    let conversations = runtime.block_on(fill(folder.path()));
    drop(runtime);
    closed();
    for (number, actor) in (0..).zip(script) {
        let actor: Actor = actor.parse().unwrap();
        // Each on a runtime of its own, with which its process ends.
        schedule::runtime().block_on(act_alone((&actor, number), folder.path(), conversations));
        closed();
    }
    let (client, other) = schedule::runtime().block_on(look(folder.path(), conversations));
    closed();
    State {
        folder,
        conversations,
        client,
        other,
    }
}

/// Makes the two conversations and their messages.
async fn fill(folder: &Path) -> Conversations {
    let mut settings = store_settings(folder);
    settings.relay.sweep_interval = Span::millis(10);
    let scheduler = Scheduler::new(days_ago(500));
    let gate = scheduler.add_process(0, SETUP_SEED);
    gate.run_freely();
    let opened = async {
        migrate_all(&settings, false).await.unwrap();
        let (cold, listener) = (Arc::new(NoArchive), Arc::new(NoListener));
        let supervisor = Supervisor::default();
        Store::open(&settings, cold, listener, &supervisor)
            .await
            .unwrap()
    };
    let store = steps::scope(Arc::new(gate), opened).await;
    // With an idempotency key, from which the ids follow.
    let create = async |key: &str| {
        let new = NewConversation {
            kind: ConversationKind::Group,
            members: vec![UserId::new("bob").unwrap()],
            title: None,
            metadata: None,
        };
        let (made, _) = store
            .create_conversation(&caller("alice"), new, Some(key))
            .await
            .unwrap();
        made.id
    };
    let conversations = Conversations {
        main: create("main").await,
        other: create("other").await,
    };
    let (main, other) = (conversations.main, conversations.other);
    let sends = [
        (400, main, "S", 1),
        (399, other, "T", 1),
        (398, main, "S", 2),
        (397, main, "S", 3),
        (396, other, "T", 2),
        (395, other, "T", 3),
        (394, other, "T", 4),
        (393, other, "T", 5),
        (1, main, "S", 4),
    ];
    for (days, id, name, seq) in sends {
        steps::set_now(Some(days_ago(days)));
        let message = NewMessage {
            content: text(name, seq),
            client_msg_id: Some(format!("c{seq}")),
            ..NewMessage::default()
        };
        let sent = store.send(&caller("alice"), id, message).await.unwrap();
        assert_eq!(sent.message.seq, Seq(seq));
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    store.relay_idle(deadline).await.unwrap();
    store.close(deadline).await;
    conversations
}

/// Seeds of processes that act alone; actors of schedules have small ones.
const SETUP_SEED: u64 = 100;
const LOOK_SEED: u64 = 101;
const SCRIPT_SEED: u64 = 200;

/// Opens a process whose accesses do not wait, and whose leases end at once.
pub(crate) async fn open_alone(
    (scheduler, seed): (&Scheduler, u64),
    folder: &Path,
    conversations: Conversations,
) -> Process {
    let gate = scheduler.add_process(0, seed);
    let mut settings = archive_settings();
    settings.lease = Span::secs(0);
    let process = Process::open(gate, folder, conversations, settings).await;
    schedule::settle(scheduler).await;
    process.gate.run_freely();
    process
}

async fn act_alone((actor, number): (&Actor, u8), folder: &Path, conversations: Conversations) {
    let minutes_ago = 60 - i64::from(number);
    let scheduler = Scheduler::new(Timestamp(present().0 - minutes_ago * 60_000));
    let seed = SCRIPT_SEED + u64::from(number);
    let process = open_alone((&scheduler, seed), folder, conversations).await;
    let nothing = Client {
        log: Log::new(),
        rev: Rev(0),
    };
    let records = Records::new(nothing);
    actor.act("before", &process, &records).await;
    for observation in records.take() {
        let failure = match &observation {
            Observation::Change(change) => change.outcome.as_ref().err(),
            Observation::Job { failure, .. } => failure.as_ref(),
            Observation::Read { .. } | Observation::Drop { .. } => None,
        };
        assert_eq!(failure, None, "{actor} prepares a state");
    }
}

/// The two conversations as they are.
async fn look(folder: &Path, conversations: Conversations) -> (Client, Log) {
    let scheduler = Scheduler::new(present());
    let process = open_alone((&scheduler, LOOK_SEED), folder, conversations).await;
    let page = actors::page(&process, None, 200).await.unwrap();
    let client = Client {
        log: log_of(&page.messages),
        rev: page.rev,
    };
    let process = process.with_other_conversation();
    let other = actors::page(&process, None, 200).await.unwrap();
    (client, log_of(&other.messages))
}

/// A copy of a state, for a schedule.
pub(crate) fn copy_of(state: &State) -> TempDir {
    let target = folder();
    copy(state.folder.path(), target.path()).unwrap();
    target
}
