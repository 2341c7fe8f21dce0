//! The provider over plain system calls, against everything a provider must do.

mod suite;

use stoq_interface::IoProvider;
use stoq_udp::{DatagramIo, IoSettings, Socket, SystemCallIo};

fn make(socket: Socket, settings: &IoSettings) -> Box<dyn DatagramIo> {
    Box::new(SystemCallIo::new(socket, settings).unwrap())
}

macro_rules! suite {
    ($($name:ident,)*) => {
        $(#[test] fn $name() { suite::$name(make); })*
    };
}

suite! {
    carries_trains,
    carries_without_offloads,
    hands_over_few_at_a_time,
    recovers_from_exhausted_buffers,
    slabs_run_out_and_come_back,
    refuses_what_cannot_be_sent,
    sends_from_the_address_given,
    sleeps_until_the_timeout,
    keeps_every_wake_up,
    is_woken_by_another_thread,
    peers_wake_each_other,
    counts_what_the_socket_dropped,
}

#[test]
fn says_what_it_is() {
    let io = suite::provider(make, &suite::settings());
    let description = io.describe();
    assert_eq!(description.provider, IoProvider::SystemCalls);
    assert_eq!(description.gso_segments, io.segment_limit());
    assert!(!description.registered_buffers && !description.registered_ring);
    assert!(description.receive_buffer_bytes > 0 && description.page_bytes >= 4096);
}
