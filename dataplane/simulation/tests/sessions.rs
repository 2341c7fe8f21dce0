//! Sessions between two good hosts: striping, hand-over, replacement, calls, drain, changes of identity and
//! trust, services that are not there or not allowed.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_interface::{Allow, CloseReason, ControlSnapshot, Denied, DropReason, FlowError};
use stoq_simulation::pattern::Pattern;
use stoq_simulation::pki::{Authority, VALIDITY};
use stoq_transport::wire::{CallHeader, CallReply, CallStatus};
use stoq_transport::{CallKind, Event, SessionKey};
use support::{Client, ClientSetup, World, node, service, snapshot};

fn pattern(bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    Pattern::new(bytes as u64).fill(0, &mut all);
    all
}

#[test]
fn a_large_flow_is_striped_over_both_workers_and_strays_are_handed_over() {
    let authority = Authority::new();
    let mut world =
        World::of(&authority, 2, |snapshot| snapshot.transport.stripe_above_bytes = 128 << 10);
    for host in &mut world.hosts {
        host.set_misrouting(0.2);
    }
    let keys = world.connect();
    world.echo(keys, &pattern(4 << 20));
    for (host, key) in keys.into_iter().enumerate() {
        let mut workers = BTreeSet::new();
        for worker in 0..2 {
            let endpoint = world.hosts[host].endpoint(worker);
            for connection in endpoint.connection_status(Instant::now()) {
                assert_eq!(connection.session, Some(key.number()));
                if connection.bytes_sent > 100_000 {
                    workers.insert(connection.worker);
                }
            }
        }
        if host == 0 {
            assert_eq!(workers.len(), 2, "the dialling side stripes over both workers");
        }
        assert!(world.hosts[host].count(|c| c.handed_over.get()) > 0);
    }
}

#[test]
fn connections_are_replaced_at_their_packet_limit() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 2, |snapshot| {
        snapshot.transport.replace_after_packets = 1_000;
        snapshot.transport.drain_timeout = Duration::from_secs(2);
    });
    let keys = world.connect();
    world.echo(keys, &pattern(8 << 20));
    let replaced = world.hosts.iter().map(|h| h.count(|c| c.replaced_for_packets.get()));
    assert!(replaced.sum::<u64>() >= 4);
    for (host, key) in keys.into_iter().enumerate() {
        let home = world.hosts[host].home(key);
        let counters = home.with_session(key, |session| session.counters()).unwrap();
        assert!(counters.replacements >= 2, "{counters:?}");
        assert_eq!(counters.losses, 0, "{counters:?}");
        for worker in 0..2 {
            for connection in world.hosts[host].endpoint(worker).connection_status(Instant::now()) {
                // Made before break: traffic goes on until the younger connection stands.
                assert!(connection.packets_sent < 4_000, "{connection:?}");
            }
        }
    }
}

#[test]
fn replacing_on_demand_loses_nothing() {
    let mut world = World::pair(1);
    let keys = world.connect();
    for (host, key) in keys.into_iter().enumerate() {
        world.hosts[host].home(key).with_session(key, |session| session.replace_links());
        world.echo(keys, &pattern(1 << 20));
    }
    world.until("both were replaced", |world| {
        let home = world.hosts[0].home(keys[0]);
        home.with_session(keys[0], |session| session.counters().replacements) == Some(2)
    });
    assert_eq!(world.hosts[0].endpoint(0).session_status()[0].losses, 0);
}

fn call(world: &mut World, session: SessionKey, token: u64, method: &str) {
    let body = Bytes::from(token.to_be_bytes().to_vec());
    let header = CallHeader { method: method.into(), deadline_ms: 1_000, body };
    world.hosts[0].home(session).call(Instant::now(), session, token, CallKind::Request, header);
}

/// Beta's answers: `echo` is known, nothing else
fn answer_calls(world: &mut World) {
    let events = std::mem::take(&mut world.events);
    for (host, event) in events {
        match event {
            Event::CallIncoming { link, stream, peer, header, .. } if host == 1 => {
                assert_eq!(peer, node("alpha"));
                let known = header.method == "test/echo";
                let status = if known { CallStatus::Ok } else { CallStatus::Unknown };
                let reply = CallReply { status, body: header.body };
                let endpoint = world.hosts[1].endpoint(usize::from(link.worker));
                endpoint.answer_call(link, stream, &reply);
            }
            other => world.events.push((host, other)),
        }
    }
}

fn replies(world: &mut World, count: usize) -> Vec<(u64, Option<CallReply>)> {
    let mut replies = Vec::new();
    world.until("all calls are done", |world| {
        answer_calls(world);
        let events = std::mem::take(&mut world.events);
        for (host, event) in events {
            match event {
                Event::CallDone { token, reply } if host == 0 => replies.push((token, reply)),
                other => world.events.push((host, other)),
            }
        }
        replies.len() == count
    });
    replies
}

