//! How certificates take turns, who decides when, and what clocks do to that.

use super::*;

#[test]
fn a_revoked_certificate_gives_way_at_once() {
    let mut bench = Bench::running();
    bench.answer = Answer::Issue;
    let on_old = Connection { own_serial: "old".to_owned(), peer_not_after: start() + 40 * HOUR };
    bench.rotation.handle_connection_opened(3, on_old.clone(), bench.now).unwrap();
    bench.pass_until(18 * HOUR);
    bench.take();
    bench.rotation.handle_revoked("old", bench.now);
    let actions: Vec<_> = bench.take().into_iter().map(|(_, action)| action).collect();
    let Action::Activate(activation) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(activation.reason, ActivationReason::Revoked);
    let Action::ReplaceConnections { connections, .. } = &actions[1] else { panic!("{actions:?}") };
    assert_eq!(connections, &[3]);
    // A handshake that was under way with the revoked one
    bench.rotation.handle_connection_opened(4, on_old, bench.now).unwrap();
    assert!(matches!(
        &bench.take()[0].1,
        Action::ReplaceConnections { connections, .. } if connections == &[4]
    ));

    let mut bench = Bench::running();
    bench.answer = Answer::Issue;
    bench.pass_until(2 * HOUR);
    bench.take();
    bench.rotation.handle_revoked("old", bench.now);
    bench.pass(URGENT_SPREAD);
    let requests = bench.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].1.kind, RequestKind::ReEnrol);
    assert_eq!(bench.rotation.current().unwrap().certificate.serial, "n1");

    // A successor that is revoked before its turn never gets it.
    bench.pass_until(20 * HOUR);
    let staged = bench.rotation.successor().unwrap().certificate.serial.clone();
    bench.rotation.handle_revoked(&staged, bench.now);
    bench.pass_until(30 * HOUR);
    assert!(bench.activations().iter().all(|(_, activation)| activation.serial != staged));
}

#[test]
fn the_authoritys_window_decides_and_a_point_in_it_is_drawn_once() {
    let mut bench = Bench::running();
    bench.pass(SECOND);
    let window = |from: Duration, until: Duration| {
        Some(RenewalWindow { start: start() + from, end: start() + until })
    };
    let tell = |bench: &mut Bench, window, retry_after| {
        bench.rotation.handle_renewal_information("old", window, retry_after, bench.now);
        bench.settle();
        bench.rotation.acquire_at().unwrap()
    };
    let unasked = bench.rotation.acquire_at().unwrap();
    let four = window(4 * HOUR, 5 * HOUR);
    let chosen = tell(&mut bench, four, None);
    assert!((start() + 4 * HOUR..=start() + 5 * HOUR).contains(&chosen));
    assert_eq!(tell(&mut bench, four, None), chosen);
    let other = tell(&mut bench, window(6 * HOUR, 7 * HOUR), None);
    assert!((start() + 6 * HOUR..=start() + 7 * HOUR).contains(&other));
    assert_ne!(unasked, other);
    for useless in [window(7 * HOUR, 7 * HOUR), window(23 * HOUR, 30 * HOUR)] {
        assert_eq!(tell(&mut bench, useless, None), other);
    }
    assert_eq!(bench.count("window_ignored"), 2);
    let cut = tell(&mut bench, window(10 * HOUR, 100 * HOUR), None);
    assert!((start() + 10 * HOUR..=start() + 23 * HOUR - 5 * MINUTE).contains(&cut));
    assert!(bench.events.iter().any(|event| matches!(event, Event::Scheduled { cut: true, .. })));
    // A window that lies behind means now.
    bench.take();
    bench.pass(2 * HOUR);
    bench.take();
    tell(&mut bench, window(Duration::ZERO, HOUR), None);
    assert_eq!(bench.requests().len(), 1);
}

#[test]
fn the_authority_says_when_it_wants_to_be_asked_for_its_window() {
    let mut bench = Bench::running();
    let asked = |bench: &mut Bench| {
        let taken = bench.take();
        let asked = taken.iter().filter(|(_, a)| matches!(a, Action::AskRenewalInformation { .. }));
        asked.map(|(at, _)| *at).collect::<Vec<_>>()
    };
    bench.pass(MINUTE);
    assert_eq!(asked(&mut bench).len(), 1, "a start asks soon, for windows are not kept on disk");
    bench.rotation.handle_renewal_information("old", None, Some(3 * HOUR), bench.now);
    let told = bench.now.wall;
    bench.pass(4 * HOUR);
    let times = asked(&mut bench);
    assert_eq!(times.len(), 1);
    assert!((3 * HOUR..=3 * HOUR + 19 * MINUTE).contains(&(since(times[0], told))));
    // Nobody may make a node ask all the time.
    bench.rotation.handle_renewal_information("old", None, Some(Duration::ZERO), bench.now);
    bench.pass(59 * SECOND);
    assert!(asked(&mut bench).is_empty());
    bench.pass(8 * SECOND);
    assert_eq!(asked(&mut bench).len(), 1);
}

