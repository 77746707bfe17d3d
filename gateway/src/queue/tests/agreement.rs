//! Random logs: both engines agree, and a crash within a batch does no harm.

use proptest::prelude::*;

use super::damage::{damaged, repaired};
use super::retention::{purge_decided, purged};
use super::*;
use passerelle_proto::v1::PurgedPart;

fn any_part() -> impl Strategy<Value = PurgedPart> {
    let parts = [PurgedPart::Chunks, PurgedPart::Head, PurgedPart::Whole];
    prop::sample::select(parts.to_vec())
}

fn any_entry() -> impl Strategy<Value = v1::Entry> {
    let at = || 0..HOPS.len();
    let number = || 0..6_u8;
    prop_oneof![
        3 => (number(), prop::sample::subsequence(vec![0, 1, 2], 1..=3))
            .prop_map(|(number, hops)| accepted(number, &hops)),
        3 => (number(), at(), 0..2_usize).prop_map(|(n, at, who)| delivered(n, at, who)),
        2 => (number(), at()).prop_map(|(n, at)| forwarded(n, at)),
        1 => (number(), at()).prop_map(|(n, at)| refused(n, HOPS[at], vec![], Some(hop(at)))),
        1 => (number(), prop::option::of(at()))
            .prop_map(|(n, at)| entry(Event::Held(hold(n, at)))),
        1 => (number(), prop::option::of(at()))
            .prop_map(|(n, at)| entry(Event::Released(hold(n, at)))),
        1 => (number(), prop::option::of(at()))
            .prop_map(|(n, at)| entry(Event::Retried(hold(n, at)))),
        1 => (number(), any_part()).prop_map(|(n, part)| purge_decided(n, part)),
        1 => (number(), any_part()).prop_map(|(n, part)| purged(n, part)),
        1 => (number(), prop::option::of(at())).prop_map(|(n, at)| damaged(n, at)),
        1 => number().prop_map(repaired),
        // An index belongs to one package, as in a log.
        1 => number().prop_map(|n| resent(n, &Hop::agent(party("caf21")), 1000 + u64::from(n))),
        1 => prop::collection::vec(prop_oneof![0..30_u64, 1000..1006_u64], 1..4)
            .prop_map(|indices| handed_over(&Hop::agent(party("caf21")), indices)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<v1::Entry>),
    Claim(usize, Class, usize),
    Settle(usize, u8),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    let class = prop::sample::select(Class::ALL.to_vec());
    prop_oneof![
        6 => prop::collection::vec(any_entry(), 1..5).prop_map(Step::Append),
        2 => (0..HOPS.len(), class, 1..4_usize).prop_map(|(h, c, n)| Step::Claim(h, c, n)),
        2 => (0..8_usize, 0..3_u8).prop_map(|(which, how)| Step::Settle(which, how)),
        1 => Just(Step::Reopen),
    ]
}

/// Both engines side by side, with the log they follow.
struct Pair {
    dir: tempfile::TempDir,
    sled: Option<SledQueue>,
    memory: MemQueue,
    log: Vec<v1::Entry>,
    leases: Vec<(LeaseToken, LeaseToken)>,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            sled: Some(SledQueue::open(&passerelle_disk::system(), dir.path()).unwrap()),
            dir,
            memory: MemQueue::new(),
            log: Vec::new(),
            leases: Vec::new(),
            now: Instant::now(),
        }
    }

    fn step(&mut self, step: Step) {
        let sled = self.sled.take().unwrap();
        self.sled = Some(match step {
            Step::Append(entries) => {
                let first = self.log.len() as u64;
                self.log.extend(entries.iter().cloned());
                let root = root(self.log.len() as u64);
                sled.apply(first, &entries, root).unwrap();
                self.memory.apply(first, &entries, root).unwrap();
                sled
            }
            Step::Claim(at, class, n) => {
                let of = |queue: &dyn Queue| queue.claim(&hop(at), class, n, self.now).unwrap();
                let (here, there) = (of(&sled), of(&self.memory));
                assert_eq!(here.len(), there.len());
                for (here, there) in here.iter().zip(&there) {
                    assert_eq!((here.key, &here.item), (there.key, &there.item));
                    self.leases.push((here.token, there.token));
                }
                sled
            }
            Step::Settle(which, how) => {
                if let Some((here, there)) = self.leases.get(which) {
                    let at = self.now + Duration::from_secs(1);
                    let error = String::new();
                    let settle = match how {
                        0 => Settle::Return,
                        1 => Settle::Retry {
                            at,
                            progress: false,
                            error,
                        },
                        _ => Settle::Park { error },
                    };
                    let settled = sled.settle(*here, settle.clone());
                    assert_eq!(settled, self.memory.settle(*there, settle));
                    self.now = at;
                }
                sled
            }
            Step::Reopen => {
                drop(sled);
                // Leases and delays are void; memory alone has to be told so.
                self.leases.clear();
                self.memory = MemQueue::new();
                let size = self.log.len() as u64;
                self.memory.apply(0, &self.log, root(size)).unwrap();
                SledQueue::open(&passerelle_disk::system(), self.dir.path()).unwrap()
            }
        });
    }

    fn assert_agree(&self) {
        let sled = self.sled.as_ref().unwrap();
        let (here, there) = (contents(sled), contents(&self.memory));
        // Rebuilt in one batch the memory engine knows no size but the last; nothing applied
        // has another root on either side.
        if !self.log.is_empty() {
            assert_eq!(here, there);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_engines_agree_after_every_step(steps in prop::collection::vec(any_step(), 1..25)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
            pair.assert_agree();
        }
    }

    #[test]
    fn a_batch_that_was_cut_off_by_a_crash_is_applied_again_without_harm(
        log in prop::collection::vec(any_entry(), 1..20),
        cut in 0..20_usize,
    ) {
        let size = log.len() as u64;
        let whole = MemQueue::new();
        whole.apply(0, &log, root(size)).unwrap();
        // Items of the first entries are there, the note of how far it went is not.
        let cut_off = MemQueue::new();
        let cut = cut.min(log.len());
        cut_off.apply(0, &log[..cut], root(cut as u64)).unwrap();
        cut_off.forget_applied();
        cut_off.apply(0, &log, root(size)).unwrap();
        prop_assert_eq!(contents(&cut_off), contents(&whole));
    }
}
