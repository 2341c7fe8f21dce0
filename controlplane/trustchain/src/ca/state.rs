//! What the journal's entries amount to, in memory: who is registered, what lives, what is revoked, which requests
//! were answered. It changes by entries that are durable and by nothing else, the same at a start and in
//! operation; nothing here writes or waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_interface::NodeId;

use super::api::{EnrolledNode, IssuedCertificate, Registration};
use super::entry::{Enrolled, Entry, Issued, Registered, RenewAll, Revoked};
use super::issuing_keys::KeyRegister;
use super::settings::Limits;
use crate::certificate::hex;
use crate::log::DurableEntry;
use crate::revocation::KeyId;

/// How long after its end a certificate or revocation is remembered, for clocks that are slow
const RETAIN_SECONDS: u64 = 3_600;
/// CRLReason of a certificate that was replaced (RFC 5280 section 5.3.1)
const SUPERSEDED: u32 = 4;
/// How often everything that is remembered is looked through
const LOOK_THROUGH_SECONDS: u64 = 3_600;

/// What a request is known by
pub(super) type RequestId = [u8; 32];

/// A certificate that has not ended long ago
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) profile: Arc<str>,
    pub(super) subject: Arc<str>,
    pub(super) spki_sha256: [u8; 32],
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    pub(super) timestamp_ms: u64,
    pub(super) leaf_index: u64,
    /// The key that issued it
    pub(super) issuer: KeyId,
}

/// A certificate of which the journal has everything, and which may still have to be finished
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) durable: DurableEntry,
    pub(super) issued: Issued,
    pub(super) sequence: u64,
}

/// What became of a request
#[derive(Clone, Debug)]
pub(super) enum Remembered {
    Committed(Arc<Committed>),
    Done(Arc<IssuedCertificate>),
}

/// An enrolled node
#[derive(Clone, Debug)]
struct Node {
    key_spki_der: Arc<[u8]>,
    key_sha256: [u8; 32],
    address: SocketAddrV6,
    serial: String,
    spki_sha256: String,
    not_after: u64,
    /// One of its certificates or the key it enrolled with was revoked: it comes back with a new token only
    barred: bool,
}

#[derive(Debug)]
pub(super) struct State {
    limits: Limits,
    /// Name of the profile that nodes enrol with
    enrolment: Option<String>,
    registrations: BTreeMap<(String, String), Registration>,
    nodes: BTreeMap<String, Node>,
    live: HashMap<u128, Live>,
    /// Whose a key is, and until when that counts
    holders: HashMap<[u8; 32], (Arc<str>, u64)>,
    ends: BinaryHeap<Reverse<(u64, u128, [u8; 32])>>,
    revoked_serials: HashMap<u128, u64>,
    revoked_keys: HashMap<[u8; 32], u64>,
    /// Issuing keys of which nothing counts any more, and until when that has to be known
    revoked_issuers: HashMap<KeyId, u64>,
    issuing_keys: KeyRegister,
    used_tokens: HashMap<String, (u64, RequestId)>,
    reserved_tokens: HashSet<String>,
    requests: HashMap<RequestId, Remembered>,
    requests_in_order: VecDeque<RequestId>,
    renew_all: Option<RenewAll>,
    /// The latest version of each policy document; only this authority's own are in its journal
    policies: BTreeMap<String, (u64, Vec<u8>)>,
    issued: u64,
    names: HashSet<Arc<str>>,
    /// When revocations, tokens and names are looked through next, in seconds since 1970
    look_through_at: u64,
}

/// Why an entry does not fit what was before it
pub(super) type Misfit = &'static str;

impl State {
    pub(super) fn new(limits: Limits, enrolment: Option<String>) -> Self {
        Self {
            limits,
            enrolment,
            registrations: BTreeMap::new(),
            nodes: BTreeMap::new(),
            live: HashMap::new(),
            holders: HashMap::new(),
            ends: BinaryHeap::new(),
            revoked_serials: HashMap::new(),
            revoked_keys: HashMap::new(),
            revoked_issuers: HashMap::new(),
            issuing_keys: KeyRegister::default(),
            used_tokens: HashMap::new(),
            reserved_tokens: HashSet::new(),
            requests: HashMap::new(),
            requests_in_order: VecDeque::new(),
            renew_all: None,
            policies: BTreeMap::new(),
            issued: 0,
            names: HashSet::new(),
            look_through_at: 0,
        }
    }

