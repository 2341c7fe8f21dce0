//! Frames are sorted, bounded for each sender, and not taken from whom they should not be.

use commonware_actor::Feedback;
use commonware_p2p::{Blocker as _, Receiver as _, Recipients, Sender as _};
use futures_util::FutureExt as _;

use super::*;
use crate::consensus::ports::{EngineReceiver, EngineSender, Gate, Outlet};
use crate::consensus::testing::{genesis, validator};

fn frame(epoch: u64, content: u8) -> Bytes {
    let mut octets = epoch.to_be_bytes().to_vec();
    octets.push(content);
    Bytes::from(octets)
}

fn next(receiver: &mut EngineReceiver) -> Option<(ValidatorKey, u8)> {
    let (from, octets) = receiver.recv().now_or_never()?.ok()?;
    Some((convert::key(&from), octets.as_ref()[0]))
}

#[test]
fn frames_go_to_their_channel_and_epoch() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let (inbox, mut blocks) = Inbox::new();
    let from = validator(1).key;
    assert_eq!(inbox.deliver(&from, Channel::Votes, frame(3, 1)), Delivered::Unwanted);
    let [mut votes, mut certificates, mut resolver] = inbox.open_epoch(3, &set);
    for (channel, content) in Channel::ALL.into_iter().zip(1..) {
        assert_eq!(inbox.deliver(&from, channel, frame(3, content)), Delivered::Taken);
    }
    assert_eq!(next(&mut votes), Some((from, 1)));
    assert_eq!(next(&mut certificates), Some((from, 2)));
    assert_eq!(next(&mut resolver), Some((from, 3)));
    let other = blocks.try_recv().unwrap();
    assert_eq!((other.from(), other.octets.len()), (from, 9));
    for epoch in [0, 2, 5, u64::MAX] {
        let delivered = inbox.deliver(&from, Channel::Votes, frame(epoch, 9));
        assert_eq!(delivered, Delivered::Unwanted, "{epoch}");
    }
    assert_eq!(next(&mut votes), None);
    let cut = Bytes::from_static(&[0; 7]);
    assert_eq!(inbox.deliver(&from, Channel::Votes, cut), Delivered::Malformed);
    let long = Bytes::from(vec![0; ENGINE_FRAME_LIMIT_BYTES + 1]);
    assert_eq!(inbox.deliver(&from, Channel::Votes, long), Delivered::Malformed);
}

#[test]
fn what_comes_before_its_epoch_waits_for_it() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let (inbox, _blocks) = Inbox::new();
    let _first = inbox.open_epoch(0, &set);
    let (member, stranger) = (validator(2).key, validator(30).key);
    assert_eq!(inbox.deliver(&member, Channel::Votes, frame(1, 7)), Delivered::Taken);
    assert_eq!(inbox.deliver(&stranger, Channel::Votes, frame(1, 8)), Delivered::Taken);
    let [mut votes, ..] = inbox.open_epoch(1, &set);
    assert_eq!(next(&mut votes), Some((member, 7)));
    assert_eq!(next(&mut votes), None, "a stranger has no vote");
    assert_eq!(inbox.deliver(&stranger, Channel::Votes, frame(1, 8)), Delivered::Unwanted);
}

#[test]
fn one_sender_fills_its_own_share_only() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let (inbox, _blocks) = Inbox::new();
    let [mut votes, ..] = inbox.open_epoch(0, &set);
    let (flooding, quiet) = (validator(0).key, validator(1).key);
    let (share, _) = share(Channel::Votes);
    for _ in 0..share {
        assert_eq!(inbox.deliver(&flooding, Channel::Votes, frame(0, 1)), Delivered::Taken);
    }
    assert_eq!(inbox.deliver(&flooding, Channel::Votes, frame(0, 1)), Delivered::Full);
    assert_eq!(inbox.deliver(&quiet, Channel::Votes, frame(0, 2)), Delivered::Taken);
    assert!(next(&mut votes).is_some());
    assert_eq!(inbox.deliver(&flooding, Channel::Votes, frame(0, 1)), Delivered::Taken);
    assert_eq!(inbox.counters().full.load(Ordering::Relaxed), 1);
}

