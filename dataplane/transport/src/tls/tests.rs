//! The handshake from both ends, in memory: every refusal with its reason and its alert, in both roles, and
//! what must hold when nobody is refused.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boring::ssl::{SslContextBuilder, SslOptions, SslRef};
use quiche::{Config, Connection, ConnectionId, RecvInfo};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rcgen::{CustomExtension, SanType};
use stoq_interface::{
    ControlSnapshot, Denied, Freshness, Identity, NodeId, PeerRefusal, Pins, Transparency,
};

use super::testing::{TestAuthority, TestLog, dns, now, spiffe};
use super::verify::Verifier;
use super::{PeerSlot, Role, TlsError, anonymous, context, drain_error_queue, judge_certificate};

const HOUR: Duration = Duration::from_secs(3_600);

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, port))
}

fn config(builder: SslContextBuilder) -> Config {
    let mut config =
        Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, builder).unwrap();
    config.set_application_protos(&[stoq_interface::ALPN_STOQ]).unwrap();
    config.set_initial_max_data(1 << 20);
    config.set_initial_max_streams_bidi(4);
    config
}

/// Two ends and their slots
struct Pair {
    client: Connection,
    server: Connection,
    at_client: PeerSlot,
    at_server: PeerSlot,
}

/// Runs a handshake until neither end has anything to say; the client expects `expected`
fn handshake(client: SslContextBuilder, server: SslContextBuilder, expected: &str) -> Pair {
    let expected = Some(NodeId::new(expected).unwrap());
    let (mut to, mut from) = (config(client), config(server));
    let id = ConnectionId::from_ref(&[7; 16]);
    let mut client = quiche::connect(None, &id, address(1), address(2), &mut to).unwrap();
    let mut server = quiche::accept(&id, None, address(2), address(1), &mut from).unwrap();
    let at_client = PeerSlot::install(client.as_mut(), expected, now).unwrap();
    let at_server = PeerSlot::install(server.as_mut(), None, now).unwrap();
    loop {
        let moved = deliver(&mut client, &mut server, &at_server)
            + deliver(&mut server, &mut client, &at_client);
        if moved == 0 {
            break;
        }
    }
    Pair { client, server, at_client, at_server }
}

/// Moves everything `from` has to say; returns the number of datagrams
fn deliver(from: &mut Connection, to: &mut Connection, slot: &PeerSlot) -> usize {
    let mut datagrams = 0;
    let mut buffer = [0; 1_500];
    while let Ok((length, info)) = from.send(&mut buffer) {
        datagrams += 1;
        let path = RecvInfo { from: info.from, to: info.to };
        if to.recv(&mut buffer[..length], path) == Err(quiche::Error::TlsFail) {
            slot.conclude();
        }
    }
    datagrams
}

/// One way to break a peer, why it is refused and what the peer is told
struct Case {
    name: &'static str,
    identity: fn(&TestAuthority) -> Identity,
    refusal: PeerRefusal,
    alert: u64,
}

fn bent(authority: &TestAuthority, bend: impl FnOnce(&mut CertificateParams)) -> Identity {
    authority.issue("beta", bend)
}

