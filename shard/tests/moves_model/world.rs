//! What the model knows of a moment: the databases, and what every process and router remembers.

use crate::moving::Moving;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shard {
    Source,
    Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fence {
    None,
    Open,
    Moving,
    Frozen { attempt: u8 },
    Gone { attempt: u8 },
}

impl Fence {
    pub(crate) fn takes_writes(self) -> bool {
        matches!(self, Self::Open | Self::Moving)
    }

    pub(crate) fn answers(self) -> bool {
        !matches!(self, Self::None | Self::Gone { .. })
    }
}

/// States of the directory's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    CatchingUp,
    Frozen,
    Committed,
    Draining,
    Aborting,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Directory {
    pub(crate) now: u8,
    pub(crate) job: Job,
    pub(crate) attempt: u8,
    pub(crate) frozen_until: u8,
    pub(crate) runner: u8,
    pub(crate) runner_until: u8,
    pub(crate) owner: Shard,
}

/// A shard's database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    pub(crate) fence: Fence,
    /// Changes of the conversation that are stored.
    pub(crate) log: u8,
    /// The token of its mark.
    pub(crate) mark: Option<u8>,
    /// The runner that may store rows, in `arrivals`.
    pub(crate) arrival: Option<u8>,
}

/// Where a process is: what it does next. It remembers what it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum At {
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
pub(crate) struct Process {
    pub(crate) at: At,
    /// Its number, when it took the move over.
    pub(crate) runner: u8,
    /// The attempt that it knows of.
    pub(crate) attempt: u8,
    /// It has frozen the range.
    pub(crate) has_frozen: bool,
}

pub(crate) const IDLE: Process = Process {
    at: At::Idle,
    runner: 0,
    attempt: 0,
    has_frozen: false,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) directory: Directory,
    pub(crate) source: Database,
    pub(crate) target: Database,
    /// Where each router believes the range to be.
    pub(crate) routers: [Shard; 2],
    pub(crate) processes: [Process; 2],
    /// Changes that were acknowledged.
    pub(crate) acknowledged: u8,
    /// A write that was acknowledged by one shard while the other one has others.
    pub(crate) has_forked: bool,
    pub(crate) tokens: u8,
}

impl World {
    pub(crate) fn database(&mut self, shard: Shard) -> &mut Database {
        match shard {
            Shard::Source => &mut self.source,
            Shard::Target => &mut self.target,
        }
    }

    /// What a process that settles does first, by the directory's row.
    pub(crate) fn remedy(&self) -> Option<At> {
        let directory = &self.directory;
        match directory.job {
            Job::CatchingUp => Some(At::Unfreeze),
            Job::Frozen if directory.frozen_until <= directory.now => Some(At::EndFreeze),
            Job::Committed => Some(At::Open),
            Job::Aborting => Some(At::Reopen),
            Job::Frozen | Job::Draining => None,
        }
    }

    pub(crate) fn is_served(&self) -> bool {
        self.source.fence.takes_writes() || self.target.fence.takes_writes()
    }

    /// Whether one process that settles makes the range take writes once every lease has ended.
    pub(crate) fn recovers(&self, model: &Moving) -> bool {
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
