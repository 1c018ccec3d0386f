//! Renders a picture with a checkpoint of SD v1, SD v2 or SDXL, to check that the checkpoint works.
//!
//! The crate reproduces txt2img of AUTOMATIC1111's WebUI: its prompt syntax, noise, samplers, schedules and
//! `parameters` text. It runs on the CPU or, experimentally, on NVIDIA GPUs with the feature `cuda`. Checkpoints of
//! other architectures are rejected.
//!
//! # Checking a checkpoint
//!
//! A [`RenderJob`] renders a state dict in LDM names and judges the result. [`RenderJob::plan`] checks everything that
//! needs no weights; [`RenderJob::run`] returns a [`RenderReport`] with the picture and its checks.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use trinart_ckpt_formats::io::NoProgress;
//! use trinart_ckpt_models::Checkpoint;
//! use trinart_ckpt_render::{RenderInput, RenderJob, RenderOptions};
//!
//! # fn main() -> trinart_ckpt_formats::Result<()> {
//! let checkpoint = Checkpoint::open("model.ckpt")?;
//! let options = RenderOptions::default().prompt("a cat").steps(20).seed(1);
//! let input = RenderInput::new("model.ckpt", Arc::new(checkpoint.state_dict().clone()));
//! let report = RenderJob::new(input).options(options).run(&NoProgress)?;
//! for check in &report.checks {
//!     println!("{}: {}", check.name, check.found);
//! }
//! let png = report.to_png()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rendering without a job
//!
//! [`pipeline::render`] takes [`Settings`] and returns a picture, its latent and the checks that need no other picture.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use trinart_ckpt_formats::StateDict;
//! use trinart_ckpt_formats::io::NoProgress;
//! use trinart_ckpt_render::Settings;
//! use trinart_ckpt_render::observer::Trace;
//! use trinart_ckpt_render::pipeline::{Model, render};
//! use trinart_ckpt_render::sampling::{Sampler, ScheduleType};
//!
//! # fn main() -> trinart_ckpt_formats::Result<()> {
//! # let state_dict = Arc::new(StateDict::new());
//! let mut settings = Settings::default();
//! settings.prompt = "a (black:1.2) cat".into();
//! settings.sampler = Sampler::Dpmpp2m;
//! settings.schedule = ScheduleType::Karras;
//! let rendered = render(&Model::new(state_dict)?, &settings, None, &Trace::default(), &NoProgress)?;
//! assert_eq!((rendered.picture.width, rendered.picture.height), (512, 512));
//! # Ok(())
//! # }
//! ```
//!
//! # Parts of a render
//!
//! Each part of a render can be used separately. Parse the `parameters` of a picture:
//!
//! ```
//! use trinart_ckpt_render::settings::Infotext;
//!
//! let text = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Seed: 1, Model: \"a, b\"";
//! let infotext = Infotext::parse(text);
//! assert_eq!((infotext.prompt.as_str(), infotext.negative.as_str()), ("a cat", "dog"));
//! assert_eq!(infotext.get("Model"), Some("a, b"));
//! ```
//!
//! Convert a prompt to tokens with weights:
//!
//! ```
//! use trinart_ckpt_render::prompt::{PromptRules, Timeline, Tokenizer, parse};
//!
//! # fn main() -> trinart_ckpt_formats::Result<()> {
//! let tokenizer = Tokenizer::new()?;
//! let rules = PromptRules::new(Timeline::new(20));
//! let parts = parse("a (photo:1.2) AND a [dog:cat:0.5] :0.5", &rules, &tokenizer)?;
//! assert_eq!((parts[0].weight, parts[1].weight), (1.0, 0.5));
//! let [chunk] = &parts[0].chunks.at(0)[..] else { panic!() };
//! assert_eq!(chunk.tokens[..4], [49406, 320, 1125, 49407]);
//! assert_eq!(chunk.weights[..4], [1.0, 1.0, 1.2, 1.0]);
//! // The second text follows the call of the UNet with index 10.
//! assert_eq!((parts[1].chunks.index_at(10), parts[1].chunks.index_at(11)), (0, 1));
//! # Ok(())
//! # }
//! ```
//!
//! Generate noise and schedules that match WebUI and k-diffusion:
//!
//! ```
//! use trinart_ckpt_render::sampling::{Generator, NoiseSchedule, NoiseSource, ScheduleType};
//!
//! let noise = Generator::new(NoiseSource::Cpu, 0).normal(4 * 64 * 64);
//! // The first value of `torch.manual_seed(0); torch.randn(1, 4, 64, 64)`.
//! assert!((noise[0] + 1.1258).abs() < 1e-4);
//!
//! let sigmas = NoiseSchedule::stable_diffusion().sigmas(ScheduleType::Karras, 5);
//! assert!((sigmas[0] - 14.6146).abs() < 1e-4 && sigmas[5] == 0.0);
//! ```
//!
//! Run a network with the weights of a checkpoint on an [`Engine`]:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use candle_core::{Device, Tensor};
//! use trinart_ckpt_models::Checkpoint;
//! use trinart_ckpt_render::Engine;
//! use trinart_ckpt_render::networks::Vae;
//! use trinart_ckpt_render::picture::Picture;
//! use trinart_ckpt_render::weights::WeightLoader;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let checkpoint = Checkpoint::open("model.ckpt")?;
//! let weights = WeightLoader::new(Arc::new(checkpoint.state_dict().clone()), &Engine::Candle);
//! let vae = Vae::load(&weights)?;
//! let latent = Tensor::randn(0f32, 1.0, (1, 4, 64, 64), &Device::Cpu)?;
//! let picture = Picture::from_decoded(&vae.decode(&latent)?)?;
//! # Ok(())
//! # }
//! ```

pub mod checks;
#[cfg(feature = "cuda")]
pub mod cuda;
mod errors;
mod files;
pub mod job;
pub mod kernels;
mod lora;
pub mod networks;
pub mod observer;
mod ops;
pub mod picture;
pub mod pipeline;
pub mod prompt;
pub mod sampling;
pub mod settings;
mod single;
pub mod weight_flaws;
pub mod weights;

pub use job::{RenderInput, RenderJob, RenderPlan, RenderReport};
pub use ops::Engine;
pub use settings::{RenderOptions, Settings};
