//! How a device keeps weights and `h`, as a user names it. Knows nothing of how a device computes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The type in which a device keeps weights and `h`; sums, `c`, inputs and outputs are f32 with all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits: 8 of the mantissa, the exponents of f32.
    Bf16,
    /// 16 bits: 11 of the mantissa, numbers to 65504. For inference only.
    F16,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

    /// The type's name: `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Dtype::ALL.into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| Error::argument("dtype", "f32, bf16 or f16", name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for dtype in Dtype::ALL {
            assert_eq!(dtype.to_string().parse::<Dtype>().expect("its own name"), dtype);
        }
        let error = "fp16".parse::<Dtype>().expect_err("no such type").to_string();
        assert_eq!(error, "dtype: expected f32, bf16 or f16, got fp16");
    }
}
