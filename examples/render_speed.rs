//! How long one call of the UNet or of the decoder takes, for `benches/render.py`.
//!
//!     render_speed CHECKPOINT unet|decode|encode PIXELS BATCH RUNS
//!
//! Prints one line of JSON: CPU seconds and seconds of each run, after one that is not counted, and the peak memory.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use trinart_ckpt::format;
use trinart_ckpt::render::Engine;
use trinart_ckpt::render::unet::Unet;
use trinart_ckpt::render::vae::Vae;
use trinart_ckpt::render::weights::WeightLoader;

type Call = Box<dyn Fn() -> trinart_ckpt::Result<Tensor>>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, stage, pixels, batch, runs] = arguments.as_slice() else {
        return Err("render_speed CHECKPOINT unet|decode|encode PIXELS BATCH RUNS".into());
    };
    let (pixels, batch, runs): (usize, usize, usize) = (pixels.parse()?, batch.parse()?, runs.parse()?);
    let state_dict = Arc::new(format::open(checkpoint)?.state_dict);
    let weights = WeightLoader::new(state_dict, &Engine::Candle);
    let random = |dims: &[usize]| Tensor::randn(0f32, 1., dims, &Device::Cpu);
    let call: Call = match stage.as_str() {
        "unet" => {
            let unet = Unet::load(&weights)?;
            let prompt = unet.prepare(&random(&[batch, 77, unet.context_width()])?)?;
            let x = random(&[batch, 4, pixels / 8, pixels / 8])?;
            Box::new(move || unet.forward(&x, 500.0, &prompt))
        }
        "decode" => {
            let vae = Vae::load(&weights)?;
            let z = random(&[batch, 4, pixels / 8, pixels / 8])?;
            Box::new(move || vae.decode(&z))
        }
        "encode" => {
            let vae = Vae::load(&weights)?;
            let image = random(&[batch, 3, pixels, pixels])?;
            Box::new(move || Ok(vae.encode(&image)?.0))
        }
        other => return Err(format!("no stage {other}").into()),
    };
    let mut cpu = Vec::new();
    let mut wall = Vec::new();
    call()?;
    for _ in 0..runs {
        let (before, start) = (cpu_seconds()?, Instant::now());
        call()?;
        cpu.push(cpu_seconds()? - before);
        wall.push(start.elapsed().as_secs_f64());
    }
    let line = serde_json::json!({ "cpu": cpu, "wall": wall, "peak": peak()? });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// Of all threads, by the kernel's clock of 100 ticks a second.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may have spaces in it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).copied().unwrap_or_default().parse::<f64>();
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// The most memory that was resident, in bytes.
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    Ok(1024 * line.trim().trim_end_matches(" kB").trim().parse::<u64>()?)
}
