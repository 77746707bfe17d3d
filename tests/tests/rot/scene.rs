//! Packages on their way, in a laboratory whose files rot.

use std::fs;
use std::path::PathBuf;

use passerelle_disk::FileCursor;
use passerelle_proto::v1::Section;
use passerelle_proto::{PackLayout, UntrustedManifest, VerifiedManifest};
use passerelle_tests::{CAF_AGENT, LIMIT, Process, RunningLab, eventually, noise, quick_options};
use serde_json::Value;

/// A flow that takes any file.
pub const FLOW: &str = "signalement";
/// Bytes of a file whose package has a file of its own in the spool.
pub const LARGE: usize = 700_000;
/// Bytes of a file whose package travels inside its offer.
pub const SMALL: usize = 2_000;
/// Bytes of a file whose package travels in chunks, and lies in a shared segment.
pub const MIDDLING: usize = 100_000;

/// A file that was dropped, and what was sealed of it.
pub struct Sealed {
    pub name: String,
    pub content: Vec<u8>,
    pub job: PathBuf,
    pub manifest: VerifiedManifest,
    pub layout: PackLayout,
    /// The package, byte for byte.
    pub pack: Vec<u8>,
}

impl Sealed {
    /// Where a part of the package begins in a file of a gateway, or of a receiving agent.
    pub fn at(&self, section: Section) -> u64 {
        PackLayout::tight(&self.manifest)
            .offset_of(section)
            .unwrap()
    }

    /// Length of such a file.
    pub fn length(&self) -> u64 {
        PackLayout::tight(&self.manifest).file_len()
    }

    /// Where a part of it begins in the sending agent's own file.
    pub fn at_sender(&self, section: Section) -> u64 {
        self.layout.offset_of(section).unwrap()
    }

    /// The package's first bytes in a shared segment.
    pub fn beginning(&self) -> &[u8] {
        let at = self.at_sender(Section::Wraps) as usize;
        &self.pack[at..at + 64]
    }
}

/// A laboratory with one file dropped after the other.
pub struct Scene {
    pub lab: RunningLab,
    dropped: u64,
}

impl Scene {
    /// Starts these processes.
    pub fn start(processes: &[Process]) -> Self {
        let mut lab = RunningLab::make(&quick_options());
        for process in processes {
            lab.run(*process);
        }
        for process in processes {
            eventually("a daemon's answer", LIMIT, || {
                lab.ask(*process, &["status"])
            });
        }
        Self { lab, dropped: 0 }
    }

    /// Drops a file of noise at the CAF and waits until it is sealed.
    pub fn seal(&mut self, length: usize) -> Sealed {
        self.dropped += 1;
        let name = format!("file-{}.bin", self.dropped);
        let content = noise(length, self.dropped);
        self.lab.drop_file("caf21", FLOW, &name, &content);
        let work = self.lab.party("caf21").agent.directory.join("work");
        let job = eventually("the sealed package", LIMIT, || {
            let jobs = fs::read_dir(&work).ok()?.map(|job| job.unwrap().path());
            let sealed = |job: &PathBuf| {
                job.join("package").is_file() && job.join("source").join(&name).exists()
            };
            jobs.into_iter().find(sealed)
        });
        let pack = fs::read(job.join("package")).unwrap();
        let disk = passerelle_disk::system();
        let file = disk.open(&job.join("package")).unwrap();
        let (layout, signed) = PackLayout::read(&mut FileCursor::new(file)).unwrap();
        let manifest = UntrustedManifest::parse(signed).unwrap().verified_before();
        Sealed {
            name,
            content,
            job,
            manifest,
            layout,
            pack,
        }
    }

    /// The CAF's agent's view of a package.
    pub fn job(&self, sealed: &Sealed) -> Option<Value> {
        let jobs = self.lab.ask(CAF_AGENT, &["queue"])?;
        let id = sealed.manifest.id().to_string();
        let mut jobs = jobs["jobs"].as_array()?.iter();
        jobs.find(|job| job["package"] == id.as_str()).cloned()
    }

    /// Waits until the package is in this state for its recipient.
    pub fn wait_for(&self, sealed: &Sealed, state: &str) {
        eventually(&format!("{} to be {state}", sealed.name), LIMIT, || {
            (self.job(sealed)?["recipients"][0]["state"] == state).then_some(())
        });
    }

    /// Waits until the file has arrived: once, as it was dropped, and receipted.
    pub fn arrives(&self, sealed: &Sealed) {
        let received = self.lab.receive("grand-dijon", FLOW, &sealed.name);
        assert!(received == sealed.content, "{}", sealed.name);
        self.wait_for(sealed, "delivered");
        let files = self.lab.received("grand-dijon", FLOW, &sealed.name);
        assert_eq!(files.len(), 1, "{files:?}");
        let id = sealed.manifest.id().short();
        let is_it = |job: &PathBuf| {
            let name = job.file_name().unwrap().to_string_lossy();
            name.starts_with(&id)
        };
        let job = eventually("the job to be over", LIMIT, || {
            self.lab.all_sent("caf21").into_iter().find(is_it)
        });
        let said = self.lab.statements(&job);
        assert!(
            !said.iter().any(|one| one.starts_with("refused")),
            "{said:?}"
        );
    }

    /// Whether a process has printed all of these in one line.
    pub fn says(&self, process: Process, words: &[&str]) {
        let what = format!("{process:?} to say {words:?}");
        eventually(&what, LIMIT, || {
            let printed = fs::read_to_string(self.lab.log(process)).ok()?;
            let mut lines = printed.lines();
            let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
            found.then_some(())
        });
    }
}
