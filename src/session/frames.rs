//! Watches the bytes that come from the server, only to know whether a message is half received.
//! The WebSocket library does not tell, and without it a message that trickles in, or one whose
//! fragments never end, could occupy the agent for ever. Pure.

/// Follows an HTTP answer and then WebSocket frames, byte by byte, without keeping any.
#[derive(Debug)]
pub(super) struct Frames {
    at: At,
    /// A fragmented message has begun and its last fragment has not.
    fragments: bool,
    messages: u64,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// In the answer to the upgrade; `line_start`: nothing of the current line has come.
    Http { line_start: bool },
    /// Between two frames.
    Boundary,
    /// After a frame's first byte.
    Length(Head),
    /// In the extended length: so many of its bytes are missing.
    Extended { head: Head, missing: u8, value: u64 },
    /// In the masking key, if any, and the payload.
    Body { head: Head, missing: u64 },
}

#[derive(Debug, Clone, Copy)]
struct Head {
    last: bool,
    control: bool,
    /// Bytes of the masking key, which no server should send.
    key: u8,
}

impl Frames {
    /// Before the answer to the upgrade.
    pub(super) fn new() -> Self {
        Self {
            at: At::Http { line_start: false },
            fragments: false,
            messages: 0,
        }
    }

    /// Takes note of what has come.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let At::Body { head, missing } = self.at {
                // Payloads are skipped, not stepped through.
                let here = missing.min(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                let skipped = usize::try_from(here).unwrap_or(bytes.len());
                bytes = bytes.get(skipped..).unwrap_or_default();
                self.at = self.body(head, missing - here);
            } else {
                self.at = self.step(byte);
                bytes = rest;
            }
        }
    }

    /// Whether a message, or a frame of one, has begun and is not complete.
    pub(super) fn open(&self) -> bool {
        match self.at {
            At::Http { .. } => false,
            At::Boundary => self.fragments,
            At::Length(_) | At::Extended { .. } | At::Body { .. } => true,
        }
    }

    /// How many messages have been completed, control frames not counted.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    fn step(&mut self, byte: u8) -> At {
        match self.at {
            At::Http { line_start } => match byte {
                b'\n' if line_start => At::Boundary,
                b'\n' => At::Http { line_start: true },
                b'\r' => At::Http { line_start },
                _ => At::Http { line_start: false },
            },
            At::Boundary => At::Length(Head {
                last: byte & 0x80 != 0,
                control: byte & 0x08 != 0,
                key: 0,
            }),
            At::Length(head) => {
                let key = if byte & 0x80 != 0 { 4 } else { 0 };
                let head = Head { key, ..head };
                let extended = |missing| At::Extended {
                    head,
                    missing,
                    value: 0,
                };
                match byte & 0x7f {
                    126 => extended(2),
                    127 => extended(8),
                    short => self.begin(head, u64::from(short)),
                }
            }
            At::Extended {
                head,
                missing,
                value,
            } => {
                let value = (value << 8) | u64::from(byte);
                match missing {
                    0 | 1 => self.begin(head, value),
                    _ => At::Extended {
                        head,
                        missing: missing - 1,
                        value,
                    },
                }
            }
            At::Body { head, missing } => self.body(head, missing.saturating_sub(1)),
        }
    }

    fn begin(&mut self, head: Head, length: u64) -> At {
        self.body(head, length.saturating_add(u64::from(head.key)))
    }

    /// What comes next when so much of a frame is missing.
    fn body(&mut self, head: Head, missing: u64) -> At {
        if missing > 0 {
            return At::Body { head, missing };
        }
        if !head.control {
            self.fragments = !head.last;
            self.messages += u64::from(head.last);
        }
        At::Boundary
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    /// A frame as a server writes it.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload {
            0..=125 => bytes.push(u8::try_from(payload).unwrap()),
            126..=65535 => {
                bytes.push(126);
                bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(127);
                bytes.extend(u64::try_from(payload).unwrap().to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + payload, b'\n');
        bytes
    }

    fn after(bytes: &[u8]) -> (bool, u64) {
        let mut frames = Frames::new();
        frames.feed(ANSWER);
        frames.feed(bytes);
        (frames.open(), frames.messages())
    }

    #[test]
    fn a_message_is_open_until_its_last_fragment_is_whole() {
        assert_eq!(after(b""), (false, 0));
        assert_eq!(after(&frame(0x81, 5)), (false, 1));
        assert_eq!(after(&frame(0x81, 5)[..6]), (true, 0));
        assert_eq!(after(&frame(0x81, 0)), (false, 1));
        assert_eq!(after(&frame(0x01, 5)), (true, 0));
        let fragments = [frame(0x01, 5), frame(0x00, 0), frame(0x80, 70_000)].concat();
        assert_eq!(after(&fragments), (false, 1));
    }

    #[test]
    fn a_ping_within_a_message_does_not_close_it() {
        let bytes = [frame(0x01, 5), frame(0x89, 3)].concat();
        assert_eq!(after(&bytes), (true, 0));
        let bytes = [bytes, frame(0x80, 1)].concat();
        assert_eq!(after(&bytes), (false, 1));
    }

    #[test]
    fn a_frame_of_any_length_is_followed_without_overflow() {
        let huge = [&[0x82, 127][..], &[0xff; 8], b"abc"].concat();
        assert_eq!(after(&huge), (true, 0));
        let masked = [&[0x82, 0x83][..], b"keyk", b"abc"].concat();
        assert_eq!(after(&masked), (false, 1));
    }

    #[test]
    fn frames_in_the_same_packet_as_the_answer_are_seen() {
        let mut frames = Frames::new();
        frames.feed(&[ANSWER, &frame(0x81, 9)].concat());
        assert_eq!((frames.open(), frames.messages()), (false, 1));
        let mut bare = Frames::new();
        bare.feed(&[b"HTTP/1.1 101 x\nA: b\n\n", &frame(0x81, 9)[..4]].concat());
        assert!(bare.open());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            sizes in prop::collection::vec((prop::bool::ANY, 0usize..70_000), 1..8),
            cuts in prop::collection::vec(1usize..5_000, 1..50),
        ) {
            let mut stream = ANSWER.to_vec();
            for (fragmented, size) in &sizes {
                if *fragmented {
                    stream.extend(frame(0x01, *size));
                    stream.extend(frame(0x89, 4));
                    stream.extend(frame(0x80, *size / 2));
                } else {
                    stream.extend(frame(0x82, *size));
                }
            }
            let mut frames = Frames::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                frames.feed(now);
                rest = later;
            }
            prop_assert!(!frames.open());
            prop_assert_eq!(frames.messages(), u64::try_from(sizes.len()).unwrap());
        }
    }
}
