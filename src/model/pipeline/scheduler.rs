use serde_json::{Value, json};

use super::{Pipeline, add};
use crate::model::architecture::{Architecture, Prediction, Task};

/// The class of diffusers: that of the published model.
pub(super) fn class(pipeline: &Pipeline) -> &'static str {
    match (pipeline.architecture, pipeline.task) {
        (_, Task::InstructPix2Pix) => "EulerAncestralDiscreteScheduler",
        (Architecture::Sd1, _) => "PNDMScheduler",
        (Architecture::Sd2, _) => "DDIMScheduler",
        (Architecture::SdxlBase | Architecture::SdxlRefiner, _) => "EulerDiscreteScheduler",
    }
}

/// `scheduler_config.json`: the noise that the models were trained with, which is the same for all of them.
pub(super) fn config(pipeline: &Pipeline) -> Value {
    let class = class(pipeline);
    let mut config = json!({
        "_class_name": class,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "prediction_type": match pipeline.prediction {
            Prediction::Epsilon => "epsilon",
            Prediction::Velocity | Prediction::Unknown => "v_prediction",
        },
        "steps_offset": 1,
        "trained_betas": null,
    });
    let rest = match class {
        "PNDMScheduler" => {
            json!({ "clip_sample": false, "set_alpha_to_one": false, "skip_prk_steps": true })
        }
        "DDIMScheduler" => json!({ "clip_sample": false, "set_alpha_to_one": false }),
        _ => json!({ "timestep_spacing": "leading" }),
    };
    add(&mut config, rest);
    if pipeline.zero_terminal_snr {
        add(&mut config, json!({ "rescale_betas_zero_snr": true, "timestep_spacing": "trailing" }));
    }
    config
}
