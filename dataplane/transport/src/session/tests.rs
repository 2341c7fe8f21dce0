//! Two sessions wired to each other by hand, with links that can be cut at any point.

use super::*;
use stoq_interface::NodeId;

struct Pair {
    now: Instant,
    sides: [Session; 2],
    /// Commands on their way: (link, from side, command)
    wire: VecDeque<(LinkId, usize, LinkCommand)>,
    dead: Vec<LinkId>,
    touched: [Vec<u64>; 2],
    incoming: Vec<u64>,
    next_slot: u32,
    ended: [Option<CloseReason>; 2],
    dials: usize,
}

impl Pair {
    fn new(settings: TransportSettings, limits: Limits) -> Self {
        let side = |dialled: bool, name: &str| {
            Session::new(
                Agreement {
                    id: SessionId([1; 16]),
                    peer: NodeId::new(name).unwrap(),
                    dialled,
                    peer_flow_window_bytes: limits.flow_window_initial_bytes,
                    peer_flows: limits.flows_per_session as u64,
                },
                limits.clone(),
                settings.clone(),
                2,
            )
        };
        let mut pair = Self {
            now: Instant::now(),
            sides: [side(true, "beta"), side(false, "alpha")],
            wire: VecDeque::new(),
            dead: Vec::new(),
            touched: [Vec::new(), Vec::new()],
            incoming: Vec::new(),
            next_slot: 0,
            ended: [None, None],
            dials: 0,
        };
        pair.join();
        pair
    }

    fn join(&mut self) -> LinkId {
        let id = LinkId { worker: 0, slot: self.next_slot, generation: 0 };
        self.next_slot += 1;
        self.sides[0].add_link(self.now, id);
        self.sides[1].add_link(self.now, id);
        id
    }

    /// Moves everything until both sides are quiet
    fn run(&mut self) {
        loop {
            let mut moved = false;
            for side in 0..2 {
                self.sides[side].flush_status_now();
                while let Some(output) = self.sides[side].poll_output() {
                    moved = true;
                    match output {
                        Output::Link(link, command) => self.wire.push_back((link, side, command)),
                        Output::Dial { .. } => {
                            self.dials += 1;
                            self.join();
                        }
                        Output::Incoming { flow, .. } => {
                            self.incoming.push(flow);
                            self.sides[side].accept_flow(flow, 0);
                        }
                        Output::Touched { flow } => {
                            self.sides[side].untouch(flow);
                            self.touched[side].push(flow);
                        }
                        Output::Ended(reason) => self.ended[side] = Some(reason),
                    }
                }
            }
            while let Some((link, side, command)) = self.wire.pop_front() {
                moved = true;
                self.deliver(link, side, command);
            }
            if !moved {
                return;
            }
        }
    }

    fn deliver(&mut self, link: LinkId, side: usize, command: LinkCommand) {
        if self.dead.contains(&link) {
            return;
        }
        let to = 1 - side;
        let now = self.now;
        match command {
            LinkCommand::Frame(frame) => {
                self.sides[to].handle_link(now, link, LinkEvent::Frame(frame));
            }
            LinkCommand::Record { flow, service, piece } => {
                let bytes = piece.bytes.len();
                self.sides[to].handle_link(now, link, LinkEvent::Opened { flow, service });
                self.sides[to].handle_link(
                    now,
                    link,
                    LinkEvent::Data {
                        flow,
                        offset: piece.offset,
                        bytes: piece.bytes,
                        end: piece.end,
                    },
                );
                self.sides[side].handle_link(now, link, LinkEvent::Accepted { flow, bytes });
            }
            LinkCommand::EndLeg { .. } => {}
            LinkCommand::Close(reason) => {
                self.dead.push(link);
                for side in &mut self.sides {
                    side.handle_link(now, link, LinkEvent::Down(reason));
                }
            }
        }
    }

    fn read_all(&mut self, side: usize, flow: u64) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            while let Some(bytes) = self.sides[side].read(self.now, flow) {
                out.extend_from_slice(&bytes);
            }
            self.run();
            if !self.sides[side].is_readable(flow) {
                return out;
            }
        }
    }
}

fn echo() -> ServiceName {
    ServiceName::new("echo").unwrap()
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn a_flow_carries_bytes_both_ways_and_is_forgotten_when_done() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let flow = pair.sides[0].open_flow(echo(), 0).unwrap();
    let body = pattern(300_000);
    pair.sides[0].write(flow, body.clone());
    pair.sides[0].finish(flow);
    pair.run();
    assert_eq!(pair.incoming, [flow]);
    assert_eq!(pair.read_all(1, flow), body);
    assert!(pair.sides[1].flow(flow).unwrap().is_drained());
    pair.sides[1].write(flow, Bytes::from_static(b"answer"));
    pair.sides[1].finish(flow);
    pair.run();
    assert_eq!(pair.read_all(0, flow), b"answer");
    for side in 0..2 {
        pair.sides[side].release_flow(flow);
        assert_eq!(pair.sides[side].flow_count(), 0, "side {side}");
        assert_eq!(pair.sides[side].buffered_bytes, 0);
    }
}

