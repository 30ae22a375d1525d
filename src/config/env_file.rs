//! `.env` in the working folder: variables for those who start the agent by hand or from a compose
//! project. Nothing is expanded and nothing is put into the process's environment; it is one more
//! place that variables are read from, weaker than the environment.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::fault::Faults;

/// More than this is no `.env`.
const MAX_BYTES: u64 = 256 * 1024;

/// A variable with the place that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    /// Maybe a secret.
    pub(super) value: String,
    /// From 1 on.
    pub(super) line: usize,
}

/// What was read, with who else may read or write it.
pub(super) struct EnvFile {
    pub(super) path: PathBuf,
    pub(super) variables: Vec<Variable>,
}

/// What is wrong with a line. Never quotes it: a token may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    NoAssignment,
    Name,
    Unclosed,
    Escape,
    AfterQuote,
}

impl Wrong {
    fn reason(self) -> &'static str {
        match self {
            Self::NoAssignment => "is no assignment (the line is not shown)",
            Self::Name => "has something before the = that is no name (not shown)",
            Self::Unclosed => "has a quote that is not closed on the same line",
            Self::Escape => "has a \\ before a character that needs none",
            Self::AfterQuote => "goes on after the closing quote",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::NoAssignment => "write NAME=VALUE, or # before a comment",
            Self::Name => "use letters, digits and _ in a name, no digit in front",
            Self::Unclosed => "close it, or put the value into the other kind of quotes",
            Self::Escape => {
                "within \" only \\\\, \\\", \\$, \\n, \\r and \\t are escapes; within ' there are none"
            }
            Self::AfterQuote => "put the whole value into the quotes",
        }
    }
}

/// Reads the file where there is one. A folder of that name is no `.env` (some tools make one).
pub(super) fn read(path: &Path, faults: &mut Faults) -> Option<EnvFile> {
    let name = path.display().to_string();
    let text = match text(path) {
        Ok(text) => text?,
        Err(reason) => {
            faults.incomplete = true;
            let remedy = "make it readable for this user, or start the agent in another folder";
            faults.at_source(&name, "the working folder", reason, remedy);
            return None;
        }
    };
    if let Some(reason) = foreign(path) {
        let remedy = "remove it, or start the agent in a folder of its own";
        faults.at_source(&name, "the working folder", reason, remedy);
        return None;
    }
    let mut variables: Vec<Variable> = Vec::new();
    for (line, parsed) in parse(&text) {
        let at = format!("{name}:{line}");
        match parsed {
            Err(wrong) => faults.at_source(&at, ".env", wrong.reason(), wrong.remedy()),
            Ok((name, value)) => {
                if let Some(first) = variables.iter().find(|variable| variable.name == name) {
                    let reason = format!("sets {name}, as line {} does", first.line);
                    faults.at_source(&at, ".env", reason, "keep one of the two lines");
                }
                variables.push(Variable { name, value, line });
            }
        }
    }
    Some(EnvFile {
        path: path.to_owned(),
        variables,
    })
}

fn text(path: &Path) -> Result<Option<String>, String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    if metadata.len() > MAX_BYTES {
        return Err(format!("has more than {MAX_BYTES} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(Some(text))
}

/// In a folder into which everyone can write, like /tmp, somebody else's `.env` decides nothing.
fn foreign(path: &Path) -> Option<String> {
    let folder = fs::metadata(path.parent()?).ok()?;
    let owner = fs::metadata(path).ok()?.uid();
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    (folder.mode() & 0o002 != 0 && !ours)
        .then(|| "belongs to another user, in a folder into which everyone can write".to_owned())
}

type Parsed = (usize, Result<(String, String), Wrong>);

fn parse(text: &str) -> impl Iterator<Item = Parsed> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, line.trim()));
    let said = |(_, line): &(usize, &str)| !line.is_empty() && !line.starts_with('#');
    lines
        .filter(said)
        .map(|(number, line)| (number, assignment(line)))
}

