//! The reasons for which the server closes a connection: one table of their codes, names and meanings, and of when the client
//! may come back.

use backscroll_shard::sanctions::{SanctionKind, Sanctioned};

/// When a client whose connection was closed may connect again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// At once, but for the jitter.
    AtOnce,
    /// After a wait that grows with every failure.
    Later,
    /// With a new token. The old one is refused again.
    NewToken,
    /// Not by itself: neither waiting nor a new token helps.
    Never,
}

impl Return {
    /// In the words of `PROTOCOL.md`.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::Later => "later",
            Self::NewToken => "with a new token",
            Self::Never => "never",
        }
    }
}

macro_rules! closes {
    ($($(#[doc = $doc:literal])+ $close:ident = $code:literal, $name:literal, $return:ident;)+) => {
        /// The reason for which the server closes a connection.
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

            /// When the client may come back.
            #[must_use]
            pub fn comes_back(self) -> Return {
                match self { $(Self::$close => Return::$return,)+ }
            }
        }
    };
}

closes! {
    /// The node stops. Reconnect to another.
    ShuttingDown = 4000, "shutting_down", AtOnce;
    /// The server failed.
    Internal = 4001, "internal", Later;
    /// The client sent nothing for too long.
    Idle = 4002, "idle", AtOnce;
    /// The client did not answer a ping, and a new connection of its user took its place.
    Replaced = 4003, "replaced", Later;
    /// The client does not read fast enough.
    SlowConsumer = 4008, "slow_consumer", AtOnce;
    /// The client sent too many commands for too long.
    RateLimited = 4029, "rate_limited", Later;
    /// The client presented no token in time.
    Unauthenticated = 4500, "unauthenticated", NewToken;
    /// The token has expired. Get a new one first.
    TokenExpired = 4501, "token_expired", NewToken;
    /// The token is invalid, or another user's.
    TokenInvalid = 4502, "token_invalid", NewToken;
    /// A frame breaks the protocol.
    InvalidFrame = 4503, "invalid_frame", Never;
    /// A frame was larger than allowed.
    FrameTooLarge = 4504, "frame_too_large", Never;
    /// This user has too many connections, and all of them are alive.
    TooManyConnections = 4505, "too_many_connections", Later;
    /// A moderator has shut the user out until a time.
    Suspended = 4506, "suspended", Later;
    /// A moderator has shut the user out.
    Banned = 4507, "banned", Never;
}

impl Close {
    /// For a user whom a sanction shuts out.
    #[must_use]
    pub fn of(sanctioned: &Sanctioned) -> Self {
        match sanctioned.kind {
            SanctionKind::Ban => Self::Banned,
            SanctionKind::Revoke => Self::TokenInvalid,
            SanctionKind::Suspend | SanctionKind::Mute => Self::Suspended,
        }
    }

    /// Whether a client library that knows nothing of tokens must not connect again by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self.comes_back(), Return::NewToken | Return::Never)
    }
}
