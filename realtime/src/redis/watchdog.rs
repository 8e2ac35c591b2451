//! Replaces connections that are open but useless.
//!
//! Two tasks: one proves that published pushes are received ([`watch_delivery`]), the other that commands are answered
//! ([`watch_commands`]).

use std::sync::Arc;
use std::time::Instant;

use tokio::time::MissedTickBehavior;

use super::line::Line;
use super::listen::Listener;
use super::publish_queue::PublishQueue;
use super::settings::RedisSettings;

/// After this many canary intervals without a proof, all connections are replaced.
const UNPROVEN_INTERVALS: u32 = 5;

/// Publishes canaries, and replaces all connections when none comes back, until the future is dropped.
pub(super) async fn watch_delivery(
    listener: Arc<Listener>,
    queue: PublishQueue,
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
        queue.put(channel.clone(), pulse.canary().into(), None);
        let silence = pulse.silence();
        metrics::gauge!("backscroll_bus_silence_seconds").set(silence.as_secs_f64());

        // A connection that has not had the time to prove itself is kept.
        let youngest = listener.line.since().max(publishing.since());
        let connected = listener.line.since().is_some() && publishing.since().is_some();
        let longest = interval * UNPROVEN_INTERVALS;
        if connected && silence > longest && youngest.is_some_and(|at| at.elapsed() > longest) {
            metrics::counter!("backscroll_bus_wedged_total").increment(1);
            tracing::error!(
                silent_for = ?silence,
                "connected to Redis, but published pushes are not received; all connections are replaced"
            );
            for line in [&listener.line, &publishing, &commands] {
                line.lose_any();
            }
        }
    }
}

/// Pings Redis on the connection for commands, and replaces that connection when no answer comes, until the future is
/// dropped. A command that times out does not replace the connection: its answer may only be large.
pub(super) async fn watch_commands(commands: Arc<Line>, settings: RedisSettings) {
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
