//! What a running authority says of itself, as a policy document: written to the journal when it says something
//! new, and so in the records, where authorities that share them find it.

use std::net::SocketAddrV6;

use super::api::Refusal;
use super::entry::{Entry, PolicyStored};
use super::service::Service;
use crate::certificate::unix_seconds;
use crate::mesh::{AuthorityStatement, POLICY_PREFIX};

impl Service {
    /// The signed statement in force; a new one where the last does not say this
    pub(super) async fn state_itself(
        &self,
        stoq_address: Option<SocketAddrV6>,
    ) -> Result<Vec<u8>, Refusal> {
        let now = self.now();
        let authority = self.authority();
        let others = self.issuing_keys().into_iter();
        let others = others
            .filter(|key| key.record.state.accepts_leaves() && key.key_id != authority.key_id());
        let statement = AuthorityStatement {
            instance: self.instance().clone(),
            issuing_der: authority.certificate_der().to_vec(),
            other_ders: others.map(|key| key.certificate_der).collect(),
            log_spki_der: self.log().spki_der().to_vec(),
            log_origin: self.log().origin().to_owned(),
            stoq_address,
            stated_at: unix_seconds(now),
        };
        let name = format!("{POLICY_PREFIX}{}", self.instance());
        let before = self.shared().state().policy(&name);
        let version = match before {
            None => 1,
            Some((version, signed)) => {
                let last = AuthorityStatement::open(&signed, authority.root_der(), now);
                if last.is_ok_and(|last| last.says_the_same_as(&statement)) {
                    return Ok(signed);
                }
                version + 1
            }
        };
        let body = statement.sign(authority.signer(), authority.key().name()).await?;
        let stored =
            PolicyStored { name, version, body: body.clone(), stored_at: unix_seconds(now) };
        self.append_any(vec![Entry::Policy(stored)]).await?;
        Ok(body)
    }
}
