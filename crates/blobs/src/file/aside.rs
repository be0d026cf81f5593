//! Removing in two steps. A removal by name alone could take bytes that were published under it a moment before, by
//! whoever pushes the same content again: a process may be frozen, or its file server away, between its decision and the
//! removal. So the file first gets a name that nobody else uses, in one step, and only that name is ever removed. What
//! was moved wrongly moves back; until then it is read where it is.

use std::{io, path::Path};

use dtr_types::Digest;

use super::{Inner, failed, layout, layout::BlobPath, publish::no_links, unless_missing};
use crate::{Aside, BlobError};

/// How often a blob is looked for that moves between its two places.
const LOOKS: usize = 8;

impl Inner {
    pub(super) fn set_aside(&self, digest: Digest) -> Result<Aside, BlobError> {
        let aside = Aside { digest, token: self.options.random.hex(8) };
        let (from, to) = (BlobPath::new(&digest), layout::aside_path(&digest, &aside.token));
        let dir = Path::new(layout::REMOVED);
        self.create_dirs(dir).map_err(failed("make the directory", dir))?;
        if unless_missing(self.disk.rename(&from.data, &to))
            .map_err(failed("set aside", &from.data))?
        {
            self.disk.sync_dir(dir).map_err(failed("sync", dir))?;
        }
        // Fails when somebody is publishing the same digest again: then the directory is wanted.
        let _ = self.disk.remove_dir(&from.folder);
        Ok(aside)
    }

    pub(super) fn put_back(&self, aside: &Aside) -> Result<(), BlobError> {
        let from = layout::aside_path(&aside.digest, &aside.token);
        match self.disk.info(&from) {
            Ok(_) => {}
            // Somebody else has, or there was nothing to set aside.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("look at", &from)(e)),
        }
        let placed = self.place(&from, &aside.digest, |to| match self.disk.link(&from, to) {
            // It was published again: the same bytes.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) if no_links(&e) => self.disk.rename(&from, to),
            done => done,
        });
        match placed {
            Ok(()) => {}
            // Put back by somebody else meanwhile.
            Err(_) if matches!(self.disk.info(&from), Err(e) if e.kind() == io::ErrorKind::NotFound) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        unless_missing(self.disk.remove_file(&from)).map_err(failed("remove", &from)).map(drop)
    }

    pub(super) fn remove_aside(&self, aside: &Aside) -> Result<bool, BlobError> {
        let path = layout::aside_path(&aside.digest, &aside.token);
        unless_missing(self.disk.remove_file(&path)).map_err(failed("remove", &path))
    }

    pub(super) fn put_back_all(&self) -> Result<u64, BlobError> {
        let mut count = 0;
        for name in self.sorted(Path::new(layout::REMOVED))? {
            let Some((digest, token)) = layout::parse_aside(&name) else { continue };
            self.put_back(&Aside { digest, token: token.to_owned() })?;
            count += 1;
        }
        Ok(count)
    }

    /// Does something to a blob's file where it is: in its place, or set aside. `None` when it is in neither.
    pub(super) fn wherever<T>(
        &self,
        digest: &Digest,
        what: impl Fn(&Path) -> io::Result<T>,
    ) -> Result<Option<T>, BlobError> {
        let data = BlobPath::new(digest).data;
        for _ in 0..LOOKS {
            match what(&data) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => return done.map(Some).map_err(failed("look at", &data)),
            }
            let mut moved = false;
            for name in self.sorted(Path::new(layout::REMOVED))? {
                let Some((_, token)) =
                    layout::parse_aside(&name).filter(|(found, _)| found == digest)
                else {
                    continue;
                };
                let path = layout::aside_path(digest, token);
                match what(&path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => moved = true,
                    done => return done.map(Some).map_err(failed("look at", &path)),
                }
            }
            // Perhaps it has gone back to its place since that was looked at.
            if !moved
                && matches!(self.disk.info(&data), Err(e) if e.kind() == io::ErrorKind::NotFound)
            {
                return Ok(None);
            }
        }
        Ok(None)
    }
}
