//! Files for logs that are too much for memory.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_solver::progress::{Spool, Spools};

/// A directory of files without names: each is gone with whoever uses it.
#[derive(Debug)]
pub(crate) struct SpoolDir {
    path: PathBuf,
    next: AtomicU64,
}

impl SpoolDir {
    /// Makes the directory, or empties the one that is there: a crash may have left a file that still had its name.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self {
            path,
            next: AtomicU64::new(0),
        })
    }
}

impl Spools for SpoolDir {
    fn create(&self) -> io::Result<Arc<dyn Spool>> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Arc::new(SpoolFile(file)))
    }
}

#[derive(Debug)]
struct SpoolFile(File);

impl Spool for SpoolFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_no_names_and_what_a_crash_left_is_removed() -> io::Result<()> {
        let path = std::env::temp_dir().join(format!("cairnd-spool-test-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        std::fs::write(path.join("0"), "left")?;
        let spools = SpoolDir::open(path.clone())?;
        let (one, two) = (spools.create()?, spools.create()?);
        assert_eq!(std::fs::read_dir(&path)?.count(), 0);
        one.write_at(b"hello ", 0)?;
        two.write_at(b"other", 0)?;
        one.write_at(b"world", 6)?;
        let mut read = [0; 7];
        one.read_at(&mut read, 4)?;
        assert_eq!(&read, b"o world");
        assert_eq!(
            one.read_at(&mut read, 5).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        std::fs::remove_dir(&path)
    }
}
