//! Every kernel against candle's own operations on the CPU, on the machine that plays a card, and on a card where
//! there is one.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};

use super::*;
use crate::error::Error;
use crate::render::ops::testing::random;
use crate::render::weight_flaws::WeightFlaw;
use crate::render::weights;

#[path = "../../../tests/emulation/machine.rs"]
mod emulation;
use emulation::{CONTRARY, Emulated};

/// Layers of a type on each machine, with the distance from the reference that rounding to the type explains.
fn machines() -> Vec<(String, Kernels, f64)> {
    let mut machines: Vec<(String, Arc<dyn Machine>)> = Vec::new();
    for (name, mode, multiprocessors) in [("emulated", 0, 2), ("emulated, contrary", CONTRARY, 64)] {
        if let Some(machine) = Emulated::new(mode, multiprocessors) {
            machines.push((name.to_owned(), machine));
        }
    }
    #[cfg(feature = "cuda")]
    match crate::render::cuda::Card::open(0) {
        Ok(card) => machines.push((card.name(), Arc::new(card))),
        Err(error) => emulation::skipped_on_a_card(&error),
    }
    let types = [(DType::F16, 8e-4), (DType::BF16, 6e-3), (DType::F32, 2e-6)];
    let of_type = |(name, machine): (String, Arc<dyn Machine>)| {
        types.map(|(dtype, tolerance)| {
            let kernels = Kernels::new(Arc::clone(&machine), dtype).unwrap();
            (format!("{name}, {dtype:?}"), kernels, tolerance)
        })
    };
    machines.into_iter().flat_map(of_type).collect()
}

/// Values of the type, in F32: what the kernels are given, and what the reference is.
fn rounded(kernels: &Kernels, x: &Tensor) -> Tensor {
    x.to_dtype(kernels.dtype).unwrap().to_dtype(DType::F32).unwrap()
}

fn given(kernels: &Kernels, x: &Tensor) -> Tensor {
    cast(kernels, x, kernels.dtype).unwrap()
}

