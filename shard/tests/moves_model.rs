//! A model of a move between two shards, searched through every interleaving (INV-OWNER, INV-ACK).
//!
//! Two writers with maps of their own, two processes that may run the move, die and be overtaken between any two statements, a
//! process that settles what others left, an operator who gives the move up, and the directory's clock. Each step is one
//! statement or one transaction of `shard/src/moves`; what a process remembers in between may be out of date.
//!
//! The model begins when all rows are copied: from there on the order of the steps decides. The range is one conversation, its
//! log is the number of its changes.
//!
//! Each flaw of [`Flaw`] is a mistake that the protocol avoids; with it the search has to find a history that breaks a promise,
//! so the model can fail.

use stateright::{Checker, Model, Property};

/// How long a freeze lasts, and a runner's lease, in ticks of the directory's clock.
const FREEZE: u8 = 2;
const LEASE: u8 = 1;

/// How far everything is searched.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    ticks: u8,
    writes: u8,
    attempts: u8,
    runs: u8,
}

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// The commit does not ask whether the freeze still holds.
    CommitsLate,
    /// The commit does not name the attempt and the runner.
    CommitsForOthers,
    /// The source is given up after the commit, not before it.
    GivesUpLate,
    /// A freeze is ended at the source before it is ended in the directory.
    UnfreezesFirst,
    /// A mark is cleared whatever its token is.
    ClearsNewMarks,
    /// The row is read before its mark.
    ReadsRowFirst,
    /// The runner's number is not looked at when rows are stored on the target.
    StoresForOthers,
    /// Writers do not mark.
    DoesNotMark,
    /// A write does not ask the fence.
    WritesUnasked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shard {
    Source,
    Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fence {
    None,
    Open,
    Moving,
    Frozen { attempt: u8 },
    Gone { attempt: u8 },
}

impl Fence {
    fn takes_writes(self) -> bool {
        matches!(self, Self::Open | Self::Moving)
    }

    fn answers(self) -> bool {
        !matches!(self, Self::None | Self::Gone { .. })
    }
}

/// States of the directory's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Job {
    CatchingUp,
    Frozen,
    Committed,
    Draining,
    Aborting,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Directory {
    now: u8,
    job: Job,
    attempt: u8,
    frozen_until: u8,
    runner: u8,
    runner_until: u8,
    owner: Shard,
}

/// A shard's database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Database {
    fence: Fence,
    /// Changes of the conversation that are stored.
    log: u8,
    /// The token of its mark.
    mark: Option<u8>,
    /// The runner that may store rows, in `arrivals`.
    arrival: Option<u8>,
}

/// Where a process is: what it does next. It remembers what it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// It does nothing; it may take the move over, or settle it.
    Idle,
    BeginWork,
    ReadMark,
    ReadRow {
        token: u8,
    },
    /// Of the flaw only.
    ReadMarkLate {
        log: u8,
    },
    Store {
        token: u8,
        log: u8,
    },
    Clear {
        token: u8,
    },
    NoteFreeze,
    Freeze,
    GiveUp,
    Commit,
    Open,
    Drain,
    /// Ends a freeze in the directory.
    EndFreeze,
    /// Ends it at the source.
    Unfreeze,
    Reopen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    at: At,
    /// Its number, when it took the move over.
    runner: u8,
    /// The attempt that it knows of.
    attempt: u8,
    /// It has frozen the range.
    has_frozen: bool,
}

const IDLE: Process = Process {
    at: At::Idle,
    runner: 0,
    attempt: 0,
    has_frozen: false,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    directory: Directory,
    source: Database,
    target: Database,
    /// Where each router believes the range to be.
    routers: [Shard; 2],
    processes: [Process; 2],
    /// Changes that were acknowledged.
    acknowledged: u8,
    /// A write that was acknowledged by one shard while the other one has others.
    has_forked: bool,
    tokens: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    Write(usize),
    Refresh(usize),
    TakeOver(usize),
    Settle(usize),
    Step(usize),
    /// An attempt is ended because of an error, or because it takes too long.
    Fail(usize),
    Die(usize),
    Abort,
}

struct Moving {
    flaw: Flaw,
    bounds: Bounds,
}

impl World {
    fn database(&mut self, shard: Shard) -> &mut Database {
        match shard {
            Shard::Source => &mut self.source,
            Shard::Target => &mut self.target,
        }
    }