#[test]
fn a_link_lost_in_the_middle_loses_no_byte() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let flow = pair.sides[0].open_flow(echo(), 0).unwrap();
    let body = pattern(200_000);
    pair.sides[0].write(flow, body.clone());
    // Everything written so far is swallowed by the link.
    let swallowed = pair.sides[0].links[0].id;
    while let Some(output) = pair.sides[0].poll_output() {
        drop(output);
    }
    pair.dead.push(swallowed);
    for side in &mut pair.sides {
        side.handle_link(pair.now, swallowed, LinkEvent::Down(CloseReason::Transport));
    }
    pair.sides[0].finish(flow);
    pair.run();
    assert_eq!(pair.dials, 1, "the dialling side reconnects");
    assert_eq!(pair.read_all(1, flow), body);
    assert!(pair.sides[0].counters().bytes_resent > 0);
    assert_eq!(pair.sides[0].counters().losses, 1);
}

#[test]
fn a_link_is_replaced_before_it_is_broken() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let flow = pair.sides[0].open_flow(echo(), 0).unwrap();
    pair.sides[0].write(flow, pattern(1_000));
    pair.run();
    for demanding in 0..2 {
        let before = pair.sides[0].links[0].id;
        pair.sides[demanding].replace_links();
        pair.run();
        assert_eq!(pair.sides[0].links.len(), 1);
        assert_eq!(pair.sides[1].links.len(), 1);
        assert_ne!(pair.sides[0].links[0].id, before);
    }
    pair.sides[0].write(flow, pattern(1_000));
    pair.run();
    assert_eq!(pair.read_all(1, flow).len(), 2_000);
    for side in &pair.sides {
        assert_eq!(side.counters().replacements, 2);
        assert_eq!((side.counters().losses, side.counters().bytes_resent), (0, 0));
    }
}

#[test]
fn a_link_that_was_being_dialled_is_replaced_as_well() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    pair.run();
    pair.sides[0].want_links(2);
    // The handshake of this one began before the certificate changed.
    let Some(Output::Dial { .. }) = pair.sides[0].poll_output() else { panic!("no dial") };
    pair.sides[0].replace_links();
    let stale = pair.join();
    pair.run();
    assert_eq!(pair.sides[0].links.len(), 2);
    for side in &pair.sides {
        assert!(side.links.iter().all(|link| link.id != stale), "{:?}", side.links);
        assert_eq!((side.counters().replacements, side.counters().losses), (2, 0));
    }
}

#[test]
fn a_bulk_flow_is_striped_over_more_links() {
    let settings = TransportSettings { stripe_above_bytes: 100_000, ..Default::default() };
    let limits = Limits { flow_window_initial_bytes: 1 << 20, ..Default::default() };
    for sender in 0..2 {
        let mut pair = Pair::new(settings.clone(), limits.clone());
        let flow = pair.sides[0].open_flow(echo(), 0).unwrap();
        pair.sides[0].write(flow, Bytes::from_static(b"x"));
        pair.run();
        let body = pattern(900_000);
        pair.sides[sender].write(flow, body.slice(..500_000));
        pair.run();
        pair.sides[sender].write(flow, body.slice(500_000..));
        pair.run();
        assert_eq!(pair.sides[0].links.len(), 2, "sender {sender}");
        assert!(pair.sides[sender].flow(flow).unwrap().legs.len() > 1, "sender {sender}");
        let skip = usize::from(sender == 0);
        assert_eq!(pair.read_all(1 - sender, flow)[skip..], body);
    }
}

#[test]
fn a_reset_reaches_the_other_side_and_is_remembered_until_answered() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let flow = pair.sides[0].open_flow(echo(), 0).unwrap();
    pair.sides[0].write(flow, pattern(10));
    pair.run();
    pair.sides[1].reset_flow(flow, FlowError::NotAuthorized);
    assert_eq!(pair.sides[1].resets.len(), 1);
    pair.run();
    assert!(pair.sides[1].resets.is_empty() && pair.sides[0].resets.is_empty());
    assert_eq!(pair.sides[0].flow(flow).unwrap().error(), Some(FlowError::NotAuthorized));
    for side in &mut pair.sides {
        side.release_flow(flow);
        assert_eq!(side.flow_count(), 0);
    }
}

