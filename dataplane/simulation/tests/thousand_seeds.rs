//! A thousand seeds: every flow byte-exact, nothing left behind, and every kind of fault has happened.

use stoq_simulation::runner;

#[test]
fn a_thousand_seeds_pass() {
    let report = match runner::run(0..1_000, 2, |_, _| {}) {
        Ok(report) => report,
        Err(failure) => panic!("{failure}"),
    };
    assert_eq!(report.scenarios, 1_000);
    assert!(report.bytes > 500 << 20, "{report:?}");
    let faults = &report.faults;
    // Without these the thousand would prove less than they claim.
    for (what, count) in [
        ("lost", faults.lost),
        ("overflowed", faults.overflowed),
        ("outage", faults.outage),
        ("swallowed", faults.swallowed),
        ("duplicated", faults.duplicated),
        ("reordered", faults.reordered),
        ("corrupted", faults.corrupted),
        ("changes of rate and delay", report.changes),
        ("connections replaced", report.replacements),
        ("connections lost", report.losses),
        ("connections killed", report.kills),
        ("bytes sent again", report.bytes_resent),
        ("flows given up", report.resets),
        ("handed over", report.handed_over),
    ] {
        assert!(count > 50, "{what}: {count}");
    }
}
