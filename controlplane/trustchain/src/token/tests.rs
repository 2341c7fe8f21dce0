//! Tokens: their text, that one use is all there is, and their limits.

use std::sync::Barrier;

use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn grant(node: &str) -> TokenGrant {
    TokenGrant {
        subject: Subject::new(NodeId::new(node).unwrap(), [Ipv6Addr::LOCALHOST]).unwrap(),
        ca_address: "[::1]:8443".parse().unwrap(),
        ca_node: NodeId::new("alpha").unwrap(),
        ca_stoq_address: "[fe80::1%3]:8444".parse().unwrap(),
        root_fingerprint: Fingerprint::of(b"root"),
        lifetime: DEFAULT_LIFETIME,
    }
}

#[test]
fn a_token_survives_its_text_and_no_damage_does() {
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::open(directory.path()).unwrap();
    let token = store.create(&grant("beta"), now()).unwrap();
    let text = token.to_string();
    let back: JoinToken = format!(" {text}\n").parse().unwrap();
    assert_eq!(back.to_string(), text);
    assert_eq!(back.id(), token.id());
    assert_eq!(back.ca_stoq_address, token.ca_stoq_address);
    for at in PREFIX.len()..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(bytes).unwrap();
        assert!(damaged.parse::<JoinToken>().is_err(), "character {at}");
    }
    for wrong in ["", PREFIX, &text[..text.len() - 1], &text[PREFIX.len()..]] {
        assert!(matches!(wrong.parse::<JoinToken>(), Err(TokenError::Malformed)), "{wrong}");
    }
    assert!(!format!("{token:?}").contains(&hex(&token.secret[..])));
}

#[test]
fn only_the_hash_of_the_secret_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::open(directory.path()).unwrap();
    let token = store.create(&grant("beta"), now()).unwrap();
    let kept = std::fs::read_to_string(file(&store.outstanding, &token.id())).unwrap();
    assert!(!kept.contains(&hex(&token.secret[..])));
    assert!(kept.contains(&hex(&sha256(&token.secret[..]))));
}

#[test]
fn a_token_is_used_once_even_across_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let token = {
        let store = TokenStore::open(directory.path()).unwrap();
        store.create(&grant("beta"), now()).unwrap()
    };
    let store = TokenStore::open(directory.path()).unwrap();
    let subject = store.redeem(&token.id(), &token.secret, now()).unwrap();
    assert_eq!(subject, grant("beta").subject);
    assert!(matches!(store.redeem(&token.id(), &token.secret, now()), Err(TokenError::Used)));
    let restarted = TokenStore::open(directory.path()).unwrap();
    assert!(matches!(restarted.redeem(&token.id(), &token.secret, now()), Err(TokenError::Used)));
}

#[test]
fn of_many_at_once_one_uses_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::open(directory.path()).unwrap();
    let token = store.create(&grant("beta"), now()).unwrap();
    let barrier = Barrier::new(8);
    let won = std::thread::scope(|scope| {
        let attempt = || {
            barrier.wait();
            store.redeem(&token.id(), &token.secret, now()).is_ok()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(attempt)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}

#[test]
fn a_wrong_secret_a_foreign_id_and_a_late_use_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::open(directory.path()).unwrap();
    let token = store.create(&grant("beta"), now()).unwrap();
    let guess = [7; 32];
    assert!(matches!(store.redeem(&token.id(), &guess, now()), Err(TokenError::Unknown)));
    assert!(matches!(store.redeem(&token_id(&guess), &guess, now()), Err(TokenError::Unknown)));
    assert!(matches!(store.redeem("../../etc/passwd", &guess, now()), Err(TokenError::Unknown)));
    let late = now() + DEFAULT_LIFETIME + Duration::from_secs(1);
    assert!(matches!(store.redeem(&token.id(), &token.secret, late), Err(TokenError::Expired)));
    assert!(store.redeem(&token.id(), &token.secret, now() + DEFAULT_LIFETIME).is_ok());
}

#[test]
fn a_withdrawn_token_is_unknown_and_expired_ones_make_room() {
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::open(directory.path()).unwrap();
    let token = store.create(&grant("beta"), now()).unwrap();
    assert_eq!(store.outstanding(now()).unwrap()[0].id, token.id());
    store.withdraw(&token.id()).unwrap();
    assert!(matches!(store.withdraw(&token.id()), Err(TokenError::Unknown)));
    assert!(matches!(store.redeem(&token.id(), &token.secret, now()), Err(TokenError::Unknown)));

    let sample = serde_json::to_vec(&Record {
        node: token.node.clone(),
        addresses: Vec::new(),
        secret_sha256: String::new(),
        expires: unix_seconds(now()),
    })
    .unwrap();
    for number in 0..OUTSTANDING_LIMIT {
        std::fs::write(file(&store.outstanding, &format!("{number:032x}")), &sample).unwrap();
    }
    assert!(matches!(store.create(&grant("beta"), now()), Err(TokenError::TooMany)));
    let later = now() + Duration::from_secs(1);
    assert!(store.create(&grant("beta"), later).is_ok());
    assert_eq!(store.outstanding(later).unwrap().len(), 1);
}

#[test]
fn a_lifetime_has_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::open(directory.path()).unwrap();
    for lifetime in [Duration::ZERO, LONGEST_LIFETIME + Duration::from_secs(1)] {
        let grant = TokenGrant { lifetime, ..grant("beta") };
        assert!(matches!(store.create(&grant, now()), Err(TokenError::Lifetime)));
    }
}

#[test]
fn a_token_that_a_journal_calls_used_is_put_away_and_still_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::open(directory.path()).unwrap();
    let token = store.create(&grant("beta"), now()).unwrap();
    let recognise = |secret: &[u8; 32], at| store.recognise(&token.id(), secret, at);
    let fresh = recognise(&token.secret, now()).unwrap();
    assert!(!fresh.used && fresh.subject.node() == &token.node);
    store.settle_used(&token.id()).unwrap();
    store.settle_used(&token.id()).unwrap();
    let late = now() + 2 * DEFAULT_LIFETIME;
    let used = recognise(&token.secret, late).unwrap();
    assert_eq!(used, RecognisedToken { used: true, ..fresh });
    // The public name follows from the secret, so a wrong secret is another token's.
    assert!(matches!(recognise(&[7; 32], now()), Err(TokenError::Unknown)));
    assert!(matches!(store.redeem(&token.id(), &token.secret, now()), Err(TokenError::Used)));
}
