//! A disk that fails when a test says so: a preloaded library between a process and the system.
//!
//! Linux with glibc and a C compiler only. The library is `tests/support/faulty_disk.c`, which tells more.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{fs, io};

/// What the disk does wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Writing fails with ENOSPC.
    Full,
    /// Writing fails with EIO.
    BrokenWrites,
    /// Syncing fails with EIO.
    BrokenSyncs,
    /// The so-manieth write from now on is written by half, and the process dies as by `kill -9`.
    TornWrite(u32),
}

/// The faults of one process's disk.
#[derive(Debug)]
pub struct FaultyDisk {
    affected: OsString,
    control: PathBuf,
    /// Removes the control file in the end; it is another process's if this one runs on the disk itself.
    _directory: Option<tempfile::TempDir>,
}

impl FaultyDisk {
    /// A disk whose files in `directory` fail when told to. At first nothing fails.
    pub fn new(directory: &Path) -> Self {
        Self::affecting(directory.into())
    }

    /// A disk on which just `file` fails when told to, and its neighbours do not.
    pub fn with_file(file: &Path) -> Self {
        let mut affected = file.as_os_str().to_owned();
        affected.push("$");
        Self::affecting(affected)
    }

    fn affecting(affected: OsString) -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        Self { affected, control: directory.path().join("fault"), _directory: Some(directory) }
    }

    /// The disk that this process was started with, if it was started with one.
    pub fn of_this_process() -> Option<Self> {
        let affected = std::env::var_os("FAULTY_DISK_DIRECTORY")?;
        let control = std::env::var_os("FAULTY_DISK_CONTROL")?.into();
        Some(Self { affected, control, _directory: None })
    }

    /// The environment that a process needs to have this disk.
    pub fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("LD_PRELOAD", library().into()),
            ("FAULTY_DISK_DIRECTORY", self.affected.clone()),
            ("FAULTY_DISK_CONTROL", self.control.clone().into()),
        ]
    }

    /// Lets the disk fail, from the next call on.
    pub fn set(&self, fault: Fault) {
        let line = match fault {
            Fault::Full => "write ENOSPC".into(),
            Fault::BrokenWrites => "write EIO".into(),
            Fault::BrokenSyncs => "sync EIO".into(),
            Fault::TornWrite(number) => format!("torn {number}"),
        };
        // Renamed into its place, so that no half of it is ever read.
        let new = self.control.with_extension("new");
        fs::write(&new, line).and_then(|()| fs::rename(&new, &self.control)).expect("it can be written");
    }

    /// Lets the disk work again.
    pub fn heal(&self) {
        match fs::remove_file(&self.control) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("the fault stays set: {error}"),
            _ => {}
        }
    }
}

/// The library, compiled once for all tests of a process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let path = directory.path().join("faulty_disk.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/faulty_disk.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&path)
            .arg(source)
            .status()
            .expect("a C compiler is installed as `cc`");
        assert!(status.success(), "`faulty_disk.c` compiles");
        (directory, path)
    });
    path
}