#[test]
fn a_peer_that_ignores_the_window_loses_the_flow_only() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let flow = pair.sides[0].open_flow(echo(), 0).unwrap();
    pair.sides[0].write(flow, pattern(10));
    pair.run();
    let link = pair.sides[1].links[0].id;
    let far = LinkEvent::Data { flow, offset: 1 << 40, bytes: pattern(1), end: false };
    pair.sides[1].handle_link(pair.now, link, far);
    pair.run();
    assert_eq!(pair.sides[0].flow(flow).unwrap().error(), Some(FlowError::WindowExceeded));
    assert_eq!(pair.sides[1].links.len(), 1);
}

#[test]
fn flow_ids_cannot_be_skipped_without_end() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let link = pair.sides[1].links[0].id;
    let far = LinkEvent::Opened { flow: 1 << 40, service: Some(echo()) };
    pair.sides[1].handle_link(pair.now, link, far);
    assert!(pair.sides[1].peer_missing.is_empty());
    assert!(matches!(
        pair.sides[1].outputs.back(),
        Some(Output::Link(_, LinkCommand::Close(CloseReason::Protocol)))
    ));
}

#[test]
fn without_any_link_the_session_ends_after_its_linger() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let flow = pair.sides[1].open_flow(echo(), 0).unwrap();
    let link = pair.sides[1].links[0].id;
    let down = LinkEvent::Down(CloseReason::Transport);
    pair.sides[1].handle_link(pair.now, link, down);
    let linger = TransportSettings::default().session_linger;
    pair.sides[1].handle_timeout(pair.now + linger - Duration::from_millis(1));
    assert!(!pair.sides[1].is_ended());
    assert_eq!(pair.sides[1].next_timeout(), Some(pair.now + linger));
    pair.sides[1].handle_timeout(pair.now + linger);
    assert!(pair.sides[1].is_ended());
    assert_eq!(pair.sides[1].flow(flow).unwrap().error(), Some(FlowError::SessionLost));
}

#[test]
fn a_draining_session_finishes_its_flows_and_takes_no_new_ones() {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let flow = pair.sides[0].open_flow(echo(), 0).unwrap();
    pair.sides[0].write(flow, pattern(10));
    pair.run();
    pair.sides[1].drain(pair.now, Duration::from_secs(5));
    assert_eq!(pair.sides[1].open_flow(echo(), 0), Err(FlowError::Busy));
    let late = pair.sides[0].open_flow(echo(), 0).unwrap();
    pair.sides[0].write(late, pattern(10));
    pair.run();
    assert_eq!(pair.sides[0].flow(late).unwrap().error(), Some(FlowError::Busy));
    assert_eq!(pair.ended[1], None);
    pair.sides[0].finish(flow);
    pair.sides[1].finish(flow);
    pair.run();
    assert_eq!(pair.read_all(1, flow).len(), 10);
    pair.sides[1].release_flow(flow);
    pair.run();
    assert_eq!(pair.ended[1], Some(CloseReason::Draining));
}

/// Reads a flow for a second, half a window every `pause`; the window it ends up with
fn window_of_a_reader(round_trip: Option<Duration>, pause: Duration) -> u64 {
    let mut pair = Pair::new(TransportSettings::default(), Limits::default());
    let link = pair.sides[0].link_ids().next().unwrap();
    if let Some(round_trip) = round_trip {
        let event = LinkEvent::RoundTrip(round_trip);
        pair.sides[1].handle_link(pair.now, link, event);
    }
    let flow = pair.sides[0].open_flow(ServiceName::new("sink").unwrap(), 0).unwrap();
    for _ in 0..8 {
        pair.sides[0].write(flow, Bytes::from(vec![7; 8 << 20]));
    }
    for _ in 0..20 {
        pair.run();
        pair.now += pause;
        let now = pair.now;
        while pair.sides[1].read(now, flow).is_some() {}
    }
    pair.sides[1].flow(flow).unwrap().receiver.window_bytes()
}

#[test]
fn a_window_covers_the_round_trip_and_grows_no_further() {
    let limits = Limits::default();
    let pause = Duration::from_millis(50);
    assert_eq!(window_of_a_reader(None, pause), limits.flow_window_initial_bytes);
    let near = Some(Duration::from_micros(200));
    assert_eq!(window_of_a_reader(near, pause), limits.flow_window_initial_bytes);
    let far = Some(Duration::from_millis(60));
    assert_eq!(window_of_a_reader(far, pause), limits.flow_window_bytes);
    // A reader that never pauses has the largest window on any path.
    assert_eq!(window_of_a_reader(near, Duration::from_millis(1)), limits.flow_window_bytes);
}
