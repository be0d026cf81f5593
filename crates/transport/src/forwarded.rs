//! Who really asked: what a TLS-ending proxy says about its client, believed only where that was configured.
//!
//! `X-Forwarded-For`, `-Proto` and `-Host` are read first; `Forwarded` (RFC 7239) only when none of the three is there.
//! Of several values the one counts that the proxy wrote to which the client connected. Each of our own proxies that
//! `X-Forwarded-For` (or `for=`) names adds one value after it; everything before it is the client's word.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use dtr_types::ClientHost;
use http::{HeaderMap, HeaderName, header};

use crate::request::Scheme;

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: u128,
    mask: u128,
}

/// A text that is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an address or a range such as 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError(String);

/// All addresses as IPv6, IPv4 ones mapped, so that one comparison serves both.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Network {
    /// Whether `address` lies in this range.
    pub fn contains(&self, address: IpAddr) -> bool {
        number(address) & self.mask == self.base
    }
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.chars().take(64).collect());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        if bits > width {
            return Err(wrong());
        }
        let host_bits = width - bits;
        let mask = if host_bits == 128 { 0 } else { u128::MAX << host_bits };
        Ok(Self { base: number(address) & mask, mask })
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv6Addr::from_bits(self.base), self.mask.count_ones())
    }
}

/// Whether a plain listener believes forwarding headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// No: they are dropped.
    #[default]
    Ignore,
    /// From whoever connects: only for a listener that nothing but the proxy can reach.
    FromAnyone,
    /// From these addresses; addresses among them are skipped when looking for the client's.
    From(Vec<Network>),
}

impl Forwarded {
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        match self {
            Self::Ignore => false,
            Self::FromAnyone => true,
            Self::From(networks) => networks.iter().any(|n| n.contains(peer)),
        }
    }

    /// Whether `hop` is one of our own proxies, whose word about the hop before it counts.
    fn skips(&self, hop: IpAddr) -> bool {
        matches!(self, Self::From(networks) if networks.iter().any(|n| n.contains(hop)))
    }
}

/// What a proxy told about its client.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub client: Option<IpAddr>,
    pub scheme: Option<Scheme>,
    pub host: Option<ClientHost>,
}

static X_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Takes the forwarding headers out of `headers`, so that no handler can believe them by mistake, and says what they
/// told if `peer` is trusted.
pub(crate) fn take(headers: &mut HeaderMap, peer: IpAddr, policy: &Forwarded) -> Told {
    let mut told = Told::default();
    if policy.trusts(peer) {
        told = read(headers, policy);
    }
    for name in [&X_FOR, &X_PROTO, &X_HOST, &header::FORWARDED] {
        headers.remove(name);
    }
    told
}

/// All values of one header as one list.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|item| item.trim().to_owned())
        .collect()
}

fn read(headers: &HeaderMap, policy: &Forwarded) -> Told {
    let (hops, schemes, hosts): (Vec<Option<IpAddr>>, Vec<String>, Vec<String>);
    if [&X_FOR, &X_PROTO, &X_HOST].iter().any(|name| headers.contains_key(*name)) {
        hops = list(headers, &X_FOR).iter().map(|hop| hop_address(hop)).collect();
        schemes = list(headers, &X_PROTO);
        hosts = list(headers, &X_HOST);
    } else {
        let elements = list(headers, &header::FORWARDED);
        let all = |name| elements.iter().map(move |e| parameter(e, name));
        hops = all("for").map(|hop| hop_address(&hop?)).collect();
        schemes = all("proto").map(Option::unwrap_or_default).collect();
        hosts = all("host").map(Option::unwrap_or_default).collect();
    }
    let (client, proxies) = nearest_client(&hops, policy);
    // A proxy that hands a value on as it came leaves fewer of them than there are proxies.
    let nearest = |values: Vec<String>| {
        let at = values.len().checked_sub(1)?.saturating_sub(proxies);
        values.into_iter().nth(at)
    };
    Told {
        client,
        scheme: nearest(schemes).and_then(|text| match text.to_ascii_lowercase().as_str() {
            "https" => Some(Scheme::Https),
            "http" => Some(Scheme::Http),
            _ => None,
        }),
        host: nearest(hosts).and_then(|host| ClientHost::from_request(&host)),
    }
}

