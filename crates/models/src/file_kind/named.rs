//! Enums whose variants have a word for scripts and a name for people.

/// Defines an enum: each variant has a word for scripts, as in JSON, and a name for people.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($variant:ident $word:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = $text] $variant,)*
        }

        impl $name {
            /// All variants.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word for scripts, as in JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }

            /// The name for people, without an article.
            pub fn text(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }
    };
}

pub(super) use named;
