//! What an operator sees for a wrong file: each case is a mistake and the exact line that is printed, because
//! these lines are the product. The last part feeds arbitrary text: nothing may panic.

use proptest::prelude::*;
use stoq_config::{Config, ConfigErrors, FILE_BYTES_MAX, LoadError, ROWS_MAX};

fn errors(text: &str) -> Vec<String> {
    let errors = Config::parse("stoqd.toml", text).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn one(text: &str, expected: &str) {
    assert_eq!(errors(text), [expected], "{text}");
}

#[test]
fn unknown_names_offer_the_nearest() {
    one(
        "[transport]\npacin = true\n",
        "stoqd.toml:2:1: transport.pacin: unknown key; did you mean \"pacing\"?",
    );
    one("[trasport]\n", "stoqd.toml:1:2: trasport: unknown section; did you mean \"transport\"?");
    one(
        "[log]\n\n  zzzzzzzz = 1\n",
        "stoqd.toml:3:3: log.zzzzzzzz: unknown key; known here: format, filter",
    );
    one(
        "[[peer]]\nnode = \"b\"\naddress = \"[::1]:1\"\nport = 3\n",
        "stoqd.toml:4:1: peer.port: unknown key; known here: node, address",
    );
}

#[test]
fn wrong_types_and_numbers_outside_the_limits_are_refused() {
    one(
        "[transport]\npacing = \"yes\"\n",
        "stoqd.toml:2:10: transport.pacing: a value of type string does not belong here; \
         write true or false, without quotes",
    );
    one(
        "[transport]\nmax_udp_payload_bytes = 65000\n",
        "stoqd.toml:2:25: transport.max_udp_payload_bytes: 65000 lies outside the limits; \
         write a whole number from 1200 to 16383",
    );
    one(
        "[limits]\naccept_backlog = 99999999999999999999\n",
        "stoqd.toml:2:18: limits.accept_backlog: the number does not fit 64 bits; \
         write a smaller number",
    );
    one(
        "[limits]\naccept_backlog = 1.5\n",
        "stoqd.toml:2:18: limits.accept_backlog: no key holds a value of type float; \
         see `stoqctl config explain` for what the key holds",
    );
    one(
        "node = 3\n",
        "stoqd.toml:1:1: node: a value of type integer stands here; \
         write a section that starts with [node]",
    );
    one(
        "[service]\nname = \"a\"\n",
        "stoqd.toml:1:2: service: this section may occur several times and is written as a list; \
         write [[service]] with two brackets on each side",
    );
    one(
        "[workers]\nio = \"epoll\"\n",
        "stoqd.toml:2:6: workers.io: \"epoll\" is not a choice; \
         write \"auto\" or \"io_uring\" or \"system_calls\"",
    );
}

#[test]
fn addresses_names_and_paths_are_parsed() {
    one(
        "[listen]\nstoq = \"0.0.0.0:8444\"\n",
        "stoqd.toml:2:8: listen.stoq: \"0.0.0.0:8444\" is an IPv4 address and this product speaks \
         IPv6 only; write an IPv6 address such as \"[::1]:8080\"",
    );
    one(
        "[node]\nname = \"Alpha.example\"\n",
        "stoqd.toml:2:8: node.name: \"Alpha.example\" is not a name: a name holds only a-z, 0-9 \
         and '-', not 'A'; write one word such as \"alpha\"",
    );
    one(
        "[node]\nstate_directory = \"../x\"\n",
        "stoqd.toml:2:19: node.state_directory: \"../x\" is not an absolute path; \
         write \"unix:/path\" with every directory from the root",
    );
    one(
        "[node]\nroles = [\"stoq\", \"stok\"]\n",
        "stoqd.toml:2:9: node.roles: \"stok\" is not a choice; \
         write stoq or trustchain or integration",
    );
    one(
        "[workers]\ncores = [1, 2, 1]\n",
        "stoqd.toml:2:9: workers.cores: processor 1 is named twice; \
         name each processor once: two workers on one only take turns",
    );
}

#[test]
fn a_cluster_beyond_this_host_is_encrypted_and_proves_itself() {
    one(
        "[store.etcd]\nendpoints = [\"[2001:db8::1]:2379\"]\n",
        "stoqd.toml:2:1: store.etcd.endpoints: [2001:db8::1]:2379 is not of this host, and nothing is \
         encrypted; name ca, certificate and key in [store.etcd]",
    );
    one(
        "[store.etcd]\nendpoints = [\"[::1]:2379\"]\nca = \"/etc/ca.pem\"\nkey = \"/etc/c.key\"\n",
        "stoqd.toml:3:1: store.etcd.ca: store.etcd.certificate is not named; \
         name ca, certificate and key, or none of the three",
    );
    one(
        "[store.etcd]\nendpoints = [\"[::1]:2379\"]\nserver_name = \"etcd.example\"\n",
        "stoqd.toml:3:1: store.etcd.server_name: without TLS no name is checked; \
         name ca, certificate and key in [store.etcd]",
    );
    one(
        "[store.etcd]\nendpoints = [\"etcd.example:2379\"]\n",
        "stoqd.toml:2:13: store.etcd.endpoints: \"etcd.example:2379\" is no IPv6 address and names are \
         not looked up here; write \"[address]:port\" such as \"[::1]:8080\"",
    );
    one(
        "[store.etcd]\nendpoint = []\n",
        "stoqd.toml:2:1: store.etcd.endpoint: unknown key; did you mean \"endpoints\"?",
    );
    one(
        "[store.sqlite]\n",
        "stoqd.toml:1:8: store.sqlite: unknown section; known here: node, listen, workers, transport, \
         limits, copy, trust, hypermesh, store.etcd, log, service, attachment, peer, pin",
    );
    one(
        "store = 1\n",
        "stoqd.toml:1:1: store: a value of type integer stands here; \
         write a section that starts with [store]",
    );
    let good = "[store.etcd]\nendpoints = [\"[2001:db8::1]:2379\", \"[2001:db8::2]:2379\"]\n\
                ca = \"/etc/ca.pem\"\ncertificate = \"/etc/c.pem\"\nkey = \"/etc/c.key\"\n";
    let config = Config::parse("stoqd.toml", good).unwrap();
    assert!(config.store.etcd.tls().is_some() && config.store.etcd.endpoints.len() == 2);
    assert_eq!(Config::parse("again", &config.effective_toml()).unwrap(), config);
}

#[test]
fn what_is_set_for_no_network_is_a_mistake() {
    one(
        "[hypermesh]\nclients = \"any-enrolled\"\n",
        "stoqd.toml:2:1: hypermesh.clients: there is nothing to ask this node for; \
         set hypermesh.enabled, or leave hypermesh.clients at nobody",
    );
    one(
        "[hypermesh]\nenabled = true\ngenesis = \"/etc/genesis.toml\"\npolicy = \"test\"\n",
        "stoqd.toml:4:1: hypermesh.policy: hypermesh.genesis names the policies of its network; \
         name policies in the genesis, or remove one of the two",
    );
    let good = "[hypermesh]\nenabled = true\nclients = \"any-enrolled\"\nissuance = \"refuse\"\n";
    let config = Config::parse("stoqd.toml", good).unwrap();
    assert_eq!(Config::parse("again", &config.effective_toml()).unwrap(), config);
}

#[test]
fn rows_are_complete_and_do_not_collide() {
    one(
        "[[service]]\nname = \"web\"\n",
        "stoqd.toml:1:1: service.to: this [[service]] has no \"to\"; \
         write a text such as \"[::1]:8080\"",
    );
    let web = "[[service]]\nname = \"web\"\nto = \"[::1]:80\"\n";
    one(
        &format!("{web}{web}"),
        "stoqd.toml:5:1: service.name: \"web\" stands in row 1 of [[service]] already; \
         remove one of the two rows",
    );
    one(
        "[[service]]\nname = \"copy\"\nto = \"[::1]:80\"\n",
        "stoqd.toml:2:1: service.name: \"copy\" is a built-in service; choose another name",
    );
    one(
        "[[attachment]]\nservice = \"web@beta\"\nlisten = \"[::]:80\"\n",
        "stoqd.toml:3:1: attachment.listen: [::]:80 could be reached by other hosts, which would \
         be given this node's identity without proving their own; \
         listen at \"[::1]:port\" or \"unix:/path\"",
    );
    one(
        "[node]\nname = \"a\"\n[[peer]]\nnode = \"a\"\naddress = \"[::1]:1\"\n",
        "stoqd.toml:4:1: peer.node: \"a\" is this node's own name; \
         name another node, or remove the row",
    );
    // Two attachments at port 0 get two ports.
    let any = "[[attachment]]\nservice = \"web@beta\"\nlisten = \"[::1]:0\"\n";
    assert_eq!(Config::parse("x", &format!("{any}{any}")).unwrap().attachments.len(), 2);
}

#[test]
fn rules_between_keys_point_at_a_key_of_the_file() {
    one(
        "[transport]\nkeep_alive_ms = 30_000\n",
        "stoqd.toml:2:1: transport.keep_alive_ms: transport.keep_alive_ms is 30000 and \
         transport.idle_timeout_ms is 30000; transport.keep_alive_ms must be less than \
         transport.idle_timeout_ms",
    );
    one(
        "[copy]\nallow = \"any-enrolled\"\n",
        "stoqd.toml:2:1: copy.allow: nodes are named and no directory is open to them; \
         name directories in copy.roots, or remove copy.allow",
    );
    one(
        "[workers]\nreceive_buffers = 65\n",
        "stoqd.toml:2:1: workers.receive_buffers: 65 is not a power of two; \
         the kernel's buffer ring needs one: write 8, 16, 32, 64 and so on",
    );
    one(
        "[listen]\nmetrics = \"[::1]:8443\"\n",
        "stoqd.toml:2:1: listen.metrics: [::1]:8443 is the address of listen.enrollment; \
         give each its own port",
    );
}

#[test]
fn pins_are_strict_and_have_a_backup() {
    let pin = |digit: &str| format!("\"spki-sha256:{}\"", digit.repeat(64));
    let trust = |pins: &str| format!("[trust]\nissuing_pins = [{pins}]\n");
    one(
        &trust(&pin("1")),
        "stoqd.toml:2:16: trust.issuing_pins: there is no backup: when the one key is lost or stolen, \
         no node could follow to another; make the next key now, keep it offline, and pin it too",
    );
    let twice = errors(&trust(&format!("{0}, {0}", pin("1"))));
    assert!(twice[0].ends_with("stands there twice; write each pin once"), "{twice:?}");
    let fingerprint = pin("1").replace("spki-", "");
    let wrong = errors(&trust(&format!("{fingerprint}, {}", pin("2"))));
    assert!(wrong[0].starts_with("stoqd.toml:2:16: trust.issuing_pins: \"sha256:11"), "{wrong:?}");
    assert!(wrong[0].contains("is no pin; write \"spki-sha256:\""), "{wrong:?}");
    let row = format!("[[pin]]\nnode = \"beta\"\nkeys = [{}, {}]\n", pin("1"), pin("2"));
    let config = Config::parse("x", &row).unwrap();
    assert_eq!(config.pins[0].keys, [[0x11; 32], [0x22; 32]].into());
    one(
        &format!("{row}{row}"),
        "stoqd.toml:5:1: pin.node: \"beta\" stands in row 1 of [[pin]] already; \
         remove one of the two rows",
    );
    one(
        "[[pin]]\nnode = \"beta\"\nkeys = []\n",
        "stoqd.toml:3:1: pin.keys: without a pin the node would be refused whatever it shows; \
         write two pins at least, or remove the row",
    );
    let alone = errors(&format!("[[pin]]\nnode = \"beta\"\nkeys = [{}]\n", pin("1")));
    assert!(alone[0].starts_with("stoqd.toml:3:1: pin.keys: there is no backup"), "{alone:?}");
}

#[test]
fn every_mistake_is_reported_in_the_order_of_the_file_and_their_number_is_bounded() {
    let found = errors("[log]\nformat = 1\nfilter = 2\n[node]\nname = \"\"\n");
    let lines: Vec<&str> = found.iter().map(|e| e.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["2", "3", "5"]);
    let many: String = (0..500).map(|n| format!("k{n} = 1\n")).collect();
    assert_eq!(errors(&many).len(), ConfigErrors::MAX);
}

#[test]
fn syntax_errors_have_a_place_and_names_are_shown_without_control_characters() {
    let found = errors("[node]\nname = \n");
    assert!(found[0].starts_with("stoqd.toml:2:"), "{found:?}");
    assert!(found[0].contains(": syntax: "), "{found:?}");
    let twice = errors("[log]\nformat = \"json\"\nformat = \"json\"\n");
    assert!(twice[0].starts_with("stoqd.toml:3:1: syntax: "), "{twice:?}");
    let coloured = errors("[log]\n\"\\u001b[31m\" = 1\n");
    assert!(!coloured[0].contains('\u{1b}'), "{coloured:?}");
}

#[test]
fn a_file_is_read_within_its_limits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stoqd.toml");
    let missing = Config::read(&path).unwrap_err();
    assert!(matches!(missing, LoadError::Read { .. }), "{missing}");
    std::fs::write(&path, "[log]\nformat = \"json\"\n").unwrap();
    assert!(Config::read(&path).is_ok());
    std::fs::write(&path, b"[log]\n# \xff\n").unwrap();
    let binary = Config::read(&path).unwrap_err().to_string();
    assert!(binary.ends_with(":2:3: file: this is not UTF-8; save the file as UTF-8"), "{binary}");
    std::fs::write(&path, "#".repeat(FILE_BYTES_MAX)).unwrap();
    assert!(Config::read(&path).is_ok());
    std::fs::write(&path, "#".repeat(FILE_BYTES_MAX + 1)).unwrap();
    assert!(Config::read(&path).unwrap_err().to_string().contains("longer than"));
    let rows: String = (0..=ROWS_MAX)
        .map(|n| format!("[[peer]]\nnode = \"n{n}\"\naddress = \"[::1]:1\"\n"))
        .collect();
    std::fs::write(&path, rows).unwrap();
    assert!(Config::read(&path).unwrap_err().to_string().contains("more than 4096 rows"));
}

