//! The backup archive's tar format alone: writing, reading, verifying.
