//! What the proxy does to calls of one kind for as long as a test wants: it holds them at one side of
//! the engine, or answers them in the engine's place.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;

use super::proxy::{Call, Side};

/// The rules in force, the oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules(Arc<Mutex<Vec<Arc<Rule>>>>);

/// What happens to calls with this method whose path ends so.
#[derive(Debug)]
pub(super) struct Rule {
    method: &'static str,
    path_end: String,
    pub(super) action: Action,
    met: AtomicUsize,
}

/// What happens.
#[derive(Debug)]
pub(super) enum Action {
    Hold(Side, watch::Receiver<Verdict>),
    Answer(u16),
}

/// What becomes of held calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    GoOn,
    HangUp,
}

/// A rule in force. Dropping it hangs up on what it holds and lets everything later pass.
#[derive(Debug)]
pub(crate) struct InForce {
    rule: Arc<Rule>,
    rules: Rules,
    verdict: watch::Sender<Verdict>,
}

impl InForce {
    /// How many calls have met it.
    pub(crate) fn met(&self) -> usize {
        self.rule.met.load(Ordering::SeqCst)
    }

    /// Held calls go on, also those of an agent that is dead by now; later ones pass.
    pub(crate) fn release(self) {
        self.verdict.send_replace(Verdict::GoOn);
    }
}

impl Drop for InForce {
    fn drop(&mut self) {
        let mut rules = self.rules.0.lock().expect("the rules");
        rules.retain(|rule| !Arc::ptr_eq(rule, &self.rule));
        self.verdict.send_if_modified(|verdict| {
            let held = *verdict == Verdict::Wait;
            if held {
                *verdict = Verdict::HangUp;
            }
            held
        });
    }
}

impl Rules {
    pub(super) fn hold(&self, method: &'static str, path_end: &str, side: Side) -> InForce {
        let (verdict, reader) = watch::channel(Verdict::Wait);
        self.add(method, path_end, Action::Hold(side, reader), verdict)
    }

    pub(super) fn answer(&self, method: &'static str, path_end: &str, status: u16) -> InForce {
        let (verdict, _) = watch::channel(Verdict::Wait);
        self.add(method, path_end, Action::Answer(status), verdict)
    }

    pub(super) fn of(&self, call: &Call) -> Option<Arc<Rule>> {
        let rules = self.0.lock().expect("the rules");
        let meets =
            |rule: &&Arc<Rule>| rule.method == call.method && call.path.ends_with(&rule.path_end);
        rules.iter().find(meets).cloned()
    }

    fn add(
        &self,
        method: &'static str,
        path_end: &str,
        action: Action,
        verdict: watch::Sender<Verdict>,
    ) -> InForce {
        let rule = Arc::new(Rule {
            method,
            path_end: path_end.to_owned(),
            action,
            met: AtomicUsize::new(0),
        });
        self.0.lock().expect("the rules").push(Arc::clone(&rule));
        InForce {
            rule,
            rules: self.clone(),
            verdict,
        }
    }
}

impl Rule {
    /// One more call has met it.
    pub(super) fn meet(&self) {
        self.met.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until held calls go on (`true`) or are hung up on.
pub(super) async fn goes_on(mut verdict: watch::Receiver<Verdict>) -> bool {
    let decided = verdict.wait_for(|verdict| *verdict != Verdict::Wait).await;
    decided.is_ok_and(|verdict| *verdict == Verdict::GoOn)
}

/// An error as the engine would word it.
pub(super) fn error(status: u16) -> Vec<u8> {
    let body = r#"{"message":"the lab says no"}"#;
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Lab\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
