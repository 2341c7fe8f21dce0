//! Documents: what is taken, and each refusal by its name and its limit.

use super::*;

#[test]
fn what_is_revoked_is_refused_closed_and_stored() {
    let mut ca = Ca::new("one");
    ca.revoke(7);
    let key = SpkiHash::of(b"stolen");
    let ends = now() + DAY;
    let entry = Entry::new(Target::key(key), Reason::PrivilegeWithdrawn, now(), ends);
    assert_eq!(ca.list.revoke(entry.clone(), now()), Ok(true));
    assert_eq!(ca.list.revoke(entry.clone(), now()), Ok(false));
    let publication = ca.publish(now());
    let mut node = node(&[&ca]);
    let taken = node.handle_document(&publication.full, now());
    assert_eq!(taken, Ok(Applied::Taken { added: 2 }));
    let actions = drain(&mut node);
    let DenyListAction::CloseConnections { revoked } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(revoked.len(), 2);
    assert!(revoked.contains(&entry));
    let DenyListAction::Store { form, document, mark, .. } = &actions[1] else {
        panic!("{actions:?}")
    };
    assert_eq!((*form, document), (StoreForm::Replace, &publication.full));
    assert_eq!((mark, mark.epoch, mark.live), (&publication.mark, 1, 2));
    assert_eq!(actions[2], DenyListAction::NewConnections(NewConnections::Allowed));

    let serial = SerialNumber::from_text("07").unwrap();
    let other = SerialNumber::from_text("08").unwrap();
    let nobody = SpkiHash::of(b"of nobody");
    let issuer = ca.signer.key_id();
    let found = node.check(&issuer, &serial, &nobody).unwrap();
    assert_eq!((found.reason, found.by_key), (Reason::KeyCompromise, false));
    assert!(node.check(&issuer, &other, &key).unwrap().by_key);
    assert_eq!(node.check(&issuer, &other, &nobody), None);
    let foreign = KeyId::from_bytes(&[9; 20]).unwrap();
    assert_eq!(node.check(&foreign, &serial, &nobody), None);
    assert_eq!(node.denied_serials().into_iter().collect::<Vec<_>>(), ["07"]);
    assert_eq!(node.handle_document(&publication.full, now()), Ok(Applied::AlreadyHeld));
    assert!(drain(&mut node).is_empty());
}

#[test]
fn changes_follow_each_other_and_a_missing_one_is_noticed() {
    let mut ca = Ca::new("one");
    let mut node = node(&[&ca]);
    ca.revoke(1);
    let first = ca.publish(now());
    // A change on nothing
    let gap = node.handle_document(&first.delta, now()).unwrap_err();
    assert_eq!(gap, Refusal::Gap { held: 0, base: 0 });
    node.handle_document(&first.full, now()).unwrap();
    drain(&mut node);
    ca.revoke(2);
    let second = ca.publish(now() + MINUTE);
    let taken = node.handle_document(&second.delta, now() + MINUTE);
    assert_eq!(taken, Ok(Applied::Taken { added: 1 }));
    let actions = drain(&mut node);
    let appended = |action: &DenyListAction| {
        matches!(action, DenyListAction::Store { form: StoreForm::Append, .. })
    };
    assert!(actions.iter().any(appended), "{actions:?}");
    assert!(ca.refuses(&node, 1) && ca.refuses(&node, 2));
    // The full list of the same epoch says the same.
    let again = node.handle_document(&second.full, now() + MINUTE);
    assert_eq!(again, Ok(Applied::AlreadyHeld));
    // A heartbeat without news keeps the list recent.
    let beat = ca.publish(now() + 5 * MINUTE);
    let taken = node.handle_document(&beat.delta, now() + 5 * MINUTE);
    assert_eq!(taken, Ok(Applied::Taken { added: 0 }));
    ca.revoke(3);
    let _lost = ca.publish(now() + 6 * MINUTE);
    ca.revoke(4);
    let fifth = ca.publish(now() + 7 * MINUTE);
    drain(&mut node);
    let gap = node.handle_document(&fifth.delta, now() + 7 * MINUTE).unwrap_err();
    assert_eq!(gap, Refusal::Gap { held: 3, base: 4 });
    assert_eq!(asked(&drain(&mut node)), [3]);
    // Asked once, and again only after a while.
    node.handle_time(now() + 7 * MINUTE + MINUTE / 2);
    assert!(asked(&drain(&mut node)).is_empty());
    node.handle_time(now() + 8 * MINUTE);
    assert_eq!(asked(&drain(&mut node)), [3]);
    node.handle_document(&fifth.full, now() + 8 * MINUTE).unwrap();
    assert!(ca.refuses(&node, 3) && ca.refuses(&node, 4));
    node.handle_time(now() + 10 * MINUTE);
    assert!(asked(&drain(&mut node)).is_empty());
}

