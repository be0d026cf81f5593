//! The identity face: /enzi/v0, /id, /auth/login.
