//! What a test runs on.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use backscroll_archiver::object_store::faults::Faults;
use backscroll_archiver::object_store::{
    ObjectKey, ObjectStore, ObjectStoreSettings, SignedAnswer, StoreKind, compose,
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A store with nothing in it, with all layers around it, and with faults to plan below them.
pub(crate) struct Bed {
    pub(crate) settings: ObjectStoreSettings,
    pub(crate) backend: Arc<dyn ObjectStore>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) faults: Faults,
    /// A prefix of a key that ends before a slash reads as an object of its own.
    pub(crate) folders_are_objects: bool,
    /// What comes before addresses that are paths.
    pub(crate) public: String,
    _kept: Box<dyn Any + Send + Sync>,
}

impl Bed {
    /// On `backend`, which needs that `kept` lives.
    pub(crate) fn around(
        backend: Arc<dyn ObjectStore>,
        settings: ObjectStoreSettings,
        kept: impl Any + Send + Sync,
    ) -> Self {
        assert_eq!(settings.check(), []);
        let (faulty, faults) = Faults::around(Arc::clone(&backend));
        Self {
            store: compose(faulty, &settings),
            settings,
            backend,
            faults,
            folders_are_objects: false,
            public: String::new(),
            _kept: Box::new(kept),
        }
    }

    pub(crate) fn is_disk(&self) -> bool {
        self.settings.kind == StoreKind::Disk
    }

    /// What a signed address is answered.
    pub(crate) async fn ask(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Answer {
        let url = match url.starts_with('/') {
            true => format!("{}{url}", self.public),
            false => url.to_owned(),
        };
        let (host, path) = url
            .strip_prefix("http://")
            .unwrap()
            .split_once('/')
            .unwrap();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let mut head =
            format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses does not read the body.
        let _ = stream.write_all(body).await;
        let declared = headers.iter().find(|(name, _)| name == "content-length");
        if declared.is_some_and(|(_, bytes)| bytes.parse::<usize>().unwrap() > body.len()) {
            return Answer::parse(b""); // the client goes away
        }
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response).await;
        Answer::parse(&response)
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(response: &[u8]) -> Self {
        let end = response.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = response.split_at(end.unwrap_or(response.len()));
        let head = String::from_utf8(head.to_vec()).unwrap();
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head,
            body: body.get(4..).unwrap_or_default().to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(it, _)| it.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Plain text.
pub(crate) const PLAIN: SignedAnswer<'static> = SignedAnswer {
    content_type: "text/plain",
    disposition: "inline",
};

/// The defaults, with parts as small as S3 takes them.
pub(crate) fn quick() -> ObjectStoreSettings {
    ObjectStoreSettings {
        part_size: 5 << 20,
        ..ObjectStoreSettings::default()
    }
}

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Content that no two places of are alike.
pub(crate) fn content(size: usize) -> Bytes {
    (0u64..)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(size)
        .collect::<Vec<u8>>()
        .into()
}

/// What a GET of `url` from the server at `address` is answered, head and body.
pub(crate) async fn http_get(address: SocketAddr, url: &str) -> String {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}
