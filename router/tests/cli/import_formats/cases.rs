//! A small export of each system, and what is right.

/// An export, what is understood of it, and what becomes of it.
pub(super) struct Case {
    pub(super) format: &'static str,
    /// In `exports`.
    pub(super) sample: &'static str,
    pub(super) arguments: &'static [&'static str],
    /// A file of it: the folder's, or itself.
    pub(super) file: &'static str,
    /// What stands in that file, and what stands there when one more message was written.
    pub(super) longer: (&'static str, &'static str),
    /// The same for a text that was another.
    pub(super) changed: (&'static str, &'static str),
    /// The same for a file that is broken, and what is said of it.
    pub(super) broken: (&'static str, &'static str, &'static str),
    /// What the dry run prints, among other things.
    pub(super) shows: &'static [&'static str],
    /// The messages of each conversation as `export` writes them, by title; a direct one has none.
    pub(super) messages: &'static [(&'static str, &'static [&'static str])],
}

pub(super) const SLACK: Case = Case {
    format: "slack",
    sample: "slack",
    arguments: &[],
    file: "general/2017-12-02.json",
    longer: (
        r#""ts":"1512172361.000100"}"#,
        r#""ts":"1512172361.000100"},{"type":"message","user":"U3","text":"new","ts":"1512172362.0001"}"#,
    ),
    changed: ("build 7", "build 8"),
    broken: (
        r#""ts":"1512172361.000100""#,
        r#""ts":"noon""#,
        "2017-12-02.json: record 2: ts: `noon` is no time",
    ),
    shows: &[
        "People: 5\n  B1\n  U1  ann\n  U2  ben\n  U3  cat\n",
        "  channel general: 5 messages, 5 members, 2017-11-30T23:52:30+00:00[UTC] to 2017-12-01T23:52:41+00:00[UTC]\n",
        "  direct U1, U2: 1 message, 2 members, ",
        "  group mpdm-ann--ben--cat-1: 1 message, 3 members, ",
        "Messages: 7\n  replies: 1\n  reactions: 1\n  edited: 1\n  deleted (only the place is stored): 1\n  notices of the system: 1\n  attachments (name, size, type and address are kept, the bytes stay where they are): 1\n",
        "  files that Slack had deleted or hidden: 1\n",
        "  reactions whose people the export does not name: 1\n",
    ],
    messages: &[
        (
            "general",
            &[
                r#""user":"U2","at":1512085950000,"text":"@ben has joined the channel","type":"system"}"#,
                r#""user":"U1","at":1512085960000,"text":"Hello @ben & all, see the plan (https://example.org)","reactions":{"+1":["U2"]},"editedAt":1512085999000}"#,
                r#""user":"U2","at":1512086000000,"text":"done","replyTo":2,"attachments":[{"name":"plan.pdf","size":1234,"type":"application/pdf","url":"https://files.slack.com/plan.pdf"}]}"#,
                r#""user":"USLACKBOT","at":1512172360000,"text":"","deletedAt":1512172360000}"#,
                r#""user":"B1","at":1512172361000,"text":"build 7 is green"}"#,
            ],
        ),
        (
            "mpdm-ann--ben--cat-1",
            &[r#""user":"U2","at":1512086200000,"text":"us three"}"#],
        ),
        (
            "U1\tU2",
            &[r#""user":"U2","at":1512086100000,"text":"just you"}"#],
        ),
    ],
};

pub(super) const MATTERMOST: Case = Case {
    format: "mattermost",
    sample: "mattermost.jsonl",
    arguments: &[],
    file: "",
    longer: (
        "\"create_at\":1512086100000}}\n",
        "\"create_at\":1512086100000}}\n{\"type\":\"direct_post\",\"direct_post\":{\"channel_members\":[\"ann\",\"ben\"],\"user\":\"ben\",\"message\":\"new\",\"create_at\":1512086200000}}\n",
    ),
    changed: ("just you", "just me"),
    broken: (
        r#""create_at":1512086100000"#,
        r#""create_at":"x""#,
        "line 11: ",
    ),
    shows: &[
        "People: 3\n  ann  Ann Example\n  ben  Benny\n  silent\n",
        "  channel Town Square: 4 messages, 3 members, 2017-11-30T23:52:30+00:00[UTC] to ",
        "  direct ann, ben: 1 message, 2 members, ",
        "  replies: 1\n  reactions: 1\n  edited: 1\n  deleted (only the place is stored): 0\n  notices of the system: 1\n  attachments (name, ",
    ],
    messages: &[
        (
            "Town Square",
            &[
                r#""user":"ann","at":1512085950000,"text":"ann joined the channel.","type":"system"}"#,
                r#""user":"ann","at":1512085960000,"text":"hello @ben","reactions":{"+1":["ben"]},"editedAt":1512085970000}"#,
                r#""user":"ben","at":1512086000000,"text":"later","attachments":[{"name":"plan.pdf","url":"20171201/plan.pdf"}]}"#,
                r#""user":"ben","at":1512086050000,"text":"hello","replyTo":2}"#,
            ],
        ),
        (
            "ann\tben",
            &[r#""user":"ann","at":1512086100000,"text":"just you"}"#],
        ),
    ],
};

pub(super) const DISCORD: Case = Case {
    format: "discord",
    sample: "discord.json",
    arguments: &[],
    file: "",
    longer: (
        "\n],\"messageCount\"",
        ",\n{\"id\":\"104\",\"type\":\"Default\",\"timestamp\":\"2024-01-03T03:04:05Z\",\"content\":\"new\",\"author\":{\"id\":\"7\",\"name\":\"ann\"}}],\"messageCount\"",
    ),
    changed: ("hello yourself", "hello you"),
    broken: (
        r#""timestamp":"2024-01-02T03:04:05+00:00""#,
        r#""timestamp":"2024-01-02 03:04""#,
        "messages[1]: `2024-01-02 03:04` is no time with a zone",
    ),
    shows: &[
        "People: 2\n  7  Ann\n  8  Ben\n",
        "  channel lounge: 3 messages, 2 members, 2024-01-02T03:04:05+00:00[UTC] to 2024-01-02T03:04:07.5+00:00[UTC]\n",
        "  replies: 1\n  reactions: 1\n  edited: 1\n",
        "  marks of pinned messages: 1\n",
        "  previews of links and boxes of apps: 1\n",
    ],
    messages: &[(
        "lounge",
        &[
            r#""user":"8","at":1704164645000,"text":"Joined the server.","type":"system"}"#,
            r#""user":"7","at":1704164646000,"text":"hello","reactions":{"👍":["8"]},"editedAt":1704164700000}"#,
            r#""user":"8","at":1704164647500,"text":"hello yourself","replyTo":2,"attachments":[{"name":"cat.png","size":2048,"url":"https://cdn.discordapp.com/cat.png"}]}"#,
        ],
    )],
};

pub(super) const ANDROID: Case = Case {
    format: "whatsapp",
    sample: "whatsapp-android.txt",
    arguments: &["--time-zone", "Europe/Berlin", "--channel", "Family"],
    file: "",
    longer: (
        "Ann: <Media omitted>\n",
        "Ann: <Media omitted>\n1/2/21, 9:00\u{202f}AM - Ben: new\n",
    ),
    changed: ("a second line", "another line"),
    broken: (
        "12/31/20, 9:15",
        "13/32/20, 9:15",
        "its dates are in no one order",
    ),
    shows: &[
        "People: 3\n  Ann\n  Ben\n  system\n",
        "  group Family: 6 messages, 3 members, 2020-12-31T21:14:00+01:00[Europe/Berlin] to 2021-01-01T00:06:00+01:00[Europe/Berlin]\n",
        "  edited: 1\n  deleted (only the place is stored): 1\n  notices of the system: 1\n  attachments (name, ",
        "  files that the export was made without: 1\n",
    ],
    messages: &[(
        "Family",
        &[
            r#""user":"system","at":1609445640000,"text":"Messages and calls are end-to-end encrypted. No one outside of this chat, not even WhatsApp, can read or listen to them.","type":"system"}"#,
            r#""user":"Ann","at":1609445700000,"text":"hello\nand a second line"}"#,
            r#""user":"Ben","at":1609445760000,"text":"","attachments":[{"name":"IMG-1.jpg","url":"IMG-1.jpg"}]}"#,
            r#""user":"Ben","at":1609445820000,"text":"","deletedAt":1609445820000}"#,
            r#""user":"Ann","at":1609455900000,"text":"happy new year","editedAt":1609455900000}"#,
            r#""user":"Ann","at":1609455960000,"text":"<Media omitted>"}"#,
        ],
    )],
};

pub(super) const IOS: Case = Case {
    format: "whatsapp",
    sample: "whatsapp-ios.txt",
    arguments: &["--time-zone", "UTC", "--channel", "Family"],
    file: "",
    longer: (
        "PHOTO.jpg>\r\n",
        "PHOTO.jpg>\r\n[01.01.21, 00:00:01] Ben: new\r\n",
    ),
    changed: ("hello", "hullo"),
    broken: (
        "\u{200e}[31.12.20, 21:14:00]",
        "no date",
        "line 1: does not begin with a date and a time",
    ),
    shows: &[
        "  group Family: 3 messages, 3 members, 2020-12-31T21:14:00+00:00[UTC] to 2020-12-31T21:16:04+00:00[UTC]\n",
    ],
    messages: &[(
        "Family",
        &[
            r#""user":"system","at":1609449240000,"text":"Messages and calls are end-to-end encrypted.","type":"system"}"#,
            r#""user":"Ann","at":1609449303000,"text":"hello\nand a second line"}"#,
            r#""user":"Ben","at":1609449364000,"text":"","attachments":[{"name":"00000003-PHOTO.jpg","url":"00000003-PHOTO.jpg"}]}"#,
        ],
    )],
};

pub(super) const MESSENGER: Case = Case {
    format: "messenger",
    sample: "messenger",
    arguments: &[],
    file: "message_1.json",
    longer: (
        "\"messages\":[\n",
        "\"messages\":[\n{\"sender_name\":\"Ben\",\"timestamp_ms\":1512086200000,\"content\":\"new\"},\n",
    ),
    changed: ("caf", "kaf"),
    broken: (
        "\"timestamp_ms\":1512086100000",
        "\"timestamp_ms\":\"x\"",
        "message_1.json: messages[0].timestamp_ms: invalid type",
    ),
    shows: &[
        "People: 2\n  Ben\n  Zoë\n",
        "  direct Ben, Zoë: 4 messages, 2 members, 2017-11-30T23:52:30+00:00[UTC] to 2017-11-30T23:55:00+00:00[UTC]\n",
        "  reactions: 1\n  edited: 0\n  deleted (only",
    ],
    messages: &[(
        "Ben\tZoë",
        &[
            r#""user":"Ben","at":1512085950000,"text":"look\nhttps://example.org"}"#,
            r#""user":"Ben","at":1512085960000,"text":"","deletedAt":1512085960000}"#,
            r#""user":"Zoë","at":1512086000000,"text":"café 😀","reactions":{"❤️":["Ben"]}}"#,
            r#""user":"Ben","at":1512086100000,"text":"","attachments":[{"name":"1.jpg","type":"photo","url":"messages/inbox/zoe_1/photos/1.jpg"}]}"#,
        ],
    )],
};

pub(super) const TELEGRAM: Case = Case {
    format: "telegram",
    sample: "telegram.json",
    arguments: &[],
    file: "",
    longer: (
        "\n]}",
        ",\n{\"id\":6,\"type\":\"message\",\"date_unixtime\":\"1614593200\",\"from\":\"Ann\",\"from_id\":\"user11\",\"text\":\"new\"}]}",
    ),
    changed: ("\"rain\"", "\"snow\""),
    broken: (
        r#""date_unixtime":"1614592860""#,
        r#""date_unixtime":"noon""#,
        "chat `Climbers`: messages[1]: `noon` is no time in seconds",
    ),
    shows: &[
        "People: 2\n  user11  Ann\n  user12  Ben\n",
        "  group Climbers: 4 messages, 2 members, 2021-03-01T10:00:00+00:00[UTC] to 2021-03-01T10:06:00+00:00[UTC]\n",
        "  polls: 1\n  reactions whose people the export does not name: 1\n",
    ],
    messages: &[(
        "Climbers",
        &[
            r#""user":"user11","at":1614592800000,"text":"create group: Ann, Ben, Climbers","type":"system"}"#,
            r#""user":"user11","at":1614592860000,"text":"see the route (https://example.org) at noon","reactions":{"👍":["user12"]},"editedAt":1614592920000}"#,
            r#""user":"user12","at":1614593100000,"text":"rain","replyTo":2,"attachments":[{"name":"rain.pdf","size":900,"type":"application/pdf","url":"files/rain.pdf"}],"metadata":{"forwardedFrom":"Weather"}}"#,
            r#""user":"user12","at":1614593160000,"text":"","attachments":[{"type":"photo"}]}"#,
        ],
    )],
};
