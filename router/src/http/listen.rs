//! Where a service listens, as a configuration says it: `127.0.0.1:8080`, `localhost:8080`, `[::1]:8080`, `:8080`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};

/// How long a name may take to be looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress {
    /// An address, or a name; without it, every address of the machine.
    host: Option<String>,
    port: u16,
}

/// It is no host and port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address to listen on; write host and port, as in \"127.0.0.1:8080\", \"localhost:8080\" or \
     \"[::1]:8080\", or \":8080\" for every address of the machine"
)]
pub struct BadListenAddress(String);

impl FromStr for ListenAddress {
    type Err = BadListenAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadListenAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(bad)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_right = match bracketed {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => host.bytes().all(is_of_a_name),
        };
        if !is_right {
            return Err(bad());
        }
        let host = bracketed.unwrap_or(host).to_owned();
        Ok(Self {
            host: Some(host).filter(|host| !host.is_empty()),
            port,
        })
    }
}

/// Whether it can be in a name, or in an IPv4 address.
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

impl TryFrom<String> for ListenAddress {
    type Error = BadListenAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Some(address.ip().to_string()),
            port: address.port(),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.host.as_deref().unwrap_or(""), self.port);
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl ListenAddress {
    /// Listens there. A name is looked up once, and its IPv4 addresses are tried first. Every address of the machine are
    /// those of IPv6 and of IPv4, as far as it has them.
    ///
    /// # Errors
    /// When the name has no address, or none of the addresses can be listened on.
    pub async fn bind(&self) -> io::Result<TcpListener> {
        let Some(host) = &self.host else {
            return bind_every(self.port)
                .or_else(|_| bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port))));
        };
        if let Ok(address) = host.parse::<IpAddr>() {
            return bind(SocketAddr::from((address, self.port)));
        }
        let lookup = tokio::net::lookup_host((host.as_str(), self.port));
        let mut addresses: Vec<SocketAddr> = tokio::time::timeout(LOOKUP_TIMEOUT, lookup)
            .await??
            .collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let mut outcome = Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the name has no address",
        ));
        for address in addresses {
            outcome = bind(address);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    listen(socket, address)
}

/// On one socket that takes IPv6 and IPv4, whatever the system's default is.
fn bind_every(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    listen(socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
}

fn listen(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuseaddr(true)?; // a restart need not wait for the old connections' ends
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        for right in [
            "127.0.0.1:8080",
            "0.0.0.0:0",
            "[::1]:9000",
            "[::]:80",
            "localhost:8080",
            "chat_1.example-net.internal:65535",
            ":8080",
        ] {
            let address: ListenAddress = right.parse().unwrap();
            assert_eq!(address.to_string(), right);
        }
        for wrong in [
            "",
            ":",
            "8080",
            "localhost",
            "localhost:",
            "::1:8080",
            "[::1]",
            "[localhost]:80",
            "a b:80",
            "localhost:65536",
            "localhost:-1",
            "localhost:+1",
            "http://localhost:80",
            "127.0.0.1:80/",
        ] {
            let error = wrong.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.contains("\":8080\" for every address"), "{error}");
        }
    }

    async fn reached(listener: &TcpListener, host: &str) -> bool {
        let port = listener.local_addr().unwrap().port();
        tokio::net::TcpStream::connect((host, port)).await.is_ok()
    }

    #[tokio::test]
    async fn it_listens_where_it_says() {
        let local: ListenAddress = "localhost:0".parse().unwrap();
        let listener = local.bind().await.unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
        assert!(reached(&listener, "localhost").await);
        let every: ListenAddress = ":0".parse().unwrap();
        let listener = every.bind().await.unwrap();
        assert!(reached(&listener, "127.0.0.1").await);
        if listener.local_addr().unwrap().is_ipv6() {
            assert!(reached(&listener, "::1").await);
        }
        let taken = ListenAddress::from(listener.local_addr().unwrap());
        assert!(taken.bind().await.is_err());
        let nowhere: ListenAddress = "no-such-host.invalid:80".parse().unwrap();
        assert!(nowhere.bind().await.is_err());
    }
}
