//! Parses sizes in flags, such as `16MiB`.

const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];

/// Parses a number of bytes: `16MiB`, `64KiB`, `4096`. As in Kubernetes, the B may be left out. The error names an
/// example.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let number_in = |unit: &str| text.strip_suffix(unit)?.trim_end().parse::<u64>().ok();
    let size = UNITS.iter().find_map(|(unit, bytes)| {
        let number = number_in(unit).or_else(|| number_in(unit.strip_suffix('B')?))?;
        number.checked_mul(*bytes)
    });
    size.ok_or_else(|| "write a number and KiB, MiB or GiB, for example 16MiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_parsed_as_bytes_or_binary_units() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("64KiB"), Ok(65_536));
        assert_eq!(parse("16 MiB"), Ok(16 << 20));
        assert_eq!(parse("1Gi"), Ok(1 << 30));
        for bad in ["", "MiB", "-1", "1.5MiB", "16MB", "16mib", "99999999999GiB", "1 K iB"] {
            assert!(parse(bad).is_err_and(|why| why.contains("for example 16MiB")), "{bad}");
        }
    }
}