const CASES: &[Case] = &[
    Case {
        name: "expired",
        identity: |a| bent(a, |p| p.not_after = (now() - HOUR / 2).into()),
        refusal: PeerRefusal::Expired,
        alert: 45,
    },
    Case {
        name: "not yet valid",
        identity: |a| bent(a, |p| p.not_before = (now() + HOUR).into()),
        refusal: PeerRefusal::NotYetValid,
        alert: 45,
    },
    Case {
        name: "foreign authority with the same name",
        identity: |_| bent(&TestAuthority::new(), |_| {}),
        refusal: PeerRefusal::BadSignature,
        alert: 48,
    },
    Case {
        name: "flipped bit in the signature",
        identity: |a| {
            let mut identity = bent(a, |_| {});
            *identity.chain_der[0].last_mut().unwrap() ^= 1;
            identity
        },
        refusal: PeerRefusal::BadSignature,
        alert: 48,
    },
    Case {
        name: "no SPIFFE URI",
        identity: |a| bent(a, |p| p.subject_alt_names = vec![dns("beta.nodes.hypermesh")]),
        refusal: PeerRefusal::NoNodeIdentity,
        alert: 42,
    },
    Case {
        name: "no subject alternative name",
        identity: |a| bent(a, |p| p.subject_alt_names.clear()),
        refusal: PeerRefusal::NoNodeIdentity,
        alert: 42,
    },
    Case {
        name: "two URIs",
        identity: |a| bent(a, |p| p.subject_alt_names.push(spiffe("gamma"))),
        refusal: PeerRefusal::NoNodeIdentity,
        alert: 42,
    },
    Case {
        name: "URI of another trust domain",
        identity: |a| {
            let uri = SanType::URI("spiffe://elsewhere/node/beta".try_into().unwrap());
            bent(a, |p| p.subject_alt_names = vec![uri])
        },
        refusal: PeerRefusal::NoNodeIdentity,
        alert: 42,
    },
    Case {
        name: "URI that names no node",
        identity: |a| bent(a, |p| p.subject_alt_names = vec![spiffe("Beta/../alpha")]),
        refusal: PeerRefusal::NoNodeIdentity,
        alert: 42,
    },
    Case {
        name: "no extended key usage",
        identity: |a| bent(a, |p| p.extended_key_usages.clear()),
        refusal: PeerRefusal::KeyUsage,
        alert: 43,
    },
    Case {
        name: "foreign extended key usage",
        identity: |a| {
            bent(a, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning])
        },
        refusal: PeerRefusal::KeyUsage,
        alert: 43,
    },
    Case {
        name: "no key usage",
        identity: |a| bent(a, |p| p.key_usages.clear()),
        refusal: PeerRefusal::KeyUsage,
        alert: 43,
    },
    Case {
        name: "authority as leaf",
        identity: |a| {
            bent(a, |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                p.key_usages.push(KeyUsagePurpose::KeyCertSign);
            })
        },
        refusal: PeerRefusal::AuthorityAsLeaf,
        alert: 46,
    },
    Case {
        name: "DNS name outside the constraints",
        identity: |a| bent(a, |p| p.subject_alt_names.push(dns("beta.example.net"))),
        refusal: PeerRefusal::NameConstraint,
        alert: 42,
    },
    Case {
        name: "suffix that is no label",
        identity: |a| bent(a, |p| p.subject_alt_names.push(dns("xhypermesh"))),
        refusal: PeerRefusal::NameConstraint,
        alert: 42,
    },
    Case {
        name: "address outside the constraints",
        identity: |a| {
            let foreign = SanType::IpAddress(Ipv6Addr::LOCALHOST.into());
            bent(a, |p| p.subject_alt_names.push(foreign))
        },
        refusal: PeerRefusal::NameConstraint,
        alert: 42,
    },
    Case {
        name: "wildcard",
        identity: |a| bent(a, |p| p.subject_alt_names.push(dns("*.nodes.hypermesh"))),
        refusal: PeerRefusal::Profile,
        alert: 46,
    },
    Case {
        name: "unknown critical extension",
        identity: |a| {
            let mut poison = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0]);
            poison.set_criticality(true);
            bent(a, |p| p.custom_extensions.push(poison))
        },
        refusal: PeerRefusal::Profile,
        alert: 46,
    },
];

/// Runs `case` once with the bad peer as server and once as client, and asserts both verdicts
fn refused_in_both_roles(name: &str, ours: &ControlSnapshot, theirs: &ControlSnapshot, want: Case) {
    for role in [Role::Client, Role::Server] {
        let pair = match role {
            Role::Client => handshake(
                context(Role::Client, ours).unwrap(),
                context(Role::Server, theirs).unwrap(),
                "beta",
            ),
            Role::Server => handshake(
                context(Role::Client, theirs).unwrap(),
                context(Role::Server, ours).unwrap(),
                "alpha",
            ),
        };
        let (judge, slot) = match role {
            Role::Client => (&pair.client, &pair.at_client),
            Role::Server => (&pair.server, &pair.at_server),
        };
        assert_eq!(slot.refusal(), Some(want.refusal), "{name} judged by {role:?}");
        assert_eq!(slot.peer(), None, "{name} judged by {role:?}");
        let told = judge.local_error().map(|error| error.error_code);
        assert_eq!(told, Some(0x100 + want.alert), "{name} judged by {role:?}");
        assert!(judge.is_closed() || !judge.is_established(), "{name} judged by {role:?}");
        assert!(boring::error::ErrorStack::get().errors().is_empty(), "{name}: queue not drained");
    }
}

