//! What a WebSocket handshake (RFC 6455, section 4.2) asks for, read in one way by both doors.
//!
//! A list in a header may be on one line or on several (RFC 9110, section 5.3): clients and middleboxes send
//! `Connection: keep-alive` and `Connection: Upgrade` as two lines, and the two parts of `Sec-WebSocket-Protocol` likewise.

use axum::http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use axum::http::{HeaderMap, HeaderValue};

/// Whether the headers ask for a WebSocket.
pub(crate) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    lists(headers, &CONNECTION, "upgrade") && lists(headers, &UPGRADE, "websocket")
}

/// Writes what a handshake asks for in the one form that every reader takes: a list on one line, and no more than what is
/// asked for. Headers that ask for no WebSocket stay as they are.
pub fn in_one_form(headers: &mut HeaderMap) {
    if !asks_for_websocket(headers) {
        return;
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let protocols: Vec<&[u8]> = lines(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    if protocols.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&protocols.join(&b", "[..]))
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, joined);
    }
}

fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

/// Whether the list in a header has `word`.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    lines(headers, name).any(|line| {
        let mut words = line.split(|byte| *byte == b',');
        words.any(|each| each.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let lines = lines.iter().cloned();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn several_lines_are_one_list() {
        let mut asked = headers(&[
            (CONNECTION, "keep-alive"),
            (CONNECTION, "Upgrade"),
            (UPGRADE, "h2c, WebSocket"),
            (SEC_WEBSOCKET_PROTOCOL, "bearer"),
            (SEC_WEBSOCKET_PROTOCOL, "a.b.c"),
        ]);
        in_one_form(&mut asked);
        let plain = headers(&[
            (CONNECTION, "Upgrade"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_PROTOCOL, "bearer, a.b.c"),
        ]);
        assert_eq!(asked, plain);
    }

    #[test]
    fn what_asks_for_no_websocket_is_left_alone() {
        for lines in [
            vec![(CONNECTION, "keep-alive"), (UPGRADE, "websocket")],
            vec![(CONNECTION, "upgrade"), (UPGRADE, "h2c")],
            vec![(CONNECTION, "upgraded"), (UPGRADE, "websocket")],
        ] {
            let given = headers(&lines);
            let mut kept = given.clone();
            in_one_form(&mut kept);
            assert_eq!(kept, given);
        }
    }
}
