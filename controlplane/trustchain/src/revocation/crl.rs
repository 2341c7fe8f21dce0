//! Certificate revocation lists for everyone who does not follow the deny-list: one per shard, issued on a
//! timer even when nothing changes (RFC 5280 section 5). A certificate's shard follows from its serial
//! number, so it is settled when the certificate is issued and written into its distribution point.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use boring::bn::BigNumContext;
use boring::ec::{EcGroup, EcKey, EcPoint};
use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::PKey;
use boring::sign::Verifier;
use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope,
    Issuer, RevocationReason, RevokedCertParams, SigningKey,
};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::entry::{KeyId, Reason, SerialNumber};
use crate::certificate::{unix_seconds, whole_seconds};
use crate::chain::settle;
use crate::signer::key_identifier_method;

/// Entries one shard may have
pub const SHARD_ENTRIES_LIMIT: usize = 50_000;
/// Octets of a serial number as it is drawn
const SERIAL_BYTES: usize = 16;

/// How certificates are spread over shards. It never changes for an issuing key: certificates name their
/// shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sharding {
    shards: u8,
    skipped_octets: usize,
}

/// Why certificates cannot be spread so
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "CRL shards are 1, 2, 4, 8, 16, 32, 64 or 128, and at most 15 octets of a serial are skipped"
)]
pub struct ShardingError;

impl Sharding {
    /// Eight shards by the first octet
    pub const DEFAULT: Self = Self { shards: 8, skipped_octets: 0 };

    /// `shards` by the octet of the 16-octet serial number behind `skipped_octets`, which is not zero where
    /// serial numbers begin with something that is the same in all of them
    pub fn new(shards: u8, skipped_octets: usize) -> Result<Self, ShardingError> {
        if !shards.is_power_of_two() || skipped_octets >= SERIAL_BYTES {
            return Err(ShardingError);
        }
        Ok(Self { shards, skipped_octets })
    }

    /// How many shards there are
    pub fn shards(&self) -> u8 {
        self.shards
    }

    /// The shard of a serial number
    pub fn shard_of(&self, serial: &SerialNumber) -> u8 {
        let octets = serial.as_bytes();
        // As the number is drawn, with its leading zero octets
        let absent = SERIAL_BYTES.saturating_sub(octets.len());
        let octet = match self.skipped_octets.checked_sub(absent) {
            Some(at) => octets.get(at).copied().unwrap_or(0),
            None => 0,
        };
        let octet_values_per_shard = 256 / u16::from(self.shards);
        // Below the number of shards, and so below 256
        (u16::from(octet) / octet_values_per_shard) as u8
    }
}

/// When CRLs are issued and where they are found
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CrlSettings {
    /// How certificates are spread
    pub sharding: Sharding,
    /// Issued anew after this time, whether anything changed or not
    pub interval: Duration,
    /// From issue to next update
    pub validity: Duration,
    /// What the address of every shard begins with, ending in a slash
    pub base_uri: String,
}

