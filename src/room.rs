//! Memory of the host for lists: where there is not as much, an error rather than the program's end.

use crate::error::{Error, Result};

/// What to say where `len` elements of `size` bytes have no room.
pub(crate) fn lacking(len: usize, size: usize) -> Error {
    Error::Unavailable {
        what: format!("memory for {len} elements of {size} bytes"),
        why: "the system has not as much; take a smaller batch, shorter sequences or a smaller model".into(),
    }
}

/// Makes room for so many elements more.
pub(crate) fn reserve<T>(list: &mut Vec<T>, len: usize) -> Result<()> {
    list.try_reserve(len).map_err(|_| lacking(len, size_of::<T>()))
}

/// An empty list with room for so many elements.
pub(crate) fn list<T>(len: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(len).map_err(|_| lacking(len, size_of::<T>()))?;
    Ok(list)
}

/// So many zeros.
pub(crate) fn zeros(len: usize) -> Result<Vec<f32>> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|_| lacking(len, size_of::<f32>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_an_error() {
        assert_eq!(list::<u64>(3).unwrap().capacity(), 3);
        assert_eq!(zeros(2).unwrap(), [0.0; 2]);
        for error in [list::<u64>(usize::MAX / 16).unwrap_err(), zeros(usize::MAX / 16).unwrap_err()] {
            assert!(error.to_string().contains("the system has not as much"), "{error}");
        }
    }
}
