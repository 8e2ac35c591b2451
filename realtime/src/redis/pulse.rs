//! The proof that what this process publishes is received.
//!
//! A socket that is open proves nothing. So a process publishes, the way it publishes everything, how old it is, on a
//! channel of its own, and hears it, the way it hears everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::line::Line;
use super::listen::Listener;
use super::outbox::Outbox;
use super::settings::RedisSettings;

/// After so many intervals without a proof, all connections are made anew.
const WEDGED: u32 = 5;

/// When it was last proven.
pub(super) struct Pulse {
    origin: String,
    opened: Instant,
    /// When the latest of the canaries that came back was sent, in microseconds after `opened`.
    proven: AtomicU64,
}

impl Pulse {
    pub(super) fn new(origin: String) -> Self {
        Self {
            origin,
            opened: Instant::now(),
            proven: AtomicU64::new(0),
        }
    }

    fn age(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// How long ago the latest canary that came back was sent.
    pub(super) fn silence(&self) -> Duration {
        let proven = self.proven.load(Ordering::Relaxed);
        Duration::from_micros(self.age().saturating_sub(proven))
    }

    fn canary(&self) -> Vec<u8> {
        super::wire::signed(&self.origin, self.age().to_string().as_bytes())
    }

    /// Takes what came on a channel that is no topic's; none when it cannot be read.
    pub(super) fn heard(&self, origin: &str, rest: &[u8]) -> Option<()> {
        let sent: u64 = std::str::from_utf8(rest).ok()?.parse().ok()?;
        let age = self.age();
        if origin != self.origin || sent > age {
            return None;
        }
        self.proven.fetch_max(sent, Ordering::Relaxed);
        let round_trip = Duration::from_micros(age - sent);
        metrics::histogram!("backscroll_bus_round_trip_seconds").record(round_trip.as_secs_f64());
        Some(())
    }
}

/// Sends canaries, and makes all connections anew when they do not come back, until the future is dropped.
pub(super) async fn run(
    listener: Arc<Listener>,
    outbox: Outbox,
    publishing: Arc<Line>,
    commands: Arc<Line>,
    settings: RedisSettings,
) {
    let interval = settings.canary_interval.0;
    let channel = listener.names.canary(&listener.origin);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let pulse = &listener.pulse;
        outbox.put(channel.clone(), pulse.canary().into(), None);
        let silence = pulse.silence();
        metrics::gauge!("backscroll_bus_silence_seconds").set(silence.as_secs_f64());

        // Only a connection that has had the time to prove itself is given up.
        let youngest = listener.line.since().max(publishing.since());
        let connected = listener.line.since().is_some() && publishing.since().is_some();
        let patience = interval * WEDGED;
        if connected && silence > patience && youngest.is_some_and(|at| at.elapsed() > patience) {
            metrics::counter!("backscroll_bus_wedged_total").increment(1);
            tracing::error!(
                silent_for = ?silence,
                "connected to Redis, but what is published is not received; starting over"
            );
            for line in [&listener.line, &publishing, &commands] {
                line.lose_any();
            }
        }
    }
}

/// Gives up the connection for commands when it has no answer, until the future is dropped. Its users do not: answers
/// that come late for them may only be large.
pub(super) async fn ask(commands: Arc<Line>, settings: RedisSettings) {
    let mut ping = redis::pipe();
    ping.cmd("PING");
    let mut ticks = tokio::time::interval(settings.canary_interval.0);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(live) = commands.current() {
            let deadline = Instant::now() + settings.timeout.0;
            let answer = commands.query::<Vec<String>>(&ping, deadline).await;
            if answer.is_err() {
                commands.lose(live.generation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire;
    use super::*;

    #[test]
    fn only_its_own_canaries_prove_anything() {
        let pulse = Pulse::new("me".to_owned());
        std::thread::sleep(Duration::from_millis(2));
        let canary = pulse.canary();
        let (origin, rest) = wire::origin(&canary).unwrap();
        assert!(pulse.heard("other", rest).is_none());
        assert!(pulse.heard("me", b"x").is_none());
        assert!(pulse.heard("me", b"99999999999").is_none());
        assert!(pulse.proven.load(Ordering::Relaxed) == 0);

        pulse.heard(origin, rest).unwrap();
        let proven = pulse.proven.load(Ordering::Relaxed);
        assert!(proven >= 2000);
        pulse.heard("me", b"1").unwrap(); // an older one that was late
        assert_eq!(pulse.proven.load(Ordering::Relaxed), proven);
    }
}