#[test]
fn each_bad_certificate_is_refused_in_both_roles() {
    for case in CASES {
        let authority = TestAuthority::new();
        let ours = authority.snapshot("alpha");
        let theirs = authority.snapshot_of((case.identity)(&authority));
        // The peer with the bad certificate trusts us in any case, so that only its own fault shows.
        let want = Case { ..*case };
        refused_in_both_roles(case.name, &ours, &theirs, want);
    }
}

#[test]
fn a_denied_serial_is_refused_in_both_roles() {
    let authority = TestAuthority::new();
    let theirs = authority.snapshot("beta");
    let mut ours = authority.snapshot("alpha");
    let serial = theirs.identity.as_ref().unwrap().serial.clone();
    ours.denied = Arc::new(Denied { serials: [serial].into(), ..Denied::default() });
    let want = Case { refusal: PeerRefusal::Revoked, alert: 44, ..CASES[0] };
    refused_in_both_roles("denied", &ours, &theirs, want);
}

/// SHA-256 of the key of a snapshot's own leaf
fn leaf_key(snapshot: &ControlSnapshot) -> [u8; 32] {
    let der = &snapshot.identity.as_ref().unwrap().chain_der[0];
    super::leaf::Leaf::from_der(der).unwrap().spki_sha256
}

#[test]
fn a_denied_key_and_a_denied_authority_are_refused_in_both_roles() {
    let authority = TestAuthority::new();
    let (mut ours, theirs) = (authority.snapshot("alpha"), authority.snapshot("beta"));
    let keys = [leaf_key(&theirs)].into();
    ours.denied = Arc::new(Denied { keys, ..Denied::default() });
    let want = Case { refusal: PeerRefusal::KeyRevoked, alert: 44, ..CASES[0] };
    refused_in_both_roles("denied key", &ours, &theirs, want);
    let issuers = [authority.key_id()].into();
    ours.denied = Arc::new(Denied { issuers, ..Denied::default() });
    let want = Case { refusal: PeerRefusal::IssuerRevoked, alert: 44, ..CASES[0] };
    refused_in_both_roles("denied authority", &ours, &theirs, want);
    // It is not trusted any more either, and its leaves are still refused for what they are.
    ours.trust = TestAuthority::new().snapshot("alpha").trust;
    let verdict = |ours: &ControlSnapshot| {
        let verifier = Verifier::new(Role::Server, ours).unwrap();
        verifier.verdict(&theirs.identity.as_ref().unwrap().chain_der[0], None, now()).unwrap_err()
    };
    assert_eq!(verdict(&ours), PeerRefusal::IssuerRevoked);
    ours.denied = Arc::default();
    // The one that is trusted has the same name and another key.
    assert_eq!(verdict(&ours), PeerRefusal::BadSignature);
}

#[test]
fn an_authority_without_constraints_is_refused_in_both_roles() {
    let (good, loose) = (TestAuthority::new(), TestAuthority::unconstrained());
    let mut ours = good.snapshot("alpha");
    ours.trust.push(loose.anchor.clone());
    let theirs = good.snapshot_of(loose.issue("beta", |_| {}));
    let want = Case { refusal: PeerRefusal::Unconstrained, alert: 48, ..CASES[0] };
    refused_in_both_roles("unconstrained", &ours, &theirs, want);
}

