//! What is counted of trains: how long they are, and whether the program, a window or the train's own size
//! ended them. One cause at a time is made the only one that can bind.

mod support;

use std::time::Duration;

use stoq_interface::{
    CongestionControl, ControlSnapshot, TRAIN_LENGTHS, TrainEnd, TransportStage, WorkerCounters,
};
use stoq_simulation::network::{Faults, Network};
use stoq_simulation::pki::Authority;
use support::World;

/// Two hosts, far enough apart for windows to matter
fn far(adjust: impl Fn(&mut ControlSnapshot)) -> World {
    let mut world = World::of(&Authority::new(), 1, adjust);
    let faults = Faults { delay: Duration::from_millis(5), ..Faults::default() };
    world.network = Network::new(1, faults);
    world
}

fn ends(counters: &WorkerCounters) -> [u64; TrainEnd::ALL.len()] {
    std::array::from_fn(|index| counters.train_ends[index].get())
}

/// What ended the first host's trains while it sent so many octets
fn ends_of_sending(
    bytes: usize,
    adjust: impl Fn(&mut ControlSnapshot),
) -> impl Fn(TrainEnd) -> u64 {
    let mut world = far(adjust);
    let keys = world.connect();
    let before = ends(world.hosts[0].counters(0));
    world.echo(keys, &vec![7; bytes]);
    let after = ends(world.hosts[0].counters(0));
    move |end| after[end.index()] - before[end.index()]
}

/// No window comes near what one of these tests sends
fn wide(snapshot: &mut ControlSnapshot) {
    snapshot.transport.initial_window_packets = 4_000;
    snapshot.limits.flow_window_initial_bytes = 8 << 20;
}

#[test]
fn a_program_with_little_to_send_ends_its_trains_itself() {
    let ended = ends_of_sending(5_000, wide);
    assert!(ended(TrainEnd::Application) > 0);
    assert_eq!(ended(TrainEnd::CongestionWindow), 0);
    assert_eq!(ended(TrainEnd::FlowControl), 0);
    assert_eq!(ended(TrainEnd::Full), 0);
}

#[test]
fn a_small_congestion_window_ends_the_trains_of_a_large_flow() {
    let ended = ends_of_sending(1 << 20, |snapshot| {
        wide(snapshot);
        snapshot.transport.initial_window_packets = 10;
    });
    assert!(ended(TrainEnd::CongestionWindow) > 0);
    assert!(ended(TrainEnd::CongestionWindow) > ended(TrainEnd::FlowControl));
}

#[test]
fn an_open_window_lets_trains_fill() {
    let ended = ends_of_sending(1 << 20, wide);
    // The program writes 64 KiB a turn and the simulated host sends trains of 16: two of three are full.
    assert!(ended(TrainEnd::Full) > ended(TrainEnd::Application));
    assert_eq!(ended(TrainEnd::CongestionWindow), 0);
}

#[test]
fn flow_control_of_connection_stream_and_flow_is_told_from_congestion() {
    let binds = |name: &str, adjust: fn(&mut ControlSnapshot)| {
        let ended = ends_of_sending(1 << 20, move |snapshot| {
            wide(snapshot);
            adjust(snapshot);
        });
        assert!(ended(TrainEnd::FlowControl) > 0, "{name}");
        assert_eq!(ended(TrainEnd::CongestionWindow), 0, "{name}");
    };
    binds("connection", |snapshot| {
        snapshot.transport.connection_window_bytes = 64 << 10;
        snapshot.transport.stream_window_bytes = 8 << 20;
    });
    binds("stream", |snapshot| snapshot.transport.stream_window_bytes = 32 << 10);
    binds("flow", |snapshot| {
        // The echo wants 64 KiB of room.
        snapshot.limits.flow_window_initial_bytes = 128 << 10;
        snapshot.limits.flow_window_bytes = 128 << 10;
    });
}

#[test]
fn every_train_has_a_length_and_pacing_holds_trains_back() {
    let mut world = far(|snapshot| {
        wide(snapshot);
        snapshot.transport.pacing = true;
        // quiche paces under this algorithm only; a train takes more than a millisecond of such a window.
        snapshot.transport.congestion_control = CongestionControl::Bbr2;
        snapshot.transport.initial_window_packets = 100;
    });
    let keys = world.connect();
    world.echo(keys, &vec![7; 1 << 20]);
    let counters = world.hosts[0].counters(0);
    let sum = |lengths: &[stoq_interface::Counter; TRAIN_LENGTHS.len()]| -> u64 {
        lengths.iter().map(|counter| counter.get()).sum()
    };
    let (sent, received) =
        (sum(&counters.trains_sent_by_length), sum(&counters.trains_received_by_length));
    assert!(sent > 0 && received > 0);
    // One train may have ended short without its connection having been asked since.
    let ended: u64 = ends(counters).iter().sum();
    assert!(ended == sent || ended + 1 == sent, "{ended} {sent}");
    assert!(counters.trains_sent_by_length[4].get() > 0, "trains of 16");
    assert_eq!(counters.trains_sent_by_length[5].get(), 0, "no train is longer than it may be");
    assert!(counters.trains_held_by_pacing.get() > 0);
    let most = counters.packets_per_key_most.get();
    let status = &world.hosts[0].endpoint(0).connection_status(std::time::Instant::now())[0];
    assert!(most > 0 && most <= status.packets_sent.max(status.packets_received));
}

#[test]
fn what_is_lost_is_sent_again_and_counted() {
    let mut world = far(wide);
    world.network.set_faults(Faults { loss: 0.03, ..world.network.faults().clone() });
    let keys = world.connect();
    world.echo(keys, &vec![7; 1 << 20]);
    // Asking for the status brings the worker's counters up to date.
    let now = std::time::Instant::now();
    let status = world.hosts[0].endpoint(0).connection_status(now)[0].clone();
    let counters = world.hosts[0].counters(0);
    assert!(status.packets_lost > 0);
    assert_eq!(counters.packets_lost.get(), status.packets_lost);
    assert_eq!(counters.packets_lost_spurious.get(), status.packets_lost_spurious);
    assert!(counters.stream_bytes_retransmitted.get() > 0);
}

#[test]
fn the_stage_clock_runs_only_where_it_is_switched_on() {
    let mut world = far(wide);
    let keys = world.connect();
    world.hosts[0].counters(0).stage_clock.set(true);
    world.echo(keys, &vec![7; 100_000]);
    let spent = |host: usize, stage: TransportStage| {
        world.hosts[host].counters(0).transport_ns[stage.index()].get()
    };
    for stage in TransportStage::ALL {
        assert!(spent(0, stage) > 0, "{stage:?}");
        assert_eq!(spent(1, stage), 0, "{stage:?}");
    }
    // What a datagram takes includes what quiche takes for it.
    let inner = spent(0, TransportStage::ReceiveData) + spent(0, TransportStage::ReceiveAck);
    assert!(spent(0, TransportStage::DatagramIn) >= inner);
}
