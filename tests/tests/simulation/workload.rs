//! What people do in a simulation: they drop files, and take one of them back.

use passerelle_proto::Digest;
use passerelle_tests::{Fact, Process};

use crate::dice::Dice;
use crate::world::{PARTNER_BYTES_MAX, World};

/// Fewest and most drops of one simulation.
const DROPS: (u64, u64) = (3, 10);

/// Sizes that travel in three ways: within the offer, into a segment that packages share, and chunk
/// by chunk into a file of their own.
const SIZES: [(u64, u64); 3] = [(1, 40_000), (70_000, 200_000), (300_000, 1_200_000)];

/// Ways that the convention opens: who, which flow, to whom.
const WAYS: [(&str, &str, &[&str]); 6] = [
    ("caf21", "observation-iris", &["grand-dijon"]),
    (
        "caf21",
        "observation-iris",
        &["grand-dijon", "prestataire-obs"],
    ),
    ("caf21", "observation-iris", &["prestataire-obs"]),
    ("caf21", "signalement", &["grand-dijon"]),
    ("grand-dijon", "signalement", &["caf21"]),
    ("grand-dijon", "demande", &["caf21"]),
];

/// Something that is dropped.
pub struct Drop {
    /// Who drops it.
    pub party: &'static str,
    flow: &'static str,
    /// Whom it is for.
    pub recipients: &'static [&'static str],
    number: usize,
    bytes: Vec<u8>,
    /// Whether the partner's gateway does not take anything of this size.
    pub too_large: bool,
    /// Whether it is taken back.
    pub cancelled: bool,
}

impl Drop {
    /// Something of this length.
    pub fn of(
        party: &'static str,
        flow: &'static str,
        recipients: &'static [&'static str],
        number: usize,
        length: usize,
    ) -> Self {
        Self {
            party,
            flow,
            recipients,
            number,
            bytes: Dice::new(number as u64).noise(length),
            too_large: false,
            cancelled: false,
        }
    }

    /// Name of what is dropped.
    pub fn name(&self) -> String {
        format!("drop-{}", self.number)
    }

    fn file(&self) -> String {
        format!("file-{}.bin", self.number)
    }

    /// Drops it.
    pub fn drop_into(&self, world: &World) {
        let named: Vec<String> = self.recipients.iter().map(|it| format!("{it:?}")).collect();
        let instructions = format!("recipients = [{}]\n", named.join(", "));
        let files = [
            ("package.toml", instructions.as_bytes()),
            (&self.file(), self.bytes.as_slice()),
        ];
        world.drop_folder(self.party, self.flow, &self.name(), &files);
    }

    /// Takes it back, if its sender still can.
    pub fn take_back(&self, world: &World) {
        let sender = Process::Agent(self.party);
        for (package, name) in world.outgoing(sender) {
            if name == self.name() {
                world.cancel(sender, package);
            }
        }
    }

    /// That these parties are to have it.
    pub fn fact(&self, recipients: Vec<&'static str>) -> Fact {
        Fact::Dropped {
            name: self.file(),
            content: Digest::of(&self.bytes),
            recipients,
        }
    }
}

/// What is dropped in the simulation of a seed.
pub fn drops(dice: &mut Dice) -> Vec<Drop> {
    // Few more often than many: more seeds say more than more packages do.
    let rolls = [(); 2].map(|()| dice.between(DROPS.0, DROPS.1));
    let count = rolls[0].min(rolls[1]);
    let mut drops: Vec<Drop> = (0..count as usize)
        .map(|number| {
            let (party, flow, recipients) = dice.pick(&WAYS);
            let (from, to) = dice.pick(&SIZES);
            let length = dice.between(from, to) as usize;
            Drop {
                party,
                flow,
                recipients,
                number,
                bytes: dice.noise(length),
                too_large: false,
                cancelled: false,
            }
        })
        .collect();
    let cancelled = dice.between(0, count - 1) as usize;
    drops[cancelled].cancelled = true;
    if dice.one_in(2) {
        let (party, flow, recipients) = dice.pick(&WAYS[..4]);
        drops.push(Drop {
            party,
            flow,
            recipients,
            number: drops.len(),
            bytes: dice.noise(PARTNER_BYTES_MAX as usize + 100_000),
            too_large: true,
            cancelled: false,
        });
    }
    drops
}