#[test]
fn a_certificate_must_be_logged_where_that_is_required() {
    let authority = TestAuthority::new();
    let (log, other) = (TestLog::new(), TestLog::new());
    let ours = ControlSnapshot {
        transparency: Transparency::Required(vec![log.key()]),
        ..authority.snapshot("alpha")
    };
    let logged = |log: &TestLog, at| authority.issue_logged("beta", log, at, |_| {});
    let cases = [
        ("unlogged", authority.issue("beta", |_| {}), PeerRefusal::Unlogged),
        ("logged elsewhere", logged(&other, now()), PeerRefusal::UnknownLog),
        ("from the future", logged(&log, now() + HOUR), PeerRefusal::BadTimestamp),
    ];
    for (name, identity, refusal) in cases {
        let want = Case { refusal, alert: 42, ..CASES[0] };
        refused_in_both_roles(name, &ours, &authority.snapshot_of(identity), want);
    }
    let theirs = authority.snapshot_of(logged(&log, now() + HOUR / 30));
    for role in [Role::Client, Role::Server] {
        let der = &theirs.identity.as_ref().unwrap().chain_der[0];
        let judged = judge_certificate(role, &ours, der, now()).unwrap();
        assert_eq!(judged.map(|peer| peer.node.to_string()), Ok("beta".to_owned()));
    }
    let pair = handshake(
        context(Role::Client, &ours).unwrap(),
        context(Role::Server, &theirs).unwrap(),
        "beta",
    );
    assert_eq!(pair.at_client.refusal(), None);
    assert!(pair.server.is_established());
}

#[test]
fn keys_that_are_not_pinned_are_refused_each_by_its_own_name() {
    let authority = TestAuthority::new();
    let (ours, theirs) = (authority.snapshot("alpha"), authority.snapshot("beta"));
    let (issuing, root, backup) = (authority.spki_sha256(), [1; 32], [2; 32]);
    let good = Pins {
        roots: [root, backup].into(),
        issuing: [issuing, backup].into(),
        peers: [(NodeId::new("beta").unwrap(), [leaf_key(&theirs)].into())].into(),
        root_of: [(issuing, root)].into(),
    };
    let with = |pins: Pins| ControlSnapshot { pins: Some(Arc::new(pins)), ..ours.clone() };
    let cases = [
        (Pins { roots: [backup].into(), ..good.clone() }, PeerRefusal::RootNotPinned),
        (Pins { issuing: [backup].into(), ..good.clone() }, PeerRefusal::IssuingNotPinned),
        (
            Pins {
                peers: [(NodeId::new("beta").unwrap(), [backup].into())].into(),
                ..good.clone()
            },
            PeerRefusal::PeerNotPinned,
        ),
    ];
    for (pins, refusal) in cases {
        let want = Case { refusal, alert: 48, ..CASES[0] };
        refused_in_both_roles(refusal.label(), &with(pins), &theirs, want);
    }
    let pair = handshake(
        context(Role::Client, &with(good.clone())).unwrap(),
        context(Role::Server, &theirs).unwrap(),
        "beta",
    );
    assert_eq!(pair.at_client.refusal(), None);
    assert!(pair.server.is_established());
}

#[test]
fn an_old_deny_list_closes_the_door_to_all_but_the_authorities() {
    let authority = TestAuthority::new();
    let theirs = authority.snapshot("beta");
    let fresh_until = |until, exempt: &[&str]| ControlSnapshot {
        deny_list_freshness: Some(Freshness {
            until,
            by_issuer: BTreeMap::new(),
            exempt: exempt.iter().map(|name| NodeId::new(name).unwrap()).collect(),
        }),
        ..authority.snapshot("alpha")
    };
    let want = Case { refusal: PeerRefusal::DenyListTooOld, alert: 80, ..CASES[0] };
    let old = now() - Duration::from_secs(1);
    refused_in_both_roles("old list", &fresh_until(old, &["gamma"]), &theirs, want);
    for ours in [fresh_until(now(), &[]), fresh_until(old, &["beta"])] {
        for role in [Role::Client, Role::Server] {
            let der = &theirs.identity.as_ref().unwrap().chain_der[0];
            assert!(judge_certificate(role, &ours, der, now()).unwrap().is_ok());
        }
    }
}

