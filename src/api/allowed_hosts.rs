//! Which hosts the operator may send credentials to: the list of `--allowed-hosts`.

use std::{fmt, str::FromStr};

use super::instance::{Host, Instance, split_authority};

/// The list that applies without `--allowed-hosts`: ServiceNow's own domains, and nothing else.
pub const DEFAULT_ALLOWED_HOSTS: &str = "*.service-now.com,*.servicenowservices.com";

/// The hosts that the operator may send credentials to.
///
/// Patterns are compared with the parsed, lower-case host. `*` allows every host and port,
/// `*.example.com` one or more whole labels below `example.com`, never `example.com` itself, and
/// anything else exactly itself. A pattern without a port means port 443. IP addresses are
/// allowed only by a pattern that is that address, or by `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHosts {
    patterns: Vec<Pattern>,
    insecure_http: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// `*`
    Any,
    /// `*.example.com`; the suffix keeps its leading dot.
    Below { suffix: String, port: u16 },
    /// `itsm.example.com`, `10.0.0.7:8443`, `[::1]`
    Exactly { host: Host, port: u16 },
}

/// Why a text is no list of hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowedHostsError {
    /// An empty list, or an empty entry.
    #[error(
        "the list of allowed hosts has an empty entry: write hosts separated by single commas, such as {DEFAULT_ALLOWED_HOSTS}, or * for all"
    )]
    Empty,
    /// An entry that is no host.
    #[error(
        "`{0}` is not a host: write a name such as itsm.example.com, *.example.com for all names below one, a port where it is not 443 (itsm.example.com:8443), an IP address as it stands in the URL, or * for all; no scheme and no path, and international names as xn--"
    )]
    Malformed(String),
}

impl AllowedHosts {
    /// Reads a list of patterns separated by commas.
    ///
    /// # Errors
    /// An entry is empty or no pattern; the error says what to write instead.
    pub fn parse(list: &str) -> Result<Self, AllowedHostsError> {
        let patterns = list
            .split(',')
            .map(|entry| Pattern::parse(entry.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            patterns,
            insecure_http: false,
        })
    }

    /// Says whether plain http is taken (`--allow-insecure-http`). An [`Instance`] is plain http
    /// on this machine only, and is then accepted whatever the list says; without this it never
    /// is.
    #[must_use]
    pub fn allow_insecure_http(mut self, allow: bool) -> Self {
        self.insecure_http = allow;
        self
    }

    /// Whether credentials may be sent to the instance.
    #[must_use]
    pub fn allows(&self, instance: &Instance) -> bool {
        if instance.is_plain_http() {
            return self.insecure_http;
        }
        self.patterns
            .iter()
            .any(|pattern| pattern.matches(instance))
    }
}

impl Default for AllowedHosts {
    /// [`DEFAULT_ALLOWED_HOSTS`], without plain http.
    fn default() -> Self {
        let below = |domain: &str| Pattern::Below {
            suffix: domain.to_owned(),
            port: 443,
        };
        Self {
            patterns: vec![below(".service-now.com"), below(".servicenowservices.com")],
            insecure_http: false,
        }
    }
}

impl FromStr for AllowedHosts {
    type Err = AllowedHostsError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        Self::parse(list)
    }
}

impl fmt::Display for AllowedHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.patterns.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{pattern}")?;
        }
        Ok(())
    }
}

impl Pattern {
    fn parse(entry: &str) -> Result<Self, AllowedHostsError> {
        if entry.is_empty() {
            return Err(AllowedHostsError::Empty);
        }
        if entry == "*" {
            return Ok(Self::Any);
        }
        Self::parse_host(entry).ok_or_else(|| AllowedHostsError::Malformed(entry.to_owned()))
    }

    fn parse_host(entry: &str) -> Option<Self> {
        let (host, port) = split_authority(entry)?;
        let port = port.unwrap_or(443);
        if let Some(domain) = host.strip_prefix("*.") {
            return match Host::parse(domain)? {
                Host::Name(domain) => Some(Self::Below {
                    suffix: format!(".{domain}"),
                    port,
                }),
                Host::V4(_) | Host::V6(_) => None,
            };
        }
        Some(Self::Exactly {
            host: Host::parse(host)?,
            port,
        })
    }

