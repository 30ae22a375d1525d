//! Calls that may never come back (a driver, a dead network file system), each kind on a thread of
//! its own: asked with a time limit, never waited for beyond it, and never asked twice at once, so
//! that one sick part costs one thread however long it is sick.

use std::{io, thread, time::Duration};

use tokio::{sync::mpsc, time};

/// Puts questions to a function on a thread of its own. The thread ends when this is dropped and the
/// function has come back.
#[derive(Debug)]
pub struct Aside<Q, A> {
    // One place each: a question is put only when the answer to the one before has been taken.
    questions: mpsc::Sender<Q>,
    answers: mpsc::Receiver<A>,
    owed: bool,
}

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<A> {
    /// The answer, in time.
    Answer(A),
    /// Nothing within the limit. The function is still busy, with this question or an earlier one.
    Silent,
    /// The thread is gone: the function panicked.
    Gone,
}

impl<Q: Send + 'static, A: Send + 'static> Aside<Q, A> {
    /// Starts a thread called `name` that answers with `answer`.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(name: &str, mut answer: impl FnMut(Q) -> A + Send + 'static) -> io::Result<Self> {
        let (questions, mut asked) = mpsc::channel(1);
        let (answered, answers) = mpsc::channel(1);
        // Not joined: nothing may wait for it.
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(question) = asked.blocking_recv() {
                    if answered.blocking_send(answer(question)).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self {
            questions,
            answers,
            owed: false,
        })
    }

    /// Puts `question` and waits for its answer, no longer than `limit`. While an earlier question is
    /// unanswered this one is not put; an answer that comes too late is dropped.
    pub async fn ask(&mut self, question: Q, limit: Duration) -> Asked<A> {
        match time::timeout(limit, self.ask_patiently(question)).await {
            Ok(Some(answer)) => Asked::Answer(answer),
            Ok(None) => Asked::Gone,
            Err(_) => Asked::Silent,
        }
    }

    /// May be dropped at any await: `owed` says whether an answer is still to come.
    async fn ask_patiently(&mut self, question: Q) -> Option<A> {
        if self.owed {
            self.answers.recv().await?;
            self.owed = false;
        }
        self.questions.send(question).await.ok()?;
        self.owed = true;
        let answer = self.answers.recv().await?;
        self.owed = false;
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_question_is_answered() {
        let mut aside = Aside::start("double", |n: u32| n * 2).unwrap();
        assert_eq!(aside.ask(21, LONG).await, Asked::Answer(42));
        assert_eq!(aside.ask(4, LONG).await, Asked::Answer(8));
    }

    #[tokio::test]
    async fn a_hung_call_is_left_alone_and_its_late_answer_dropped() {
        let (release, hold) = std_mpsc::channel::<()>();
        let mut calls = 0u32;
        let mut aside = Aside::start("hang", move |n: u32| {
            calls += 1;
            if n == 1 {
                hold.recv().unwrap();
            }
            (n, calls)
        })
        .unwrap();
        assert_eq!(aside.ask(1, SHORT).await, Asked::Silent);
        assert_eq!(aside.ask(2, SHORT).await, Asked::Silent);
        release.send(()).unwrap();
        // The second question was never put, so the third is the second call.
        assert_eq!(aside.ask(3, LONG).await, Asked::Answer((3, 2)));
    }

    #[tokio::test]
    async fn a_panic_on_the_thread_is_told() {
        let mut aside =
            Aside::start("panic", |_: ()| -> () { panic!("wanted by the test") }).unwrap();
        assert_eq!(aside.ask((), LONG).await, Asked::Gone);
        assert_eq!(aside.ask((), LONG).await, Asked::Gone);
    }
}
