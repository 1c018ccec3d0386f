//! Element-wise kernels: activations, casts, layout changes, concatenation and embedding.

use bytemuck::NoUninit;
use candle_core::{DType, Device, Result, Tensor, bail};

use super::accelerator::Launch;
use super::address::{address, address_mut};
use super::launch::{EIGHT, Kernels, THREADS, blocks_for, int, launch, padded, suffix};

// These structures match those of the same names in `source/pointwise.cuh`.

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct Gate {
    x: u64,
    out: u64,
    rows: i32,
    width: i32,
}

/// Returns `value * gelu(gate)`, where the first half of the last dimension holds the values and the second half the
/// gates (GEGLU).
pub(crate) fn gated_gelu(kernels: &Kernels, x: &Tensor) -> Result<Tensor> {
    let [rows @ .., both] = x.dims() else { bail!("{x:?} cannot be split into values and gates") };
    let width = both / 2;
    if both % 2 != 0 {
        bail!("{x:?} cannot be split into values and gates")
    }
    check(kernels, x, &[width])?;
    let dims: Vec<usize> = rows.iter().copied().chain([width]).collect();
    let out = kernels.empty(&dims)?;
    let rows: usize = rows.iter().product();
    let parameters = Gate { x: address(x)?, out: address_mut(&out)?, rows: int(rows)?, width: int(width)? };
    // SAFETY: `Gate` is the kernel's structure, and `x` has rows of `2 * width` values. `out` is newly allocated.
    unsafe { kernels.launch_each("gated_gelu", out.elem_count() / EIGHT, &parameters)? };
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct Activation {
    x: u64,
    out: u64,
    count: i64,
    scale: f32,
    padding: u32,
}

/// Returns `x * sigmoid(scale * x)`. Fails if the number of elements is not a multiple of eight.
pub(crate) fn sigmoid_gate(kernels: &Kernels, x: &Tensor, scale: f32) -> Result<Tensor> {
    activate(kernels, "sigmoid_gate", x, scale)
}

/// Returns the exact GELU of `x`. Fails if the number of elements is not a multiple of eight.
pub(crate) fn gelu(kernels: &Kernels, x: &Tensor) -> Result<Tensor> {
    activate(kernels, "gelu", x, 1.0)
}

fn activate(kernels: &Kernels, kernel: &str, x: &Tensor, scale: f32) -> Result<Tensor> {
    check(kernels, x, &[x.elem_count()])?;
    let out = kernels.empty(x.dims())?;
    let parameters =
        Activation { x: address(x)?, out: address_mut(&out)?, count: x.elem_count() as i64, scale, padding: 0 };
    // SAFETY: `Activation` is the kernel's structure, and both tensors have `count` values. `out` is newly allocated.
    unsafe { kernels.launch_each(kernel, x.elem_count() / EIGHT, &parameters)? };
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct ConcatChannels {
    a: u64,
    b: u64,
    out: u64,
    batch: i32,
    rows: i32,
    columns: i32,
    a_rows: i32,
    a_columns: i32,
    a_width: i32,
    b_width: i32,
    padding: u32,
}

/// Concatenates the channels of two images `[batch, height, width, channels]`. Crops the first image at the bottom and
/// at the right if it is larger.
///
/// Fails if the first image is smaller or the batches differ.
pub(crate) fn concat_channels(kernels: &Kernels, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a_batch, a_rows, a_columns, a_width) = a.dims4()?;
    let (batch, rows, columns, b_width) = b.dims4()?;
    check(kernels, a, &[a_width])?;
    check(kernels, b, &[b_width])?;
    if a_batch != batch || a_rows < rows || a_columns < columns {
        bail!("cannot concatenate the channels of {a:?} and {b:?}")
    }
    let out = kernels.empty(&[batch, rows, columns, a_width + b_width])?;
    let parameters = ConcatChannels {
        a: address(a)?,
        b: address(b)?,
        out: address_mut(&out)?,
        batch: int(batch)?,
        rows: int(rows)?,
        columns: int(columns)?,
        a_rows: int(a_rows)?,
        a_columns: int(a_columns)?,
        a_width: int(a_width)?,
        b_width: int(b_width)?,
        padding: 0,
    };
    // SAFETY: `ConcatChannels` is the kernel's structure, and the first image has every pixel of the second, as checked
    // above. `out` is newly allocated.
    unsafe { kernels.launch_each("concat_channels", out.elem_count() / EIGHT, &parameters)? };
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct Embed {
    tokens: u64,
    table: u64,
    positions: u64,
    out: u64,
    rows: i32,
    period: i32,
    width: i32,
    padding: u32,
}

/// Returns the embedding of each token plus the embedding of its position: `[batch, count, width]`.
///
/// `tokens` is `[batch, count]`, U32 in CPU memory. Fails if a token is not in the table, or there are fewer positions
/// than tokens.
pub(crate) fn embed(kernels: &Kernels, tokens: &Tensor, table: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let (batch, count) = tokens.dims2()?;
    let (vocabulary, width) = table.dims2()?;
    check(kernels, table, &[width])?;
    check(kernels, positions, &[width])?;
    let unknown = tokens.flatten_all()?.to_vec1::<u32>()?.into_iter().find(|&token| token as usize >= vocabulary);
    if let Some(token) = unknown {
        bail!("token {token} is not in the vocabulary of {vocabulary} tokens")
    }
    if positions.elem_count() < count * width {
        bail!("{positions:?} has fewer positions than {tokens:?}")
    }
    let tokens = tokens.contiguous()?.to_device(kernels.accelerator.device())?;
    let out = kernels.empty(&[batch, count, width])?;
    let parameters = Embed {
        tokens: address(&tokens)?,
        table: address(table)?,
        positions: address(positions)?,
        out: address_mut(&out)?,
        rows: int(batch * count)?,
        period: int(count)?,
        width: int(width)?,
        padding: 0,
    };
    // SAFETY: `Embed` is the kernel's structure. Each token is a row of the table, and there is a position for each, as
    // checked above. `out` is newly allocated.
    unsafe { kernels.launch_each("embed", out.elem_count() / EIGHT, &parameters)? };
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct Planes {
    from: u64,
    to: u64,
    batch: i32,
    channels: i32,
    pixels: i32,
    padded: i32,
}

/// Converts an F32 image `[batch, channels, height, width]` on the accelerator to channels-last, in the layers' dtype, with
/// the channels padded to a multiple of eight by zeros.
pub(crate) fn to_pixels(kernels: &Kernels, planes: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = planes.dims4()?;
    if planes.dtype() != DType::F32 {
        bail!("{planes:?} is not F32")
    }
    let out = kernels.empty(&[batch, height, width, padded(channels)])?;
    let parameters = Planes {
        from: address(planes)?,
        to: address_mut(&out)?,
        batch: int(batch)?,
        channels: int(channels)?,
        pixels: int(height * width)?,
        padded: int(padded(channels))?,
    };
    // SAFETY: `Planes` is the kernel's structure, and the sizes are those of the tensors. `out` is newly allocated.
    unsafe { kernels.launch_each("to_pixels", out.elem_count(), &parameters)? };
    Ok(out)
}

/// The inverse of [`to_pixels`]. Writes into the existing F32 tensor `planes`.
///
/// Fails if the shapes or dtypes do not match.
pub(crate) fn write_planes(kernels: &Kernels, pixels: &Tensor, planes: &Tensor) -> Result<()> {
    let (batch, channels, height, width) = planes.dims4()?;
    let (.., padded) = pixels.dims4()?;
    check(kernels, pixels, &[padded])?;
    if pixels.elem_count() != batch * height * width * padded || channels > padded || planes.dtype() != DType::F32 {
        bail!("cannot convert {pixels:?} to {planes:?}")
    }
    let parameters = Planes {
        from: address(pixels)?,
        to: address_mut(planes)?,
        batch: int(batch)?,
        channels: int(channels)?,
        pixels: int(height * width)?,
        padded: int(padded)?,
    };
    // SAFETY: `Planes` is the kernel's structure, and the sizes are those of the tensors, as checked above. The caller
    // owns `planes` and does not use it while the kernel runs.
    unsafe { kernels.launch_each("to_planes", planes.elem_count(), &parameters) }
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit)]
struct Arrange {
    from: u64,
    to: u64,
    out: i32,
    input: i32,
    taps: i32,
    padded_out: i32,
    padded_in: i32,
    padding: u32,
}

/// Converts a weight `[out, in, taps]` to `[padded out, taps, padded in]` and to `dtype`, and pads it with zeros.
///
/// The weight may be in CPU memory. `shape` is the shape of the result and has the same number of values. Fails if the
/// shapes do not match.
pub(super) fn arrange(
    kernels: &Kernels,
    weight: &Tensor,
    [out, input, taps]: [usize; 3],
    padded_in: usize,
    shape: &[usize],
    dtype: DType,
) -> Result<Tensor> {
    let from = match weight.dtype() {
        DType::F16 | DType::BF16 | DType::F32 => weight.clone(),
        // There are no kernels for other dtypes, which are rare.
        _ => weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?,
    };
    let from = from.contiguous()?.to_device(kernels.accelerator.device())?;
    let to = kernels.accelerator.empty(shape, dtype)?;
    if taps == 0 || padded_in == 0 {
        bail!("cannot convert the empty weight {weight:?}")
    }
    let padded_out = to.elem_count() / (taps * padded_in);
    let is_whole = from.elem_count() == out * input * taps && to.elem_count() == padded_out * taps * padded_in;
    if !is_whole || padded_in < input || padded_out < out {
        bail!("cannot convert the weight {weight:?} to {shape:?}")
    }
    let parameters = Arrange {
        from: address(&from)?,
        to: address_mut(&to)?,
        out: int(out)?,
        input: int(input)?,
        taps: int(taps)?,
        padded_out: int(padded_out)?,
        padded_in: int(padded_in)?,
        padding: 0,
    };
    let kernel = format!("arrange_{}_{}", suffix(from.dtype())?, suffix(dtype)?);
    let grid = [blocks_for(&*kernels.accelerator, to.elem_count()), 1, 1];
    // SAFETY: `Arrange` is the kernel's structure, and both tensors have the sizes that it states, as checked above.
    // `to` is newly allocated.
    unsafe {
        launch(&*kernels.accelerator, &Launch { kernel: &kernel, grid, threads: THREADS, shared: 0 }, &parameters)?
    };
    Ok(to)
}

/// Concatenates tensors of the accelerator along their first dimension. candle's operation would require the driver to
/// compile a kernel at run time.
///
/// Fails if there are no tensors or their other dimensions differ.
pub(crate) fn concat_rows(kernels: &Kernels, tensors: &[Tensor]) -> Result<Tensor> {
    let Some(one) = tensors.first() else { bail!("there are no tensors to concatenate") };
    let rows = tensors.iter().map(|tensor| tensor.dim(0)).sum::<Result<usize>>()?;
    let [_, rest @ ..] = one.dims() else { bail!("cannot concatenate scalars") };
    let dims: Vec<usize> = [rows].into_iter().chain(rest.iter().copied()).collect();
    let all = kernels.accelerator.empty(&dims, one.dtype())?;
    let mut first = 0;
    for tensor in tensors {
        let count = tensor.dim(0)?;
        kernels.accelerator.write(&all.narrow(0, first, count)?, tensor)?;
        first += count;
    }
    Ok(all)
}

/// Transposes a matrix, and pads its new rows to a multiple of eight by zeros.
pub(super) fn transpose(kernels: &Kernels, matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    // A transposition is the conversion of a weight with `rows` inputs and `columns` taps.
    arrange(kernels, matrix, [1, rows, columns], padded(rows), &[columns, padded(rows)], kernels.dtype)
}

/// Casts a tensor to `dtype` and moves it to the accelerator.
pub(crate) fn cast(kernels: &Kernels, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    match tensor.dtype() == dtype {
        // The tensor may be in CPU memory.
        true => tensor.to_device(kernels.accelerator.device()),
        false => arrange(kernels, tensor, [1, tensor.elem_count(), 1], tensor.elem_count(), tensor.dims(), dtype),
    }
}

/// Moves a tensor of the layers' dtype or of F32 to CPU memory, as F32.
pub(crate) fn to_host(kernels: &Kernels, tensor: &Tensor) -> Result<Tensor> {
    cast(kernels, tensor, DType::F32)?.to_device(&Device::Cpu)
}

/// Fails unless the tensor has the layers' dtype and all `widths` are multiples of eight.
fn check(kernels: &Kernels, x: &Tensor, widths: &[usize]) -> Result<()> {
    if x.dtype() != kernels.dtype || widths.iter().any(|width| !width.is_multiple_of(EIGHT)) {
        bail!("{x:?} is not a tensor of {:?} whose width is a multiple of eight", kernels.dtype)
    }
    Ok(())
}