#[test]
fn a_change_that_leads_elsewhere_is_refused() {
    let ca = Ca::new("one");
    let mut node = node(&[&ca]);
    let ends = now() + DAY;
    let one = ca.entry(1, ends);
    node.handle_document(&ca.sealed(&ca.document(1, now(), vec![one.clone()])), now()).unwrap();
    let mut change = ca.document(3, now(), vec![ca.entry(3, ends)]);
    change.form = Form::Delta { base_epoch: 1 };
    // The authority has an entry 2 as well, which got lost with epoch 2.
    let all = [one, ca.entry(2, ends), ca.entry(3, ends)];
    (change.live, change.content) = (3, content_of(&all));
    assert_eq!(node.handle_document(&ca.sealed(&change), now()), Err(Refusal::Diverged));
    assert!(!asked(&drain(&mut node)).is_empty());
    assert!(!ca.refuses(&node, 3), "nothing of it counts");
    // A change from further back than what is held may be added.
    change.entries = all[1..].to_vec();
    change.form = Form::Delta { base_epoch: 0 };
    let taken = node.handle_document(&ca.sealed(&change), now());
    assert_eq!(taken, Ok(Applied::Taken { added: 2 }));
}

#[test]
fn no_changed_octet_is_accepted() {
    let mut ca = Ca::new("one");
    ca.revoke(7);
    let full = ca.publish(now()).full;
    let table = signers(&[&ca]);
    assert!(open(&full, &table).is_ok());
    for at in 0..full.len() {
        let mut changed = full.clone();
        changed[at] ^= 0x01;
        assert!(open(&changed, &table).is_err(), "octet {at}");
        assert!(open(&full[..at], &table).is_err(), "{at} octets");
    }
}

#[test]
fn the_signature_is_for_this_purpose_only() {
    use rcgen::SigningKey;
    let ca = Ca::new("one");
    let document = encode(&ca.document(1, now(), vec![]));
    let signature = ca.key.sign(&document).unwrap();
    let signer_key_id = ca.signer.key_id().as_bytes().to_vec();
    let signed = wire::SignedDenyList { document, signature, signer_key_id };
    let bytes = prost::Message::encode_to_vec(&signed);
    assert_eq!(open(&bytes, &signers(&[&ca])), Err(Refusal::BadSignature));
}

#[test]
fn each_wrong_document_is_refused_by_its_own_name() {
    let ca = Ca::new("one");
    let ends = now() + DAY;
    let (one, two) = (ca.entry(1, ends), ca.entry(2, ends));
    let good = ca.document(5, now(), vec![one.clone(), two.clone()]);
    let offer = |change: &dyn Fn(&mut DenyListDocument)| {
        let mut changed = good.clone();
        change(&mut changed);
        node(&[&ca]).handle_document(&ca.sealed(&changed), now()).map_err(|r| r.label())
    };
    assert_eq!(offer(&|_| ()), Ok(Applied::Taken { added: 2 }));
    assert_eq!(offer(&|d| d.instance = NodeId::new("two").unwrap()), Err("wrong_instance"));
    let foreign = KeyId::from_bytes(&[9; 20]).unwrap();
    assert_eq!(offer(&|d| d.signer = foreign), Err("wrong_instance"));
    assert_eq!(offer(&|d| d.epoch = 0), Err("malformed"));
    assert_eq!(offer(&|d| d.form = Form::Delta { base_epoch: 5 }), Err("malformed"));
    assert_eq!(offer(&|d| d.next_update = d.issued_at), Err("times"));
    assert_eq!(offer(&|d| d.next_update += 8 * 24 * 3_600), Err("times"));
    assert_eq!(offer(&|d| d.issued_at = 0), Err("times"));
    assert_eq!(offer(&|d| (d.issued_at, d.next_update) = (u64::MAX - 1, u64::MAX)), Err("times"));
    assert_eq!(
        offer(&|d| (d.issued_at, d.next_update) = (d.issued_at + 301, d.next_update + 301)),
        Err("future")
    );
    assert_eq!(offer(&|d| d.entries.reverse()), Err("order"));
    assert_eq!(offer(&|d| d.entries[1] = d.entries[0].clone()), Err("order"));
    assert_eq!(offer(&|d| d.live = 3), Err("inconsistent"));
    assert_eq!(offer(&|d| d.content[0] ^= 1), Err("inconsistent"));
    assert_eq!(offer(&|d| d.entries.truncate(1)), Err("inconsistent"));
    assert_eq!(offer(&|d| d.entries[0].ends_at = 0), Err("entry"));
    let stranger = Ca::new("one");
    let foreign = node(&[&stranger]).handle_document(&ca.sealed(&good), now()).unwrap_err();
    assert_eq!(foreign.label(), "unknown_signer");

    let mut bytes = encode(&good);
    assert_eq!(decode(&bytes).unwrap(), good);
    // Version, the first field, set to 2
    assert_eq!(bytes[..2], [8, 1]);
    bytes[1] = 2;
    assert_eq!(decode(&bytes), Err(Refusal::Version(2)));
    for junk in [&[][..], &[0xff; 40], &[8], &[0x0a, 0xff]] {
        assert!(matches!(decode(junk), Err(Refusal::Malformed(_) | Refusal::Version(0))));
    }
}

