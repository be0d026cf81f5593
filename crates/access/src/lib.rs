//! Who may do what: the permission matrix, permits, bearer tokens, access tokens.
