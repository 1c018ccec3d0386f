//! Compares every kernel with candle's operations on the CPU. The kernels run on the emulated GPU and, with the feature
//! `cuda`, on a GPU if there is one.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};

use super::*;
use crate::ops::testing::random;
use crate::weight_flaws::WeightFlaw;
use crate::weights;
use trinart_ckpt_formats::error::Error;
use trinart_ckpt_formats::tensor::LazyTensor;

#[path = "../../tests/emulation/emulated.rs"]
mod emulation;
use emulation::{ADVERSE, Emulated};

/// Kernels of each dtype on each accelerator, with the relative error that rounding to the dtype may cause.
fn accelerators() -> Vec<(String, Kernels, f64)> {
    let mut accelerators: Vec<(String, Arc<dyn Accelerator>)> = Vec::new();
    for (name, mode, multiprocessors) in [("emulated", 0, 2), ("emulated, adverse order", ADVERSE, 64)] {
        if let Some(accelerator) = Emulated::new(mode, multiprocessors) {
            accelerators.push((name.to_owned(), accelerator));
        }
    }
    #[cfg(feature = "cuda")]
    match crate::cuda::Card::open(0) {
        Ok(card) => accelerators.push((card.name(), Arc::new(card))),
        Err(error) => emulation::print_gpu_skipped(&error),
    }
    let dtypes = [(DType::F16, 8e-4), (DType::BF16, 6e-3), (DType::F32, 2e-6)];
    let with_dtypes = |(name, accelerator): (String, Arc<dyn Accelerator>)| {
        dtypes.map(|(dtype, tolerance)| {
            let kernels = Kernels::new(Arc::clone(&accelerator), dtype).unwrap();
            (format!("{name}, {dtype:?}"), kernels, tolerance)
        })
    };
    accelerators.into_iter().flat_map(with_dtypes).collect()
}

/// Rounds values to the dtype of the kernels and returns them as F32, so that the reference has the same input.
fn rounded(kernels: &Kernels, x: &Tensor) -> Tensor {
    x.to_dtype(kernels.dtype).unwrap().to_dtype(DType::F32).unwrap()
}

