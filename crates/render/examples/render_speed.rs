//! Measures calls of the UNet or the VAE on the CPU, for `benches/render.py`.
//!
//!     render_speed CHECKPOINT unet|decode|encode PIXELS BATCH RUNS
//!
//! Prints a line of JSON with the CPU seconds and wall seconds of each run, after a warm-up, and the peak memory in bytes.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_render::Engine;
use trinart_ckpt_render::networks::{Conditioning, Unet, Vae};
use trinart_ckpt_render::weights::WeightLoader;

type Call = Box<dyn Fn() -> trinart_ckpt_formats::Result<Tensor>>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, stage, pixels, batch, runs] = arguments.as_slice() else {
        return Err("usage: render_speed CHECKPOINT unet|decode|encode PIXELS BATCH RUNS".into());
    };
    let (pixels, batch, runs): (usize, usize, usize) = (pixels.parse()?, batch.parse()?, runs.parse()?);
    let state_dict = Arc::new(StoredCheckpoint::open(checkpoint)?.state_dict().clone());
    let weights = WeightLoader::new(state_dict, &Engine::Candle);
    let random = |dims: &[usize]| Tensor::randn(0f32, 1., dims, &Device::Cpu);
    let call: Call = match stage.as_str() {
        "unet" => {
            let unet = Unet::load(&weights)?;
            let vector = unet.vector_width().map(|width| random(&[batch, width])).transpose()?;
            let prompt = Conditioning { context: random(&[batch, 77, unet.context_width()])?, vector };
            let prompt = unet.prepare(&prompt)?;
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
        other => return Err(format!("unknown stage {other}").into()),
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

/// The CPU seconds of all threads of this process. Linux counts 100 ticks per second.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name of the process is in parentheses and may contain spaces.
    let (_, fields) = stat.rsplit_once(')').ok_or("no process name in /proc/self/stat")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut ticks =
        || -> Result<f64, Box<dyn Error>> { Ok(times.next().ok_or("no CPU time in /proc/self/stat")?.parse()?) };
    Ok((ticks()? + ticks()?) / 100.0)
}

/// The peak resident memory in bytes.
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(1024 * line.trim().trim_end_matches(" kB").trim().parse::<u64>()?)
}