    /// What a process that settles does first, by the directory's row.
    fn remedy(&self) -> Option<At> {
        let directory = &self.directory;
        match directory.job {
            Job::CatchingUp => Some(At::Unfreeze),
            Job::Frozen if directory.frozen_until <= directory.now => Some(At::EndFreeze),
            Job::Committed => Some(At::Open),
            Job::Aborting => Some(At::Reopen),
            Job::Frozen | Job::Draining => None,
        }
    }

    fn is_served(&self) -> bool {
        self.source.fence.takes_writes() || self.target.fence.takes_writes()
    }

    /// Whether one process that settles makes the range take writes once every lease has ended.
    fn recovers(&self, model: &Moving) -> bool {
        let mut world = self.clone();
        world.directory.now = u8::MAX;
        world.processes = [IDLE; 2];
        for _ in 0..6 {
            if world.is_served() {
                return true;
            }
            let Some(remedy) = world.remedy() else { break };
            world.processes[0] = Process {
                at: remedy,
                attempt: world.directory.attempt,
                ..IDLE
            };
            while world.processes[0].at != At::Idle {
                model.step(&mut world, 0);
            }
        }
        world.is_served()
    }
}

impl Moving {
    fn write(&self, world: &mut World, router: usize) {
        let is_marking = self.flaw != Flaw::DoesNotMark;
        let unasked = self.flaw == Flaw::WritesUnasked;
        let (token, shard) = (world.tokens, world.routers[router]);
        let acknowledged = world.acknowledged;
        let database = world.database(shard);
        if !database.fence.takes_writes() && !unasked {
            return;
        }
        let is_behind = database.log < acknowledged;
        database.log += 1;
        let marks = is_marking && database.fence == Fence::Moving;
        if marks {
            database.mark = Some(token);
            world.tokens += 1;
        }
        world.acknowledged += 1;
        world.has_forked |= is_behind;
    }

