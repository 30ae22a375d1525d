//! What the server sends, frame by frame.

use std::{collections::VecDeque, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message as Frame;

use super::{End, Pump, open::Open};
use crate::{
    driver::FromServer,
    ids::CommandId,
    protocol::{
        Error, ErrorCode, Incoming, Message, Outcome, Reply, Stage,
        command::{Ack, Welcome},
        text::printable,
    },
};

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<'_, S> {
    pub(super) fn on_frame(&mut self, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::Text(text) => self.on_text(&text),
            Frame::Binary(_) => self.on_bad_frame("binary"),
            // The library answers pings; that something came is all that a pong says. Closes are
            // the link's, bare frames are never given to a reader.
            Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_) | Frame::Frame(_) => Ok(()),
        }
    }

    fn on_text(&mut self, text: &str) -> Result<(), End> {
        match self.around.authority.decode(text) {
            Ok(Incoming::Welcome(welcome)) => self.on_welcome(&welcome),
            Ok(Incoming::Ack(ack)) => self.on_ack(&ack),
            Ok(Incoming::Command(command)) => match self.open {
                Some(_) => self.pass_on(FromServer::Command {
                    session: self.no,
                    command,
                }),
                None => return self.not_yet(command.id),
            },
            Ok(Incoming::BadCommand(id, error)) => match self.open {
                Some(_) => self.pass_on(FromServer::BadCommand {
                    session: self.no,
                    id,
                    error,
                }),
                None => return self.not_yet(id),
            },
            Ok(Incoming::Unauthorized(id, error)) => match self.open {
                Some(_) => {
                    tracing::warn!(command_id = %id, error = %error, "refused a command");
                    return self.reject(id, *error);
                }
                None => return self.not_yet(id),
            },
            Ok(Incoming::Unknown(kind)) => {
                tracing::debug!(%kind, "ignored a message of a type that this version does not know");
            }
            Err(error) => return self.on_bad_frame(&error.to_string()),
        }
        Ok(())
    }

    fn on_welcome(&mut self, welcome: &Welcome) {
        if self.open.is_some() {
            tracing::debug!("ignored a second welcome");
            return;
        }
        let (open, events) = Open::new(welcome, self.now());
        self.open = Some(open);
        self.around.reporter.up(&printable(&welcome.session_id, 80));
        self.pass_on(FromServer::Connected {
            session: self.no,
            server_time: welcome.server_time,
            events,
        });
        // What changed since `hello`.
        self.tell_news();
    }

    fn on_ack(&mut self, ack: &Ack) {
        let ours = ack.epoch == self.around.identity.epoch;
        if ours && self.sent.is_some_and(|sent| ack.generation <= sent) {
            self.pass_on(FromServer::Ack {
                generation: ack.generation,
            });
        } else {
            tracing::debug!(
                generation = ack.generation.0,
                "ignored an ack of what was not sent"
            );
        }
    }

    /// Nothing else is read before the driver has taken it.
    fn pass_on(&mut self, input: FromServer) {
        self.pending = Some(input);
    }

    fn not_yet(&mut self, id: CommandId) -> Result<(), End> {
        let error = Error::new(ErrorCode::NotReady, "commands are taken after `welcome`");
        self.reject(id, error.at(Stage::Validate))
    }

    /// Past the driver, which would remember it.
    fn reject(&mut self, command_id: CommandId, error: Error) -> Result<(), End> {
        self.outbox.push(Message::Reply(Reply {
            command_id,
            outcome: Outcome::Rejected,
            error: Some(error),
            result: None,
        }))?;
        Ok(())
    }

    fn on_bad_frame(&mut self, why: &str) -> Result<(), End> {
        let most = self.around.limits.bad_frames;
        let now = self.now();
        let within_a_minute = self.bad_frames.count(now, most);
        if within_a_minute > most {
            return Err(End::Garbage(most));
        }
        let why = printable(why, 200);
        match within_a_minute {
            1 => tracing::warn!(%why, "ignored a frame that cannot be read"),
            _ => tracing::debug!(%why, "ignored a frame that cannot be read"),
        }
        Ok(())
    }
}

/// When the bad frames of the last minute came.
#[derive(Debug, Default)]
pub(super) struct BadFrames(VecDeque<Duration>);

impl BadFrames {
    /// Counts one more, and returns how many came within the last minute; no more than `most + 1`
    /// are remembered.
    fn count(&mut self, now: Duration, most: usize) -> usize {
        let minute = Duration::from_secs(60);
        self.0.retain(|&came| came + minute > now);
        if self.0.len() > most {
            self.0.pop_front();
        }
        self.0.push_back(now);
        self.0.len()
    }
}
