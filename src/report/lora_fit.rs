//! How a LoRA fits a model, as text.

use crate::report::colors::{Colors, DOUBTFUL, GOOD};
use crate::report::units::count;
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_models::lora::{LoraFit, NetworkFit, ShapeMismatch};

/// Modules of each list that the text has, unless all are requested. JSON has all.
const LISTED: usize = 6;

/// Formats the verdict and its reasons in lines with a label each; `all` lists every module that does not fit.
pub(super) fn lines(fit: &LoraFit, all: bool, colors: Colors, line: &mut impl FnMut(&str, &str)) {
    line("verdict", &colors.paint(&fit.verdict, if fit.fits { GOOD } else { DOUBTFUL }));
    line("checked against", &printable(&fit.model));
    for network in &fit.networks {
        line("fit", &network_text(network));
    }
    let mut list = |label: &str, texts: Vec<String>| {
        let shown = if all { texts.len() } else { LISTED };
        texts.iter().take(shown).for_each(|text| line(label, text));
        if texts.len() > shown {
            line(label, &format!("and {} more", texts.len() - shown));
        }
    };
    list("missing", fit.missing.iter().map(|name| printable(name)).collect());
    list("other shape", fit.mismatched.iter().map(mismatch_text).collect());
    list("WebUI ignores", fit.ignored_by_webui.iter().map(|name| printable(name)).collect());
}

/// `UNet: 15 of 18 modules, 2 missing, 1 of another shape`.
fn network_text(found: &NetworkFit) -> String {
    let modules = count(found.modules, "module");
    let counts = [(found.missing, "missing"), (found.mismatched, "of another shape")];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    let lacks = if found.is_in_model == Some(false) { "; the model has no such network" } else { "" };
    format!("{}: {} of {modules}{}{lacks}", found.network.text(), found.fit, counts.collect::<String>())
}

/// `lora_unet_…: [320, 768] in the LoRA, [320, 1024] in the model`.
fn mismatch_text(found: &ShapeMismatch) -> String {
    let of_model = found.model_shape.as_ref().map_or_else(|| "none".to_owned(), |shape| format!("{shape:?}"));
    let (module, key) = (printable(&found.module), printable(&found.key));
    format!("{module}: {:?} in the LoRA, {of_model} in the model ({key})", found.lora_shape)
}