    /// The next step of a process.
    fn step(&self, world: &mut World, n: usize) {
        let flaw = self.flaw;
        let World {
            directory,
            source,
            target,
            ..
        } = world;
        let process = &mut world.processes[n];
        let is_runner = directory.runner == process.runner;
        process.at = match process.at {
            At::Idle => At::Idle,
            At::BeginWork => {
                let may = target.fence != Fence::Open
                    && target.arrival.is_none_or(|runner| runner <= process.runner);
                if may {
                    target.arrival = Some(process.runner);
                    At::ReadMark
                } else {
                    At::Idle
                }
            }
            At::ReadMark if flaw == Flaw::ReadsRowFirst => At::ReadMarkLate { log: source.log },
            At::ReadMark => match source.mark {
                Some(token) => At::ReadRow { token },
                None if process.has_frozen && flaw == Flaw::GivesUpLate => At::Commit,
                None if process.has_frozen => At::GiveUp,
                None => At::NoteFreeze,
            },
            At::ReadMarkLate { log } => match source.mark {
                Some(token) => At::Store { token, log },
                None if process.has_frozen => At::GiveUp,
                None => At::NoteFreeze,
            },
            At::ReadRow { token } => At::Store {
                token,
                log: source.log,
            },
            At::Store { token, log } => {
                let may = flaw == Flaw::StoresForOthers || target.arrival == Some(process.runner);
                if may && target.fence != Fence::Open {
                    // A runner that was overtaken may have read long ago; within one runner reads come in order.
                    target.log = log;
                    At::Clear { token }
                } else {
                    At::Idle
                }
            }
            At::Clear { token } => {
                if source.mark == Some(token) || flaw == Flaw::ClearsNewMarks {
                    source.mark = None;
                }
                At::ReadMark
            }
            At::NoteFreeze => {
                if directory.job == Job::CatchingUp
                    && is_runner
                    && directory.attempt == process.attempt
                {
                    directory.job = Job::Frozen;
                    directory.attempt += 1;
                    directory.frozen_until = directory.now + FREEZE;
                    process.attempt = directory.attempt;
                    At::Freeze
                } else {
                    At::Idle
                }
            }
            At::Freeze => {
                if source.fence == Fence::Moving {
                    source.fence = Fence::Frozen {
                        attempt: process.attempt,
                    };
                    process.has_frozen = true;
                    At::ReadMark
                } else {
                    At::EndFreeze
                }
            }
            At::GiveUp => {
                let attempt = process.attempt;
                if source.fence == (Fence::Frozen { attempt }) {
                    source.fence = Fence::Gone { attempt };
                    if flaw == Flaw::GivesUpLate {
                        At::Open
                    } else {
                        At::Commit
                    }
                } else {
                    At::EndFreeze
                }
            }
            At::Commit => {
                let in_time = directory.frozen_until > directory.now || flaw == Flaw::CommitsLate;
                let is_its = is_runner && directory.attempt == process.attempt
                    || flaw == Flaw::CommitsForOthers;
                let is_frozen = directory.job == Job::Frozen
                    || flaw == Flaw::CommitsLate && directory.job == Job::CatchingUp;
                if is_frozen && in_time && is_its {
                    directory.job = Job::Committed;
                    directory.owner = Shard::Target;
                    if flaw == Flaw::GivesUpLate {
                        At::GiveUp
                    } else {
                        At::Open
                    }
                } else {
                    At::EndFreeze
                }
            }
            At::Open => {
                if target.fence != Fence::Open {
                    target.fence = Fence::Open;
                    target.arrival = None;
                }
                At::Drain
            }
            At::Drain => {
                if directory.job == Job::Committed {
                    directory.job = Job::Draining;
                }
                At::Idle
            }
            At::EndFreeze if flaw == Flaw::UnfreezesFirst => {
                let (Fence::Frozen { attempt } | Fence::Gone { attempt }) = source.fence else {
                    process.at = At::Idle;
                    return;
                };
                if attempt <= process.attempt {
                    source.fence = Fence::Moving;
                }
                At::Unfreeze
            }
            At::EndFreeze => {
                let has_lapsed = directory.frozen_until <= directory.now;
                let is_this = directory.job == Job::Frozen && directory.attempt == process.attempt;
                if is_this && (is_runner && process.runner > 0 || has_lapsed) {
                    directory.job = Job::CatchingUp;
                    At::Unfreeze
                } else {
                    At::Idle
                }
            }
            At::Unfreeze => {
                match source.fence {
                    Fence::Frozen { attempt } | Fence::Gone { attempt }
                        if attempt <= process.attempt && flaw != Flaw::UnfreezesFirst =>
                    {
                        source.fence = Fence::Moving;
                    }
                    _ => {}
                }
                if flaw == Flaw::UnfreezesFirst && directory.job == Job::Frozen {
                    directory.job = Job::CatchingUp;
                }
                At::Idle
            }
            At::Reopen => {
                source.fence = Fence::Open;
                At::Idle
            }
        };
        if process.at == At::Idle {
            *process = IDLE;
        }
    }
}

