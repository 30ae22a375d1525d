//! How a deploy's progress is shown: a line that is drawn anew on a terminal, lines elsewhere.

use std::{
    io::{self, Write},
    time::Duration,
};

use tokio::time::Instant;

use super::deploy::name;
use crate::protocol::{
    Phase,
    message::{self, PullProgress},
    text::printable,
};

/// Between two lines about the same pull, where lines stay.
const BETWEEN_LINES: Duration = Duration::from_secs(2);
/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Screen {
    Terminal,
    Lines,
    Silent,
}

/// Shows progress.
pub(super) struct Progress<W> {
    out: W,
    screen: Screen,
    phase: Option<Phase>,
    /// A line without its end is on the terminal.
    drawn: bool,
    last_line: Option<Instant>,
    /// What the agent said last of a pull, like why it waits.
    message: String,
}

impl<W: Write> Progress<W> {
    pub(super) fn new(out: W, screen: Screen) -> Self {
        Self {
            out,
            screen,
            phase: None,
            drawn: false,
            last_line: None,
            message: String::new(),
        }
    }

    /// A line that stays.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        if self.screen == Screen::Silent {
            return Ok(());
        }
        self.erase()?;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// The rental reached a phase.
    pub(super) fn phase(&mut self, phase: Phase) -> io::Result<()> {
        if self.phase.replace(phase) == Some(phase) {
            return Ok(());
        }
        match self.screen {
            Screen::Terminal => self.draw(&name(&phase)),
            Screen::Lines => self.line(&name(&phase)),
            Screen::Silent => Ok(()),
        }
    }

    /// How far the present phase is.
    pub(super) fn pull(&mut self, news: &message::Progress) -> io::Result<()> {
        let Some(pull) = &news.pull else {
            return self.phase(news.phase);
        };
        if news.message != self.message {
            self.message.clone_from(&news.message);
            if !news.message.is_empty() {
                self.phase(news.phase)?;
                self.line(&printable(&news.message, 1000))?;
            }
        }
        if self.screen == Screen::Lines && pull.downloaded_bytes == 0 {
            return self.phase(news.phase); // Nothing to count yet.
        }
        self.phase = Some(news.phase);
        match self.screen {
            Screen::Terminal => {
                // The last column stays free: some terminals wrap as soon as it is written.
                let width = columns().saturating_sub(1);
                self.draw(&bar(pull, width))
            }
            Screen::Lines => {
                let now = Instant::now();
                let soon = |last: Instant| now.duration_since(last) < BETWEEN_LINES;
                if self.last_line.is_some_and(soon) {
                    return Ok(());
                }
                self.last_line = Some(now);
                self.line(&words(pull).join(", "))
            }
            Screen::Silent => Ok(()),
        }
    }

    /// Leaves the terminal as it was found.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.erase()?;
        self.out.flush()
    }

    fn draw(&mut self, text: &str) -> io::Result<()> {
        write!(self.out, "\r{text}\x1b[K")?;
        self.drawn = true;
        self.out.flush()
    }

    fn erase(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.drawn) {
            write!(self.out, "\r\x1b[K")?;
        }
        Ok(())
    }
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { COLUMNS } else { columns }
}

/// The parts of a pull's progress, the most telling first.
fn words(pull: &PullProgress) -> Vec<String> {
    let mut words = Vec::new();
    words.push(match pull.total_bytes {
        Some(total) => format!(
            "pulling: {} of {}",
            bytes(pull.downloaded_bytes),
            bytes(total)
        ),
        None => format!("pulling: {} so far", bytes(pull.downloaded_bytes)),
    });
    match pull.layers_total {
        Some(total) => words.push(format!("{} of {total} layers", pull.layers_done)),
        None => words.push(format!("{} layers", pull.layers_done)),
    }
    if pull.bytes_per_s > 0 {
        words.push(format!("{}/s", bytes(pull.bytes_per_s)));
    }
    if let Some(eta) = pull.eta_s.filter(|eta| eta.is_finite()) {
        words.push(format!("{eta:.0} s left"));
    }
    words
}

/// One line of at most `width` columns: a bar where the total is known, and as many words as fit.
fn bar(pull: &PullProgress, width: usize) -> String {
    let mut line = String::new();
    if let Some(total) = pull.total_bytes.filter(|total| *total > 0) {
        let done = pull.downloaded_bytes.min(total);
        let share = |of: u64| {
            let share = u128::from(done) * u128::from(of) / u128::from(total);
            usize::try_from(share).unwrap_or(0)
        };
        let full = share(20);
        let empty = 20usize.saturating_sub(full);
        line = format!(
            "[{}{}] {:>3}%",
            "#".repeat(full),
            ".".repeat(empty),
            share(100)
        );
    }
    for word in words(pull) {
        let gap = if line.is_empty() { "" } else { "  " };
        if line.len() + gap.len() + word.len() > width {
            break;
        }
        line = format!("{line}{gap}{word}");
    }
    // All of it is ASCII: bytes are columns.
    line.truncate(width);
    line
}

