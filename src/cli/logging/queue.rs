//! Lines on their way to whoever reads the log, written by a thread that nobody waits for.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// So much waits for a reader that stands still: some thousands of lines.
const MOST_BYTES: usize = 1024 * 1024;
/// At the end of the process the log has so long.
const FLUSH: Duration = Duration::from_millis(500);

/// A place to write lines to, as often as it is cloned. A write is a line, and never waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Dropped since that was last said.
    lost: u64,
    writing: bool,
}

impl Queue {
    /// Begins to write to `out`.
    pub(super) fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Self::default();
        let shared = Arc::clone(&queue.0);
        // Not joined: nothing may wait for it.
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || {
            loop {
                let (line, lost) = shared.next();
                // Where nobody can be told, the agent goes on all the same.
                let _ = out.write_all(&line).and_then(|()| out.flush());
                shared.written();
                if lost > 0 {
                    // It takes its place in the queue like every line.
                    tracing::warn!(
                        lost,
                        "lines of the log were dropped: it was not read in time"
                    );
                }
            }
        })?;
        Ok(queue)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut state = self.state();
        if state.bytes + line.len() > MOST_BYTES {
            state.lost = state.lost.saturating_add(1);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        self.changed.notify_all();
    }

    /// The oldest line, and how many were dropped.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return (line, std::mem::take(&mut state.lost));
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn written(&self) {
        self.state().writing = false;
        self.changed.notify_all();
    }

    /// Waits until all is written, no longer than `limit`.
    fn flush(&self, limit: Duration) {
        let busy = |state: &mut State| state.writing || !state.lines.is_empty();
        // Too late is as good as done: the process ends either way.
        let _ = self.changed.wait_timeout_while(self.state(), limit, busy);
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the process, when it is dropped, until its last lines are written or half a second is over.
#[derive(Debug)]
#[must_use = "without it the last lines are not written"]
pub struct Flush(Arc<Shared>);

impl Flush {
    pub(super) fn of(queue: &Queue) -> Self {
        Self(Arc::clone(&queue.0))
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.flush(FLUSH);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a line when the test lets it.
    struct Reader {
        may: mpsc::Receiver<()>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.may.recv().is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.read.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_a_limited_part_of_the_memory_and_nobodys_time() {
        let (go_on, may) = mpsc::channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        let reader = Reader {
            may,
            read: Arc::clone(&read),
        };
        let mut queue = Queue::start(reader).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..5000 {
            queue.write_all(&line).unwrap();
        }
        let (waiting, lost) = {
            let state = queue.0.state();
            assert_eq!(state.bytes, state.lines.len() * line.len());
            (state.lines.len(), state.lost)
        };
        // One of them may be with the thread already.
        assert!(waiting == MOST_BYTES / line.len(), "{waiting}");
        let taken = 5000 - u64::try_from(waiting).unwrap() - lost;
        assert!(taken <= 1, "{taken}");
        for _ in 0..5000 {
            go_on.send(()).unwrap();
        }
        queue.0.flush(Duration::from_secs(20));
        let kept = u64::try_from(read.lock().unwrap().len() / line.len()).unwrap();
        assert_eq!(kept, 5000 - lost);
        assert_eq!(queue.0.state().lost, 0, "it is said");
    }
}
