use std::path::PathBuf;

use super::layers::secret_and_known;
use super::*;

fn env<const N: usize>(pairs: [(&str, &str); N]) -> std::vec::IntoIter<(String, String)> {
    let owned: Vec<_> = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    owned.into_iter()
}

/// A settings file with this content; deleted on drop.
struct TempConfigFile(PathBuf);

impl TempConfigFile {
    fn with(text: &str) -> Self {
        let name = format!("tancho-config-{}.toml", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TempConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn from_file(text: &str) -> Result<Settings, Error> {
    let file = TempConfigFile::with(text);
    Settings::load(Some(&file.0), env([]), &[])
}

fn from_env<const N: usize>(pairs: [(&str, &str); N]) -> Result<Settings, Error> {
    Settings::load(None, env(pairs), &[])
}

fn error_message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().message().to_owned()
}

#[test]
fn example_file_loads_and_contains_the_defaults() {
    // No field has a default in Rust and none is skipped, so a successful load proves that the file has every
    // field of `Settings`; unknown keys are rejected.
    let settings = Settings::defaults();
    assert_eq!(settings.api.listen.port(), 8080);
    assert_eq!(settings.api.max_upload_bytes, ByteSize(512 << 20));
    assert_eq!(settings.router.idle_timeout, Duration::from_secs(75));
    assert_eq!(
        settings.roles,
        [ServerRole::Api, ServerRole::Worker, ServerRole::Router]
    );
    assert!(settings.auth.is_registration_open(&settings.api));
    assert!(settings.services.allows_private_addresses(&settings.database));
}

#[test]
fn every_setting_of_the_example_has_a_comment_above_it() {
    let text = include_str!("../../config.example.toml");
    let lines: Vec<&str> = text.lines().collect();
    let mut seen = 0;
    for (at, line) in lines.iter().enumerate() {
        let is_setting = line
            .split_once(" = ")
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        if is_setting {
            seen += 1;
            assert!(lines[at - 1].starts_with("# "), "no comment above: {line}");
        }
    }
    assert_eq!(
        seen,
        secret_and_known().1.len(),
        "the example has a setting in an unexpected form"
    );
}

#[test]
fn no_two_keys_share_a_variable() {
    let (_, known) = secret_and_known();
    let names: std::collections::BTreeSet<_> = known.iter().map(|k| k.replace('.', "_")).collect();
    assert_eq!(names.len(), known.len());
}

#[test]
fn later_layer_takes_precedence() {
    let file = TempConfigFile::with(
        "[api]\nlisten = \"127.0.0.1:1\"\nmax_body_bytes = 2048\n[router]\ndomain = \"a.example\"\n",
    );
    let vars = [
        ("TANCHO_API_LISTEN", "127.0.0.1:2"),
        ("TANCHO_ROUTER_DOMAIN", "b.example"),
    ];
    let options = [("api.listen", toml::Value::from("127.0.0.1:3"))];
    let settings = Settings::load(Some(&file.0), env(vars), &options).unwrap();
    assert_eq!(settings.api.listen.port(), 3);
    assert_eq!(settings.router.domain, "b.example");
    assert_eq!(settings.api.max_body_bytes, ByteSize(2048));
}

#[test]
fn environment_names_the_file_and_an_option_takes_precedence() {
    let one = TempConfigFile::with("[quota]\napps_per_user = 1\n");
    let two = TempConfigFile::with("[quota]\napps_per_user = 2\n");
    let vars = || env([("TANCHO_CONFIG", one.0.to_str().unwrap())]);
    assert_eq!(Settings::load(None, vars(), &[]).unwrap().quota.apps_per_user, 1);
    assert_eq!(
        Settings::load(Some(&two.0), vars(), &[])
            .unwrap()
            .quota
            .apps_per_user,
        2
    );
}

#[test]
fn variables_are_read_by_the_type_of_their_key() {
    let settings = from_env([
        ("TANCHO_ROLES", "api, worker"),
        ("TANCHO_ROUTER_TRUST_FORWARDED", "true"),
        ("TANCHO_QUOTA_UNITS_PER_APP", "-1"),
        ("TANCHO_API_MAX_BODY_BYTES", "4096"),
        ("TANCHO_API_TRUSTED_PROXIES", "10.0.0.0/8,::1"),
        ("TANCHO_BUILDS_PASS_ENVIRONMENT", ""),
        ("TANCHO_SERVICES_ALLOW_PRIVATE_ADDRESSES", "no"),
        ("TANCHO_ADMIN_EMAIL", "ana@example.org"),
        ("DATABASE_URL", "postgres://a/b"),
        ("UNRELATED", "x"),
    ])
    .unwrap();
    assert_eq!(settings.roles, [ServerRole::Api, ServerRole::Worker]);
    assert!(settings.router.trust_forwarded);
    assert_eq!(settings.api.max_body_bytes, ByteSize(4096));
    assert_eq!(settings.api.trusted_proxies.len(), 2);
    assert!(settings.builds.pass_environment.is_empty());
    assert!(!settings.services.allows_private_addresses(&settings.database));
    assert_eq!(settings.database.url.expose_secret(), "postgres://a/b");
}

#[test]
fn the_exact_variable_wins_over_database_url() {
    let vars = [
        ("DATABASE_URL", "postgres://a/b"),
        ("TANCHO_DATABASE_URL", "postgres://c/d"),
    ];
    assert_eq!(
        from_env(vars).unwrap().database.url.expose_secret(),
        "postgres://c/d"
    );
    assert!(from_env([("DATABASE_URL", "")]).unwrap().database.is_managed());
}

#[test]
fn unknown_key_error_names_the_most_similar_known_key() {
    for (text, wrong, near) in [
        ("[api]\nlisten_on = \"x\"", "`api.listen_on`", "`api.listen`"),
        ("[aps]\nlog_lines = 1", "`aps.log_lines`", "`apps.log_lines`"),
        ("domain = \"x\"", "`domain`", "`router.domain`"),
        ("[api]\ntoken_days = 1", "`api.token_days`", "`auth.token_days`"),
        ("[api.listen]\nport = 1", "`api.listen.port`", "`api.listen`"),
    ] {
        let words = error_message(from_file(text));
        assert!(words.contains(wrong) && words.contains(near), "{words}");
    }
    let words = error_message(from_env([("TANCHO_ROUTER_DOMIAN", "x")]));
    assert!(
        words.contains("TANCHO_ROUTER_DOMIAN") && words.contains("TANCHO_ROUTER_DOMAIN"),
        "{words}"
    );
}

#[test]
fn kubernetes_service_variables_are_not_taken_for_settings() {
    let vars = [
        ("TANCHO_SERVICE_HOST", "10.0.0.1"),
        ("TANCHO_SERVICE_PORT_HTTP", "80"),
        ("TANCHO_PORT", "tcp://10.0.0.1:80"),
        ("TANCHO_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    assert!(from_env(vars).is_ok());
}

#[test]
fn wrong_type_error_names_the_key_and_the_expected_type() {
    for (text, key, expected) in [
        ("[api]\nlisten = 8080", "`api.listen`", "a string"),
        ("[api]\nlisten = \"8080\"", "`api.listen`", "127.0.0.1:8080"),
        (
            "[api]\nmax_body_bytes = \"much\"",
            "`api.max_body_bytes`",
            "use a number of bytes",
        ),
        (
            "[router]\npublic_port = 70000",
            "`router.public_port`",
            "from 0 to 65535",
        ),
        (
            "[router]\ndrain_seconds = -1",
            "`router.drain_seconds`",
            "a number of seconds",
        ),
        (
            "[router]\nmax_connections = -1",
            "`router.max_connections`",
            "0 or more",
        ),
        (
            "[ssh]\nreplica_address = \"one.example.com\"",
            "`ssh.replica_address`",
            "a host and a port",
        ),
        ("roles = \"api\"", "`roles`", "a list"),
        ("roles = [\"cook\"]", "`roles`", "worker"),
        ("roles = []", "`roles`", "at least one"),
        ("api = 3", "`api`", "a table"),
        ("[auth]\nregistration = true", "`auth.registration`", "expected"),
        (
            "[auth]\nregistration = \"maybe\"",
            "`auth.registration`",
            "closed",
        ),
        (
            "[database]\nmax_connections = 0",
            "`database.max_connections`",
            "less than 2",
        ),
        ("[api]\npublic_url = \"ftp://x\"", "`api.public_url`", "https://"),
        ("[router]\ndomain = \"x:80\"", "`router.domain`", "without a port"),
        ("[tls]\nkey_file = \"/k.pem\"", "`tls.certificate_file`", "both"),
        (
            "[api]\nhttps_listen = \"127.0.0.1:0\"",
            "`api.https_listen`",
            "no certificate",
        ),
        (
            "[api]\nrequest_timeout_seconds = 0",
            "`api.request_timeout_seconds`",
            "at least 1",
        ),
        ("[local]\nfirst_uid = 33", "`local.first_uid`", "1000"),
        ("[events]\nkeep_days = 29", "`events.keep_days`", "30"),
        ("[admin]\nemail = \"root\"", "`admin.email`", "ana@example.com"),
        (
            "[builds]\npass_environment = [\"TANCHO_SECRETS_KEYS\"]",
            "`builds.pass_environment`",
            "itself",
        ),
        ("[api]\nlisten =", "line 2", "is not TOML"),
    ] {
        let words = error_message(from_file(text));
        assert!(
            words.contains(key) && words.contains(expected),
            "{text:?}: {words}"
        );
        assert!(words.ends_with('.') && !words.contains('\n'), "{words:?}");
    }
    let words = error_message(from_env([("TANCHO_AUTH_TOKEN_DAYS", "soon")]));
    assert!(
        words.contains("TANCHO_AUTH_TOKEN_DAYS") && words.contains("a whole number"),
        "{words}"
    );
}

#[test]
fn missing_file_error_names_the_file() {
    let words = error_message(Settings::load(Some(Path::new("/no/such.toml")), env([]), &[]));
    assert!(words.contains("/no/such.toml"), "{words}");
}

#[test]
fn secrets_are_in_no_output() {
    let canary = "canary7319";
    let url = format!("postgres://u:{canary}@h/d");
    let smtp = format!("smtps://u:{canary}@mail.example.com");
    let vars = [
        ("TANCHO_ADMIN_PASSWORD", canary),
        ("TANCHO_SECRETS_KEYS", canary),
        ("TANCHO_DATABASE_URL", url.as_str()),
        ("TANCHO_MAIL_SMTP_URL", smtp.as_str()),
    ];
    let layers = ConfigLayers::read_all(None, env(vars), &[]).unwrap();
    let settings = layers.build_settings().unwrap();
    assert_eq!(settings.admin.password.expose_secret(), canary);
    let changes = layers.list_changes();
    assert_eq!(changes.len(), secret_and_known().0.len(), "{changes:?}");
    let shown = format!("{settings:?} {layers:?} {changes:?}");
    assert!(!shown.contains(canary), "{shown}");
}

#[test]
fn secrets_are_in_no_error() {
    for text in [
        "[admin]\npassword = \"canary7319",
        "[admin]\npassword = canary7319",
        "[admin]\npassword = 7319",
        "[admin]\npassword = [\"canary7319\"]",
        "[database]\nurl = \"canary7319\"",
        "[mail]\nsmtp_url = \"canary7319\"",
        "[admin]\npassword = \"canary7319\"\npassword = \"canary7319\"",
        "[admin]\npassword = \"canary7319\"\npassword_file = \"x\"",
        "[builds]\npass_environment = [\"PIP_INDEX_URL=canary7319\"]",
    ] {
        let words = format!("{:?}", from_file(text).unwrap_err());
        assert!(!words.contains("7319"), "{words}");
    }
}

#[test]
fn changes_are_listed_as_toml_with_their_source() {
    let vars = env([
        ("TANCHO_AUTH_TOKEN_DAYS", "3"),
        ("TANCHO_QUOTA_APPS_PER_USER", "-1"),
    ]);
    let layers = ConfigLayers::read_all(None, vars, &[("api.listen", "127.0.0.1:0".into())]).unwrap();
    assert_eq!(
        layers.list_changes(),
        [
            "api.listen = \"127.0.0.1:0\"  # on the command line",
            "auth.token_days = 3  # in the variable TANCHO_AUTH_TOKEN_DAYS",
        ]
    );
}

#[test]
fn networks_contain_their_addresses() {
    let network = |text: &str| text.parse::<IpNetwork>().unwrap();
    let address = |text: &str| text.parse().unwrap();
    assert!(network("10.0.0.0/8").contains(address("10.255.1.2")));
    assert!(network("10.0.0.0/8").contains(address("::ffff:10.1.1.1")));
    assert!(!network("10.0.0.0/8").contains(address("11.0.0.1")));
    assert!(network("0.0.0.0/0").contains(address("1.2.3.4")));
    assert!(network("192.168.1.7").contains(address("192.168.1.7")));
    assert!(!network("192.168.1.7").contains(address("192.168.1.6")));
    assert!(network("2001:db8::/33").contains(address("2001:db8:7fff::1")));
    assert!(!network("2001:db8::/33").contains(address("2001:db8:8000::1")));
    assert!(network("10.1.2.3/8").contains(address("10.9.9.9")));
    for bad in [
        "",
        "10.0.0.0/33",
        "example.com",
        "10.0.0.0/-1",
        "::/129",
        "10.0.0.0/",
        "::ffff:10.0.0.0/90",
    ] {
        assert!(bad.parse::<IpNetwork>().is_err(), "{bad}");
    }
}

#[test]
fn ipv4_mapped_network_contains_the_ipv4_addresses_it_names() {
    let address = |text: &str| text.parse().unwrap();
    for text in ["::ffff:10.0.0.0/104", "::ffff:a00:0/104"] {
        let network: IpNetwork = text.parse().unwrap();
        assert!(network.contains(address("10.255.1.2")), "{text}");
        assert!(network.contains(address("::ffff:10.1.1.1")), "{text}");
        assert!(!network.contains(address("11.0.0.1")), "{text}");
    }
    let host: IpNetwork = "::ffff:192.168.1.7".parse().unwrap();
    assert!(host.contains(address("192.168.1.7")) && !host.contains(address("192.168.1.6")));
}

#[test]
fn urls_and_ports_follow_what_is_bound_unless_set() {
    let bound: SocketAddr = "0.0.0.0:4321".parse().unwrap();
    let mut settings = Settings::defaults();
    assert_eq!(settings.api.public_url(bound), "http://localhost:4321");
    assert_eq!(settings.router.public_port(bound), 4321);
    settings.api.public_url = "https://x.example".to_owned();
    settings.router.public_port = 443;
    assert_eq!(settings.api.public_url(bound), "https://x.example");
    assert_eq!(settings.router.public_port(bound), 443);
    assert!(settings.auth.is_registration_open(&settings.api));
    settings.api.https_listen = Some(bound);
    assert!(
        !settings.auth.is_registration_open(&settings.api),
        "others reach the API over TLS"
    );
}