/// Moves a tensor to the accelerator, in the dtype of the kernels.
fn uploaded(kernels: &Kernels, x: &Tensor) -> Tensor {
    cast(kernels, x, kernels.dtype).unwrap()
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, case: &str) {
    assert_eq!(found.dims(), expected.dims(), "{case}");
    let norm = |x: &Tensor| {
        x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    let relative = norm(&(found - expected).unwrap()) / norm(expected);
    assert!(relative < tolerance, "{case}: {relative:.2e}");
}

#[test]
fn convolutions_and_linear_layers_match_candle() {
    struct Case(usize, usize, usize, usize, usize, usize, Window, bool);
    let window = |stride, before, after, upsampled| Window { stride, before, after, upsampled };
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
    for (accelerator, kernels, tolerance) in accelerators() {
        for (index, Case(batch, channels, height, width, out, size, window, has_epilogue)) in cases.iter().enumerate() {
            let (batch, channels, height, width, out, size) = (*batch, *channels, *height, *width, *out, *size);
            let case = format!("{accelerator}: case {index}");
            let x = rounded(&kernels, &random(&[batch, channels, height, width]));
            let scale = 1.0 / ((channels * size * size) as f64).sqrt();
            let weight = rounded(&kernels, &(random(&[out, channels, size, size]) * scale).unwrap());
            let bias = random(&[out]);
            let input = if window.upsampled { x.upsample_nearest2d(2 * height, 2 * width).unwrap() } else { x.clone() };
            let input = input.pad_with_zeros(2, window.before, window.after).unwrap();
            let input = input.pad_with_zeros(3, window.before, window.after).unwrap();
            let mut expected = input.conv2d(&weight, 0, window.stride, 1, 1).unwrap();
            expected = expected.broadcast_add(&bias.reshape((1, out, 1, 1)).unwrap()).unwrap();
            // One row for each image, or one for all.
            let rows = if index % 2 == 1 { batch } else { 1 };
            let (channels_added, image) = (random(&[rows, out]), rounded(&kernels, &random(expected.dims())));
            let on_device = |x: &Tensor| x.to_device(kernels.accelerator.device()).unwrap();
            let pixels = |x: &Tensor| to_pixels(&kernels, &on_device(x)).unwrap();
            let (uploaded_channels, uploaded_image) = (on_device(&channels_added), pixels(&image));
            let mut epilogue = Epilogue::default();
            if *has_epilogue {
                expected = expected.broadcast_add(&channels_added.reshape((rows, out, 1, 1)).unwrap()).unwrap();
                expected = (expected + &image).unwrap();
                epilogue = Epilogue { channels: Some(&uploaded_channels), image: Some(&uploaded_image) };
            }
            let convolution = Convolution::new(&kernels, &weight, Some(&bias)).unwrap();
            let found = convolution.forward(&pixels(&x), *window, epilogue).unwrap();
            let planes = kernels.empty_f32(expected.dims()).unwrap();
            write_planes(&kernels, &found, &planes).unwrap();
            assert_close(&planes.to_device(&Device::Cpu).unwrap(), &expected, tolerance, &case);
        }
        for (rows, width, out) in [(1, 1280, 320), (77, 64, 136), (300, 40, 8)] {
            let case = format!("{accelerator}: {rows} of {width} to {out}");
            let x = rounded(&kernels, &random(&[1, rows, width]));
            let weight = rounded(&kernels, &(random(&[out, width]) / (width as f64).sqrt()).unwrap());
            let summand = rounded(&kernels, &random(&[1, rows, out]));
            let product = x.squeeze(0).unwrap().matmul(&weight.t().unwrap()).unwrap().unsqueeze(0).unwrap();
            let linear = Convolution::new(&kernels, &weight, None).unwrap();
            let found = linear.forward_tokens(&uploaded(&kernels, &x), Some(&uploaded(&kernels, &summand))).unwrap();
            assert_close(&to_host(&kernels, &found).unwrap(), &(&product + &summand).unwrap(), tolerance, &case);
            let found = linear.forward_to_f32(&uploaded(&kernels, &x)).unwrap();
            assert_close(&found.to_device(&Device::Cpu).unwrap(), &product, 2e-6, &case);
        }
    }
}

#[test]
fn attention_of_every_width_matches_candle() {
    for (accelerator, kernels, tolerance) in accelerators() {
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
            let case = format!("{accelerator}: {batch} x {queries} to {keys}, {heads} of {width}, {causal}");
            let of = |tokens: usize| rounded(&kernels, &(random(&[batch, tokens, heads * width]) * 2.0).unwrap());
            let (q, k, v) = (of(queries), of(keys), of(keys));
            let expected = crate::ops::attention(&crate::Engine::Candle, &q, &k, &v, heads, causal);
            let [q, k, v] = [&q, &k, &v].map(|x| uploaded(&kernels, x));
            let found = attention(&kernels, &q, &k, &v, heads, causal).unwrap();
            // The attention weights are rounded to the dtype as well.
            assert_close(&to_host(&kernels, &found).unwrap(), &expected.unwrap(), 1.5 * tolerance, &case);
        }
    }
}

#[test]
fn normalizations_match_candle() {
    for (accelerator, kernels, tolerance) in accelerators() {
        for (dims, groups) in [([2, 64, 5, 9], 32), ([1, 320, 3, 4], 32), ([1, 32, 70, 70], 32), ([1, 2560, 2, 2], 32)]
        {
            let [_, channels, _, _] = dims;
            // With values far from zero, a naive variance would lose its precision by cancellation.
            let x = rounded(&kernels, &((random(&dims) * 2.0).unwrap() + 3.0).unwrap());
            let (weight, bias) = (random(&[channels]), random(&[channels]));
            let norm = candle_nn::GroupNorm::new(weight.clone(), bias.clone(), channels, groups, 1e-5).unwrap();
            let plain = candle_nn::Module::forward(&norm, &x).unwrap();
            let norm = GroupNorm::new(&kernels, &weight, &bias, groups, 1e-5).unwrap();
            let pixels = to_pixels(&kernels, &x.to_device(kernels.accelerator.device()).unwrap()).unwrap();
            for silu in [false, true] {
                let expected = if silu { plain.silu().unwrap() } else { plain.clone() };
                let planes = kernels.empty_f32(&dims).unwrap();
                write_planes(&kernels, &norm.forward(&pixels, silu).unwrap(), &planes).unwrap();
                let found = planes.to_device(&Device::Cpu).unwrap();
                assert_close(&found, &expected, tolerance.max(1e-5), &format!("{accelerator}: {dims:?}"));
            }
        }
        for (tokens, width) in [(1, 8), (77, 768), (9, 1280)] {
            let x = rounded(&kernels, &(random(&[1, tokens, width]) + 3.0).unwrap());
            let (weight, bias) = (random(&[width]), random(&[width]));
            let expected = candle_nn::ops::layer_norm_slow(&x, &weight, &bias, 1e-5).unwrap();
            let norm = LayerNorm::new(&kernels, &weight, &bias, 1e-5).unwrap();
            let found = to_host(&kernels, &norm.forward(&uploaded(&kernels, &x)).unwrap()).unwrap();
            assert_close(&found, &expected, tolerance.max(1e-5), &format!("{accelerator}: {tokens} of {width}"));
        }
    }
}

