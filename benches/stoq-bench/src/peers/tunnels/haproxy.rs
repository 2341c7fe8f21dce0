//! HAProxy at either end, in TCP mode: the sender's side speaks TLS to the receiver's, which asks
//! for a certificate. Everything that is not named here is its default, but for one thread: each
//! side has one core.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::Path;

use super::{Ends, Running, identity_files, socket, write};
use crate::peers::program::{Program, RunError};

const SUITE: &str = "ciphersuites TLS_AES_128_GCM_SHA256";

/// Octets of an IPv6 and a TCP header, less those of IPv6 and UDP
const BEYOND_UDP_BYTES: u64 = 12;

/// The configuration of one end; `tls` stands on the side that faces the other end
fn configuration(
    client: bool,
    [accept, connect]: [&str; 2],
    crt: &Path,
    authority: &Path,
    segment_bytes: u64,
) -> String {
    let tls = format!(
        "ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.3 {SUITE}",
        crt.display(),
        authority.display()
    );
    let faced = format!("mss {segment_bytes} {tls}");
    let (bind, server) = if client { ("", tls.as_str()) } else { (faced.as_str(), "") };
    format!(
        "global\n  nbthread 1\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend entry\n  bind {accept} {bind}\n  default_backend exit\n\
         backend exit\n  server other {connect} {server}\n"
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
    let local = |port| socket(Ipv6Addr::LOCALHOST, port);
    let service = socket(*ends.service.ip(), ends.service.port());
    let sides =
        [(far, 1, "receiver", between, service), (near, 0, "sender", entry, local(between))];
    for (site, index, side, port, connect) in sides {
        let files = identity_files(ends.plan, index);
        // It wants a certificate and its key in one file.
        let crt = ends.directory.join(format!("{side}.pem"));
        let bundle = &ends.plan.bundles[1 - index];
        write(&crt, &format!("{}{}", bundle.certificate_pem, bundle.key_pem))?;
        let text = configuration(
            index == 0,
            [&local(port), &connect],
            &crt,
            &files.authority,
            ends.plan.payload - BEYOND_UDP_BYTES,
        );
        let path = ends.directory.join(format!("{side}.cfg"));
        write(&path, &text)?;
        let mut command = site.command(program);
        command.args(["-db", "-q", "-f"]).arg(&path);
        let mut started = Program::start(&format!("haproxy at the {side}'s side"), command)?;
        started.wait_listening(port).await?;
        if index == 0 { &mut running.near } else { &mut running.far }.push(started);
    }
    running.entry = Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, entry, 0, 0));
    running.counted = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_stands_between_the_two_ends_and_verifies_both() {
        let (crt, authority) = (Path::new("/i/node.pem"), Path::new("/i/authority.pem"));
        let of = |client| configuration(client, ["[::1]:1", "[::1]:2"], crt, authority, 1_440);
        let tls_line = |text: &str| {
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(" ssl ")).collect();
            assert_eq!(lines.len(), 1, "{text}");
            assert!(lines[0].contains("verify required") && lines[0].contains(SUITE));
            lines[0].trim().to_owned()
        };
        assert!(tls_line(&of(true)).starts_with("server other [::1]:2 ssl crt /i/node.pem"));
        assert!(tls_line(&of(false)).starts_with("bind [::1]:1 mss 1440 ssl crt /i/node.pem"));
    }
}