#[test]
fn replays_and_second_versions_of_an_epoch_are_refused() {
    let mut ca = Ca::new("one");
    let mut node = node(&[&ca]);
    let publications: Vec<_> = (1..=3)
        .map(|serial| {
            ca.revoke(serial);
            ca.publish(now() + serial * MINUTE)
        })
        .collect();
    node.handle_document(&publications[2].full, now() + 3 * MINUTE).unwrap();
    for (old, epoch) in publications[..2].iter().zip(1..) {
        let replayed = node.handle_document(&old.full, now() + 3 * MINUTE);
        assert_eq!(replayed, Err(Refusal::Replayed { held: 3, offered: epoch }));
    }
    let other = ca.document(3, now() + 3 * MINUTE, vec![ca.entry(9, now() + DAY)]);
    let twice = node.handle_document(&ca.sealed(&other), now() + 3 * MINUTE);
    assert_eq!(twice, Err(Refusal::Equivocation(3)));
    let mut early = ca.document(4, now() + MINUTE, vec![]);
    early.entries = node.entries().cloned().collect();
    (early.live, early.content) = (3, content_of(&early.entries));
    let early = node.handle_document(&ca.sealed(&early), now() + 3 * MINUTE);
    assert_eq!(early, Err(Refusal::TimeWentBack(4)));
    let counts: BTreeMap<_, _> = node.counters().collect();
    assert_eq!((counts["replayed"], counts["equivocation"], counts["taken"]), (2, 1, 1));
}

#[test]
fn limits_hold_before_memory_is_spent() {
    let ca = Ca::new("one");
    let table = signers(&[&ca]);
    let large = vec![0; DOCUMENT_LIMIT_BYTES + 1];
    assert_eq!(open(&large, &table), Err(Refusal::TooLarge(large.len())));
    assert_eq!(decode(&large), Err(Refusal::TooLarge(large.len())));
    // Empty entries of two octets each
    let many = [9 << 3 | 2, 0].repeat(ENTRIES_LIMIT + 1);
    assert_eq!(decode(&many), Err(Refusal::TooManyEntries(ENTRIES_LIMIT + 1)));
    let just = [9 << 3 | 2, 0].repeat(ENTRIES_LIMIT);
    assert_eq!(decode(&just), Err(Refusal::Version(0)));

    let ends = now() + DAY;
    let entries: Vec<_> = (1..=ENTRIES_LIMIT as u32).map(|serial| ca.entry(serial, ends)).collect();
    let mut sorted = entries.clone();
    sorted.sort_unstable_by(|one, other| one.target.cmp(&other.target));
    let full = ca.document(1, now(), sorted);
    let sealed = ca.sealed(&full);
    assert!(sealed.len() < DOCUMENT_LIMIT_BYTES, "a list at its limit has {}", sealed.len());
    let mut node = node(&[&ca]);
    node.handle_document(&sealed, now()).unwrap();
    let one_more = ca.entry(u32::MAX, ends);
    let mut all = full.entries;
    all.push(one_more.clone());
    all.sort_unstable_by(|one, other| one.target.cmp(&other.target));
    let mut change = ca.document(2, now(), vec![one_more.clone()]);
    change.form = Form::Delta { base_epoch: 1 };
    (change.live, change.content) = (all.len() as u64, content_of(&all));
    let refused = node.handle_document(&ca.sealed(&change), now());
    assert_eq!(refused, Err(Refusal::TooManyEntries(ENTRIES_LIMIT + 1)));

    let mut list = ca.list;
    for entry in entries {
        list.revoke(entry, now()).unwrap();
    }
    assert_eq!(list.revoke(one_more.clone(), now()), Err(RevokeError::Full));
    // Once the others have ended there is room again.
    let later = ends + RETAIN_AFTER_END + Duration::from_secs(1);
    let lasting = Entry { ends_at: one_more.ends_at + 200_000, ..one_more };
    assert_eq!(list.revoke(lasting, later), Ok(true));
}

#[test]
fn labels_are_unique() {
    let mut labels = Refusal::LABELS.to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Refusal::LABELS.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_octets_panic_and_what_is_read_is_written_alike(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        from_good: bool,
        at: prop::sample::Index,
    ) {
        if from_good {
            let ca = Ca::new("one");
            let good = encode(&ca.document(1, now(), vec![ca.entry(1, now() + DAY)]));
            let place = at.index(good.len());
            let flip = bytes.first().copied().unwrap_or(1);
            bytes = good;
            bytes[place] ^= flip;
        }
        if let Ok(document) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&document)), Ok(document));
        }
    }
}
