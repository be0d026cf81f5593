//! The mark of the storage: a small file at its root.

use std::{
    io::{self, IoSlice},
    path::Path,
};

use dtr_types::StorageMark;

use super::{Inner, failed, layout, unless_missing};
use crate::{BlobError, disk::Open};

/// More than any mark has.
const BYTES_MAX: usize = 16 * 1024;

impl Inner {
    pub(super) fn mark(&self) -> Result<Option<StorageMark>, BlobError> {
        let path = Path::new(layout::MARK);
        let file = match self.disk.open(path, Open::Read) {
            Ok(file) => file,
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(failed("open", path)(e)),
        };
        let mut text = Vec::with_capacity(BYTES_MAX);
        while text.len() < BYTES_MAX {
            let at = text.len() as u64;
            match file.read_at(&mut text, at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", path)(e)),
            }
        }
        let mark = StorageMark::parse(&text).map_err(|reason| {
            failed("understand", path)(io::Error::new(io::ErrorKind::InvalidData, reason))
        })?;
        Ok(Some(mark))
    }

    pub(super) fn set_mark(&self, mark: &StorageMark) -> Result<(), BlobError> {
        let (part, path) = (Path::new(layout::MARK_PART), Path::new(layout::MARK));
        self.write_mark(part, path, mark.to_text().as_bytes()).map_err(failed("write", path))
    }

    fn write_mark(&self, part: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
        unless_missing(self.disk.remove_file(part))?;
        let file = self.disk.open(part, Open::Create)?;
        let mut written = 0;
        while written < text.len() {
            match file.write_at(&[IoSlice::new(&text[written..])], written as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => written += count,
            }
        }
        file.sync()?;
        self.disk.rename(part, path)?;
        self.disk.sync_dir(Path::new(""))
    }
}
