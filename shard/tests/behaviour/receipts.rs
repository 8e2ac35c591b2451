//! Who received and read a message, and when.

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Seq};
use backscroll_shard::model::{
    ConversationKind, MemberReceipt, NewMembers, ReceiptList, Role, Timestamp,
};

use crate::bed::{Bed, caller, user};

crate::on_every_backend!(
    receipts_say_between_which_times,
    receipts_are_for_members_of_small_conversations,
);

fn names(receipts: &[MemberReceipt]) -> Vec<&str> {
    receipts.iter().map(|it| it.user_id.as_str()).collect()
}

async fn receipts(bed: &Bed, id: ConversationId, seq: Seq) -> ReceiptList {
    let message = backscroll_shard::ids::MessageId {
        conversation: id,
        seq,
    };
    bed.store.receipts(&caller("alice"), message).await.unwrap()
}

async fn receipts_say_between_which_times(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol", "dave"]).await;
    let first = bed.say("alice", id, "first").await;
    assert_eq!(receipts(bed, id, first.seq).await, ReceiptList::default());
    let begun = Timestamp::now();
    bed.store
        .mark_read(&caller("bob"), id, Some(first.seq))
        .await
        .unwrap();
    bed.store
        .mark_delivered(&caller("carol"), id, Some(first.seq))
        .await
        .unwrap();
    let ended = Timestamp::now();
    let list = receipts(bed, id, first.seq).await;
    assert_eq!(names(&list.delivered), ["bob", "carol"]);
    assert_eq!(names(&list.read), ["bob"]);
    for receipt in list.delivered.iter().chain(&list.read) {
        let at = receipt.at.unwrap();
        assert!((begun..=ended).contains(&at), "{at:?}");
        assert_eq!(receipt.after, None);
    }
    // Reading again moves nothing.
    bed.store
        .mark_read(&caller("bob"), id, Some(first.seq))
        .await
        .unwrap();
    assert_eq!(receipts(bed, id, first.seq).await, list);
    // Whoever answers has read; the sender of a message is not among its readers, nor is whoever came later.
    let reply = bed.say("dave", id, "an answer").await;
    let new = NewMembers {
        members: vec![user("erin")],
        role: Role::Member,
    };
    bed.store
        .add_members(&caller("alice"), id, new)
        .await
        .unwrap();
    let list = receipts(bed, id, first.seq).await;
    assert_eq!(names(&list.read), ["bob", "dave"]);
    assert_eq!(list.read[1].at, Some(reply.created_at));
    assert_eq!(
        names(&receipts(bed, id, reply.seq).await.read),
        [] as [&str; 0]
    );
    bed.store
        .remove_member(&caller("alice"), id, &user("bob"))
        .await
        .unwrap();
    assert_eq!(names(&receipts(bed, id, first.seq).await.read), ["dave"]);
}

async fn receipts_are_for_members_of_small_conversations(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    let first = bed.say("alice", id, "first").await;
    let stranger = bed.store.receipts(&caller("eve"), first.id).await;
    assert!(matches!(stranger, Err(Error::NotMember)), "{stranger:?}");
    let beyond = backscroll_shard::ids::MessageId {
        conversation: id,
        seq: Seq(9),
    };
    let beyond = bed.store.receipts(&caller("bob"), beyond).await;
    assert!(matches!(beyond, Err(Error::NotFound(_))), "{beyond:?}");
    let channel = bed
        .create("alice", ConversationKind::Channel, &["bob"])
        .await
        .unwrap();
    let said = bed.say("alice", channel, "to all").await;
    bed.store
        .mark_read(&caller("bob"), channel, None)
        .await
        .unwrap();
    let none = bed.store.receipts(&caller("bob"), said.id).await;
    assert!(matches!(none, Err(Error::Conflict(_))), "{none:?}");
}
