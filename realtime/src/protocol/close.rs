//! Why the server ends a connection: one table for the codes, their names, and the documents.

macro_rules! closes {
    ($($(#[doc = $doc:literal])+ $close:ident = $code:literal, $name:literal;)+) => {
        /// Why the server ends a connection. Below 4500: reconnect and resume; from there on: do not.
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

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$close => $name,)+ }
            }

            /// What it means.
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
    /// Something failed here.
    Internal = 4001, "internal";
    /// Nothing was heard from the client for too long.
    Idle = 4002, "idle";
    /// The client does not read fast enough.
    SlowConsumer = 4008, "slow_consumer";
    /// Too many commands, for too long.
    RateLimited = 4029, "rate_limited";
    /// No token was given in time.
    Unauthenticated = 4500, "unauthenticated";
    /// The token has ended. Get a new one first.
    TokenExpired = 4501, "token_expired";
    /// The token is not valid, or another user's.
    TokenInvalid = 4502, "token_invalid";
    /// A frame was not of the form that the protocol has.
    InvalidFrame = 4503, "invalid_frame";
    /// A frame was larger than allowed.
    FrameTooLarge = 4504, "frame_too_large";
    /// This user, or this address, has too many connections.
    TooManyConnections = 4505, "too_many_connections";
}

impl Close {
    /// Whether the client is not to come back by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        self.code() >= 4500
    }
}
