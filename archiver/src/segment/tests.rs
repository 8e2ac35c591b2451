//! Segments are written, read and refused as they should be.

mod generated;
mod specification;

use backscroll_shard::ids::{ConversationId, Rev, Seq, UserId, UserKey};
use backscroll_shard::message::StoredMessage;
use backscroll_shard::model::{MessageType, Timestamp};

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
        pin: None,
        mentions: None,
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
