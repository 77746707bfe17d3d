//! A package in a file of its own, as far as its bytes can be believed.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use passerelle_disk::DiskFile;
use passerelle_proto::v1::Section;
use passerelle_proto::{PackLayout, Stored};

/// A sealed or arrived package, open for reading.
#[derive(Clone)]
pub(crate) struct PackFile {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) layout: PackLayout,
}

impl Stored for PackFile {
    fn read(&self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
        let start = self.layout.offset_of(section).unwrap_or(0) + offset;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}
