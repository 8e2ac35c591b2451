//! Watermarks, wherever a member is shown: a sender has read up to their own newest message, which the head tells and not
//! the member's row.

use backscroll_shard::ids::Seq;
use backscroll_shard::model::Role;

use crate::bed::{Bed, caller, user};

crate::on_every_backend!(a_sender_has_read_up_to_their_message_wherever_they_are_shown);

async fn a_sender_has_read_up_to_their_message_wherever_they_are_shown(bed: &Bed) {
    let id = bed.group("alice", &["bob", "carol"]).await;
    for content in ["one", "two", "three"] {
        bed.say("bob", id, content).await;
    }
    let (alice, bob) = (caller("alice"), user("bob"));
    let page = bed.store.members(&alice, id, None, 10).await.unwrap();
    let listed = page.members.iter().find(|member| member.user_id == bob);
    assert_eq!(listed.unwrap().read_seq, Seq(3));
    let conversation = bed.store.conversation(&alice, id).await.unwrap();
    let shown = conversation.members.iter();
    let shown = shown.filter(|member| member.user_id == bob);
    assert_eq!(shown.map(|it| it.read_seq).collect::<Vec<_>>(), [Seq(3)]);
    for role in [Role::Member, Role::Admin] {
        let changed = bed.store.change_role(&alice, id, &bob, role).await.unwrap();
        let marks = (changed.read_seq, changed.delivered_seq);
        assert_eq!(marks, (Seq(3), Seq(3)), "{role:?}");
    }
    let mine = bed.store.conversation(&caller("bob"), id).await.unwrap();
    assert_eq!((mine.read_seq, mine.unread_count), (Seq(3), 0));
}
