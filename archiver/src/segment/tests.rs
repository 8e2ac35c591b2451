use std::io::Read as _;

use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId, UserKey};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::{MessageType, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::reader::Frame;
use super::seek_table::{FOOTER, SeekTable};
use super::writer::{FinishedFrame, SegmentOptions, SegmentWriter};
use super::*;

type Messages = Vec<(ConversationId, StoredMessage)>;

fn key() -> ObjectKey {
    ObjectKey::new("archive/0f/example.jsonl.zst").unwrap()
}

fn header() -> SegmentHeader {
    SegmentHeader {
        name: key(),
        generation: Generation(7),
        created_at: Timestamp(1_782_864_000_000),
    }
}

fn conversation(low: u64) -> ConversationId {
    ConversationId::new(UserKey(0x8f0c_61a2_b4d9_4b7e), low)
}

fn message(seq: u64, by: &str, text: &str) -> StoredMessage {
    StoredMessage {
        seq: Seq(seq),
        rev: Rev(seq + 3),
        sender: UserId::new(by).unwrap(),
        client_msg_id: None,
        body_digest: None,
        message_type: MessageType::Text,
        content: text.into(),
        reply_to: None,
        attachments: None,
        reactions: None,
        metadata: None,
        edit_history: None,
        created_at: Timestamp(1_507_466_702_000 + i64::try_from(seq).unwrap() * 1000),
        edited_at: None,
        deleted_at: None,
    }
}

/// A segment with these messages: its bytes and its index entries.
fn write(messages: &Messages, options: SegmentOptions) -> (Vec<u8>, Vec<IndexEntry>) {
    let mut writer = SegmentWriter::new(&header(), options).unwrap();
    let (mut bytes, mut entries) = (Vec::new(), Vec::new());
    let mut take = |frame: FinishedFrame| {
        bytes.extend_from_slice(&frame.bytes);
        entries.extend(frame.entries);
    };
    for (conversation, message) in messages {
        writer
            .push(*conversation, message)
            .unwrap()
            .into_iter()
            .for_each(&mut take);
    }
    assert_eq!(writer.messages(), messages.len() as u64);
    take(writer.finish().unwrap());
    (bytes, entries)
}

fn small_frames() -> SegmentOptions {
    SegmentOptions {
        level: 3,
        frame_bytes: 500,
    }
}

fn frame_bytes<'a>(bytes: &'a [u8], frame: &FrameLocation) -> &'a [u8] {
    let start = usize::try_from(frame.offset).unwrap();
    &bytes[start..start + frame.length as usize]
}

/// Everything that the index finds, in its order.
fn read(bytes: &[u8], entries: &[IndexEntry]) -> Messages {
    let mut messages = Messages::new();
    for entry in entries {
        let frame = Frame::read(&key(), &entry.frame, frame_bytes(bytes, &entry.frame)).unwrap();
        let found = frame
            .run(entry.conversation, entry.first_seq, entry.last_seq)
            .unwrap();
        assert_eq!(found.len(), entry.count as usize);
        assert_eq!(
            found.iter().map(|message| message.created_at).min(),
            Some(entry.first_at)
        );
        assert_eq!(
            found.iter().map(|message| message.created_at).max(),
            Some(entry.last_at)
        );
        messages.extend(
            found
                .iter()
                .map(|message| (entry.conversation, message.clone())),
        );
    }
    messages
}

fn table(bytes: &[u8]) -> SeekTable {
    let size = SeekTable::size(&key(), *bytes.last_chunk().unwrap()).unwrap();
    SeekTable::parse(&key(), &bytes[bytes.len() - size..], bytes.len() as u64).unwrap()
}

/// Everything that is found without the index, in the order of the file.
fn scan(bytes: &[u8]) -> Result<(SegmentHeader, Messages, Vec<IndexEntry>), SegmentError> {
    let (mut messages, mut entries, mut header) = (Messages::new(), Vec::new(), None);
    for span in table(bytes).frames() {
        let start = usize::try_from(span.offset).unwrap();
        let compressed = &bytes[start..start + span.length as usize];
        if header.is_none() {
            header = Some(SegmentHeader::read(&key(), compressed)?);
            continue;
        }
        let (frame, found) = Frame::scan(&key(), span.offset, compressed)?;
        assert_eq!(frame.plain_bytes, span.plain_length as usize);
        entries.extend(found);
        for run in frame.runs {
            messages.extend(
                run.messages
                    .into_iter()
                    .map(|message| (run.conversation, message)),
            );
        }
    }
    Ok((header.unwrap(), messages, entries))
}

