//! What the bytes of a file must be: XXH3 of each of its records.

use std::ops::Range;

use twox_hash::XxHash3_64;

/// XXH3 (64 bits, seed 0) of some bytes: 12 to 13 GB/s on a core of a Zen 3 server, against 3 for BLAKE3.
pub fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The checksums of a file's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// In order, without overlap.
    records: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    /// First byte in the file.
    offset: u64,
    bytes: u64,
    sum: u64,
}

/// A record whose bytes are others than were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// First byte of the record in the file.
    pub offset: u64,
}

impl Checksums {
    /// Of records in ascending order, with their checksums.
    pub fn new(records: impl Iterator<Item = (Range<u64>, u64)>) -> Checksums {
        let record =
            |(range, sum): (Range<u64>, u64)| Record { offset: range.start, bytes: range.end - range.start, sum };
        Checksums { records: records.map(record).collect() }
    }

    /// Checks `bytes` that were read from `offset` on: every record that lies wholly among them.
    ///
    /// # Errors
    /// The first record that is another than was written.
    pub fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        let end = offset + bytes.len() as u64;
        let first = self.records.partition_point(|record| record.offset < offset);
        for record in self.records[first..].iter().take_while(|record| record.offset + record.bytes <= end) {
            let from = (record.offset - offset) as usize;
            if checksum(&bytes[from..from + record.bytes as usize]) != record.sum {
                return Err(Mismatch { offset: record.offset });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_records_are_checked() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let ranges = [100..300u64, 300..301, 400..900];
        let sums =
            Checksums::new(ranges.into_iter().map(|r| (r.clone(), checksum(&bytes[r.start as usize..r.end as usize]))));
        assert_eq!(sums.check(0, &bytes), Ok(()));
        for damaged in 0..1000 {
            let mut read = bytes.clone();
            read[damaged] ^= 1;
            let hit = [100..300usize, 300..301, 400..900].into_iter().find(|range| range.contains(&damaged));
            let found = hit.map_or(Ok(()), |range| Err(Mismatch { offset: range.start as u64 }));
            assert_eq!(sums.check(0, &read), found, "byte {damaged}");
        }
        assert_eq!(sums.check(101, &[0; 500]), Err(Mismatch { offset: 300 }));
        assert_eq!(sums.check(400, &[0; 499]), Ok(()), "no record lies wholly in them");
        assert_eq!(sums.check(2000, &[0; 9]), Ok(()));
    }
}
