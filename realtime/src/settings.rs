//! The configuration's section `realtime`.

use backscroll_shard::settings::check::{Check, Problem};
use backscroll_shard::settings::{Span, size};
use serde::{Deserialize, Serialize};

/// The bounds of real-time delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RealtimeSettings {
    /// Most connections to one node. 1 to 10,000,000.
    pub max_sessions: usize,
    /// Most connections of one user to one node. 1 to 10,000.
    pub sessions_per_user: usize,
    /// Most connections from one address to one node; 0 for no limit, as behind a load balancer with one address.
    pub sessions_per_ip: usize,
    /// Most new connections a second on one node, of clients that connect with a token; half as many of others beside them. 0 for
    /// no limit.
    pub connects_per_second: u32,
    /// Most commands a second of one connection, on average; 0 for no limit.
    pub commands_per_second: u32,
    /// Most commands of one connection at once. At least 1.
    pub command_burst: u32,
    /// Most conversations that one connection has open. 1 to 1,000.
    pub joined_conversations: usize,
    /// Longest frame that a client may send, in bytes. 1,024 to 16 MiB.
    #[serde(with = "size")]
    pub max_frame: usize,
    /// Most bytes that wait for one connection. A connection beyond it is closed. 16 KiB to 256 MiB.
    #[serde(with = "size")]
    pub queue_bytes: usize,
    /// How often a silent connection is pinged. 1 s to 10 min.
    pub heartbeat: Span,
    /// How long a node that stops takes to send its clients to other nodes. At most 10 min.
    pub drain_window: Span,
    /// To whom a user's presence is shown.
    pub presence: Visibility,
    /// After how long it is looked up again whose presence a connection may be shown. 5 s to 1 h.
    pub presence_check: Span,
    /// How often a node compares the changes that it delivered with the logs. 1 s to 10 min.
    pub audit_interval: Span,
    /// Whether Socket.IO's long polling is served. With several nodes it needs sticky sessions.
    pub long_polling: bool,
}

/// To whom a user's presence is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// To users who share a conversation with them: [`backscroll_shard::contacts`].
    Shared,
    /// To every user who names them.
    Anyone,
}

impl Default for RealtimeSettings {
    fn default() -> Self {
        Self {
            max_sessions: 100_000,
            sessions_per_user: 20,
            sessions_per_ip: 0,
            connects_per_second: 2000,
            commands_per_second: 20,
            command_burst: 200,
            joined_conversations: 100,
            max_frame: 65_536,
            queue_bytes: 1 << 20,
            heartbeat: Span::secs(25),
            drain_window: Span::secs(20),
            presence: Visibility::Shared,
            presence_check: Span::secs(120),
            audit_interval: Span::secs(10),
            long_polling: true,
        }
    }
}

impl RealtimeSettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("realtime");
        check.within("max_sessions", self.max_sessions, 1, 10_000_000);
        check.within("sessions_per_user", self.sessions_per_user, 1, 10_000);
        check.within("command_burst", self.command_burst as usize, 1, 1_000_000);
        check.within("joined_conversations", self.joined_conversations, 1, 1000);
        check.within("max_frame", self.max_frame, 1024, 16 << 20);
        check.within("queue_bytes", self.queue_bytes, 16 << 10, 256 << 20);
        check.within("heartbeat", self.heartbeat, Span::secs(1), Span::secs(600));
        check.within(
            "drain_window",
            self.drain_window,
            Span::secs(0),
            Span::secs(600),
        );
        check.within(
            "presence_check",
            self.presence_check,
            Span::secs(5),
            Span::secs(3600),
        );
        check.within(
            "audit_interval",
            self.audit_interval,
            Span::secs(1),
            Span::secs(600),
        );
        check.finish()
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::settings::check::lines;

    use super::*;

    #[test]
    fn bounds_are_checked() {
        assert_eq!(RealtimeSettings::default().check(), []);
        let wrong = RealtimeSettings {
            max_frame: 10,
            heartbeat: Span::secs(0),
            ..RealtimeSettings::default()
        };
        assert_eq!(
            lines(&wrong.check()),
            [
                "realtime.max_frame: 10 is not between 1024 and 16777216",
                "realtime.heartbeat: 0s is not between 1s and 10m"
            ]
        );
    }
}
