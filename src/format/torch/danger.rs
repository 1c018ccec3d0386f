//! Global names that let whoever unpickles a file run what its author wants.
//!
//! Nothing of a pickle is run here, so this list protects nobody who uses this program; it is for those who would load
//! the same file with Python.

use crate::format::Danger;
use crate::pickle::{Node, Pickle};

/// Modules that run programs, import, load, or reach the network or the disk. A final dot means a package: everything
/// below it counts too.
const MODULES: &[(&str, &str)] = &[
    ("os.", "runs commands"),
    ("posix", "runs commands"),
    ("nt", "runs commands"),
    ("sys", "reaches into the interpreter"),
    ("subprocess", "runs commands"),
    ("commands", "runs commands"),
    ("popen2", "runs commands"),
    ("pty", "runs commands"),
    ("asyncio.", "runs commands"),
    ("multiprocessing.", "runs commands"),
    ("signal", "runs code"),
    ("runpy", "runs code"),
    ("code", "runs code"),
    ("codeop", "runs code"),
    ("types", "builds code"),
    ("marshal", "builds code"),
    ("ctypes.", "runs native code"),
    ("cffi.", "runs native code"),
    ("operator", "calls anything"),
    ("importlib.", "imports anything"),
    ("imp", "imports anything"),
    ("pkgutil", "imports anything"),
    ("zipimport", "imports anything"),
    ("pydoc", "imports anything"),
    ("site", "runs code"),
    ("timeit", "runs code"),
    ("trace", "runs code"),
    ("profile", "runs code"),
    ("cProfile", "runs code"),
    ("doctest", "runs code"),
    ("unittest.", "runs code"),
    ("bdb", "runs code"),
    ("pdb", "runs code"),
    ("idlelib.", "runs code"),
    ("lib2to3.", "runs code"),
    ("distutils.", "runs commands"),
    ("setuptools.", "runs commands"),
    ("pip.", "installs packages"),
    ("ensurepip.", "installs packages"),
    ("venv.", "runs commands"),
    ("webbrowser", "opens pages"),
    ("antigravity", "opens pages"),
    ("pickle", "loads another pickle"),
    ("cPickle", "loads another pickle"),
    ("dill.", "loads code"),
    ("cloudpickle.", "loads code"),
    ("joblib.", "loads another pickle"),
    ("shelve", "loads another pickle"),
    ("dbm.", "writes files"),
    ("sqlite3.", "writes files"),
    ("shutil", "writes files"),
    ("tempfile", "writes files"),
    ("fileinput", "writes files"),
    ("zipfile", "opens files"),
    ("tarfile", "opens files"),
    ("mmap", "maps memory"),
    ("socket", "reaches the network"),
    ("socketserver", "reaches the network"),
    ("select", "reaches the network"),
    ("ssl", "reaches the network"),
    ("http.", "reaches the network"),
    ("httplib", "reaches the network"),
    ("urllib.", "reaches the network"),
    ("urllib2", "reaches the network"),
    ("requests.", "reaches the network"),
    ("aiohttp.", "reaches the network"),
    ("httpx.", "reaches the network"),
    ("ftplib", "reaches the network"),
    ("smtplib", "reaches the network"),
    ("poplib", "reaches the network"),
    ("imaplib", "reaches the network"),
    ("nntplib", "reaches the network"),
    ("telnetlib", "reaches the network"),
    ("xmlrpc.", "reaches the network"),
    ("numpy.f2py.", "runs commands"),
    ("numpy.distutils.", "runs commands"),
    ("numpy.testing.", "runs code"),
    ("torch.hub.", "downloads and runs code"),
    ("torch.jit.", "loads code"),
    ("torch.package.", "loads code"),
    ("torch._dynamo.", "runs code"),
    ("torch._inductor.", "runs code"),
    ("torch.fx.", "runs code"),
    ("torch.serialization.", "loads another pickle"),
    ("torch.multiprocessing.", "runs commands"),
    ("logging.config", "runs code"),
    ("torch.utils.cpp_extension.", "runs commands"),
    ("torch.utils.bottleneck.", "runs code"),
    ("torch.utils.model_zoo", "downloads files"),
    ("torch.distributed.rpc.", "reaches the network"),
    ("test.support.", "runs commands"),
];

/// Single functions of otherwise harmless modules.
const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("functools", "reduce", "calls anything"),
    ("functools", "partialmethod", "calls anything"),
    ("io", "open", "opens files"),
    ("io", "FileIO", "opens files"),
    ("codecs", "open", "opens files"),
    ("logging", "FileHandler", "opens files"),
    ("torch", "load", "loads another pickle"),
    ("torch", "compile", "runs code"),
    ("torch.storage", "_load_from_bytes", "loads another pickle"),
    ("numpy", "load", "loads another pickle"),
    ("pandas", "read_pickle", "loads another pickle"),
];

