//! The orders: read from a file, and the generator that made the shipped one.

use std::{collections::HashMap, fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};

/// First line of every file of orders.
pub const HEADER: &str = "at_ms,order,change,item,amount_cents";
/// Changes of one order at the most: each is one bit of a positive 64-bit integer in the database.
pub const CHANGES_MAX: u32 = 62;
/// Rows of one file at the most.
pub const ROWS_MAX: usize = 1_000_000;

/// One change to one order: a line of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// When it arrives at the usual rate, from the beginning.
    pub at: Duration,
    /// Which order.
    pub order: i64,
    /// Counts the changes of this order from 1.
    pub change: u32,
    /// For people.
    pub item: String,
    /// Added to the order's total; negative for something taken back.
    pub amount_cents: i64,
}

/// Reads a file of orders.
///
/// # Errors
/// If it cannot be read; else with the file, the line and what would be right.
pub fn read(path: &Path) -> anyhow::Result<Vec<Change>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(text).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        anyhow::anyhow!("{}: line {line}: not UTF-8 text", path.display())
    })?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Reads the text of a file of orders.
///
/// # Errors
/// With the line and what would be right.
pub fn parse(text: &str) -> anyhow::Result<Vec<Change>> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_end_matches('\r')));
    match lines.next() {
        Some((_, HEADER)) => {}
        Some((_, other)) => bail!("line 1: the header is {other:?}, expected {HEADER:?}"),
        None => bail!("line 1: the file is empty, expected the header {HEADER:?}"),
    }
    let mut changes: Vec<Change> = Vec::new();
    let mut seen: HashMap<(i64, u32), usize> = HashMap::new();
    for (number, line) in lines {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let change = parse_line(line).with_context(|| format!("line {number}"))?;
        if let Some(last) = changes.last() {
            ensure!(
                change.at >= last.at,
                "line {number}: at_ms goes back from {} to {}",
                last.at.as_millis(),
                change.at.as_millis()
            );
        }
        if let Some(earlier) = seen.insert((change.order, change.change), number) {
            bail!("line {number}: change {} of order {} was on line {earlier} already", change.change, change.order);
        }
        ensure!(changes.len() < ROWS_MAX, "line {number}: more than {ROWS_MAX} rows");
        changes.push(change);
    }
    ensure!(!changes.is_empty(), "no orders after the header");
    Ok(changes)
}

fn parse_line(line: &str) -> anyhow::Result<Change> {
    ensure!(!line.contains('"'), "quotes are not understood; items are plain text without commas");
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [at, order, change, item, amount] = fields[..] else {
        bail!("{} fields, expected 5: {HEADER}", fields.len());
    };
    let at: u64 = number("at_ms", at, "milliseconds from the beginning")?;
    let order: i64 = number("order", order, "a positive number")?;
    let change: u32 = number("change", change, "a number from 1")?;
    ensure!(order > 0, "order is {order}, expected 1 to {}", i64::MAX);
    ensure!((1..=CHANGES_MAX).contains(&change), "change is {change}, expected 1 to {CHANGES_MAX}");
    ensure!(!item.is_empty(), "item is empty");
    let amount_cents: i64 = number("amount_cents", amount, "a whole number of cents")?;
    ensure!(amount_cents.unsigned_abs() < 1 << 40, "amount_cents is {amount_cents}, that is no order");
    Ok(Change { at: Duration::from_millis(at), order, change, item: item.into(), amount_cents })
}

fn number<T: std::str::FromStr>(name: &str, text: &str, wanted: &str) -> anyhow::Result<T> {
    text.parse().ok().with_context(|| format!("{name} is {text:?}, expected {wanted}"))
}

