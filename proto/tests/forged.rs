//! What a recipient says about packages whose outside is in order and whose inside is not.

#![allow(clippy::unwrap_used)]

use std::io::{self, Cursor};

use passerelle_proto::fixture::{Flaw, forge, keys, plan, world};
use passerelle_proto::v1::Reason;
use passerelle_proto::{ENTRY_NAME_LEN_MAX, EntryName, EntrySink, open};

/// Counts what came out.
#[derive(Default)]
struct Counted(usize);

impl EntrySink for Counted {
    fn begin(&mut self, _: &EntryName, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0 += bytes.len();
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        panic!("a forged package is whole")
    }
}

#[test]
fn each_flaw_inside_is_refused_with_its_own_words_and_before_a_byte_comes_out() {
    let name = |name: &str| Flaw::Name(name.to_owned());
    let long = "x".repeat(ENTRY_NAME_LEN_MAX + 1);
    let flaws = [
        (name("../table.csv"), Reason::EntryName, ".."),
        (name("/etc/cron.d/table"), Reason::EntryName, "absolute"),
        (name("table\0.csv"), Reason::EntryName, "control"),
        (name(&long), Reason::EntryName, "longer"),
        (Flaw::Commitment, Reason::Content, "commitment"),
        (Flaw::Bomb(1 << 28), Reason::Content, "decompress"),
    ];
    for (flaw, reason, words) in flaws {
        let world = world();
        let plan = plan(world.directory.convention());
        let (sealed, pack) = forge(&plan, &keys("caf21").agent, &flaw);
        let secret = keys("grand-dijon").recipient;
        let mut out = Counted::default();
        let refused = open(&sealed.manifest, &secret, &mut Cursor::new(pack), &mut out);
        let refused = refused.unwrap_err();
        let shown = refused.to_string();
        assert_eq!(refused.reason(), Some(reason), "{shown}");
        assert!(shown.contains(words), "{shown}");
        assert_eq!(out.0, 0, "{shown}");
    }
}
