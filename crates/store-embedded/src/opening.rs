//! Opening the storage: for writing, or to read only while it cannot be written; and how much room on its disk is kept.

use std::sync::{Arc, atomic::AtomicU64};

use dtr_store::StoreError;
use redb::{Database, ReadableTable as _};

use crate::{
    Options,
    backend::{Backend, BackendFactory},
    fault::Fault,
    lease::Leases,
    overlay::Overlay,
    record::{CHANGES, CURRENT, FORMAT, FORMAT_NUMBER, HISTORY, LEASED, LEASES, META},
    view::View,
};

/// Why content is refused with so much room left, if it is.
pub(crate) fn refused_content(free: Option<u64>, reserve: u64) -> Option<String> {
    let free = free.filter(|free| *free < reserve)?;
    let mib = |bytes: u64| bytes >> 20;
    Some(format!(
        "{} MiB are left on its disk, of which {} MiB are kept for deletions, collection, logins and backups",
        mib(free),
        mib(reserve)
    ))
}

/// Opens the storage so that nothing is written to it.
pub(crate) fn open_to_read(
    factory: &dyn BackendFactory,
    options: &Options,
) -> Result<(Database, View), Fault> {
    let overlay = Overlay::new(factory.open_to_read()?)?;
    let database =
        redb::Builder::new().set_cache_size(options.cache_bytes).create_with_backend(overlay)?;
    let view = View::open(&database)?;
    Ok((database, view))
}

/// Opens the storage, makes the tables when it is new, and reads the state.
pub(crate) fn open_database(
    factory: &dyn BackendFactory,
    options: &Options,
    length: &Arc<AtomicU64>,
) -> Result<(Database, Leases, View), StoreError> {
    let open = || -> Result<_, Fault> {
        let backend = Backend::new(factory.open()?, length.clone());
        // What a killed process, or this one before an error, wrote without an fsync can be read now, and would be gone
        // after a power loss: nothing is shown to anybody before it is durable.
        redb::StorageBackend::sync_data(&backend)?;
        let database = redb::Builder::new()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(backend)?;
        prepare(&database, options)?;
        let leases = Leases::load(&database, options.clock.running().passed)?;
        let view = View::open(&database)?;
        Ok((database, leases, view))
    };
    open().map_err(StoreError::from)
}

/// Makes the tables if there are none; refuses a layout that this version does not know.
fn prepare(database: &Database, options: &Options) -> Result<(), Fault> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(options.quick_repair);
    let known = {
        let mut meta = write.open_table(META)?;
        let format = meta.get(FORMAT)?.map(|n| n.value());
        match format {
            None => drop(meta.insert(FORMAT, FORMAT_NUMBER)?),
            Some(format) if format > FORMAT_NUMBER => {
                return Err(Fault::Damaged("it was written by a newer version of the program"));
            }
            Some(_) => {}
        }
        format.is_some()
    };
    if known {
        return Ok(write.abort()?);
    }
    write.open_table(CURRENT)?;
    write.open_table(HISTORY)?;
    write.open_table(CHANGES)?;
    write.open_table(LEASES)?;
    write.open_table(LEASED)?;
    Ok(write.commit()?)
}
