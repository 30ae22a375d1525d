//! Frames that no server should send, each with what is to come of it: the table `bad_frames.txt`,
//! whose head says how it is written. Read by the tests and by the fuzz target's corpus.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs,
    reason = "test support: a table that cannot be read fails the test"
)]

/// What is to come of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Ignored and counted.
    Ignored,
    /// Ignored and not counted.
    Unknown,
    /// It reaches the driver as a command.
    Taken,
    /// Rejected with this code and this pointer.
    Rejected { code: &'static str, pointer: String },
    /// The agent closes with this code.
    Close(u16),
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct BadFrame {
    pub line: usize,
    pub expect: Expect,
    /// The text of a frame; for [`Expect::Close`] the bytes below WebSocket.
    pub bytes: Vec<u8>,
}

impl BadFrame {
    /// As a text frame; `None` where there are bytes instead.
    pub fn text(&self) -> Option<&str> {
        match self.expect {
            Expect::Close(_) => None,
            _ => Some(std::str::from_utf8(&self.bytes).unwrap()),
        }
    }
}

/// All of them.
pub fn all() -> Vec<BadFrame> {
    let lines = include_str!("bad_frames.txt").lines().zip(1..);
    let said = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    said.map(|(line, number)| read(line, number)).collect()
}

fn read(line: &str, number: usize) -> BadFrame {
    let (expect, frame) = line.split_once('\t').expect("a tab before the frame");
    let (word, rest) = expect.split_once(' ').unwrap_or((expect, ""));
    let rejected = |code| Expect::Rejected {
        code,
        pointer: if rest == "-" {
            String::new()
        } else {
            rest.to_owned()
        },
    };
    let expect = match word {
        "ignored" => Expect::Ignored,
        "unknown" => Expect::Unknown,
        "taken" => Expect::Taken,
        "invalid" => rejected("invalid_spec"),
        "unsupported" => rejected("unsupported"),
        "close" => Expect::Close(rest.parse().unwrap()),
        other => panic!("line {number}: {other}"),
    };
    let bytes = match expect {
        Expect::Close(_) => frame.split(' ').flat_map(repeated).collect(),
        _ => expanded(frame).into_bytes(),
    };
    BadFrame {
        line: number,
        expect,
        bytes,
    }
}

fn repeated(byte: &str) -> Vec<u8> {
    let (byte, times) = byte.split_once('*').unwrap_or((byte, "1"));
    vec![u8::from_str_radix(byte, 16).unwrap(); times.parse().unwrap()]
}

fn expanded(frame: &str) -> String {
    let command = r#"{"type":"command","id":"c1""#;
    let deploy = format!(r#"{command},"op":"deploy","spec":{{"instance_id":"a","image":"b""#);
    let frame = frame.replace("$C", command).replace("$D", &deploy);
    let mut text = String::new();
    let mut rest = frame.as_str();
    while let Some((before, after)) = rest.split_once('«') {
        let (what, after) = after.split_once('»').expect("a » after each «");
        let (piece, times) = match what.rsplit_once('*') {
            Some((piece, times)) => (piece, times.parse().unwrap()),
            None => (what, 1),
        };
        let character = piece.strip_prefix("u+").map(|hex| {
            let number = u32::from_str_radix(hex, 16).unwrap();
            char::from_u32(number).unwrap().to_string()
        });
        text.push_str(before);
        text.push_str(&character.as_deref().unwrap_or(piece).repeat(times));
        rest = after;
    }
    text + rest
}