    /// Takes an entry that is durable, of any kind but `Issued`
    pub(super) fn apply(&mut self, entry: &Entry) -> Result<(), Misfit> {
        match entry {
            Entry::Issued(_) => return Err("a certificate is applied with its log entry"),
            Entry::TokenUsed(used) => {
                let request =
                    used.request.as_slice().try_into().map_err(|_| "a token's request")?;
                if self.used_tokens.insert(used.id.clone(), (used.expires, request)).is_some() {
                    return Err("a token is used twice");
                }
            }
            Entry::Enrolled(enrolled) => self.enrol(enrolled)?,
            Entry::Registered(registered) => self.register(registered)?,
            Entry::Unregistered(gone) => {
                let key = (gone.profile.clone(), gone.subject.clone());
                self.registrations.remove(&key);
                if self.enrolment.as_ref() == Some(&gone.profile) {
                    self.nodes.remove(&gone.subject);
                }
            }
            Entry::RenewAll(all) => self.renew_all = Some(*all),
            Entry::Revoked(revoked) => self.revoke(revoked)?,
            Entry::IssuingKey(changed) => self.issuing_keys.take(changed)?,
            Entry::Policy(stored) => {
                let latest = self.policies.get(&stored.name);
                if latest.is_none_or(|(version, _)| *version < stored.version) {
                    let latest = (stored.version, stored.body.clone());
                    self.policies.insert(stored.name.clone(), latest);
                }
            }
            Entry::Log(_) | Entry::DenyListIssued(_) | Entry::CrlIssued(_) | Entry::Audit(_) => {}
        }
        Ok(())
    }

    /// The latest version of a policy document
    pub(super) fn policy(&self, name: &str) -> Option<(u64, Vec<u8>)> {
        self.policies.get(name).cloned()
    }

    /// Takes a certificate that is durable, with its log entry; returns what a retry of its request needs
    pub(super) fn apply_issued(
        &mut self,
        issued: &Issued,
        durable: DurableEntry,
        sequence: u64,
    ) -> Result<Arc<Committed>, Misfit> {
        let entry = durable.entry();
        if (entry.leaf_index, entry.timestamp_ms) != (issued.leaf_index, issued.timestamp_ms) {
            return Err("a certificate is not where its log entry is");
        }
        let serial = serial_number(&issued.serial).ok_or("a serial number")?;
        let spki_sha256 =
            issued.spki_sha256.as_slice().try_into().map_err(|_| "the hash of a key")?;
        let request: RequestId =
            issued.request.as_slice().try_into().map_err(|_| "a request's hash")?;
        let issuer = KeyId::from_bytes(&issued.issuer_key_id).map_err(|_| "an issuer's key")?;
        let live = Live {
            profile: self.intern(&issued.profile),
            subject: self.intern(&issued.subject),
            spki_sha256,
            not_before: issued.not_before,
            not_after: issued.not_after,
            timestamp_ms: issued.timestamp_ms,
            leaf_index: issued.leaf_index,
            issuer,
        };
        let holder = self.intern(&holder_name(&issued.profile, &issued.subject));
        if self.live.insert(serial, live).is_some() {
            return Err("a serial number repeats");
        }
        let until = self.holders.get(&spki_sha256).map_or(0, |(_, until)| *until);
        self.holders.insert(spki_sha256, (holder, until.max(issued.not_after)));
        self.ends.push(Reverse((issued.not_after, serial, spki_sha256)));
        if self.enrolment.as_ref() == Some(&issued.profile)
            && let Some(node) = self.nodes.get_mut(&issued.subject)
        {
            node.serial = hex(&issued.serial);
            node.spki_sha256 = hex(&issued.spki_sha256);
            node.not_after = issued.not_after;
            if let Ok(address) = issued.stoq_address.parse() {
                node.address = address;
            }
        }
        self.issuing_keys.note_leaf(&issued.issuer_key_id, issued.not_after);
        self.issued += 1;
        let committed = Arc::new(Committed { durable, issued: issued.clone(), sequence });
        self.remember(request, Remembered::Committed(committed.clone()));
        Ok(committed)
    }

    /// A certificate was finished. The first that was finished is the one; it is returned.
    pub(super) fn finished(
        &mut self,
        request: &RequestId,
        finished: IssuedCertificate,
    ) -> Arc<IssuedCertificate> {
        match self.requests.get_mut(request) {
            Some(Remembered::Done(first)) if first.serial == finished.serial => first.clone(),
            Some(place @ Remembered::Committed(_)) => {
                let done = Arc::new(finished);
                *place = Remembered::Done(done.clone());
                done
            }
            // Forgotten meanwhile
            _ => Arc::new(finished),
        }
    }

    pub(super) fn remembered(&self, request: &RequestId) -> Option<Remembered> {
        self.requests.get(request).cloned()
    }

