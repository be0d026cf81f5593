//! Files and directories in memory, each as it is seen now and as it would be after a power loss.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::Path,
};

use dtr_types::{Random as _, SeededRandom, Timestamp};

use super::Loss;
use crate::disk::FileInfo;

/// What a disk writes at once.
const SECTOR: usize = 512;

const ROOT: u64 = 1;

/// A file.
#[derive(Clone, Default)]
pub(super) struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// What differs, as far as it was not given up by a failed sync.
    dirty: Vec<Range<usize>>,
    pub modified: Timestamp,
    /// Handles on it.
    pub open: u64,
}

impl File {
    pub fn info(&self, inode: u64) -> FileInfo {
        FileInfo { size: self.size(), modified: self.modified, identity: (0, inode), is_file: true }
    }

    pub fn size(&self) -> u64 {
        self.live.len() as u64
    }

    pub fn read(&self, into: &mut Vec<u8>, at: u64) -> usize {
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(self.live.len());
        let count = (self.live.len() - at).min(into.capacity() - into.len());
        into.extend_from_slice(&self.live[at..at + count]);
        count
    }

    pub fn write(&mut self, bytes: &[u8], at: u64) {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let end = at + bytes.len();
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[at..end].copy_from_slice(bytes);
        self.dirty.push(at..end);
    }

    pub fn set_size(&mut self, size: u64) {
        self.live.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
        self.dirty.push(self.live.len()..self.live.len());
    }

    pub fn sync(&mut self) {
        for range in std::mem::take(&mut self.dirty) {
            let end = range.end.min(self.live.len());
            let start = range.start.min(end);
            self.durable.resize(self.live.len(), 0);
            self.durable[start..end].copy_from_slice(&self.live[start..end]);
        }
    }

    /// The system has told of the error once; it will not try these bytes again.
    pub fn sync_failed(&mut self) {
        self.dirty.clear();
    }

    fn crash(&mut self, random: Option<&SeededRandom>) {
        self.open = 0;
        let survived = match random {
            Some(random) if !self.dirty.is_empty() => self.torn(random),
            _ => self.durable.clone(),
        };
        self.dirty.clear();
        self.durable.clone_from(&survived);
        self.live = survived;
    }

    /// Either size, and of each dirty sector either content; a new one may also be zero.
    fn torn(&self, random: &SeededRandom) -> Vec<u8> {
        let mut survived = self.durable.clone();
        if coin(random) {
            survived.resize(self.live.len(), 0);
        }
        for range in &self.dirty {
            let mut start = range.start;
            while start < range.end {
                let end = (start / SECTOR * SECTOR + SECTOR).min(range.end);
                if coin(random) && end <= survived.len() && end <= self.live.len() {
                    survived[start..end].copy_from_slice(&self.live[start..end]);
                }
                start = end;
            }
        }
        survived
    }
}

fn coin(random: &SeededRandom) -> bool {
    random.bytes::<1>()[0] & 1 == 1
}

#[derive(Default, Clone)]
struct Dir {
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
}

impl Dir {
    fn crash(&mut self, random: Option<&SeededRandom>) {
        let mut survived = self.durable.clone();
        if let Some(random) = random {
            let names: BTreeSet<&String> = self.live.keys().chain(self.durable.keys()).collect();
            for name in names {
                match (self.live.get(name), self.durable.get(name)) {
                    (live, durable) if live == durable || !coin(random) => {}
                    (Some(live), _) => {
                        survived.insert(name.clone(), *live);
                    }
                    (None, _) => {
                        survived.remove(name);
                    }
                }
            }
        }
        self.durable.clone_from(&survived);
        self.live = survived;
    }
}

