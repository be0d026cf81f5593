//! Backup, restore, verify: between the catalog and an archive.