#[test]
fn strangers_are_few_and_do_not_displace_validators() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let (inbox, _blocks) = Inbox::new();
    let _engine = inbox.open_epoch(0, &set);
    for number in 100..100 + 3 * STRANGERS_LIMIT as u64 {
        let delivered = inbox.deliver(&validator(number).key, Channel::Blocks, frame(0, 1));
        assert_eq!(delivered, Delivered::Taken);
    }
    assert_eq!(inbox.shared.state().peers.len(), 4 + STRANGERS_LIMIT);
    let mut off_curve = ValidatorKey([0; 32]);
    off_curve.0[0] = 2;
    assert_eq!(inbox.deliver(&off_curve, Channel::Blocks, frame(0, 1)), Delivered::Unwanted);
}

#[test]
fn nothing_is_taken_from_the_blocked_until_they_are_let_in_again() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let (inbox, _blocks) = Inbox::new();
    let _engine = inbox.open_epoch(0, &set);
    let mut gate = Gate::new(inbox.clone());
    let mut subscription = gate.blocked();
    let bad = validator(3).key;
    let public = convert::public(&bad).unwrap();
    assert_eq!(subscription.try_recv().unwrap().len(), 0);
    for _ in 0..3 {
        assert_eq!(gate.block(public.clone()), Feedback::Ok);
    }
    assert_eq!(subscription.try_recv().unwrap().get(0), Some(&public));
    assert!(subscription.try_recv().is_err(), "told once");
    for channel in Channel::ALL {
        assert_eq!(inbox.deliver(&bad, channel, frame(0, 1)), Delivered::Blocked);
    }
    assert!(inbox.unblock(&bad) && !inbox.unblock(&bad));
    assert_eq!(subscription.try_recv().unwrap().len(), 0);
    assert_eq!(inbox.deliver(&bad, Channel::Votes, frame(0, 1)), Delivered::Taken);
}

#[test]
fn of_many_blocked_validators_are_remembered() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let (inbox, _blocks) = Inbox::new();
    let _engine = inbox.open_epoch(0, &set);
    let bad = validator(3).key;
    inbox.block(&bad, "it lied");
    for number in 100..100 + 2 * BLOCKED_LIMIT as u64 {
        inbox.block(&validator(number).key, "it was a stranger, and lied");
    }
    assert_eq!(inbox.blocked().len(), BLOCKED_LIMIT);
    assert_eq!(inbox.deliver(&bad, Channel::Votes, frame(0, 1)), Delivered::Blocked);
}

#[test]
fn who_only_follows_has_a_smaller_share() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let (inbox, _blocks) = Inbox::new();
    let _engine = inbox.open_epoch(0, &set);
    let (follower, member) = (validator(30).key, validator(1).key);
    let fills = |from| {
        let long = Bytes::from(vec![0; MESSAGE_LIMIT_BYTES]);
        (0..9)
            .filter(|_| inbox.deliver(from, Channel::Blocks, long.clone()) == Delivered::Taken)
            .count()
    };
    assert_eq!(fills(&follower), 1);
    assert!(fills(&member) > 4);
}

#[test]
fn who_spoke_is_told_once() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let (inbox, _blocks) = Inbox::new();
    let _engine = inbox.open_epoch(0, &set);
    let from = validator(2).key;
    inbox.deliver(&from, Channel::Votes, frame(0, 1));
    assert_eq!(inbox.heard(), [from]);
    assert!(inbox.heard().is_empty());
}

/// Keeps what is sent
#[derive(Default)]
struct Record(Mutex<Vec<(ValidatorKey, Channel, Bytes)>>);

impl Wire for Record {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        self.0.lock().unwrap().push((*to, channel, frame));
        Sent::Queued
    }
}

#[test]
fn what_goes_to_all_goes_to_all_others() {
    let set = ValidatorSet::clone(genesis(4, 8).validators());
    let record = Arc::new(Record::default());
    let own = validator(1).key;
    let wire: Arc<dyn Wire> = record.clone();
    let outlet = Outlet::new(wire, Inbox::new().0, &set, &own);
    let mut sender = EngineSender::new(outlet, Channel::Certificates, 5);
    assert_eq!(sender.send(Recipients::All, vec![9_u8], true).len(), 3);
    let one = convert::public(&validator(2).key).unwrap();
    sender.send(Recipients::One(one), vec![8_u8], false);
    let sent = record.0.lock().unwrap();
    assert!(sent.iter().all(|(to, channel, _)| *to != own && *channel == Channel::Certificates));
    let contents: Vec<_> = sent.iter().map(|(.., frame)| frame.clone()).collect();
    assert_eq!(contents[..3], [frame(5, 9), frame(5, 9), frame(5, 9)]);
    assert_eq!(contents[3..], [frame(5, 8)]);
}
