//! One range of bytes of a file, as `Range` asks for it.

/// What is to be sent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// From an offset, so many bytes.
    Some {
        /// The first byte.
        from: u64,
        /// How many.
        length: u64,
    },
    /// The range begins beyond the end.
    Beyond,
}

/// Reads the header, for a file of so many bytes. Several ranges, other units and nonsense count as no range, as the standard allows.
#[must_use]
pub fn part(header: Option<&str>, size: u64) -> Part {
    let Some((from, to)) = header.and_then(|it| it.strip_prefix("bytes=")).and_then(|it| it.split_once('-'))
    else {
        return Part::Whole;
    };
    match (from.trim().parse::<u64>(), to.trim().parse::<u64>()) {
        (Ok(from), _) if from >= size => Part::Beyond,
        (Ok(from), Ok(to)) if to >= from => Part::Some { from, length: (to - from + 1).min(size - from) },
        (Ok(from), _) if to.trim().is_empty() => Part::Some { from, length: size - from },
        (Err(_), Ok(0)) if from.trim().is_empty() => Part::Beyond,
        (Err(_), Ok(last)) if from.trim().is_empty() => {
            let length = last.min(size);
            Part::Some { from: size - length, length }
        }
        _ => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let some = |from, length| Part::Some { from, length };
        for (header, expected) in [
            ("bytes=0-3", some(0, 4)),
            ("bytes=4-", some(4, 6)),
            ("bytes=-3", some(7, 3)),
            ("bytes=-30", some(0, 10)),
            ("bytes=8-99", some(8, 2)),
            ("bytes=10-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=5-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("bytes=x-y", Part::Whole),
        ] {
            assert_eq!(part(Some(header), 10), expected, "{header}");
        }
        assert_eq!(part(None, 10), Part::Whole);
    }
}