/// Why a CRL is not issued
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The settings cannot work
    #[error(
        "CRL settings: the interval must be at least a second and below the validity, and the base \
         address an http or https URI that ends in a slash"
    )]
    Settings,
    /// There is no such shard
    #[error("there is no CRL shard {0}")]
    NoShard(u8),
    /// A shard is full
    #[error(
        "CRL shard {shard} has {SHARD_ENTRIES_LIMIT} entries, the limit; taint the issuing key and \
         have its holders renew"
    )]
    Full {
        /// Which
        shard: u8,
    },
    /// The clock shows a time before the last issue
    #[error("the clock stands before the last issue of CRL shard {shard}; set it right")]
    ClockWentBack {
        /// Which
        shard: u8,
    },
    /// The key that signs is another one than the list is for
    #[error("the signing key is not the key {0} that these CRLs are for")]
    WrongKey(KeyId),
    /// What was made does not say what was ordered
    #[error("the CRL failed its last check in field `{0}` and was thrown away")]
    Lint(&'static str),
    /// It could not be made or signed
    #[error("the CRL could not be made: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// A revoked certificate as CRLs show it
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Revoked {
    reason: Reason,
    revoked_at: SystemTime,
    ends_at: SystemTime,
    /// It has been on a list issued after its end, so the next may go without it (RFC 5280 section 3.3)
    shown_after_end: bool,
}

#[derive(Debug, Default)]
struct Shard {
    /// Of the last list issued
    number: u64,
    issued_at: Option<SystemTime>,
    changed: bool,
    revoked: BTreeMap<SerialNumber, Revoked>,
}

/// A list that was issued
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedCrl {
    /// Its shard
    pub shard: u8,
    /// Its number, which grows with each issue of the shard
    pub number: u64,
    /// DER
    pub der: Vec<u8>,
    /// When it was issued
    pub this_update: SystemTime,
    /// The latest time of the next
    pub next_update: SystemTime,
}

/// The CRLs of one issuing key
#[derive(Debug)]
pub struct CrlPublisher {
    settings: CrlSettings,
    issuer: KeyId,
    shards: Vec<Shard>,
}

impl CrlPublisher {
    /// Lists without entries that were never issued, of the key with this identifier
    pub fn new(settings: CrlSettings, issuer: KeyId) -> Result<Self, CrlError> {
        let scheme = ["http://", "https://"].iter().any(|scheme| {
            settings.base_uri.strip_prefix(scheme).is_some_and(|rest| rest.len() > 1)
        });
        let fits = settings.interval >= Duration::from_secs(1)
            && settings.interval < settings.validity
            && settings.base_uri.is_ascii()
            && settings.base_uri.ends_with('/');
        if !fits || !scheme {
            return Err(CrlError::Settings);
        }
        let shards = (0..settings.sharding.shards).map(|_| Shard::default()).collect();
        Ok(Self { settings, issuer, shards })
    }

    /// Where the shard of a serial number is found: what its certificate names as distribution point
    pub fn distribution_point(&self, serial: &SerialNumber) -> String {
        self.uri(self.settings.sharding.shard_of(serial))
    }

    fn uri(&self, shard: u8) -> String {
        format!("{}{}-{shard}.crl", self.settings.base_uri, self.issuer)
    }

    /// Adds a certificate; `false` where it is on the list already. Replaying a journal restores the lists.
    pub fn revoke(
        &mut self,
        serial: SerialNumber,
        reason: Reason,
        revoked_at: SystemTime,
        ends_at: SystemTime,
    ) -> Result<bool, CrlError> {
        let shard = self.settings.sharding.shard_of(&serial);
        let place = self.shard_mut(shard)?;
        if place.revoked.contains_key(&serial) {
            return Ok(false);
        }
        if place.revoked.len() >= SHARD_ENTRIES_LIMIT {
            return Err(CrlError::Full { shard });
        }
        let revoked = Revoked {
            reason,
            revoked_at: whole_seconds(revoked_at),
            ends_at,
            shown_after_end: false,
        };
        place.revoked.insert(serial, revoked);
        place.changed = true;
        Ok(true)
    }

    /// Shards to issue now: changed, or their time has come
    pub fn due(&self, now: SystemTime) -> Vec<u8> {
        let due = self.shards.iter().enumerate().filter(|(_, shard)| {
            let time = shard.issued_at.is_none_or(|at| {
                now.duration_since(at).is_ok_and(|ago| ago >= self.settings.interval)
            });
            shard.changed || time
        });
        // There are at most 128.
        due.map(|(index, _)| index as u8).collect()
    }

    /// When the next shard is due, if nothing is revoked meanwhile
    pub fn next_due(&self) -> Option<SystemTime> {
        let times =
            self.shards.iter().map(|shard| shard.issued_at.map(|at| at + self.settings.interval));
        times.min().flatten()
    }

    /// Issues a shard. Its number is the greater of the time in seconds and the last number plus one, so that
    /// it grows even where the numbers were lost. Nothing is counted where this fails.
    pub fn issue(
        &mut self,
        shard: u8,
        issuer: &Issuer<'_, impl SigningKey>,
        now: SystemTime,
    ) -> Result<IssuedCrl, CrlError> {
        let point = issuer.key().der_bytes().to_vec();
        if KeyId::of_public_point(&point).ok() != Some(self.issuer) {
            return Err(CrlError::WrongKey(self.issuer));
        }
        let (uri, validity) = (self.uri(shard), self.settings.validity);
        let place = self.shard_mut(shard)?;
        let this_update = whole_seconds(now);
        if place.issued_at.is_some_and(|last| this_update < last) {
            return Err(CrlError::ClockWentBack { shard });
        }
        let number = place.number.saturating_add(1).max(unix_seconds(now));
        let next_update = whole_seconds(this_update + validity);
        let listed: Vec<_> = place.revoked.iter().filter(|(_, it)| !it.shown_after_end).collect();
        let params = CertificateRevocationListParams {
            this_update: this_update.into(),
            next_update: next_update.into(),
            crl_number: number.into(),
            issuing_distribution_point: Some(CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![uri.clone()] },
                scope: Some(CrlScope::UserCertsOnly),
            }),
            revoked_certs: listed.iter().map(|(serial, it)| entry(serial, it)).collect(),
            key_identifier_method: key_identifier_method(&point),
        };
        let der = params.signed_by(issuer)?.der().to_vec();
        let order = Order { number, this_update, next_update, uri: &uri, listed: &listed };
        lint(&der, &order, &point).map_err(CrlError::Lint)?;
        place.revoked.retain(|_, it| !it.shown_after_end);
        for it in place.revoked.values_mut() {
            it.shown_after_end = this_update > it.ends_at;
        }
        (place.number, place.issued_at, place.changed) = (number, Some(this_update), false);
        Ok(IssuedCrl { shard, number, der, this_update, next_update })
    }

    /// The last number of a shard, as it was kept: the next is greater
    pub fn restore_number(&mut self, shard: u8, number: u64) -> Result<(), CrlError> {
        let place = self.shard_mut(shard)?;
        place.number = place.number.max(number);
        Ok(())
    }

    fn shard_mut(&mut self, shard: u8) -> Result<&mut Shard, CrlError> {
        self.shards.get_mut(usize::from(shard)).ok_or(CrlError::NoShard(shard))
    }
}