impl Model for Moving {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let database = |fence| Database {
            fence,
            log: 0,
            mark: None,
            arrival: None,
        };
        vec![World {
            directory: Directory {
                now: 0,
                job: Job::CatchingUp,
                attempt: 0,
                frozen_until: 0,
                runner: 0,
                runner_until: 0,
                owner: Shard::Source,
            },
            source: database(Fence::Moving),
            target: database(Fence::None),
            routers: [Shard::Source; 2],
            processes: [IDLE; 2],
            acknowledged: 0,
            has_forked: false,
            tokens: 0,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let (directory, bounds) = (&world.directory, &self.bounds);
        if directory.now < bounds.ticks {
            actions.push(Action::Tick);
        }
        for router in 0..2 {
            if world.acknowledged < bounds.writes {
                actions.push(Action::Write(router));
            }
            if world.routers[router] != directory.owner {
                actions.push(Action::Refresh(router));
            }
        }
        for n in 0..2 {
            let process = &world.processes[n];
            if process.at == At::Idle {
                let is_free = directory.runner_until <= directory.now;
                let goes_on = directory.job == Job::CatchingUp;
                if is_free && goes_on && directory.runner < bounds.runs {
                    actions.push(Action::TakeOver(n));
                }
                if world.remedy().is_some() {
                    actions.push(Action::Settle(n));
                }
                continue;
            }
            let is_bounded = process.at == At::NoteFreeze && directory.attempt >= bounds.attempts;
            if !is_bounded {
                actions.push(Action::Step(n));
            }
            if process.has_frozen && matches!(process.at, At::ReadMark | At::GiveUp | At::Commit) {
                actions.push(Action::Fail(n));
            }
            actions.push(Action::Die(n));
        }
        if matches!(directory.job, Job::CatchingUp | Job::Frozen) {
            actions.push(Action::Abort);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Tick => next.directory.now += 1,
            Action::Write(router) => self.write(&mut next, router),
            Action::Refresh(router) => next.routers[router] = next.directory.owner,
            Action::TakeOver(n) => {
                next.directory.runner += 1;
                next.directory.runner_until = next.directory.now + LEASE;
                next.processes[n] = Process {
                    at: At::BeginWork,
                    runner: next.directory.runner,
                    attempt: next.directory.attempt,
                    has_frozen: false,
                };
            }
            Action::Settle(n) => {
                next.processes[n] = Process {
                    at: world.remedy()?,
                    attempt: next.directory.attempt,
                    ..IDLE
                };
            }
            Action::Step(n) => self.step(&mut next, n),
            Action::Fail(n) => next.processes[n].at = At::EndFreeze,
            Action::Die(n) => next.processes[n] = IDLE,
            Action::Abort => {
                next.directory.job = Job::Aborting;
                next.directory.runner += 1;
                next.directory.runner_until = 0;
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one shard at most takes writes", |_, world: &World| {
                !(world.source.fence.takes_writes() && world.target.fence.takes_writes())
            }),
            Property::always("one shard at most answers", |_, world: &World| {
                !(world.source.fence.answers() && world.target.fence.answers())
            }),
            Property::always(
                "a shard that answers has every acknowledged write",
                |_, world: &World| {
                    let whole = |it: &Database| !it.fence.answers() || it.log == world.acknowledged;
                    whole(&world.source) && whole(&world.target) && !world.has_forked
                },
            ),
            Property::always(
                "committed if and only if rolled forward",
                |_, world: &World| {
                    let is_committed =
                        matches!(world.directory.job, Job::Committed | Job::Draining);
                    let has_left = is_committed == (world.directory.owner == Shard::Target);
                    let forward = !is_committed || !world.source.fence.takes_writes();
                    has_left && forward && (is_committed || world.target.fence != Fence::Open)
                },
            ),
            Property::always("any process restores service", |model, world: &World| {
                world.recovers(model)
            }),
            Property::sometimes("the target serves the range", |_, world: &World| {
                world.directory.job == Job::Draining && world.target.fence == Fence::Open
            }),
            Property::sometimes("a second attempt commits", |_, world: &World| {
                world.directory.job == Job::Committed && world.directory.attempt == 2
            }),
            Property::sometimes("a move is given up in the freeze", |_, world: &World| {
                world.directory.job == Job::Aborting
                    && matches!(world.source.fence, Fence::Gone { .. })
            }),
        ]
    }
}

fn search(flaw: Flaw, bounds: Bounds) -> impl Checker<Moving> {
    let model = Moving { flaw, bounds };
    model.checker().threads(2).spawn_bfs().join()
}

/// Every history within bounds that are a few of everything.
#[test]
fn a_move_keeps_its_promises_whatever_happens_when() {
    let bounds = Bounds {
        ticks: 3,
        writes: 2,
        attempts: 2,
        runs: 3,
    };
    let checker = search(Flaw::None, bounds);
    checker.assert_properties();
    println!("{} states", checker.unique_state_count());
    assert!(
        checker.unique_state_count() > 100_000,
        "the search is too small to say anything"
    );
}

#[test]
fn each_mistake_is_found() {
    let bounds = Bounds {
        ticks: 3,
        writes: 2,
        attempts: 2,
        runs: 2,
    };
    for flaw in [
        Flaw::CommitsLate,
        Flaw::CommitsForOthers,
        Flaw::GivesUpLate,
        Flaw::UnfreezesFirst,
        Flaw::ClearsNewMarks,
        Flaw::ReadsRowFirst,
        Flaw::StoresForOthers,
        Flaw::DoesNotMark,
        Flaw::WritesUnasked,
    ] {
        let checker = search(flaw, bounds);
        let broken: Vec<&str> = checker
            .discoveries()
            .into_keys()
            .filter(|name| {
                !["the target serves", "a second attempt", "a move is given"]
                    .iter()
                    .any(|some| name.starts_with(some))
            })
            .collect();
        println!("{flaw:?}: {broken:?}");
        assert!(!broken.is_empty(), "{flaw:?} breaks nothing");
    }
}
