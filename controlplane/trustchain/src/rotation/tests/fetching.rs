//! How certificates are fetched: when, from whom, and after which failures.

use super::*;

#[test]
fn a_node_without_certificate_gets_one_at_once() {
    let mut bench = Bench::with(&["one"], None, 1);
    bench.answer = Answer::Issue;
    let actions = bench.take();
    let Action::Request(request) = &actions[0].1 else { panic!("{actions:?}") };
    assert_eq!((request.kind.clone(), request.key), (RequestKind::ReEnrol, KeySlot(1)));
    let Action::Activate(activation) = &actions[1].1 else { panic!("{actions:?}") };
    assert_eq!(activation.roles, [Role::Server, Role::Client]);
    assert_eq!((activation.reason, activation.replaces.clone()), (ActivationReason::First, None));
    assert_eq!(bench.rotation.current().unwrap().certificate.serial, "n1");
}

#[test]
fn the_successor_is_fetched_after_16_hours_and_takes_over_at_23() {
    let mut bench = Bench::running();
    bench.answer = Answer::Issue;
    let old = Connection { own_serial: "old".to_owned(), peer_not_after: start() + 40 * HOUR };
    bench.rotation.handle_connection_opened(9, old, bench.now).unwrap();
    bench.pass_until(22 * HOUR);
    let requests = bench.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let (at, request) = &requests[0];
    // Hours count from the start of validity, five minutes before issuing.
    let into = at.duration_since(start()).unwrap() + 5 * MINUTE;
    assert!((16 * HOUR..=17 * HOUR).contains(&into), "{into:?}");
    assert_eq!(request.kind, RequestKind::Renew { serial: "old".to_owned() });
    assert_eq!(bench.rotation.current().unwrap().certificate.serial, "old");
    assert_eq!(bench.rotation.successor().unwrap().key, request.key);

    bench.pass_until(23 * HOUR);
    let activations = bench.activations();
    assert_eq!(activations.len(), 1);
    assert_eq!(activations[0].0, 23 * HOUR - 5 * MINUTE);
    assert_eq!(activations[0].1.replaces.as_deref(), Some("old"));
    // The connection still stands on the old certificate, so that is kept.
    let draining: Vec<_> = bench.rotation.draining().collect();
    assert_eq!((draining.len(), draining[0].key), (1, KeySlot(0)));
    bench.pass_until(24 * HOUR - 10 * MINUTE);
    let replaced = bench.take();
    let replace = replaced.iter().find(|(_, action)| {
        matches!(action, Action::ReplaceConnections { connections, .. } if connections == &[9])
    });
    assert!(replace.is_some(), "{replaced:?}");
    bench.rotation.handle_connection_closed(9, bench.now);
    let gone = Action::DiscardKey { key: KeySlot(0), serial: Some("old".to_owned()) };
    assert!(bench.take().iter().any(|(_, action)| *action == gone));
    assert_eq!(bench.rotation.draining().count(), 0);
}

#[test]
fn ten_days_bring_a_fresh_key_each_and_no_gap() {
    let mut bench = Bench::running();
    bench.answer = Answer::Issue;
    bench.pass_until(240 * HOUR);
    let actions = bench.take();
    let keys: Vec<_> = actions
        .iter()
        .filter_map(|(_, action)| match action {
            Action::Activate(activation) => Some(activation.key),
            _ => None,
        })
        .collect();
    assert!(keys.len() >= 10, "{keys:?}");
    assert!(keys.is_sorted_by(|one, next| one < next), "{keys:?}");
    assert_eq!((bench.count("expired"), bench.count("failed")), (0, 0));
    assert_eq!(bench.count("retired"), keys.len() as u64);
}

#[test]
fn no_failure_ends_the_loop_and_waits_are_bounded() {
    for failure in Failure::ALL {
        let mut bench = Bench::running();
        bench.answer = Answer::Fail(*failure, None);
        bench.pass_until(30 * HOUR);
        let requests = bench.requests();
        let times: Vec<_> = requests.iter().map(|(at, _)| *at).collect();
        let waits: Vec<_> =
            times.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap()).collect();
        assert!(waits.len() > 100, "{failure}: {} requests", times.len());
        let settings = RotationSettings::default();
        let bounds = settings.backoff_base..=settings.backoff_cap;
        assert!(waits.iter().all(|wait| bounds.contains(wait)), "{failure}: {waits:?}");
        assert!(since(start() + 30 * HOUR, *times.last().unwrap()) <= settings.backoff_cap);
        assert_eq!(bench.count("expired"), 1);
        bench.answer = Answer::Issue;
        bench.pass(settings.backoff_cap);
        let activations = bench.activations();
        assert_eq!(activations.len(), 1, "{failure}");
        assert_eq!(activations[0].1.reason, ActivationReason::Expired);
    }
}

