//! The names a server certificate is valid for.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use super::PkiError;

/// One subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectName {
    /// A DNS name, in lower case; its first label may be `*`.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl SubjectName {
    /// Whether a certificate with the name `held` is good for this one.
    pub(super) fn is_covered_by(&self, held: &Self) -> bool {
        match (self, held) {
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Dns(wanted), Self::Dns(held)) => {
                let wildcard = held.strip_prefix("*.").zip(wanted.split_once('.'));
                wanted == held || wildcard.is_some_and(|(held, (_, wanted))| held == wanted)
            }
            _ => false,
        }
    }
}

/// A set of subject alternative names, without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectNames(BTreeSet<SubjectName>);

impl SubjectNames {
    /// No name.
    pub fn none() -> Self {
        Self::default()
    }

    /// This machine as seen from itself: `localhost`, `127.0.0.1`, `::1`.
    pub fn local() -> Self {
        Self(
            [
                SubjectName::Dns("localhost".to_owned()),
                SubjectName::Ip(IpAddr::from([127, 0, 0, 1])),
                SubjectName::Ip(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
            ]
            .into(),
        )
    }

    /// Adds a host: a DNS name or an address, perhaps with a port (`dtr.example.com:8443`, `[::1]:443`, `::1`).
    ///
    /// # Errors
    /// [`PkiError::Name`] when it is neither.
    pub fn with_host(mut self, text: &str) -> Result<Self, PkiError> {
        let wrong = || PkiError::Name(text.chars().take(300).collect());
        if let Ok(address) = text.parse() {
            self.0.insert(SubjectName::Ip(address));
            return Ok(self);
        }
        let (host, _) = split_port(text);
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let name = match bare.parse() {
            Ok(address) => SubjectName::Ip(address),
            Err(_) if is_dns_name(host) => SubjectName::Dns(host.to_ascii_lowercase()),
            Err(_) => return Err(wrong()),
        };
        self.0.insert(name);
        Ok(self)
    }

    /// Adds the host of a URL such as `https://dtr.example.com:8443`; a text without `://` is taken as a host.
    ///
    /// # Errors
    /// [`PkiError::Name`] when there is no host in it.
    pub fn with_url(self, text: &str) -> Result<Self, PkiError> {
        if !text.contains("://") {
            return self.with_host(text);
        }
        let parsed = url::Url::parse(text).map_err(|_| PkiError::Name(text.to_owned()))?;
        self.with_host(parsed.host_str().ok_or_else(|| PkiError::Name(text.to_owned()))?)
    }

    /// The names, addresses last.
    pub fn iter(&self) -> impl Iterator<Item = &SubjectName> {
        self.0.iter()
    }
}

/// Splits `host:port`, leaving bracketed IPv6 addresses whole.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rfind(':') {
        Some(at) if !text[at..].contains(']') => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    }
}

/// A DNS name as certificates carry it: labels of letters, digits, dashes and (as many machines have them) underscores.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    #[test]
    fn from_urls_and_hosts() {
        let names = SubjectNames::local()
            .with_url("https://DTR.Example.com:8443/x")
            .and_then(|n| n.with_url("https://[2001:db8::1]:8443"))
            .and_then(|n| n.with_host("10.0.0.7:443"))
            .and_then(|n| n.with_host("::1"))
            .and_then(|n| n.with_host("replica_1"))
            .unwrap();
        let all: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(
            all,
            [
                "dtr.example.com",
                "localhost",
                "replica_1",
                "10.0.0.7",
                "127.0.0.1",
                "::1",
                "2001:db8::1"
            ]
        );
        for bad in ["", "a b", "https://", "-x", "a..b", "x/y", "ü"] {
            assert!(SubjectNames::none().with_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn wildcards_cover_one_label() {
        let dns = |n: &str| SubjectName::Dns(n.to_owned());
        assert!(dns("dtr.example.com").is_covered_by(&dns("*.example.com")));
        assert!(!dns("a.b.example.com").is_covered_by(&dns("*.example.com")));
        assert!(!dns("example.com").is_covered_by(&dns("*.example.com")));
    }
}
