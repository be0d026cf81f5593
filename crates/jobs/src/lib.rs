//! Background work: collection, compaction, upload expiry, event retention.