#[test]
fn each_authority_is_gone_by_its_own_deny_list() {
    let (late, recent) = (TestAuthority::new(), TestAuthority::new());
    let old = now() - Duration::from_secs(1);
    let mut ours = recent.snapshot("alpha");
    ours.trust.push(late.anchor.clone());
    ours.deny_list_freshness = Some(Freshness {
        until: old,
        by_issuer: BTreeMap::from([(recent.key_id(), now()), (late.key_id(), old)]),
        exempt: Default::default(),
    });
    let verdict = |leaf: &ControlSnapshot| {
        let der = &leaf.identity.as_ref().unwrap().chain_der[0];
        judge_certificate(Role::Server, &ours, der, now()).unwrap().map(drop)
    };
    assert_eq!(verdict(&recent.snapshot("beta")), Ok(()));
    assert_eq!(verdict(&late.snapshot("gamma")), Err(PeerRefusal::DenyListTooOld));
}

#[test]
fn a_lapsed_authority_is_refused_in_both_roles() {
    let cases = [
        (now() - 240 * HOUR, now() - HOUR, PeerRefusal::AnchorExpired),
        (now() + HOUR, now() + 240 * HOUR, PeerRefusal::NotYetValid),
    ];
    for (not_before, not_after, refusal) in cases {
        let lapsed = TestAuthority::in_force(not_before, not_after);
        let good = TestAuthority::new();
        let mut ours = good.snapshot("alpha");
        ours.trust.push(lapsed.anchor.clone());
        let theirs = good.snapshot_of(lapsed.issue("beta", |_| {}));
        let want = Case { refusal, alert: 45, ..CASES[0] };
        refused_in_both_roles("lapsed authority", &ours, &theirs, want);
    }
}

#[test]
fn without_anchors_nobody_is_accepted() {
    let authority = TestAuthority::new();
    let theirs = authority.snapshot("beta");
    let ours = ControlSnapshot { trust: Vec::new(), ..authority.snapshot("alpha") };
    let want = Case { refusal: PeerRefusal::UnknownIssuer, alert: 48, ..CASES[0] };
    refused_in_both_roles("no anchors", &ours, &theirs, want);
}

#[test]
fn the_usage_of_the_other_role_does_not_do() {
    let authority = TestAuthority::new();
    let ours = authority.snapshot("alpha");
    let only =
        |usage| authority.snapshot_of(bent(&authority, |p| p.extended_key_usages = vec![usage]));
    let server_only = only(ExtendedKeyUsagePurpose::ServerAuth);
    let client_only = only(ExtendedKeyUsagePurpose::ClientAuth);
    let as_server = |theirs| {
        let (client, server) =
            (context(Role::Client, &ours).unwrap(), context(Role::Server, theirs).unwrap());
        handshake(client, server, "beta").at_client.refusal()
    };
    let as_client = |theirs| {
        let (client, server) =
            (context(Role::Client, theirs).unwrap(), context(Role::Server, &ours).unwrap());
        handshake(client, server, "alpha").at_server.refusal()
    };
    assert_eq!(as_server(&server_only), None);
    assert_eq!(as_server(&client_only), Some(PeerRefusal::KeyUsage));
    assert_eq!(as_client(&client_only), None);
    assert_eq!(as_client(&server_only), Some(PeerRefusal::KeyUsage));
}

#[test]
fn another_node_than_the_dialled_one_is_refused() {
    let authority = TestAuthority::new();
    let client = context(Role::Client, &authority.snapshot("alpha")).unwrap();
    let server = context(Role::Server, &authority.snapshot("beta")).unwrap();
    let pair = handshake(client, server, "gamma");
    assert_eq!(pair.at_client.refusal(), Some(PeerRefusal::WrongNode));
    assert_eq!(pair.client.local_error().unwrap().error_code, 0x100 + 42);
    assert!(!pair.server.is_established());
}

