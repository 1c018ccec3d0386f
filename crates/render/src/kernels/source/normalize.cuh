// Group normalization with an optional SiLU, and layer normalization.
#pragma once
#include "device.cuh"

struct GroupNorm {
    const void* x; // [batch][pixels][channels]
    void* out;
    const float* weight; // [channels]
    const float* bias;
    float* moments; // [batch][chunks][groups][2]: mean, and sum of squared deviations
    float* affine;  // [batch][2][channels]: factor, summand
    int batch, pixels, channels, groups;
    int chunks, chunk_pixels;
    float epsilon;
    int silu;
};

// Computes the sum of `value(element, channel)` over each group of a chunk, for all threads of the block. `sums` receives
// one sum for each group; `shared` is scratch memory.
template <typename T, typename F>
DEVICE void sums_of_groups(const GroupNorm& p, float* shared, float* sums, int count, const T* x, F value) {
    const int vectors = p.channels / 8, thread = threadIdx.x, threads = blockDim.x;
    const int across = vectors < threads ? vectors : threads, lanes = threads / across;
    const int lane = thread / across;
    if (lane < lanes) {
        for (int vector = thread % across; vector < vectors; vector += across) {
            float total[8] = {0, 0, 0, 0, 0, 0, 0, 0}, values[8];
            for (int pixel = lane; pixel < count; pixel += lanes) {
                load_eight(values, x + (long long)pixel * p.channels + vector * 8);
#pragma unroll
                for (int e = 0; e < 8; e++) total[e] += value(values[e], vector * 8 + e);
            }
#pragma unroll
            for (int e = 0; e < 8; e++) shared[lane * p.channels + vector * 8 + e] = total[e];
        }
    }
    __syncthreads();
    // Eight threads sum a group.
    const int group_channels = p.channels / p.groups;
    for (int first = 0; first < p.groups; first += threads / 8) {
        int group = first + thread / 8;
        float sum = 0.0f;
        if (group < p.groups)
            for (int i = thread % 8; i < group_channels * lanes; i += 8)
                sum += shared[i / group_channels * p.channels + group * group_channels + i % group_channels];
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        sum += shuffle_xor(sum, 4);
        if (group < p.groups && thread % 8 == 0) sums[group] = sum;
    }
    __syncthreads();
}

// Computes the moments of each group in a chunk of pixels. Reads the chunk twice (the second time from the cache) to
// avoid cancellation in a difference of two large sums.
template <typename T> DEVICE void group_moments(const GroupNorm& p) {
    SHARED_MEMORY(memory);
    float* means = (float*)memory;
    float* squares = means + p.groups;
    float* shared = squares + p.groups;
    const int chunk = blockIdx.x, image = blockIdx.y;
    const int first = chunk * p.chunk_pixels;
    const int count = first + p.chunk_pixels < p.pixels ? p.chunk_pixels : p.pixels - first;
    const int group_channels = p.channels / p.groups;
    const T* x = (const T*)p.x + ((long long)image * p.pixels + first) * p.channels;
    sums_of_groups(p, shared, means, count, x, [](float value, int) { return value; });
    const float size = (float)(count * group_channels);
    sums_of_groups(p, shared, squares, count, x, [=](float value, int channel) {
        float delta = value - means[channel / group_channels] / size;
        return delta * delta;
    });
    float* out = p.moments + ((long long)image * p.chunks + chunk) * p.groups * 2;
    for (int group = threadIdx.x; group < p.groups; group += blockDim.x) {
        out[2 * group] = means[group] / size;
        out[2 * group + 1] = squares[group];
    }
}

