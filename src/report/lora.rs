//! What a LoRA changes, as text.

use std::fmt::Write;

use crate::report::units::{count, short_value};
use trinart_ckpt_formats::error::printable;
use trinart_ckpt_models::lora::{LoraModule, LoraNetwork, LoraScale, LoraSummary, Spectrum};

/// Ranks, places and contradictions that the text lists. JSON lists all.
const LISTED: usize = 6;

/// Formats a summary in lines with a label each.
pub(super) fn lines(lora: &LoraSummary, line: &mut impl FnMut(&str, &str)) {
    let network = |it: &LoraNetwork| {
        let blocks = if it.blocks > 0 { format!(" in {}", count(it.blocks, "block")) } else { String::new() };
        format!("{} {}{blocks}", it.network.text(), it.modules)
    };
    let networks: Vec<String> = lora.networks.iter().map(network).collect();
    let kinds = lora.kinds.iter().map(|(kind, modules)| format!("{kind} {modules}")).collect::<Vec<_>>();
    let kinds = if kinds.len() > 1 { format!("; {}", kinds.join(", ")) } else { String::new() };
    if lora.modules > 0 {
        line("modules", &format!("{}: {}{kinds}", lora.modules, networks.join(", ")));
    }
    let more = |line: &mut dyn FnMut(&str, &str), label: &str, all: usize| {
        if all > LISTED {
            line(label, &format!("and {} more", all - LISTED));
        }
    };
    for scale in lora.scales.iter().take(LISTED) {
        line("rank", &scale_text(scale));
    }
    more(line, "rank", lora.scales.len());
    let mut targets: Vec<String> =
        lora.targets.iter().take(LISTED).map(|(name, modules)| format!("{} {modules}", printable(name))).collect();
    if lora.targets.len() > LISTED {
        targets.push(format!("and {} more", lora.targets.len() - LISTED));
    }
    if !targets.is_empty() {
        line("layers", &targets.join(", "));
    }
    if lora.other_tensors > 0 {
        line("no LoRA", &count(lora.other_tensors, "tensor"));
    }
    if let Some(base) = &lora.base_model {
        line("trained on", &printable(base));
    }
    for found in lora.contradictions.iter().take(LISTED) {
        line("CONTRADICTION", &printable(found));
    }
    more(line, "CONTRADICTION", lora.contradictions.len());
}

/// `16, alpha 8 (scale 0.5): 192 modules`.
fn scale_text(found: &LoraScale) -> String {
    let what = count(found.modules, if found.is_convolution { "convolution" } else { "module" });
    let alpha = found.alpha.map(|alpha| format!(", alpha {}", short_value(alpha)));
    let Some(rank) = found.rank else { return format!("none{}: {what}", alpha.unwrap_or_default()) };
    match (alpha, found.scale) {
        (Some(alpha), scale) => {
            let scale = scale.map_or_else(String::new, |scale| format!(" (scale {})", short_value(scale)));
            format!("{rank}{alpha}{scale}: {what}")
        }
        (None, Some(scale)) => format!("{rank}, no alpha (scale {}): {what}", short_value(scale)),
        (None, None) => format!("{rank}, alpha not read: {what}"),
    }
}

/// Writes a line for each module.
pub(super) fn write_modules(lora: &LoraSummary, out: &mut String) {
    for module in lora.module_list.iter().flatten() {
        let _ = writeln!(out, "  module {}: {}", printable(&module.module), module_text(module));
    }
}

fn module_text(found: &LoraModule) -> String {
    let rank = found.rank.map_or_else(String::new, |rank| format!(", rank {rank}"));
    let alpha = found.alpha.map_or_else(String::new, |alpha| format!(", alpha {}", short_value(alpha)));
    let spectrum = found.spectrum.as_ref().map_or_else(String::new, |found| format!(", {}", spectrum_text(found)));
    format!("{}{rank}{alpha}{spectrum}", found.kind)
}

/// `down 4.1, up 0.2, product 0.31 (largest singular value 0.2, stable rank 2.4); 90 % in rank 3, 95 % in 4, 99 % in 8`.
fn spectrum_text(found: &Spectrum) -> String {
    let numbers = [found.down_norm, found.up_norm, found.norm, found.singular_values.first().copied().unwrap_or(0.0)];
    let [down, up, product, largest] = numbers.map(short_value);
    let norms = format!("norms: down {down}, up {up}, product {product}");
    let stable = short_value(found.stable_rank);
    let ranks = format!("90 % in rank {}, 95 % in {}, 99 % in {}", found.rank_90, found.rank_95, found.rank_99);
    format!("{norms}; largest singular value {largest}, stable rank {stable}, {ranks}")
}
