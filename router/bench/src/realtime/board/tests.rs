use super::*;

/// A room of two, with a speaker and a listener.
fn room_of_two() -> (Arc<Board>, Listening, Listening) {
    let board = Board::new([2]).unwrap();
    let (own, other) = (board.listen(0, true), board.listen(0, false));
    board.begin(Duration::from_secs(60), None).unwrap();
    (board, own, other)
}

#[test]
fn a_message_is_complete_when_it_is_acknowledged_and_everybody_has_it() {
    let (board, mut own, mut other) = room_of_two();
    let permits = Arc::new(Semaphore::new(0));
    board
        .begin(Duration::from_secs(60), Some(Arc::clone(&permits)))
        .unwrap();
    let said = board.say(0, board.now());
    board.received(&mut other, &said);
    board.received(&mut own, &said);
    assert_eq!((board.progress().0, permits.available_permits()), (1, 0));
    board.acknowledged(&said);
    assert_eq!((board.progress().0, permits.available_permits()), (0, 1));
    let tally = board.end().unwrap();
    assert!(tally.faults().none());
    assert_eq!((tally.complete_in_time, tally.deliveries), (1, 2));
    assert_eq!(
        (tally.before_acknowledgement, tally.to_receiver.len()),
        (1, 1)
    );
}

#[test]
fn what_is_lost_doubled_and_out_of_order_is_found() {
    let (board, mut own, mut other) = room_of_two();
    let said: Vec<Said> = (0..4).map(|_| board.say(0, board.now())).collect();
    for said in &said {
        board.acknowledged(said);
        board.received(&mut own, said);
    }
    for n in [0, 2, 1, 1] {
        board.received(&mut other, &said[n]);
    }
    let faults = board.end().unwrap().faults();
    assert_eq!(
        (faults.lost, faults.doubled, faults.out_of_order),
        (1, 1, 1)
    );
}

#[test]
fn what_was_refused_is_not_lost() {
    let (board, mut own, mut other) = room_of_two();
    let refused = board.say(0, board.now());
    board.refused(&refused, "no");
    let said = board.say(0, board.now());
    board.acknowledged(&said);
    board.received(&mut own, &said);
    board.received(&mut other, &said);
    let tally = board.end().unwrap();
    assert_eq!((tally.lost, tally.faults().refused), (0, 1));
}

#[test]
fn a_message_says_what_it_is() {
    let board = Board::new([1]).unwrap();
    let said = board.say(0, 12_345);
    let mut data = String::new();
    board.write_message(&said, "abc", &mut data);
    assert_eq!(Said::read(&data), Some(said));
    assert!(
        serde_json::from_str::<serde_json::Value>(&data).is_ok(),
        "{data}"
    );
    assert_eq!(Said::read(r#"{"content":"hello"}"#), None);
}
