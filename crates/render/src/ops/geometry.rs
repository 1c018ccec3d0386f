//! The mapping between the pixels of a convolution and the columns of its matrix product.

use super::disjoint::DisjointWriter;
use super::microkernel::COLUMNS;

/// The sizes of a convolution. Images are `[batch, channels, height, width]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    /// Channels of the input.
    pub(super) channels: usize,
    /// Height of the input, after upsampling.
    pub(super) height: usize,
    /// Width of the input, after upsampling.
    pub(super) width: usize,
    /// Whether the input is upsampled: each stored pixel counts as 2x2 pixels.
    pub(super) upsampled: bool,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    /// Height and width of the kernel.
    pub(super) size: usize,
    pub(super) stride: usize,
    /// Zeros above and to the left.
    pub(super) before: usize,
}

/// Adjacent columns of a panel that belong to one row of one image.
pub(super) struct Run {
    pub(super) image: usize,
    pub(super) y: usize,
    pub(super) x: usize,
    /// The first column within the panel.
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Run {
    /// Returns the values of this run in a line of a panel.
    #[inline(always)]
    pub(super) fn of<'a>(&self, line: &'a [f32; COLUMNS]) -> &'a [f32] {
        line.split_at(self.start).1.split_at(self.len).0
    }

    /// Like [`Run::of`], for writing.
    #[inline(always)]
    pub(super) fn of_mut<'a>(&self, line: &'a mut [f32; COLUMNS]) -> &'a mut [f32] {
        line.split_at_mut(self.start).1.split_at_mut(self.len).0
    }
}

/// Returns the runs of the panel that begins at column `first`. The columns enumerate `batch` grids row by row.
pub(super) fn runs(first: usize, batch: usize, height: usize, width: usize) -> impl Iterator<Item = Run> {
    let grid = height * width;
    let mut start = 0;
    std::iter::from_fn(move || {
        let column = first + start;
        if start >= COLUMNS || column >= batch * grid {
            return None;
        }
        let (image, cell) = (column / grid, column % grid);
        let (y, x) = (cell / width, cell % width);
        let len = (width - x).min(COLUMNS - start);
        start += len;
        Some(Run { image, y, x, start: start - len, len })
    })
}

impl Geometry {
    /// Returns the number of columns of the product: the output pixels of all images.
    pub(super) fn columns(&self) -> usize {
        self.batch * self.out_height * self.out_width
    }

    /// Returns the number of stored pixels in a channel of the input.
    fn plane(&self) -> usize {
        let shift = u32::from(self.upsampled);
        (self.height >> shift) * (self.width >> shift)
    }

    /// Returns the stored pixels of one channel of one input image.
    pub(super) fn channel<'a>(&self, images: &'a [f32], image: usize, channel: usize) -> &'a [f32] {
        let plane = self.plane();
        images.split_at((image * self.channels + channel) * plane).1.split_at(plane).0
    }

    /// Reads pixels from row `y` of a channel, starting at `x`, in steps of `stride`. Leaves `line` unchanged outside
    /// of the image.
    #[inline(always)]
    pub(super) fn read(&self, channel: &[f32], y: isize, x: isize, stride: usize, line: &mut [f32]) {
        let Some(y) = usize::try_from(y).ok().filter(|&y| y < self.height) else { return };
        let shift = u32::from(self.upsampled);
        let width = self.width >> shift;
        let row = channel.split_at((y >> shift) * width).1.split_at(width).0;
        if stride == 1 && !self.upsampled {
            let outside = x.min(0).unsigned_abs().min(line.len());
            let start = x.max(0).unsigned_abs().min(row.len());
            let line = line.split_at_mut(outside).1;
            let row = row.split_at(start).1;
            let len = line.len().min(row.len());
            line.split_at_mut(len).0.copy_from_slice(row.split_at(len).0);
        } else {
            for (index, pixel) in line.iter_mut().enumerate() {
                let x = usize::try_from(x + (index * stride) as isize).ok();
                if let Some(value) = x.and_then(|x| row.get(x >> shift)) {
                    *pixel = *value;
                }
            }
        }
    }

    /// Fills the zeroed panel `[channels * size * size][COLUMNS]` with the columns starting at `first`.
    pub(super) fn gather(&self, images: &[f32], first: usize, panel: &mut [f32]) {
        for run in runs(first, self.batch, self.out_height, self.out_width) {
            let lines = panel.as_chunks_mut::<COLUMNS>().0;
            for (index, lines) in lines.chunks_mut(self.size * self.size).enumerate() {
                let channel = self.channel(images, run.image, index);
                for (ky, lines) in lines.chunks_mut(self.size).enumerate() {
                    let y = (run.y * self.stride + ky) as isize - self.before as isize;
                    for (kx, line) in lines.iter_mut().enumerate() {
                        let x = (run.x * self.stride + kx) as isize - self.before as isize;
                        self.read(channel, y, x, self.stride, run.of_mut(line));
                    }
                }
            }
        }
    }
}

/// The result of a convolution, and the summands that are added when it is written.
pub(super) struct Output<'a> {
    pub(super) images: DisjointWriter<'a>,
    /// One value for each output channel, of each image or of all.
    pub(super) bias: &'a [f32],
    /// The number of output channels.
    pub(super) channels: usize,
    /// An image of the result's shape.
    pub(super) image: Option<&'a [f32]>,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Output<'_> {
    /// Writes adjacent pixels of a channel, with the summands. Drops channels beyond the last one, which are the padding
    /// of a tile.
    ///
    /// # Safety
    ///
    /// No other call writes these pixels of this channel.
    #[inline(always)]
    pub(super) unsafe fn put(&self, image: usize, channel: usize, pixel: usize, values: &[f32]) {
        if channel >= self.channels {
            return;
        }
        let place = image * self.channels + channel;
        let Some(bias) = self.bias.get(place).or_else(|| self.bias.get(channel)) else { return };
        let start = place * self.height * self.width + pixel;
        // SAFETY: different pixels and channels are different elements, and the caller guarantees that no other call
        // writes these.
        let pixels = unsafe { self.images.claim(start..start + values.len()) };
        match self.image {
            Some(summands) => {
                let summands = summands.split_at(start).1;
                for ((pixel, value), summand) in pixels.iter_mut().zip(values).zip(summands) {
                    *pixel = value + (bias + summand);
                }
            }
            None => pixels.iter_mut().zip(values).for_each(|(pixel, value)| *pixel = value + bias),
        }
    }
}
