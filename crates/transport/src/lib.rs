//! Listeners, TLS, certificates, limits, drain, request ids, metrics.
