//! Replaces connections that are open but useless.
//!
//! Two tasks: one proves that published pushes are received ([`watch_delivery`]), the other that the server is the primary, and
//! takes writes ([`watch_server`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, timeout};

use super::line::Line;
use super::listen::Listener;
use super::problems::{is_primary, serves};
use super::publish_queue::PublishQueue;
use super::settings::RedisSettings;
use crate::metrics;

/// After this many canary intervals without a proof, all connections are replaced.
const UNPROVEN_INTERVALS: u32 = 5;

/// The part whose problem is a refused write.
const WRITES: &str = "writes";

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
        metrics::BUS_SILENCE_SECONDS.set(silence.as_secs_f64());

        // A connection that has not had the time to prove itself is kept.
        let youngest = listener.line.since().max(publishing.since());
        let connected = listener.line.since().is_some() && publishing.since().is_some();
        let longest = interval * UNPROVEN_INTERVALS;
        if connected && silence > longest && youngest.is_some_and(|at| at.elapsed() > longest) {
            metrics::BUS_WEDGED.increment(1);
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

/// Asks for the server's role on every connection, and writes on the one for commands, until the future is dropped.
pub(super) async fn watch_server(
    listener: Arc<Listener>,
    publishing: Arc<Line>,
    commands: Arc<Line>,
    settings: RedisSettings,
) {
    let key = listener.names.canary(&listener.origin);
    let mut ticks = tokio::time::interval(settings.canary_interval.0);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tokio::join!(
            watch_role(&listener.line, settings.timeout.0),
            watch_role(&publishing, settings.timeout.0),
            watch_writes(&commands, &key, &settings),
        );
    }
}

/// Gives up the connection to a server that has become a replica. Whether a silent server is given up is what canaries decide.
async fn watch_role(line: &Line, longest: Duration) {
    let Some(mut live) = line.current() else {
        return;
    };
    if let Ok(Err(problem)) = timeout(longest, is_primary(&mut live.connection)).await
        && problem.is_replica()
    {
        line.failed(problem);
        line.lose(live.generation);
    }
}

/// Writes `key`. Gives up a connection on which no answer comes, or a replica's; one to a primary that refuses the write, as at
/// its memory limit, is kept, as it may still read. A command that times out does not replace the connection: its answer may
/// only be large.
async fn watch_writes(line: &Line, key: &str, settings: &RedisSettings) {
    let Some(mut live) = line.current() else {
        return line.problems.clear(WRITES); // the line says why it has no connection
    };
    let asked = serves(&mut live.connection, key, settings.lease.0);
    match timeout(settings.timeout.0, asked).await {
        Ok(Ok(())) => line.problems.clear(WRITES),
        Ok(Err(problem)) => {
            if problem.is_replica() || problem.is_absence() {
                line.lose(live.generation);
            }
            line.problems.note(WRITES, problem);
        }
        Err(_) => line.lose(live.generation),
    }
}
