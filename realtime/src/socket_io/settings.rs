//! The configuration of Engine.IO.

use std::time::Duration;

use engineioxide::TransportType;
use engineioxide::config::EngineIoConfig;

use crate::edge::AUTHENTICATE_WITHIN;
use crate::settings::RealtimeSettings;

/// The path of Socket.IO.
pub const PATH: &str = "/socket.io";
/// Most packets that Engine.IO holds for one connection. The others wait in the session's queue, which is bounded in bytes.
const BUFFERED_PACKETS: usize = 16;
/// Bytes of the read buffer; a longer frame has a longer one while it is read.
const READ_BUFFER: usize = 2048;
/// How long a client may take to upgrade its connection to WebSocket.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The least size of a long-polling body: several packets travel in one.
const MIN_PAYLOAD: usize = 100_000;

/// The configuration of Engine.IO.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The time between two pings of the server.
    pub ping_interval: Duration,
    /// How long a client may take to answer one.
    pub ping_timeout: Duration,
    /// Longest body of a long-polling request, and longest frame, in bytes.
    pub max_payload: usize,
    /// How long a connection may be in no namespace.
    pub connect_timeout: Duration,
    /// Whether long polling is served.
    pub long_polling: bool,
}

impl Settings {
    /// The configuration of a deployment.
    #[must_use]
    pub fn of(settings: &RealtimeSettings) -> Self {
        Self {
            ping_interval: settings.heartbeat.0,
            ping_timeout: PING_TIMEOUT,
            max_payload: settings.max_frame.max(MIN_PAYLOAD),
            connect_timeout: AUTHENTICATE_WITHIN,
            long_polling: settings.long_polling,
        }
    }

    /// The same for `engineioxide`.
    #[must_use]
    pub fn engine(&self) -> EngineIoConfig {
        let builder = EngineIoConfig::builder()
            .req_path(PATH)
            .ping_interval(self.ping_interval)
            .ping_timeout(self.ping_timeout)
            .upgrade_timeout(UPGRADE_TIMEOUT)
            .max_buffer_size(BUFFERED_PACKETS)
            .max_payload(self.max_payload as u64)
            .ws_read_buffer_size(READ_BUFFER)
            .ws_max_message_size(self.max_payload)
            .ws_max_frame_size(self.max_payload);
        if self.long_polling {
            builder.transports([TransportType::Polling, TransportType::Websocket])
        } else {
            builder.transports([TransportType::Websocket])
        }
        .build()
    }
}