/// What FORMAT.md says, done again with nothing but a zstd decoder and a JSON parser, as `jq` would.
fn read_with_plain_tools(bytes: &[u8]) -> Vec<(String, u64, i64, u64, String)> {
    let mut text = String::new();
    zstd::stream::Decoder::new(bytes)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let (mut run, mut seq, mut at, mut rev) = (String::new(), 0, 0, 0);
    let mut messages = Vec::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(conversation) = line["conversation"].as_str() {
            let number = |name: &str| line[name].as_u64().unwrap();
            (run, seq, rev) = (
                conversation.to_owned(),
                number("first") - 1,
                number("rev").wrapping_sub(1),
            );
            at = line["at"].as_i64().unwrap();
        } else if let Some(by) = line["by"].as_str() {
            seq += 1;
            at += line["after"].as_i64().unwrap_or(0);
            rev = line["rev"].as_u64().unwrap_or(rev.wrapping_add(1));
            messages.push((
                run.clone(),
                seq,
                at,
                rev,
                format!("{by}: {}", line["text"].as_str().unwrap_or("")),
            ));
        } else {
            assert_eq!(
                (line["backscroll"].as_str(), line["version"].as_u64()),
                (Some("segment"), Some(1))
            );
        }
    }
    messages
}

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
        (attachments, reactions, metadata, edit_history) in (json(), json(), json(), json()),
        created_at in prop_oneof![any::<i64>(), 1_500_000_000_000..1_500_000_100_000i64],
        (edited_at, deleted_at) in any::<(Option<i64>, Option<i64>)>(),
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
            created_at: Timestamp(created_at),
            edited_at: edited_at.map(Timestamp),
            deleted_at: deleted_at.map(Timestamp),
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

#[test]
fn plain_tools_read_it() {
    let messages: Messages = (0..300)
        .flat_map(|low| {
            (1..=low % 7 + 1).map(move |seq| {
                (
                    conversation(low),
                    message(seq, "alice", &format!("say \"{low}\"\n{seq}")),
                )
            })
        })
        .collect();
    let (bytes, entries) = write(&messages, small_frames());
    assert!(entries.len() >= 300);
    let expected: Vec<_> = messages
        .iter()
        .map(|(conversation, m)| {
            (
                conversation.to_string(),
                m.seq.0,
                m.created_at.0,
                m.rev.0,
                format!("{}: {}", m.sender, m.content),
            )
        })
        .collect();
    assert_eq!(read_with_plain_tools(&bytes), expected);
}

#[test]
fn the_reference_implementation_reads_the_seek_table() {
    let messages: Messages = (1..200)
        .map(|seq| (conversation(1), message(seq, "alice", "hello")))
        .collect();
    let (bytes, _) = write(&messages, small_frames());
    let table = table(&bytes);
    let mut reference = zstd_safe::seekable::Seekable::create();
    reference.init_buff(&bytes).unwrap();
    assert_eq!(reference.num_frames() as usize, table.frames().len());
    for (number, span) in (0..).zip(table.frames()) {
        assert_eq!(
            reference.frame_compressed_offset(number).unwrap(),
            span.offset
        );
        assert_eq!(
            reference.frame_compressed_size(number).unwrap(),
            span.length as usize
        );
        let mut plain = vec![0; span.plain_length as usize];
        assert_eq!(
            reference.decompress_frame(&mut plain[..], number).unwrap(),
            plain.len()
        );
        assert!(plain.starts_with(if number == 0 {
            b"{\"backscroll\""
        } else {
            b"{\"conversation"
        }));
    }
}

#[test]
fn large_conversations_span_frames_and_small_ones_share_one() {
    let large = (1..=1000).map(|seq| {
        (
            conversation(1),
            message(seq, "alice", "a large conversation"),
        )
    });
    let small = (2..12).map(|low| (conversation(low), message(1, "bob", "hi")));
    let (_, entries) = write(
        &large.chain(small).collect(),
        SegmentOptions {
            level: 3,
            frame_bytes: 10_000,
        },
    );
    let of_large: Vec<_> = entries
        .iter()
        .filter(|entry| entry.conversation == conversation(1))
        .collect();
    assert!(of_large.len() > 3);
    assert!(
        of_large
            .windows(2)
            .all(|pair| pair[0].last_seq.next() == pair[1].first_seq
                && pair[0].frame.offset < pair[1].frame.offset)
    );
    assert_eq!(of_large.iter().map(|entry| entry.count).sum::<u32>(), 1000);
    let last = entries.last().unwrap();
    assert!(
        entries
            .iter()
            .rev()
            .take(10)
            .all(|entry| entry.frame == last.frame)
    );
}