fn entry(serial: &SerialNumber, revoked: &Revoked) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: serial.as_bytes().to_vec().into(),
        revocation_time: revoked.revoked_at.into(),
        reason_code: Some(match revoked.reason {
            Reason::Unspecified => RevocationReason::Unspecified,
            Reason::KeyCompromise => RevocationReason::KeyCompromise,
            Reason::CaCompromise => RevocationReason::CaCompromise,
            Reason::AffiliationChanged => RevocationReason::AffiliationChanged,
            Reason::Superseded => RevocationReason::Superseded,
            Reason::CessationOfOperation => RevocationReason::CessationOfOperation,
            Reason::PrivilegeWithdrawn => RevocationReason::PrivilegeWithdrawn,
        }),
        invalidity_date: None,
    }
}

/// What the list has to say
struct Order<'a> {
    number: u64,
    this_update: SystemTime,
    next_update: SystemTime,
    uri: &'a str,
    listed: &'a [(&'a SerialNumber, &'a Revoked)],
}

/// Reads the list again as a stranger would and compares it with the order; the error names the first field
/// that differs
fn lint(der: &[u8], order: &Order<'_>, point: &[u8]) -> Result<(), &'static str> {
    let ensure = |holds: bool, field: &'static str| if holds { Ok(()) } else { Err(field) };
    let (rest, list) = CertificateRevocationList::from_der(der).map_err(|_| "encoding")?;
    ensure(rest.is_empty(), "encoding")?;
    let at = |time: SystemTime| i64::try_from(unix_seconds(time)).ok();
    ensure(Some(list.last_update().timestamp()) == at(order.this_update), "this update")?;
    let next = list.next_update().map(|time| time.timestamp());
    ensure(next.is_some() && next == at(order.next_update), "next update")?;
    let number = list.crl_number().map(|number| number.to_bytes_be());
    let wanted = order.number.to_be_bytes();
    let wanted = &wanted[wanted.iter().take_while(|octet| **octet == 0).count()..];
    ensure(number.as_deref() == Some(wanted), "number")?;
    let listed: Vec<_> = list.iter_revoked_certificates().collect();
    ensure(listed.len() == order.listed.len(), "entries")?;
    for (found, (serial, revoked)) in listed.iter().zip(order.listed) {
        ensure(found.serial().to_bytes_be() == serial.as_bytes(), "entries")?;
        ensure(Some(found.revocation_date.timestamp()) == at(revoked.revoked_at), "entries")?;
    }
    let mut points =
        list.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(found) => Some((extension.critical, found)),
            _ => None,
        });
    let (critical, found) = points.next().ok_or("issuing distribution point")?;
    let named = match &found.distribution_point {
        Some(DistributionPointName::FullName(names)) => names.as_slice(),
        _ => &[],
    };
    let holds = critical
        && named == [GeneralName::URI(order.uri)]
        && found.only_contains_user_certs
        && !found.indirect_crl;
    ensure(holds, "issuing distribution point")?;
    let signed = verifies(point, list.tbs_cert_list.as_ref(), &list.signature_value.data);
    ensure(settle(signed), "signature")
}

fn verifies(point: &[u8], message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let mut context = BigNumContext::new()?;
    let point = EcPoint::from_bytes(&group, point, &mut context)?;
    let key = PKey::from_ec_key(EcKey::from_public_key(&group, &point)?)?;
    Verifier::new(MessageDigest::sha256(), &key)?.verify_oneshot(signature, message)
}
