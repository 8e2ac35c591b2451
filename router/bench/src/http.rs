//! An HTTP/1.1 client that costs next to nothing: one keep-alive connection, one request at a time, requests as ready
//! bytes, answers left in the buffer they arrived in.
//!
//! A general client costs as much processor time as the router it would measure, on the same two cores. This one
//! does what a benchmark needs and refuses the rest with an error: an answer has a `content-length`, or only its size is read.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most headers of an answer.
const MAX_HEADERS: usize = 32;
/// Most bytes of an answer, head and body.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// What the buffer starts with: a full page of history fits.
const BUFFER_BYTES: usize = 128 << 10;

/// A keep-alive connection. It has no deadline of its own: whoever drives it bounds the whole phase.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, as long as the connection is not used again.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: &'a [u8],
}

/// Where the parts of an answer are in the buffer.
struct Head {
    status: u16,
    head_bytes: usize,
    body: BodyLength,
}

/// How the end of a body is known.
enum BodyLength {
    Bytes(usize),
    /// By its last chunk, which is empty.
    Chunked,
}

/// The last chunk of a body that comes in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Connection {
    /// Connects to `address`.
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Writes `request`, the bytes of a whole request, and reads its answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is not one this client understands. The connection is of no use then.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        let (head, filled) = self.ask(request).await?;
        let BodyLength::Bytes(bytes) = head.body else {
            bail!("the answer has a transfer-encoding; only its size can be read");
        };
        self.read_body(&head, bytes, filled).await?;
        Ok(Answer {
            status: head.status,
            body: &self.buffer[head.head_bytes..head.head_bytes + bytes],
        })
    }

    /// Writes `request` and reads its answer, which may come in chunks; gives its status and the bytes of its body.
    ///
    /// # Errors
    /// As for [`Connection::exchange`].
    pub async fn weigh(&mut self, request: &[u8]) -> Result<(u16, usize)> {
        let (head, mut filled) = self.ask(request).await?;
        if let BodyLength::Bytes(bytes) = head.body {
            self.read_body(&head, bytes, filled).await?;
            return Ok((head.status, bytes));
        }
        while !self.buffer[head.head_bytes..filled].ends_with(LAST_CHUNK) {
            filled += self.read_more(filled).await?;
        }
        Ok((head.status, filled - head.head_bytes))
    }

    /// Writes `request` and reads the head of its answer; gives it, and how much was read.
    async fn ask(&mut self, request: &[u8]) -> Result<(Head, usize)> {
        self.stream
            .write_all(request)
            .await
            .context("cannot write the request")?;
        let mut filled = 0;
        loop {
            filled += self.read_more(filled).await?;
            if let Some(head) = parse_head(&self.buffer[..filled])? {
                return Ok((head, filled));
            }
        }
    }

    async fn read_body(&mut self, head: &Head, bytes: usize, mut filled: usize) -> Result<()> {
        let end = head.head_bytes + bytes;
        ensure!(
            end <= MAX_ANSWER_BYTES,
            "an answer of {end} bytes is too large"
        );
        while filled < end {
            filled += self.read_more(filled).await?;
        }
        ensure!(filled == end, "{} bytes follow the answer", filled - end);
        Ok(())
    }

    async fn read_more(&mut self, filled: usize) -> Result<usize> {
        if filled == self.buffer.len() {
            ensure!(
                filled < MAX_ANSWER_BYTES,
                "an answer is longer than {MAX_ANSWER_BYTES} bytes"
            );
            self.buffer.resize(filled * 2, 0);
        }
        match self
            .stream
            .read(&mut self.buffer[filled..])
            .await
            .context("cannot read the answer")?
        {
            0 => bail!("the server closed the connection before its answer was complete"),
            n => Ok(n),
        }
    }
}

/// The head of the answer that starts `bytes`; `None` while it is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response
        .parse(bytes)
        .context("the answer is not HTTP/1.1")?
    else {
        return Ok(None);
    };
    let status = response.code.context("the answer has no status")?;
    let mut body = None;
    for header in response.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value)?.trim();
            let bytes = length.parse();
            let bytes = bytes.with_context(|| format!("`{length}` is not a content-length"))?;
            body = Some(BodyLength::Bytes(bytes));
        }
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            ensure!(
                header.value == b"chunked",
                "the transfer-encoding of the answer is not known"
            );
            body = Some(BodyLength::Chunked);
        }
    }
    let bodiless = status == 204 || status == 304;
    let body = match body {
        Some(body) => body,
        None if bodiless => BodyLength::Bytes(0),
        None => bail!("the answer has neither a content-length nor a status without a body"),
    };
    Ok(Some(Head {
        status,
        head_bytes,
        body,
    }))
}