// Combines the moments of the chunks, and computes the factor and summand of each channel. One block for each image.
DEVICE void affine_of_groups(const GroupNorm& p) {
    SHARED_MEMORY(memory);
    float* means = (float*)memory;
    float* factors = means + p.groups;
    const int image = blockIdx.x, thread = threadIdx.x;
    const int group_channels = p.channels / p.groups;
    for (int first = 0; first < p.groups; first += blockDim.x / 8) {
        int group = first + thread / 8;
        float count = 0.0f, mean = 0.0f, squares = 0.0f;
        auto combine = [&](float other_count, float other_mean, float other_squares) {
            float total = count + other_count;
            if (total == 0.0f) return;
            float delta = other_mean - mean;
            squares += other_squares + delta * delta * (count * other_count / total);
            mean += delta * (other_count / total);
            count = total;
        };
        if (group < p.groups)
            for (int chunk = thread % 8; chunk < p.chunks; chunk += 8) {
                const float* from = p.moments + (((long long)image * p.chunks + chunk) * p.groups + group) * 2;
                int pixels = p.pixels - chunk * p.chunk_pixels;
                if (pixels > p.chunk_pixels) pixels = p.chunk_pixels;
                combine((float)pixels * (float)group_channels, from[0], from[1]);
            }
        for (int mask = 1; mask < 8; mask <<= 1) {
            float other_count = shuffle_xor(count, mask), other_mean = shuffle_xor(mean, mask);
            float other_squares = shuffle_xor(squares, mask);
            combine(other_count, other_mean, other_squares);
        }
        if (group < p.groups && thread % 8 == 0) {
            means[group] = mean;
            factors[group] = 1.0f / sqrtf(squares / count + p.epsilon);
        }
    }
    __syncthreads();
    float* out = p.affine + (long long)image * 2 * p.channels;
    for (int channel = thread; channel < p.channels; channel += blockDim.x) {
        int group = channel / group_channels;
        float factor = p.weight[channel] * factors[group];
        out[channel] = factor;
        out[p.channels + channel] = p.bias[channel] - means[group] * factor;
    }
}

// Applies the factor and summand of each channel, and SiLU if requested.
template <typename T> DEVICE void group_apply(const GroupNorm& p) {
    const long long image_vectors = (long long)p.pixels * p.channels / 8, count = image_vectors * p.batch;
    for (long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x; index < count;
         index += (long long)gridDim.x * blockDim.x) {
        const float* affine = p.affine + index / image_vectors * 2 * p.channels + index * 8 % p.channels;
        float values[8], factors[8], summands[8];
        load_eight(values, (const T*)p.x + 8 * index);
        load_eight(factors, affine);
        load_eight(summands, affine + p.channels);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float y = values[e] * factors[e] + summands[e];
            values[e] = p.silu ? y / (1.0f + expf(-y)) : y;
        }
        store_eight((T*)p.out + 8 * index, values);
    }
}

struct LayerNorm {
    const void* x; // [tokens][width]
    void* out;
    const float* weight;
    const float* bias;
    int tokens, width;
    float epsilon;
};

// One warp for each token.
template <typename T> DEVICE void layer_norm(const LayerNorm& p) {
    const int lane = threadIdx.x & 31;
    const int token = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (token >= p.tokens) return;
    const T* x = (const T*)p.x + (long long)token * p.width;
    const int vectors = p.width / 8;
    float values[8], sum = 0.0f, squares = 0.0f;
    for (int i = lane; i < vectors; i += 32) {
        load_eight(values, x + 8 * i);
#pragma unroll
        for (int e = 0; e < 8; e++) sum += values[e];
    }
    for (int mask = 16; mask > 0; mask >>= 1) sum += shuffle_xor(sum, mask);
    const float mean = sum / p.width;
    for (int i = lane; i < vectors; i += 32) {
        load_eight(values, x + 8 * i);
#pragma unroll
        for (int e = 0; e < 8; e++) squares += (values[e] - mean) * (values[e] - mean);
    }
    for (int mask = 16; mask > 0; mask >>= 1) squares += shuffle_xor(squares, mask);
    const float scale = 1.0f / sqrtf(squares / p.width + p.epsilon);
    for (int i = lane; i < vectors; i += 32) {
        float weight[8], bias[8];
        load_eight(values, x + 8 * i);
        load_eight(weight, p.weight + 8 * i);
        load_eight(bias, p.bias + 8 * i);
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] = (values[e] - mean) * scale * weight[e] + bias[e];
        store_eight((T*)p.out + (long long)token * p.width + 8 * i, values);
    }
}
