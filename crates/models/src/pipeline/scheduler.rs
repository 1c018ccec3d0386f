use serde_json::{Value, json};

use super::config::add;
use super::definition::Pipeline;
use crate::family::{Architecture, Prediction, Task};

/// Returns the scheduler class of the published model.
pub(super) fn class(pipeline: &Pipeline) -> &'static str {
    match (pipeline.architecture, pipeline.task) {
        (_, Task::InstructPix2Pix) => "EulerAncestralDiscreteScheduler",
        (Architecture::Sd1, _) => "PNDMScheduler",
        (Architecture::Sd2, _) => "DDIMScheduler",
        (Architecture::SdxlBase | Architecture::SdxlRefiner, _) => "EulerDiscreteScheduler",
    }
}

/// Returns `scheduler_config.json`. All models were trained with the same noise schedule.
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
    match class {
        "PNDMScheduler" => add(
            &mut config,
            [("clip_sample", false.into()), ("set_alpha_to_one", false.into()), ("skip_prk_steps", true.into())],
        ),
        "DDIMScheduler" => add(&mut config, [("clip_sample", false.into()), ("set_alpha_to_one", false.into())]),
        _ => add(&mut config, [("timestep_spacing", "leading".into())]),
    }
    if pipeline.zero_terminal_snr {
        add(&mut config, [("rescale_betas_zero_snr", true.into()), ("timestep_spacing", "trailing".into())]);
    }
    config
}
