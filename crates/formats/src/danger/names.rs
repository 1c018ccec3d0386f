//! Judges global names: by the tables of what is vouched for, by lists of what is dangerous, and by their form.

use super::vouched::entry;
use super::{packages, stdlib};
use crate::limits;
use crate::pickle::Name;

/// What this program says about a name or a file. Orders from safe to dangerous.
///
/// Deliberately exhaustive: a program that acts on a level has to decide about each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Vouched for, and used only as it is vouched for: a data type, or a function that rebuilds one.
    Safe,
    /// Not vouched for, or not used as it is vouched for. Typically a class of some package, whose code runs when the
    /// pickle is loaded.
    Unknown,
    /// Lets the author of the file run code, or access files or the network, on the computer that loads it.
    Dangerous,
}

impl Level {
    /// All levels, the worst first.
    pub const ALL: [Level; 3] = [Level::Dangerous, Level::Unknown, Level::Safe];

    /// The name in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Level::Safe => "safe",
            Level::Unknown => "unknown",
            Level::Dangerous => "dangerous",
        }
    }
}

/// The level of a name, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judgement {
    /// The level.
    pub level: Level,
    /// The reason, such as `runs commands`. Continues a sentence after "which".
    pub reason: &'static str,
}

impl Judgement {
    pub(super) const fn dangerous(reason: &'static str) -> Self {
        Judgement { level: Level::Dangerous, reason }
    }

    pub(super) const fn unknown(reason: &'static str) -> Self {
        Judgement { level: Level::Unknown, reason }
    }

    pub(super) const fn safe(reason: &'static str) -> Self {
        Judgement { level: Level::Safe, reason }
    }
}

/// Judges a global name of a pickle by itself, without its calls.
pub fn judge(name: &Name) -> Judgement {
    if let Some(reason) = danger(name) {
        return Judgement::dangerous(reason);
    }
    match entry(name) {
        Some(_) => Judgement::safe("is vouched for"),
        None => Judgement::unknown("is not vouched for"),
    }
}

/// Whether a name is dangerous by the lists or by its form.
pub(super) fn is_dangerous(name: &Name) -> bool {
    danger(name).is_some()
}

/// Returns what a dangerous name lets a pickle do. Continues a sentence after "which".
fn danger(full: &Name) -> Option<&'static str> {
    let (module, name) = (full.module.as_str(), full.name.as_str());
    let is_plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    };
    if module.len().max(name.len()) > limits::GLOBAL_NAME_BYTES {
        return Some("is longer than any real Python name");
    }
    if !is_plain(module) || !is_plain(name) {
        return Some("contains characters that are not allowed in Python names");
    }
    // Python looks up the name `a.b` attribute by attribute, so it reaches every module that `a` imports.
    if name.contains('.') {
        return Some("accesses a module through another one");
    }
    if let Some((.., reason)) = packages::FUNCTIONS.iter().find(|entry| entry.0 == module && entry.1.contains(&name)) {
        return Some(reason);
    }
    let top = module.split_once('.').map_or(module, |(top, _)| top);
    if entry(full).is_some() || listed(stdlib::DATA, module, name) || listed(packages::DATA, module, name) {
        return None;
    }
    if matches!(top, "builtins" | "__builtin__") {
        return builtin(module, name);
    }
    if is_torch_type(module, name) {
        return None;
    }
    if let Some(reason) = standard(module, top) {
        return Some(reason);
    }
    if let Some((_, reason)) = packages::LISTED.iter().find(|(package, _)| is_within(module, package)) {
        return Some(reason);
    }
    if module == "test" || module.starts_with("test.test_") {
        return Some("is part of Python's own tests, which run commands");
    }
    if module.split('.').any(|part| packages::DANGEROUS_PARTS.contains(&part)) {
        return Some("accesses a module through another one");
    }
    if packages::DANGEROUS_NAMES.contains(&name) {
        return Some("has the name of a function that runs commands or code");
    }
    // Implementation modules such as `_io`, `_posixsubprocess`, `_pickle`. `__main__` holds a script's own classes.
    if top.starts_with('_') && top != "__main__" {
        return Some("accesses the interpreter");
    }
    let is_class = name.trim_start_matches('_').starts_with(|first: char| first.is_ascii_uppercase());
    let rebuilds = || module == "torch._utils" && name.starts_with("_rebuild_");
    let is_of_models = || rebuilds() || packages::FUNCTIONS_OF_MODELS.iter().any(|models| covers(models, module));
    if matches!(top, "torch" | "numpy") && !is_class && !is_of_models() {
        return Some("is a function that checkpoints do not need");
    }
    None
}

fn builtin(module: &str, name: &str) -> Option<&'static str> {
    let is_exception = ["Error", "Exception", "Warning"].iter().any(|ending| name.ends_with(ending));
    let is_data = !module.contains('.') && (is_exception || stdlib::BUILTINS.contains(&name));
    (!is_data).then_some("is a builtin that is not a data type")
}

fn listed(table: &[(&str, &[&str])], module: &str, name: &str) -> bool {
    table.iter().any(|entry| entry.0 == module && entry.1.contains(&name))
}

