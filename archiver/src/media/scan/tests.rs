//! Servers that speak clamd's protocol.

use backscroll_shard::settings::Span;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::*;

/// Most bytes that the server takes, as `StreamMaxLength`.
const LIMIT: usize = 100_000;

/// Answers one scan, by what it reads.
async fn serve(mut stream: impl Stream) -> io::Result<()> {
    let mut command = vec![0; 10];
    stream.read_exact(&mut command).await?;
    assert_eq!(command, b"zINSTREAM\0");
    let mut content = Vec::new();
    loop {
        let length = stream.read_u32().await?;
        if length == 0 {
            break;
        }
        let mut piece = vec![0; length as usize];
        stream.read_exact(&mut piece).await?;
        content.extend(piece);
        if content.starts_with(b"early") {
            return stream.write_all(b"stream: OK\0").await;
        }
        if content.len() > LIMIT {
            return stream
                .write_all(b"INSTREAM size limit exceeded. ERROR\0")
                .await;
        }
    }
    let said: &[u8] = match &content[..] {
        [b'v', ..] => b"stream: Eicar-Signature FOUND\0",
        [b'?', ..] => b"stream: Can't allocate memory ERROR\0",
        [b's', ..] => std::future::pending().await,
        [b'e', ..] => return Ok(()),
        [b'l', ..] => &[b'a'; 9000],
        _ => b"stream: OK\0",
    };
    stream.write_all(said).await
}

fn scanner(address: &str) -> Scanner {
    let settings = MediaSettings {
        clamd: Some(address.to_owned().try_into().unwrap()),
        scan_time: Span::millis(500),
        scan_bytes: 1 << 20,
        ..MediaSettings::default()
    };
    Scanner::new(&settings)
}

async fn scan(scanner: &Scanner, pieces: &[&[u8]]) -> io::Result<Scanned> {
    let mut scan = scanner.begin(1).await;
    for piece in pieces {
        scan.feed(piece).await;
    }
    scan.finish().await.unwrap()
}

#[tokio::test]
async fn what_clamd_says_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clamd.ctl");
    let listener = UnixListener::bind(&path).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            served.spawn(serve(stream));
        }
    });
    let scanner = scanner(&format!("unix://{}", path.display()));
    let clean = scan(&scanner, &[b"a picture", b"", b"of a cat"]).await;
    assert_eq!(clean.unwrap(), Scanned::Clean);
    let name = "Eicar-Signature".to_owned();
    let found = scan(&scanner, &[b"v", b"irus"]).await;
    assert_eq!(found.unwrap(), Scanned::Infected(name));
    let large = vec![b'a'; 60_000];
    let large = scan(&scanner, &[&large, &large, &large, &large]).await;
    assert_eq!(large.unwrap(), Scanned::TooLarge);
    let larger = scanner.begin((1 << 20) + 1).await.finish().await;
    assert_eq!(larger.unwrap().unwrap(), Scanned::TooLarge);
    let error = scan(&scanner, &[b"?"]).await.unwrap_err();
    assert!(error.to_string().contains("allocate"), "{error}");
    let error = scan(&scanner, &[b"s"]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    for no_answer in [b"e", b"l"] {
        let error = scan(&scanner, &[no_answer]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    // Good news of a file that was not received is none.
    let rest = vec![b'a'; 60_000];
    let pieces = [b"early", &rest[..], &rest[..], &rest[..], &rest[..]];
    scan(&scanner, &pieces).await.unwrap_err();
}

#[tokio::test]
async fn clamd_that_is_away_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scanner = scanner(&format!("tcp://{}", listener.local_addr().unwrap()));
    drop(listener);
    scan(&scanner, &[b"a"]).await.unwrap_err();
    scanner.ping().await.unwrap().unwrap_err();
    let none = Scanner::new(&MediaSettings::default());
    assert!(none.ping().await.is_none() && none.begin(1).await.finish().await.is_none());
}

#[test]
fn addresses_are_of_two_kinds() {
    let parse = |text: &str| ClamdAddress::try_from(text.to_owned());
    for good in ["tcp://clamd:3310", "tcp://[::1]:3310", "unix:///run/clamd"] {
        assert_eq!(parse(good).unwrap().to_string(), good);
    }
    for bad in [
        "",
        "clamd:3310",
        "tcp://clamd",
        "tcp://:3310",
        "tcp://a:99999",
        "unix://clamd",
    ] {
        parse(bad).unwrap_err();
    }
}
