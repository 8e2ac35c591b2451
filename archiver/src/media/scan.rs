//! Virus scans of uploads by clamd, whose command `INSTREAM` takes a file in pieces over TCP or a Unix socket.
//!
//! A file is accepted only if clamd has received all of it and has found nothing. While clamd does not answer, uploads are not
//! completed, unless `media.scan_required` is off. A file that is larger than `media.scan_bytes`, or than clamd's own
//! `StreamMaxLength`, counts as not scanned. INV-BOUND: a scan ends within `media.scan_time` from its beginning, with all its
//! connecting, writing and reading; a piece is at most what the gate reads at once, an answer at most [`ANSWER_BYTES`].
//!
//! A crash leaves a connection that clamd closes.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::settings::MediaSettings;
use crate::metrics;

/// Most bytes of clamd's answer.
const ANSWER_BYTES: u64 = 4096;
/// Longest time for clamd's answer to a ping.
const PING: Duration = Duration::from_secs(5);

/// Where clamd listens: `tcp://HOST:PORT` or `unix:///PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ClamdAddress {
    /// A host and a port.
    Tcp(String),
    /// A socket's path.
    Unix(PathBuf),
}

impl TryFrom<String> for ClamdAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if let Some(path) = text.strip_prefix("unix://")
            && path.starts_with('/')
        {
            return Ok(Self::Unix(path.into()));
        }
        let address = text.strip_prefix("tcp://");
        let parts = address.and_then(|address| address.rsplit_once(':'));
        match parts {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => Err("is not an address as tcp://127.0.0.1:3310 or unix:///run/clamav/clamd.ctl"),
        }
    }
}

impl From<ClamdAddress> for String {
    fn from(address: ClamdAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for ClamdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// Nothing.
    Clean,
    /// This, by clamd's name for it.
    Infected(String),
    /// The file has too many bytes: clamd has not received all of them.
    TooLarge,
}

/// Scans files, if a scanner is configured.
#[derive(Clone, Debug)]
pub struct Scanner {
    address: Option<ClamdAddress>,
    time: Duration,
    most_bytes: u64,
    /// Whether only files that were scanned are accepted.
    pub(super) is_required: bool,
}

impl Scanner {
    /// As the settings say.
    #[must_use]
    pub fn new(settings: &MediaSettings) -> Self {
        Self {
            address: settings.clamd.clone(),
            time: settings.scan_time.0,
            most_bytes: settings.scan_bytes,
            is_required: settings.scan_required,
        }
    }

    /// Whether clamd answers; `None` where none is configured.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Option<io::Result<()>> {
        let address = self.address.as_ref()?;
        let ask = async {
            let mut stream = connect(address).await?;
            stream.write_all(b"zPING\0").await?;
            match answer(&mut stream).await?.as_str() {
                "PONG" => Ok(()),
                other => Err(unexpected(other)),
            }
        };
        Some(in_time(Instant::now() + PING, ask).await)
    }

    /// Begins the scan of a file of so many bytes. [`Scan::finish`] reports a failure.
    pub(super) async fn begin(&self, bytes: u64) -> Scan {
        let Some(address) = &self.address else {
            return Scan::Off;
        };
        if bytes > self.most_bytes {
            return Scan::TooLarge;
        }
        let deadline = Instant::now() + self.time;
        let begin = async {
            let mut stream = connect(address).await?;
            stream.write_all(b"zINSTREAM\0").await?;
            Ok(stream)
        };
        let stream = in_time(deadline, begin).await;
        Scan::Running(deadline, stream.map_err(Ended::Failed))
    }
}

/// The end of a scan before the end of its file.
#[derive(Debug)]
pub(super) enum Ended {
    /// clamd has answered, and takes no more.
    Answered(String),
    /// The connection has failed, or the time is over.
    Failed(io::Error),
}

/// A file that is being scanned.
pub(super) enum Scan {
    /// No scanner is configured.
    Off,
    /// The file has more than `media.scan_bytes`.
    TooLarge,
    /// The deadline, and the connection or the end of the scan.
    Running(Instant, Result<Box<dyn Stream>, Ended>),
}

impl Scan {
    /// The next bytes of the file, fewer than 4 GiB.
    pub(super) async fn feed(&mut self, piece: &[u8]) {
        let Self::Running(deadline, stream) = self else {
            return;
        };
        let (Ok(connection), false) = (&mut *stream, piece.is_empty()) else {
            return; // a piece of no bytes is the end
        };
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let sent = in_time(*deadline, async {
            connection.write_all(&length.to_be_bytes()).await?;
            connection.write_all(piece).await
        });
        if let Err(error) = sent.await {
            // clamd gives its reason, and closes the connection.
            *stream = Err(match in_time(*deadline, answer(connection)).await {
                Ok(reason) => Ended::Answered(reason),
                Err(_) => Ended::Failed(error),
            });
        }
    }

    /// The result of the scan; `None` where no scanner is configured.
    ///
    /// # Errors
    /// When clamd does not answer in time, or has not scanned the file.
    pub(super) async fn finish(self) -> Option<io::Result<Scanned>> {
        let scanned = match self {
            Self::Off => return None,
            Self::TooLarge => Ok(Scanned::TooLarge),
            Self::Running(_, Err(Ended::Failed(error))) => Err(error),
            Self::Running(_, Err(Ended::Answered(early))) => match meaning(&early) {
                // It has not received all of the file.
                Ok(Scanned::Clean) => Err(unexpected(&early)),
                other => other,
            },
            Self::Running(deadline, Ok(mut stream)) => {
                let end = async {
                    // Where clamd has closed the connection, its answer can still be read.
                    let ended = stream.write_all(&[0; 4]).await;
                    match meaning(&answer(&mut stream).await?) {
                        Ok(Scanned::Clean) => ended.map(|()| Scanned::Clean),
                        other => other,
                    }
                };
                in_time(deadline, end).await
            }
        };
        let outcome = match &scanned {
            Ok(Scanned::Clean) => "clean",
            Ok(Scanned::Infected(_)) => "infected",
            Ok(Scanned::TooLarge) => "too_large",
            Err(_) => "failed",
        };
        metrics::MEDIA_SCANNED.with([outcome]).increment(1);
        Some(scanned)
    }
}

fn meaning(answer: &str) -> io::Result<Scanned> {
    let found = answer.strip_prefix("stream: ");
    if found == Some("OK") {
        return Ok(Scanned::Clean);
    }
    if let Some(name) = found.and_then(|found| found.strip_suffix(" FOUND")) {
        return Ok(Scanned::Infected(name.to_owned()));
    }
    if answer.starts_with("INSTREAM size limit exceeded") {
        return Ok(Scanned::TooLarge);
    }
    Err(unexpected(answer))
}

fn unexpected(answer: &str) -> io::Error {
    io::Error::other(format!("clamd answers {answer:?}"))
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(address: &ClamdAddress) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        ClamdAddress::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        ClamdAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// The answer, up to its zero.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] for a connection that is closed before, or an answer without an end.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut answer = Vec::new();
    let mut stream = BufReader::new(stream).take(ANSWER_BYTES);
    stream.read_until(0, &mut answer).await?;
    match answer.pop() {
        Some(0) => Ok(String::from_utf8_lossy(&answer).trim().to_owned()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout_at(deadline, work).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests;
