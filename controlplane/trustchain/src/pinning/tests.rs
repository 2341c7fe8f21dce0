//! Pins in the handshake and from one key to the next.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_interface::NodeId;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn pin(name: &str) -> Pin {
    Pin::of_spki(name.as_bytes())
}

fn chain(leaf: &str, issuing: &str, root: &str) -> ChainKeys {
    ChainKeys { leaf: pin(leaf), issuing: pin(issuing), root: pin(root) }
}

fn ours() -> ChainKeys {
    chain("leaf", "issuing", "root")
}

fn beta() -> NodeId {
    NodeId::new("beta").unwrap()
}

fn set() -> PinSet {
    let roots = [pin("root"), pin("next root")];
    PinSet::new(roots, [pin("issuing"), pin("next issuing")], &ours(), now()).unwrap()
}

#[test]
fn a_set_without_a_backup_is_refused_with_the_remedy() {
    let make = |roots: &[&str], issuing: &[&str]| {
        let pins = |names: &[&str]| names.iter().map(|name| pin(name)).collect::<Vec<_>>();
        PinSet::new(pins(roots), pins(issuing), &ours(), now()).map(|_| ())
    };
    let (root, issuing) = (["root", "spare"], ["issuing", "next"]);
    assert_eq!(make(&root, &issuing), Ok(()));
    let no_backup = make(&["root"], &issuing).unwrap_err();
    assert_eq!(no_backup, PinSetError::NoBackup { tier: Tier::Root });
    assert!(no_backup.to_string().contains("pin it too"), "{no_backup}");
    assert_eq!(make(&root, &["issuing"]), Err(PinSetError::NoBackup { tier: Tier::Issuing }));
    // Another key of the chain in use is no backup: it is lost with the rest.
    let same = make(&["root", "issuing"], &issuing);
    assert_eq!(same, Err(PinSetError::NoBackup { tier: Tier::Root }));
    let locked = make(&["next", "spare"], &issuing);
    assert_eq!(locked, Err(PinSetError::LocksOut { tier: Tier::Root, key: pin("root") }));
    assert_eq!(make(&root, &[]).unwrap_err().label(), "locks_out");
    let names: Vec<_> = (0..=PINS_PER_TIER_LIMIT).map(|number| format!("{number}")).collect();
    let many: Vec<&str> = names.iter().map(String::as_str).chain(["root"]).collect();
    assert_eq!(make(&many, &issuing).unwrap_err().label(), "too_many");
}

#[test]
fn a_chain_is_judged_by_its_root_its_issuer_and_the_peers_own_pins() {
    let set = set();
    assert_eq!(set.evaluate(&chain("x", "issuing", "root"), &beta()), Ok(()));
    assert_eq!(set.evaluate(&chain("x", "next issuing", "next root"), &beta()), Ok(()));
    let foreign = set.evaluate(&chain("x", "issuing", "foreign"), &beta());
    assert_eq!(foreign, Err(PinRefusal::Root));
    let foreign = set.evaluate(&chain("x", "foreign", "root"), &beta());
    assert_eq!(foreign, Err(PinRefusal::Issuing));
    // Pinned in one tier does not count in the other.
    let swapped = set.evaluate(&chain("x", "root", "issuing"), &beta());
    assert_eq!(swapped, Err(PinRefusal::Root));

    let pins = vec![pin("issuing"), pin("betas next leaf")];
    let known = chain("x", "issuing", "root");
    let set = set.with_peer(&beta(), pins, Some(&known), &ours()).unwrap();
    assert_eq!(set.evaluate(&known, &beta()), Ok(()));
    let moved = chain("x", "next issuing", "root");
    assert_eq!(set.evaluate(&moved, &beta()), Err(PinRefusal::Peer));
    assert_eq!(set.evaluate(&moved, &NodeId::new("gamma").unwrap()), Ok(()));
    // The certificate has rotated to the key that was pinned as next.
    let rotated = chain("betas next leaf", "next issuing", "root");
    assert_eq!(set.evaluate(&rotated, &beta()), Ok(()));
    let labels: std::collections::BTreeSet<_> = PinRefusal::ALL.map(PinRefusal::label).into();
    assert_eq!(labels.len(), PinRefusal::ALL.len());
}