    fn matches(&self, instance: &Instance) -> bool {
        match self {
            Self::Any => true,
            // A parsed name has no empty labels, so whatever precedes the suffix is whole labels.
            Self::Below { suffix, port } => match instance.parsed_host() {
                Host::Name(name) => *port == instance.port() && name.ends_with(suffix.as_str()),
                Host::V4(_) | Host::V6(_) => false,
            },
            Self::Exactly { host, port } => {
                *port == instance.port() && host == instance.parsed_host()
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            Self::Any => return f.write_str("*"),
            Self::Below { suffix, port } => {
                write!(f, "*{suffix}")?;
                *port
            }
            Self::Exactly { host, port } => {
                write!(f, "{host}")?;
                *port
            }
        };
        if port == 443 {
            Ok(())
        } else {
            write!(f, ":{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(list: &str, instance: &str) -> bool {
        let instance = Instance::parse(instance).expect("a valid instance");
        AllowedHosts::parse(list)
            .expect("a valid list")
            .allows(&instance)
    }

    #[test]
    fn the_default_is_servicenow_itself() {
        assert_eq!(
            AllowedHosts::parse(DEFAULT_ALLOWED_HOSTS),
            Ok(AllowedHosts::default())
        );
        assert_eq!(AllowedHosts::default().to_string(), DEFAULT_ALLOWED_HOSTS);
        for (instance, allowed) in [
            ("dev12345", true),
            ("https://dev12345.service-now.com", true),
            ("https://Dev12345.Service-Now.COM:443", true),
            ("https://agency.servicenowservices.com", true),
            ("https://a.b.service-now.com", true),
            ("https://service-now.com", false),
            ("https://evilservice-now.com", false),
            ("https://service-now.com.evil.example", false),
            ("https://dev12345.service-now.com:8443", false),
            ("https://itsm.example.gov", false),
            ("https://127.0.0.1", false),
            ("https://localhost", false),
        ] {
            assert_eq!(
                allows(DEFAULT_ALLOWED_HOSTS, instance),
                allowed,
                "{instance}"
            );
        }
    }

    #[test]
    fn ports_and_addresses_must_be_listed() {
        for (list, instance, allowed) in [
            ("itsm.example.gov", "https://itsm.example.gov", true),
            ("ITSM.example.gov:443", "https://itsm.example.gov", true),
            ("itsm.example.gov", "https://itsm.example.gov:8443", false),
            (
                "itsm.example.gov:8443",
                "https://itsm.example.gov:8443",
                true,
            ),
            ("itsm.example.gov:8443", "https://itsm.example.gov", false),
            ("itsm.example.gov", "https://a.itsm.example.gov", false),
            ("*.example.gov:8443", "https://itsm.example.gov:8443", true),
            ("*.example.gov:8443", "https://itsm.example.gov", false),
            ("*.example.gov, 10.0.0.7", "https://10.0.0.7", true),
            ("10.0.0.7", "https://10.0.0.8", false),
            ("10.0.0.7", "https://10.0.0.7:8443", false),
            ("10.0.0.7:8443", "https://10.0.0.7:8443", true),
            ("[::1]:8443", "https://[0:0:0:0:0:0:0:1]:8443", true),
            ("[::1]", "https://[::2]", false),
            ("localhost:8443", "https://localhost:8443", true),
            ("*", "https://10.0.0.7:8443", true),
            ("*", "dev1", true),
        ] {
            assert_eq!(allows(list, instance), allowed, "{list} for {instance}");
        }
    }

    #[test]
    fn plain_http_is_taken_by_its_flag_and_by_nothing_else() {
        let local = Instance::parse("http://127.0.0.1:8080").expect("a valid instance");
        for list in ["*", "127.0.0.1:8080", DEFAULT_ALLOWED_HOSTS] {
            let hosts = AllowedHosts::parse(list).expect("a valid list");
            assert!(!hosts.allows(&local));
            assert!(hosts.allow_insecure_http(true).allows(&local));
        }
        let secure = Instance::parse("https://127.0.0.1:8080").expect("a valid instance");
        assert!(
            !AllowedHosts::default()
                .allow_insecure_http(true)
                .allows(&secure)
        );
    }

    #[test]
    fn what_is_no_pattern_is_an_error() {
        for list in ["", " ", ",", "a.example,", "a.example,,b.example"] {
            assert_eq!(
                AllowedHosts::parse(list),
                Err(AllowedHostsError::Empty),
                "{list:?}"
            );
        }
        for entry in [
            "https://a.example",
            "a.example/",
            "a.example:",
            "a.example:0",
            "a.example:*",
            "a.example:65536",
            "a.*.example",
            "**.example",
            "*example",
            "*.",
            ".example",
            "a.example.",
            "a..example",
            "*.10.0.0.1",
            "*.*.example",
            "10.0.0",
            "0x7f.1",
            "2130706433",
            "user@a.example",
            "b\u{fc}cher.example",
            "a b",
            "::1",
            "[::1",
            "*:443",
            "10.0.0.0/8",
            "a_b.example",
        ] {
            assert_eq!(
                AllowedHosts::parse(entry),
                Err(AllowedHostsError::Malformed(entry.to_owned()))
            );
        }
    }

    proptest! {
        #[test]
        fn a_list_prints_as_one_that_means_the_same(list in "[-*a-z0-9.:,\\[\\]]{1,24}") {
            if let Ok(hosts) = AllowedHosts::parse(&list) {
                prop_assert_eq!(AllowedHosts::parse(&hosts.to_string()), Ok(hosts));
            }
        }

        #[test]
        fn a_star_matches_whole_labels_only(prefix in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,2}", glue in "[.-]?") {
            let host = format!("{prefix}{glue}example.com");
            let instance = Instance::parse(&format!("https://{host}")).expect("a valid instance");
            let hosts = AllowedHosts::parse("*.example.com").expect("a valid list");
            prop_assert_eq!(hosts.allows(&instance), host.ends_with(".example.com"));
        }
    }
}
