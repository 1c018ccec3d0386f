// Convolutions and linear layers as an implicit GEMM: the left matrix is gathered from the image during the product, so
// the im2col matrix is never stored. A linear layer is a convolution of size 1.
//
// Images are [batch][y][x][channel], weights are [out][y][x][in]. All channel counts are multiples of 8.
#pragma once
#include "device.cuh"

struct Convolution {
    const void* x;
    const void* weight;
    const float* bias;      // [out], or null
    const float* channels;  // [out] for each image, added to the result, or null
    const void* image;      // of the result's shape, added to the result, or null
    void* out;
    float* partial;         // [splits][rows][out] if splits > 1
    int batch, height, width, in;
    int out_height, out_width, out_channels;
    int size, stride, before;
    int upsampled; // each pixel of x counts as 2x2 pixels; height and width include this
    int splits;    // parts of the depth that are summed separately
    int keep_f32;  // the result is F32, independent of the type of x
    int channels_stride; // between the channels of two images; 0 if all images have the same
};

// Bytes of the depth in shared memory for each row: 8 pieces of 16 bytes, one for each row of a matrix.
#define ROW_BYTES 128

// The exclusive or places the eight rows of a matrix in different banks.
DEVICE int swizzled(int row, int piece) { return row * ROW_BYTES + ((piece ^ (row & 7)) << 4); }

// Adds the bias and the other summands to eight values of the result, and stores them.
template <typename T> DEVICE void finish_eight(const Convolution& p, float (&values)[8], long long place, int column) {
    float summands[8];
    if (p.bias) {
        load_eight(summands, p.bias + column);
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] += summands[e];
    }
    if (p.channels) {
        long long image = place / p.out_channels / ((long long)p.out_height * p.out_width);
        load_eight(summands, p.channels + image * p.channels_stride + column);
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] += summands[e];
    }
    if (p.image) {
        load_eight(summands, (const T*)p.image + place);
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] += summands[e];
    }
    if (p.keep_f32)
        store_eight((float*)p.out + place, values);
    else
        store_eight((T*)p.out + place, values);
}

