//! What is written is what FORMAT.md says, and what was written earlier stays readable.

use std::io::Read as _;

use super::*;

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
fn the_example_in_the_specification_is_right() {
    let specification = include_str!("../../../FORMAT.md");
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
    let bytes = include_bytes!("../../../tests/fixtures/segment-v1.jsonl.zst");
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
