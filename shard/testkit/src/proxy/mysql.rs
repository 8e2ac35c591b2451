//! The MySQL protocol, as far as it takes to answer a statement in the server's place.
//!
//! A packet is a length in three bytes, a number, and so many bytes. The packets of a command and of its answer are numbered
//! from 0, so a packet number 0 from the client is a command; those of the handshake come later. Other protocols pass
//! unchanged, as long as nothing is to be refused: <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Mode, Refused};

const HEADER: usize = 4;
const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;

/// An error as a MySQL or MariaDB server gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MySqlError {
    /// Its number, as 1290.
    pub number: u16,
    /// Its SQLSTATE, as `HY000`.
    pub state: &'static str,
}

impl MySqlError {
    /// The packet that says so.
    pub(super) fn packet(self, number_in_sequence: u8) -> Vec<u8> {
        let message = format!("#{}refused by the proxy of the test", self.state);
        let length = 3 + message.len();
        let mut packet = (length as u32).to_le_bytes()[..3].to_vec();
        packet.extend([number_in_sequence, 0xff]);
        packet.extend(self.number.to_le_bytes());
        packet.extend(message.as_bytes());
        packet
    }
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Commit,
    Other,
}

impl Kind {
    fn of(sql: &[u8]) -> Self {
        let verb: String = sql
            .iter()
            .take_while(|byte| byte.is_ascii_alphabetic())
            .map(|byte| byte.to_ascii_uppercase() as char)
            .collect();
        match verb.as_str() {
            "INSERT" | "UPDATE" | "DELETE" | "REPLACE" => Self::Write,
            "COMMIT" => Self::Commit,
            _ => Self::Other,
        }
    }
}

/// What both directions of a connection know.
#[derive(Default)]
struct Session {
    /// The statement that is being prepared.
    preparing: Option<Kind>,
    prepared: HashMap<u32, Kind>,
    /// The next answer is not forwarded.
    is_losing: bool,
}

/// Both directions of a new connection.
pub(super) fn session() -> (Requests, Answered) {
    let session = Arc::new(Mutex::new(Session::default()));
    let requests = Requests {
        session: session.clone(),
        begun: Vec::new(),
        passing: 0,
    };
    (requests, Answered { session })
}

/// Client to server.
pub(super) struct Requests {
    session: Arc<Mutex<Session>>,
    /// A packet that has not arrived as a whole; only while something may be refused.
    begun: Vec<u8>,
    /// So many bytes belong to a packet whose beginning was forwarded.
    passing: usize,
}

impl Requests {
    /// What of `bytes` is forwarded, and the answers to what is not.
    pub(super) fn sort(&mut self, bytes: &[u8], mode: Mode) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut forwarded, mut refusals) = (Vec::with_capacity(bytes.len()), Vec::new());
        let (passing, bytes) = bytes.split_at(self.passing.min(bytes.len()));
        self.passing -= passing.len();
        forwarded.extend(passing);
        self.begun.extend_from_slice(bytes);
        while let Some(packet) = self.next_packet() {
            let is_refused = self.is_refused(&packet, mode);
            match mode {
                Mode::Refuse { error, .. } if is_refused => refusals.push(error.packet(1)),
                _ => forwarded.extend(packet),
            }
        }
        if !matches!(mode, Mode::Refuse { .. }) {
            if let Some(end) = self.packet_end() {
                self.is_refused(&self.begun, mode); // takes note of it
                self.passing = end - self.begun.len();
            }
            forwarded.append(&mut self.begun);
        }
        (forwarded, refusals)
    }

    fn packet_end(&self) -> Option<usize> {
        let header = self.begun.get(..HEADER)?;
        let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        Some(HEADER + usize::try_from(length).ok()?)
    }

    fn next_packet(&mut self) -> Option<Vec<u8>> {
        let end = self.packet_end()?;
        (self.begun.len() >= end).then(|| self.begun.drain(..end).collect())
    }

    fn is_refused(&self, packet: &[u8], mode: Mode) -> bool {
        let (0, Some((command, rest))) = (packet[3], packet[HEADER..].split_first()) else {
            return false;
        };
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let what = match mode {
            Mode::Refuse { what, .. } => Some(what),
            _ => None,
        };
        let kind = match (*command, rest) {
            (COM_QUERY, sql) => Kind::of(sql),
            (COM_STMT_PREPARE, sql) => {
                session.preparing = Some(Kind::of(sql));
                return what == Some(Refused::Preparing);
            }
            (COM_STMT_EXECUTE, [a, b, c, d, ..]) => {
                let id = u32::from_le_bytes([*a, *b, *c, *d]);
                session.prepared.get(&id).copied().unwrap_or(Kind::Other)
            }
            _ => return false,
        };
        session.is_losing |= mode == Mode::LoseCommits && kind == Kind::Commit;
        match what {
            Some(Refused::Statements) => true,
            Some(Refused::Writes | Refused::WritesOfOpenSessions) => kind == Kind::Write,
            Some(Refused::Commits) => kind == Kind::Commit,
            _ => false,
        }
    }
}

/// Server to client.
pub(super) struct Answered {
    session: Arc<Mutex<Session>>,
}

impl Answered {
    /// Whether the connection ends instead of forwarding what comes now.
    pub(super) fn is_lost(&self) -> bool {
        let session = self.session.lock();
        session.unwrap_or_else(PoisonError::into_inner).is_losing
    }

    /// Learns the number of a statement that was prepared. Its answer begins a read: the server sends nothing unasked.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kind) = session.preparing.take() else {
            return;
        };
        if let [_, _, _, 1, 0, a, b, c, d, ..] = bytes {
            let id = u32::from_le_bytes([*a, *b, *c, *d]);
            session.prepared.insert(id, kind);
        }
    }
}
