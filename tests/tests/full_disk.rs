//! A disk that is full ends the build, not the daemon; once there is room the same build succeeds.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use cairn_tests::{Cairn, Daemon, Image, Lab, Need};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A small file system of its own, gone when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir(&path)?;
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(c"size=96m,mode=755"))
            .context("failed to mount a tmpfs")?;
        Ok(Self { path })
    }

    /// Leaves no room; the room comes back when the file is removed.
    fn fill(&self) -> anyhow::Result<PathBuf> {
        let path = self.path.join("ballast");
        let mut file = File::create(&path)?;
        let block = vec![0x5a_u8; 1 << 16];
        while file.write_all(&block).is_ok() {}
        // Something is left for names and small tables, as on a real disk that has just run full.
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(1 << 20))?;
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = unmount(&self.path, UnmountFlags::DETACH);
    }
}

#[test]
fn a_build_fails_for_want_of_room_and_succeeds_once_there_is_some() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let disk = SmallDisk::mount(lab.path("disk"))?;
    let config = cairn_tests::lab::mirror_config(&cairn_tests::lab::base_registry()?);
    let mut daemon = Daemon::start_with(&lab, &disk.path.join("root"), &config)?;
    let cairn = Cairn::with(&lab, &daemon);
    let output = lab.path("image.tar");

    let known = context(&lab, "known", "FROM scratch\nCOPY file /kept\n")?;
    cairn.build([&known])?;

    let ballast = disk.fill()?;
    let big = context(&lab, "big", "FROM alpine\nRUN dd if=/dev/zero of=/big bs=1M count=20\n")?;
    let outcome = cairn.try_build([&big])?;
    ensure!(outcome.code == 1, "exit code {}:\n{}", outcome.code, outcome.remarks);
    ensure!(
        outcome.remarks.to_lowercase().contains("no space left on device"),
        "{}",
        outcome.remarks
    );
    ensure!(daemon.is_running(), "the daemon is gone:\n{}", daemon.log());

    std::fs::remove_file(ballast)?;
    let destination = format!("type=oci,dest={}", output.display());
    cairn.build(["-o", &destination, &big.display().to_string()])?;
    Image::from_oci(&lab, &output)?.expect_files(&["/big", "/bin/busybox"], &[])?;
    let again = cairn.build([&known])?;
    ensure!(
        again.progress.executed().is_empty(),
        "what was known is lost: {:?}",
        again.progress.executed()
    );

    // The step itself runs out of room: that is the step's failure, told as such.
    let huge = context(
        &lab,
        "huge",
        "FROM alpine\nRUN dd if=/dev/zero of=/huge bs=1M count=500\n",
    )?;
    let outcome = cairn.try_build([&huge])?;
    ensure!(
        outcome.code == 1 && outcome.remarks.contains("No space left on device"),
        "{}",
        outcome.remarks
    );
    cairn.build([&context(&lab, "last", "FROM alpine\nRUN echo last > /last\n")?])?;
    ensure!(daemon.stop()?.success(), "{}", daemon.log());
    Ok(())
}

fn context(lab: &Lab, name: &str, dockerfile: &str) -> anyhow::Result<PathBuf> {
    lab.files(name, &[("Dockerfile", dockerfile), ("file", "text")])
}
