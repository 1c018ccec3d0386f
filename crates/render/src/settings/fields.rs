//! What the fields of a picture's parameters mean for a render: used, without effect, or the part of a program that a
//! render leaves out.

/// Fields that only this program writes: the dtype of the weights, and the syntax of the prompt.
pub(super) const WEIGHT_DTYPE: &str = "Weight dtype";
pub(super) const PROMPT_SYNTAX: &str = "Prompt syntax";

/// The fields of the refiner.
pub(super) const REFINER: &str = "Refiner";
pub(super) const SWITCH_AT: &str = "Refiner switch at";
pub(super) const SWITCH_BY_STEPS: &str = "Refiner switch by sampling steps";

/// Fields that a render uses or compares.
const USED: &[&str] = &[
    "Steps",
    "Sampler",
    "Schedule type",
    "CFG scale",
    "Seed",
    "Size",
    "Model hash",
    "Model",
    "VAE hash",
    "VAE",
    "Clip skip",
    "ENSD",
    "RNG",
    "Emphasis",
    "Pad conds",
    "Pad conds v0",
    "Old prompt editing timelines",
    "Downcast alphas_cumprod",
    // The options in `webui.rs`.
    "Beta schedule alpha",
    "Beta schedule beta",
    "Schedule min sigma",
    "Schedule max sigma",
    "Schedule rho",
    "Discard penultimate sigma",
    "Eta",
    "Eta DDIM",
    "Sigma churn",
    "Sigma tmin",
    "Sigma tmax",
    "Sigma noise",
    "SGM noise multiplier",
    "NGMS",
    "NGMS all steps",
    "Skip Early CFG",
    "Noise Schedule",
    "Variation seed",
    "Variation seed strength",
    "Seed resize from",
    "Tiling",
    "TI hashes",
    "Lora hashes",
    "Hashes",
    "Version",
    PROMPT_SYNTAX,
    WEIGHT_DTYPE,
];

/// Fields without effect on the picture.
const NOTES: &[&str] = &[
    // WebUI writes the seed of each picture, not that of its batch.
    "Batch size",
    "Batch pos",
    "User",
    "Created Date",
    // The prompts from which extensions made those of the picture.
    "Template",
    "Negative Template",
    "Wildcard prompt",
    "Wildcard negative prompt",
    "Civitai Hashes From Metadata",
];

/// Fields with a value that does not affect the picture.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("UniPC variant", "bh1"),
    ("UniPC skip type", "time_uniform"),
    ("UniPC order", "3"),
    ("UniPC lower order final", "True"),
    ("Token merging ratio", "0"),
    ("Token merging ratio", "0.0"),
    ("VAE Encoder", "Full"),
    ("VAE Decoder", "Full"),
    ("Civitai metadata", "{}"),
    ("Civitai resources", "[]"),
];

/// How the names of fields begin, by the part of a program that they belong to.
const PARTS: &[(&str, &str)] = &[
    ("Hires", "hires fix"),
    ("Hires.fix", "hires fix"),
    ("Highres", "hires fix"),
    ("First pass size", "hires fix"),
    ("Denoising strength", "hires fix or img2img"),
    ("Refiner", "the refiner"),
    ("ADetailer", "ADetailer"),
    ("ControlNet", "ControlNet"),
    ("IP-Adapter", "ControlNet"),
    ("Mask", "inpainting"),
    ("Masked", "inpainting"),
    ("Inpaint", "inpainting"),
    ("Soft inpainting", "inpainting"),
    ("Resize mode", "img2img"),
    ("Init image", "img2img"),
    ("Image CFG scale", "img2img"),
    ("Face restoration", "face restoration"),
    ("Postprocess", "upscaling after the render"),
    ("Extras", "upscaling after the render"),
    ("Upscale", "upscaling after the render"),
    ("SD upscale", "upscaling after the render"),
    ("Ultimate SD upscale", "upscaling after the render"),
    ("Tiled Diffusion", "Tiled Diffusion"),
    ("Tiled VAE", "Tiled Diffusion"),
    ("MultiDiffusion", "Tiled Diffusion"),
    ("Token merging", "token merging"),
    ("Dynamic thresholding", "Dynamic Thresholding"),
    ("Dynamic Thresholding", "Dynamic Thresholding"),
    ("Threshold percentile", "Dynamic Thresholding"),
    ("Mimic", "Dynamic Thresholding"),
    ("FreeU", "FreeU"),
    ("Hypertile", "Hypertile"),
    ("SAG", "self-attention guidance"),
    ("PAG", "perturbed-attention guidance"),
    ("Kohya HRFix", "Kohya HRFix"),
    ("RP ", "Regional Prompter"),
    ("AddNet", "Additional Networks"),
    ("Hypernet", "a hypernetwork"),
    ("AnimateDiff", "AnimateDiff"),
    ("CFG Rescale", "CFG rescale"),
    ("CFG rescale", "CFG rescale"),
    ("Script", "a script"),
    ("Distilled CFG", "a model other than Stable Diffusion"),
    ("Civitai resources", "resources of Civitai"),
    ("App", "another program"),
    ("Backend", "another program"),
    ("Pipeline", "another program"),
];

/// Maximum number of fields of a part that a message lists.
const LISTED: usize = 3;

/// Maximum number of characters of a value in a message.
const SHOWN: usize = 40;

/// Collects the fields that a render ignores, by the part of a program that they belong to.
#[derive(Default)]
pub(super) struct IgnoredFields<'a> {
    parts: indexmap::IndexMap<&'static str, Vec<(&'a str, &'a str)>>,
    others: Vec<(&'a str, &'a str)>,
}

impl<'a> IgnoredFields<'a> {
    /// Adds a field unless a render uses it or it has no effect.
    pub(super) fn add(&mut self, name: &'a str, value: &'a str, has_refiner: bool) {
        let is_of_refiner = [REFINER, SWITCH_AT, SWITCH_BY_STEPS].contains(&name);
        if is_of_refiner && has_refiner {
            return;
        }
        if USED.contains(&name) || NOTES.contains(&name) || WITHOUT_EFFECT.contains(&(name, value.trim())) {
            return;
        }
        match PARTS.iter().find(|(begin, _)| name.starts_with(begin)) {
            Some((_, part)) => self.parts.entry(part).or_default().push((name, value)),
            None => self.others.push((name, value)),
        }
    }

    /// Returns a text for each part, and for each field of no known part.
    pub(super) fn texts(&self) -> Vec<String> {
        let field = |(name, value): &(&str, &str)| format!("{name}: {}", shown(value));
        let part = |(part, fields): (&&str, &Vec<(&str, &str)>)| {
            let listed: Vec<String> = fields.iter().take(LISTED).map(field).collect();
            let more = match fields.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            format!("{part} ({}{more})", listed.join(", "))
        };
        self.parts.iter().map(part).chain(self.others.iter().map(field)).collect()
    }
}

/// Returns the begin of a value, for a message.
pub(super) fn shown(value: &str) -> String {
    let begin: String = value.chars().take(SHOWN).collect();
    if begin.len() < value.len() { begin + "…" } else { begin }
}
