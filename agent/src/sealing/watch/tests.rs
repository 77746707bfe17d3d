//! Looks at an outbox on a disk that does not do everything: each drop is stuck by itself, and goes
//! on by itself.

mod barred;

use std::fs;
use std::io::{self, ErrorKind};
use std::time::Duration;

use passerelle_disk::Disk;
use passerelle_host::{Clock, HostClock};
use passerelle_proto::PackageId;

use self::barred::BarredDisk;
use super::*;
use crate::config::AgentConfig;
use crate::daemon::{Ground, load, prepare};
use crate::lab::{LabOptions, Laboratory, PRODUCER};
use crate::outgoing::Outgoing;

const FIRST: &str = "observation-iris";
const LATER: &str = "signalement";
/// Longer than anything waits until it is tried again.
const A_WHILE: Duration = Duration::from_secs(120);

/// An agent that nobody starts: the test looks.
struct Scene {
    _dir: tempfile::TempDir,
    disk: Arc<BarredDisk>,
    node: Arc<Node>,
    watch: Watch,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = LabOptions::new(HostClock.now());
        let lab = Laboratory::create(&dir.path().join("lab"), &options).unwrap();
        let config = AgentConfig::load(&lab.party(PRODUCER).unwrap().agent.config).unwrap();
        let barred = Arc::new(BarredDisk::default());
        let disk: Arc<dyn Disk> = barred.clone();
        let materials = load(&disk, &config).unwrap();
        let clock = Arc::new(HostClock);
        let (node, _) = prepare(&Ground { disk, clock }, config, materials).unwrap();
        let watch = Watch::new(&node);
        Self {
            _dir: dir,
            disk: barred,
            node,
            watch,
        }
    }

    fn drop_file(&self, flow: &str, name: &str) -> PathBuf {
        let path = self.node.store.outbox().join(flow).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"code;nom\n21166;Chenove\n").unwrap();
        path
    }

    /// Looks until all that can settle has settled, and all that waits was tried again.
    async fn look(&mut self) {
        self.watch.look();
        tokio::time::advance(A_WHILE).await;
        self.watch.look();
    }

    /// Names of what was sealed.
    fn sealed(&self) -> Vec<String> {
        let all = self.node.outgoing.all().into_iter();
        let mut names: Vec<_> = all
            .map(|sent| sent.job.record().unwrap().unwrap().name)
            .collect();
        names.sort();
        names
    }

    /// The only place where something is stuck, and why.
    fn stuck(&self) -> (PathBuf, String) {
        let mut all = self.node.outgoing.stuck.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn rejected(&self) -> Vec<PathBuf> {
        let store = &self.node.store;
        let day = store.rejected().join(self.node.now().date());
        store.disk().entries(&day).unwrap()
    }

    fn is_all_well(&self) {
        assert_eq!(self.node.outgoing.stuck.all(), []);
        assert_eq!(self.rejected(), Vec::<PathBuf>::new());
        let sealed = self.node.outgoing.all().len();
        assert_eq!(jobs(&self.node.store).unwrap().len(), sealed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_that_cannot_be_claimed_holds_no_other_up_and_is_told_until_it_is_mended() {
    let troubles = [
        ("list", ErrorKind::PermissionDenied, "own it"),
        ("open", ErrorKind::PermissionDenied, "own it"),
        ("rename", ErrorKind::PermissionDenied, "own it"),
        ("rename", ErrorKind::CrossesDevices, "on one file system"),
    ];
    for (barred, kind, remedy) in troubles {
        let mut scene = Scene::new();
        let inside = scene.drop_file(FIRST, "bad/a.csv");
        let bad = inside.parent().unwrap().to_owned();
        let place = bad.clone();
        scene.disk.bar(move |operation, path| {
            let here = path.starts_with(&place) && operation == barred;
            if here { Err(kind.into()) } else { Ok(()) }
        });
        scene.drop_file(FIRST, "good.csv");
        scene.drop_file(LATER, "later.csv");
        scene.look().await;
        assert_eq!(scene.sealed(), ["good.csv", "later.csv"], "{barred} {kind}");
        let (path, why) = scene.stuck();
        assert_eq!(path, bad);
        let words = [barred, bad.to_str().unwrap(), &kind.to_string(), remedy];
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
        scene.look().await;
        assert_eq!(scene.stuck(), (path, why), "it is tried again, and stays");
        scene.disk.bar(|_, _| Ok(()));
        scene.look().await;
        assert_eq!(scene.sealed(), ["bad", "good.csv", "later.csv"]);
        scene.is_all_well();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_drop_that_its_owner_takes_back_is_not_told_any_more() {
    let mut scene = Scene::new();
    let path = scene.drop_file(FIRST, "t.csv");
    scene.disk.bar(|operation, _| match operation {
        "rename" => Err(ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    });
    scene.look().await;
    assert_eq!(scene.stuck().0, path);
    fs::remove_file(path).unwrap();
    scene.watch.look();
    scene.is_all_well();
}

#[tokio::test(start_paused = true)]
async fn a_flows_folder_on_another_file_system_is_named_with_the_remedy() {
    let mut scene = Scene::new();
    let mounted = scene.node.store.outbox().join(FIRST);
    scene.disk.mount(Some(&mounted));
    scene.drop_file(FIRST, "t.csv");
    scene.drop_file(LATER, "later.csv");
    scene.look().await;
    assert_eq!(scene.sealed(), ["later.csv"]);
    let (path, why) = scene.stuck();
    assert_eq!(path, mounted);
    assert!(why.contains("mount the whole"), "{why}");
    scene.disk.mount(None);
    scene.look().await;
    assert_eq!(scene.sealed(), ["later.csv", "t.csv"]);
    scene.is_all_well();
}

#[tokio::test(start_paused = true)]
async fn a_link_that_cannot_be_moved_away_leaves_no_report_behind_at_every_look() {
    let mut scene = Scene::new();
    let link = scene.node.store.outbox().join(FIRST).join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let barred = link.clone();
    scene.disk.bar(move |operation, path| match operation {
        "rename" if path == barred => Err(ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    });
    scene.drop_file(LATER, "later.csv");
    for _ in 0..3 {
        scene.look().await;
        assert_eq!(scene.stuck().0, link);
        assert_eq!(scene.rejected(), Vec::<PathBuf>::new());
    }
    assert_eq!(scene.sealed(), ["later.csv"]);
    scene.disk.bar(|_, _| Ok(()));
    scene.look().await;
    assert_eq!(scene.rejected().len(), 1);
    assert_eq!(scene.node.outgoing.stuck.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_written_anew_while_another_is_sealed_is_not_claimed_before_it_has_settled() {
    let mut scene = Scene::new();
    let begun = scene.drop_file(FIRST, "first.csv");
    let second = scene.drop_file(FIRST, "second.csv");
    let work = scene.node.store.work();
    let rewritten = second.clone();
    scene.disk.bar(move |operation, path| {
        if operation == "open" && path.starts_with(&work) {
            fs::write(&rewritten, b"half of it").unwrap();
        }
        Ok(())
    });
    scene.look().await;
    assert_eq!(scene.sealed(), ["first.csv"]);
    assert!(!begun.exists());
    assert_eq!(fs::read(&second).unwrap(), b"half of it");
    scene.disk.bar(|_, _| Ok(()));
    scene.look().await;
    assert_eq!(scene.sealed(), ["first.csv", "second.csv"]);
    scene.is_all_well();
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_does_not_do_while_a_drop_is_sealed_is_tried_again_and_rejects_nothing() {
    const EIO: i32 = 5;
    const EMFILE: i32 = 24;
    const EDQUOT: i32 = 122;
    let troubles = [
        ("open", "bad/a.csv", EIO),
        ("open", "bad/a.csv", EMFILE),
        ("read", "bad/package.toml", EIO),
        ("create", "package.tmp", EDQUOT),
        ("list", "source/bad", EIO),
    ];
    for (barred, place, errno) in troubles {
        let mut scene = Scene::new();
        let path = scene.drop_file(FIRST, "bad/a.csv");
        let instructions = path.with_file_name(crate::INSTRUCTIONS);
        fs::write(instructions, b"title = \"t\"\n").unwrap();
        let work = scene.node.store.work();
        // The first job of all: that of the bad one.
        let only = std::sync::Mutex::new(None);
        let first = move |path: &Path| {
            let job = path.strip_prefix(&work).ok()?.iter().next()?.to_owned();
            Some(*only.lock().unwrap().get_or_insert(job.clone()) == job)
        };
        scene.disk.bar(move |operation, path| {
            let bad = operation == barred && path.ends_with(place);
            match bad && first(path) == Some(true) {
                true => Err(io::Error::from_raw_os_error(errno)),
                false => Ok(()),
            }
        });
        scene.drop_file(LATER, "later.csv");
        scene.look().await;
        assert_eq!(scene.sealed(), ["later.csv"], "{barred} {place}");
        assert_eq!(scene.rejected(), Vec::<PathBuf>::new());
        let (path, why) = scene.stuck();
        assert_eq!(path.parent().unwrap(), scene.node.store.work());
        let reason = io::Error::from_raw_os_error(errno).to_string();
        assert!(why.contains(&reason), "{why}");
        scene.look().await;
        assert_eq!(scene.stuck(), (path, why));
        scene.disk.bar(|_, _| Ok(()));
        scene.look().await;
        assert_eq!(scene.sealed(), ["bad", "later.csv"], "{barred} {place}");
        scene.is_all_well();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_rejected_after_its_manifest_was_written_is_no_package_at_the_next_start() {
    let mut scene = Scene::new();
    scene.drop_file(FIRST, "bad/a.csv");
    scene.disk.bar(|operation, path| match operation {
        "rename" if path.ends_with("package.tmp") => Err(io::Error::from_raw_os_error(5)),
        _ => Ok(()),
    });
    scene.look().await;
    let job = jobs(&scene.node.store).unwrap().remove(0);
    assert!(read_manifest(&job).is_some() && job.description().exists());
    let dropped = job.dropped().unwrap().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dropped.join("link")).unwrap();
    scene.look().await;
    let rejected = scene.rejected();
    let [rejected] = rejected.as_slice() else {
        panic!("{rejected:?}");
    };
    let job = Job::at(scene.node.store.disk(), rejected.clone());
    assert!(job.dropped().unwrap().is_some());
    assert!(!job.description().exists());
    let loaded = Outgoing::load(&scene.node.store).unwrap();
    assert_eq!(loaded.packages(), Vec::<PackageId>::new());
}

#[tokio::test(start_paused = true)]
async fn a_flow_of_a_new_convention_gets_its_folder_without_a_restart() {
    let mut scene = Scene::new();
    scene.watch.look();
    let folder = scene.node.store.outbox().join(LATER);
    fs::remove_dir(&folder).unwrap();
    scene.watch.look();
    assert!(!folder.exists(), "no new convention");
    scene.watch.convention = Some(Digest::of(b"the convention before this one"));
    scene.watch.look();
    assert!(folder.is_dir());
}