/// The shipped file: 3,000 changes to about a thousand orders of a coffee roaster in 150 seconds, the same every time.
pub fn generate(rows: usize, seed: u64) -> String {
    const GOODS: [(&str, i64); 14] = [
        ("espresso beans 1 kg", 2_190),
        ("filter beans 500 g", 1_250),
        ("decaf beans 500 g", 1_320),
        ("cold brew 6 bottles", 1_890),
        ("paper filters 100", 490),
        ("ceramic dripper", 2_750),
        ("hand grinder", 11_900),
        ("gooseneck kettle", 6_490),
        ("milk jug 350 ml", 2_290),
        ("descaler", 790),
        ("gift wrapping", 350),
        ("cupping spoon", 1_150),
        ("travel press", 3_990),
        ("tamper 58 mm", 4_450),
    ];
    const ROWS_PER_SECOND: f64 = 20.0;
    const CHANGES_PER_ORDER: f64 = 3.0;
    let mut dice = Dice(seed);
    let mut rows_out: Vec<(u64, u64, String, i64)> = Vec::with_capacity(rows);
    let mut order = 48_200;
    let mut begins = 0.0;
    // More orders than needed; the file is cut after the first `rows` rows in order of time.
    while rows_out.len() < rows * 2 {
        begins += dice.gap(1_000.0 * CHANGES_PER_ORDER / ROWS_PER_SECOND);
        order += 1 + dice.below(3);
        let mut at = begins;
        let mut spent = 0;
        let goods = 1 + dice.below(3) + dice.below(2);
        for _ in 0..goods {
            let (item, price) = GOODS[usize::try_from(dice.below(GOODS.len() as u64)).expect("below fourteen")];
            let pieces = 1 + i64::try_from(dice.below(3)).expect("below three");
            spent += price * pieces;
            rows_out.push((at as u64, order, format!("{pieces} x {item}"), price * pieces));
            at += 150.0 + dice.gap(1_400.0);
        }
        match dice.below(8) {
            0 => rows_out.push((at as u64, order, "voucher 10 percent".into(), -spent / 10)),
            1 | 2 => rows_out.push((at as u64, order, "express delivery".into(), 990)),
            3 => rows_out.push((at as u64, order, "standard delivery".into(), 490)),
            _ => {}
        }
    }
    rows_out.sort_by_key(|row| (row.0, row.1));
    rows_out.truncate(rows);
    let mut text = format!("{HEADER}\n");
    let mut changes: HashMap<u64, u32> = HashMap::new();
    for (at, order, item, amount) in rows_out {
        let change = changes.entry(order).and_modify(|change| *change += 1).or_insert(1);
        writeln!(text, "{at},{order},{change},{item},{amount}").expect("a string takes everything");
    }
    text
}

/// Numbers that look random and are the same every time (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// Mostly short and sometimes long, `mean` in the middle. No logarithm: those differ between C libraries.
    fn gap(&mut self, mean: f64) -> f64 {
        let unit = (self.roll() >> 11) as f64 / (1_u64 << 53) as f64;
        3.0 * mean * unit * unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../data/orders.csv");

    #[test]
    fn the_shipped_file_is_what_the_generator_makes() {
        assert_eq!(SHIPPED, generate(3_000, 42));
        let changes = parse(SHIPPED).expect("the shipped file");
        assert_eq!(changes.len(), 3_000);
        assert!(changes.iter().map(|change| change.change).max().expect("rows") >= 4, "orders have several changes");
        let span = changes.last().expect("rows").at;
        assert!((Duration::from_secs(120)..Duration::from_secs(180)).contains(&span), "{span:?}");
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let file = |rows: &str| format!("{HEADER}\n{rows}");
        assert_eq!(parse(&file("0,1,1,a,5\n\n# a remark\r\n1,1,2,b,-5\r\n")).expect("good").len(), 2);
        for (text, part) in [
            (String::new(), "line 1: the file is empty"),
            ("time,order\n".into(), "line 1: the header is \"time,order\""),
            (file(""), "no orders after the header"),
            (file("0,1,1,a"), "line 2: 4 fields, expected 5"),
            (file("0,1,1,a,b,5"), "line 2: 6 fields, expected 5"),
            (file("0,1,1,\"a\",5"), "line 2: quotes"),
            (file("x,1,1,a,5"), "line 2: at_ms is \"x\""),
            (file("0,-1,1,a,5"), "line 2: order is -1"),
            (file("0,0,1,a,5"), "line 2: order is 0"),
            (file("0,9223372036854775808,1,a,5"), "line 2: order is \"9223372036854775808\""),
            (file("0,1,0,a,5"), "line 2: change is 0, expected 1 to 62"),
            (file("0,1,63,a,5"), "line 2: change is 63"),
            (file("0,1,1,,5"), "line 2: item is empty"),
            (file("0,1,1,a,5.5"), "line 2: amount_cents is \"5.5\""),
            (file("0,1,1,a,99999999999999"), "line 2: amount_cents is 99999999999999"),
            (file("5,1,1,a,5\n4,1,2,a,5"), "line 3: at_ms goes back from 5 to 4"),
            (file("5,1,1,a,5\n6,1,1,a,5"), "line 3: change 1 of order 1 was on line 2"),
        ] {
            let error = format!("{:#}", parse(&text).expect_err(part));
            assert!(error.contains(part), "{error:?} should contain {part:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_told_with_their_line() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), b"at_ms,order,change,item,amount_cents\n0,1,1,caf\xe9,5\n").expect("write");
        let error = format!("{:#}", read(file.path()).expect_err("not UTF-8"));
        assert!(error.ends_with("line 2: not UTF-8 text"), "{error}");
    }
}
