//! Which soaks are sound, and which are not.

use super::*;
use crate::process::WorkerSample;
use crate::vitals::Memory;

const HOUR_S: f64 = 3_600.0;
const BOUND: u64 = 64 << 20;

fn end(counters: &[(&str, u64)], reasons: &[(&str, u64)]) -> Vitals {
    let named = |all: &[(&str, u64)]| all.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
    let mut end = Vitals::default();
    end.sample.workers =
        vec![WorkerSample { counters: named(counters), ..WorkerSample::default() }];
    end.reasons = named(reasons);
    end
}

/// An hour in 100 records; resident memory jumps in the first and then grows by this much per hour
fn records(growth_bytes: f64) -> Vec<Record> {
    let record = |index: i32| {
        let part = f64::from(index) / 100.0;
        let settled = if index < 8 { 0.0 } else { 1e9 };
        let memory =
            Memory { rss_bytes: (settled + 1e8 + growth_bytes * part) as u64, ..Memory::default() };
        Record {
            end_s: part * HOUR_S,
            sender_memory: memory,
            receiver_memory: memory,
            ..Record::default()
        }
    };
    (1..=100).map(record).collect()
}

fn flow() -> exchange::Verdict {
    exchange::Verdict { received_bytes: 9, sent_bytes: Some(9), outcome: Outcome::Equal }
}

fn judge(
    records: &[Record],
    near: &Vitals,
    far: &Vitals,
    bend: impl FnOnce(&mut Evidence<'_>),
) -> Verdict {
    judge_flows(&[flow()], records, near, far, bend)
}

fn judge_flows(
    flows: &[exchange::Verdict],
    records: &[Record],
    near: &Vitals,
    far: &Vitals,
    bend: impl FnOnce(&mut Evidence<'_>),
) -> Verdict {
    let mut evidence = Evidence {
        duration_s: HOUR_S,
        bound_bytes_per_hour: BOUND,
        near,
        far,
        flows,
        replacements_asked: 59,
        replacements: 60,
        connections_lost: 0,
    };
    bend(&mut evidence);
    Verdict::of(records, &evidence)
}

fn quiet() -> Vitals {
    end(&[("datagrams_sent", 100), ("datagrams_received", 100)], &[])
}

fn nothing() -> Vitals {
    end(&[], &[])
}

#[test]
fn a_quiet_run_is_sound_and_its_settling_is_not_held_against_it() {
    let verdict = judge(&records(1e6), &quiet(), &quiet(), |_| {});
    assert!(verdict.is_sound(), "{verdict:?}");
    assert!((verdict.sender_memory.bytes_per_hour.unwrap() - 1e6).abs() < 1e3);
    assert!(verdict.drops.is_empty());
    let text = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict);
}

#[test]
fn growth_beyond_the_bound_is_found_and_too_few_records_prove_nothing() {
    let verdict = judge(&records(1e8), &quiet(), &quiet(), |_| {});
    assert_eq!(verdict.memory_is_flat, Some(false));
    assert!(!verdict.is_sound());
    let verdict =
        judge(&records(0.0)[..2], &quiet(), &quiet(), |evidence| evidence.duration_s = 1.0);
    assert_eq!(verdict.memory_is_flat, None);
    assert!(!verdict.is_sound());
    assert!(verdict.lines()[0].contains("NOT JUDGED"));
}

#[test]
fn lost_or_changed_octets_and_missing_replacements_are_not_sound() {
    let torn = [exchange::Verdict { sent_bytes: None, outcome: Outcome::NoTrailer, ..flow() }];
    let short =
        [exchange::Verdict { sent_bytes: Some(11), outcome: Outcome::CountDiffers, ..flow() }];
    let differs = [exchange::Verdict { outcome: Outcome::DigestDiffers, ..flow() }];
    let expected = [(&torn, None), (&short, Some(2)), (&differs, Some(0))];
    for (flows, lost) in expected {
        let verdict = judge_flows(flows, &records(0.0), &quiet(), &quiet(), |_| {});
        assert_eq!(verdict.lost_bytes, lost);
        assert!(!verdict.is_sound());
    }
    assert!(!judge_flows(&[], &records(0.0), &quiet(), &quiet(), |_| {}).is_sound());
    assert!(!judge(&records(0.0), &quiet(), &quiet(), |e| e.replacements = 58).is_sound());
}

#[test]
fn drops_are_explained_by_what_else_was_counted_or_not_at_all() {
    let sound = |near: &Vitals, far: &Vitals| judge(&records(0.0), near, far, |_| {}).is_sound();
    assert!(sound(&nothing(), &nothing()));
    let lost = end(&[("packets_lost", 5), ("packets_lost_spurious", 2)], &[]);
    let full = end(&[("socket_overflows", 1)], &[]);
    assert!(!sound(&lost, &nothing()), "lost on loopback, and no socket was full");
    assert!(sound(&lost, &full));
    assert!(sound(&full, &lost), "and in the other direction");
    let spurious = end(&[("packets_lost", 2), ("packets_lost_spurious", 2)], &[]);
    assert!(sound(&spurious, &nothing()));
    let sent = end(&[("datagrams_sent", 101)], &[]);
    assert!(!sound(&sent, &quiet()), "a datagram vanished");
    for reason in ["dropped.refused", "dropped.malformed", "refused.expired", "flow.session_lost"] {
        assert!(!sound(&nothing(), &end(&[], &[(reason, 1)])), "{reason}");
        assert!(!sound(&end(&[], &[(reason, 1)]), &nothing()), "{reason}");
    }
    assert!(!sound(&end(&[("send_errors", 1)], &[]), &nothing()));
    assert!(!judge(&records(0.0), &nothing(), &nothing(), |e| e.connections_lost = 1).is_sound());
    let late = end(&[], &[("dropped.unknown_connection", 3)]);
    assert!(sound(&nothing(), &late), "under way to a connection that was replaced");
    let without = judge(&records(0.0), &nothing(), &late, |evidence| {
        (evidence.replacements, evidence.replacements_asked) = (0, 0);
    });
    assert_eq!(without.unexplained["receiver.dropped.unknown_connection"], 3);
}
