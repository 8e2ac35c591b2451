//! The PROXY protocol, versions 1 and 2: the line or block with which a proxy begins each connection, and which names its client.
//!
//! Nothing behind the header is read, and a header has a bound in bytes (INV-BOUND). Whoever can connect can name any client: the
//! setting is for servers that only the proxy reaches.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What each header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Its length without addresses.
const FIXED_BYTES: usize = 16;
/// Most bytes of the addresses and of what a proxy adds to them, such as the name that TLS asked for.
const VARIABLE_MAX: usize = 2048;
/// Most bytes of a header of version 1, with its end.
const LINE_MAX: usize = 107;

/// Reads the header; gives the client's address, or `None` where the proxy speaks for itself, as in its health checks.
///
/// # Errors
/// When there is no right header.
pub(super) async fn client(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header != SIGNATURE {
        return client_of_line(stream, header).await;
    }
    header.resize(FIXED_BYTES, 0);
    stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
    let variable = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if variable > VARIABLE_MAX {
        return Err(bad("it is too long"));
    }
    header.resize(FIXED_BYTES + variable, 0);
    stream.read_exact(&mut header[FIXED_BYTES..]).await?;
    parse(&header)
}

/// Version 1: a line whose beginning has been read.
async fn client_of_line(
    stream: &mut (impl AsyncRead + Unpin),
    mut line: Vec<u8>,
) -> io::Result<Option<SocketAddr>> {
    if !line.starts_with(b"PROXY ") {
        return Err(bad("it does not begin with PROXY"));
    }
    while !line.ends_with(b"\n") {
        if line.len() == LINE_MAX {
            return Err(bad("it is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    parse(&line)
}

/// One IPv4 address is the same client in either form.
fn parse(header: &[u8]) -> io::Result<Option<SocketAddr>> {
    let (header, _) = ProxyHeader::parse(header, ParseConfig::default()).map_err(bad)?;
    let client = header.proxied_address().map(|address| address.source);
    Ok(client.map(|client| SocketAddr::new(client.ip().to_canonical(), client.port())))
}

fn bad(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use proxy_header::{ProxiedAddress, Tlv};

    use super::*;

    /// What a header gives, and what is left of the stream.
    async fn read(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let mut stream = bytes;
        let client = client(&mut stream).await;
        (client, stream.to_vec())
    }

    async fn told(header: &[u8]) -> Option<String> {
        let (client, left) = read(&[header, b"GET / HTTP/1.1\r\n"].concat()).await;
        assert_eq!(left, b"GET / HTTP/1.1\r\n");
        client.unwrap().map(|address| address.to_string())
    }

    fn v2(client: &str, server: &str) -> Vec<u8> {
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        let address = ProxiedAddress::stream(client, server);
        let mut header = ProxyHeader::with_address(address);
        header.append_tlv(Tlv::Authority("chat.example".into())); // a proxy may add what it knows
        let mut bytes = Vec::new();
        header.encode_v2(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn both_versions_name_the_client() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
        assert_eq!(told(line).await.as_deref(), Some("192.0.2.7:56324"));
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n";
        assert_eq!(told(line).await.as_deref(), Some("[2001:db8::7]:56324"));
        assert_eq!(told(b"PROXY UNKNOWN\r\n").await, None);
        let header = v2("192.0.2.7:5000", "198.51.100.1:443");
        assert_eq!(told(&header).await.as_deref(), Some("192.0.2.7:5000"));
        let header = v2("[2001:db8::7]:5000", "[2001:db8::1]:443");
        assert_eq!(told(&header).await.as_deref(), Some("[2001:db8::7]:5000"));
        let header = v2("[::ffff:192.0.2.7]:5000", "[2001:db8::1]:443");
        assert_eq!(told(&header).await.as_deref(), Some("192.0.2.7:5000"));
        let mut local = Vec::new();
        ProxyHeader::with_local().encode_v2(&mut local).unwrap();
        assert_eq!(told(&local).await, None);
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(LINE_MAX));
        let mut large = v2("192.0.2.7:5000", "198.51.100.1:443");
        large[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        for wrong in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 70000\r\n",
            b"PROXY TCP4 example.com 198.51.100.1 56324 443\r\n",
            b"PROXY TCP9 192.0.2.7 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n",
            b"PROXY TCP4 192.0.2.7",
            b"PROXY",
            b"",
            SIGNATURE,
            &[SIGNATURE, b"\x21\x11\x00\x0c\x01"].concat(),
            &[SIGNATURE, b"\x91\x11\x00\x00"].concat(),
            long.as_bytes(),
            &large,
        ] {
            let (client, _) = read(wrong).await;
            client.expect_err(&String::from_utf8_lossy(wrong));
        }
    }
}
