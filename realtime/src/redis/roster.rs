//! The roster of several nodes: the users who are connected to each.
//!
//! Each process has a hash with its users' statuses, which expires unless it is renewed; one set has the names of all
//! processes. The hash is the lease: when a process dies, all its users go offline at one moment, by Redis's clock alone, and
//! only its name is left, which the next reader removes.
//!
//! The hash also has a mark: a field that no user can have and that only `renew` sets. Without the mark the hash has expired,
//! and the statuses in it may be incomplete. They may also be incomplete after a failed write, and on a new connection, which
//! may lead to another server. In each of these cases `renew` returns `false` and the node sets all its users again, which
//! is harmless where nothing was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backscroll_shard::ids::UserId;
use redis::Pipeline;

use super::line::Line;
use super::names::Names;
use super::running::Running;
use crate::bus::{BusUnavailable, Roster, Status};

/// Most users in one command.
const BATCH: usize = 512;
/// The field that marks a hash that has not expired: no user has an empty id.
const MARK: &str = "";

/// The roster of several nodes, in Redis.
pub struct RedisRoster {
    pub(super) names: Names,
    pub(super) node: String,
    pub(super) commands: Arc<Line>,
    pub(super) lease: Duration,
    pub(super) timeout: Duration,
    /// The generation of the connection on which all users were set; 0 when a status may be missing.
    pub(super) complete_on: AtomicU64,
    pub(super) _running: Arc<Running>,
}

impl RedisRoster {
    /// This process's name in [`Roster::nodes`]: the node's name and a part that differs after each start, so that a process
    /// does not keep its predecessor's users online.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    fn lease(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }

    async fn run<T: redis::FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, BusUnavailable> {
        self.commands
            .query(commands, Instant::now() + self.timeout)
            .await
    }

    /// The names of all processes, including dead ones that no reader has removed yet.
    async fn known(&self) -> Result<Vec<String>, BusUnavailable> {
        let mut read = redis::pipe();
        read.cmd("SMEMBERS").arg(self.names.nodes());
        let (nodes,): (Vec<String>,) = self.run(&read).await?;
        Ok(nodes)
    }
}

#[async_trait]
impl Roster for RedisRoster {
    async fn set(&self, users: &[(UserId, Status)]) -> Result<(), BusUnavailable> {
        if users.is_empty() {
            return Ok(());
        }
        let roster = self.names.roster(&self.node);
        let mut write = redis::pipe();
        // In order: of a user who is named twice, the last status counts.
        for batch in runs(users) {
            let gone = batch.iter().all(|(_, status)| *status == Status::Offline);
            let command = write.cmd(if gone { "HDEL" } else { "HSET" }).arg(&roster);
            for (user, status) in batch {
                command.arg(user.as_str());
                if !gone {
                    command.arg(letter(*status));
                }
            }
            write.ignore();
        }
        write.cmd("PEXPIRE").arg(&roster).arg(self.lease()).ignore();
        let written = self.run::<()>(&write).await;
        if written.is_err() {
            self.complete_on.store(0, Ordering::SeqCst);
        }
        written
    }

    async fn look_up(&self, users: &[UserId]) -> Result<HashMap<UserId, Status>, BusUnavailable> {
        let mut greatest = HashMap::new();
        if users.is_empty() {
            return Ok(greatest);
        }
        let nodes = self.known().await?;
        if nodes.is_empty() {
            return Ok(greatest);
        }
        let mut read = redis::pipe();
        for node in &nodes {
            for batch in users.chunks(BATCH) {
                let command = read.cmd("HMGET").arg(self.names.roster(node));
                for user in batch {
                    command.arg(user.as_str());
                }
            }
        }
        let answers: Vec<Vec<Option<String>>> = self.run(&read).await?;
        let asked = std::iter::repeat_n(users, nodes.len()).flat_map(|users| users.chunks(BATCH));
        for (batch, letters) in asked.zip(answers) {
            for (user, letter) in batch.iter().zip(letters) {
                if let Some(status) = letter.as_deref().and_then(status) {
                    let shown: &mut Status = greatest.entry(user.clone()).or_default();
                    *shown = status.max(*shown);
                }
            }
        }
        Ok(greatest)
    }