    /// Forgets what has ended by `now`, in seconds since 1970
    pub(super) fn forget_ended(&mut self, now: u64) {
        if now >= self.look_through_at {
            self.look_through(now);
            self.look_through_at = now.saturating_add(LOOK_THROUGH_SECONDS);
        }
        let ended = |ends_at: u64| ends_at.saturating_add(RETAIN_SECONDS) < now;
        while let Some(Reverse((not_after, serial, spki))) = self.ends.peek().copied()
            && ended(not_after)
        {
            self.ends.pop();
            self.live.remove(&serial);
            if self.holders.get(&spki).is_some_and(|(_, until)| ended(*until)) {
                self.holders.remove(&spki);
            }
        }
    }

    /// Forgets revocations and tokens whose time is over; costs as much as there are, so it is done once an hour
    fn look_through(&mut self, now: u64) {
        let kept = |ends_at: &u64| ends_at.saturating_add(RETAIN_SECONDS) >= now;
        self.revoked_serials.retain(|_, ends_at| kept(ends_at));
        self.revoked_keys.retain(|_, ends_at| kept(ends_at));
        self.revoked_issuers.retain(|_, ends_at| kept(ends_at));
        self.used_tokens.retain(|_, (expires, _)| kept(expires));
        self.names.retain(|name| Arc::strong_count(name) > 1);
    }

    pub(super) fn has_room(&self) -> bool {
        self.live.len() < self.limits.live_certificates
    }

    pub(super) fn live(&self, serial: &[u8]) -> Option<&Live> {
        self.live.get(&serial_number(serial)?)
    }

    pub(super) fn knows_serial(&self, serial: &[u8; 16]) -> bool {
        self.live.contains_key(&u128::from_be_bytes(*serial))
    }

    /// Whether a key is certified for somebody else
    pub(super) fn is_anothers_key(&self, spki: &[u8; 32], profile: &str, subject: &str) -> bool {
        let own = holder_name(profile, subject);
        self.holders.get(spki).is_some_and(|(holder, _)| **holder != *own)
    }

    pub(super) fn is_revoked(&self, serial: &[u8], spki: &[u8; 32]) -> bool {
        self.revoked_keys.contains_key(spki)
            || serial_number(serial)
                .is_some_and(|serial| self.revoked_serials.contains_key(&serial))
    }

    /// Whether nothing counts any more that this key has signed
    pub(super) fn is_issuer_revoked(&self, issuer: &KeyId) -> bool {
        self.revoked_issuers.contains_key(issuer)
    }

    pub(super) fn issuing_keys(&self) -> &KeyRegister {
        &self.issuing_keys
    }

    pub(super) fn registration(&self, profile: &str, subject: &str) -> Option<&Registration> {
        self.registrations.get(&(profile.to_owned(), subject.to_owned()))
    }

    pub(super) fn registrations(&self) -> Vec<Registration> {
        self.registrations.values().cloned().collect()
    }

    pub(super) fn has_room_for(&self, profile: &str, subject: &str) -> bool {
        self.registrations.len() < self.limits.registrations
            || self.registration(profile, subject).is_some()
    }

    /// Whether a node was revoked and has not enrolled anew since
    pub(super) fn is_barred(&self, profile: &str, subject: &str) -> bool {
        self.enrolment.as_deref() == Some(profile)
            && self.nodes.get(subject).is_some_and(|node| node.barred)
    }

    /// The key a node enrolled with, and the last second of its latest certificate
    pub(super) fn enrolled_key(&self, node: &str) -> Option<(Arc<[u8]>, u64)> {
        let node = self.nodes.get(node)?;
        Some((node.key_spki_der.clone(), node.not_after))
    }

    pub(super) fn nodes(&self) -> Vec<EnrolledNode> {
        self.nodes.iter().filter_map(|(name, node)| enrolled_node(name, node)).collect()
    }