#[test]
fn after_its_end_a_node_enrols_again_with_its_enrolled_key() {
    let mut bench = Bench::running();
    bench.answer = Answer::Fail(Failure::Unreachable, None);
    bench.pass_until(25 * HOUR);
    let (before, after): (Vec<_>, Vec<_>) = bench
        .requests()
        .into_iter()
        .partition(|(at, _)| *at <= start() + 24 * HOUR - 5 * MINUTE - 31 * SECOND);
    let renew = RequestKind::Renew { serial: "old".to_owned() };
    assert!(!before.is_empty() && before.iter().all(|(_, request)| request.kind == renew));
    assert!(!after.is_empty() && after.iter().all(|(_, r)| r.kind == RequestKind::ReEnrol));
}

#[test]
fn a_refused_certificate_is_followed_by_the_enrolled_key() {
    let mut bench = Bench::running();
    bench.answer = Answer::Fail(Failure::CertificateRefused, None);
    bench.pass_until(17 * HOUR);
    let requests = bench.requests();
    assert!(matches!(requests[0].1.kind, RequestKind::Renew { .. }));
    assert!(requests[1..].iter().all(|(_, request)| request.kind == RequestKind::ReEnrol));
    bench.answer = Answer::Issue;
    bench.pass_until(40 * HOUR);
    let later = bench.requests();
    assert!(matches!(later.last().unwrap().1.kind, RequestKind::Renew { .. }));
}

#[test]
fn authorities_take_turns_and_none_sees_the_key_of_another() {
    let mut bench = Bench::with(&["one", "two", "three"], Some(facts("old", start())), 5);
    bench.answer = Answer::Fail(Failure::Unreachable, None);
    bench.pass_until(20 * HOUR);
    let requests = bench.requests();
    let names: Vec<_> = requests.iter().map(|(_, request)| request.authority.as_str()).collect();
    let expected = ["one", "two", "three"].into_iter().flat_map(|name| [name; 3]).cycle();
    assert_eq!(names, expected.take(names.len()).collect::<Vec<_>>());
    for three in requests.chunks(3) {
        assert!(three.iter().all(|(_, request)| request.key == three[0].1.key));
    }
    let mut keys: Vec<_> = requests.iter().map(|(_, request)| request.key).collect();
    keys.dedup();
    assert_eq!(keys.len(), requests.len().div_ceil(3));
}

#[test]
fn patience_asked_for_is_given_and_another_authority_asked_meanwhile() {
    let patience = 20 * MINUTE;
    let mut bench = Bench::running();
    bench.answer = Answer::Fail(Failure::Overloaded, Some(patience));
    bench.pass_until(24 * HOUR);
    let times: Vec<_> = bench.requests().iter().map(|(at, _)| *at).collect();
    assert!(times.len() > 5);
    for pair in times.windows(2) {
        let wait = since(pair[1], pair[0]);
        assert!((patience..=2 * patience + SECOND).contains(&wait), "{wait:?}");
    }

    let mut bench = Bench::with(&["one", "two"], Some(facts("old", start())), 5);
    bench.answer = Answer::Fail(Failure::Overloaded, Some(patience));
    bench.pass_until(17 * HOUR);
    let requests = bench.requests();
    assert_eq!(requests[0].1.authority, "one");
    assert_eq!(requests[1].1.authority, "two");
    assert!(since(requests[1].0, requests[0].0) < MINUTE);

    let endless = Some(Duration::from_secs(u64::MAX / 4));
    let mut bench = Bench::running();
    bench.answer = Answer::Fail(Failure::Overloaded, endless);
    bench.pass_until(22 * HOUR);
    assert!(bench.requests().len() >= 3, "patience without bound would end the loop");
}

#[test]
fn an_attempt_without_answer_is_given_up_and_its_late_answer_still_counts() {
    let mut bench = Bench::running();
    bench.pass_until(17 * HOUR);
    let actions = bench.take();
    let first = actions.iter().find_map(|(_, action)| match action {
        Action::Request(request) => Some(request.clone()),
        _ => None,
    });
    let first = first.unwrap();
    let gave_up =
        |(_, action): &(SystemTime, Action)| *action == Action::Abandon { attempt: first.attempt };
    assert!(actions.iter().any(gave_up));
    assert!(bench.events.iter().any(|event| {
        matches!(event, Event::Failed { failure: Failure::Timeout, attempt, .. } if *attempt == first.attempt)
    }));
    bench.rotation.handle_failed(first.attempt, Failure::Unreachable, None, bench.now);
    assert_eq!(bench.count("late_answer"), 1);
    bench.issue(first.key).unwrap();
    assert_eq!(bench.rotation.successor().unwrap().key, first.key);
    assert_eq!(bench.issue(first.key), Err(CertificateRefusal::UnknownKey));
}
