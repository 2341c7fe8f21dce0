//! A peer with a good certificate and bad manners: every breach of the protocol ends its own flow or
//! connection by name and leaves the session beside it alone.

mod support;

use std::time::Instant;

use bytes::{BufMut, BytesMut};
use stoq_interface::{CloseReason, FlowError};
use stoq_simulation::pki::Authority;
use stoq_transport::SessionKey;
use stoq_transport::wire::{
    Frame, LegHeader, SessionId, encode_record, encode_record_header, put_varint,
};
use support::{Client, ClientSetup, World, service};

/// Alpha and beta with a session, and mallory with one of her own at beta
struct Stage {
    world: World,
    neighbours: [SessionKey; 2],
}

const FLOWS: usize = 16;

impl Stage {
    fn new() -> Self {
        Self::with_window(1 << 20)
    }

    fn with_window(control_window: u64) -> Self {
        let mut stage = Self::stranger(control_window);
        stage.client().hello("mallory", SessionId::NEW);
        stage.world.until("mallory is greeted", |world| {
            world.clients[0].read_frames();
            !world.clients[0].frames.is_empty()
        });
        stage
    }

    /// Mallory has finished her handshake and said nothing yet
    fn stranger(control_window: u64) -> Self {
        let authority = Authority::new();
        let mut world = World::of(&authority, 1, |snapshot| {
            snapshot.limits.flows_per_session = FLOWS;
            snapshot.limits.control_frame_bytes = 1_024;
        });
        let neighbours = world.connect();
        let snapshot = authority.snapshot("mallory");
        let setup =
            ClientSetup { snapshot: Some(&snapshot), control_window, ..ClientSetup::default() };
        let to = world.hosts[1].address;
        world.clients.push(Client::dial(1, to, &setup));
        world.until("mallory's handshake", |world| world.clients[0].quic.is_established());
        Self { world, neighbours }
    }

    fn client(&mut self) -> &mut Client {
        &mut self.world.clients[0]
    }

    /// Writes a leg for flow `flow` with whatever records
    fn leg(&mut self, stream: u64, flow: u64, records: &[u8], end: bool) {
        let mut bytes = BytesMut::new();
        LegHeader { flow, service: Some(service("echo")) }.encode(&mut bytes);
        bytes.put_slice(records);
        self.client().write(stream, &bytes, end);
    }

    /// The connection is closed for `reason`; beta says so too, and the neighbours notice nothing
    fn expect_close(mut self, reason: CloseReason) {
        self.world.until("mallory is cut off", |world| world.clients[0].closed_with().is_some());
        assert_eq!(self.client().closed_with(), Some(reason.code()));
        self.world.until("beta counts it", |world| {
            world.hosts[1].count(|c| c.connections_closed.get()) == 1
        });
        let named = self.world.event("beta names it", |host, event| match event {
            stoq_transport::Event::ConnectionClosed { reason, peer: Some(peer), .. }
                if host == 1 && peer.as_str() == "mallory" =>
            {
                Some(*reason)
            }
            _ => None,
        });
        assert_eq!(named, reason);
        self.expect_neighbours();
    }

    fn expect_neighbours(&mut self) {
        self.world.echo(self.neighbours, &[0x5a; 50_000]);
        assert_eq!(self.world.hosts[0].endpoint(0).session_status()[0].losses, 0);
    }

    /// The flow is reset for `reason`, counted, and the connection lives
    fn expect_reset(mut self, flow: u64, reason: FlowError) {
        let reset = Frame::FlowReset { flow, reason };
        self.world.until("the flow is reset", |world| {
            world.clients[0].read_frames();
            world.clients[0].frames.contains(&reset)
        });
        let count =
            self.world.hosts[1].count(|counters| counters.flow_errors[reason.index()].get());
        assert_eq!(count, 1);
        assert_eq!(self.client().closed_with(), None);
        self.expect_neighbours();
    }
}

#[test]
fn a_length_that_overflows_closes_the_connection() {
    let mut stage = Stage::new();
    let mut record = BytesMut::new();
    encode_record_header(&mut record, (1 << 62) - 1, 1 << 20, false);
    stage.leg(2, 0, &record, false);
    stage.expect_close(CloseReason::Protocol);
}

#[test]
fn a_chunk_beyond_the_window_resets_the_flow() {
    let mut stage = Stage::new();
    stage.leg(2, 0, &encode_record(65_536, b"x", false), false);
    stage.expect_reset(0, FlowError::WindowExceeded);
}

#[test]
fn overlapping_chunks_that_differ_reset_the_flow() {
    let mut stage = Stage::new();
    let records = [encode_record(10, b"abcd", false), encode_record(12, b"XX", false)].concat();
    stage.leg(2, 0, &records, false);
    stage.expect_reset(0, FlowError::DataConflict);
}

#[test]
fn data_beyond_the_end_resets_the_flow() {
    let mut stage = Stage::new();
    let records = [encode_record(0, b"abcd", true), encode_record(4, b"X", false)].concat();
    stage.leg(2, 0, &records, false);
    stage.expect_reset(0, FlowError::FinalSize);
}

#[test]
fn a_second_hello_closes_the_connection() {
    let mut stage = Stage::new();
    stage.client().hello("mallory", SessionId::NEW);
    stage.expect_close(CloseReason::Protocol);
}

#[test]
fn a_hello_in_another_name_closes_the_connection() {
    let mut stage = Stage::stranger(1 << 20);
    stage.client().hello("alpha", SessionId::NEW);
    stage.expect_close(CloseReason::Protocol);
}

