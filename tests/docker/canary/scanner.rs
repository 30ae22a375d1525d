//! Finds secrets in text, also where they are written in base64, alone or within something else.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

/// Secrets with all their spellings.
#[derive(Debug)]
pub(super) struct Scanner(Vec<(String, Vec<String>)>);

impl Scanner {
    pub(super) fn of(secrets: Vec<String>) -> Self {
        let all = secrets.into_iter();
        Self(
            all.map(|secret| (secret.clone(), spellings(&secret)))
                .collect(),
        )
    }

    /// The secrets that the text shows.
    pub(super) fn hits(&self, text: &str) -> Vec<&str> {
        let shown =
            |spellings: &Vec<String>| spellings.iter().any(|one| text.contains(one.as_str()));
        let found = self.0.iter().filter(|(_, spellings)| shown(spellings));
        found.map(|(secret, _)| secret.as_str()).collect()
    }
}

/// As it is, and in base64 at each place that it may have in a group of three bytes, without the
/// characters that its neighbours have a part in.
fn spellings(secret: &str) -> Vec<String> {
    let mut spellings = vec![secret.to_owned()];
    for before in 0..3 {
        let text = STANDARD_NO_PAD.encode("\0".repeat(before) + secret);
        let skip = (before * 8).div_ceil(6);
        let whole = (before + secret.len()) * 8 / 6;
        let inner = &text[skip..whole];
        spellings.push(inner.to_owned());
        spellings.push(inner.replace('+', "-").replace('/', "_"));
    }
    spellings
}

#[test]
fn a_secret_is_found_wherever_it_stands() {
    let scanner = Scanner::of(vec!["p???>>>~w0rd".to_owned(), "other".to_owned()]);
    for text in ["it is p???>>>~w0rd!", "p???>>>~w0rd"] {
        assert_eq!(scanner.hits(text), ["p???>>>~w0rd"]);
    }
    for before in 0..7 {
        for after in 0..4 {
            let plain = "x".repeat(before) + "p???>>>~w0rd" + &"y".repeat(after);
            let encoded = STANDARD_NO_PAD.encode(plain);
            assert_eq!(
                scanner.hits(&format!("auth={encoded}")),
                ["p???>>>~w0rd"],
                "{before} {after}"
            );
            let url_safe = encoded.replace('+', "-").replace('/', "_");
            assert_eq!(
                scanner.hits(&url_safe),
                ["p???>>>~w0rd"],
                "{before} {after}"
            );
        }
    }
    assert!(scanner.hits("nothing of that kind").is_empty());
}
