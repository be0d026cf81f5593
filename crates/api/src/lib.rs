//! The /api/v0 face: repositories, tags, access, tokens, events, settings, status; OpenAPI.
