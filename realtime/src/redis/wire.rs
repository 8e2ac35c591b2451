//! The format of published payloads: a line with the version and the name of the publishing process, then the push as JSON.
//!
//! A node drops and counts payloads of a version that it does not know; its sessions receive those changes from the log.

use backscroll_shard::ids::Rev;

use crate::push::Push;

const VERSION: &str = "bs1";

/// A process's name on the bus. It differs after each start, so that a process never takes its predecessor's pushes for its own.
pub(super) fn new_origin() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// The payload of `push` from `origin`; none when it cannot be encoded, which does not happen with any known push.
pub(super) fn encode(origin: &str, push: &Push) -> Option<Vec<u8>> {
    let mut payload = signed(origin, b"");
    payload.reserve(128 + push.data.get().len());
    serde_json::to_writer(&mut payload, push).ok()?;
    Some(payload)
}

/// A payload from `origin` that ends with `rest`.
pub(super) fn signed(origin: &str, rest: &[u8]) -> Vec<u8> {
    [VERSION.as_bytes(), b" ", origin.as_bytes(), b"\n", rest].concat()
}

/// The process that published `payload`, and the rest of the payload.
pub(super) fn origin(payload: &[u8]) -> Option<(&str, &[u8])> {
    let end = payload.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = (payload.get(..end)?, payload.get(end + 1..)?);
    let (version, origin) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (version == VERSION).then_some((origin, rest))
}

/// The push of a payload's `rest`.
pub(super) fn push(rest: &[u8]) -> Option<Push> {
    serde_json::from_slice(rest).ok()
}

/// The pushes with the revs `after + 1`, `after + 2` and so on up to the first hole. `found` is in any order, with repeats and
/// holes.
pub(super) fn run_after(mut found: Vec<Push>, after: Rev) -> Vec<Push> {
    found.reverse(); // of equal revs the one that was published last counts
    found.sort_by_key(|push| push.rev);
    let mut last = after;
    found.retain(|push| {
        let follows = last.0.checked_add(1) == Some(push.rev.0);
        if follows {
            last = push.rev;
        }
        follows
    });
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::push::PushKind;

    fn change(rev: u64, text: &str) -> Push {
        Push::change(PushKind::NewMessage, Rev(rev), &json!({"text": text}))
    }

    #[test]
    fn payloads_read_back() {
        let sent = change(3, "a\nb");
        let payload = encode("me", &sent).unwrap();
        let (from, rest) = origin(&payload).unwrap();
        let read = push(rest).unwrap();
        assert_eq!(
            (from, read.rev, read.data.get()),
            ("me", sent.rev, sent.data.get())
        );
    }

    #[test]
    fn garbage_is_not_read() {
        for garbage in [
            &b""[..],
            b"\n",
            b"bs1",
            b"bs2 me\n{}",
            b"\xff\xff \n",
            b"{}\n",
        ] {
            assert!(origin(garbage).is_none(), "{garbage:?}");
        }
        for garbage in [&b""[..], b"{}", b"{\"k\":\"new_message\"", b"7", b"\xff"] {
            assert!(push(garbage).is_none(), "{garbage:?}");
        }
    }

    #[test]
    fn a_run_begins_after_the_known_rev_and_ends_before_the_first_hole() {
        let revs = |found: &[u64], after: u64| -> Vec<u64> {
            let found = found.iter().map(|rev| change(*rev, "")).collect();
            run_after(found, Rev(after))
                .iter()
                .map(|push| push.rev.0)
                .collect()
        };
        assert_eq!(revs(&[4, 6, 5, 5, 7], 4), [5, 6, 7]);
        assert_eq!(revs(&[5, 6, 8, 9], 4), [5, 6]);
        assert_eq!(revs(&[6, 7], 4), [0; 0]);
        assert_eq!(revs(&[3, 4], 4), [0; 0]);
        assert_eq!(revs(&[], 4), [0; 0]);
        assert_eq!(revs(&[1], 0), [1]);
        assert_eq!(revs(&[0, u64::MAX], u64::MAX), [0; 0]);
    }

    #[test]
    fn of_the_same_rev_the_latest_counts() {
        let run = run_after(vec![change(1, "old"), change(1, "new")], Rev(0));
        assert_eq!(run.len(), 1);
        assert_eq!(run[0].data.get(), r#"{"text":"new"}"#);
    }
}
