use trinart_ckpt_formats::error::printable;
use trinart_ckpt_formats::state_dict::StateDict;

use super::rules::{adapters as adapter_rules, diffusion, others, upscalers};
use super::view::View;
use super::{FileKind, Found, Model, adapters, autoencoder, encoders, unet};
use crate::position_ids;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The role of the file.
    pub kind: FileKind,
    /// The model that the file is, or that it belongs to; `None` if the keys do not tell.
    pub model: Option<Model>,
    /// More words about the file, such as a size or the parts of a checkpoint.
    pub details: Vec<String>,
    /// Other kinds of files whose keys are in this file too: it contradicts itself.
    pub also: Vec<FileKind>,
    /// What precedes all keys without need, as `module.`; empty in most files.
    pub wrapper: String,
}

/// What wraps all keys of a file that a training tool or a compiler wrote.
const WRAPPERS: &[&str] = &["module.", "_orig_mod.", "state_dict.", "ema_model.", "online_model."];

/// What wraps all keys of a whole checkpoint. Before those of one network, these can be its own prefix.
const WRAPPERS_OF_CHECKPOINTS: &[&str] = &["model.", "net.", "network."];

/// How the keys of whole checkpoints begin.
const CHECKPOINT: &[&str] = &["model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."];

/// Where whole checkpoints and folders have their diffusion model.
const DIFFUSION: &[&str] = &[
    "model.diffusion_model.",
    "diffusion_model.",
    "unet.",
    "unet/",
    "transformer.",
    "transformer/",
    "model.unet.",
    "prior/",
    "decoder/",
];

/// Where the original ControlNets have theirs, some beside the whole checkpoint that it steers.
const CONTROL: &str = "control_model.";

/// Where whole checkpoints and folders have their autoencoder.
const VAE: &[&str] = &["first_stage_model.", "vae.", "vae/", "vqgan/", "vqmodel/", "movq/", "audio_vae."];

/// Where whole checkpoints and folders have their text and image encoders.
const ENCODERS: &[&str] = &[
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "text_encoder/",
    "text_encoder_2/",
    "text_encoder_3/",
    "text_encoder_4/",
    "image_encoder/",
    "clip_l.",
    "clip_g.",
    "t5xxl.",
    "embedder.",
];

impl Identity {
    /// Names what a state dict is, in LDM names or as its file stores it.
    pub fn of(state_dict: &StateDict) -> Self {
        Self::of_view(&View::of(state_dict))
    }

    pub(super) fn of_view(view: &View<'_>) -> Self {
        let mut wrapper = String::new();
        while let Some(more) = WRAPPERS.iter().chain(WRAPPERS_OF_CHECKPOINTS).find(|more| {
            let prefix = format!("{wrapper}{more}");
            let is_before = |rest: &str| starts_with_any(rest, CHECKPOINT);
            !view.is_empty()
                && view.keys().all(|key| key.starts_with(&prefix))
                && (WRAPPERS.contains(more) || view.keys().filter_map(|key| key.strip_prefix(&prefix)).any(is_before))
        }) {
            wrapper.push_str(more);
        }
        let inner = view.under(&wrapper);
        let mut identity = of_unwrapped(&inner);
        if !wrapper.is_empty() {
            identity.details.push(format!("all keys under {wrapper}"));
            identity.wrapper = wrapper;
        }
        identity
    }

    /// Adds the class of a diffusers pipeline, if its folder has other parts than those that this program reads.
    #[must_use]
    pub fn in_folder_of(mut self, class: &str) -> Self {
        if !matches!(self.kind, FileKind::Checkpoint | FileKind::OtherCheckpoint) {
            self.details.insert(0, format!("of a folder of {}", printable(class)));
        }
        self
    }

    /// Formats the name for people: `SDXL base LoRA (kohya)`, `Flux.1 dev diffusion model`.
    pub fn to_text(&self) -> String {
        let kind = self.kind.text();
        let name = match self.model {
            Some(model) if self.kind == FileKind::Checkpoint => format!("{kind} ({})", model.text()),
            Some(model) => format!("{} {kind}", model.text()),
            None => kind.to_owned(),
        };
        let details = if self.details.is_empty() { String::new() } else { format!(", {}", self.details.join(", ")) };
        format!("{name}{details}")
    }
}

impl From<Found> for Identity {
    fn from(found: Found) -> Self {
        let details = found.details.into_iter().map(str::to_owned).collect();
        Identity { kind: found.kind, model: found.model, details, also: Vec::new(), wrapper: String::new() }
    }
}

fn starts_with_any(key: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| key.starts_with(prefix))
}

/// Returns whether a key belongs to a LoRA or a LyCORIS network.
fn is_network_key(key: &str) -> bool {
    const WITHIN: &[&str] = &[
        ".lora_",
        "_lora.",
        ".hada_",
        ".lokr_",
        ".oft_",
        ".dora_scale",
        ".boft_",
        ".ia3_l",
        "_lora1.",
        "_lora2.",
        ".lora.",
    ];
    key.starts_with("lora_") || key.starts_with("lycoris_") || WITHIN.iter().any(|part| key.contains(part))
}

