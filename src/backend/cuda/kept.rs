//! Which recordings are kept: those of short sequences always, of longer ones those that were used last. Knows nothing of
//! graphs.

/// Lengths up to here are kept for good: the paper trains on 1 to 40.
const ALWAYS: usize = 40;
/// Longer ones that are kept.
const LONGER: usize = 24;

/// Recordings by length.
#[derive(Debug)]
pub(super) struct Kept<T> {
    /// Those of longer sequences in the order of their last use.
    entries: Vec<(usize, T)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept { entries: Vec::new() }
    }
}

impl<T> Kept<T> {
    /// The recording of a length, from now on the one that was used last.
    pub(super) fn get(&mut self, length: usize) -> Option<&T> {
        let index = self.entries.iter().position(|entry| entry.0 == length)?;
        self.entries[index..].rotate_left(1);
        self.entries.last().map(|entry| &entry.1)
    }

    /// Keeps a recording, in the place of another of the length or of the one that was unused for longest.
    pub(super) fn insert(&mut self, length: usize, recording: T) {
        self.entries.retain(|entry| entry.0 != length);
        let longer = |entry: &(usize, T)| entry.0 > ALWAYS;
        if length > ALWAYS && self.entries.iter().filter(|entry| longer(entry)).count() == LONGER {
            let oldest = self.entries.iter().position(longer);
            oldest.map(|index| self.entries.remove(index));
        }
        self.entries.push((length, recording));
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lengths_stay_and_the_longest_unused_goes() {
        let mut kept = Kept::default();
        for length in (1..=ALWAYS + LONGER).rev() {
            assert!(kept.get(length).is_none());
            kept.insert(length, 2 * length);
        }
        // All fit; asking makes the oldest, `ALWAYS + LONGER`, the newest.
        for length in 1..=ALWAYS + LONGER {
            assert_eq!(kept.get(length), Some(&(2 * length)), "{length}");
        }
        assert!(kept.get(ALWAYS + 1).is_some());
        kept.insert(1000, 0);
        assert!(kept.get(ALWAYS + 2).is_none(), "unused for longest");
        kept.insert(1001, 1);
        assert!(kept.get(ALWAYS + 3).is_none(), "unused for longest");
        let left = (1..=ALWAYS + LONGER).filter(|&length| kept.get(length).is_some()).count();
        assert_eq!(left, ALWAYS + LONGER - 2);
        assert_eq!([1000, 1001].map(|length| kept.get(length).copied()), [Some(0), Some(1)]);
        // Another of the same length takes its place, and no other's.
        kept.insert(1000, 7);
        kept.insert(3, 8);
        assert_eq!([1000, 1001, 3].map(|length| kept.get(length).copied()), [Some(7), Some(1), Some(8)]);
        assert_eq!(kept.entries.len(), ALWAYS + LONGER);
        kept.clear();
        assert!(kept.get(1).is_none());
    }
}
