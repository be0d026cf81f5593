//! How a registered DTR proves itself to a UCP: a short-lived JWT (ES256) signed with its service key.

use std::time::Duration;

use dtr_types::{Random, Secret, ServiceId, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// What the token is addressed to.
pub const AUDIENCE: &str = "enzi";
/// How long a token is good for.
pub const LIFETIME: Duration = Duration::from_secs(120);
/// How far the two clocks may be apart.
pub const SKEW: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    iat: i64,
    exp: i64,
    jti: String,
}

/// Why a token is not accepted or cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceTokenError {
    /// The key is not a P-256 key in PEM.
    #[error("the service key cannot be used: {0}")]
    Key(String),
    /// It is not a token of the form expected.
    #[error("the service token is not of the form expected")]
    Form,
    /// Its signature is not that of the service.
    #[error("the service token's signature is not that of the registered service")]
    Signature,
    /// It was sent before: whoever sends it again may have read it somewhere.
    #[error("the service token was used before; each is good once")]
    Used,
    /// It is over, or not yet good: perhaps a clock is wrong.
    #[error("the service token is from {issued} and it is {now} here; check the clocks")]
    Time {
        /// When it was made, by the other clock.
        issued: Timestamp,
        /// Now, by our clock.
        now: Timestamp,
    },
}

/// Signs a token for a service. `private_key` is PKCS #8 in PEM.
pub fn sign(
    service: &ServiceId,
    private_key: &Secret,
    now: Timestamp,
    random: &dyn Random,
) -> Result<Secret, ServiceTokenError> {
    let key = EncodingKey::from_ec_pem(private_key.expose().as_bytes())
        .map_err(|error| ServiceTokenError::Key(error.to_string()))?;
    let claims = Claims {
        iss: service.to_string(),
        sub: service.to_string(),
        aud: AUDIENCE.to_owned(),
        iat: now.seconds(),
        exp: now.plus(LIFETIME).seconds(),
        jti: random.hex(8),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key)
        .map(Secret::new)
        .map_err(|error| ServiceTokenError::Key(error.to_string()))
}

/// Which service a token says it is of; nothing is proved by that. `None` when it is no such token.
pub fn claimed_service(token: &str) -> Option<ServiceId> {
    if token.len() > 4_096 || token.split('.').count() != 3 {
        return None;
    }
    jsonwebtoken::dangerous::insecure_decode::<Claims>(token).ok()?.claims.iss.parse().ok()
}

/// Proves that a token was signed with the private half of `public_key` for this audience, and is neither old nor new. Yields its
/// id: each is good once.
pub fn verify(
    token: &str,
    service: &ServiceId,
    public_key: &str,
    now: Timestamp,
) -> Result<String, ServiceTokenError> {
    let key = DecodingKey::from_ec_pem(public_key.as_bytes())
        .map_err(|error| ServiceTokenError::Key(error.to_string()))?;
    let mut validation = Validation::new(Algorithm::ES256);
    // Times are checked below, against the clock that was handed in.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["iss", "aud", "exp"]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[service.as_str()]);
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
        .map_err(|_| ServiceTokenError::Signature)?
        .claims;
    let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
    let (issued, expires) = (at(claims.iat), at(claims.exp));
    let too_long = expires.since(issued) > LIFETIME;
    if too_long || expires.plus(SKEW) < now || now.plus(SKEW) < issued {
        return Err(ServiceTokenError::Time { issued, now });
    }
    Ok(claims.jti)
}

/// Whether a text is a public key that [`verify`] can use.
pub(crate) fn check_public_key(pem: &str) -> Result<(), String> {
    DecodingKey::from_ec_pem(pem.as_bytes())
        .map(drop)
        .map_err(|_| "it is not a P-256 public key in PEM (BEGIN PUBLIC KEY)".to_owned())
}