#[test]
fn deep_nesting_ends_in_an_error() {
    let deep = format!("[node]\nroles = {}{}\n", "[".repeat(50_000), "]".repeat(50_000));
    assert!(errors(&deep)[0].contains("stoqd.toml:2:"));
}

/// Lines of a plausible file, so that the search reaches past the TOML parser
fn line() -> impl Strategy<Value = String> {
    let keys = Config::keys();
    let name = prop_oneof![
        (0..keys.len()).prop_map(move |n| keys[n].clone()),
        "[a-z_]{1,8}\\.[a-z_]{1,8}"
    ];
    let value = prop_oneof![
        Just("\"auto\"".to_owned()),
        Just("\"any-enrolled\"".to_owned()),
        Just("[\"stoq\"]".to_owned()),
        Just("[::1]:1".to_owned()),
        "\"[a-z0-9:/@.\\[\\]]{0,20}\"",
        any::<i64>().prop_map(|n| n.to_string()),
        (0i64..100_000).prop_map(|n| n.to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        Just("[1, 2]".to_owned()),
        Just("{ a = 1 }".to_owned()),
    ];
    prop_oneof![
        4 => (name, value).prop_map(|(name, value)| format!("{name} = {value}")),
        1 => Just("[[service]]\nname = \"w\"\nto = \"unix:/w\"".to_owned()),
        1 => Just("[[peer]]".to_owned()),
    ]
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _outcome = Config::parse("x", &text);
    }

    #[test]
    fn no_plausible_file_panics_and_what_is_accepted_can_be_written_back(
        lines in prop::collection::vec(line(), 0..8)
    ) {
        let text = lines.join("\n");
        match Config::parse("x", &text) {
            Ok(config) => {
                let written = config.effective_toml();
                prop_assert_eq!(Config::parse("written", &written).unwrap(), config);
            }
            Err(errors) => {
                let last = text.lines().count().max(1) + 1;
                for error in &errors {
                    prop_assert!(error.line >= 1 && error.line <= last, "{}", error);
                    prop_assert!(!error.reason.is_empty() && !error.remedy.is_empty());
                }
            }
        }
    }

    #[test]
    fn addresses_and_rates_never_panic(text in ".{0,60}") {
        let _target = text.parse::<stoq_config::Target>();
        let _service = text.parse::<stoq_config::ServiceAddress>();
        let _rate = text.parse::<stoq_config::Throughput>();
        let _name = stoq_config::node_name_from_host_name(&text);
        let _text = Config::explain(&text);
    }
}

