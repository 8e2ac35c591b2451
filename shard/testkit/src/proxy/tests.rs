use std::io;
use std::time::Instant;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::{Connection as _, Executor as _, MySqlConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;
use crate::{socket_address, sql_server_url};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_millis(200);

/// An echo server and a proxy in front of it.
struct Fixture {
    proxy: Proxy,
    _echo: JoinSet<()>,
}

impl Fixture {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let mut echo = JoinSet::new();
        echo.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let (mut from, mut to) = connection.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Self {
            proxy: Proxy::start(upstream),
            _echo: echo,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy.address()).await.unwrap()
    }
}

/// Sends `request` and reads an answer of the same length.
async fn exchange(connection: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    connection.write_all(request).await?;
    read(connection, request.len()).await
}

async fn read(connection: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; length];
    timeout(SOON, connection.read_exact(&mut answer)).await??;
    Ok(answer)
}

async fn assert_silent(connection: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(A_WHILE, connection.read(&mut byte)).await;
    assert!(read.is_err(), "something arrived: {read:?}");
}

#[tokio::test]
async fn pass_forwards_both_ways_and_counts_connections() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.proxy.connections(), 0);
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;

    assert_eq!(exchange(&mut first, b"one").await.unwrap(), b"one");
    assert_eq!(exchange(&mut second, b"two").await.unwrap(), b"two");

    assert_eq!(fixture.proxy.connections(), 2);
}

#[tokio::test]
async fn pass_forwards_a_close_of_one_direction() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    connection.write_all(b"last words").await.unwrap();
    connection.shutdown().await.unwrap();

    let mut answer = Vec::new();
    timeout(SOON, connection.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();

    assert_eq!(answer, b"last words");
}