fn assignment(line: &str) -> Result<(String, String), Wrong> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=').ok_or(Wrong::NoAssignment)?;
    let name = name.trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) || name.starts_with(|c: char| c.is_numeric()) {
        return Err(Wrong::Name);
    }
    Ok((name.to_owned(), value_of(value.trim_start())?))
}

fn value_of(text: &str) -> Result<String, Wrong> {
    let (value, rest) = if let Some(quoted) = text.strip_prefix('\'') {
        let (value, rest) = quoted.split_once('\'').ok_or(Wrong::Unclosed)?;
        (value.to_owned(), rest)
    } else if let Some(quoted) = text.strip_prefix('"') {
        unescaped(quoted)?
    } else {
        return Ok(bare(text).to_owned());
    };
    let rest = rest.trim_start();
    match rest.is_empty() || rest.starts_with('#') {
        true => Ok(value),
        false => Err(Wrong::AfterQuote),
    }
}

/// Up to a comment, which needs a blank before it: a token may hold a #.
fn bare(text: &str) -> &str {
    let comment = text
        .char_indices()
        .zip(text.chars().skip(1))
        .find(|((_, before), c)| before.is_whitespace() && *c == '#');
    let end = comment.map_or(text.len(), |((at, _), _)| at);
    if text.starts_with('#') {
        return "";
    }
    text.get(..end).unwrap_or(text).trim_end()
}

fn unescaped(text: &str) -> Result<(String, &str), Wrong> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok((value, chars.as_str())),
            '\\' => value.push(match chars.next() {
                Some(c @ ('\\' | '"' | '$')) => c,
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(_) => return Err(Wrong::Escape),
                None => return Err(Wrong::Unclosed),
            }),
            c => value.push(c),
        }
    }
    Err(Wrong::Unclosed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(line: &str, value: &str) {
        let parsed: Vec<_> = parse(line).collect();
        assert_eq!(
            parsed,
            [(1, Ok(("A".to_owned(), value.to_owned())))],
            "{line}"
        );
    }

    #[test]
    fn values_are_taken_as_they_are_written() {
        for (line, value) in [
            ("A=b", "b"),
            ("  A = b  ", "b"),
            ("export A=b", "b"),
            ("A=", ""),
            ("A= # nothing", ""),
            ("A=b c", "b c"),
            ("A=b#c", "b#c"),
            ("A=b # c", "b"),
            ("A=b\t# c", "b"),
            ("A='b # c' # d", "b # c"),
            (r#"A="b \"c\" \\ \$d\n""#, "b \"c\" \\ $d\n"),
            (r"A='b \n'", r"b \n"),
            ("A=$HOME/${X}", "$HOME/${X}"),
            (r#"A={"zone": "b"}"#, r#"{"zone": "b"}"#),
            ("A=a=b", "a=b"),
            ("A=\u{e4} #x", "\u{e4}"),
            ("\u{feff}A=b", "b"),
        ] {
            is(line, value);
        }
    }

    #[test]
    fn what_is_no_assignment_is_told_by_its_line() {
        let text = "\n# a\nA\nA B=c\n1A=b\nA='b\nA=\"b\nA=\"b\\\nA=\"b\\q\"\nA='b'c\n=b\nA=ok";
        let parsed: Vec<_> = parse(text)
            .map(|(line, parsed)| (line, parsed.err()))
            .collect();
        assert_eq!(
            parsed,
            [
                (3, Some(Wrong::NoAssignment)),
                (4, Some(Wrong::Name)),
                (5, Some(Wrong::Name)),
                (6, Some(Wrong::Unclosed)),
                (7, Some(Wrong::Unclosed)),
                (8, Some(Wrong::Unclosed)),
                (9, Some(Wrong::Escape)),
                (10, Some(Wrong::AfterQuote)),
                (11, Some(Wrong::Name)),
                (12, None),
            ]
        );
    }
}