/// The whole of it. Inodes are numbered in the order in which they are made.
#[derive(Clone)]
pub(super) struct Tree {
    files: BTreeMap<u64, File>,
    dirs: BTreeMap<u64, Dir>,
    last_inode: u64,
    /// Whether a name went since [`Tree::forget_unnamed`].
    pub unnamed: bool,
    pub restarts: u64,
    pub capacity: Option<u64>,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            last_inode: ROOT,
            unnamed: false,
            restarts: 0,
            capacity: None,
        }
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Tree {
    pub fn used(&self) -> u64 {
        self.files.values().map(File::size).sum()
    }

    pub fn file(&mut self, inode: u64) -> io::Result<&mut File> {
        self.files.get_mut(&inode).ok_or_else(missing)
    }

    pub fn sync_failed(&mut self, path: &Path) {
        if let Ok(inode) = self.file_at(path)
            && let Some(file) = self.files.get_mut(&inode)
        {
            file.sync_failed();
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut inode = ROOT;
        for part in path {
            let dir = self.dirs.get(&inode).ok_or(io::ErrorKind::NotADirectory)?;
            let name = part.to_str().ok_or_else(missing)?;
            inode = *dir.live.get(name).ok_or_else(missing)?;
        }
        Ok(inode)
    }

    pub fn file_at(&self, path: &Path) -> io::Result<u64> {
        let inode = self.find(path)?;
        if self.files.contains_key(&inode) {
            Ok(inode)
        } else {
            Err(io::ErrorKind::IsADirectory.into())
        }
    }

    fn dir_at(&mut self, path: &Path) -> io::Result<&mut Dir> {
        let inode = self.find(path)?;
        self.dirs.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotADirectory.into())
    }

    /// The directory that holds `path`, and its name there.
    fn parent(&mut self, path: &Path) -> io::Result<(&mut Dir, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?.to_owned();
        let dir = self.dir_at(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name))
    }

    fn insert(&mut self, path: &Path, inode: u64) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        if dir.live.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        dir.live.insert(name, inode);
        Ok(())
    }

    pub fn create_file(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.last_inode + 1;
        self.insert(path, inode)?;
        self.last_inode = inode;
        self.files.insert(inode, File::default());
        Ok(())
    }

    pub fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.last_inode + 1;
        self.insert(path, inode)?;
        self.last_inode = inode;
        self.dirs.insert(inode, Dir::default());
        Ok(())
    }

    pub fn info(&self, path: &Path) -> io::Result<FileInfo> {
        let inode = self.find(path)?;
        Ok(self.files.get(&inode).map_or(
            FileInfo {
                size: 0,
                modified: Timestamp::default(),
                identity: (0, inode),
                is_file: false,
            },
            |file| file.info(inode),
        ))
    }

    pub fn names(&mut self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.dir_at(path)?.live.keys().cloned().collect())
    }

    pub fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.file_at(from)?;
        self.insert(to, inode)
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.file_at(from)?;
        if self.find(to).is_ok_and(|other| other == inode) {
            return Ok(());
        }
        let (dir, name) = self.parent(to)?;
        let replaced = dir.live.insert(name, inode);
        self.unnamed |= replaced.is_some();
        let (dir, name) = self.parent(from)?;
        dir.live.remove(&name);
        Ok(())
    }

    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file_at(path)?;
        self.unnamed = true;
        let (dir, name) = self.parent(path)?;
        dir.live.remove(&name);
        Ok(())
    }

    pub fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        if !self.dir_at(path)?.live.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = self.parent(path)?;
        dir.live.remove(&name);
        Ok(())
    }

    pub fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.dir_at(path)?;
        dir.durable.clone_from(&dir.live);
        Ok(())
    }

    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        self.walk(ROOT, "", &mut found);
        found
    }

    fn walk(&self, inode: u64, prefix: &str, found: &mut Vec<(String, Vec<u8>)>) {
        let Some(dir) = self.dirs.get(&inode) else { return };
        for (name, inode) in &dir.live {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            match self.files.get(inode) {
                Some(file) => found.push((path, file.live.clone())),
                None => self.walk(*inode, &path, found),
            }
        }
    }

    /// Applies a power loss (or the death of the process only).
    pub fn crash(&mut self, loss: Loss) {
        self.restarts += 1;
        if loss == Loss::Nothing {
            for file in self.files.values_mut() {
                file.open = 0;
            }
            self.forget_unnamed();
            return;
        }
        let random = match loss {
            Loss::Some(seed) => Some(SeededRandom::new(seed)),
            _ => None,
        };
        self.dirs.values_mut().for_each(|dir| dir.crash(random.as_ref()));
        self.files.values_mut().for_each(|file| file.crash(random.as_ref()));
        self.forget_unnamed();
    }

    /// Drops content that has no name any more, neither now nor after a power loss, and is not open.
    pub fn forget_unnamed(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        for dir in self.dirs.values() {
            named.extend(dir.live.values().chain(dir.durable.values()));
        }
        self.dirs.retain(|inode, _| named.contains(inode));
        self.files.retain(|inode, file| file.open > 0 || named.contains(inode));
        self.unnamed = false;
    }
}
