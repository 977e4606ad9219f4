//! The random seed behind the keys of one user, kept from build to build.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{Mode, OFlags};

/// The file's name, beside the Docker configuration.
const FILE: &str = ".cairn_token_seed";
const LEN: usize = 32;

/// A user's seed. Who knows it can pass for the user.
pub(super) struct Seed([u8; LEN]);

/// There is no randomness to make a seed of.
#[derive(Debug, thiserror::Error)]
#[error("failed to make a seed for token keys")]
pub(super) struct SeedError;

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Seed {
    /// Makes a seed that lasts as long as the process.
    pub(super) fn random() -> Result<Self, SeedError> {
        let mut bytes = [0; LEN];
        SystemRandom::new().fill(&mut bytes).map_err(|_| SeedError)?;
        Ok(Self(bytes))
    }

    /// The seed kept in `directory`, made now if there is none. One that cannot be kept, or that others could
    /// have read or written, is replaced by one for this process: tokens are then fetched anew, nothing else.
    pub(super) fn kept_in(directory: &Path) -> Result<Self, SeedError> {
        let path = directory.join(FILE);
        let mut outcome = read(&path);
        if is(&outcome, io::ErrorKind::NotFound) {
            let fresh = Self::random()?;
            outcome = publish(directory, &path, &fresh).map(|()| fresh);
            if is(&outcome, io::ErrorKind::AlreadyExists) {
                // Another process was faster.
                outcome = read(&path);
            }
        }
        outcome.or_else(|error| {
            tracing::debug!(path = %path.display(), %error, "token seed is not kept");
            Self::random()
        })
    }

    #[cfg(test)]
    pub(super) fn fixed() -> Self {
        Self([7; LEN])
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

fn is<T>(outcome: &io::Result<T>, kind: io::ErrorKind) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == kind)
}

fn read(path: &Path) -> io::Result<Seed> {
    // Neither a link to somebody else's file nor a pipe that blocks.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    let is_ours = metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other("it is not private"));
    }
    let mut bytes = Vec::with_capacity(LEN + 1);
    file.take(LEN as u64 + 1).read_to_end(&mut bytes)?;
    let seed = bytes.try_into();
    seed.map(Seed).map_err(|_| io::Error::other("it has the wrong size"))
}

/// Appears whole or not at all, and never in place of another. Temporary files are private from the start.
fn publish(directory: &Path, path: &Path, seed: &Seed) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(FILE).tempfile_in(directory)?;
    file.write_all(seed.expose())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Seed::kept_in(dir.path()).unwrap();
        let second = Seed::kept_in(dir.path()).unwrap();
        assert_eq!(first.expose(), second.expose());
        assert_ne!(first.expose(), [0; LEN]);
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn everybody_at_once_gets_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let seeds: Vec<Seed> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Seed::kept_in(dir.path()).unwrap()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seeds.iter().all(|seed| seed.expose() == seeds[0].expose()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// What is wrong with a file, and what makes one like that.
    type Row<'a> = (&'a str, &'a dyn Fn(&Path));

    #[test]
    fn what_cannot_be_trusted_is_not_used() {
        let seed = [7; LEN];
        let rows: [Row; 4] = [
            ("readable by others", &|path| {
                fs::write(path, seed).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            }),
            ("link", &|path| {
                let target = path.with_extension("target");
                fs::write(&target, seed).unwrap();
                fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
                symlink(target, path).unwrap();
            }),
            ("too short", &|path| {
                fs::write(path, &seed[1..]).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("directory", &|path| fs::create_dir(path).unwrap()),
        ];
        for (name, make) in rows {
            let dir = tempfile::tempdir().unwrap();
            make(&dir.path().join(FILE));
            let found = Seed::kept_in(dir.path()).unwrap();
            assert_ne!(found.expose(), seed, "{name}");
        }
    }

    #[test]
    fn without_a_directory_there_still_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let first = Seed::kept_in(&missing).unwrap();
        assert_ne!(first.expose(), Seed::kept_in(&missing).unwrap().expose());
        assert!(!missing.exists());
    }

    #[test]
    fn does_not_show_itself() {
        assert_eq!(format!("{:?}", Seed::fixed()), "Seed(..)");
    }
}
