/// Why bytes may be a pickle. Decides what they need to look like to count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A loader unpickles these bytes, whatever they look like.
    Loaded,
    /// A whole file without a known format. A loader unpickles it if someone asks for it.
    File {
        /// Whether the extension is one of pickles.
        is_named: bool,
    },
    /// Bytes that nothing refers to as a pickle: a file of another format, a record, a string.
    Found,
    /// Bytes at an offset of a file of an unknown kind, which may be a pickle of a database.
    Embedded,
    /// Bytes that something refers to as data, such as a storage. Random data often begins like a pickle.
    Data,
}
