//! What time does to lists: ends, backups, restarts and age.

use super::*;

#[test]
fn a_shorter_list_with_a_higher_number_is_refused_until_what_it_lacks_has_ended() {
    let ca = Ca::new("one");
    let mut node = node(&[&ca]);
    let (soon, late) = (ca.entry(1, now() + HOUR), ca.entry(2, now() + DAY));
    let both = ca.document(1, now(), vec![soon.clone(), late.clone()]);
    node.handle_document(&ca.sealed(&both), now()).unwrap();
    let offer = |node: &mut DenyList, epoch, at, entries| {
        node.handle_document(&ca.sealed(&ca.document(epoch, at, entries)), at)
    };
    let lost = offer(&mut node, 900, now() + MINUTE, vec![soon.clone()]);
    assert_eq!(lost, Err(Refusal::UnRevokes { epoch: 900, missing: 1 }));
    let mut sooner = late.clone();
    sooner.ends_at -= 1;
    let shortened = offer(&mut node, 900, now() + MINUTE, vec![soon.clone(), sooner]);
    assert_eq!(shortened, Err(Refusal::UnRevokes { epoch: 900, missing: 1 }));
    assert!(ca.refuses(&node, 1) && ca.refuses(&node, 2));
    // Serial 1 ended an hour after now and counts for one hour more.
    let at = now() + HOUR + RETAIN_AFTER_END;
    let early = offer(&mut node, 901, at, vec![late.clone()]);
    assert_eq!(early, Err(Refusal::UnRevokes { epoch: 901, missing: 1 }));
    let at = at + Duration::from_secs(1);
    assert_eq!(offer(&mut node, 902, at, vec![late]), Ok(Applied::Taken { added: 0 }));
    assert!(!ca.refuses(&node, 1) && ca.refuses(&node, 2));
}

#[test]
fn entries_leave_both_sides_after_their_end_without_a_gap() {
    let mut ca = Ca::new("one");
    let mut node = node(&[&ca]);
    for (serial, hours) in [(1, 1), (2, 30)] {
        let entry = ca.entry(serial, now() + hours * HOUR);
        ca.list.revoke(entry, now()).unwrap();
    }
    node.handle_document(&ca.publish(now()).full, now()).unwrap();
    let later = now() + 2 * HOUR + MINUTE;
    let change = ca.publish(later);
    assert_eq!(change.mark.live, 1);
    node.handle_document(&change.delta, later).unwrap();
    assert!(!ca.refuses(&node, 1) && ca.refuses(&node, 2));
    let ended = ca.entry(3, now());
    assert_eq!(ca.list.revoke(ended, later), Err(RevokeError::Ended));
}

#[test]
fn an_authority_from_an_old_backup_may_not_go_on_until_it_has_what_nodes_have() {
    let mut ca = Ca::new("one");
    ca.revoke(1);
    let mut node = node(&[&ca]);
    node.handle_document(&ca.publish(now()).full, now()).unwrap();
    let backup = ca.list.state();
    ca.revoke(2);
    let second = ca.publish(now() + MINUTE);
    node.handle_document(&second.delta, now() + MINUTE).unwrap();
    let full = second.full;

    let restore = |state: IssuerState| {
        let settings = IssuerSettings::default();
        DenyListIssuer::restore(ca.name.clone(), settings, state).unwrap()
    };
    let marks: Vec<_> = node.marks().cloned().collect();
    let mut restored = restore(backup.clone());
    let behind = RestoreError::Behind { have: 1, seen: 2 };
    assert_eq!(restored.observe(&marks[0]), Err(behind));
    let stopped = restored.publish(&ca.key, now() + 2 * MINUTE).unwrap_err();
    assert!(matches!(stopped, PublishError::Restore(error) if error == behind), "{stopped}");
    // Revoked since the restore, and known to nobody else
    let fresh = ca.entry(3, now() + DAY);
    restored.revoke(fresh, now()).unwrap();
    let document = open(&full, &signers(&[&ca])).unwrap();
    assert_eq!(restored.adopt(&document), Ok(1));
    assert_eq!(restored.observe(&marks[0]), Ok(()));
    let third = restored.publish(&ca.key, now() + 2 * MINUTE).unwrap();
    assert_eq!(third.epoch, 3);
    let taken = node.handle_document(&third.delta, now() + 2 * MINUTE);
    assert_eq!(taken, Ok(Applied::Taken { added: 1 }));
    assert!((1..=3).all(|serial| ca.refuses(&node, serial)));

    // The same number with another content
    let mut other = restore(backup);
    other.revoke(ca.entry(9, now() + DAY), now()).unwrap();
    other.publish(&ca.key, now() + MINUTE).unwrap();
    assert_eq!(other.observe(&marks[0]), Err(RestoreError::Differs(2)));
    assert_eq!(other.adopt(&document), Ok(1));
    assert!(other.publish(&ca.key, now() + 2 * MINUTE).is_ok());

    let mut latest = restore(ca.list.state());
    assert_eq!(latest.observe(&marks[0]), Ok(()));
    let mut foreign = marks[0].clone();
    (foreign.instance, foreign.epoch) = ("two".to_owned(), 99);
    assert_eq!(latest.observe(&foreign), Ok(()));
    let old = ca.document(1, now(), vec![]);
    let older = RestoreError::Older { offered: 1, needed: 2 };
    assert_eq!(latest.adopt(&old), Err(older));
    let change = DenyListDocument { form: Form::Delta { base_epoch: 1 }, epoch: 9, ..old };
    assert_eq!(latest.adopt(&change), Err(RestoreError::Foreign));
}