/// Whether a name is a dtype, a storage or tensor class, a memory layout or a quantization scheme.
fn is_torch_type(module: &str, name: &str) -> bool {
    const DTYPES: [&str; 10] = ["float", "bfloat", "int", "uint", "complex", "bool", "qint", "quint", "bits", "per_"];
    const LAYOUTS: [&str; 6] = ["strided", "sparse_", "contiguous_format", "channels_last", "preserve_format", "half"];
    let is_class = name.ends_with("Storage") || name.ends_with("Tensor");
    match module {
        "torch" => {
            let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
            is_class || starts(&DTYPES) || starts(&LAYOUTS) || matches!(name, "double" | "long" | "short")
        }
        "torch.cuda" | "torch.sparse" | "torch.cuda.sparse" => is_class,
        "numpy" => {
            name.trim_end_matches(|last: char| last.is_ascii_digit() || last == '_') != name
                && DTYPES.iter().any(|prefix| name.starts_with(prefix))
        }
        "numpy.dtypes" => name.ends_with("DType"),
        _ => false,
    }
}

/// Returns why a module of the standard library is dangerous, or `None` for other modules.
fn standard(module: &str, top: &str) -> Option<&'static str> {
    if module != top && !stdlib::PACKAGES.contains(&top) {
        return None;
    }
    let reason = stdlib::LISTED.iter().find(|(listed, _)| *listed == top).map(|(_, reason)| *reason);
    reason
        .or_else(|| stdlib::OTHERS.contains(&top).then_some("is part of Python's standard library and not a data type"))
}

/// Whether `module` is `package` or a submodule of it.
fn is_within(module: &str, package: &str) -> bool {
    module.strip_prefix(package).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Like [`is_within`], but the top-level packages do not include their submodules.
fn covers(models: &str, module: &str) -> bool {
    if matches!(models, "torch" | "numpy" | "numpy.core" | "numpy._core") {
        module == models
    } else {
        is_within(module, models)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(module: &str, name: &str) -> Level {
        judge(&Name { module: module.into(), name: name.into() }).level
    }

    #[test]
    fn names_that_run_load_or_fetch_are_dangerous() {
        for (module, name) in [
            ("posix", "system"),
            ("os.path", "join"),
            ("builtins", "eval"),
            ("__builtin__", "getattr"),
            ("builtins.x", "int"),
            ("torch.storage", "_load_from_bytes"),
            ("random", "_os.system"),
            ("_io", "open"),
            ("torch.hub", "load"),
            ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
            ("torch.utils.cpp_extension", "load_inline"),
            ("os\u{200b}", "x"),
            ("a b", "c"),
            ("", "system"),
            ("torch._C", "_jit_script_compile"),
            ("torch.utils._config_module", "load_config"),
            ("numpy.lib.npyio", "load"),
            ("sympy.core.sympify", "eval"),
            ("django.utils.six.moves.builtins", "x"),
            ("uuid", "_popen"),
            ("encodings.rot_13", "x"),
            ("brandnew", "system"),
            ("torch.utils.data.datapipes.utils.decoder", "basichandlers"),
            ("torch._utils", "_import_dotted_name"),
            ("test", "x"),
        ] {
            assert_eq!(level(module, name), Level::Dangerous, "{module}.{name}");
        }
    }

    #[test]
    fn names_that_are_not_vouched_for_are_unknown() {
        for (module, name) in [
            ("pytorch_lightning.callbacks.other", "ModelCheckpoint"),
            ("omegaconf.listconfig", "DictConfig"),
            ("builtins", "ValueError"),
            ("io", "BytesIO"),
            ("torch", "sparse_coo_tensor"),
            ("ultralytics.nn.tasks", "DetectionModel"),
            ("torch.optim.adamw", "AdamW"),
            ("torch.nn.modules.conv", "Conv2d"),
            ("torch.nn.functional", "gelu"),
            ("torch._C._nn", "gelu"),
            ("torch.optim.lr_scheduler", "LambdaLR"),
            ("torch.utils.data.dataloader", "DataLoader"),
            ("torch.utils.data._utils.collate", "default_collate"),
            ("sklearn.tree._tree", "__pyx_unpickle_Tree"),
            ("oslo", "x"),
            ("torch._utils", "_rebuild_tensor_v4"),
            ("test.models", "Net"),
            ("code.models", "Net"),
            ("__main__", "Config"),
            ("functools", "partial"),
            ("typing", "Dict"),
            ("logging", "getLogger"),
        ] {
            assert_eq!(level(module, name), Level::Unknown, "{module}.{name}");
        }
    }

    #[test]
    fn names_in_real_checkpoints_are_safe() {
        for (module, name) in [
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch", "float16"),
            ("torch.cuda", "HalfTensor"),
            ("torch.storage", "UntypedStorage"),
            ("torch.nn.parameter", "Parameter"),
            ("_codecs", "encode"),
            ("__builtin__", "set"),
            ("__builtin__", "long"),
            ("__builtin__", "Ellipsis"),
            ("typing", "Any"),
            ("omegaconf.dictconfig", "DictConfig"),
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy", "dtype"),
            ("numpy", "float32"),
            ("argparse", "Namespace"),
            ("copy_reg", "_reconstructor"),
            ("datetime", "datetime"),
            ("pathlib", "PosixPath"),
        ] {
            assert_eq!(level(module, name), Level::Safe, "{module}.{name}");
        }
    }
}
