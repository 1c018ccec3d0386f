use serde_json::{Value, json};

use super::config::add;
use super::definition::Pipeline;
use crate::constants::BETAS;
use crate::family::{Architecture, Prediction, Task};
use crate::parameterization::Parameterization;

/// Returns the scheduler class of the published model.
pub(crate) fn class(pipeline: &Pipeline<'_>) -> &'static str {
    let wanted = pipeline.parameterization;
    match (wanted.prediction, pipeline.architecture, pipeline.task) {
        // Playground 2.5 and CosXL.
        (Prediction::Edm, ..) => "EDMDPMSolverMultistepScheduler",
        (Prediction::EdmVelocity, ..) => "EDMEulerScheduler",
        (_, Architecture::StableVideo, _) => "EulerDiscreteScheduler",
        (_, _, Task::InstructPix2Pix) => "EulerAncestralDiscreteScheduler",
        // PNDM cannot rescale its betas.
        (_, Architecture::Sd1, _) if wanted.zero_terminal_snr => "DDIMScheduler",
        (_, Architecture::Sd1, _) => "PNDMScheduler",
        (_, Architecture::Sd2, _) if pipeline.is_turbo => "EulerDiscreteScheduler",
        (_, Architecture::Sd2, _) => "DDIMScheduler",
        _ => "EulerDiscreteScheduler",
    }
}

/// Returns the spacing of timesteps that a generated scheduler has if nothing else is wanted; `None` for EDM, which has
/// none.
pub(crate) fn timestep_spacing(wanted: &Parameterization) -> Option<&'static str> {
    match wanted.prediction {
        Prediction::Edm | Prediction::EdmVelocity => None,
        _ if wanted.zero_terminal_snr => Some("trailing"),
        _ => Some("leading"),
    }
}

/// Returns `scheduler_config.json`. All models but those of EDM were trained with the same noise schedule.
pub(crate) fn config(pipeline: &Pipeline<'_>) -> Value {
    let wanted = pipeline.parameterization;
    let class = class(pipeline);
    if wanted.prediction.is_edm() {
        return edm(class, wanted);
    }
    let [first, last] = BETAS;
    let mut config = json!({
        "_class_name": class,
        "beta_end": last,
        "beta_schedule": "scaled_linear",
        "beta_start": first,
        "num_train_timesteps": 1000,
        "prediction_type": match wanted.prediction {
            Prediction::Epsilon => "epsilon",
            _ => "v_prediction",
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
        _ => {}
    }
    if pipeline.architecture == Architecture::StableVideo {
        add(&mut config, video());
    }
    // SD-Turbo takes one step, from pure noise.
    let usual = if pipeline.is_turbo { Some("trailing") } else { timestep_spacing(wanted) };
    if let Some(spacing) = wanted.timestep_spacing.as_deref().or(usual) {
        add(&mut config, [("timestep_spacing", spacing.into())]);
    }
    if wanted.zero_terminal_snr {
        add(&mut config, [("rescale_betas_zero_snr", true.into())]);
    }
    config
}

/// The fields of the published scheduler of Stable Video Diffusion, whose sigmas are those of EDM.
fn video() -> [(&'static str, Value); 7] {
    [
        ("clip_sample", false.into()),
        ("interpolation_type", "linear".into()),
        ("set_alpha_to_one", false.into()),
        ("sigma_max", 700.0.into()),
        ("sigma_min", 0.002.into()),
        ("timestep_type", "continuous".into()),
        ("use_karras_sigmas", true.into()),
    ]
}

/// Returns the configuration of an EDM scheduler with the other fields of the published models.
fn edm(class: &str, wanted: &Parameterization) -> Value {
    let mut config = json!({
        "_class_name": class,
        "final_sigmas_type": "zero",
        "num_train_timesteps": 1000,
        "prediction_type": if wanted.prediction == Prediction::Edm { "epsilon" } else { "v_prediction" },
        "rho": 7.0,
        "sigma_data": wanted.sigma_data,
        "sigma_max": wanted.sigma_max,
        "sigma_min": wanted.sigma_min,
        "sigma_schedule": if wanted.prediction == Prediction::Edm { "karras" } else { "exponential" },
    });
    if class == "EDMDPMSolverMultistepScheduler" {
        let solver = [
            ("algorithm_type", json!("dpmsolver++")),
            ("dynamic_thresholding_ratio", json!(0.995)),
            ("euler_at_final", json!(false)),
            ("lower_order_final", json!(true)),
            ("sample_max_value", json!(1.0)),
            ("solver_order", json!(2)),
            ("solver_type", json!("midpoint")),
            ("thresholding", json!(false)),
        ];
        add(&mut config, solver);
    }
    config
}