fn of_unwrapped(view: &View<'_>) -> Identity {
    if view.is_empty() {
        return Found::new(FileKind::Empty, None).into();
    }
    let adapter = adapter_rules::RULES.iter().find(|(_, parts)| view.holds(parts)).map(|&(kind, _)| kind);
    let prefix = DIFFUSION.iter().find(|prefix| is_diffusion(&view.under(prefix)));
    if let Some(prefix) = prefix.filter(|_| !adapter.is_some_and(FileKind::is_adapter) || has_more(view)) {
        let mut identity = whole(view, prefix);
        let is_control = |kind: FileKind| kind == FileKind::ControlNet && view.has(CONTROL);
        identity.also.extend(adapter.filter(|&kind| !is_control(kind) && !is_a_part(kind, view, prefix)));
        return identity;
    }
    if let Some(kind) = adapter {
        let mut identity = Identity::from(adapters::base(kind, view));
        if kind.is_adapter() {
            let rest = view.without(is_network_key);
            identity.also.extend(alone(&rest).map(|found| found.kind).filter(|_| rest.len() > 2));
        }
        return identity;
    }
    if let Some(identity) = parts(view).filter(|identity| identity.kind == FileKind::Parts) {
        return identity;
    }
    if let Some(found) = alone(view) {
        let mut identity = Identity::from(found);
        identity.also = contradictions(view, identity.kind);
        return identity;
    }
    parts(view).unwrap_or_else(|| Found::new(FileKind::Unknown, None).into())
}

/// Returns whether a file that has the keys of a LoRA also has those of the model that it adapts.
fn has_more(view: &View<'_>) -> bool {
    let rest = view.without(is_network_key);
    DIFFUSION.iter().any(|prefix| is_diffusion(&rest.under(prefix)))
}

/// Returns whether the keys of an adapter are a part of the diffusion model itself, as those of a motion module.
fn is_a_part(kind: FileKind, view: &View<'_>, prefix: &str) -> bool {
    let rest = view.without(|key| key.starts_with(prefix));
    matches!(kind, FileKind::ControlNet | FileKind::TextualInversion)
        && !adapter_rules::RULES.iter().any(|(found, parts)| *found == kind && rest.holds(parts))
}

fn is_diffusion(view: &View<'_>) -> bool {
    !view.is_empty() && (unet::is_unet(view) || diffusion::RULES.iter().any(|(_, parts)| view.holds(parts)))
}

/// Names a file that has a diffusion model under a prefix.
fn whole(view: &View<'_>, prefix: &str) -> Identity {
    let model = view.under(prefix);
    let rest = view.without(|key| key.starts_with(prefix));
    let mut details = Vec::new();
    let vae = VAE.iter().map(|prefix| view.under(prefix)).find(|vae| !vae.is_empty());
    let encoders: Vec<String> = text_encoders(view).iter().map(text_of).collect();
    let has_parts = vae.is_some() || !encoders.is_empty();
    let is_sd = unet::is_unet(&model);
    let found = if is_sd { unet::model(&model, view).model } else { diffusion_model(&model) };
    let is_video = found.is_some_and(Model::is_video);
    let kind = match (is_sd && !is_video, has_parts) {
        (true, true) => FileKind::Checkpoint,
        (true, false) => FileKind::Unet,
        (false, true) => FileKind::OtherCheckpoint,
        (false, false) => FileKind::DiffusionModel,
    };
    if kind == FileKind::OtherCheckpoint {
        let mut parts: Vec<String> = vae.iter().map(|_| "a VAE".to_owned()).collect();
        parts.extend(encoders);
        details.push(format!("with {}", parts.join(", ")));
    }
    details.extend(view.has(CONTROL).then(|| "with a ControlNet".to_owned()));
    let known = [DIFFUSION, VAE, ENCODERS, &[CONTROL]].concat();
    let strays = rest.without(|key| starts_with_any(key, &known) || key.starts_with("model_ema."));
    let strays = alone(&strays).map(|found| found.kind).filter(|_| strays.len() > 2);
    let also = strays.into_iter().chain(second_encoder(&rest, found)).collect();
    Identity { kind, model: found, details, also, wrapper: String::new() }
}

/// Returns the text encoder that a checkpoint has in the place of its own: of another library, so under other keys.
fn second_encoder(view: &View<'_>, model: Option<Model>) -> Option<FileKind> {
    let foreign = if model == Some(Model::Sd2) { FileKind::ClipL } else { FileKind::ClipH };
    let places = [("cond_stage_model.", foreign), ("conditioner.embedders.0.", FileKind::ClipG)];
    let has = |prefix: &str| view.keys().any(|key| key.starts_with(prefix) && !position_ids::is_key(key));
    let has_both = |place: &str| has(&format!("{place}transformer.")) && has(&format!("{place}model."));
    places.into_iter().find(|(place, _)| has_both(place)).map(|(_, kind)| kind)
}

fn diffusion_model(view: &View<'_>) -> Option<Model> {
    diffusion::RULES.iter().find(|(_, parts)| view.holds(parts)).map(|&(model, _)| model)
}