#[test]
fn certificates_that_are_of_no_use_are_refused_each_by_its_name() {
    use CertificateRefusal as Refusal;
    let mut bench = Bench::running();
    bench.pass_until(16 * HOUR + 56 * MINUTE);
    let mut offer = |key: Option<KeySlot>, certificate: CertificateFacts| {
        // Whatever was refused makes the next attempt use another key.
        while !matches!(bench.actions.last(), Some((_, Action::Request(_)))) {
            bench.pass(SECOND);
        }
        let Some((_, Action::Request(request))) = bench.actions.last() else { unreachable!() };
        let key = key.unwrap_or(request.key);
        let judged = bench.rotation.handle_issued(key, certificate, None, None, bench.now);
        bench.settle();
        judged
    };
    let at = start() + 17 * HOUR;
    let good = facts("n", at);
    let with = |change: fn(&mut CertificateFacts)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    assert_eq!(offer(Some(KeySlot(99)), good.clone()), Err(Refusal::UnknownKey));
    assert_eq!(offer(None, with(|c| c.serial = "old".into())), Err(Refusal::Repeated));
    assert_eq!(offer(None, with(|c| c.not_after = c.not_before)), Err(Refusal::NoLifetime));
    assert_eq!(
        offer(
            None,
            with(|c| {
                c.not_before -= 48 * HOUR;
                c.not_after -= 48 * HOUR;
            })
        ),
        Err(Refusal::Ended)
    );
    assert_eq!(
        offer(
            None,
            with(|c| {
                c.not_before += 8 * HOUR;
                c.not_after += 8 * HOUR;
            })
        ),
        Err(Refusal::NotYetValid)
    );
    assert_eq!(offer(None, with(|c| c.not_after -= 17 * HOUR)), Err(Refusal::NoGain));
    assert_eq!(offer(None, good.clone()), Ok(()));
    assert_eq!(bench.count("certificate_refused"), 6);
    assert_eq!(bench.rotation.successor().unwrap().certificate, good);
}