#[test]
fn calls_are_answered_each_with_its_own_reply() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 1, |snapshot| snapshot.limits.calls_per_connection = 8);
    let [session, _] = world.connect();
    call(&mut world, session, 1, "test/none");
    let reply = replies(&mut world, 1).remove(0).1.unwrap();
    assert_eq!(reply.status, CallStatus::Unknown);
    for round in 0..20 {
        // More than may be under way: the others wait for a stream.
        for token in 0..10 {
            call(&mut world, session, round * 10 + token, "test/echo");
        }
        let mut tokens = BTreeSet::new();
        for (token, reply) in replies(&mut world, 10) {
            let reply = reply.unwrap();
            assert_eq!(reply.status, CallStatus::Ok);
            assert_eq!(reply.body[..], token.to_be_bytes());
            tokens.insert(token);
        }
        assert_eq!(tokens.len(), 10);
    }
    assert_eq!(world.hosts[1].count(|c| c.calls_answered.get()), 1 + 200);
}

#[test]
fn calls_beyond_the_limit_and_calls_of_a_lost_connection_end_without_reply() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 1, |snapshot| snapshot.limits.calls_per_connection = 8);
    let [session, _] = world.connect();
    for token in 0..30 {
        call(&mut world, session, token, "test/echo");
    }
    let outcomes = replies(&mut world, 30);
    let refused = outcomes.iter().filter(|(_, reply)| reply.is_none()).count();
    assert!((1..=22).contains(&refused), "{refused} of 30 were refused");
    call(&mut world, session, 99, "test/echo");
    let number = world.hosts[0].endpoint(0).connection_status(Instant::now())[0].id;
    assert!(world.hosts[0].endpoint(0).close_connection_number(Instant::now(), number));
    assert_eq!(replies(&mut world, 1), vec![(99, None)]);
}

fn open(world: &mut World, key: SessionKey, name: &str, bytes: &[u8]) -> u64 {
    world.hosts[0]
        .home(key)
        .with_session(key, |session| {
            let flow = session.open_flow(service(name), 0).unwrap();
            session.write(flow, Bytes::copy_from_slice(bytes));
            flow
        })
        .unwrap()
}

fn flow_error(world: &mut World, key: SessionKey, flow: u64) -> FlowError {
    let mut error = None;
    world.until("the flow is refused", |world| {
        let home = world.hosts[0].home(key);
        error = home
            .with_session(key, |session| session.flow(flow).and_then(|flow| flow.error()))
            .unwrap();
        error.is_some()
    });
    world.hosts[0].home(key).with_session(key, |session| session.release_flow(flow));
    error.unwrap()
}

#[test]
fn services_that_are_missing_or_not_allowed_refuse_the_flow() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 1, |snapshot| {
        snapshot.services.insert(service("closed"), Allow::Nobody);
        let only = Allow::Nodes(BTreeSet::from([node("gamma")]));
        snapshot.services.insert(service("for-gamma"), only);
    });
    let [key, other] = world.connect();
    for (name, reason, count) in [
        ("missing", FlowError::NoSuchService, 1),
        ("closed", FlowError::NotAuthorized, 1),
        ("for-gamma", FlowError::NotAuthorized, 2),
    ] {
        let flow = open(&mut world, key, name, b"hello");
        assert_eq!(flow_error(&mut world, key, flow), reason, "{name}");
        let counted = world.hosts[1].count(|c| c.flow_errors[reason.index()].get());
        assert_eq!(counted, count, "{name}");
    }
    let incoming = |(_, event): &(usize, Event)| matches!(event, Event::FlowIncoming { .. });
    assert!(!world.events.iter().any(incoming), "nobody was asked");
    assert_eq!(world.hosts[0].home(key).with_session(key, |s| s.flow_count()), Some(0));
    assert_eq!(world.hosts[1].home(other).with_session(other, |s| s.flow_count()), Some(0));
    world.echo([key, other], &pattern(10_000));
}