fn bytes(n: u64) -> String {
    let tenths = |unit: u64| {
        let tenths = u128::from(n) * 10 / u128::from(unit);
        (tenths / 10, tenths % 10)
    };
    for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if n >= unit {
            let (whole, tenth) = tenths(unit);
            return format!("{whole}.{tenth} {name}");
        }
    }
    format!("{n} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half() -> PullProgress {
        PullProgress {
            layers_total: Some(4),
            layers_done: 1,
            downloaded_bytes: 5 << 20,
            total_bytes: Some(10 << 20),
            extracted_layers: 1,
            bytes_per_s: 1 << 20,
            eta_s: Some(5.2),
        }
    }

    fn progress(pull: PullProgress) -> message::Progress {
        message::Progress {
            instance_id: None,
            command_id: None,
            phase: Phase::Pulling,
            message: String::new(),
            pull: Some(pull),
        }
    }

    fn shown(screen: Screen, show: impl FnOnce(&mut Progress<Vec<u8>>)) -> String {
        let mut progress = Progress::new(Vec::new(), screen);
        show(&mut progress);
        String::from_utf8(progress.out).unwrap()
    }

    #[test]
    fn a_bar_never_wraps_whatever_the_width() {
        for width in 0..200 {
            assert!(bar(&half(), width).len() <= width);
        }
        assert_eq!(
            bar(&half(), 200),
            "[##########..........]  50%  pulling: 5.0 MiB of 10.0 MiB  1 of 4 layers  1.0 MiB/s  5 s left"
        );
    }

    #[test]
    fn an_unknown_total_is_said_so_and_draws_no_bar() {
        let unknown = PullProgress {
            downloaded_bytes: 1536,
            ..PullProgress::default()
        };
        assert_eq!(bar(&unknown, 80), "pulling: 1.5 KiB so far  0 layers");
    }

    #[test]
    fn more_than_the_total_is_not_more_than_full() {
        let over = PullProgress {
            downloaded_bytes: u64::MAX,
            total_bytes: Some(1),
            ..PullProgress::default()
        };
        assert!(bar(&over, 80).starts_with("[####################] 100%"));
    }

    #[tokio::test]
    async fn without_a_terminal_there_are_plain_lines_and_not_too_many() {
        let text = shown(Screen::Lines, |p| {
            p.phase(Phase::Accepted).unwrap();
            p.pull(&progress(half())).unwrap();
            p.pull(&progress(half())).unwrap();
            p.phase(Phase::Starting).unwrap();
            p.finish().unwrap();
        });
        assert_eq!(
            text,
            "accepted\npulling: 5.0 MiB of 10.0 MiB, 1 of 4 layers, 1.0 MiB/s, 5 s left\nstarting\n"
        );
    }

    #[tokio::test]
    async fn why_a_pull_waits_is_said_once_although_nothing_was_downloaded_yet() {
        let waits = message::Progress {
            message: "no route\u{1b}; trying again in 2 s".to_owned(),
            ..progress(PullProgress::default())
        };
        for screen in [Screen::Lines, Screen::Terminal] {
            let text = shown(screen, |p| {
                p.pull(&waits).unwrap();
                p.pull(&waits).unwrap();
                p.finish().unwrap();
            });
            let line = "no route\\u{1b}; trying again in 2 s\n";
            assert_eq!(text.matches(line).count(), 1, "{text:?}");
        }
        let text = shown(Screen::Silent, |p| p.pull(&waits).unwrap());
        assert_eq!(text, "");
    }

    #[tokio::test]
    async fn a_terminal_is_left_as_it_was_found() {
        let text = shown(Screen::Terminal, |p| {
            p.phase(Phase::Starting).unwrap();
            p.finish().unwrap();
        });
        assert_eq!(text, "\rstarting\x1b[K\r\x1b[K");
    }

    #[tokio::test]
    async fn silence_is_silent() {
        let text = shown(Screen::Silent, |p| {
            p.line("x").unwrap();
            p.phase(Phase::Starting).unwrap();
            p.pull(&progress(half())).unwrap();
            p.finish().unwrap();
        });
        assert_eq!(text, "");
    }
}
