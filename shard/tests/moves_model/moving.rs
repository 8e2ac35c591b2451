//! The steps: what may happen next in a moment, and what it makes of it.

use stateright::{Model, Property};

use crate::world::{At, Database, Directory, Fence, IDLE, Job, Process, Shard, World};

/// How long a freeze lasts, and a runner's lease, in ticks of the directory's clock.
const FREEZE: u8 = 2;

const LEASE: u8 = 1;

/// How far everything is searched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) ticks: u8,
    pub(crate) writes: u8,
    pub(crate) attempts: u8,
    pub(crate) runs: u8,
}

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
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
pub(crate) enum Action {
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

pub(crate) struct Moving {
    pub(crate) flaw: Flaw,
    pub(crate) bounds: Bounds,
}

impl Moving {
    pub(crate) fn write(&self, world: &mut World, router: usize) {
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
    pub(crate) fn step(&self, world: &mut World, n: usize) {
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
