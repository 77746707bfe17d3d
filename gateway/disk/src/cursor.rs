//! A file as a stream, for code that reads and writes from front to back.

use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::disk::DiskFile;

/// A file with a place in it. Every write goes to the disk at once: buffer small ones.
pub struct FileCursor {
    file: Box<dyn DiskFile>,
    at: u64,
}

impl FileCursor {
    /// Begins at the front.
    pub fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, at: 0 }
    }

    /// The file, without the place.
    pub fn into_file(self) -> Box<dyn DiskFile> {
        self.file
    }

    /// The file.
    pub fn file(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }
}

impl Read for FileCursor {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for FileCursor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for FileCursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let moved = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.length()?.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = moved.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
