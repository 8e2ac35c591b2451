//! Pings silent sessions, and ends those that stay silent, whose token has expired, or whose token's key was withdrawn.

use std::sync::Arc;
use std::time::Duration;

use backscroll_shard::model::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::edge::Edge;
use crate::outbox::Item;
use crate::protocol::Close;
use crate::session::Session;
use crate::sessions::{PARTS, Sessions};

/// How long a session may stay silent beyond the heartbeat's interval, in seconds.
const SLACK: u32 = 10;
/// How often each session is looked at during one interval.
const LOOKS: u32 = 5;
/// How long a session is kept after its token expired, in seconds, so that the client can refresh it.
const EXPIRY_GRACE: i64 = 25;

/// Looks at one part of the sessions after the other, at each session [`LOOKS`] times in an `interval`, until `closing`.
pub(crate) async fn run(
    sessions: Arc<Sessions>,
    edge: Arc<dyn Edge>,
    interval: Duration,
    closing: CancellationToken,
) {
    let step = interval / (LOOKS * u32::try_from(PARTS).unwrap_or(1));
    let quiet = u32::try_from((interval - interval / LOOKS).as_secs()).unwrap_or(u32::MAX);
    let longest = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX) + SLACK;
    // On a machine that is late the ticks catch up, so that no session is ended that was not pinged in time.
    let mut looks = tokio::time::interval(step);
    let mut part = 0;
    while closing.run_until_cancelled(looks.tick()).await.is_some() {
        let now = Timestamp::now().0 / 1000;
        for session in sessions.in_part(part) {
            look_at(&session, &*edge, now, quiet, longest);
        }
        part = (part + 1) % PARTS;
    }
}

fn look_at(session: &Session, edge: &dyn Edge, now: i64, quiet: u32, longest: u32) {
    if session.expires_at().saturating_add(EXPIRY_GRACE) < now {
        session.outbox.close(Close::TokenExpired);
    } else if session.token_key().is_some_and(|key| !edge.trusts(key)) {
        session.outbox.close(Close::TokenInvalid);
    } else if session.pinged && session.silent_for() > longest {
        session.outbox.close(Close::Idle);
    } else if session.pinged && session.silent_for() >= quiet {
        session.outbox.put(Item::Ping);
    }
}
