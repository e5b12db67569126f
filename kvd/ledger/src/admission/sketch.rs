//! How often a block was asked for lately, in a fixed amount of memory: a count-min sketch whose counts fade.
//!
//! Four rows of one byte a counter. Instead of halving everything at once now and then, every tenth count halves the next column,
//! so no step is long and a count is worth half after ten counts per column.

const ROWS: usize = 4;
/// Odd, so that every bit of a name matters.
const SPREAD: [u64; ROWS] = [0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB, 0xD6E8_FEB8_6659_FD93];
const COUNTS_PER_COLUMN: u64 = 10;

#[derive(Debug)]
pub(super) struct Sketch {
    columns: Vec<[u8; ROWS]>,
    shift: u32,
    counted: u64,
}

impl Sketch {
    /// `columns` is a power of two of at least two.
    pub fn new(columns: u64) -> Sketch {
        assert!(columns.is_power_of_two() && columns >= 2, "columns are chosen by bits of the name");
        Sketch { columns: vec![[0; ROWS]; columns as usize], shift: u64::BITS - columns.ilog2(), counted: 0 }
    }

    pub fn count(&mut self, name: u64) {
        for row in 0..ROWS {
            let at = self.column(name, row);
            self.columns[at][row] = self.columns[at][row].saturating_add(1);
        }
        self.counted += 1;
        if self.counted.is_multiple_of(COUNTS_PER_COLUMN) {
            let at = (self.counted / COUNTS_PER_COLUMN) as usize % self.columns.len();
            self.columns[at].iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// Never less than what was counted and has not faded.
    pub fn estimate(&self, name: u64) -> u8 {
        (0..ROWS).map(|row| self.columns[self.column(name, row)][row]).min().expect("there are rows")
    }

    fn column(&self, name: u64, row: usize) -> usize {
        (name.wrapping_mul(SPREAD[row]) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_often_counts_more() {
        let mut sketch = Sketch::new(1024);
        (0..300).for_each(|name| sketch.count(name));
        (0..20).for_each(|_| sketch.count(7));
        assert!(sketch.estimate(7) >= 15);
        assert!((0..300).filter(|name| sketch.estimate(*name) > 4).count() < 10);
    }

    #[test]
    fn counts_fade() {
        let mut sketch = Sketch::new(16);
        (0..40).for_each(|_| sketch.count(1));
        let before = sketch.estimate(1);
        (0..16 * COUNTS_PER_COLUMN).for_each(|_| sketch.count(2));
        assert!(sketch.estimate(1) <= before / 2 + 1 || sketch.column(1, 0) == sketch.column(2, 0));
    }
}