#[test]
fn an_authority_with_a_clock_behind_issues_nothing() {
    let mut ca = Ca::new("one");
    ca.publish(now());
    // A step within the tolerance is bridged.
    assert_eq!(ca.publish(now() - MINUTE).mark.issued_at, seconds(now()));
    let back = ca.list.publish(&ca.key, now() - 2 * MINUTE).unwrap_err();
    assert!(matches!(back, PublishError::ClockWentBack { behind_seconds: 120 }), "{back}");
    assert_eq!(ca.list.epoch(), 2);
    assert!(!ca.list.is_due(now() + MINUTE));
    assert!(ca.list.is_due(now() + 5 * MINUTE));
    ca.revoke(1);
    assert!(ca.list.is_due(now()));
}

/// What a node has on disk after it has carried out its actions
#[derive(Clone, Default)]
struct Disk {
    documents: Vec<Vec<u8>>,
    mark: Option<HighWaterMark>,
}

impl Disk {
    fn store(&mut self, node: &mut DenyList) {
        for action in drain(node) {
            if let DenyListAction::Store { form, document, mark, .. } = action {
                if form == StoreForm::Replace {
                    self.documents.clear();
                }
                self.documents.push(document);
                self.mark = Some(mark);
            }
        }
    }

    fn start(&self, ca: &Ca, at: SystemTime) -> (DenyList, Vec<Refusal>) {
        let settings = DenyListSettings { fail_closed: true, ..DenyListSettings::default() };
        let marks = self.mark.clone().into_iter().collect();
        DenyList::restore(settings, signers(&[ca]), marks, self.documents.clone(), at)
    }
}

#[test]
fn a_node_comes_back_with_what_it_had_and_never_with_less() {
    let mut ca = Ca::new("one");
    let mut first = node(&[&ca]);
    let mut disk = Disk::default();
    let mut fulls = Vec::new();
    for serial in 1..=3 {
        ca.revoke(serial);
        let at = now() + serial * MINUTE;
        let publication = ca.publish(at);
        let document = if serial == 1 { &publication.full } else { &publication.delta };
        first.handle_document(document, at).unwrap();
        disk.store(&mut first);
        fulls.push(publication.full);
    }
    let at = now() + 3 * MINUTE;
    let (mut whole, refusals) = disk.start(&ca, at);
    assert_eq!(refusals, []);
    assert!((1..=3).all(|serial| ca.refuses(&whole, serial)));
    assert_eq!(*whole.new_connections(), NewConnections::Allowed);
    assert_eq!(drain(&mut whole), []);

    // The last change is lost, the mark is not.
    let mut torn = disk.clone();
    torn.documents.pop();
    let (mut behind, _) = torn.start(&ca, at);
    assert!(ca.refuses(&behind, 2), "what is there counts");
    assert!(matches!(behind.new_connections(), NewConnections::Refused { .. }));
    assert_eq!(asked(&drain(&mut behind)), [2]);
    let old = behind.handle_document(&fulls[1], at).unwrap_err();
    assert_eq!(old, Refusal::Replayed { held: 3, offered: 2 });
    behind.handle_document(&fulls[2], at).unwrap();
    assert_eq!(*behind.new_connections(), NewConnections::Allowed);

    // Everything but the mark is lost, and an authority from a backup offers a short list.
    let mut bare = disk.clone();
    bare.documents.clear();
    let (mut bare, _) = bare.start(&ca, at);
    let short = ca.document(9, at, vec![ca.entry(1, now() + DAY)]);
    let short = bare.handle_document(&ca.sealed(&short), at).unwrap_err();
    assert_eq!(short, Refusal::UnRevokes { epoch: 9, missing: 2 });
    let other = ca.document(3, at, (5..8).map(|serial| ca.entry(serial, now() + DAY)).collect());
    let other = bare.handle_document(&ca.sealed(&other), at).unwrap_err();
    assert_eq!(other, Refusal::Equivocation(3));
    bare.handle_document(&fulls[2], at).unwrap();

    // A damaged document is reported and passed over.
    let mut damaged = disk;
    let last = damaged.documents[0].len() - 1;
    damaged.documents[0][last] ^= 1;
    let (damaged, refusals) = damaged.start(&ca, at);
    assert!(!refusals.is_empty());
    assert!(matches!(damaged.new_connections(), NewConnections::Refused { .. }));
}