#[test]
fn a_draining_host_finishes_what_is_under_way_and_takes_nothing_new() {
    let mut world = World::pair(2);
    let keys = world.connect();
    let flow = open(&mut world, keys[0], "echo", b"first ");
    world.event("the flow arrives", |host, event| match event {
        Event::FlowIncoming { session, flow, .. } if host == 1 => Some((*session, *flow)),
        _ => None,
    });
    let home = world.hosts[1].home(keys[1]);
    home.with_session(keys[1], |session| session.accept_flow(flow, 0));
    for worker in 0..2 {
        let endpoint = world.hosts[1].endpoint(worker);
        endpoint.drain(Instant::now(), Duration::from_secs(5));
    }
    world.hosts[0].home(keys[0]).with_session(keys[0], |session| {
        session.write(flow, Bytes::from_static(b"second"));
        session.finish(flow);
    });
    let (mut seen, mut done) = (Vec::new(), [false; 2]);
    world.until("the flow ends at both sides", |world| {
        let now = Instant::now();
        world.hosts[1].home(keys[1]).with_session(keys[1], |session| {
            while let Some(bytes) = session.read(now, flow) {
                seen.extend_from_slice(&bytes);
            }
            if session.flow(flow).is_some_and(|flow| flow.is_drained()) {
                session.finish(flow);
            }
            done[1] |= session.flow(flow).is_some_and(|f| f.is_drained() && f.is_sent());
            session.release_flow(flow);
        });
        world.hosts[0].home(keys[0]).with_session(keys[0], |session| {
            done[0] |= session.flow(flow).is_some_and(|f| f.is_drained() && f.is_sent());
            session.release_flow(flow);
        });
        done == [true; 2]
    });
    assert_eq!(seen, b"first second");
    for host in 0..2 {
        let reason = world.event("the session ends", |at, event| match event {
            Event::SessionEnded { reason, .. } if at == host => Some(*reason),
            _ => None,
        });
        assert_eq!(reason, CloseReason::Draining);
    }
    world.until("nothing is left at beta", |world| world.hosts[1].is_idle());
    let to = world.hosts[1].address;
    world.hosts[0].endpoint(0).connect(Instant::now(), to, node("beta"), 9);
    let dropped = DropReason::NotAccepting.index();
    world.until("beta refuses", |world| world.hosts[1].count(|c| c.dropped[dropped].get()) > 0);
}

#[test]
fn a_new_identity_serves_new_handshakes_and_old_connections_live_on() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 2, |_| {});
    let keys = world.connect();
    let renewed = authority.identity("beta", VALIDITY);
    let published = ControlSnapshot {
        epoch: 2,
        identity: Some(renewed.clone()),
        ..snapshot(&authority, "beta")
    };
    world.hosts[1].publish(&Arc::new(published));
    world.echo(keys, &pattern(100_000));
    let mallory = authority.snapshot("mallory");
    let setup = ClientSetup { snapshot: Some(&mallory), ..ClientSetup::default() };
    let to = world.hosts[1].address;
    world.clients.push(Client::dial(1, to, &setup));
    world.until("the handshake", |world| world.clients[0].quic.is_established());
    assert_eq!(world.clients[0].slot.peer().unwrap().serial, renewed.serial);
    assert_eq!(world.hosts[0].endpoint(0).session_status()[0].losses, 0);
    let mut epochs = BTreeSet::new();
    for worker in 0..2 {
        for connection in world.hosts[1].endpoint(worker).connection_status(Instant::now()) {
            epochs.insert(connection.epoch);
        }
    }
    assert_eq!(epochs, BTreeSet::from([1, 2]));
}

#[test]
fn a_denied_serial_closes_the_live_connection_and_keeps_its_owner_out() {
    let authority = Authority::new();
    let mut world = World::of(&authority, 1, |snapshot| {
        snapshot.transport.session_linger = Duration::from_secs(1);
    });
    world.connect();
    let alpha = world.hosts[0].endpoint(0).snapshot().identity.clone().unwrap();
    let mut denying = snapshot(&authority, "beta");
    denying.transport.session_linger = Duration::from_secs(1);
    denying.denied = Arc::new(Denied { serials: [alpha.serial].into(), ..Denied::default() });
    world.hosts[1].publish(&Arc::new(denying));
    for host in 0..2 {
        // A redial may have closed before, for a reason of its own.
        world.event("the live connection closes as revoked", |at, event| match event {
            Event::ConnectionClosed { reason: CloseReason::Revoked, peer: Some(_), .. }
                if at == host =>
            {
                Some(())
            }
            _ => None,
        });
    }
    for host in 0..2 {
        let ended =
            world.event("the session ends with its last connection", |at, event| match event {
                Event::SessionEnded { reason, .. } if at == host => Some(*reason),
                _ => None,
            });
        assert_eq!(ended, CloseReason::Revoked);
    }
    let to = world.hosts[1].address;
    world.hosts[0].endpoint(0).connect(Instant::now(), to, node("beta"), 9);
    let refused = stoq_interface::PeerRefusal::Revoked.index();
    world.until("alpha is refused when it comes again", |world| {
        world.hosts[1].count(|c| c.refused[refused].get()) > 0
    });
}
