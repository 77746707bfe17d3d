//! The territory's IRIS codes: the finest geography that the exchanged tables speak of.
//!
//! Codes of the communes of Grand Dijon on 1 January 2016 (code officiel géographique) and of
//! their IRIS; a commune that is not divided is its own single IRIS, `0000`.

/// A commune and the IRIS that it is divided into.
#[derive(Debug, Clone, Copy)]
pub struct Commune {
    /// INSEE code.
    pub insee: &'static str,
    /// Name.
    pub name: &'static str,
    /// Inhabitants in 2016, which the made-up counts are scaled by.
    pub inhabitants: u32,
    /// Last four digits of its IRIS codes.
    pub iris: &'static [&'static str],
}

/// The 24 communes, 109 IRIS.
#[rustfmt::skip]
pub const COMMUNES: [Commune; 24] = [
    Commune { insee: "21003", name: "Ahuy", inhabitants: 1_211,
      iris: &["0000"] },
    Commune { insee: "21105", name: "Bressey-sur-Tille", inhabitants: 964,
      iris: &["0000"] },
    Commune { insee: "21106", name: "Bretenière", inhabitants: 879,
      iris: &["0000"] },
    Commune { insee: "21166", name: "Chenôve", inhabitants: 14_165,
      iris: &[
        "0101", "0102", "0103", "0104", "0105", "0106", "0107",
    ] },
    Commune { insee: "21171", name: "Chevigny-Saint-Sauveur", inhabitants: 11_097,
      iris: &["0101", "0102", "0103", "0104"] },
    Commune { insee: "21192", name: "Corcelles-les-Monts", inhabitants: 656,
      iris: &["0000"] },
    Commune { insee: "21213", name: "Crimolois", inhabitants: 775,
      iris: &["0000"] },
    Commune { insee: "21223", name: "Daix", inhabitants: 1_442,
      iris: &["0000"] },
    Commune { insee: "21231", name: "Dijon", inhabitants: 153_668,
      iris: &[
        "0101", "0102", "0103", "0201", "0202", "0301", "0302", "0303", "0304", "0305",
        "0401", "0402", "0403", "0404", "0501", "0502", "0503", "0601", "0701", "0702",
        "0703", "0704", "0801", "0802", "0803", "0804", "0901", "1001", "1002", "1003",
        "1004", "1005", "1006", "1101", "1201", "1202", "1203", "1204", "1301", "1302",
        "1303", "1401", "1402", "1501", "1502", "1503", "1601", "1602", "1603", "1604",
        "1701", "1702", "1703", "1704", "1801", "1802", "1803", "1804", "2001", "2002",
        "2003", "9801",
    ] },
    Commune { insee: "21263", name: "Fénay", inhabitants: 1_530,
      iris: &["0000"] },
    Commune { insee: "21270", name: "Flavignerot", inhabitants: 164,
      iris: &["0000"] },
    Commune { insee: "21278", name: "Fontaine-lès-Dijon", inhabitants: 8_968,
      iris: &["0101", "0102", "0103", "0104"] },
    Commune { insee: "21315", name: "Hauteville-lès-Dijon", inhabitants: 1_223,
      iris: &["0000"] },
    Commune { insee: "21355", name: "Longvic", inhabitants: 8_959,
      iris: &["0101", "0102", "0103"] },
    Commune { insee: "21370", name: "Magny-sur-Tille", inhabitants: 852,
      iris: &["0000"] },
    Commune { insee: "21390", name: "Marsannay-la-Côte", inhabitants: 5_208,
      iris: &["0101", "0102"] },
    Commune { insee: "21452", name: "Neuilly-lès-Dijon", inhabitants: 1_821,
      iris: &["0000"] },
    Commune { insee: "21473", name: "Ouges", inhabitants: 1_323,
      iris: &["0000"] },
    Commune { insee: "21481", name: "Perrigny-lès-Dijon", inhabitants: 1_729,
      iris: &["0000"] },
    Commune { insee: "21485", name: "Plombières-lès-Dijon", inhabitants: 2_706,
      iris: &["0000"] },
    Commune { insee: "21515", name: "Quetigny", inhabitants: 9_675,
      iris: &["0101", "0102", "0103", "0104"] },
    Commune { insee: "21540", name: "Saint-Apollinaire", inhabitants: 7_353,
      iris: &["0101", "0102"] },
    Commune { insee: "21605", name: "Sennecey-lès-Dijon", inhabitants: 2_131,
      iris: &["0000"] },
    Commune { insee: "21617", name: "Talant", inhabitants: 11_346,
      iris: &[
        "0101", "0102", "0103", "0104", "0105", "0106",
    ] },
];