#[test]
fn a_mark_survives_its_file() {
    let mut ca = Ca::new("one");
    ca.revoke(1);
    let mark = ca.publish(now()).mark;
    let text = serde_json::to_string(&mark).unwrap();
    assert_eq!(serde_json::from_str::<HighWaterMark>(&text).unwrap(), mark);
}

#[test]
fn a_list_too_old_closes_the_door_where_the_settings_say_so() {
    let mut ca = Ca::new("one");
    for fail_closed in [false, true] {
        let settings = DenyListSettings { fail_closed, ..DenyListSettings::default() };
        let mut node = DenyList::new(settings, signers(&[&ca]), now());
        let instances = vec![ca.name.clone()];
        let old = match fail_closed {
            true => NewConnections::Refused { instances },
            false => NewConnections::AllowedAlthoughOld { instances },
        };
        assert_eq!(*node.new_connections(), old);
        let at = now() + HOUR * u32::from(fail_closed);
        let full = ca.publish(at).full;
        node.handle_document(&full, at).unwrap();
        let actions = drain(&mut node);
        let allowed = DenyListAction::NewConnections(NewConnections::Allowed);
        assert_eq!(actions.last(), Some(&allowed), "{actions:?}");
        // Its promise ends after 15 minutes.
        let ends = at + 15 * MINUTE;
        assert!(node.poll_timeout(ends) <= ends + Duration::from_secs(1));
        node.handle_time(ends);
        assert_eq!(drain(&mut node), []);
        node.handle_time(ends + Duration::from_secs(1));
        let actions = drain(&mut node);
        assert_eq!(asked(&actions).len(), 1);
        assert_eq!(actions.last(), Some(&DenyListAction::NewConnections(old)));
        let beat = ca.publish(ends + MINUTE);
        node.handle_document(&beat.full, ends + MINUTE).unwrap();
        assert_eq!(*node.new_connections(), NewConnections::Allowed);
    }
}

#[test]
fn lists_of_several_instances_add_up_and_a_retired_one_lives_out() {
    let (mut one, mut two) = (Ca::new("one"), Ca::new("two"));
    let mut node = node(&[&one, &two]);
    one.revoke(1);
    two.revoke(2);
    node.handle_document(&one.publish(now()).full, now()).unwrap();
    let partly = node.new_connections().clone();
    assert_eq!(partly, NewConnections::AllowedAlthoughOld { instances: vec![two.name.clone()] });
    node.handle_document(&two.publish(now()).full, now()).unwrap();
    assert!(one.refuses(&node, 1) && two.refuses(&node, 2));
    assert_eq!(node.epochs().map(|(_, epoch)| epoch).collect::<Vec<_>>(), [1, 1]);
    // What both refuse is closed once.
    drain(&mut node);
    let known = one.entry(1, now() + DAY);
    two.list.revoke(known, now()).unwrap();
    let taken = node.handle_document(&two.publish(now()).delta, now());
    assert_eq!(taken, Ok(Applied::Taken { added: 0 }));

    node.handle_signers(signers(&[&one]), now());
    assert!(two.refuses(&node, 2), "it was revoked, whoever said so");
    let gone = node.handle_document(&two.publish(now()).full, now()).unwrap_err();
    assert_eq!(gone.label(), "unknown_signer");
    node.handle_time(now() + 3 * DAY);
    assert!(!two.refuses(&node, 2));
    // A key of one instance speaks for no other.
    let both = [one.signer.clone(), signer(&two.name, &one.key)];
    assert!(matches!(Signers::new(both), Err(SignerError::Shared { .. })));
}
