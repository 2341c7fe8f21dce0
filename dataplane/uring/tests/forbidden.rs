//! A host that forbids io_uring, as container runtimes do by seccomp: the fallback works and says why. A test
//! program of its own, because a process probes once.

#[path = "../../udp/tests/suite/mod.rs"]
mod suite;

use stoq_interface::IoProvider;
use stoq_udp::{DatagramIo, IoSettings, Socket};
use stoq_uring::{ProbeFailure, open, probe};

/// Makes io_uring_setup(2) fail with EPERM on this thread and all it starts
fn forbid_io_uring() {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut filter = [
        // The number of the system call is the first field of seccomp_data.
        libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: equal, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
        libc::sock_filter {
            code: answer,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers; then a program of four instructions that live during the call, which copies them.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            + libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn make(socket: Socket, settings: &IoSettings) -> Box<dyn DatagramIo> {
    let opened = open(socket, settings).unwrap();
    assert_eq!(opened.fallback, Some(ProbeFailure::Forbidden));
    assert_eq!(opened.io.describe().provider, IoProvider::SystemCalls);
    opened.io
}

#[test]
fn the_fallback_works_and_says_why() {
    forbid_io_uring();
    assert_eq!(probe(), Err(ProbeFailure::Forbidden));
    suite::carries_trains(make);
    suite::keeps_every_wake_up(make);
}