    async fn renew(&self) -> Result<bool, BusUnavailable> {
        let Some(live) = self.commands.current() else {
            self.complete_on.store(0, Ordering::SeqCst);
            return Err(self.commands.unavailable());
        };
        // A write that fails from here on resets this again.
        let complete_on = self.complete_on.swap(live.generation, Ordering::SeqCst);
        let roster = self.names.roster(&self.node);
        let mut write = redis::pipe();
        write.cmd("HSETNX").arg(&roster).arg(MARK).arg(1);
        write.cmd("PEXPIRE").arg(&roster).arg(self.lease()).ignore();
        let nodes = self.names.nodes();
        write.cmd("SADD").arg(nodes).arg(&self.node).ignore();
        match self.run::<(bool,)>(&write).await {
            Ok((had_gone,)) => Ok(!had_gone && complete_on == live.generation),
            Err(error) => {
                self.complete_on.store(0, Ordering::SeqCst);
                Err(error)
            }
        }
    }

    async fn nodes(&self) -> Result<Vec<String>, BusUnavailable> {
        let known = self.known().await?;
        if known.is_empty() {
            return Ok(known);
        }
        let mut read = redis::pipe();
        for node in &known {
            read.cmd("HEXISTS").arg(self.names.roster(node)).arg(MARK);
        }
        let lives: Vec<bool> = self.run(&read).await?;
        let (live, dead): (Vec<_>, Vec<_>) =
            known.into_iter().zip(lives).partition(|(_, lives)| *lives);
        if !dead.is_empty() {
            // A process that is back adds its name with its next renewal.
            let mut forget = redis::pipe();
            let command = forget.cmd("SREM").arg(self.names.nodes());
            for (node, _) in &dead {
                command.arg(node);
            }
            if let Err(error) = self.run::<(i64,)>(&forget).await {
                tracing::debug!(%error, "the names of dead nodes are left for later");
            }
        }
        Ok(live.into_iter().map(|(node, _)| node).collect())
    }
}

/// Divides `users` into runs that are set with one command: all offline or none, and at most [`BATCH`].
fn runs(users: &[(UserId, Status)]) -> impl Iterator<Item = &[(UserId, Status)]> {
    let goes = |status: Status| status == Status::Offline;
    users
        .chunk_by(move |(_, a), (_, b)| goes(*a) == goes(*b))
        .flat_map(|run| run.chunks(BATCH))
}

fn letter(status: Status) -> &'static str {
    match status {
        Status::Offline => "-",
        Status::Idle => "i",
        Status::Away => "a",
        Status::Busy => "b",
        Status::Online => "o",
    }
}

fn status(letter: &str) -> Option<Status> {
    match letter {
        "i" => Some(Status::Idle),
        "a" => Some(Status::Away),
        "b" => Some(Status::Busy),
        "o" => Some(Status::Online),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_read_back() {
        for shown in [Status::Idle, Status::Away, Status::Busy, Status::Online] {
            assert_eq!(status(letter(shown)), Some(shown));
        }
        assert_eq!(status(letter(Status::Offline)), None);
    }

    #[test]
    fn users_are_set_in_order_and_in_batches() {
        let user = |n: usize| UserId::new(n.to_string()).unwrap();
        let mut users: Vec<_> = (0..600).map(|n| (user(n), Status::Online)).collect();
        users.push((user(1), Status::Offline));
        users.push((user(1), Status::Busy));
        let sizes: Vec<usize> = runs(&users).map(<[_]>::len).collect();
        assert_eq!(sizes, [BATCH, 600 - BATCH, 1, 1]);
    }
}