#[test]
fn pins_of_a_peer_need_a_backup_and_must_not_shut_it_out() {
    let known = chain("x", "issuing", "root");
    let give = |pins: &[&str], known: Option<&ChainKeys>| {
        let pins = pins.iter().map(|name| pin(name)).collect();
        set().with_peer(&beta(), pins, known, &ours()).map(|set| set.peer_pins(&beta()).len())
    };
    let error = |error: PinSetError| Err(StepError::Set(error));
    let no_backup = PinSetError::NoPeerBackup { peer: beta() };
    assert_eq!(give(&["issuing"], None), error(no_backup.clone()));
    assert_eq!(give(&["issuing", "issuing"], None), error(no_backup.clone()));
    assert_eq!(give(&["issuing", "root"], Some(&known)), error(no_backup));
    let locks_out = PinSetError::LocksOutPeer { peer: beta() };
    assert_eq!(give(&["one", "two"], Some(&known)), error(locks_out));
    assert_eq!(give(&["one", "two"], None), Ok(2));
    assert_eq!(give(&["issuing", "two"], Some(&known)), Ok(2));
    assert_eq!(give(&[], Some(&known)), Ok(0));
    let many: Vec<String> = (0..=PINS_PER_PEER_LIMIT).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(give(&many, None), Err(StepError::Set(PinSetError::TooMany { .. }))));
}

#[test]
fn a_key_is_rolled_over_and_no_step_locks_anybody_out() {
    let settle = 36 * HOUR;
    let set = set();
    let issuing = Tier::Issuing;
    let in_use = set.without_pin(issuing, pin("issuing"), &ours(), settle, now() + 2 * settle);
    assert_eq!(in_use, Err(StepError::InUse { tier: issuing, pin: pin("issuing") }));
    // The backup cannot go either while nothing takes its place.
    let backup = set.without_pin(issuing, pin("next issuing"), &ours(), settle, now() + 2 * settle);
    let no_backup = PinSetError::NoBackup { tier: issuing };
    assert_eq!(backup, Err(StepError::Set(no_backup)));

    let added_at = now() + 10 * settle;
    let added = set.with_pin(issuing, pin("third"), &ours(), added_at).unwrap();
    assert_eq!((set.version(), added.version()), (1, 2));
    let twice = added.with_pin(issuing, pin("third"), &ours(), added_at).unwrap_err();
    assert_eq!(twice.label(), "present");
    // This node moves to its next key, whose pin everybody has had for long.
    let next = pin("next issuing");
    assert_eq!(added.may_move_to(issuing, next, settle, added_at), Ok(()));
    let fresh = added.may_move_to(issuing, pin("third"), settle, added_at).unwrap_err();
    assert_eq!(fresh.label(), "not_settled");
    let absent = added.may_move_to(issuing, pin("fourth"), settle, added_at).unwrap_err();
    assert_eq!(absent.label(), "absent");
    let moved = chain("leaf", "next issuing", "root");
    let hasty = added.without_pin(issuing, pin("issuing"), &moved, settle, added_at + HOUR);
    let (age, left) = (HOUR, settle - HOUR);
    let pin_third = pin("third");
    let not_settled = StepError::NotSettled { tier: issuing, pin: pin_third, age, left };
    assert_eq!(hasty, Err(not_settled));
    let done =
        added.without_pin(issuing, pin("issuing"), &moved, settle, added_at + settle).unwrap();
    assert_eq!(done.pins(issuing).count(), 2);
    assert_eq!(done.evaluate(&moved, &beta()), Ok(()));
    assert_eq!(done.evaluate(&ours(), &beta()), Err(PinRefusal::Issuing));
    let gone = done.without_pin(issuing, pin("issuing"), &moved, settle, added_at + settle);
    assert_eq!(gone, Err(StepError::Absent { tier: issuing, pin: pin("issuing") }));
}

#[test]
fn a_kept_set_is_judged_like_a_new_one() {
    let pins = vec![pin("issuing"), pin("other")];
    let set = set().with_peer(&beta(), pins, None, &ours()).unwrap();
    let record = set.to_record();
    let text = serde_json::to_string(&record).unwrap();
    let read: PinSetRecord = serde_json::from_str(&text).unwrap();
    assert_eq!(PinSet::from_record(&read, &ours()).unwrap(), set);
    let elsewhere = chain("leaf", "elsewhere", "root");
    let locked = PinSet::from_record(&record, &elsewhere).unwrap_err();
    assert!(matches!(locked, RecordError::Set(PinSetError::LocksOut { .. })), "{locked}");
    let alone = vec![pin("issuing")];
    let spoilt =
        PinSetRecord { peers: BTreeMap::from([("beta".to_owned(), alone)]), ..record.clone() };
    let refused = PinSet::from_record(&spoilt, &ours()).unwrap_err();
    assert!(matches!(refused, RecordError::Set(PinSetError::NoPeerBackup { .. })), "{refused}");
    let nobody = PinSetRecord { peers: BTreeMap::from([("a b".to_owned(), vec![])]), ..record };
    let refused = PinSet::from_record(&nobody, &ours()).unwrap_err();
    assert_eq!(refused, RecordError::Peer("a b".to_owned()));
}