/// The text encoders of a whole checkpoint or of a file of text encoders, each under its prefix.
fn text_encoders(view: &View<'_>) -> Vec<Found> {
    let mut prefixes: Vec<String> = Vec::new();
    for key in view.keys() {
        let Some(prefix) = ENCODERS.iter().find(|prefix| key.starts_with(**prefix)) else { continue };
        let rest = key.get(prefix.len()..).unwrap_or_default();
        let own = match *prefix {
            "text_encoders." => rest.split_once('.').map(|(name, _)| format!("{prefix}{name}.")),
            "conditioner." => {
                let number = rest.strip_prefix("embedders.").and_then(|rest| rest.split_once('.'));
                number.map(|(number, _)| format!("{prefix}embedders.{number}."))
            }
            prefix => Some(prefix.to_owned()),
        };
        if let Some(own) = own.filter(|own| !prefixes.contains(own)) {
            prefixes.push(own);
        }
    }
    prefixes.iter().filter_map(|prefix| encoders::named(&view.under(prefix))).collect()
}

fn text_of(found: &Found) -> String {
    Identity::from(found.clone()).to_text()
}

/// Names a file without a diffusion model that has parts of a checkpoint under their prefixes.
fn parts(view: &View<'_>) -> Option<Identity> {
    let encoders = text_encoders(view);
    let vae = VAE.iter().find_map(|prefix| autoencoder::named(&view.under(prefix)));
    match (encoders.as_slice(), vae) {
        ([], None) => None,
        ([], Some(vae)) => Some(vae.into()),
        ([only], None) => Some(only.clone().into()),
        (several, vae) => {
            let parts = vae.iter().chain(several).map(text_of).collect::<Vec<_>>().join(", ");
            let details = vec![parts];
            Some(Identity { kind: FileKind::Parts, model: None, details, also: Vec::new(), wrapper: String::new() })
        }
    }
}

/// Names a file of one network, whatever wraps it.
fn alone(view: &View<'_>) -> Option<Found> {
    if view.is_empty() {
        return None;
    }
    if unet::is_unet(view) {
        let model = unet::model(view, view).model;
        let is_video = model.is_some_and(Model::is_video);
        let kind = if is_video { FileKind::DiffusionModel } else { FileKind::Unet };
        // That of diffusers has the layers of a motion module within.
        let has_motion = view.has("down_blocks.0.motion_modules.0.");
        return Some(Found::new(kind, model).with_some(has_motion.then_some("with a motion module")));
    }
    if let Some(model) = diffusion_model(view) {
        return Some(Found::new(FileKind::DiffusionModel, Some(model)));
    }
    let upscaler = || upscalers::RULES.iter().find(|(_, _, parts)| view.holds(parts));
    let other = || others::RULES.iter().find(|(_, _, parts)| view.holds(parts));
    upscaler()
        .map(|&(kind, model, _)| Found::new(kind, Some(model)))
        .or_else(|| other().map(|&(kind, model, _)| Found::new(kind, model)))
        .or_else(|| autoencoder::named(view))
        .or_else(|| encoders::named(view))
        .or_else(|| encoders::embedding(view))
        .or_else(|| hypernetwork(view))
}

/// Recognizes a hypernetwork: linear layers under the width that they apply to.
fn hypernetwork(view: &View<'_>) -> Option<Found> {
    const WIDTHS: &[&str] = &["320", "640", "768", "1024", "1280", "2048"];
    let width =
        |key: &str| WIDTHS.iter().copied().find(|width| key.strip_prefix(width).is_some_and(|it| it.starts_with('.')));
    let has = |wanted: &str| view.keys().any(|key| width(key) == Some(wanted));
    let model = match (has("768"), has("1024")) {
        (true, false) => Some(Model::Sd1),
        (false, true) => Some(Model::Sd2),
        _ => None,
    };
    let is_one = view.keys().any(|key| width(key).is_some() && key.contains("linear"));
    is_one.then(|| Found::new(FileKind::Hypernetwork, model))
}

/// Finds the keys of networks that never occur together with those of this kind.
fn contradictions(view: &View<'_>, kind: FileKind) -> Vec<FileKind> {
    let mut also = Vec::new();
    let is_diffusion = matches!(kind, FileKind::Unet | FileKind::DiffusionModel);
    let mut note = |found: FileKind| {
        if found != kind && !also.contains(&found) {
            also.push(found);
        }
    };
    if let Some((found, ..)) = upscalers::RULES.iter().find(|(_, _, parts)| view.holds(parts)).filter(|_| is_diffusion)
    {
        note(*found);
    }
    if kind == FileKind::Unet && diffusion_model(view).is_some() {
        note(FileKind::DiffusionModel);
    }
    let is_file = matches!(kind, FileKind::Upscaler | FileKind::FaceRestorer | FileKind::SegmentAnything);
    if let Some(found) = encoders::named(view).filter(|found| is_file && found.kind.is_text_encoder()) {
        note(found.kind);
    }
    also
}
