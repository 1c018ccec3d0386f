//! What is done value by value: activations, changes of type and order, joining and looking up.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{EIGHT, Kernels, Launch, THREADS, address, blocks_for, int, launch, padded, suffix};

#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    x: u64,
    out: u64,
    rows: i32,
    width: i32,
}

/// `value * gelu(gate)`: the first half of the last dimension are values, the second half gates.
pub(in crate::render) fn gated_gelu(kernels: &Kernels, x: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let width = dims.pop().unwrap_or_default() / 2;
    check(kernels, x, &[width])?;
    dims.push(width);
    let out = kernels.empty(&dims)?;
    let rows = out.elem_count() / width.max(1);
    let parameters = Gate { x: address(x)?, out: address(&out)?, rows: int(rows)?, width: int(width)? };
    // SAFETY: `x` has two values for each of the result's.
    unsafe { kernels.launch_each("gated_gelu", out.elem_count() / EIGHT, &parameters)? };
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Sigmoid {
    x: u64,
    out: u64,
    count: i64,
    scale: f32,
}

/// `x * sigmoid(scale * x)`.
pub(in crate::render) fn sigmoid_gate(kernels: &Kernels, x: &Tensor, scale: f32) -> Result<Tensor> {
    check(kernels, x, &[x.elem_count()])?;
    let out = kernels.empty(x.dims())?;
    let parameters = Sigmoid { x: address(x)?, out: address(&out)?, count: x.elem_count() as i64, scale };
    // SAFETY: both have as many values.
    unsafe { kernels.launch_each("sigmoid_gate", x.elem_count() / EIGHT, &parameters)? };
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Join {
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
}

/// Two images beside each other, by channel: `[batch, height, width, channels]`. What the first one has more of in height
/// and width is left out.
pub(in crate::render) fn join(kernels: &Kernels, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (of_a, a_rows, a_columns, a_width) = a.dims4()?;
    let (batch, rows, columns, b_width) = b.dims4()?;
    check(kernels, a, &[a_width])?;
    check(kernels, b, &[b_width])?;
    if of_a != batch || a_rows < rows || a_columns < columns {
        bail!("{a:?} and {b:?} do not lie beside each other")
    }
    let out = kernels.empty(&[batch, rows, columns, a_width + b_width])?;
    let parameters = Join {
        a: address(a)?,
        b: address(b)?,
        out: address(&out)?,
        batch: int(batch)?,
        rows: int(rows)?,
        columns: int(columns)?,
        a_rows: int(a_rows)?,
        a_columns: int(a_columns)?,
        a_width: int(a_width)?,
        b_width: int(b_width)?,
    };
    // SAFETY: the result has room for both, and the first one has every pixel of the second.
    unsafe { kernels.launch_each("join", out.elem_count() / EIGHT, &parameters)? };
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Lookup {
    tokens: u64,
    table: u64,
    positions: u64,
    out: u64,
    rows: i32,
    period: i32,
    width: i32,
}

/// What each token `[batch, count]`, in U32 in the CPU's memory, means, with where it stands added.
pub(in crate::render) fn look_up(
    kernels: &Kernels,
    tokens: &Tensor,
    table: &Tensor,
    positions: &Tensor,
) -> Result<Tensor> {
    let (batch, count) = tokens.dims2()?;
    let (known, width) = table.dims2()?;
    check(kernels, table, &[width])?;
    check(kernels, positions, &[width])?;
    let greatest = tokens.flatten_all()?.to_vec1::<u32>()?.into_iter().max().unwrap_or_default();
    if positions.elem_count() < count * width || greatest as usize >= known {
        bail!("{tokens:?} with a token {greatest} of {known} known ones, and {positions:?}")
    }
    let tokens = tokens.contiguous()?.to_device(kernels.machine.device())?;
    let out = kernels.empty(&[batch, count, width])?;
    let parameters = Lookup {
        tokens: address(&tokens)?,
        table: address(table)?,
        positions: address(positions)?,
        out: address(&out)?,
        rows: int(batch * count)?,
        period: int(count)?,
        width: int(width)?,
    };
    // SAFETY: every token is a row of the table, and every place one of the positions, as was compared above.
    unsafe { kernels.launch_each("look_up", out.elem_count() / EIGHT, &parameters)? };
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Planes {
    from: u64,
    to: u64,
    batch: i32,
    channels: i32,
    pixels: i32,
    padded: i32,
}

/// An image `[batch, channels, height, width]` of F32 on the machine with its channels last, padded to a multiple of
/// eight by zeros.
pub(in crate::render) fn to_pixels(kernels: &Kernels, planes: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = planes.dims4()?;
    if planes.dtype() != DType::F32 {
        bail!("{planes:?} is no image of f32")
    }
    let out = kernels.empty(&[batch, height, width, padded(channels)])?;
    let parameters = Planes {
        from: address(planes)?,
        to: address(&out)?,
        batch: int(batch)?,
        channels: int(channels)?,
        pixels: int(height * width)?,
        padded: int(padded(channels))?,
    };
    // SAFETY: the sizes are those of the tensors.
    unsafe { kernels.launch_each("to_pixels", out.elem_count(), &parameters)? };
    Ok(out)
}

/// The way back of [`to_pixels`], into a tensor that is there already.
pub(in crate::render) fn from_pixels(kernels: &Kernels, pixels: &Tensor, planes: &Tensor) -> Result<()> {
    let (batch, channels, height, width) = planes.dims4()?;
    let (.., padded) = pixels.dims4()?;
    check(kernels, pixels, &[padded])?;
    if pixels.elem_count() != batch * height * width * padded || channels > padded || planes.dtype() != DType::F32 {
        bail!("{pixels:?} does not become {planes:?}")
    }
    let parameters = Planes {
        from: address(pixels)?,
        to: address(planes)?,
        batch: int(batch)?,
        channels: int(channels)?,
        pixels: int(height * width)?,
        padded: int(padded)?,
    };
    // SAFETY: the sizes are those of the tensors, as was compared above.
    unsafe { kernels.launch_each("to_planes", planes.elem_count(), &parameters) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arrange {
    from: u64,
    to: u64,
    out: i32,
    input: i32,
    taps: i32,
    padded_out: i32,
    padded_in: i32,
}

/// A weight `[out, in, taps]` in the order of `[padded out, taps, padded in]`, with zeros where it has nothing, as
/// `dtype`. The weight may lie in the CPU's memory; `shape` is that of the result, with as many values.
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
        // What is stored otherwise is rare, and becomes f32 before.
        _ => weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?,
    };
    let from = from.contiguous()?.to_device(kernels.machine.device())?;
    let to = kernels.machine.empty(shape, dtype)?;
    let padded_out = to.elem_count() / (taps * padded_in).max(1);
    let is_whole = from.elem_count() == out * input * taps && to.elem_count() == padded_out * taps * padded_in;
    if !is_whole || padded_in < input || padded_out < out {
        bail!("{weight:?} does not become {shape:?}")
    }
    let parameters = Arrange {
        from: address(&from)?,
        to: address(&to)?,
        out: int(out)?,
        input: int(input)?,
        taps: int(taps)?,
        padded_out: int(padded_out)?,
        padded_in: int(padded_in)?,
    };
    let kernel = format!("arrange_{}_{}", suffix(from.dtype())?, suffix(dtype)?);
    let grid = [blocks_for(&*kernels.machine, to.elem_count()), 1, 1];
    // SAFETY: both have the sizes that the kernel is told, as was compared above.
    unsafe { launch(&*kernels.machine, &Launch { kernel: &kernel, grid, threads: THREADS, shared: 0 }, &parameters)? };
    Ok(to)
}

/// Tensors of the machine one behind the other, by their first dimension. Candle's joining is a kernel of its own, which
/// the driver would have to compile.
pub(in crate::render) fn joined(kernels: &Kernels, tensors: &[Tensor]) -> Result<Tensor> {
    let Some(one) = tensors.first() else { bail!("nothing to join") };
    let rows = tensors.iter().map(|tensor| tensor.dim(0)).sum::<Result<usize>>()?;
    let mut dims = one.dims().to_vec();
    if let Some(first) = dims.first_mut() {
        *first = rows;
    }
    let all = kernels.machine.empty(&dims, one.dtype())?;
    let mut first = 0;
    for tensor in tensors {
        let count = tensor.dim(0)?;
        kernels.machine.write(&all.narrow(0, first, count)?, tensor)?;
        first += count;
    }
    Ok(all)
}

/// A matrix with rows and columns exchanged.
pub(super) fn transpose(kernels: &Kernels, matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    // One weight of `rows` inputs and `columns` taps.
    arrange(kernels, matrix, [1, rows, columns], padded(rows), &[columns, padded(rows)], kernels.dtype)
}

/// The same values in another type.
pub(in crate::render) fn cast(kernels: &Kernels, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    match tensor.dtype() == dtype {
        // It may lie in the CPU's memory.
        true => tensor.to_device(kernels.machine.device()),
        false => arrange(kernels, tensor, [1, tensor.elem_count(), 1], tensor.elem_count(), tensor.dims(), dtype),
    }
}

/// Tensors of the layers' type or of F32, on the machine, as F32 in the CPU's memory.
pub(in crate::render) fn widened(kernels: &Kernels, tensor: &Tensor) -> Result<Tensor> {
    cast(kernels, tensor, DType::F32)?.to_device(&Device::Cpu)
}

/// Whether a tensor is one of the layers, and widths are made of eights.
fn check(kernels: &Kernels, x: &Tensor, widths: &[usize]) -> Result<()> {
    if x.dtype() != kernels.dtype || widths.iter().any(|width| !width.is_multiple_of(EIGHT)) {
        bail!("{x:?} is no tensor of {:?} in eights", kernels.dtype)
    }
    Ok(())
}