    pub(super) fn node(&self, name: &str) -> Option<EnrolledNode> {
        enrolled_node(name, self.nodes.get(name)?)
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Which request used a token
    pub(super) fn token_user(&self, id: &str) -> Option<RequestId> {
        self.used_tokens.get(id).map(|(_, request)| *request)
    }

    pub(super) fn used_tokens(&self) -> Vec<String> {
        self.used_tokens.keys().cloned().collect()
    }

    /// Sets a token aside for one request; `false` where another has it
    pub(super) fn reserve_token(&mut self, id: &str) -> bool {
        self.reserved_tokens.insert(id.to_owned())
    }

    pub(super) fn release_token(&mut self, id: &str) {
        self.reserved_tokens.remove(id);
    }

    pub(super) fn renew_all(&self) -> Option<RenewAll> {
        self.renew_all
    }

    pub(super) fn issued(&self) -> u64 {
        self.issued
    }

    pub(super) fn revoked(&self) -> usize {
        self.revoked_serials.len() + self.revoked_keys.len() + self.revoked_issuers.len()
    }

    fn remember(&mut self, request: RequestId, what: Remembered) {
        if self.limits.remembered_requests == 0 {
            return;
        }
        if self.requests.insert(request, what).is_none() {
            self.requests_in_order.push_back(request);
        }
        while self.requests_in_order.len() > self.limits.remembered_requests {
            if let Some(oldest) = self.requests_in_order.pop_front() {
                self.requests.remove(&oldest);
            }
        }
    }

    fn enrol(&mut self, enrolled: &Enrolled) -> Result<(), Misfit> {
        let Some(profile) = self.enrolment.clone() else { return Ok(()) };
        self.register(&Registered {
            profile,
            subject: enrolled.node.clone(),
            owner: String::new(),
            addresses: enrolled.addresses.clone(),
            alternative_names: false,
        })?;
        let node = Node {
            key_spki_der: enrolled.key_spki_der.as_slice().into(),
            key_sha256: boring::sha::sha256(&enrolled.key_spki_der),
            address: SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0),
            serial: String::new(),
            spki_sha256: String::new(),
            not_after: 0,
            barred: false,
        };
        self.nodes.insert(enrolled.node.clone(), node);
        Ok(())
    }

    fn register(&mut self, registered: &Registered) -> Result<(), Misfit> {
        let addresses: Result<Vec<Ipv6Addr>, _> =
            registered.addresses.iter().map(|text| text.parse()).collect();
        let owner = match registered.owner.as_str() {
            "" => None,
            name => Some(NodeId::new(name).map_err(|_| "the owner of a registration")?),
        };
        let registration = Registration {
            profile: registered.profile.clone(),
            subject: registered.subject.clone(),
            owner,
            addresses: addresses.map_err(|_| "an address of a registration")?,
            alternative_names: registered.alternative_names,
        };
        let key = (registered.profile.clone(), registered.subject.clone());
        self.registrations.insert(key, registration);
        Ok(())
    }

    fn revoke(&mut self, revoked: &Revoked) -> Result<(), Misfit> {
        if revoked.serial.is_empty() && revoked.spki_sha256.is_empty() {
            let issuer = KeyId::from_bytes(&revoked.issuer_key_id);
            let issuer = issuer.map_err(|_| "a revocation of nothing")?;
            let until = self.revoked_issuers.entry(issuer).or_default();
            *until = revoked.ends_at.max(*until);
            return Ok(());
        }
        self.bar(revoked);
        if !revoked.spki_sha256.is_empty() {
            let spki =
                revoked.spki_sha256.as_slice().try_into().map_err(|_| "the hash of a key")?;
            let until = self.revoked_keys.entry(spki).or_default();
            *until = revoked.ends_at.max(*until);
        }
        // Longer ones are not of this mesh's authorities.
        if let Some(serial) = serial_number(&revoked.serial) {
            let until = self.revoked_serials.entry(serial).or_default();
            *until = revoked.ends_at.max(*until);
        }
        Ok(())
    }

    /// A revoked node stays out, whatever other certificates and keys it has; one whose certificate was only
    /// replaced does not
    fn bar(&mut self, revoked: &Revoked) {
        if revoked.reason == SUPERSEDED {
            return;
        }
        let enrolment = self.enrolment.as_deref();
        let named = self.live(&revoked.serial).filter(|live| Some(&*live.profile) == enrolment);
        let named = named.map(|live| live.subject.clone());
        for (name, node) in &mut self.nodes {
            if named.as_deref() == Some(name) || node.key_sha256[..] == revoked.spki_sha256[..] {
                node.barred = true;
            }
        }
    }

    /// Each name once, however many certificates have it
    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }
}

/// A serial number of at most 16 octets; none is empty
pub(super) fn serial_number(octets: &[u8]) -> Option<u128> {
    let leading = octets.iter().take_while(|octet| **octet == 0).count();
    let significant = &octets[leading..];
    if significant.is_empty() || significant.len() > 16 {
        return None;
    }
    Some(significant.iter().fold(0, |number, octet| number << 8 | u128::from(*octet)))
}

/// An instant from seconds since 1970
pub(super) fn instant(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn holder_name(profile: &str, subject: &str) -> String {
    format!("{profile}/{subject}")
}

fn enrolled_node(name: &str, node: &Node) -> Option<EnrolledNode> {
    Some(EnrolledNode {
        node: NodeId::new(name).ok()?,
        address: node.address,
        serial: node.serial.clone(),
        spki_sha256: node.spki_sha256.clone(),
        not_after: node.not_after,
    })
}
