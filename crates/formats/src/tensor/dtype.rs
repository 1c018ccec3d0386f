use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $size:literal;)*) => {
        /// The dtype of a tensor: every one that PyTorch writes and a file can hold.
        ///
        /// Deliberately exhaustive: a new variant needs a decision in every table that maps dtypes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Dtype { $($(#[$doc])* $variant,)* }

        impl Dtype {
            /// All dtypes.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant,)*];

            /// The name the safetensors format uses.
            pub const fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name,)* }
            }

            /// Bytes per element.
            pub const fn size(self) -> usize {
                match self { $(Dtype::$variant => $size,)* }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1.
    Bool = "BOOL", 1;
    /// Unsigned integer, 8 bits.
    U8 = "U8", 1;
    /// Signed integer, 8 bits.
    I8 = "I8", 1;
    /// Float, 8 bits: 4 of exponent, 3 of mantissa, no infinities.
    F8E4M3 = "F8_E4M3", 1;
    /// Float, 8 bits: 5 of exponent, 2 of mantissa.
    F8E5M2 = "F8_E5M2", 1;
    /// Float, 8 bits of exponent only: the scale of microscaling formats.
    F8E8M0 = "F8_E8M0", 1;
    /// [`Dtype::F8E4M3`] with one zero, one NaN and bias 8.
    F8E4M3Fnuz = "F8_E4M3FNUZ", 1;
    /// [`Dtype::F8E5M2`] with one zero, one NaN and bias 16.
    F8E5M2Fnuz = "F8_E5M2FNUZ", 1;
    /// Signed integer, 16 bits.
    I16 = "I16", 2;
    /// Unsigned integer, 16 bits.
    U16 = "U16", 2;
    /// IEEE 754 half precision.
    F16 = "F16", 2;
    /// bfloat16: the upper half of an `F32`.
    BF16 = "BF16", 2;
    /// Signed integer, 32 bits.
    I32 = "I32", 4;
    /// Unsigned integer, 32 bits.
    U32 = "U32", 4;
    /// IEEE 754 single precision.
    F32 = "F32", 4;
    /// Complex: two `F32`, real and imaginary.
    C64 = "C64", 8;
    /// IEEE 754 double precision.
    F64 = "F64", 8;
    /// Signed integer, 64 bits.
    I64 = "I64", 8;
    /// Unsigned integer, 64 bits.
    U64 = "U64", 8;
    /// Complex: two `F64`. PyTorch writes it; safetensors has no name for it.
    C128 = "C128", 16;
}

impl Dtype {
    /// Returns whether this is a real floating-point dtype. Casts convert only those, not complex numbers or integers.
    pub const fn is_float(self) -> bool {
        use Dtype::*;
        matches!(self, F8E4M3 | F8E5M2 | F8E8M0 | F8E4M3Fnuz | F8E5M2Fnuz | F16 | BF16 | F32 | F64)
    }

    /// Returns whether the elements are complex numbers.
    pub const fn is_complex(self) -> bool {
        matches!(self, Dtype::C64 | Dtype::C128)
    }

    /// Bytes of the unit that byte order applies to: an element, or one half of a complex element.
    pub const fn word(self) -> usize {
        if self.is_complex() { self.size() / 2 } else { self.size() }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
