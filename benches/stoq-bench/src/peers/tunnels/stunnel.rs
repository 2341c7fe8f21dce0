//! stunnel at either end: a client that verifies its server, a server that verifies its client.
//! Everything that is not named here is its default.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::Path;

use super::{Ends, IdentityFiles, Running, identity_files, write};
use crate::peers::program::{Program, RunError};

/// The configuration of one end
fn configuration(client: bool, accept: &str, connect: &str, files: &IdentityFiles) -> String {
    let yes = if client { "yes" } else { "no" };
    format!(
        "foreground = yes\npid =\nsyslog = no\ndebug = err\n[bench]\nclient = {yes}\n\
         accept = {accept}\nconnect = {connect}\ncert = {}\nkey = {}\nCAfile = {}\n\
         verifyChain = yes\nsslVersionMin = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\n",
        files.certificate.display(),
        files.key.display(),
        files.authority.display(),
    )
}

/// Starts both ends
pub(super) async fn start(
    program: &Path,
    ends: &Ends<'_>,
    running: &mut Running,
) -> Result<(), RunError> {
    let [near, far] = ends.sites;
    let (entry, between) = (near.free_port()?, far.free_port()?);
    // It takes the last colon for the port's, and no brackets.
    let bare = |port| format!("{}:{port}", Ipv6Addr::LOCALHOST);
    let service = format!("{}:{}", ends.service.ip(), ends.service.port());
    let texts = [
        configuration(true, &bare(entry), &bare(between), &identity_files(ends.plan, 0)),
        configuration(false, &bare(between), &service, &identity_files(ends.plan, 1)),
    ];
    let sides = [(near, "sender", entry), (far, "receiver", between)];
    for ((site, side, port), text) in sides.into_iter().zip(texts).rev() {
        let path = ends.directory.join(format!("{side}.conf"));
        write(&path, &text)?;
        let mut command = site.command(program);
        command.arg(&path);
        let mut started = Program::start(&format!("stunnel at the {side}'s side"), command)?;
        started.wait_listening(port).await?;
        if side == "sender" { &mut running.near } else { &mut running.far }.push(started);
    }
    running.entry = Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, entry, 0, 0));
    running.counted = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_end_verifies_the_other_and_speaks_one_cipher_suite() {
        let files = IdentityFiles {
            authority: "/i/authority.pem".into(),
            certificate: "/i/node.pem".into(),
            key: "/i/node.key".into(),
        };
        for client in [true, false] {
            let text = configuration(client, "::1:1", "::1:2", &files);
            for line in ["verifyChain = yes", "ciphersuites = TLS_AES_128_GCM_SHA256"] {
                assert!(text.lines().any(|one| one == line), "{line}: {text}");
            }
            assert_eq!(text.contains("client = yes"), client);
            assert!(
                text.contains("CAfile = /i/authority.pem\n") && text.contains("accept = ::1:1\n")
            );
        }
    }
}
