//! What was said a moment ago: conversations between few, and the newest lines of the rooms.

use backscroll_shard::model::ConversationKind;

/// A conversation without a history.
#[derive(Debug)]
pub(super) struct Small {
    /// Its creator first.
    pub(super) members: &'static [&'static str],
    pub(super) kind: ConversationKind,
    pub(super) title: Option<&'static str>,
    pub(super) lines: &'static [(&'static str, &'static str)],
}

/// Direct conversations and a group.
pub(super) const SMALL: [Small; 5] = [
    Small {
        members: &["ben", "alice"],
        kind: ConversationKind::Direct,
        title: None,
        lines: &[
            ("ben", "are you at the workshop already?"),
            ("alice", "Since nine. The cargo bike is done"),
            ("ben", "you're fast"),
            (
                "alice",
                "Emeka did the hard part. Can you bring the key for the cellar?",
            ),
            ("ben", "it's in my jacket, i think"),
            ("alice", "You think?"),
            ("ben", "it's in my jacket"),
        ],
    },
    Small {
        members: &["greta", "alice"],
        kind: ConversationKind::Direct,
        title: None,
        lines: &[
            ("greta", "Do you still have the guide book for the quarry?"),
            ("alice", "Yes, with your notes in it"),
            ("greta", "Those are warnings, not notes."),
            ("alice", "I'll bring it on Wednesday"),
        ],
    },
    Small {
        members: &["fumiko", "alice"],
        kind: ConversationKind::Direct,
        title: None,
        lines: &[
            ("fumiko", "The plumber was here"),
            ("alice", "And?"),
            (
                "fumiko",
                "He took a photo of the boiler to show it to his colleagues",
            ),
            ("alice", "Oh no"),
            ("fumiko", "He is coming back with one of them on Friday"),
        ],
    },
    Small {
        members: &["carmen", "emeka"],
        kind: ConversationKind::Direct,
        title: None,
        lines: &[
            (
                "carmen",
                "Did you see the poster? They put the wrong Saturday on it",
            ),
            ("emeka", "I am printing new ones."),
            ("carmen", "You're the best 😊"),
        ],
    },
    Small {
        members: &["greta", "alice", "ben", "carmen", "hassan"],
        kind: ConversationKind::Group,
        title: Some("A surprise for Ines"),
        lines: &[
            ("greta", "Her birthday is in three weeks. Ideas?"),
            ("carmen", "A cake in the shape of a chainring!"),
            ("ben", "how many teeth"),
            ("carmen", "As many as she has years, obviously"),
            ("hassan", "I can bake but I can't count that far 🙂"),
            ("alice", "I'll do the icing. Where do we hide it?"),
            ("greta", "The cellar, if Ben finds the key."),
            ("ben", "it's in my jacket"),
        ],
    },
];

/// The newest lines of the rooms.
pub(super) const IN_ROOMS: [(&str, &[(&str, &str)]); 3] = [
    (
        "workshop",
        &[
            ("emeka", "The cargo bike is ready for its owner."),
            ("dmitri", "nice. who test-rode it?"),
            ("alice", "I did, with two crates of apples. It flies"),
            ("ines", "Where are the apples now?"),
        ],
    ),
    (
        "climbing",
        &[
            ("greta", "Quarry on Wednesday, who's in?"),
            ("hassan", "Me!"),
        ],
    ),
    (
        "flat-12",
        &[(
            "fumiko",
            "Boiler: Friday, two plumbers, between eight and noon",
        )],
    ),
];
