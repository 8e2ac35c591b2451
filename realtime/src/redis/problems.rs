//! What keeps Redis from doing its work for this node, in Redis's own words, and what to do about it.
//!
//! An open connection proves nothing: a replica answers, and a server at its memory limit still publishes, but both refuse
//! writes. So the server is asked for its role on each connection, when it is made and every `redis.canary_interval` from then
//! on, and a key is written as often.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};

use crate::bus::Problem;
use crate::metrics;

/// A problem that goes on, or comes and goes, is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// The kind of the problem that there is no conversation with a server.
const UNREACHABLE: &str = "unreachable";

impl Problem {
    /// The problem behind `error`.
    pub(super) fn of(error: &RedisError) -> Self {
        let Some(code) = error.code() else {
            return Self::unreachable(error.to_string());
        };
        let (kind, remedy) = match code {
            "WRONGPASS" | "NOAUTH" => ("credentials", "check redis.url's user and password"),
            "NOPERM" => (
                "permission",
                "let redis.url's user publish, subscribe, and read and write the keys of redis.prefix",
            ),
            "READONLY" => return Self::replica(),
            "OOM" => (
                "memory",
                "raise Redis's maxmemory, or set a maxmemory-policy that evicts",
            ),
            _ => ("other", "see Redis's own log"),
        };
        let said = match error.detail() {
            Some(detail) => format!("Redis says: {code} {detail}"),
            None => format!("Redis says: {code}"),
        };
        Self { kind, said, remedy }
    }

    /// The server answers, but is a replica.
    fn replica() -> Self {
        Self {
            kind: "replica",
            said: "Redis is a replica (READONLY)".to_owned(),
            remedy: "let redis.url lead to the primary",
        }
    }

    /// Whether the server is a replica.
    pub(super) fn is_replica(&self) -> bool {
        *self == Self::replica()
    }

    /// Whether there is no conversation with a server.
    pub(super) fn is_absence(&self) -> bool {
        self.kind == UNREACHABLE
    }

    /// There is no conversation with a server.
    pub(super) fn unreachable(said: String) -> Self {
        Self {
            kind: UNREACHABLE,
            said,
            remedy: "check that Redis runs, and that redis.url leads to it from here",
        }
    }
}

/// The present problems, by the part that has met them.
#[derive(Default)]
pub(super) struct Problems(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    present: BTreeMap<&'static str, Problem>,
    logged: Option<(Problem, Instant)>,
}

impl Problems {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        // No change panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `part` has met `problem`. Logs it, unless it was logged lately.
    pub(super) fn note(&self, part: &'static str, problem: Problem) {
        metrics::BUS_PROBLEMS.with([problem.kind]).increment(1);
        let mut noted = self.noted();
        let lately = noted
            .logged
            .as_ref()
            .is_some_and(|(logged, at)| *logged == problem && at.elapsed() < LOG_EVERY);
        if !lately {
            tracing::warn!(part, %problem, "Redis does not serve this node; trying again");
            noted.logged = Some((problem.clone(), Instant::now()));
        }
        noted.present.insert(part, problem);
    }

    /// `part` works.
    pub(super) fn clear(&self, part: &'static str) {
        self.noted().present.remove(part);
    }

    /// A present problem: what a server refuses before what cannot be reached.
    pub(super) fn worst(&self) -> Option<Problem> {
        let noted = self.noted();
        let present = noted.present.values();
        present.min_by_key(|problem| problem.is_absence()).cloned()
    }
}

/// Asks for the server's role.
///
/// # Errors
/// When it is a replica, or does not say.
pub(super) async fn is_primary(connection: &mut MultiplexedConnection) -> Result<(), Problem> {
    // `HELLO`, which has opened the connection, needs no right that ROLE and INFO may lack.
    let mut hello = redis::cmd("HELLO");
    let answer: RedisResult<BTreeMap<String, Value>> = hello.arg(3).query_async(connection).await;
    let answer = answer.map_err(|error| Problem::of(&error))?;
    match answer.get("role") {
        Some(Value::BulkString(role)) if role == b"replica" || role == b"slave" => {
            Err(Problem::replica())
        }
        _ => Ok(()),
    }
}

/// Asks for the server's role, and writes `key`, which expires after `age`.
///
/// # Errors
/// When it is a replica, or refuses the write.
pub(super) async fn serves(
    connection: &mut MultiplexedConnection,
    key: &str,
    age: Duration,
) -> Result<(), Problem> {
    is_primary(connection).await?;
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let mut write = redis::pipe();
    write.ignore_errors();
    write.cmd("HSET").arg(key).arg("").arg(1);
    write.cmd("PEXPIRE").arg(key).arg(age);
    let answers: RedisResult<Vec<RedisResult<Value>>> = write.query_async(connection).await;
    let answers = answers.map_err(|error| Problem::of(&error))?;
    let refused = answers.into_iter().find_map(RedisResult::err);
    refused.map_or(Ok(()), |error| Err(Problem::of(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_before_an_absence_until_its_part_works() {
        let problems = Problems::default();
        assert_eq!(problems.worst(), None);
        problems.note("commands", Problem::unreachable("refused".to_owned()));
        problems.note("publish", Problem::replica());
        assert_eq!(problems.worst(), Some(Problem::replica()));
        problems.clear("publish");
        assert_eq!(
            problems.worst(),
            Some(Problem::unreachable("refused".to_owned()))
        );
        problems.clear("commands");
        assert_eq!(problems.worst(), None);
    }
}
