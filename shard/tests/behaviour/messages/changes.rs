//! Editing, deleting, reacting.

use backscroll_shard::error::Error;

use crate::bed::{Bed, caller};

crate::on_every_backend!(
    edits_keep_their_history,
    deleting_leaves_an_empty_place,
    reactions_are_sets,
);

async fn edits_keep_their_history(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let sent = bed.say("alice", id, "one").await;
    let edited = bed
        .store
        .edit_message(&caller("alice"), sent.id, "two".into())
        .await
        .unwrap();
    assert_eq!(edited.content, "two");
    assert!(edited.rev > sent.rev && edited.edited_at.is_some());
    let unchanged = bed
        .store
        .edit_message(&caller("alice"), sent.id, "two".into())
        .await
        .unwrap();
    assert_eq!(unchanged.rev, edited.rev, "no change takes no rev");
    bed.store
        .edit_message(&caller("alice"), sent.id, "three".into())
        .await
        .unwrap();
    let message = bed.store.message(&caller("bob"), sent.id).await.unwrap();
    let history: Vec<backscroll_shard::model::Edit> =
        serde_json::from_str(message.edit_history.unwrap().get()).unwrap();
    assert_eq!(
        history
            .iter()
            .map(|edit| edit.content.as_str())
            .collect::<Vec<_>>(),
        ["one", "two"]
    );
    let by_bob = bed
        .store
        .edit_message(&caller("bob"), sent.id, "mine".into())
        .await;
    assert!(matches!(by_bob, Err(Error::Forbidden(_))));
    bed.settle().await;
    let list = bed
        .store
        .list_conversations(&caller("bob"), None, 10)
        .await
        .unwrap();
    assert_eq!(
        list.conversations[0].last_message.as_ref().unwrap().content,
        "three",
        "the preview follows"
    );
    for n in 0..30 {
        bed.store
            .edit_message(&caller("alice"), sent.id, format!("edit {n}"))
            .await
            .unwrap();
    }
    let message = bed.store.message(&caller("bob"), sent.id).await.unwrap();
    let history: Vec<backscroll_shard::model::Edit> =
        serde_json::from_str(message.edit_history.unwrap().get()).unwrap();
    assert_eq!(history.len(), 20, "bounded; the latest are kept");
    assert_eq!(history.last().unwrap().content, "edit 28");
}

async fn deleting_leaves_an_empty_place(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    let secret = bed.say("bob", id, "secret").await;
    bed.store
        .edit_message(&caller("bob"), secret.id, "secret, edited".into())
        .await
        .unwrap();
    let by_carol = bed.store.delete_message(&caller("carol"), secret.id).await;
    assert!(matches!(by_carol, Err(Error::Forbidden(_))));
    let deleted = bed
        .store
        .delete_message(&caller("alice"), secret.id)
        .await
        .unwrap();
    assert!(deleted.deleted_at.is_some() && deleted.content.is_empty());
    let again = bed
        .store
        .delete_message(&caller("bob"), secret.id)
        .await
        .unwrap();
    assert_eq!(again.rev, deleted.rev);
    let message = bed
        .store
        .message(&caller("carol"), secret.id)
        .await
        .unwrap();
    assert_eq!(
        (message.content.as_str(), message.edit_history),
        ("", None),
        "nothing of it is left"
    );
    let edit = bed
        .store
        .edit_message(&caller("bob"), secret.id, "back".into())
        .await;
    assert!(matches!(edit, Err(Error::Conflict(_))));
    assert_eq!(bed.log("carol", id).await.len(), 1);
}

async fn reactions_are_sets(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let sent = bed.say("alice", id, "party?").await;
    let one = bed
        .store
        .react(&caller("bob"), sent.id, "🎉")
        .await
        .unwrap();
    let same = bed
        .store
        .react(&caller("bob"), sent.id, "🎉")
        .await
        .unwrap();
    assert_eq!(one.rev, same.rev);
    let both = bed
        .store
        .react(&caller("alice"), sent.id, "🎉")
        .await
        .unwrap();
    assert_eq!(both.reactions.get(), r#"{"🎉":["bob","alice"]}"#);
    bed.store
        .unreact(&caller("bob"), sent.id, "🎉")
        .await
        .unwrap();
    let none = bed
        .store
        .unreact(&caller("alice"), sent.id, "🎉")
        .await
        .unwrap();
    assert_eq!(none.reactions.get(), "{}");
    // What looks alike is one emoji, however it is written.
    for (name, heart) in [("alice", "❤"), ("bob", "❤\u{FE0F}"), ("bob", "❤\u{FE0E}")] {
        let hearts = bed.store.react(&caller(name), sent.id, heart).await;
        assert!(
            hearts
                .unwrap()
                .reactions
                .get()
                .starts_with("{\"❤\u{FE0F}\":[\"alice\"")
        );
    }
    for name in ["alice", "bob"] {
        bed.store
            .unreact(&caller(name), sent.id, "❤")
            .await
            .unwrap();
    }
    let message = bed.store.message(&caller("bob"), sent.id).await.unwrap();
    assert_eq!(message.reactions.get(), "{}");
    for wrong in [
        "",
        " ",
        "a b",
        "\u{0}",
        ".",
        "..",
        "\u{200B}",
        "👍\u{2060}",
        &"x".repeat(65),
    ] {
        assert!(
            matches!(
                bed.store.react(&caller("bob"), sent.id, wrong).await,
                Err(Error::Invalid(_))
            ),
            "{wrong:?}"
        );
    }
}
