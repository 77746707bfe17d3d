//! A deterministic table as a CAF would deliver it: made up, on real IRIS codes.

use passerelle_proto::Digest;

use super::iris::IRIS;

/// Values below this are secret in the tables that are published.
const SECRET_BELOW: u32 = 5;

const HEAD: &str = "DTREFFRE;CODE_IRIS;NB_ALLOCATAIRES;NB_PERS_COUV;NB_ENFANTS;MONO;RSA;AL;PAJE;\
                    ALL_BAS_REVENU;PART_BAS_REVENU";

/// The table: UTF-8, `;`, decimal comma, one line per IRIS, secret cells as `s`.
pub(super) fn synthetic() -> String {
    let mut table = format!("{HEAD}\r\n");
    for iris in IRIS {
        let digest = Digest::of(iris.as_bytes()).0;
        let noise = |at: usize| u32::from(digest[at]);
        // Undivided communes are small; the digest makes the sizes differ.
        let households = match iris.ends_with("0000") {
            true => 3 + noise(0) / 2,
            false => 250 + noise(0) * 3 + noise(1),
        };
        let share = |percent: u32| households * percent / 100;
        let persons = households * (180 + noise(2) / 2) / 100;
        let children = share(60 + noise(3) / 4);
        let low = share(15 + noise(7) / 8);
        let cells = [
            households,
            persons,
            children,
            share(10 + noise(4) / 16),
            share(5 + noise(5) / 12),
            share(35 + noise(6) / 8),
            share(12 + noise(8) / 20),
            low,
        ];
        let cells: Vec<String> = cells.iter().map(|value| cell(*value)).collect();
        let percent = match low < SECRET_BELOW {
            true => "s".to_owned(),
            false => format!(
                "{},{}",
                low * 100 / households,
                low * 1000 / households % 10
            ),
        };
        table.push_str(&format!("202512;{iris};{};{percent}\r\n", cells.join(";")));
    }
    table
}

fn cell(value: u32) -> String {
    match value < SECRET_BELOW {
        true => "s".to_owned(),
        false => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_same_every_time_and_has_a_line_per_iris() {
        let table = synthetic();
        assert_eq!(table, synthetic());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 1 + IRIS.len());
        let columns = lines[0].split(';').count();
        assert!(lines.iter().all(|line| line.split(';').count() == columns));
        assert!(
            IRIS.iter()
                .all(|code| code.len() == 9 && code.starts_with("21"))
        );
        assert!(IRIS.is_sorted());
    }
}