template <typename T, int BM, int BN, int WARPS_M, int WARPS_N, int STAGES> DEVICE void convolve(const Convolution& p) {
    constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    constexpr int DEPTH = ROW_BYTES / (int)sizeof(T);
    constexpr int PIECE = 16 / (int)sizeof(T);
    constexpr int ROWS_AT_ONCE = THREADS / 8;
    constexpr int A_ROWS = BM / ROWS_AT_ONCE, B_ROWS = BN / ROWS_AT_ONCE;
    constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;
    constexpr int TM = WM / 16, TN = WN / 8;
    constexpr int STAGE = (BM + BN) * ROW_BYTES;
    static_assert(TN % 2 == 0 && A_ROWS > 0 && B_ROWS > 0, "tiles are taken in pairs");
    SHARED_MEMORY(shared);

    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    const long long rows = (long long)p.batch * p.out_height * p.out_width;
    const long long first_row = (long long)blockIdx.x * BM;
    const int first_column = blockIdx.y * BN;
    const int depth = p.size * p.size * p.in;
    const int steps = (depth + DEPTH - 1) / DEPTH;
    const int split_steps = (steps + p.splits - 1) / p.splits;
    const int begin = blockIdx.z * split_steps;
    const int end = begin + split_steps < steps ? begin + split_steps : steps;

    // The first pixel of the window of each row that this thread copies.
    const int piece = thread & 7, first_of_thread = thread >> 3;
    const int real_height = p.upsampled ? p.height >> 1 : p.height, real_width = p.upsampled ? p.width >> 1 : p.width;
    const T* window[A_ROWS];
    int window_y[A_ROWS], window_x[A_ROWS];
#pragma unroll
    for (int i = 0; i < A_ROWS; i++) {
        long long row = first_row + first_of_thread + i * ROWS_AT_ONCE;
        if (row < rows) {
            int pixel = (int)(row % ((long long)p.out_height * p.out_width));
            int image = (int)(row / ((long long)p.out_height * p.out_width));
            window_y[i] = pixel / p.out_width * p.stride - p.before;
            window_x[i] = pixel % p.out_width * p.stride - p.before;
            window[i] = (const T*)p.x + (long long)image * real_height * real_width * p.in;
            if (!p.upsampled) window[i] += ((long long)window_y[i] * real_width + window_x[i]) * p.in;
        } else {
            // A position outside of the image, where every pixel is zero.
            window_y[i] = window_x[i] = -(1 << 20);
            window[i] = (const T*)p.x;
        }
    }
    const T* weight = (const T*)p.weight + (long long)(first_column + first_of_thread) * depth;
    const int columns = p.out_channels - first_column - first_of_thread;

    // The position of the next piece in the depth and in the window. Advancing it avoids divisions in each step.
    int k = begin * DEPTH + piece * PIECE;
    int tap_y = k / p.in / p.size, tap_x = k / p.in % p.size, channel = k % p.in;
    auto copy_step = [&](int stage) {
        unsigned char* a = shared + stage * STAGE;
        unsigned char* b = a + BM * ROW_BYTES;
        const bool inside = k < depth;
        const int offset = (tap_y * real_width + tap_x) * p.in + channel;
#pragma unroll
        for (int i = 0; i < A_ROWS; i++) {
            int y = window_y[i] + tap_y, x = window_x[i] + tap_x;
            bool valid = inside && (unsigned)y < (unsigned)p.height && (unsigned)x < (unsigned)p.width;
            const T* from = window[i];
            if (p.upsampled)
                from += ((y >> 1) * (long long)real_width + (x >> 1)) * p.in + channel;
            else
                from += offset;
            copy16(a + swizzled(first_of_thread + i * ROWS_AT_ONCE, piece), valid ? (const void*)from : p.x, valid);
        }
#pragma unroll
        for (int i = 0; i < B_ROWS; i++) {
            bool valid = inside && i * ROWS_AT_ONCE < columns;
            const T* from = weight + (long long)i * ROWS_AT_ONCE * depth + k;
            copy16(b + swizzled(first_of_thread + i * ROWS_AT_ONCE, piece), valid ? (const void*)from : p.weight, valid);
        }
        k += DEPTH;
        channel += DEPTH;
        while (channel >= p.in) {
            channel -= p.in;
            if (++tap_x == p.size) tap_x = 0, tap_y++;
        }
    };

    float sums[TM][TN][4];
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;

#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        if (begin + stage < end) copy_step(stage);
        commit_copies();
    }
    int stage = 0;
    for (int step = begin; step < end; step++) {
        wait_for_copies<STAGES - 2>();
        // After this barrier, no thread reads the stage that the next copies overwrite.
        __syncthreads();
        if (step + STAGES - 1 < end) copy_step(stage == 0 ? STAGES - 1 : stage - 1);
        commit_copies();
        const unsigned char* a = shared + stage * STAGE;
        const unsigned char* b = a + BM * ROW_BYTES;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t left[TM][4], right[TN / 2][4];
#pragma unroll
            for (int i = 0; i < TM; i++)
                load_matrices(left[i], a + swizzled(warp_m * WM + i * 16 + (lane & 15), 2 * k + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < TN / 2; j++) {
                int row = warp_n * WN + j * 16 + (lane & 7) + ((lane >> 4) << 3);
                load_matrices(right[j], b + swizzled(row, 2 * k + ((lane >> 3) & 1)));
            }
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) product(T(), sums[i][j], left[i], &right[j / 2][2 * (j & 1)]);
        }
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    wait_for_copies<0>();
    __syncthreads();

    // Reorders the result in shared memory, so that each thread stores eight adjacent channels. The padding of four values
    // places adjacent rows in different banks.
    constexpr int LINE = BN + 4;
    static_assert(BM * LINE * 4 <= STAGES * STAGE, "the result reuses the memory of the stages");
    float* result = (float*)shared;
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) {
            float* place = result + (warp_m * WM + i * 16 + (lane >> 2)) * LINE + warp_n * WN + j * 8 + 2 * (lane & 3);
            place[0] = sums[i][j][0], place[1] = sums[i][j][1];
            place[8 * LINE] = sums[i][j][2], place[8 * LINE + 1] = sums[i][j][3];
        }
    __syncthreads();
    for (int index = thread; index < BM * (BN / 8); index += THREADS) {
        int r = index / (BN / 8), c = index % (BN / 8) * 8;
        long long row = first_row + r;
        int column = first_column + c;
        if (row >= rows || column >= p.out_channels) continue;
        float values[8];
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] = result[r * LINE + c + e];
        long long place = row * p.out_channels + column;
        if (p.splits > 1) {
            store_eight(p.partial + (long long)blockIdx.z * rows * p.out_channels + place, values);
            continue;
        }
        finish_eight<T>(p, values, place, column);
    }
}

// Sums the parts of the depth in a fixed order, so that results are reproducible.
template <typename T> DEVICE void sum_splits(const Convolution& p) {
    const long long count = (long long)p.batch * p.out_height * p.out_width * p.out_channels / 8;
    for (long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x; index < count;
         index += (long long)gridDim.x * blockDim.x) {
        float values[8], summands[8];
        load_eight(values, p.partial + 8 * index);
        for (int split = 1; split < p.splits; split++) {
            load_eight(summands, p.partial + (split * count + index) * 8);
#pragma unroll
            for (int e = 0; e < 8; e++) values[e] += summands[e];
        }
        finish_eight<T>(p, values, 8 * index, (int)(8 * index % p.out_channels));
    }
}
