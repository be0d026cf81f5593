//! What a replica must know of its etcd before it can open the store: a part of its configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::MemberAddress;

/// The port on which replicas reach each other's etcd, unless told otherwise.
pub const CLIENT_PORT: u16 = 2379;
/// The port on which members of etcd talk to each other, unless told otherwise.
pub const PEER_PORT: u16 = 2380;

/// How large the file of a member may become, in bytes, unless told otherwise: what etcd is known to bear well.
pub const QUOTA: u64 = 8 << 30;

/// The etcd of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdConfig {
    /// The member that it runs; none when an etcd was given by its endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberConfig>,
    /// Where the other members, or those of the etcd that was given, are reached: `https://host:port`.
    #[serde(default)]
    pub endpoints: Vec<String>,
}

/// The member of etcd that a replica runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemberConfig {
    /// Where the other replicas reach this machine: a DNS name or an address.
    pub host: String,
    /// The port for replicas.
    pub client_port: u16,
    /// The port for members.
    pub peer_port: u16,
    /// All members at the time it joined, itself among them; empty for the first of a cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<MemberAddress>,
    /// The word that tells this cluster's members from others'.
    pub token: String,
    /// How large its file may become before writes are refused, in bytes; 8 GiB unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
}

/// A host as it stands in a URL.
pub fn url_host(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

impl MemberConfig {
    /// Where replicas reach it.
    pub fn client_url(&self) -> String {
        format!("https://{}:{}", url_host(&self.host), self.client_port)
    }

    /// Where members reach it.
    pub fn peer_url(&self) -> String {
        format!("https://{}:{}", url_host(&self.host), self.peer_port)
    }

    /// The address to listen on: the host's when it is one of this machine's, else all.
    pub(crate) fn listen(&self, port: u16) -> SocketAddr {
        let address = match self.host.parse() {
            Ok(address) => address,
            Err(_) if self.host == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Err(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        SocketAddr::new(address, port)
    }
}

impl EtcdConfig {
    /// Where etcd is reached, the nearest first.
    pub(crate) fn all_endpoints(&self) -> Vec<String> {
        let own = self.member.as_ref().map(MemberConfig::client_url);
        let others = self.endpoints.iter().filter(|url| Some(*url) != own.as_ref()).cloned();
        own.iter().cloned().chain(others).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written() {
        let member = MemberConfig {
            host: "2001:db8::7".to_owned(),
            client_port: CLIENT_PORT,
            peer_port: PEER_PORT,
            joined: vec![MemberAddress {
                name: "dtr-a".to_owned(),
                peer_url: "https://10.0.0.1:2380".to_owned(),
            }],
            token: "t".to_owned(),
            quota_bytes: None,
        };
        assert_eq!(member.peer_url(), "https://[2001:db8::7]:2380");
        let endpoints = vec![member.client_url(), "https://10.0.0.1:2379".to_owned()];
        let config = EtcdConfig { member: Some(member), endpoints };
        assert_eq!(
            config.all_endpoints(),
            ["https://[2001:db8::7]:2379", "https://10.0.0.1:2379"],
            "its own comes first, and once"
        );
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<EtcdConfig>(&text).unwrap(), config);
    }
}