#[test]
fn a_host_that_slept_looks_at_its_clock_and_does_not_rush() {
    let mut bench = Bench::running();
    bench.answer = Answer::Issue;
    bench.pass_until(HOUR);
    bench.take();
    // Twenty hours during which the monotone clock stood still
    bench.now.wall += 20 * HOUR;
    bench.pass(CLOCK_REREAD_LIMIT + URGENT_SPREAD);
    assert_eq!(bench.count("clock_forward"), 1);
    assert_eq!(bench.requests().len(), 1);
    // And past the end of everything
    bench.now.wall += 60 * HOUR;
    bench.pass(CLOCK_REREAD_LIMIT + URGENT_SPREAD);
    let actions = bench.take();
    let kinds: Vec<_> = actions
        .iter()
        .filter_map(|(_, action)| match action {
            Action::Request(request) => Some(request.kind.label()),
            Action::Activate(activation) => Some(activation.reason.label()),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, ["re_enrol", "expired"]);
}

#[test]
fn hosts_that_slept_together_do_not_wake_as_a_herd() {
    let mut offsets: Vec<Duration> = (0..50)
        .map(|seed| {
            let mut bench = Bench::with(&["one"], Some(facts("old", start())), seed);
            bench.pass_until(HOUR);
            bench.take();
            bench.now.wall += 20 * HOUR;
            let woke = bench.now.wall;
            bench.rotation.handle_time(bench.now);
            bench.pass(URGENT_SPREAD);
            since(bench.requests()[0].0, woke)
        })
        .collect();
    offsets.sort_unstable();
    assert!(offsets[10] < offsets[25] && offsets[25] < offsets[40], "{offsets:?}");
    assert!(offsets[49] - offsets[0] > URGENT_SPREAD / 2);
}

#[test]
fn a_clock_set_back_is_reported_and_nothing_is_lost() {
    let mut bench = Bench::running();
    bench.answer = Answer::Issue;
    bench.pass_until(20 * HOUR);
    bench.now.wall -= 10 * HOUR;
    bench.pass(MINUTE);
    assert_eq!(bench.count("clock_backward"), 1);
    assert!(bench.rotation.successor().is_some());
    bench.pass_until(23 * HOUR);
    assert_eq!(bench.activations().len(), 1);
}

#[test]
fn a_swap_that_fails_leaves_the_one_before_in_force() {
    let mut bench = Bench::running();
    (bench.answer, bench.confirm) = (Answer::Issue, false);
    bench.pass_until(23 * HOUR);
    let failed = bench.activations()[0].1.clone();
    // Not confirmed, so the one before is still what the driver presents.
    assert_eq!(bench.rotation.draining().count(), 1);
    bench.rotation.handle_activation_failed(&failed.serial, "self-test failed", bench.now);
    assert_eq!(bench.rotation.current().unwrap().certificate.serial, "old");
    bench.confirm = true;
    bench.pass(15 * SECOND);
    let actions = bench.take();
    let gone = Action::DiscardKey { key: failed.key, serial: Some(failed.serial.clone()) };
    assert!(actions.iter().any(|(_, action)| *action == gone), "{actions:?}");
    let next = actions.iter().find_map(|(_, action)| match action {
        Action::Activate(activation) => Some(activation),
        _ => None,
    });
    assert_ne!(next.unwrap().serial, failed.serial);
    assert_ne!(next.unwrap().key, failed.key);
    assert_eq!(bench.rotation.draining().count(), 0);
}

#[test]
fn a_certificate_made_for_later_waits_for_its_day_and_is_no_help_before() {
    let mut bench = Bench::running();
    bench.pass_until(16 * HOUR + 56 * MINUTE);
    let (_, request) = bench.requests().pop().unwrap();
    let later = facts("later", start() + 23 * HOUR + 30 * MINUTE);
    bench.rotation.handle_issued(request.key, later, None, None, bench.now).unwrap();
    bench.pass_until(23 * HOUR + 10 * MINUTE);
    assert!(bench.activations().is_empty());
    let mut spare = Bench::running();
    spare.pass_until(16 * HOUR + 56 * MINUTE);
    let (_, request) = spare.requests().pop().unwrap();
    let later = facts("later", start() + 23 * HOUR + 30 * MINUTE);
    spare.rotation.handle_issued(request.key, later, None, None, spare.now).unwrap();

    bench.pass_until(23 * HOUR + 26 * MINUTE);
    assert_eq!(bench.activations()[0].0, 23 * HOUR + 25 * MINUTE);

    spare.answer = Answer::Issue;
    spare.rotation.handle_revoked("old", spare.now);
    spare.pass(URGENT_SPREAD);
    assert_eq!(spare.rotation.current().unwrap().certificate.serial, "n1");
}

#[test]
fn a_list_of_authorities_without_the_one_asked_moves_on() {
    let mut bench = Bench::with(&["one", "two"], Some(facts("old", start())), 5);
    bench.pass_until(16 * HOUR + 56 * MINUTE);
    let (_, first) = bench.requests().pop().unwrap();
    assert_eq!(bench.rotation.handle_authorities(vec![], bench.now), Err(NoAuthority));
    let many = vec!["x".to_owned(); AUTHORITIES_LIMIT + 1];
    assert_eq!(bench.rotation.handle_authorities(many, bench.now), Err(NoAuthority));
    bench.rotation.handle_authorities(vec!["three".to_owned()], bench.now).unwrap();
    bench.pass(URGENT_SPREAD);
    let (_, next) = bench.requests().pop().unwrap();
    assert_eq!(next.authority, "three");
    assert_ne!(next.key, first.key);
}

#[test]
fn an_authority_with_another_time_is_reported() {
    let mut bench = Bench::running();
    bench.pass_until(17 * HOUR);
    let (_, request) = bench.requests().pop().unwrap();
    let theirs = Some(bench.now.wall - 2 * MINUTE);
    let certificate = facts("n", bench.now.wall - 2 * MINUTE);
    bench.rotation.handle_issued(request.key, certificate, None, theirs, bench.now).unwrap();
    bench.settle();
    let skewed = Event::ClockSkewed { by: 2 * MINUTE, ahead: true };
    assert!(bench.events.contains(&skewed));
}

#[test]
fn labels_are_unique() {
    let mut labels = Event::LABELS.to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Event::LABELS.len());
    let refusals: std::collections::BTreeSet<_> =
        CertificateRefusal::ALL.iter().map(|refusal| refusal.label()).collect();
    assert_eq!(refusals.len(), CertificateRefusal::ALL.len());
    let failures: std::collections::BTreeSet<_> =
        Failure::ALL.iter().map(|failure| failure.label()).collect();
    assert_eq!(failures.len(), Failure::ALL.len());
}
