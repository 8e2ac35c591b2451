//! The metrics of sessions and of the bus between nodes.

backscroll_shard::metric_table! {
    Gauge SESSIONS = "backscroll_realtime_sessions" [] Count,
        "Sessions that are open on this node.";
    Gauge TOPICS = "backscroll_realtime_topics" [] Count,
        "Conversations, lists and users that sessions of this node listen to.";
    Counter CONNECTS = "backscroll_realtime_connects_total" [outcome] Count,
        "Sessions opened: `fresh`, `recovered` (resumed, with all that was missed) or `resync` (resumed, and the client has to load something).";
    Counter REFUSED = "backscroll_realtime_refused_total" [reason] Count,
        "Connections refused: `draining`, `full`, `address` (too many of one address), or the code of the error that authentication ended with.";
    Counter CLOSED = "backscroll_realtime_closed_total" [reason] Count,
        "Connections that this node closed, by the name of the close code.";
    Histogram COMMAND_SECONDS = "backscroll_realtime_command_seconds" [] Seconds,
        "Time of a command, from its arrival to its answer.";
    Counter COMMAND_FAILURES = "backscroll_realtime_command_failures_total" [command, code] Count,
        "Commands that were answered with an error, by the name of the command (`unknown` for none) and the code of the error.",
        alert "a rise of `code=\"internal\"`";
    Counter EVENTS = "backscroll_realtime_events_total" [] Count,
        "Events handed to the connections of sessions: new messages and everything else that clients receive unasked.";
    Counter RATE_LIMITED = "backscroll_realtime_rate_limited_total" [] Count,
        "Commands refused because their session sent more than its rate allows.";
    Histogram PUSH_LAG_SECONDS = "backscroll_realtime_push_lag_seconds" [] Seconds,
        "Time from the publication of a push to its delivery to the sessions of this node.",
        alert "a 99 % quantile above one second";
    Counter DROPPED = "backscroll_realtime_dropped_total" [] Count,
        "Pushes that found no room in the queue of their worker; the audit finds what they carried.";
    Counter GAPS = "backscroll_realtime_gaps_total" [] Count,
        "Topics that the audit found behind their log: pushes were lost.",
        alert "a steady rise";
    Counter HEALS = "backscroll_realtime_heals_total" [topic] Count,
        "Reads of changes that no push brought, by topic: `conversation` or `list`.";
    Counter FILLS = "backscroll_realtime_fills_total" [from] Count,
        "Reads of changes that sessions missed while they were away, from the bus's `window` or from the `log`.";
    Counter RESYNCS = "backscroll_realtime_resyncs_total" [] Count,
        "Events `resync`: a client has to load a conversation or its list anew.";
    Counter MERGED = "backscroll_realtime_merged_total" [] Count,
        "Events that took the place of an older one in the queue of a slow client: states (typing, presence, receipts), and later changes of the same message or list entry.";
    Counter DROPPED_STATES = "backscroll_realtime_dropped_states_total" [] Count,
        "States (typing, receipts) that were dropped for a slow client.";
    Counter SLOW_CONSUMERS = "backscroll_realtime_slow_consumers_total" [] Count,
        "Sessions closed because their queue was full.",
        alert "a steady rise";
    Counter BUS_PUBLISHED = "backscroll_bus_published_total" [] Count,
        "Pushes sent to Redis, also those that it refused.";
    Counter BUS_RECEIVED = "backscroll_bus_received_total" [] Count,
        "Pushes of other nodes received from Redis.";
    Counter BUS_UNDECODABLE = "backscroll_bus_undecodable_total" [] Count,
        "Messages from Redis that cannot be read: another program, or a newer version, publishes on the same channels.",
        alert "any rise when no version is being changed";
    Counter BUS_DROPPED = "backscroll_bus_dropped_total" [reason] Count,
        "Pushes that were not published, or perhaps not: `full` (no room in the queue), `closed` (the node is ending), `away` (no Redis), `late` (no answer in time), `refused` (Redis answered with an error).",
        alert "a steady rise";
    Gauge BUS_SILENCE_SECONDS = "backscroll_bus_silence_seconds" [] Seconds,
        "Time since a push that this node published to itself was last proven to arrive.",
        alert "above 6";
    Histogram BUS_ROUND_TRIP_SECONDS = "backscroll_bus_round_trip_seconds" [] Seconds,
        "Time from the publication of such a push to its arrival.";
    Counter BUS_CONNECTS = "backscroll_bus_connects_total" [line] Count,
        "Connections to Redis that were made, by what they are for.";
    Counter BUS_CONNECT_FAILURES = "backscroll_bus_connect_failures_total" [line] Count,
        "Attempts to connect to Redis that failed, and connections that were lost because of an error, by what they are for.";
    Counter BUS_WEDGED = "backscroll_bus_wedged_total" [] Count,
        "Times that all connections to Redis were replaced because they were open, but pushes did not arrive.",
        alert "any rise";
    Counter BUS_PROBLEMS = "backscroll_bus_problems_total" [kind] Count,
        "Problems with Redis: `credentials`, `permission`, `replica`, `memory`, `other` (it refused), or `unreachable`.",
        alert "a steady rise";
    Gauge BUS_SUBSCRIPTIONS = "backscroll_bus_subscriptions" [] Count,
        "Topics whose subscription Redis has confirmed.";
    Counter BUS_WINDOWS = "backscroll_bus_windows_total" [outcome] Count,
        "Reads of a conversation's latest changes from Redis: `found`, `unknown` (they are not all there) or `failed`.";
}