/// The bytes of a request of `bearer`, with a JSON body when there is one.
#[must_use]
pub fn request(method: &str, path: &str, bearer: &str, body: Option<&str>) -> Vec<u8> {
    let mut bytes = head(method, path, bearer, body.is_some());
    match body {
        Some(body) => finish_with_body(&mut bytes, body.as_bytes()),
        None => bytes.extend_from_slice(b"\r\n"),
    }
    bytes
}

/// The head of a request, without the empty line that ends it; with `has_body`, [`finish_with_body`] must follow.
#[must_use]
pub fn head(method: &str, path: &str, bearer: &str, has_body: bool) -> Vec<u8> {
    let content_type = if has_body {
        "content-type: application/json\r\n"
    } else {
        ""
    };
    format!("{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {bearer}\r\n{content_type}").into_bytes()
}

/// Ends the head in `bytes` and appends `body`.
pub fn finish_with_body(bytes: &mut Vec<u8>, body: &[u8]) {
    bytes.extend_from_slice(b"content-length: ");
    push_decimal(bytes, body.len() as u64);
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(body);
}

/// The start of an answer's body, for an error's text.
#[must_use]
pub fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned()
}

/// Appends `number` in decimal, without allocating.
pub fn push_decimal(bytes: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    bytes.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::Query;
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::IntoResponse;
    use axum::routing::{get, post};
    use tokio::task::JoinSet;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Size {
        bytes: usize,
    }

    /// A server on a free port, for as long as the set lives.
    async fn serve(tasks: &mut JoinSet<()>) -> SocketAddr {
        let echo = |headers: HeaderMap, body: Bytes| async move {
            let caller = headers["authorization"].to_str().unwrap().to_owned();
            (StatusCode::CREATED, [("x-caller", caller)], body)
        };
        let large = |Query(size): Query<Size>| async move { vec![b'x'; size.bytes] };
        let streamed = || async {
            axum::body::Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(
                "x",
            )]))
            .into_response()
        };
        let app = Router::new()
            .route("/echo", post(echo))
            .route("/large", get(large))
            .route("/streamed", get(streamed))
            .route("/nothing", get(|| async { StatusCode::NO_CONTENT }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
        address
    }

    #[tokio::test]
    async fn answers_are_read_whole_on_one_connection() {
        let mut tasks = JoinSet::new();
        let mut connection = Connection::open(serve(&mut tasks).await).await.unwrap();
        for n in 0..100 {
            let body = format!("{{\"n\":{n}}}");
            let answer = connection
                .exchange(&request("POST", "/echo", "token", Some(&body)))
                .await
                .unwrap();
            assert_eq!((answer.status, answer.body), (201, body.as_bytes()));
        }
        for bytes in [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * BUFFER_BYTES] {
            let path = format!("/large?bytes={bytes}");
            let answer = connection
                .exchange(&request("GET", &path, "token", None))
                .await
                .unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, bytes));
        }
        let answer = connection
            .exchange(&request("GET", "/nothing", "token", None))
            .await
            .unwrap();
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        let answer = connection
            .exchange(&request("GET", "/unknown", "token", None))
            .await
            .unwrap();
        assert_eq!(answer.status, 404);
    }

    #[tokio::test]
    async fn an_answer_without_a_length_is_refused() {
        let mut tasks = JoinSet::new();
        let mut connection = Connection::open(serve(&mut tasks).await).await.unwrap();
        let error = connection
            .exchange(&request("GET", "/streamed", "token", None))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("transfer-encoding"), "{error}");
        let mut connection = Connection::open(serve(&mut tasks).await).await.unwrap();
        for _ in 0..2 {
            let streamed = request("GET", "/streamed", "token", None);
            let (status, bytes) = connection.weigh(&streamed).await.unwrap();
            assert_eq!((status, bytes), (200, "1\r\nx\r\n0\r\n\r\n".len()));
        }
    }

    #[tokio::test]
    async fn a_server_that_goes_away_is_an_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connection = Connection::open(address).await.unwrap();
        drop(listener.accept().await.unwrap());
        assert!(
            connection
                .exchange(b"GET / HTTP/1.1\r\n\r\n")
                .await
                .is_err()
        );
        drop(listener);
        assert!(Connection::open(address).await.is_err());
    }

    #[test]
    fn decimals() {
        for n in [0, 7, 10, 12_345, u64::MAX] {
            let mut bytes = Vec::new();
            push_decimal(&mut bytes, n);
            assert_eq!(bytes, n.to_string().into_bytes());
        }
    }
}
