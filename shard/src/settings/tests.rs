use super::*;

#[test]
fn passwords_are_not_shown() {
    let url = DatabaseUrl("mysql://bs:p@ss:word@db1:3306/chat".into());
    assert_eq!(url.redacted(), "mysql://bs:***@db1:3306/chat");
    assert!(!format!("{url:?}").contains("word"));
    assert_eq!(
        DatabaseUrl("sqlite://a.db".into()).redacted(),
        "sqlite://a.db"
    );
}

#[test]
fn spans_are_written_as_people_write_them() {
    let read = |text: &str| serde_json::from_value::<Span>(text.into());
    assert_eq!(read("5s").unwrap(), Span::secs(5));
    assert_eq!(read("250 ms").unwrap(), Span::millis(250));
    assert_eq!(read("30 days").unwrap(), Span::secs(30 * 86_400));
    assert!(read("soon").is_err() && read("-5s").is_err() && read("1 month").is_err());
    let bare = serde_json::from_value::<Span>(5.into()).unwrap_err();
    assert_eq!(
        bare.to_string(),
        "invalid type: integer `5`, expected a duration with its unit, as \"5s\" or \"30 days\""
    );
    assert_eq!(
        serde_json::to_string(&Span::millis(1500)).unwrap(),
        "\"1s 500ms\""
    );
    for (secs, text) in [(86_400, "1 day"), (30 * 86_400, "30 days"), (90_000, "25h")] {
        assert_eq!(Span::secs(secs).to_string(), text);
        assert_eq!(read(text).unwrap(), Span::secs(secs));
    }
}
