//! Slack's markup of mentions and links as plain text.

use std::collections::BTreeMap;

/// The names of people by their ids.
pub(super) struct Names<'a>(pub &'a BTreeMap<String, String>);

impl Names<'_> {
    /// `text` without `<…>` and without the escapes of `&`, `<` and `>`.
    pub(super) fn plain(&self, text: &str) -> String {
        let mut plain = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('<') {
            plain.push_str(before);
            let Some((inside, after)) = after.split_once('>') else {
                plain.push('<');
                rest = after;
                continue;
            };
            plain.push_str(&self.reference(inside));
            rest = after;
        }
        plain.push_str(rest);
        plain
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    }

    fn reference(&self, inside: &str) -> String {
        let (target, label) = inside.split_once('|').unwrap_or((inside, ""));
        let labelled = |otherwise: &str| match label {
            "" => otherwise.to_owned(),
            label => label.to_owned(),
        };
        match target.split_at_checked(1) {
            Some(("@", id)) => {
                let known = self.0.get(id).filter(|name| !name.is_empty());
                format!("@{}", known.cloned().unwrap_or_else(|| labelled(id)))
            }
            Some(("#", id)) => format!("#{}", labelled(id)),
            Some(("!", command)) => {
                let name = command.split('^').next().unwrap_or(command);
                match label {
                    "" => format!("@{name}"),
                    label => label.to_owned(),
                }
            }
            _ if label.is_empty() || label == target => target.to_owned(),
            _ => format!("{label} ({target})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_what_people_read() {
        let people = BTreeMap::from([("U1".to_owned(), "ann".to_owned())]);
        for (text, plain) in [
            ("hi <@U1>, <@U9> and <@U8|ben>", "hi @ann, @U9 and @ben"),
            (
                "see <#C1|general> <!here> <!subteam^S1|@ops>",
                "see #general @here @ops",
            ),
            (
                "<https://a.example/?x=1&amp;y=2|the page>",
                "the page (https://a.example/?x=1&y=2)",
            ),
            ("<https://a.example>", "https://a.example"),
            ("a &lt;b&gt; &amp;amp; c < d", "a <b> &amp; c < d"),
            ("<!date^1392734382^{date}|18 Feb>", "18 Feb"),
        ] {
            assert_eq!(Names(&people).plain(text), plain);
        }
    }
}