#[test]
fn a_client_without_a_certificate_is_refused_by_name() {
    let authority = TestAuthority::new();
    let bare = anonymous(Role::Client, &authority.snapshot("alpha")).unwrap();
    let server = context(Role::Server, &authority.snapshot("beta")).unwrap();
    let pair = handshake(bare, server, "beta");
    assert_eq!(pair.at_server.refusal(), Some(PeerRefusal::NoCertificate));
    assert_eq!(pair.server.local_error().unwrap().error_code, 0x100 + 116);
    assert!(!pair.server.is_established());
    // This is why a client is not authenticated before the server's first word: it believed it was.
    assert_eq!(pair.at_client.peer().map(|peer| peer.node), Some(NodeId::new("beta").unwrap()));
}

#[test]
fn a_connection_without_a_slot_refuses_every_peer() {
    let authority = TestAuthority::new();
    let mut to = config(context(Role::Client, &authority.snapshot("alpha")).unwrap());
    let mut from = config(context(Role::Server, &authority.snapshot("beta")).unwrap());
    let id = ConnectionId::from_ref(&[7; 16]);
    let mut client = quiche::connect(None, &id, address(1), address(2), &mut to).unwrap();
    let mut server = quiche::accept(&id, None, address(2), address(1), &mut from).unwrap();
    let unrelated = PeerSlot::install(server.as_mut(), None, now).unwrap();
    while deliver(&mut client, &mut server, &unrelated)
        + deliver(&mut server, &mut client, &unrelated)
        > 0
    {}
    assert_eq!(client.local_error().unwrap().error_code, 0x100 + 80);
    assert!(!server.is_established());
    drain_error_queue();
}

#[test]
fn two_good_nodes_know_each_other() {
    let authority = TestAuthority::new();
    let (alpha, beta) = (authority.snapshot("alpha"), authority.snapshot("beta"));
    let mut pair = handshake(
        context(Role::Client, &alpha).unwrap(),
        context(Role::Server, &beta).unwrap(),
        "beta",
    );
    assert!(pair.client.is_established() && pair.server.is_established());
    for (slot, peer) in [(&pair.at_client, &beta), (&pair.at_server, &alpha)] {
        let identity = peer.identity.as_ref().unwrap();
        let seen = slot.peer().unwrap();
        assert_eq!(seen.node, identity.node);
        assert_eq!(seen.serial, identity.serial);
        assert_eq!(seen.not_after, identity.not_after);
        assert_eq!(slot.refusal(), None);
    }
    for end in [&mut pair.client, &mut pair.server] {
        let ssl: &mut SslRef = end.as_mut();
        assert_eq!(ssl.curve_name(), Some("X25519MLKEM768"));
        assert!(!ssl.used_hello_retry_request());
        assert_eq!(ssl.version_str(), "TLSv1.3");
    }
}

#[test]
fn the_post_quantum_exchange_needs_both_ends_and_costs_no_round_trip() {
    let authority = TestAuthority::new();
    let snapshot = |node: &str, post_quantum: bool| {
        let mut snapshot = authority.snapshot(node);
        snapshot.transport.post_quantum = post_quantum;
        snapshot
    };
    for (ours, theirs) in [(true, true), (true, false), (false, true), (false, false)] {
        let client = context(Role::Client, &snapshot("alpha", ours)).unwrap();
        let server = context(Role::Server, &snapshot("beta", theirs)).unwrap();
        let mut pair = handshake(client, server, "beta");
        assert!(pair.client.is_established() && pair.server.is_established());
        let group = if ours && theirs { "X25519MLKEM768" } else { "X25519" };
        for end in [&mut pair.client, &mut pair.server] {
            let ssl: &mut SslRef = end.as_mut();
            assert_eq!(ssl.curve_name(), Some(group), "client {ours}, server {theirs}");
            assert!(!ssl.used_hello_retry_request());
        }
    }
}