#[test]
fn order_is_asked_for_and_a_hole_begins_a_run() {
    let mut writer = SegmentWriter::new(&header(), SegmentOptions::default()).unwrap();
    for seq in [1, 2, 5] {
        assert_eq!(
            writer
                .push(conversation(1), &message(seq, "alice", "x"))
                .unwrap(),
            None
        );
    }
    let error = writer
        .push(conversation(1), &message(5, "alice", "x"))
        .unwrap_err();
    assert_eq!(
        error,
        SegmentError::Unordered {
            conversation: conversation(1),
            last: Seq(5),
            given: Seq(5)
        }
    );
    let entries = writer.finish().unwrap().entries;
    let runs: Vec<_> = entries
        .iter()
        .map(|entry| (entry.first_seq.0, entry.last_seq.0))
        .collect();
    assert_eq!(runs, [(1, 2), (5, 5)]);
}

#[test]
fn a_segment_may_be_empty() {
    let (bytes, entries) = write(&Messages::new(), SegmentOptions::default());
    assert_eq!(entries, []);
    assert_eq!(scan(&bytes).unwrap(), (header(), Messages::new(), vec![]));
}

#[test]
fn a_segment_under_another_name_or_of_a_newer_version_is_refused() {
    let (bytes, _) = write(&Messages::new(), SegmentOptions::default());
    let first = table(&bytes).frames()[0];
    let other = ObjectKey::new("another").unwrap();
    let error = SegmentHeader::read(&other, &bytes[..first.length as usize]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "segment another, frame at 0: it is segment archive/0f/example.jsonl.zst"
    );

    let newer = zstd::bulk::compress(
        b"{\"backscroll\":\"segment\",\"version\":2,\"surprise\":true}\n",
        3,
    )
    .unwrap();
    let error = SegmentHeader::read(&key(), &newer).unwrap_err();
    assert_eq!(
        error,
        SegmentError::Version {
            segment: key().to_string(),
            version: 2
        }
    );
}

#[test]
fn what_is_no_frame_of_ours_is_refused() {
    let run =
        r#"{"conversation":"8f0c61a2b4d94b7e05d2f0a1c3b6e788","first":1,"count":1,"at":0,"rev":1}"#;
    let cases = [
        (String::new(), "last line does not end"),
        (format!("{run}\n"), "line 1: fewer messages follow"),
        (format!("{run}\n{{\"by\":\"a\"}}"), "last line does not end"),
        (
            format!("{run}\n{{\"text\":\"a\"}}\n"),
            "line 2: missing field `by`",
        ),
        (format!("{run}\n{{\"by\":\"\"}}\n"), "line 2: a user id has"),
        (
            format!("{run}\n{{\"by\":\"a\",\"colour\":\"red\"}}\n"),
            "line 2: unknown field `colour`",
        ),
        (
            format!("{run}\n{{\"by\":\"a\",\"bodyDigest\":\"x\"}}\n"),
            "line 2: bodyDigest",
        ),
        (
            format!("{run}\n{{\"by\":\"a\"}}\n{{\"by\":\"a\"}}\n"),
            "line 3: ",
        ),
        (
            format!(
                "{}\n{{\"by\":\"a\"}}\n",
                run.replace("\"count\":1", "\"count\":0")
            ),
            "line 1: no such messages",
        ),
        (
            format!(
                "{}\n{{\"by\":\"a\"}}\n",
                run.replace("\"first\":1", "\"first\":9223372036854775808")
            ),
            "line 1: no such messages",
        ),
        ("\n".into(), "line 1: EOF"),
    ];
    for (plain, problem) in cases {
        let compressed = zstd::bulk::compress(plain.as_bytes(), 3).unwrap();
        let error = Frame::scan(&key(), 99, &compressed)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("frame at 99: ") && error.contains(problem),
            "{plain:?}: {error}"
        );
    }
    let bomb = zstd::bulk::compress(&vec![b' '; FRAME_MAX_BYTES + 1], 3).unwrap();
    assert!(bomb.len() < 100_000);
    assert!(
        Frame::scan(&key(), 0, &bomb)
            .unwrap_err()
            .to_string()
            .contains("it states")
    );
    assert!(Frame::scan(&key(), 0, b"not zstd at all").is_err());
    assert!(SeekTable::size(&key(), [0; FOOTER]).is_err());
}

