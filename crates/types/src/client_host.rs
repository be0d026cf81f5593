//! The address that clients use, as a host and perhaps a port: the one rule for what may stand there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Why a text cannot be the address that clients use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not an address that clients can use: {rule}")]
pub struct ClientHostError {
    text: String,
    rule: &'static str,
}

/// `host` or `host:port`: a DNS name, an IPv4 address, or an IPv6 address in brackets. The name is one that a certificate
/// can carry, in lower case and without a dot at its end; the port is 1 to 65535. Nothing in it can end the host part of
/// an address or name a user.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientHost {
    /// The host alone; an IPv6 address in brackets.
    host: String,
    port: Option<u16>,
}

impl ClientHost {
    /// The host without its port; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if one was written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The host as an address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// The host with another port; `None` leaves the port out.
    #[must_use]
    pub fn with_port(&self, port: Option<u16>) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// Reads an address as people give it: `https://host[:port]`, with or without the scheme and a slash at the end.
    ///
    /// # Errors
    /// [`ClientHostError`] with the rule that is broken. Another scheme, a path, a user or a query breaks one.
    pub fn from_address(text: &str) -> Result<Self, ClientHostError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            Some(_) => {
                return refuse(text, "clients use https; write https://host or https://host:port");
            }
            None => text,
        };
        // One slash is how an address ends; two are a path.
        rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|error: ClientHostError| {
            ClientHostError { text: shown(text), rule: error.rule }
        })
    }

    /// Reads what a client sent as the host that it used. A name that ends with a dot is one that names its root (RFC 1034,
    /// 3.1), and means the same.
    pub fn from_request(text: &str) -> Option<Self> {
        if let Ok(host) = text.parse() {
            return Some(host);
        }
        let (name, port) = text.split_once(':').map_or((text, None), |(n, p)| (n, Some(p)));
        let name = name.strip_suffix('.')?;
        match port {
            Some(port) => format!("{name}:{port}").parse().ok(),
            None => name.parse().ok(),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}

fn refuse<T>(text: &str, rule: &'static str) -> Result<T, ClientHostError> {
    Err(ClientHostError { text: shown(text), rule })
}

/// A DNS name as a certificate carries it: labels of letters, digits, dashes and (as many machines have them) underscores.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A port as it stands in an address: digits without a sign or zeros in front.
fn port_of(text: &str) -> Option<u16> {
    let fits = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| fits)
}

impl FromStr for ClientHost {
    type Err = ClientHostError;

    fn from_str(text: &str) -> Result<Self, ClientHostError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let Some((address, after)) = rest.split_once(']') else {
                    return refuse(text, "the bracket of its IPv6 address is not closed");
                };
                let Ok(address) = address.parse::<Ipv6Addr>() else {
                    return refuse(text, "between the brackets there is no IPv6 address");
                };
                match after.strip_prefix(':') {
                    Some(port) => (format!("[{address}]"), Some(port)),
                    None if after.is_empty() => (format!("[{address}]"), None),
                    None => return refuse(text, "after an IPv6 address only a port may follow"),
                }
            }
            None if text.matches(':').count() > 1 => {
                return refuse(
                    text,
                    "an IPv6 address stands in brackets: [2001:db8::1] or [2001:db8::1]:8443",
                );
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
                None => (text.to_ascii_lowercase(), None),
            },
        };
        if !host.starts_with('[') {
            if host.ends_with('.') {
                return refuse(
                    text,
                    "leave out the dot at the end of the name: certificates do not have it",
                );
            }
            if !is_dns_name(&host) {
                return refuse(
                    text,
                    "write host or host:port, the host as letters, digits, dashes and dots (other alphabets as xn--...), or as an IP address",
                );
            }
            // Every reader of addresses takes a name whose last part is a number for an IPv4 address.
            let last = host.rsplit('.').next().unwrap_or_default();
            if last.bytes().all(|b| b.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() {
                return refuse(text, "it is neither a name nor an IPv4 address");
            }
        }
        match port.map(port_of) {
            Some(None) => refuse(text, "a port is a number from 1 to 65535"),
            Some(port) => Ok(Self { host, port }),
            None => Ok(Self { host, port: None }),
        }
    }
}

impl fmt::Display for ClientHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl fmt::Debug for ClientHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    #[test]
    fn what_an_address_for_clients_may_look_like() {
        for (given, read) in [
            ("dtr", "dtr"),
            ("https://Registry.Example.com", "registry.example.com"),
            ("HTTPS://registry.example.com:8443/", "registry.example.com:8443"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("replica_1:65535", "replica_1:65535"),
            ("[::1]", "[::1]"),
            ("https://[2001:DB8::1]:15010", "[2001:db8::1]:15010"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ] {
            assert_eq!(ClientHost::from_address(given).unwrap().to_string(), read, "{given}");
        }
        for bad in [
            "",
            "https://",
            "http://a",
            "ftp://a",
            "https://a/b",
            "https://a//",
            "a?b",
            "a#b",
            "u@a",
            "u:p@a",
            "a b",
            "a\\b",
            "a\"b",
            "é",
            "÷",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "registry.example.com.",
            "registry.example.com.:443",
            "https://::1:15010",
            "::1",
            "[::1",
            "[::1]x",
            "[x]",
            "[fe80::1%eth0]",
            "[127.0.0.1]",
            "]",
            "a:",
            ":443",
            "localhost:99999",
            "localhost:0",
            "a:+80",
            "a:000080",
            "a:-1",
            "a:b",
            "a:b:c",
            "*.example.com",
            "999.1.1.1",
            "1.2.3",
            "1",
            "a:443 ",
            "a\n",
        ] {
            assert!(ClientHost::from_address(bad).is_err(), "{bad}");
        }
        let wrong = ClientHost::from_address("https://::1:15010").unwrap_err().to_string();
        assert!(wrong.contains("https://::1:15010") && wrong.contains("brackets"), "{wrong}");
    }

    #[test]
    fn what_a_client_sent_may_end_with_a_dot() {
        let read = |text| ClientHost::from_request(text).map(|host| host.to_string());
        assert_eq!(read("a.example.").as_deref(), Some("a.example"));
        assert_eq!(read("A.example.:80").as_deref(), Some("a.example:80"));
        assert_eq!(read("[::1]:80").as_deref(), Some("[::1]:80"));
        for bad in ["", ".", "a..", "a.:", "::1.", "a@b."] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts() {
        let host: ClientHost = "[::1]:8443".parse().unwrap();
        assert_eq!(
            (host.host(), host.port(), host.ip()),
            ("[::1]", Some(8443), "::1".parse().ok())
        );
        assert_eq!(host.with_port(None).to_string(), "[::1]");
        assert_eq!("a.example".parse::<ClientHost>().unwrap().ip(), None);
    }
}