#[track_caller]
fn close(found: &Tensor, expected: &Tensor, tolerance: f64, case: &str) {
    assert_eq!(found.dims(), expected.dims(), "{case}");
    let norm = |x: &Tensor| {
        x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    let relative = norm(&(found - expected).unwrap()) / norm(expected);
    assert!(relative < tolerance, "{case}: {relative:.2e}");
}

#[test]
fn convolutions_and_linear_layers() {
    struct Case(usize, usize, usize, usize, usize, usize, Window, bool);
    let window = |stride, before, after, doubled| Window { stride, before, after, doubled };
    let cases = [
        Case(1, 4, 6, 10, 33, 3, window(1, 1, 1, false), false),
        Case(2, 32, 9, 7, 8, 3, window(1, 1, 1, false), true),
        Case(1, 40, 16, 12, 136, 3, window(2, 1, 1, false), false),
        Case(1, 16, 11, 8, 16, 3, window(2, 0, 1, false), false),
        Case(2, 24, 5, 6, 72, 3, window(1, 1, 1, true), false),
        Case(3, 320, 4, 4, 64, 3, window(1, 1, 1, false), true),
        Case(1, 72, 13, 11, 200, 1, window(1, 0, 0, false), true),
        Case(1, 3, 1, 1, 3, 3, window(1, 1, 1, false), false),
    ];
    for (machine, kernels, tolerance) in machines() {
        for (index, Case(batch, channels, height, width, out, size, window, onto)) in cases.iter().enumerate() {
            let (batch, channels, height, width, out, size) = (*batch, *channels, *height, *width, *out, *size);
            let case = format!("{machine}: case {index}");
            let x = rounded(&kernels, &random(&[batch, channels, height, width]));
            let scale = 1.0 / ((channels * size * size) as f64).sqrt();
            let weight = rounded(&kernels, &(random(&[out, channels, size, size]) * scale).unwrap());
            let bias = random(&[out]);
            let seen = if window.doubled { x.upsample_nearest2d(2 * height, 2 * width).unwrap() } else { x.clone() };
            let seen = seen.pad_with_zeros(2, window.before, window.after).unwrap();
            let seen = seen.pad_with_zeros(3, window.before, window.after).unwrap();
            let mut expected = seen.conv2d(&weight, 0, window.stride, 1, 1).unwrap();
            expected = expected.broadcast_add(&bias.reshape((1, out, 1, 1)).unwrap()).unwrap();
            let (channels_added, image) = (random(&[out]), rounded(&kernels, &random(expected.dims())));
            let on_machine = |x: &Tensor| x.to_device(kernels.machine.device()).unwrap();
            let pixels = |x: &Tensor| to_pixels(&kernels, &on_machine(x)).unwrap();
            let (given_channels, given_image) = (on_machine(&channels_added), pixels(&image));
            let mut added = Onto::default();
            if *onto {
                expected = expected.broadcast_add(&channels_added.reshape((1, out, 1, 1)).unwrap()).unwrap();
                expected = (expected + &image).unwrap();
                added = Onto { channels: Some(&given_channels), image: Some(&given_image) };
            }
            let convolution = Convolution::new(&kernels, &weight, Some(&bias)).unwrap();
            let found = convolution.forward(&pixels(&x), *window, added).unwrap();
            let planes = kernels.empty_f32(expected.dims()).unwrap();
            from_pixels(&kernels, &found, &planes).unwrap();
            close(&planes.to_device(&Device::Cpu).unwrap(), &expected, tolerance, &case);
        }
        for (rows, width, out) in [(1, 1280, 320), (77, 64, 136), (300, 40, 8)] {
            let case = format!("{machine}: {rows} of {width} to {out}");
            let x = rounded(&kernels, &random(&[1, rows, width]));
            let weight = rounded(&kernels, &(random(&[out, width]) / (width as f64).sqrt()).unwrap());
            let onto = rounded(&kernels, &random(&[1, rows, out]));
            let product = x.squeeze(0).unwrap().matmul(&weight.t().unwrap()).unwrap().unsqueeze(0).unwrap();
            let linear = Convolution::new(&kernels, &weight, None).unwrap();
            let found = linear.forward_tokens(&given(&kernels, &x), Some(&given(&kernels, &onto))).unwrap();
            close(&widened(&kernels, &found).unwrap(), &(&product + &onto).unwrap(), tolerance, &case);
            let found = linear.forward_to_f32(&given(&kernels, &x)).unwrap();
            close(&found.to_device(&Device::Cpu).unwrap(), &product, 2e-6, &case);
        }
    }
}

#[test]
fn attention_of_every_width() {
    for (machine, kernels, tolerance) in machines() {
        for (batch, queries, keys, heads, width, causal) in [
            (1, 5, 5, 1, 4, false),
            (2, 70, 77, 2, 8, false),
            (1, 77, 77, 2, 64, true),
            (1, 130, 130, 1, 16, true),
            (2, 65, 154, 2, 40, false),
            (1, 64, 33, 1, 80, false),
            (1, 20, 70, 1, 160, false),
            (1, 72, 64, 1, 192, false),
            (2, 35, 35, 1, 192, false),
        ] {
            let case = format!("{machine}: {batch} x {queries} to {keys}, {heads} of {width}, {causal}");
            let of = |tokens: usize| rounded(&kernels, &(random(&[batch, tokens, heads * width]) * 2.0).unwrap());
            let (q, k, v) = (of(queries), of(keys), of(keys));
            let expected = crate::render::ops::attention(&crate::render::Engine::Candle, &q, &k, &v, heads, causal);
            let [q, k, v] = [&q, &k, &v].map(|x| given(&kernels, x));
            let found = attention(&kernels, &q, &k, &v, heads, causal).unwrap();
            // Shares are rounded too, before they gather.
            close(&widened(&kernels, &found).unwrap(), &expected.unwrap(), 1.5 * tolerance, &case);
        }
    }
}

#[test]
fn normalisations() {
    for (machine, kernels, tolerance) in machines() {
        for (dims, groups) in [([2, 64, 5, 9], 32), ([1, 320, 3, 4], 32), ([1, 32, 70, 70], 32), ([1, 2560, 2, 2], 32)]
        {
            let [_, channels, _, _] = dims;
            // Far from zero, where a variance is lost by its own mean.
            let x = rounded(&kernels, &((random(&dims) * 2.0).unwrap() + 3.0).unwrap());
            let (weight, bias) = (random(&[channels]), random(&[channels]));
            let norm = candle_nn::GroupNorm::new(weight.clone(), bias.clone(), channels, groups, 1e-5).unwrap();
            let plain = candle_nn::Module::forward(&norm, &x).unwrap();
            let norm = GroupNorm::new(&kernels, &weight, &bias, groups, 1e-5).unwrap();
            let pixels = to_pixels(&kernels, &x.to_device(kernels.machine.device()).unwrap()).unwrap();
            for silu in [false, true] {
                let expected = if silu { plain.silu().unwrap() } else { plain.clone() };
                let planes = kernels.empty_f32(&dims).unwrap();
                from_pixels(&kernels, &norm.forward(&pixels, silu).unwrap(), &planes).unwrap();
                let found = planes.to_device(&Device::Cpu).unwrap();
                close(&found, &expected, tolerance.max(1e-5), &format!("{machine}: {dims:?}"));
            }
        }
        for (tokens, width) in [(1, 8), (77, 768), (9, 1280)] {
            let x = rounded(&kernels, &(random(&[1, tokens, width]) + 3.0).unwrap());
            let (weight, bias) = (random(&[width]), random(&[width]));
            let expected = candle_nn::ops::layer_norm_slow(&x, &weight, &bias, 1e-5).unwrap();
            let norm = LayerNorm::new(&kernels, &weight, &bias, 1e-5).unwrap();
            let found = widened(&kernels, &norm.forward(&given(&kernels, &x)).unwrap()).unwrap();
            close(&found, &expected, tolerance.max(1e-5), &format!("{machine}: {tokens} of {width}"));
        }
    }
}

#[test]
fn what_is_done_value_by_value() {
    for (machine, kernels, tolerance) in machines() {
        let x = rounded(&kernels, &(random(&[2, 9, 48]) * 3.0).unwrap());
        let (values, gates) = (x.narrow(D::Minus1, 0, 24).unwrap(), x.narrow(D::Minus1, 24, 24).unwrap());
        let expected = (values * gates.contiguous().unwrap().gelu_erf().unwrap()).unwrap();
        let found = widened(&kernels, &gated_gelu(&kernels, &given(&kernels, &x)).unwrap()).unwrap();
        close(&found, &expected, tolerance, &format!("{machine}: gates"));

        for scale in [1.0, 1.702] {
            let expected = (&x * candle_nn::ops::sigmoid(&(&x * f64::from(scale)).unwrap()).unwrap()).unwrap();
            let found = widened(&kernels, &sigmoid_gate(&kernels, &given(&kernels, &x), scale).unwrap()).unwrap();
            close(&found, &expected, tolerance, &format!("{machine}: sigmoid of {scale}"));
        }

        let (x, other) = (x.reshape((2, 3, 3, 48)).unwrap(), rounded(&kernels, &random(&[2, 2, 3, 16])));
        let expected = Tensor::cat(&[&x.narrow(1, 0, 2).unwrap(), &other], 3).unwrap();
        let found = join(&kernels, &given(&kernels, &x), &given(&kernels, &other)).unwrap();
        close(&widened(&kernels, &found).unwrap(), &expected, 1e-12, &format!("{machine}: join"));

        let (table, positions) = (rounded(&kernels, &random(&[50, 16])), rounded(&kernels, &random(&[7, 16])));
        let tokens =
            Tensor::from_vec(vec![3u32, 49, 0, 17, 3, 8, 1, 2, 49, 5, 6, 7, 9, 30], (2, 7), &Device::Cpu).unwrap();
        let known = table.embedding(&tokens.flatten_all().unwrap()).unwrap().reshape((2, 7, 16)).unwrap();
        let expected = known.broadcast_add(&positions).unwrap();
        let (table, positions) = (given(&kernels, &table), given(&kernels, &positions));
        let found = look_up(&kernels, &tokens, &table, &positions).unwrap();
        close(&widened(&kernels, &found).unwrap(), &expected, tolerance, &format!("{machine}: tokens"));
        let unknown = Tensor::from_vec(vec![50u32], (1, 1), &Device::Cpu).unwrap();
        assert!(look_up(&kernels, &unknown, &table, &positions).is_err());
    }
}

#[test]
fn weights_are_cast_as_the_cpu_does_it() {
    for (machine, kernels, _) in machines() {
        for from in [DType::F32, DType::F16, DType::BF16] {
            let values = Tensor::new(&[0.1f32, -2.5, 65504.0, 65520.0, 1e-7, 6e-8, 3e38, 0.0, 1.0000001], &Device::Cpu);
            let values = values.unwrap().to_dtype(from).unwrap();
            let expected = values.to_dtype(kernels.dtype).unwrap().to_dtype(DType::F32).unwrap();
            let stored = values.to_device(kernels.machine.device()).unwrap();
            let found = widened(&kernels, &cast(&kernels, &stored, kernels.dtype).unwrap()).unwrap();
            let [found, expected] = [found, expected].map(|it| it.to_vec1::<f32>().unwrap());
            assert_eq!(found, expected, "{machine} of {from:?}");
        }
    }
}
