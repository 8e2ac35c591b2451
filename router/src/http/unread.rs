//! Answers that wait for their clients to read them, in bytes: bounded for each connection and for all of them (INV-BOUND).
//!
//! An answer is counted until its last bytes are handed to the connection, or until it is dropped. A large one is handed over in
//! pieces, so that the count says how much of it the client has not read, but for the buffers of the connection. Small answers
//! over HTTP/1 are not counted: there is one at a time, and the connection's write deadline ends it.
//!
//! After each piece of a large answer its connection gives way to other tasks: compressing a piece takes a thread that serves
//! everybody some tenths of a millisecond, all of an answer some milliseconds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use super::settings::ServerSettings;

/// The largest piece that is handed to a connection at once; an answer up to this size is small.
const PIECE_BYTES: usize = 32 << 10;
/// What an answer is taken for whose size is not known: it is made while it is read.
const STREAMED_BYTES: usize = 64 << 10;

/// The bounds of a process, and what waits on all of its connections.
#[derive(Debug)]
pub(crate) struct UnreadAnswers {
    connection_max: usize,
    max: usize,
    bytes: AtomicUsize,
}

impl UnreadAnswers {
    /// Nothing waits.
    pub(crate) fn new(settings: &ServerSettings) -> Arc<Self> {
        Arc::new(Self {
            connection_max: settings.unread_connection_bytes,
            max: settings.unread_bytes,
            bytes: AtomicUsize::new(0),
        })
    }

    /// Those of another connection.
    pub(crate) fn of_connection(self: &Arc<Self>) -> Arc<ConnectionAnswers> {
        Arc::new(ConnectionAnswers {
            all: Arc::clone(self),
            bytes: AtomicUsize::new(0),
            pieces: AtomicU64::new(0),
        })
    }
}

/// What waits on one connection.
#[derive(Debug)]
pub(crate) struct ConnectionAnswers {
    all: Arc<UnreadAnswers>,
    bytes: AtomicUsize,
    pieces: AtomicU64,
}

impl ConnectionAnswers {
    /// Whether another answer may be made on this connection. What waits on others decides of large answers only, in
    /// [`ConnectionAnswers::hold`]: nobody's client keeps others from what is small.
    pub(super) fn have_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < self.all.connection_max
    }

    /// Counts `response` until it was read; `false` when there is no room for it.
    pub(super) fn hold(self: &Arc<Self>, response: &mut Response, is_http1: bool) -> bool {
        let size = response.body().size_hint();
        let bytes = match size.exact() {
            Some(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
            None => STREAMED_BYTES,
        };
        if bytes == 0 || (is_http1 && bytes <= PIECE_BYTES) {
            return true;
        }
        let bytes = bytes.min(self.all.connection_max);
        let most = match bytes <= PIECE_BYTES {
            true => usize::MAX, // what a connection holds of these is bounded by its own share
            false => self.all.max,
        };
        if !take(&self.all.bytes, bytes, most) {
            return false;
        }
        let held = Held {
            answers: Arc::clone(self),
            bytes,
        };
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting + bytes > self.all.connection_max {
            return false;
        }
        let inner = std::mem::take(response.body_mut());
        *response.body_mut() = Body::new(HeldBody {
            inner,
            rest: Bytes::new(),
            gives_way: false,
            _held: held,
        });
        true
    }

    /// How many pieces were taken by the connection while others wait; none while nothing waits.
    pub(crate) fn progress(&self) -> Option<u64> {
        let waits = self.bytes.load(Ordering::Relaxed) > 0;
        waits.then(|| self.pieces.load(Ordering::Relaxed))
    }
}

fn take(bytes: &AtomicUsize, more: usize, max: usize) -> bool {
    let take = |held: usize| held.checked_add(more).filter(|held| *held <= max);
    bytes
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .is_ok()
}

/// Bytes that are counted until this is dropped.
struct Held {
    answers: Arc<ConnectionAnswers>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.answers.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.answers
            .all
            .bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body that is handed over in pieces.
struct HeldBody {
    inner: Body,
    /// Of a large frame what was not handed over yet.
    rest: Bytes,
    /// A piece was handed over, and there is more.
    gives_way: bool,
    _held: Held,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if std::mem::take(&mut self.gives_way) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return other,
            }
        }
        self._held.answers.pieces.fetch_add(1, Ordering::Relaxed);
        let piece = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(piece);
        self.gives_way = !self.rest.is_empty();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.inner.size_hint();
        let mut size = SizeHint::new();
        size.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            size.set_upper(upper + rest);
        }
        size
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn connection(connection_max: usize, max: usize) -> Arc<ConnectionAnswers> {
        UnreadAnswers::new(&ServerSettings {
            unread_connection_bytes: connection_max,
            unread_bytes: max,
            ..ServerSettings::default()
        })
        .of_connection()
    }

    fn answer(bytes: usize) -> Response {
        Response::new(Body::from(vec![b'x'; bytes]))
    }

    #[tokio::test]
    async fn an_answer_counts_until_it_was_read() {
        let connection = connection(200_000, 300_000);
        assert!(connection.have_room() && connection.progress().is_none());
        let mut first = answer(150_000);
        assert!(connection.hold(&mut first, true));
        assert_eq!(first.body().size_hint().exact(), Some(150_000));
        assert!(!connection.hold(&mut answer(100_000), false));
        assert_eq!(connection.progress(), Some(0));
        let mut body = first.into_body();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            read.push(frame.unwrap().into_data().unwrap().len());
        }
        assert_eq!(read, [32_768, 32_768, 32_768, 32_768, 18_928]);
        assert_eq!(connection.progress(), Some(5));
        drop(body);
        assert_eq!(connection.progress(), None);
        assert!(connection.hold(&mut answer(100_000), false));
    }

    #[tokio::test]
    async fn a_large_answer_gives_way_after_each_piece() {
        let mut response = answer(100_000);
        assert!(connection(200_000, 300_000).hold(&mut response, true));
        let mut body = response.into_body();
        let mut ready = Vec::new();
        loop {
            match futures_util::poll!(body.frame()) {
                Poll::Ready(Some(_)) => ready.push(true),
                Poll::Ready(None) => break,
                Poll::Pending => ready.push(false),
            }
        }
        assert_eq!(ready, [true, false, true, false, true, false, true]);
    }

    #[tokio::test]
    async fn connections_share_a_bound() {
        let first = connection(200_000, 300_000);
        let second = first.all.of_connection();
        let (mut a, mut b) = (answer(200_000), answer(150_000));
        assert!(first.hold(&mut a, false) && !first.have_room());
        assert!(second.have_room() && !second.hold(&mut b, false));
        drop(a);
        assert!(second.hold(&mut b, false));
        // Larger than a connection may hold: it is counted as much as that.
        let mut huge = answer(1_000_000);
        drop(b);
        assert!(second.hold(&mut huge, true));
        // A small one over HTTP/1 has no need.
        assert!(second.hold(&mut answer(PIECE_BYTES), true));
        assert!(!second.hold(&mut answer(PIECE_BYTES), false));
    }
}
