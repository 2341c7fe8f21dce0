//! Calls that only read: the deny-list, the log and how the authority is.

use std::sync::Arc;
use std::time::Duration;

use stoq_interface::CallStatus;

use super::answer::Answer;
use super::desk::{Call, PART_LIMIT_BYTES, Read, part};
use super::wire;
use crate::certificate::unhex;
use crate::certificate::unix_seconds;
use crate::log::serve::Served;
use crate::log::tile::PATH_LIMIT_BYTES;
use crate::revocation::Publication;

/// How long a call may wait for the checkpoint that covers its entry; one is published each second
const PROOF_PATIENCE: Duration = Duration::from_secs(3);
/// When to ask again for a proof that is not there yet, and for a place among the calls that wait
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Octets of the longest path of a published file: `issuer/` and a SHA-256 in digits
const FILE_PATH_LIMIT_BYTES: usize = if PATH_LIMIT_BYTES > 128 { PATH_LIMIT_BYTES } else { 128 };

impl Call<'_> {
    /// `trustchain/deny-list`
    pub(super) async fn deny_list(
        &self,
        request: Read<wire::DenyListRequest>,
    ) -> Result<Answer, Answer> {
        let request = request?;
        let mut lists = self.shared.parts.revocations.deny_list();
        let known = |list: &Option<Arc<Publication>>| {
            list.clone().filter(|list| list.epoch > request.after_epoch)
        };
        let mut found = known(&lists.borrow_and_update());
        if found.is_none() {
            let _place = self.hold().ok_or_else(|| Answer::busy(ASK_AGAIN))?;
            let newer = lists.wait_for(|list| known(list).is_some());
            if let Ok(Ok(list)) = tokio::time::timeout_at(self.deadline, newer).await {
                found = known(&list);
            }
        }
        let Some(list) = found else {
            // Nothing new; or the authority stops, which the next call will hear of.
            let epoch = lists.borrow().as_ref().map_or(0, |list| list.epoch);
            return Ok(Answer::ok(&wire::DenyListReply { epoch, part: Vec::new(), total: 0 }));
        };
        // Who has the one before needs only the difference. An epoch of its own per document would let a list
        // that changes while it is fetched be put together of two: then it begins anew.
        let follows = request.after_epoch > 0 && request.after_epoch + 1 == list.epoch;
        let document = if follows { &list.delta } else { &list.full };
        let offset = if request.epoch == list.epoch { request.offset } else { 0 };
        let (part, total) = (part(document, offset)?, document.len() as u64);
        Ok(Answer::ok(&wire::DenyListReply { epoch: list.epoch, part, total }))
    }

    /// `trustchain/checkpoint`
    pub(super) fn checkpoint(
        &self,
        request: Read<wire::CheckpointRequest>,
    ) -> Result<Answer, Answer> {
        let wire::CheckpointRequest {} = request?;
        let head = self.shared.parts.ca.checkpoint();
        let note = head.borrow().as_ref().map(|head| head.note().as_bytes().to_vec());
        let note = note.ok_or_else(|| Answer::busy(ASK_AGAIN))?;
        Ok(Answer::ok(&wire::CheckpointReply { note }))
    }

    /// `trustchain/tile`
    pub(super) async fn tile(&self, request: Read<wire::TileRequest>) -> Result<Answer, Answer> {
        let wire::TileRequest { path, offset } = request?;
        let absent =
            || Answer::refused(CallStatus::Invalid, "not_found", "the log has no such file");
        if path.len() > FILE_PATH_LIMIT_BYTES {
            return Err(absent());
        }
        let read = self.reading(move |ca| ca.log_file(&path)).await?;
        let served = read.map_err(|refusal| Answer::of_refusal(&refusal))?;
        let Served { bytes, .. } = served.ok_or_else(absent)?;
        let (part, total) = (part(&bytes, offset)?, bytes.len() as u64);
        Ok(Answer::ok(&wire::TileReply { part, total }))
    }

    /// `trustchain/proof`
    pub(super) async fn proof(&self, request: Read<wire::ProofRequest>) -> Result<Answer, Answer> {
        let ca = &self.shared.parts.ca;
        let index = request?.leaf_index;
        if index >= ca.status().log_entries {
            let message = "the log has no entry with this index";
            return Err(Answer::refused(CallStatus::Invalid, "not_found", message));
        }
        let left = self.deadline.saturating_duration_since(tokio::time::Instant::now());
        let proof = ca.inclusion_proof(index, left.min(PROOF_PATIENCE)).await;
        let proof = proof.map_err(|refusal| Answer::of_refusal(&refusal))?;
        let bundle = proof.ok_or_else(|| Answer::busy(ASK_AGAIN))?.encode().into_bytes();
        Ok(Answer::ok(&wire::ProofReply { bundle }))
    }

    /// `trustchain/issuing-keys`
    pub(super) fn issuing_keys(
        &self,
        request: Read<wire::IssuingKeysRequest>,
    ) -> Result<Answer, Answer> {
        let wire::IssuingKeysRequest {} = request?;
        let keys = self.shared.parts.ca.issuing_keys().into_iter();
        let accepted = keys.filter(|key| key.record.state.accepts_leaves());
        let certificates = accepted.map(|key| key.certificate_der).collect();
        Ok(Answer::ok(&wire::IssuingKeysReply { certificates }))
    }

    /// `trustchain/authorities`
    pub(super) fn authorities(
        &self,
        request: Read<wire::AuthoritiesRequest>,
    ) -> Result<Answer, Answer> {
        let wire::AuthoritiesRequest {} = request?;
        let mut room = PART_LIMIT_BYTES;
        let signed = self.shared.parts.known.signed().into_iter().map(|(_, signed)| signed);
        let statements = signed.take_while(|one| {
            room = room.saturating_sub(one.len());
            room > 0
        });
        Ok(Answer::ok(&wire::AuthoritiesReply { statements: statements.collect() }))
    }

    /// `trustchain/status`
    pub(super) fn status(&self, request: Read<wire::StatusRequest>) -> Result<Answer, Answer> {
        let wire::StatusRequest {} = request?;
        let status = self.shared.parts.ca.status();
        let list = self.shared.parts.revocations.deny_list();
        let deny_list_epoch = list.borrow().as_ref().map_or(0, |list| list.epoch);
        Ok(Answer::ok(&wire::StatusReply {
            instance: status.instance.to_string(),
            not_issuing: status.not_issuing.unwrap_or_default(),
            root_sha256: status.root.as_bytes().to_vec(),
            // What the authority wrote as digits
            issuing_key_id: unhex(&status.issuing_key_id).unwrap_or_default(),
            issuing_not_after: unix_seconds(status.issuing_not_after),
            issued: status.issued,
            log_entries: status.log_entries,
            log_published: status.log_published,
            deny_list_epoch,
            authority_time_ms: self.authority_time_ms(),
        }))
    }
}
