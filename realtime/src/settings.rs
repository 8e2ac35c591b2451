//! The configuration's section `realtime`.

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
    /// Most new connections a second on one node; 0 for no limit.
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
    /// How often a node compares the changes that it delivered with the logs. 1 s to 10 min.
    pub audit_interval: Span,
    /// Whether Socket.IO's long polling is served. With several nodes it needs sticky sessions.
    pub long_polling: bool,
}

impl Default for RealtimeSettings {
    fn default() -> Self {
        Self {
            max_sessions: 100_000,
            sessions_per_user: 20,
            sessions_per_ip: 0,
            connects_per_second: 2000,
            commands_per_second: 20,
            command_burst: 100,
            joined_conversations: 100,
            max_frame: 65_536,
            queue_bytes: 1 << 20,
            heartbeat: Span::secs(25),
            drain_window: Span::secs(20),
            audit_interval: Span::secs(10),
            long_polling: true,
        }
    }
}

impl RealtimeSettings {
    /// The problems of these settings, each as a sentence that begins with the key; empty when there are none.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut within = |key: &str, value: usize, (low, high): (usize, usize)| {
            if !(low..=high).contains(&value) {
                problems.push(format!(
                    "realtime.{key}: {value} is not between {low} and {high}"
                ));
            }
        };
        within("max_sessions", self.max_sessions, (1, 10_000_000));
        within("sessions_per_user", self.sessions_per_user, (1, 10_000));
        within("command_burst", self.command_burst as usize, (1, 1_000_000));
        within("joined_conversations", self.joined_conversations, (1, 1000));
        within("max_frame", self.max_frame, (1024, 16 << 20));
        within("queue_bytes", self.queue_bytes, (16 << 10, 256 << 20));
        let mut lasts = |key: &str, period: Span, (low, high): (u64, u64)| {
            if !(low..=high).contains(&period.0.as_secs()) {
                problems.push(format!(
                    "realtime.{key}: is not between {low} and {high} seconds"
                ));
            }
        };
        lasts("heartbeat", self.heartbeat, (1, 600));
        lasts("drain_window", self.drain_window, (0, 600));
        lasts("audit_interval", self.audit_interval, (1, 600));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        assert_eq!(RealtimeSettings::default().check(), Vec::<String>::new());
        let wrong = RealtimeSettings {
            max_frame: 10,
            heartbeat: Span::secs(0),
            ..RealtimeSettings::default()
        };
        assert_eq!(
            wrong.check(),
            [
                "realtime.max_frame: 10 is not between 1024 and 16777216",
                "realtime.heartbeat: is not between 1 and 600 seconds"
            ]
        );
    }
}
