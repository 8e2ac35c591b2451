//! Any messages survive; any change of a byte is found.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use backscroll_shard::message::Pin;

use super::*;

/// Stored JSON, and what should never have been stored as such. Boxed, as is what is made of it: unboxed, the strategies
/// are larger than a test's stack.
fn json() -> BoxedStrategy<Option<String>> {
    let given = [
        r#"[{"url":"https://a/b","bytes":12345678901234567890}]"#,
        r#"{"👍":["bob","alice"],"a\nb":[]}"#,
        r#"{"a":1.50,"a":1e400,"b":"\ud800"}"#,
        "{\n  \"pretty\": true\r\n}",
        " []",
        "null",
        "",
        "not JSON",
        DEEP,
    ];
    let given = prop::sample::select(given.to_vec()).prop_map(str::to_owned);
    option::of(prop_oneof![given, ".{0,20}"].boxed()).boxed()
}

/// Deeper than a JSON parser follows.
const DEEP: &str = "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[";

prop_compose! {
    fn any_message()(
        sender in "[^\\x00-\\x1f\\x7f-\\u{9f}]{1,16}",
        rev in 0..i64::MAX as u64,
        next_rev: bool,
        client_msg_id in option::of(".{0,20}"),
        body_digest: Option<i64>,
        kind in 0..5usize,
        content in prop_oneof![".{0,60}", "(?s).{0,60}", Just("a\0b\n\"\\".to_owned())].boxed(),
        reply_to in option::of(1..i64::MAX as u64),
        (attachments, reactions, metadata, edit_history, mentions) in (json(), json(), json(), json(), json()),
        created_at in prop_oneof![any::<i64>(), 1_500_000_000_000..1_500_000_100_000i64],
        (edited_at, deleted_at) in any::<(Option<i64>, Option<i64>)>(),
        pin in option::of((any::<i64>(), "[^\\x00-\\x1f\\x7f-\\u{9f}]{1,16}")),
    ) -> (bool, StoredMessage) {
        let kinds = [MessageType::Text, MessageType::Image, MessageType::Voice, MessageType::File, MessageType::System];
        (next_rev, StoredMessage {
            seq: Seq(0),
            rev: Rev(rev),
            sender: UserId::new(sender).unwrap(),
            client_msg_id,
            body_digest,
            message_type: kinds[kind],
            content,
            reply_to: reply_to.map(Seq),
            attachments,
            reactions,
            metadata,
            edit_history,
            mentions,
            created_at: Timestamp(created_at),
            edited_at: edited_at.map(Timestamp),
            deleted_at: deleted_at.map(Timestamp),
            pin: pin.map(|(at, by)| Pin { at: Timestamp(at), by: UserId::new(by).unwrap() }),
        })
    }
}

prop_compose! {
    /// Conversations one after the other, in each ever greater seqs, most of them consecutive.
    fn any_messages()(
        runs in vec((1..1_000_000u64, vec((any_message().boxed(), prop_oneof![4 => Just(1u64), 1 => 2..9u64]), 1..12)), 1..8),
    ) -> Messages {
        let mut all = Messages::new();
        for (low, (first, run)) in (0..).zip(runs) {
            let (mut seq, mut rev) = (first, 0);
            for ((next_rev, mut message), step) in run {
                message.seq = Seq(seq);
                if next_rev {
                    message.rev = Rev(rev + 1);
                }
                seq += step;
                rev = message.rev.0;
                all.push((conversation(low), message));
            }
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_in_every_field(messages in any_messages(), frame_bytes in 1..3000usize) {
        let (bytes, entries) = write(&messages, SegmentOptions { level: 3, frame_bytes });
        prop_assert_eq!(&read(&bytes, &entries), &messages);
        let (found_header, found, found_entries) = scan(&bytes).unwrap();
        prop_assert_eq!(found_header, header());
        prop_assert_eq!(&found, &messages);
        prop_assert_eq!(found_entries, entries);
    }

    #[test]
    fn a_line_by_itself_is_read_in_every_field(messages in any_messages()) {
        for (_, message) in &messages {
            let mut line = Vec::new();
            write_whole(message, &mut line).unwrap();
            let line = std::str::from_utf8(&line).unwrap();
            prop_assert!(line.ends_with('\n') && line.lines().count() == 1 && !line.contains('\r'));
            let read = read_whole(line.trim_end_matches('\n'));
            prop_assert_eq!(read.as_ref(), Ok(message));
        }
    }

    #[test]
    fn any_byte_that_is_changed_and_any_end_that_is_missing_is_an_error(messages in any_messages(), place: prop::sample::Index, bit in 0..8u8) {
        let (bytes, entries) = write(&messages, small_frames());
        let entry = &entries[place.index(entries.len())];
        let compressed = frame_bytes(&bytes, &entry.frame);
        let place = place.index(compressed.len());

        let mut changed = compressed.to_vec();
        changed[place] ^= 1 << bit;
        for wrong in [&changed[..], &compressed[..place], &[compressed, &[0]].concat()] {
            let error = Frame::read(&key(), &entry.frame, wrong).unwrap_err().to_string();
            let named = format!("segment {}, frame at {}: ", key(), entry.frame.offset);
            prop_assert!(error.starts_with(&named), "{}", error);
        }
        // Without a digest to compare, zstd's checksum finds it; or it changed nothing that matters.
        if let Ok((frame, _)) = Frame::scan(&key(), entry.frame.offset, &changed) {
            let (intact, _) = Frame::scan(&key(), entry.frame.offset, compressed).unwrap();
            prop_assert_eq!(frame, intact);
        }
        prop_assert!(Frame::scan(&key(), 0, &compressed[..place]).is_err());
    }

    #[test]
    fn a_changed_seek_table_is_an_error_or_leads_to_the_same_frames(messages in any_messages(), place: prop::sample::Index, bit in 0..8u8) {
        let (bytes, _) = write(&messages, small_frames());
        let intact = table(&bytes);
        let end = usize::try_from(intact.end()).unwrap();
        let mut changed = bytes[end..].to_vec();
        changed[place.index(bytes.len() - end)] ^= 1 << bit;
        if let Ok(found) = SeekTable::parse(&key(), &changed, bytes.len() as u64) {
            for (found, intact) in found.frames().iter().zip(intact.frames()) {
                prop_assert_eq!((found.offset, found.length), (intact.offset, intact.length));
            }
        }
        prop_assert!(SeekTable::parse(&key(), &bytes[end..], bytes.len() as u64 + 1).is_err());
        prop_assert!(SeekTable::parse(&key(), &bytes[end + 1..], bytes.len() as u64).is_err());
    }
}
