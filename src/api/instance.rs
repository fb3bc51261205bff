//! The ServiceNow instance: valid, or it does not exist. What a person wrote becomes one origin,
//! and every URL built from it stays at that origin.

use std::{fmt, net::Ipv4Addr, net::Ipv6Addr, str::FromStr};

use url::Url;

use super::admission::message::{INSTANCE, PLAIN_HTTP};

/// The domain of an instance that is given by its name alone.
const INSTANCE_DOMAIN: &str = "service-now.com";

/// The origin of a ServiceNow instance: scheme, host and port, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    origin: String,
    host: Host,
    port: u16,
    plain_http: bool,
}

/// Why a text names no instance, or a path no URL of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// Neither an instance's name nor an origin.
    #[error("{INSTANCE}")]
    Malformed,
    /// Plain http to something other than this machine.
    #[error("{PLAIN_HTTP}")]
    PlainHttp,
    /// A path that would leave the instance, or that no URL can hold.
    #[error(
        "a path begins with one / and holds no backslash, white space, control character or #: write one such as /api/now/table/sys_user?sysparm_limit=1"
    )]
    Path,
}

impl Instance {
    /// Reads an instance's name (`dev12345`) or an origin (`https://itsm.example.com:8443`).
    ///
    /// # Errors
    /// The text is neither, or is plain http to another machine.
    pub fn parse(text: &str) -> Result<Self, InstanceError> {
        if is_dns_label(text) {
            let host = Host::Name(format!("{}.{INSTANCE_DOMAIN}", text.to_ascii_lowercase()));
            return Self::new(false, host, None);
        }
        let (plain_http, authority) = if let Some(rest) = text.strip_prefix("https://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (true, rest)
        } else {
            return Err(InstanceError::Malformed);
        };
        let (host, port) = split_authority(authority).ok_or(InstanceError::Malformed)?;
        // Only the two spellings of the contract, lest a name that somebody else's resolver
        // answers passes for this machine.
        if plain_http && !matches!(host, "localhost" | "127.0.0.1") {
            // A malformed host is the more useful thing to say.
            Host::parse(host).ok_or(InstanceError::Malformed)?;
            return Err(InstanceError::PlainHttp);
        }
        let host = Host::parse(host).ok_or(InstanceError::Malformed)?;
        Self::new(plain_http, host, port)
    }

    fn new(plain_http: bool, host: Host, port: Option<u16>) -> Result<Self, InstanceError> {
        let (scheme, default_port) = if plain_http {
            ("http", 80)
        } else {
            ("https", 443)
        };
        let port = port.unwrap_or(default_port);
        let origin = if port == default_port {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{port}")
        };
        // The URL parser has the last word: a host that it reads as another (an invalid xn--
        // label, say) must not come to exist.
        let url = Url::parse(&origin).map_err(|_| InstanceError::Malformed)?;
        if url.origin().ascii_serialization() != origin {
            return Err(InstanceError::Malformed);
        }
        Ok(Self {
            origin,
            host,
            port,
            plain_http,
        })
    }

    /// The origin, such as `https://dev12345.service-now.com`: lower case, without a default port.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The host in lower case; an IPv6 address stands in brackets, as in a URL.
    #[must_use]
    pub fn host(&self) -> &str {
        // The origin holds the host's only rendering, so nothing is rendered twice.
        let start = if self.plain_http {
            "http://".len()
        } else {
            "https://".len()
        };
        let authority = &self.origin[start..];
        split_authority(authority).map_or(authority, |(host, _)| host)
    }

    /// The port, the scheme's default included.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host is an IP address.
    #[must_use]
    pub fn is_ip(&self) -> bool {
        !matches!(self.host, Host::Name(_))
    }

    /// Whether the origin is plain http, which only `localhost` and `127.0.0.1` may be.
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        self.plain_http
    }

    /// The URL of a path, with its query, at this origin.
    ///
    /// # Errors
    /// The path does not begin with `/`, holds what a URL parser would reinterpret (backslashes,
    /// white space, control characters, a fragment), or would lead to another origin.
    pub fn url(&self, path: &str) -> Result<Url, InstanceError> {
        // The parser drops tabs and newlines and takes a backslash for a slash: refused here, so
        // that what is requested is what was written.
        let odd = |c: char| c == '\\' || c == '#' || c.is_whitespace() || c.is_control();
        if !path.starts_with('/') || path.contains(odd) {
            return Err(InstanceError::Path);
        }
        // Put together rather than joined: a join would take `//host/` for another authority.
        let url = Url::parse(&format!("{}{path}", self.origin)).map_err(|_| InstanceError::Path)?;
        let same = url.origin().ascii_serialization() == self.origin
            && url.username().is_empty()
            && url.password().is_none();
        if same {
            Ok(url)
        } else {
            Err(InstanceError::Path)
        }
    }

    pub(super) fn parsed_host(&self) -> &Host {
        &self.host
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.origin)
    }
}

impl FromStr for Instance {
    type Err = InstanceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A host in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Host {
    /// Lower-case labels of ASCII letters, digits and hyphens.
    Name(String),
    /// Four decimal numbers.
    V4(Ipv4Addr),
    /// Written in brackets.
    V6(Ipv6Addr),
}

impl Host {
    /// Reads a host strictly: what a URL parser would rewrite (`0x7f.1`, `0177.0.0.1`,
    /// `2130706433`, percent signs, Unicode, a trailing dot) is no host.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            // Embedded IPv4 (`::ffff:10.0.0.1`) has another spelling, and zones have no meaning
            // beyond one machine.
            let inner = inner
                .strip_suffix(']')
                .filter(|inner| !inner.contains('.'))?;
            return inner.parse().ok().map(Self::V6);
        }
        let labels_hold = text.len() <= 253 && text.split('.').all(is_dns_label);
        if !labels_hold {
            return None;
        }
        let name = text.to_ascii_lowercase();
        // URL parsers take a name whose last label is a number for an IPv4 address.
        let last = name.rsplit('.').next().unwrap_or_default();
        let numeric = last.bytes().all(|b| b.is_ascii_digit())
            || last
                .strip_prefix("0x")
                .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if numeric {
            return name.parse().ok().map(Self::V4);
        }
        Some(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => write!(f, "{address}"),
            // Url has its own rendering of IPv6 (never with embedded IPv4), and is the reader.
            Self::V6(address) => write!(f, "{}", url::Host::<&str>::Ipv6(*address)),
        }
    }
}

/// Splits `host[:port]`; a port is 1 to 65535 without leading zeros.
pub(super) fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let host_end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, rest) = text.split_at(host_end);
    if rest.is_empty() {
        return Some((host, None));
    }
    let digits = rest.strip_prefix(':')?;
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((host, Some(digits.parse().ok()?)))
}

/// A label of a DNS name (RFC 1123): letters, digits and inner hyphens, at most 63.
pub(super) fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;
