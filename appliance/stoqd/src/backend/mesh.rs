//! `stoqctl ca authorities | export | trust`, and the orders of operators on their way to an authority elsewhere.

use std::time::Duration;

use stoq_admin::api::{
    CaAuthorities, CaAuthoritiesListed, CaExport, CaExported, CaOperate, CaOperated, CaTrust,
    CaTrusted, KnownAuthority, ORDER_LABEL, REPLY_LABEL, STATEMENT_LABEL,
};
use stoq_admin::{ApiError, ExitCode, decode_pem, encode_pem};
use stoq_interface::CallStatus;
use stoq_trustchain::calls::{CallProblem, Client, REQUEST_LIMIT_BYTES};
use stoq_trustchain::mesh::{AuthorityStatement, StatementRefusal};

use super::Admin;
use super::authority::{broken, desk, hex};

/// Time an authority elsewhere may take to carry an order out
const ORDER_DEADLINE: Duration = Duration::from_secs(25);

fn shown(
    admin: &Admin,
    statement: &AuthorityStatement,
) -> Result<KnownAuthority, StatementRefusal> {
    let own = desk(admin).ok().map(|desk| desk.ca.instance().clone());
    Ok(KnownAuthority {
        instance: statement.instance.clone(),
        issuing_key_id: statement.key_id()?.to_string(),
        log_id: hex(&statement.log_key().log_id),
        address: statement.stoq_address,
        not_after: statement.trust_anchor()?.not_after,
        is_own: own.as_ref() == Some(&statement.instance),
    })
}

pub async fn list(admin: &Admin, _request: CaAuthorities) -> Result<CaAuthoritiesListed, ApiError> {
    let known = admin.0.known.all();
    let shown: Result<Vec<_>, _> = known.iter().map(|one| shown(admin, one)).collect();
    let mut authorities = shown.map_err(|error| broken("bad-authority", error))?;
    authorities.sort_by(|a, b| a.instance.cmp(&b.instance));
    Ok(CaAuthoritiesListed { authorities })
}

pub async fn export(admin: &Admin, _request: CaExport) -> Result<CaExported, ApiError> {
    let desk = desk(admin)?;
    let at = admin.0.endpoint.local_address();
    let at = Some(at).filter(|at| !at.ip().is_unspecified());
    let signed = desk.ca.state_itself(at).await;
    let signed = signed.map_err(|refusal| super::authority::refused(&refusal))?;
    let statement_pem = encode_pem(STATEMENT_LABEL, &signed);
    Ok(CaExported { instance: desk.ca.instance().clone(), statement_pem })
}

pub async fn trust(admin: &Admin, request: CaTrust) -> Result<CaTrusted, ApiError> {
    let bad = |why: String| {
        let remedy = "name what `stoqctl ca export` wrote on that authority's node";
        ApiError::usage("bad-statement", why, remedy)
    };
    let blocks = decode_pem(STATEMENT_LABEL, &request.statement_pem);
    let blocks = blocks.map_err(|error| bad(error.to_string()))?;
    let [signed] = blocks.as_slice() else {
        return Err(bad(format!("it holds {} statements", blocks.len())));
    };
    let refused = |refusal: StatementRefusal| match refusal {
        StatementRefusal::Malformed(_) => bad(refusal.to_string()),
        _ => ApiError::conflict(
            "authority-refused",
            refusal.to_string(),
            "only authorities whose certificate this node's own root has signed are trusted",
        ),
    };
    // Whoever follows what is known puts it into force.
    let is_news = admin.0.known.learn(signed, admin.0.clock.now()).map_err(refused)?;
    let root = admin.0.identities().identity.map(|one| one.root_der().to_vec());
    let root = root.unwrap_or_default();
    let statement = AuthorityStatement::open(signed, &root, admin.0.clock.now());
    let authority = statement.and_then(|statement| shown(admin, &statement));
    Ok(CaTrusted { authority: authority.map_err(refused)?, is_news })
}

pub async fn operate(admin: &Admin, request: CaOperate) -> Result<CaOperated, ApiError> {
    let bad = |why: String| ApiError::usage("bad-order", why, "give the command with `stoqctl`");
    let blocks = decode_pem(ORDER_LABEL, &request.order_pem);
    let blocks = blocks.map_err(|error| bad(error.to_string()))?;
    let [order] = blocks.as_slice() else {
        return Err(bad(format!("it holds {} orders", blocks.len())));
    };
    if order.len() > REQUEST_LIMIT_BYTES {
        return Err(bad(format!("it has {} octets", order.len())));
    }
    admin.0.refresh_enrolled();
    let session = admin.0.peers.session(&request.authority).await.map_err(|error| {
        ApiError::new(
            ExitCode::Unreachable,
            "authority-unreachable",
            error.to_string(),
            "see `stoqctl node list` for where it is looked for",
        )
    })?;
    let client = Client::new(session.calls(tokio::time::sleep));
    let reply = client.pass_on(order.clone(), ORDER_DEADLINE).await;
    let reply = reply.map_err(|problem| not_done(&problem))?;
    Ok(CaOperated { reply_pem: encode_pem(REPLY_LABEL, &reply) })
}

fn not_done(problem: &CallProblem) -> ApiError {
    let message = problem.to_string();
    match problem {
        CallProblem::Refused { status, code, .. } => {
            let exit = match status {
                CallStatus::Denied => ExitCode::Permission,
                CallStatus::Invalid => ExitCode::Usage,
                _ => ExitCode::Failed,
            };
            let remedy = "its audit log says more (`stoqctl audit tail` on its node)";
            ApiError {
                code: code.replace('_', "-").into(),
                ..ApiError::new(exit, "refused", message, remedy)
            }
        }
        CallProblem::Busy(after) => {
            ApiError::timed_out(message, format!("try again in {} s", after.as_secs().max(1)))
        }
        CallProblem::Unknown => ApiError::conflict(
            "no-authority",
            message,
            "name the node of an authority: `stoqctl ca authorities`",
        ),
        CallProblem::Deadline | CallProblem::Lost(_) | CallProblem::Malformed(_) => {
            ApiError::failed(
                "unanswered",
                message,
                "whether it was done, that authority's audit log says; give the command again",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_refuses_keeps_its_word_and_its_reason() {
        let refused = |status| {
            not_done(&CallProblem::Refused {
                status,
                code: "not_permitted".into(),
                message: "no".into(),
            })
        };
        let denied = refused(CallStatus::Denied);
        assert_eq!((&*denied.code, denied.exit_code), ("not-permitted", ExitCode::Permission));
        assert!(denied.message.contains("no"));
        assert_eq!(refused(CallStatus::Invalid).exit_code, ExitCode::Usage);
        assert_eq!(not_done(&CallProblem::Unknown).exit_code, ExitCode::Conflict);
        let busy = not_done(&CallProblem::Busy(Duration::from_millis(100)));
        assert_eq!(busy.exit_code, ExitCode::TimedOut);
    }
}