#[test]
fn a_full_file_is_written_back_as_it_was() {
    let text = r#"
[node]
name = "alpha"
state_directory = "/srv/stoq"
roles = ["stoq"]
[listen]
enrollment = "off"
metrics = "off"
[workers]
cores = [0, 2]
io = "system_calls"
[transport]
congestion_control = "bbr2"
pacing = true
[trust]
root_pins = [
    "spki-sha256:aa11111111111111111111111111111111111111111111111111111111111111",
    "spki-sha256:0011111111111111111111111111111111111111111111111111111111111111",
]
[copy]
roots = ["/srv/data", "/srv/it's \"quoted\""]
allow = ["beta", "gamma"]
[log]
format = "json"
[[service]]
name = "web"
to = "unix:/run/web.sock"
[[service]]
name = "ssh"
to = "[::1]:22"
allow = "any-enrolled"
[[attachment]]
service = "db@beta"
listen = "[::1]:5432"
[[peer]]
node = "beta"
address = "[2001:db8::2]:8444"
[[pin]]
node = "beta"
keys = [
    "spki-sha256:aa22222222222222222222222222222222222222222222222222222222222222",
    "spki-sha256:0022222222222222222222222222222222222222222222222222222222222222",
]
"#;
    let config = Config::parse("full", text).unwrap();
    let again = Config::parse("written", &config.effective_toml()).unwrap();
    assert_eq!(again, config);
    assert_eq!(config.diff(&again), []);
    assert_ne!(config, Config::default());
}
