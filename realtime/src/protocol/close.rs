//! The reasons for which the server closes a connection: one table of their codes, names and meanings.

macro_rules! closes {
    ($($(#[doc = $doc:literal])+ $close:ident = $code:literal, $name:literal;)+) => {
        /// The reason for which the server closes a connection. Below 4500 the client reconnects and resumes; from 4500 on it does
        /// not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Close {
            $($(#[doc = $doc])+ $close,)+
        }

        impl Close {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$close,)+];

            /// The WebSocket close code.
            #[must_use]
            pub fn code(self) -> u16 {
                match self { $(Self::$close => $code,)+ }
            }

            /// The name of the reason.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$close => $name,)+ }
            }

            /// The meaning of the reason.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$close => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

closes! {
    /// The node stops. Reconnect to another.
    ShuttingDown = 4000, "shutting_down";
    /// The server failed.
    Internal = 4001, "internal";
    /// The client sent nothing for too long.
    Idle = 4002, "idle";
    /// The client does not read fast enough.
    SlowConsumer = 4008, "slow_consumer";
    /// The client sent too many commands for too long.
    RateLimited = 4029, "rate_limited";
    /// The client presented no token in time.
    Unauthenticated = 4500, "unauthenticated";
    /// The token has expired. Get a new one first.
    TokenExpired = 4501, "token_expired";
    /// The token is invalid, or another user's.
    TokenInvalid = 4502, "token_invalid";
    /// A frame breaks the protocol.
    InvalidFrame = 4503, "invalid_frame";
    /// A frame was larger than allowed.
    FrameTooLarge = 4504, "frame_too_large";
    /// This user, or this address, has too many connections.
    TooManyConnections = 4505, "too_many_connections";
}

impl Close {
    /// Whether the client must not reconnect by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        self.code() >= 4500
    }
}
