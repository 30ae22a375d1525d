//! Foreign text made safe to show: what a tenant or a registry wrote never reaches a log, a record
//! or a terminal as control characters, and never without a limit.

use std::error::Error;

/// An error with its causes in one printable line, those left out that an outer one has already
/// quoted.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut all = said.clone();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !said.ends_with(&text) {
            all.push_str(": ");
            all.push_str(&text);
        }
        said = text;
        source = error.source();
    }
    printable(&all, 2000)
}

/// `text` with control characters (but line feed and tab) escaped, cut to `max` characters with an
/// ellipsis at the end when something is missing.
pub fn printable(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut count = 0usize;
    for c in text.chars() {
        let width = if is_harmless(c) {
            1
        } else {
            c.escape_default().count()
        };
        if count + width > max {
            while out.chars().count() >= max {
                out.pop();
            }
            out.push('…');
            return out;
        }
        if is_harmless(c) {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
        count += width;
    }
    out
}

/// The last `max_bytes` of `text`, printable, beginning at a character boundary.
pub fn printable_tail(text: &str, max_bytes: usize) -> String {
    let escaped = printable(text, usize::MAX);
    let mut start = escaped.len().saturating_sub(max_bytes);
    while !escaped.is_char_boundary(start) {
        start += 1;
    }
    escaped.get(start..).unwrap_or_default().to_owned()
}

/// What serde says of a value of the wrong type, or of an unknown word, without the value itself: it
/// may be a secret that stands one place beside its own.
pub fn without_value(message: &str) -> String {
    let quotes_it = ["invalid type: ", "invalid value: ", "unknown variant "];
    let expected = message.rfind(", expected ");
    let (Some(fault), Some(expected)) = (
        quotes_it
            .into_iter()
            .find(|fault| message.starts_with(fault)),
        expected,
    ) else {
        return message.to_owned();
    };
    let (head, tail) = message.split_at(expected);
    let value = head.get(fault.len()..).unwrap_or_default();
    let kind = value.split(['"', '`']).next().unwrap_or_default();
    format!(
        "{}{tail}",
        format!("{fault}{kind}").trim_end_matches([':', ' '])
    )
}

/// Neither a control character nor one that reorders what is around it.
fn is_harmless(c: char) -> bool {
    let reorders =
        matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    (!c.is_control() && !reorders) || c == '\n' || c == '\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn a_chain_names_each_cause_once() {
        let refused = Said("refused\u{1b}", None);
        let quoting = Said("dial: refused\u{1b}", Some(Box::new(refused)));
        let outer = Said("no answer", Some(Box::new(quoting)));
        assert_eq!(chain(&outer), "no answer: dial: refused\\u{1b}");
    }

    #[test]
    fn control_characters_are_escaped_and_length_is_limited() {
        assert_eq!(printable("a\u{1b}[31mb", 100), "a\\u{1b}[31mb");
        assert_eq!(printable("abcdef", 6), "abcdef");
        assert_eq!(printable("abcdefg", 6), "abcde…");
        assert!(printable(&"\u{0}".repeat(5000), 1000).chars().count() <= 1000);
    }

    #[test]
    fn what_serde_says_names_the_kind_and_keeps_the_value_to_itself() {
        let told = |text: &str| {
            let error = serde_json::from_str::<Vec<Option<bool>>>(text).unwrap_err();
            without_value(
                error
                    .to_string()
                    .split(" at line")
                    .next()
                    .unwrap_or_default(),
            )
        };
        assert_eq!(
            told(r#""s, expected x""#),
            "invalid type: string, expected a sequence"
        );
        assert_eq!(told("[5]"), "invalid type: integer, expected a boolean");
        assert_eq!(told("[[1]]"), "invalid type: sequence, expected a boolean");
        let word = "unknown variant `s`, expected `a` or `b`";
        assert_eq!(without_value(word), "unknown variant, expected `a` or `b`");
        assert_eq!(
            without_value("missing field `image`"),
            "missing field `image`"
        );
    }

    #[test]
    fn a_tail_is_the_end_and_never_half_a_character() {
        assert_eq!(printable_tail("äöü", 3), "ü");
        assert_eq!(printable_tail("abc", 10), "abc");
    }
}
