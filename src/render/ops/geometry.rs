//! Which pixels a convolution reads for which column of its product.

use super::cpu::Shared;
use super::kernel::COLUMNS;

/// Images in, images out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    /// Of what goes in.
    pub(super) channels: usize,
    /// As the kernel sees it.
    pub(super) height: usize,
    pub(super) width: usize,
    /// Each pixel that is there is read as two in each direction.
    pub(super) doubled: bool,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    /// Of the kernel.
    pub(super) size: usize,
    pub(super) stride: usize,
    /// Zeros above and to the left.
    pub(super) before: usize,
}

/// Neighbouring columns of a product that lie in one row of one image.
pub(super) struct Run {
    pub(super) image: usize,
    pub(super) y: usize,
    pub(super) x: usize,
    /// Where it begins among the columns.
    pub(super) at: usize,
    pub(super) len: usize,
}

/// The columns from `first` on, at most a panel of them, where columns are the places of `batch` grids.
pub(super) fn runs(first: usize, batch: usize, height: usize, width: usize) -> impl Iterator<Item = Run> {
    let place = height * width;
    let mut at = 0;
    std::iter::from_fn(move || {
        let column = first + at;
        if at >= COLUMNS || column >= batch * place {
            return None;
        }
        let (image, place) = (column / place, column % place);
        let (y, x) = (place / width, place % width);
        let len = (width - x).min(COLUMNS - at);
        at += len;
        Some(Run { image, y, x, at: at - len, len })
    })
}

impl Geometry {
    /// Columns of the product: pixels of all images that come out.
    pub(super) fn columns(&self) -> usize {
        self.batch * self.out_height * self.out_width
    }

    /// Pixels of one channel in memory.
    fn plane(&self) -> usize {
        let shift = u32::from(self.doubled);
        (self.height >> shift) * (self.width >> shift)
    }

    /// One channel of one image.
    pub(super) fn channel<'a>(&self, images: &'a [f32], image: usize, channel: usize) -> &'a [f32] {
        let plane = self.plane();
        let start = (image * self.channels + channel) * plane;
        images.get(start..start + plane).unwrap_or_default()
    }

    /// Reads from row `y` of a channel, from `x` on in steps of `stride`; what lies outside stays as it is.
    #[inline(always)]
    pub(super) fn read(&self, channel: &[f32], y: isize, x: isize, stride: usize, line: &mut [f32]) {
        let Some(y) = usize::try_from(y).ok().filter(|&y| y < self.height) else { return };
        let shift = u32::from(self.doubled);
        let width = self.width >> shift;
        let row = channel.get((y >> shift) * width..).and_then(|rest| rest.get(..width)).unwrap_or_default();
        if stride == 1 && !self.doubled {
            let outside = usize::try_from(-x).unwrap_or(0).min(line.len());
            let start = usize::try_from(x).unwrap_or(0).min(row.len());
            let line = line.split_at_mut(outside).1;
            let row = row.split_at(start).1;
            let len = line.len().min(row.len());
            line.split_at_mut(len).0.copy_from_slice(row.split_at(len).0);
        } else {
            for (index, place) in line.iter_mut().enumerate() {
                let x = usize::try_from(x + (index * stride) as isize).ok();
                if let Some(value) = x.filter(|&x| x < self.width).and_then(|x| row.get(x >> shift)) {
                    *place = *value;
                }
            }
        }
    }

    /// Fills the panel `[channels * size * size][COLUMNS]` of the columns from `first` on. It has to be zero before.
    pub(super) fn gather(&self, images: &[f32], first: usize, panel: &mut [f32]) {
        for run in runs(first, self.batch, self.out_height, self.out_width) {
            let lines = panel.as_chunks_mut::<COLUMNS>().0;
            for (index, lines) in lines.chunks_mut(self.size * self.size).enumerate() {
                let channel = self.channel(images, run.image, index);
                for (ky, lines) in lines.chunks_mut(self.size).enumerate() {
                    let y = (run.y * self.stride + ky) as isize - self.before as isize;
                    for (kx, line) in lines.iter_mut().enumerate() {
                        let x = (run.x * self.stride + kx) as isize - self.before as isize;
                        let line = line.get_mut(run.at..run.at + run.len).unwrap_or_default();
                        self.read(channel, y, x, self.stride, line);
                    }
                }
            }
        }
    }
}

/// Where a convolution writes, and what it adds.
pub(super) struct Output<'a> {
    pub(super) images: Shared<'a>,
    /// One for each channel.
    pub(super) bias: &'a [f32],
    /// Of the output's shape.
    pub(super) added: Option<&'a [f32]>,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Output<'_> {
    /// Writes values of a channel at a place, with what is added; a channel that is not there is dropped.
    ///
    /// # Safety
    ///
    /// No other thread may write there.
    pub(super) unsafe fn put(&self, image: usize, channel: usize, place: usize, values: &mut [f32]) {
        let Some(bias) = self.bias.get(channel) else { return };
        let start = (image * self.bias.len() + channel) * self.height * self.width + place;
        match self.added.and_then(|added| added.get(start..start + values.len())) {
            Some(added) => values.iter_mut().zip(added).for_each(|(value, added)| *value += bias + added),
            None => values.iter_mut().for_each(|value| *value += bias),
        }
        // SAFETY: as the caller says.
        unsafe { self.images.put(start, values) }
    }
}