#[test]
fn the_example_in_the_specification_is_right() {
    let specification = include_str!("../../FORMAT.md");
    let blocks: Vec<&str> = specification
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let [first_line, run] = blocks[..] else {
        panic!("{} blocks", blocks.len())
    };
    let compressed = |text: &str| zstd::bulk::compress(text.as_bytes(), 3).unwrap();
    assert_eq!(
        SegmentHeader::read(&key(), &compressed(first_line)).unwrap(),
        header()
    );

    let (frame, _) = Frame::scan(&key(), 0, &compressed(run)).unwrap();
    let messages = &frame.runs[0].messages;
    let facts: Vec<_> = messages
        .iter()
        .map(|m| {
            (
                m.seq.0,
                m.created_at.0,
                m.rev.0,
                m.reply_to,
                m.reactions.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        facts,
        [
            (41, 1_507_466_702_000, 44, None, None),
            (42, 1_507_466_884_000, 45, Some(Seq(41)), None),
            (43, 1_507_466_884_950, 61, None, Some(r#"{"👍":["bob"]}"#)),
        ]
    );
    // What is written today has the specification's form, to the letter.
    let all: Messages = messages
        .iter()
        .map(|message| (frame.runs[0].conversation, message.clone()))
        .collect();
    let (bytes, _) = write(&all, SegmentOptions::default());
    let mut text = String::new();
    zstd::stream::Decoder::new(&bytes[..])
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let keys = |text: &str| -> Vec<serde_json::Value> {
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    assert_eq!(keys(&text), keys(&format!("{first_line}{run}")));
}

/// The messages of `tests/fixtures/segment-v1.jsonl.zst`, which was written by the first version of this code.
fn fixture_messages() -> Messages {
    let edited = StoredMessage {
        rev: Rev(90),
        client_msg_id: Some("0d9f3c1e-5b7a-4f0e-9a51-6c2f1f6f0b11".into()),
        body_digest: Some(-6_148_914_691_236_517_206),
        edit_history: Some(
            r#"[{"content":"helo","replacedAt":"2017-10-08T12:45:05.000Z"}]"#.into(),
        ),
        edited_at: Some(Timestamp(1_507_466_705_000)),
        ..message(2, "bob", "hello")
    };
    let image = StoredMessage {
        message_type: MessageType::Image,
        reply_to: Some(Seq(2)),
        attachments: Some(r#"[{"mediaId":"m-1","bytes":48213}]"#.into()),
        reactions: Some(r#"{"👍":["bob"]}"#.into()),
        metadata: Some("{\n  \"pretty\": true\n}".into()),
        ..message(3, "älice", "")
    };
    let deleted = StoredMessage {
        deleted_at: Some(Timestamp(1_507_470_000_000)),
        ..message(5, "alice", "")
    };
    let mut messages: Messages = [
        message(1, "alice", "two\nlines and a \"quote\""),
        edited,
        image,
        deleted,
    ]
    .map(|message| (conversation(1), message))
    .into();
    messages.extend((1..=40).map(|seq| {
        (
            conversation(2),
            message(seq, "carol", &format!("message number {seq}")),
        )
    }));
    messages
}

#[test]
fn the_first_version_is_read_for_ever() {
    let bytes = include_bytes!("../../tests/fixtures/segment-v1.jsonl.zst");
    let (found_header, messages, entries) = scan(bytes).unwrap();
    assert_eq!(found_header, header());
    assert_eq!(messages, fixture_messages());
    assert_eq!(entries.len(), 5);
    // As the index had them when it was written: digests must never be computed differently.
    let digests: Vec<String> = entries
        .iter()
        .map(|entry| entry.frame.digest.to_string())
        .collect();
    let [first, second, third] = ["e03d061dc4f288e2", "23b7d4e62fa2fa6f", "b2957b09476b67a1"];
    assert_eq!(digests, [first, first, first, second, third]);
    assert_eq!(read(bytes, &entries), messages);
    assert_eq!(read_with_plain_tools(bytes).len(), messages.len());
}