#[test]
fn elementwise_kernels_match_candle() {
    for (accelerator, kernels, tolerance) in accelerators() {
        let x = rounded(&kernels, &(random(&[2, 9, 48]) * 3.0).unwrap());
        let (values, gates) = (x.narrow(D::Minus1, 0, 24).unwrap(), x.narrow(D::Minus1, 24, 24).unwrap());
        let expected = (values * gates.contiguous().unwrap().gelu_erf().unwrap()).unwrap();
        let found = to_host(&kernels, &gated_gelu(&kernels, &uploaded(&kernels, &x)).unwrap()).unwrap();
        assert_close(&found, &expected, tolerance, &format!("{accelerator}: gated GELU"));

        for scale in [1.0, 1.702] {
            let expected = (&x * candle_nn::ops::sigmoid(&(&x * f64::from(scale)).unwrap()).unwrap()).unwrap();
            let found = to_host(&kernels, &sigmoid_gate(&kernels, &uploaded(&kernels, &x), scale).unwrap()).unwrap();
            assert_close(&found, &expected, tolerance, &format!("{accelerator}: sigmoid of {scale}"));
        }

        let (x, other) = (x.reshape((2, 3, 3, 48)).unwrap(), rounded(&kernels, &random(&[2, 2, 3, 16])));
        let expected = Tensor::cat(&[&x.narrow(1, 0, 2).unwrap(), &other], 3).unwrap();
        let found = concat_channels(&kernels, &uploaded(&kernels, &x), &uploaded(&kernels, &other)).unwrap();
        assert_close(&to_host(&kernels, &found).unwrap(), &expected, 1e-12, &format!("{accelerator}: concat_channels"));

        let (table, positions) = (rounded(&kernels, &random(&[50, 16])), rounded(&kernels, &random(&[7, 16])));
        let tokens =
            Tensor::from_vec(vec![3u32, 49, 0, 17, 3, 8, 1, 2, 49, 5, 6, 7, 9, 30], (2, 7), &Device::Cpu).unwrap();
        let embedded = table.embedding(&tokens.flatten_all().unwrap()).unwrap().reshape((2, 7, 16)).unwrap();
        let expected = embedded.broadcast_add(&positions).unwrap();
        let (table, positions) = (uploaded(&kernels, &table), uploaded(&kernels, &positions));
        let found = embed(&kernels, &tokens, &table, &positions).unwrap();
        assert_close(&to_host(&kernels, &found).unwrap(), &expected, tolerance, &format!("{accelerator}: tokens"));
        let unknown = Tensor::from_vec(vec![50u32], (1, 1), &Device::Cpu).unwrap();
        assert!(embed(&kernels, &unknown, &table, &positions).is_err());
    }
}

#[test]
fn casts_round_as_on_the_cpu() {
    for (accelerator, kernels, _) in accelerators() {
        for from in [DType::F32, DType::F16, DType::BF16] {
            let values = Tensor::new(&[0.1f32, -2.5, 65504.0, 65520.0, 1e-7, 6e-8, 3e38, 0.0, 1.0000001], &Device::Cpu);
            let values = values.unwrap().to_dtype(from).unwrap();
            let expected = values.to_dtype(kernels.dtype).unwrap().to_dtype(DType::F32).unwrap();
            let stored = values.to_device(kernels.accelerator.device()).unwrap();
            let found = to_host(&kernels, &cast(&kernels, &stored, kernels.dtype).unwrap()).unwrap();
            let [found, expected] = [found, expected].map(|it| it.to_vec1::<f32>().unwrap());
            assert_eq!(found, expected, "{accelerator}, from {from:?}");
        }
    }
}
