//! Where the servers are that `.ci/servers` started for the tests.

use std::env;
use std::net::SocketAddr;

/// The SQL server, `mysql://root@127.0.0.1:PORT`: an account that may create and drop databases.
///
/// # Panics
/// When `BACKSCROLL_TEST_SQL_URL` is not set.
pub fn sql_server_url() -> String {
    required(
        "BACKSCROLL_TEST_SQL_URL",
        env::var("BACKSCROLL_TEST_SQL_URL").ok(),
    )
}

/// The Redis server, `redis://127.0.0.1:PORT/`. Tests share it: use key prefixes or channels of your own.
///
/// # Panics
/// When `BACKSCROLL_TEST_REDIS_URL` is not set.
pub fn redis_url() -> String {
    required(
        "BACKSCROLL_TEST_REDIS_URL",
        env::var("BACKSCROLL_TEST_REDIS_URL").ok(),
    )
}

fn required(variable: &str, value: Option<String>) -> String {
    match value {
        Some(value) if !value.is_empty() => value,
        _ => panic!("{variable} is not set: run the tests with `make test`: it starts the servers"),
    }
}

/// The `IP:PORT` in a URL, to put a [`Proxy`](crate::Proxy) in front of it.
///
/// # Panics
/// When the URL has none; a host name is not looked up.
pub fn socket_address(url: &str) -> SocketAddr {
    let after_scheme = url.split_once("://").map_or(url, |(_scheme, rest)| rest);
    let authority = after_scheme
        .split(['/', '?', '#'])
        .next()
        .unwrap_or(after_scheme);
    let host_and_port = authority
        .rsplit_once('@')
        .map_or(authority, |(_user, rest)| rest);
    host_and_port
        .parse()
        .unwrap_or_else(|error| panic!("no IP:PORT in the URL {url}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_socket_address_in_a_url() {
        let address: SocketAddr = "127.0.0.1:3306".parse().unwrap();
        assert_eq!(socket_address("mysql://root@127.0.0.1:3306"), address);
        assert_eq!(
            socket_address("mysql://user:p@ss@127.0.0.1:3306/db?x=1"),
            address
        );
        assert_eq!(socket_address("http://127.0.0.1:3306?x"), address);
        assert_eq!(
            socket_address("redis://[::1]:6379/"),
            "[::1]:6379".parse().unwrap()
        );
    }

    #[test]
    #[should_panic(expected = "run the tests with `make test`: it starts the servers")]
    fn fails_without_a_server() {
        required("BACKSCROLL_TEST_SQL_URL", None);
    }

    #[test]
    #[should_panic(expected = "run the tests with `make test`: it starts the servers")]
    fn fails_with_an_empty_url() {
        required("BACKSCROLL_TEST_SQL_URL", Some(String::new()));
    }
}
