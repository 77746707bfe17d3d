//! A made-up table of a CAF, on the real IRIS codes of the territory.
//!
//! Deterministic: the same bytes every time. The counts are invented and follow only the sizes of
//! the communes; the identities of a real table hold (family types add up to the households), and
//! counts below five are masked, a second one with them where the first could be recomputed.

use super::iris::COMMUNES;

/// Name of the table's file.
pub const TABLE_NAME: &str = "allocataires-iris-2016-12.csv";
/// Households below this number are not published.
const THRESHOLD: u32 = 5;
/// What stands in a masked cell.
const SECRET: &str = "s";
/// Households that receive something, per thousand inhabitants; about what the CAF publishes.
const HOUSEHOLDS_PER_THOUSAND: u32 = 262;

const HEADER: &str = "code_iris;nom_commune;mois_reference;NB_allocataires;NB_Pers_par_Foyer_Alloc;\
    Homme_Isole;Femme_Isolee;COUP_0_ENF;COUP_ENF;MONO_ENF;NB_allocataire_RSA;ALL_PPA;\
    total_allocataires_logement;part_bas_revenu";

/// The table: `;`, decimal commas, UTF-8, one line per IRIS.
pub fn table() -> String {
    let mut text = format!("{HEADER}\r\n");
    for commune in &COMMUNES {
        let divided = u32::try_from(commune.iris.len()).unwrap_or(1);
        for iris in commune.iris {
            let code = format!("{}{iris}", commune.insee);
            let mut dice = Dice::new(&code);
            let share = commune.inhabitants / divided;
            let households = dice.around(share * HOUSEHOLDS_PER_THOUSAND / 1_000, 25);
            text.push_str(&row(&code, commune.name, households, &mut dice));
            text.push_str("\r\n");
        }
    }
    text
}

fn row(code: &str, name: &str, households: u32, dice: &mut Dice) -> String {
    let persons = dice.around(households * 21 / 10, 8);
    let mut left = households;
    let mut types = [21, 24, 11, 26].map(|percent| {
        let count = dice.around(households * percent / 100, 20).min(left);
        left -= count;
        count
    });
    types.sort_unstable();
    let families = mask(&[types[1], types[2], types[0], types[3], left]);
    let benefits = [10, 18, 55].map(|percent| dice.around(households * percent / 100, 30));
    let low = dice.around(310, 45);
    let mut cells = vec![code.to_owned(), name.to_owned(), "201612".to_owned()];
    cells.extend([households, persons].map(masked));
    cells.extend(families);
    cells.extend(benefits.map(masked));
    cells.push(match households < THRESHOLD {
        true => SECRET.to_owned(),
        false => format!("{},{}", low / 10, low % 10),
    });
    cells.join(";")
}

fn masked(count: u32) -> String {
    match count {
        1..THRESHOLD => SECRET.to_owned(),
        count => count.to_string(),
    }
}

/// Masks small counts; where only one is masked, the smallest other one as well, because the total
/// tells what a single gap is.
fn mask(counts: &[u32]) -> Vec<String> {
    let mut cells: Vec<String> = counts.iter().map(|count| masked(*count)).collect();
    if cells.iter().filter(|cell| *cell == SECRET).count() == 1 {
        let others = counts
            .iter()
            .enumerate()
            .filter(|(at, _)| cells[*at] != SECRET);
        if let Some((second, _)) = others.min_by_key(|(_, count)| **count) {
            cells[second] = SECRET.to_owned();
        }
    }
    cells
}

/// Numbers that look drawn and are the same every time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn new(seed: &str) -> Dice {
        // FNV-1a.
        let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Dice(hash)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number within `percent` of `middle`.
    fn around(&mut self, middle: u32, percent: u32) -> u32 {
        let spread = u64::from(middle) * u64::from(percent) / 100;
        let offset = self.next() % (2 * spread + 1);
        u32::try_from(u64::from(middle) + offset - spread).unwrap_or(middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_one_row_per_iris_and_is_the_same_every_time() {
        let text = table();
        assert_eq!(text, table());
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(';').collect()).collect();
        assert_eq!(rows.len(), 1 + 109);
        assert!(rows.iter().all(|row| row.len() == rows[0].len()));
        let codes: std::collections::BTreeSet<&str> = rows[1..].iter().map(|row| row[0]).collect();
        assert_eq!(codes.len(), 109);
        assert!(
            codes
                .iter()
                .all(|code| code.len() == 9 && code.starts_with("21"))
        );
        assert!(codes.contains("212311203"));
    }

    #[test]
    fn family_types_add_up_and_a_single_gap_is_never_left() {
        let mut whole = 0;
        for line in table().lines().skip(1) {
            let cells: Vec<&str> = line.split(';').collect();
            let families = &cells[5..10];
            let gaps = families.iter().filter(|cell| **cell == SECRET).count();
            assert_ne!(gaps, 1, "{line}");
            if gaps == 0 {
                let sum: u32 = families
                    .iter()
                    .map(|cell| cell.parse::<u32>().unwrap())
                    .sum();
                assert_eq!(sum, cells[3].parse::<u32>().unwrap(), "{line}");
                whole += 1;
            }
            let small = |cell: &&str| cell.parse::<u32>().is_ok_and(|n| (1..5).contains(&n));
            assert!(!cells[3..13].iter().any(small), "{line}");
        }
        assert!(whole > 90);
    }
}