/// The client, and how many of our own proxies stand between it and the one that connected to us.
fn nearest_client(hops: &[Option<IpAddr>], policy: &Forwarded) -> (Option<IpAddr>, usize) {
    let (mut found, mut proxies) = (None, 0);
    for hop in hops.iter().rev() {
        // Something that is no address ("unknown", "_hidden") ends what can be believed.
        let Some(address) = *hop else { break };
        found = Some(address);
        if !policy.skips(address) {
            break;
        }
        proxies += 1;
    }
    (found, proxies)
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`.
fn hop_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next()?.parse().ok();
    }
    text.split_once(':')?.0.parse().ok()
}

/// The value of one parameter of a `Forwarded` element.
fn parameter(element: &str, name: &str) -> Option<String> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks() {
        let ten: Network = "10.0.0.0/8".parse().unwrap();
        assert!(ten.contains(ip("10.9.8.7")) && !ten.contains(ip("11.0.0.1")));
        assert!(ten.contains(ip("::ffff:10.1.1.1")), "IPv4 seen through an IPv6 socket");
        assert!("::/0".parse::<Network>().unwrap().contains(ip("8.8.8.8")));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(ip("8.8.8.8")));
        assert!("192.0.2.1".parse::<Network>().unwrap().contains(ip("192.0.2.1")));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "x/8", "::/129", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_from_the_trusted_and_always_removed() {
        let sent = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
        let policy = Forwarded::From(vec!["10.0.0.0/8".parse().unwrap()]);
        for (peer, client) in [("10.0.0.1", Some(ip("203.0.113.9"))), ("192.0.2.1", None)] {
            let mut map = headers(&sent);
            assert_eq!(take(&mut map, ip(peer), &policy).client, client);
            assert!(map.is_empty());
        }
        assert_eq!(take(&mut headers(&sent), ip("10.0.0.1"), &Forwarded::Ignore), Told::default());
    }

    #[test]
    fn a_client_cannot_speak_for_the_proxy() {
        let policy = Forwarded::From(vec!["10.0.0.0/8".parse().unwrap()]);
        let mut map = headers(&[
            ("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.0.0.2"),
            ("x-forwarded-host", "evil.example, dtr.example.com, inner:5000"),
            ("forwarded", "for=2.2.2.2;host=evil.example"),
        ]);
        let told = take(&mut map, ip("10.0.0.1"), &policy);
        assert_eq!(told.client, Some(ip("203.0.113.9")));
        assert_eq!(told.host, "dtr.example.com".parse().ok());
        let mut map = headers(&[("x-forwarded-for", "1.1.1.1, unknown")]);
        assert_eq!(take(&mut map, ip("10.0.0.1"), &policy).client, None);
    }

    #[test]
    fn rfc_7239() {
        let mut map = headers(&[(
            "forwarded",
            r#"for=1.1.1.1, For="[2001:db8::1]:4711";Proto=https;host="dtr.example.com:8443""#,
        )]);
        let told = take(&mut map, ip("127.0.0.1"), &Forwarded::FromAnyone);
        assert_eq!(told.client, Some(ip("2001:db8::1")));
        assert_eq!(told.scheme, Some(Scheme::Https));
        assert_eq!(told.host, "dtr.example.com:8443".parse().ok());
    }

    #[test]
    fn of_two_proxies_the_outer_one_met_the_client() {
        let policy = Forwarded::From(vec!["10.0.0.0/8".parse().unwrap()]);
        let told = |pairs: &[(&'static str, &'static str)]| {
            let told = take(&mut headers(pairs), ip("10.0.0.1"), &policy);
            (told.client, told.scheme, told.host.map(|host| host.to_string()))
        };
        let right =
            (Some(ip("203.0.113.9")), Some(Scheme::Https), Some("registry.example.com".to_owned()));
        for clients in ["203.0.113.9, 10.0.0.2", "1.1.1.1, 203.0.113.9, 10.0.0.2"] {
            for schemes in ["https, http", "https,http", "https", "http, https, http"] {
                for hosts in ["registry.example.com, inner:5000", "registry.example.com"] {
                    let sent = told(&[
                        ("x-forwarded-for", clients),
                        ("x-forwarded-proto", schemes),
                        ("x-forwarded-host", hosts),
                    ]);
                    assert_eq!(sent, right, "{clients} {schemes} {hosts}");
                }
            }
        }
        let element = "for=203.0.113.9;proto=https;host=registry.example.com, for=10.0.0.2;proto=http;host=inner";
        assert_eq!(told(&[("forwarded", element)]), right);
        // What a client wrote itself counts as little behind two proxies as behind one.
        let lied = told(&[
            ("x-forwarded-for", "10.0.0.9, 203.0.113.9, 10.0.0.2"),
            ("x-forwarded-proto", "http, https, http"),
            ("x-forwarded-host", "evil.example, registry.example.com, inner:5000"),
        ]);
        assert_eq!(lied, right);
    }
}
