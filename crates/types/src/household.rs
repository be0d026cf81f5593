//! Which addresses count as one where something is counted by address.

use std::net::IpAddr;

/// The address as it counts: of IPv6 the first 64 bits, since whoever has one such address has all of its network; an IPv4
/// address that is written as IPv6 is itself.
pub fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_household_are_one() {
        let parsed = |text: &str| household(text.parse().expect("an address"));
        assert_eq!(parsed("2001:db8::1"), parsed("2001:db8::ffff:1"));
        assert_ne!(parsed("2001:db8::1"), parsed("2001:db8:0:1::1"));
        assert_eq!(parsed("::ffff:10.0.0.1"), parsed("10.0.0.1"));
        assert_ne!(parsed("10.0.0.1"), parsed("10.0.0.2"));
    }
}
