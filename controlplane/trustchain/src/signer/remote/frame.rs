//! Messages on a stream: four octets of length, then the message. Nothing is taken on trust but that the other
//! end is the user it is.

use std::io;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::signer::MESSAGE_LIMIT_BYTES;

/// Octets of the largest request: the largest message to be signed, and 1 KiB for what is around it
pub(super) const REQUEST_LIMIT_BYTES: usize = MESSAGE_LIMIT_BYTES + (1 << 10);
/// Octets of the largest answer
pub(super) const ANSWER_LIMIT_BYTES: usize = 64 << 10;
/// Time a message may take from its first octet to its last
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A message with its length
pub(super) fn encode(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message.encode_to_vec());
    frame
}

/// The next message, and its octets on the stream; none at the orderly end
pub(super) async fn read<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
    limit_bytes: usize,
) -> io::Result<Option<(M, usize)>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    let rest = async {
        stream.read_exact(&mut length[1..]).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > limit_bytes {
            let message = format!("a message of {length} octets, and the limit is {limit_bytes}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        // Grows as octets arrive: a length alone costs nothing.
        let mut octets = Vec::new();
        stream.take(length as u64).read_to_end(&mut octets).await?;
        if octets.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = M::decode(&octets[..])
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some((message, 4 + length)))
    };
    tokio::time::timeout(MESSAGE_TIMEOUT, rest)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "half a message")))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::wire::{Answer, CreateKey, Request, answer, request};
    use super::*;

    /// Reads one message of each kind, and takes an answer as far as a caller would
    fn take(frame: &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            // Whether they decode is theirs; that nothing panics is the matter.
            let _ = read::<Request>(&mut &frame[..], REQUEST_LIMIT_BYTES).await;
            let answer = read::<Answer>(&mut &frame[..], ANSWER_LIMIT_BYTES).await;
            match answer.ok().flatten().and_then(|(answer, _)| answer.body) {
                Some(answer::Body::Keys(keys)) => drop(keys.to_keys()),
                Some(answer::Body::Status(status)) => drop(status.to_status(Vec::new())),
                Some(answer::Body::Failure(failure)) => drop(failure.to_error()),
                Some(answer::Body::Signature(_)) | None => {}
            }
        });
    }

    proptest! {
        #[test]
        fn no_octets_break_the_reader(octets in vec(any::<u8>(), 0..300), field in 2_u8..6) {
            take(&octets);
            // With the right lengths and a field that is known, so that more is decoded.
            let body = [&[field << 3 | 2, octets.len().min(127) as u8], &octets[..octets.len().min(127)]].concat();
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            take(&[&length[..], &body].concat());
        }
    }

    #[tokio::test]
    async fn a_message_returns_and_no_other_octets_make_one() {
        let body = request::Body::CreateKey(CreateKey { key: "issuing-2".into() });
        let request = Request { id: 9, body: Some(body) };
        let frame = encode(&request);
        let mut stream = &frame[..];
        let (read_back, length) = read::<Request>(&mut stream, 100).await.unwrap().unwrap();
        assert_eq!((read_back, length), (request, frame.len()));
        assert_eq!(read::<Request>(&mut stream, 100).await.unwrap(), None);
        for cut in 1..frame.len() {
            let cut_off = read::<Request>(&mut &frame[..cut], 100).await.unwrap_err();
            assert_eq!(cut_off.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
        let refused = read::<Request>(&mut &frame[..], frame.len() - 5).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        let junk = [&4_u32.to_be_bytes()[..], &[0xff; 4]].concat();
        let refused = read::<Request>(&mut &junk[..], 100).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