/// What of the modules above is harmless.
const HARMLESS: &[(&str, &str)] = &[
    ("torch.serialization", "_get_layout"),
    ("types", "SimpleNamespace"),
    ("operator", "itemgetter"),
    ("_codecs", "encode"),
    ("_collections", "OrderedDict"),
    ("_io", "BytesIO"),
    ("_io", "StringIO"),
];

/// What of Python's builtins is data; everything else of them is not.
const BUILTINS: &[&str] = &[
    "Ellipsis",
    "NotImplemented",
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "long",
    "object",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
    "unicode",
    "xrange",
];

/// The dangerous names in a pickle, each at the place of its first mention.
pub(super) fn find(pickle: &Pickle) -> Vec<Danger> {
    let mut found: Vec<Danger> = Vec::new();
    for global in pickle.globals() {
        let Some(reason) = reason(&global.name.module, &global.name.name) else { continue };
        let name = global.name.to_string();
        if found.iter().all(|danger| danger.name != name) {
            let is_called = pickle.nodes().iter().any(|node| match node {
                Node::Object(object) => pickle.global(object.callable).is_some_and(|called| *called == global.name),
                _ => false,
            });
            found.push(Danger { name, reason, is_called, offset: global.offset });
        }
        if found.len() == MOST_REPORTED {
            break;
        }
    }
    found
}

/// A file with so many dangerous names needs no longer list.
const MOST_REPORTED: usize = 20;

fn reason(module: &str, name: &str) -> Option<&'static str> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain(module) || !is_plain(name) {
        return Some("hides behind characters that no Python name has");
    }
    if HARMLESS.contains(&(module, name)) {
        return None;
    }
    // `a.b` as a name is looked up attribute by attribute and reaches any module that `a` imports.
    if name.contains('.') {
        return Some("reaches through one module into another");
    }
    let top = module.split('.').next().unwrap_or_default();
    if matches!(top, "builtins" | "__builtin__") {
        let is_exception = ["Error", "Exception", "Warning"].iter().any(|ending| name.ends_with(ending));
        return (!is_exception && !BUILTINS.contains(&name)).then_some("is a builtin that is no data type");
    }
    if let Some((.., reason)) = FUNCTIONS.iter().find(|listed| (listed.0, listed.1) == (module, name)) {
        return Some(reason);
    }
    if let Some((_, reason)) = MODULES.iter().find(|(listed, _)| is_below(module, listed)) {
        return Some(reason);
    }
    // The private halves of the modules above: `_io`, `_posixsubprocess`, `_pickle`. A script's own classes are fine.
    (top.starts_with('_') && top != "__main__").then_some("reaches into the interpreter")
}

fn is_below(module: &str, listed: &str) -> bool {
    match listed.strip_suffix('.') {
        Some(package) => module == package || module.starts_with(listed),
        None => module == listed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_dangerous_names_from_those_of_real_checkpoints() {
        for (module, name) in [
            ("posix", "system"),
            ("os.path", "join"),
            ("builtins", "eval"),
            ("__builtin__", "getattr"),
            ("torch.storage", "_load_from_bytes"),
            ("random", "_os.system"),
            ("_io", "open"),
            ("torch.hub", "load"),
            ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
            ("torch.utils.cpp_extension", "load_inline"),
            ("os\u{200b}", "x"),
            ("a b", "c"),
        ] {
            assert!(reason(module, name).is_some(), "{module}.{name}");
        }
        for (module, name) in [
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch.storage", "UntypedStorage"),
            ("torch.nn.parameter", "Parameter"),
            ("_codecs", "encode"),
            ("__builtin__", "set"),
            ("__builtin__", "long"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy", "dtype"),
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            ("omegaconf.dictconfig", "DictConfig"),
            ("argparse", "Namespace"),
            ("types", "SimpleNamespace"),
            ("ultralytics.nn.tasks", "DetectionModel"),
            ("torch.optim.adamw", "AdamW"),
            ("copy_reg", "_reconstructor"),
            ("datetime", "datetime"),
            ("pathlib", "PosixPath"),
            ("typing", "Any"),
            ("oslo", "x"),
            ("code.models", "Net"),
            ("__main__", "Config"),
            ("functools", "partial"),
            ("__builtin__", "Ellipsis"),
            ("torch.utils.data.dataloader", "DataLoader"),
            ("logging", "getLogger"),
        ] {
            assert_eq!(reason(module, name), None, "{module}.{name}");
        }
    }
}