#[test]
fn an_unknown_frame_that_must_be_understood_closes_the_connection() {
    let mut stage = Stage::new();
    stage.client().write(0, &[0x3e, 0], false);
    stage.expect_close(CloseReason::Protocol);
}

#[test]
fn an_unknown_frame_that_may_be_skipped_is_skipped() {
    let mut stage = Stage::new();
    stage.client().write(0, &[0x3f, 2, 1, 2], false);
    stage.leg(2, 0, &encode_record(65_536, b"x", false), false);
    stage.expect_reset(0, FlowError::WindowExceeded);
}

#[test]
fn a_frame_too_long_closes_the_connection() {
    let mut stage = Stage::new();
    let mut frame = BytesMut::new();
    put_varint(&mut frame, 0x3f);
    put_varint(&mut frame, 1_025);
    stage.client().write(0, &frame, false);
    stage.expect_close(CloseReason::Protocol);
}

#[test]
fn a_leg_that_ends_inside_a_record_closes_the_connection() {
    let mut stage = Stage::new();
    let mut record = BytesMut::new();
    encode_record_header(&mut record, 0, 100, false);
    stage.leg(2, 0, &record, true);
    stage.expect_close(CloseReason::Protocol);
}

#[test]
fn a_stream_of_unknown_type_closes_the_connection() {
    let mut stage = Stage::new();
    stage.client().write(2, &[0x21, 0, 0], false);
    stage.expect_close(CloseReason::Protocol);
}

#[test]
fn acknowledging_what_was_never_sent_closes_the_connection() {
    let mut stage = Stage::new();
    stage.leg(2, 0, &encode_record(0, b"x", false), false);
    let flow = |world: &World| {
        world.events.iter().find_map(|(host, event)| match event {
            stoq_transport::Event::FlowIncoming { session, flow, .. } if *host == 1 => {
                Some((*session, *flow))
            }
            _ => None,
        })
    };
    stage.world.until("the flow arrives", |world| flow(world).is_some());
    let status = Frame::FlowStatus { flow: 0, acknowledged: 5, complete: false, limit: 5 };
    stage.client().write_frame(&status);
    stage.expect_close(CloseReason::Protocol);
}

#[test]
fn streams_without_end_are_held_to_the_limit() {
    let mut stage = Stage::new();
    // The transport stops a peer at its limit of streams; one that closes them goes on for ever.
    let (mut opened, mut flow) = (0, 0);
    for round in 0..20 {
        for _ in 0..FLOWS {
            if stage.client().quic.peer_streams_left_uni() == 0 {
                break;
            }
            stage.leg(2 + 4 * opened, flow, &encode_record(0, b"x", false), true);
            opened += 1;
            flow += 2;
        }
        stage.world.until("credit comes back", |world| {
            world.clients[0].read_frames();
            let client = &world.clients[0];
            client.quic.peer_streams_left_uni() > 0 || client.closed_with().is_some()
        });
        let flows: usize = stage.world.hosts[1]
            .endpoint(0)
            .session_status()
            .iter()
            .filter(|session| session.peer.as_str() == "mallory")
            .map(|session| session.flows)
            .sum();
        assert!(flows <= FLOWS, "round {round}: {flows} flows");
        if stage.client().closed_with().is_some() {
            break;
        }
    }
    assert!(opened > 2 * FLOWS as u64);
    let reason = FlowError::TooManyFlows;
    let refused = stage.world.hosts[1].count(|c| c.flow_errors[reason.index()].get());
    assert!(refused > 0);
    // She answered none of the resets: in the end she is cut off.
    stage.expect_close(CloseReason::Limit);
}

#[test]
fn a_peer_that_never_reads_is_cut_off() {
    // Beta may send her hardly more than its HELLO.
    let mut stage = Stage::with_window(128);
    stage.leg(2, 0, &[], false);
    let reset = Frame::FlowReset { flow: 0, reason: FlowError::Cancelled };
    stage.client().write_frame(&reset);
    // Each record of the forgotten flow would be answered, had she room for the answers.
    let records = encode_record(0, b"x", false).repeat(10_000);
    let mut rest = &records[..];
    stage.world.until("she is cut off", |world| {
        let client = &mut world.clients[0];
        if rest.is_empty() {
            rest = &records[..];
        }
        while let Ok(sent) = client.quic.stream_send(2, rest, false) {
            rest = &rest[sent..];
            if rest.is_empty() {
                rest = &records[..];
            }
            if sent == 0 {
                break;
            }
        }
        client.closed_with().is_some()
    });
    stage.expect_close(CloseReason::Limit);
}

#[test]
fn the_session_of_others_and_a_vanished_one_are_refused_alike() {
    for vanished in [false, true] {
        let mut stage = Stage::stranger(1 << 20);
        let keys = stage.neighbours;
        let id = stage.world.hosts[1].home(keys[1]).with_session(keys[1], |s| s.id()).unwrap();
        let id =
            if vanished { SessionId([0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]) } else { id };
        stage.client().hello("mallory", id);
        stage.expect_close(CloseReason::SessionUnknown);
    }
}

#[test]
fn a_session_id_that_names_no_worker_is_refused() {
    let mut stage = Stage::stranger(1 << 20);
    stage.client().hello("mallory", SessionId([0xff; 16]));
    stage.expect_close(CloseReason::SessionUnknown);
}

#[test]
fn a_client_that_says_nothing_is_not_kept() {
    let started = Instant::now();
    let stage = Stage::stranger(1 << 20);
    stage.expect_close(CloseReason::HandshakeTimeout);
    assert!(started.elapsed() > std::time::Duration::from_millis(1_500));
}
