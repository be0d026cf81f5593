//! The schemas of records that archives can hold, oldest first, and how those of an older one become today's: line by
//! line, as they are read.

use std::borrow::Cow;

use dtr_archive::Header;
use dtr_catalog::Kind;

use crate::Refusal;

/// The schema that this version writes.
pub const SCHEMA: u32 = 1;

type Migrate = fn(Kind, &[u8]) -> Result<Cow<'_, [u8]>, String>;

/// One schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schema {
    number: u32,
    /// Makes a record of the next schema out of one of this.
    migrate: Migrate,
}

/// Every schema there ever was. Each row leads to the next; the last is today's and leads nowhere.
const SCHEMAS: &[Schema] = &[Schema { number: 1, migrate: |_, json| Ok(Cow::Borrowed(json)) }];

/// The schemas to go through for the records of an archive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration(&'static [Schema]);

impl Migration {
    /// From the archive's schema to today's.
    ///
    /// # Errors
    /// [`Refusal::NewerSchema`], [`Refusal::UnknownSchema`].
    pub(crate) fn of(header: &Header) -> Result<Self, Refusal> {
        let from = SCHEMAS.iter().position(|schema| schema.number == header.schema);
        match from {
            Some(from) => Ok(Self(&SCHEMAS[from..SCHEMAS.len() - 1])),
            None if header.schema > SCHEMA => Err(Refusal::NewerSchema {
                schema: header.schema,
                version: header.version.clone(),
                known: SCHEMA,
            }),
            None => Err(Refusal::UnknownSchema { schema: header.schema }),
        }
    }

    /// Today's form of a record.
    pub(crate) fn apply<'a>(&self, kind: Kind, json: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        let mut json = Cow::Borrowed(json);
        for schema in self.0 {
            let migrated = (schema.migrate)(kind, &json)?.into_owned();
            json = Cow::Owned(migrated);
        }
        Ok(json)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use dtr_archive::{Product, SigningKey};
    use dtr_types::{ClusterId, SeededRandom};

    use super::*;

    fn header(schema: u32) -> Header {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let cluster = ClusterId::random(&SeededRandom::new(1));
        Header { schema, ..Header::new(Product::Dtr, "9.8.7", cluster, &key) }
    }

    #[test]
    fn the_table_ends_with_what_is_written() {
        assert_eq!(SCHEMAS.last().map(|schema| schema.number), Some(SCHEMA));
        assert!(SCHEMAS.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
        let migration = Migration::of(&header(SCHEMA)).unwrap();
        assert_eq!(migration.apply(Kind::Tag, b"{}").unwrap(), &b"{}"[..]);
    }

    #[test]
    fn a_newer_schema_is_refused_by_name() {
        let never = Migration::of(&header(0)).unwrap_err().to_string();
        assert!(never.contains("schema 0") && !never.contains("or newer"), "{never}");
        for schema in [SCHEMA + 1, u32::MAX] {
            let refusal = Migration::of(&header(schema)).unwrap_err().to_string();
            assert!(refusal.contains(&format!("schema {schema}")), "{refusal}");
            assert!(refusal.contains("9.8.7"), "{refusal}");
        }
    }
}
