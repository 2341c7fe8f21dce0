//! One connection to the signing process: greeted, shared by all requests, and at its end every one of them told.

use std::collections::HashMap;
use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Command, RemoteSettings, Reply, Shared, unexpected};
use crate::signer::SignerError;
use crate::signer::remote::frame::{self, ANSWER_LIMIT_BYTES};
use crate::signer::remote::wire::{Answer, Hello, Request, VERSION, answer, request};

pub(super) struct Connection {
    answers: mpsc::Receiver<io::Result<Answer>>,
    frames: mpsc::Sender<Vec<u8>>,
}

/// Why a connection was left
pub(super) enum Ended {
    /// Nobody can ask any more
    Stopped,
    /// It broke, or an answer did not come
    Lost(String),
}

impl Connection {
    /// Connects to the right user's socket and greets. The keys must be those known before: whoever certified
    /// the old ones did not certify others.
    pub(super) async fn open(shared: &Shared) -> Result<Self, SignerError> {
        let RemoteSettings { socket, signer_uid, timeout, .. } = &shared.settings;
        let away = |error: io::Error| {
            SignerError::Unavailable(format!(
                "{}: {error}; is `stoqd signer` running?",
                socket.display()
            ))
        };
        let stream = UnixStream::connect(socket).await.map_err(away)?;
        let uid = stream.peer_cred().map_err(away)?.uid();
        if uid != *signer_uid {
            return Err(SignerError::Refused(format!(
                "{} is served by user {uid}, not by {signer_uid}; somebody else took the signer's place, or \
                 the configured user is wrong",
                socket.display()
            )));
        }
        let (mut reading, mut writing) = stream.into_split();
        let hello = Request { id: 0, body: Some(request::Body::Hello(Hello { version: VERSION })) };
        let greeted = async {
            writing.write_all(&frame::encode(&hello)).await?;
            frame::read::<Answer>(&mut reading, ANSWER_LIMIT_BYTES).await
        };
        let greeted = tokio::time::timeout(*timeout, greeted)
            .await
            .map_err(|_| SignerError::Unavailable("the signing process does not answer".into()))?;
        let greeted = greeted.and_then(|greeting| {
            greeting.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        });
        let (greeting, _) = greeted.map_err(|error| {
            SignerError::Unavailable(format!(
                "{}: the signing process ended the connection ({error}); does it serve this user?",
                socket.display()
            ))
        })?;
        match greeting.body {
            Some(answer::Body::Keys(keys)) => shared.take_keys(&keys)?,
            Some(answer::Body::Failure(failure)) => return Err(failure.to_error()),
            _ => return Err(unexpected()),
        }
        let (sender, answers) = mpsc::channel(64);
        let (frames, to_write) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                let read = frame::read::<Answer>(&mut reading, ANSWER_LIMIT_BYTES).await;
                let read = read.and_then(|answer| {
                    answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
                });
                let last = read.is_err();
                if sender.send(read.map(|(answer, _)| answer)).await.is_err() || last {
                    return;
                }
            }
        });
        tokio::spawn(write_frames(to_write, writing));
        Ok(Self { answers, frames })
    }

    /// Sends what is asked and hands out what is answered, until either ends
    pub(super) async fn serve(
        mut self,
        shared: &Shared,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Ended {
        let mut waiting: HashMap<u64, (Reply, Instant)> = HashMap::new();
        let mut next_id = 1;
        let RemoteSettings { queue, timeout, .. } = shared.settings;
        let mut check = tokio::time::interval(timeout / 4);
        let ended = loop {
            tokio::select! {
                command = commands.recv(), if waiting.len() < queue => {
                    let Some(Command { body, reply }) = command else { break Ended::Stopped };
                    let frame = frame::encode(&Request { id: next_id, body: Some(body) });
                    waiting.insert(next_id, (reply, Instant::now() + timeout));
                    next_id += 1;
                    if !self.hand_over(frame, &mut waiting).await {
                        break Ended::Lost("the connection to the signing process broke".into());
                    }
                }
                answer = self.answers.recv() => match answer {
                    Some(Ok(answer)) => settle(&mut waiting, answer),
                    Some(Err(error)) => break Ended::Lost(error.to_string()),
                    None => break Ended::Lost("the connection to the signing process broke".into()),
                },
                _ = check.tick() => {
                    let now = Instant::now();
                    if waiting.values().any(|(_, until)| *until < now) {
                        break Ended::Lost(format!("no answer within {} ms", timeout.as_millis()));
                    }
                }
            }
        };
        let error = match &ended {
            Ended::Stopped => SignerError::Stopped,
            Ended::Lost(reason) => SignerError::Unavailable(reason.clone()),
        };
        for (reply, _) in waiting.into_values() {
            // Who asked may have gone.
            let _ = reply.send(Err(error.clone()));
        }
        ended
    }

    /// Gives a frame to the writer; takes answers meanwhile, so that neither end waits for the other for ever
    async fn hand_over(
        &mut self,
        frame: Vec<u8>,
        waiting: &mut HashMap<u64, (Reply, Instant)>,
    ) -> bool {
        let frames = self.frames.clone();
        let handed = frames.send(frame);
        tokio::pin!(handed);
        loop {
            tokio::select! {
                handed = &mut handed => return handed.is_ok(),
                answer = self.answers.recv() => match answer {
                    Some(Ok(answer)) => settle(waiting, answer),
                    _ => return false,
                },
            }
        }
    }
}

fn settle(waiting: &mut HashMap<u64, (Reply, Instant)>, answer: Answer) {
    // An answer nobody waits for is nobody's.
    let Some((reply, _)) = waiting.remove(&answer.id) else { return };
    let outcome = match answer.body {
        Some(answer::Body::Failure(failure)) => Err(failure.to_error()),
        Some(body) => Ok(body),
        None => Err(unexpected()),
    };
    let _ = reply.send(outcome);
}

async fn write_frames(mut frames: mpsc::Receiver<Vec<u8>>, mut writing: OwnedWriteHalf) {
    while let Some(mut octets) = frames.recv().await {
        // Whatever else is ready goes with it: one call for a batch.
        while octets.len() < ANSWER_LIMIT_BYTES
            && let Ok(more) = frames.try_recv()
        {
            octets.extend(more);
        }
        // The reader learns of the end and says so.
        if writing.write_all(&octets).await.is_err() {
            return;
        }
    }
}