#[test]
fn a_second_connection_is_never_resumed() {
    let authority = TestAuthority::new();
    let (alpha, beta) = (authority.snapshot("alpha"), authority.snapshot("beta"));
    let again = |clear: bool| {
        let client = || context(Role::Client, &alpha).unwrap();
        let server = || {
            let mut server = context(Role::Server, &beta).unwrap();
            if clear {
                server.clear_options(SslOptions::NO_TICKET);
            }
            server
        };
        let (mut to, mut from) = (config(client()), config(server()));
        let mut session: Option<Vec<u8>> = None;
        let mut resumed = false;
        for _attempt in 0..2 {
            let id = ConnectionId::from_ref(&[7; 16]);
            let mut client = quiche::connect(None, &id, address(1), address(2), &mut to).unwrap();
            let mut server = quiche::accept(&id, None, address(2), address(1), &mut from).unwrap();
            let at_client = PeerSlot::install(client.as_mut(), None, now).unwrap();
            let at_server = PeerSlot::install(server.as_mut(), None, now).unwrap();
            if let Some(session) = &session {
                client.set_session(session).unwrap();
            }
            while deliver(&mut client, &mut server, &at_server)
                + deliver(&mut server, &mut client, &at_client)
                > 0
            {}
            assert!(client.is_established() && server.is_established());
            resumed = client.is_resumed() || server.is_resumed();
            session = client.session().map(<[u8]>::to_vec);
        }
        (resumed, session.is_some())
    };
    assert_eq!(again(false), (false, false));
    // The control: with tickets the second connection resumes, so the assertion above can fail.
    assert_eq!(again(true), (true, true));
}

#[test]
fn a_remembered_leaf_is_still_held_to_time_list_and_name() {
    let authority = TestAuthority::new();
    let identity = authority.issue("beta", |_| {});
    let (der, not_after) = (&identity.chain_der[0], identity.not_after);
    let beta = NodeId::new("beta").unwrap();
    let gamma = NodeId::new("gamma").unwrap();
    let snapshot = authority.snapshot("alpha");
    let verifier = Verifier::new(Role::Client, &snapshot).unwrap();
    let first = verifier.verdict(der, Some(&beta), now()).unwrap();
    assert_eq!(verifier.verdict(der, Some(&beta), now()), Ok(first));
    assert_eq!(verifier.remembered(), 1);
    assert_eq!(verifier.verdict(der, Some(&gamma), now()), Err(PeerRefusal::WrongNode));
    assert!(verifier.verdict(der, None, not_after).is_ok());
    let late = not_after + Duration::from_secs(1);
    assert_eq!(verifier.verdict(der, None, late), Err(PeerRefusal::Expired));
    let early = now() - 2 * HOUR;
    assert_eq!(verifier.verdict(der, None, early), Err(PeerRefusal::NotYetValid));
}

#[test]
fn memory_is_bounded_and_refusals_take_none() {
    let authority = TestAuthority::new();
    let verifier = Verifier::new(Role::Client, &authority.snapshot("alpha")).unwrap();
    let foreign = TestAuthority::new().issue("beta", |_| {});
    assert!(verifier.verdict(&foreign.chain_der[0], None, now()).is_err());
    assert_eq!(verifier.remembered(), 0);
    let good = authority.issue("beta", |_| {});
    verifier.verdict(&good.chain_der[0], None, now()).unwrap();
    assert_eq!(verifier.overfill(&good.chain_der[0]), super::verify::REMEMBERED_LEAVES);
}

#[test]
fn an_unusable_identity_is_named() {
    let authority = TestAuthority::new();
    let mut snapshot = authority.snapshot("alpha");
    let other_key = authority.issue("alpha", |_| {}).key;
    snapshot.identity.as_mut().unwrap().key = other_key;
    let error = context(Role::Server, &snapshot).err().unwrap();
    assert!(matches!(error, TlsError::Identity { part: "private key", .. }), "{error}");
    snapshot.identity = None;
    assert!(matches!(context(Role::Client, &snapshot), Err(TlsError::NoIdentity)));
    let mut snapshot = authority.snapshot("alpha");
    snapshot.trust[0].certificate_der.truncate(40);
    assert!(matches!(context(Role::Client, &snapshot), Err(TlsError::Anchor { index: 0, .. })));
}