#[tokio::test]
async fn a_server_that_is_down_closes_the_connection() {
    let reserved = Port::reserve();
    let proxy = Proxy::start(reserved.address);
    let mut connection = TcpStream::connect(proxy.address()).await.unwrap();

    let read = timeout(SOON, connection.read(&mut [0])).await.unwrap();

    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn cut_closes_and_refuses_until_it_ends() {
    let fixture = Fixture::start().await;
    let mut before = fixture.connect().await;
    exchange(&mut before, b"works").await.unwrap();

    fixture.proxy.set(Mode::Cut).await;

    exchange(&mut before, b"closed").await.unwrap_err();
    let refused = TcpStream::connect(fixture.proxy.address())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    fixture.proxy.set(Mode::Cut).await;
    fixture.proxy.set(Mode::Pass).await;
    let mut after = fixture.connect().await;
    assert_eq!(exchange(&mut after, b"again").await.unwrap(), b"again");
    assert_eq!(fixture.proxy.connections(), 2);
}

#[tokio::test]
async fn hang_accepts_and_keeps_back_until_it_ends() {
    let fixture = Fixture::start().await;
    let mut before = fixture.connect().await;
    exchange(&mut before, b"works").await.unwrap();

    fixture.proxy.set(Mode::Hang).await;

    let mut during = fixture.connect().await;
    before.write_all(b"kept").await.unwrap();
    during.write_all(b"back").await.unwrap();
    assert_silent(&mut before).await;
    assert_silent(&mut during).await;
    fixture.proxy.set(Mode::Pass).await;
    assert_eq!(read(&mut before, 4).await.unwrap(), b"kept");
    assert_eq!(read(&mut during, 4).await.unwrap(), b"back");
}

#[tokio::test]
async fn hang_keeps_a_close_back() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    exchange(&mut connection, b"works").await.unwrap();
    fixture.proxy.set(Mode::Hang).await;

    connection.shutdown().await.unwrap();

    assert_silent(&mut connection).await;
    fixture.proxy.set(Mode::Pass).await;
    let closed = timeout(SOON, connection.read(&mut [0]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(closed, 0);
}

#[tokio::test]
async fn delay_holds_each_chunk_in_both_directions() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let delay = Duration::from_millis(60);
    fixture.proxy.set(Mode::Delay(delay)).await;

    let start = Instant::now();
    exchange(&mut connection, b"slow").await.unwrap();

    assert!(start.elapsed() >= 2 * delay, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_change_of_mode_ends_a_delay() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    fixture
        .proxy
        .set(Mode::Delay(Duration::from_secs(3600)))
        .await;
    connection.write_all(b"late").await.unwrap();
    assert_silent(&mut connection).await;

    fixture.proxy.set(Mode::Pass).await;

    assert_eq!(read(&mut connection, 4).await.unwrap(), b"late");
}

#[tokio::test]
async fn throttle_limits_the_rate() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let bytes_per_second = 10_000;
    fixture.proxy.set(Mode::Throttle { bytes_per_second }).await;

    let start = Instant::now();
    let request = vec![7; 4_000];
    let answer = exchange(&mut connection, &request).await.unwrap();

    assert_eq!(answer, request);
    assert!(
        start.elapsed() >= Duration::from_millis(400),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn corrupt_inverts_every_so_many_bytes_of_the_answer() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    fixture.proxy.set(Mode::Corrupt { every: 100 }).await;

    // Two exchanges: the count goes on over chunks.
    let mut answer = exchange(&mut connection, &[0; 250]).await.unwrap();
    answer.extend(exchange(&mut connection, &[0; 250]).await.unwrap());

    let inverted: Vec<usize> = (1..=500)
        .filter(|number| answer[number - 1] == 0xff)
        .collect();
    let untouched = answer.iter().filter(|byte| **byte == 0).count();
    // The echo passed the proxy twice: had the request been corrupted too, the two would have undone each other.
    assert_eq!(inverted, [100, 200, 300, 400, 500]);
    assert_eq!(untouched, 495);
}

#[tokio::test]
#[should_panic(expected = "must be more than zero")]
async fn a_rate_of_zero_is_refused() {
    let fixture = Fixture::start().await;
    fixture
        .proxy
        .set(Mode::Throttle {
            bytes_per_second: 0,
        })
        .await;
}

#[tokio::test]
async fn puts_its_address_into_a_url() {
    let fixture = Fixture::start().await;
    let proxy = &fixture.proxy;
    let url = format!("mysql://root@{}/db", proxy.upstream);
    assert_eq!(
        proxy.url(&url),
        format!("mysql://root@{}/db", proxy.address())
    );
}

#[tokio::test]
async fn dropping_it_closes_the_connections() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    exchange(&mut connection, b"works").await.unwrap();

    drop(fixture.proxy);

    let read = timeout(SOON, connection.read(&mut [0])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn forget_silences_what_is_open_and_nothing_else() {
    let fixture = Fixture::start().await;
    let mut before = fixture.connect().await;
    exchange(&mut before, b"works").await.unwrap();

    fixture.proxy.set(Mode::Forget).await;

    before.write_all(b"lost").await.unwrap();
    assert_silent(&mut before).await;
    let mut after = fixture.connect().await;
    assert_eq!(exchange(&mut after, b"works").await.unwrap(), b"works");
    fixture.proxy.set(Mode::Pass).await;
    assert_silent(&mut before).await;
}

fn number(error: &sqlx::Error) -> u16 {
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>())
        .unwrap_or_else(|| panic!("{error}"))
        .number()
}

#[tokio::test]
async fn refuse_answers_in_the_server_s_place() {
    let proxy = Proxy::start(socket_address(&sql_server_url()));
    let url = proxy.url(&sql_server_url());
    let mut connection = MySqlConnection::connect(&url).await.unwrap();
    let error = MySqlError {
        number: 1290,
        state: "HY000",
    };
    let (read, write) = ("SELECT ?", "DELETE FROM mysql.help_topic WHERE 1 = ?");
    for (what, refused) in [
        (Refused::Writes, [false, true, false]),
        (Refused::Statements, [true, true, true]),
        (Refused::Commits, [false, false, true]),
        (Refused::Connections, [false, false, false]),
    ] {
        for _ in 0..2 {
            // prepared before, the second time
            proxy.set(Mode::Pass).await;
            let mut transaction = connection.begin().await.unwrap();
            proxy.set(Mode::Refuse { error, what }).await;
            let mut outcomes = Vec::new();
            for statement in [read, write] {
                let query = sqlx::query(statement).bind(0);
                outcomes.push(transaction.execute(query).await.map(drop));
            }
            outcomes.push(transaction.execute("COMMIT").await.map(drop));
            let numbers: Vec<_> = outcomes
                .iter()
                .map(|o| o.as_ref().err().map(number))
                .collect();
            let expected = refused.map(|refused| refused.then_some(1290));
            assert_eq!(numbers, expected, "{what:?}");
            proxy.set(Mode::Pass).await;
            transaction.rollback().await.unwrap();
        }
    }
    let what = Refused::Connections;
    proxy.set(Mode::Refuse { error, what }).await;
    let refused = MySqlConnection::connect(&url).await.unwrap_err();
    assert_eq!(number(&refused), 1290);
    let what = Refused::Preparing;
    proxy.set(Mode::Refuse { error, what }).await;
    connection.execute(sqlx::query(read).bind(1)).await.unwrap();
    let new = sqlx::query("SELECT 1 + ?").bind(1);
    assert_eq!(number(&connection.execute(new).await.unwrap_err()), 1290);
    connection.execute("SELECT 1").await.unwrap();
}
