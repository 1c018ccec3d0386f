// Multi-head attention with an online softmax. A block computes 64 queries of one head and iterates over tiles of keys.
// The scores stay in registers. A new maximum score rescales the sums.
#pragma once
#include "device.cuh"

struct Attention {
    const void* q; // [batch][queries][heads * width]
    const void* k; // [batch][keys][heads * width]
    const void* v;
    void* out;
    int batch, heads, queries, keys;
    int width; // of a head
    int causal;
    float scale; // of the scores, times log2(e)
};

// Copies a tile of rows of one head to shared memory, padded with zeros. The stride of rows is an odd multiple of 16
// bytes, so that eight adjacent rows are in different banks.
template <typename T, int WIDTH, int ROWS, int THREADS>
DEVICE void copy_rows(unsigned char* shared, const T* from, int first, int count, int stride, int width) {
    constexpr int LINE = WIDTH * (int)sizeof(T) + 16;
    constexpr int PIECE = 16 / (int)sizeof(T);
    constexpr int PIECES = WIDTH / PIECE;
    if (width % PIECE == 0) {
        for (int index = threadIdx.x; index < ROWS * PIECES; index += THREADS) {
            int row = index / PIECES, piece = index % PIECES;
            bool valid = first + row < count && piece * PIECE < width;
            const T* place = from + (long long)(first + row) * stride + piece * PIECE;
            copy16(shared + row * LINE + piece * 16, valid ? place : from, valid);
        }
    } else {
        for (int index = threadIdx.x; index < ROWS * WIDTH; index += THREADS) {
            int row = index / WIDTH, column = index % WIDTH;
            bool valid = first + row < count && column < width;
            T value = valid ? from[(long long)(first + row) * stride + column] : from_float<T>(0.0f);
            *(T*)(shared + row * LINE + column * sizeof(T)) = value;
        }
    }
}

// The attention weights of 32 bytes of keys as the left operand of a product.
template <int TILES> DEVICE void left_of_weights(half_type t, uint32_t (&a)[4], const float (&s)[TILES][4], int k) {
    a[0] = pack(t, s[2 * k][0], s[2 * k][1]);
    a[1] = pack(t, s[2 * k][2], s[2 * k][3]);
    a[2] = pack(t, s[2 * k + 1][0], s[2 * k + 1][1]);
    a[3] = pack(t, s[2 * k + 1][2], s[2 * k + 1][3]);
}
template <int TILES> DEVICE void left_of_weights(bfloat_type t, uint32_t (&a)[4], const float (&s)[TILES][4], int k) {
    a[0] = pack(t, s[2 * k][0], s[2 * k][1]);
    a[1] = pack(t, s[2 * k][2], s[2 * k][3]);
    a[2] = pack(t, s[2 * k + 1][0], s[2 * k + 1][1]);
    a[3] = pack(t, s[2 * k + 1][2], s[2 * k + 1][3]);
}
// A thread holds the weights of keys 2i and 2i + 1, but the product expects i and i + 4. The order of a sum is free, so
// right_of_values permutes the keys in the same way.
template <int TILES> DEVICE void left_of_weights(float, uint32_t (&a)[4], const float (&s)[TILES][4], int k) {
    a[0] = as_bits(s[k][0]), a[1] = as_bits(s[k][2]), a[2] = as_bits(s[k][1]), a[3] = as_bits(s[k][3]);
}

// The values of 32 bytes of keys and 16 columns as the right operands of two products.
template <typename T> DEVICE void right_of_values(T, uint32_t (&b)[4], const unsigned char* v, int line, int k, int n) {
    int lane = threadIdx.x & 31;
    load_matrices_transposed(b, v + (k * 16 + (lane & 15)) * line + (2 * n + (lane >> 4)) * 16);
}
DEVICE void right_of_values(float, uint32_t (&b)[4], const unsigned char* v, int line, int k, int n) {
    int lane = threadIdx.x & 31;
    const unsigned char* place = v + (k * 8 + 2 * (lane & 3)) * line + (n * 16 + (lane >> 2)) * 4;
    b[0] = *(const uint32_t*)place, b[1] = *(const uint32_t*)(place + line);
    b[2] = *(const uint32_t*)(place + 32), b[3] = *(const uint32_t*)(place + line + 32);
}

template <typename T, int WIDTH, int KEYS> DEVICE void attend(const Attention& p) {
    constexpr int THREADS = 128, QUERIES = 64;
    constexpr int LINE = WIDTH * (int)sizeof(T) + 16;
    constexpr int WIDTH_STEPS = WIDTH * (int)sizeof(T) / 32, KEY_STEPS = KEYS * (int)sizeof(T) / 32;
    constexpr int KEY_TILES = KEYS / 8, OUT_TILES = WIDTH / 8;
    static_assert(WIDTH % 16 == 0 && KEYS % 16 == 0, "tiles are taken in pairs");
    SHARED_MEMORY(shared);
    unsigned char* shared_q = shared;
    unsigned char* shared_k = shared_q + QUERIES * LINE;
    unsigned char* shared_v = shared_k + 2 * KEYS * LINE;

    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int first_query = blockIdx.x * QUERIES, head = blockIdx.y, image = blockIdx.z;
    const int stride = p.heads * p.width;
    const T* q = (const T*)p.q + (long long)image * p.queries * stride + head * p.width;
    const T* k = (const T*)p.k + (long long)image * p.keys * stride + head * p.width;
    const T* v = (const T*)p.v + (long long)image * p.keys * stride + head * p.width;

    // No query of this block attends to keys after the last query.
    int keys = p.keys;
    if (p.causal && first_query + QUERIES < keys) keys = first_query + QUERIES;
    const int steps = (keys + KEYS - 1) / KEYS;

    copy_rows<T, WIDTH, QUERIES, THREADS>(shared_q, q, first_query, p.queries, stride, p.width);
    copy_rows<T, WIDTH, KEYS, THREADS>(shared_k, k, 0, p.keys, stride, p.width);
    copy_rows<T, WIDTH, KEYS, THREADS>(shared_v, v, 0, p.keys, stride, p.width);
    commit_copies();

    float out[OUT_TILES][4];
#pragma unroll
    for (int j = 0; j < OUT_TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) out[j][e] = 0.0f;
    // For the two rows that this thread holds in part.
    float maximum[2] = {-INFINITY, -INFINITY}, sums[2] = {0.0f, 0.0f};

    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            int other = (step + 1) & 1;
            copy_rows<T, WIDTH, KEYS, THREADS>(shared_k + other * KEYS * LINE, k, (step + 1) * KEYS, p.keys, stride, p.width);
            copy_rows<T, WIDTH, KEYS, THREADS>(shared_v + other * KEYS * LINE, v, (step + 1) * KEYS, p.keys, stride, p.width);
            commit_copies();
            wait_for_copies<1>();
        } else {
            wait_for_copies<0>();
        }
        __syncthreads();
        const unsigned char* here_k = shared_k + (step & 1) * KEYS * LINE;
        const unsigned char* here_v = shared_v + (step & 1) * KEYS * LINE;

        float s[KEY_TILES][4];
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[j][e] = 0.0f;
#pragma unroll
        for (int i = 0; i < WIDTH_STEPS; i++) {
            uint32_t a[4], b[4];
            load_matrices(a, shared_q + (warp * 16 + (lane & 15)) * LINE + (2 * i + (lane >> 4)) * 16);
#pragma unroll
            for (int j = 0; j < KEY_TILES / 2; j++) {
                int row = j * 16 + (lane & 7) + ((lane >> 4) << 3);
                load_matrices(b, here_k + row * LINE + (2 * i + ((lane >> 3) & 1)) * 16);
                product(T(), s[2 * j], a, b);
                product(T(), s[2 * j + 1], a, b + 2);
            }
        }

        float new_maximum[2] = {maximum[0], maximum[1]};
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = step * KEYS + j * 8 + 2 * (lane & 3) + (e & 1);
                int query = first_query + warp * 16 + (lane >> 2) + (e >> 1) * 8;
                bool visible = key < p.keys && (!p.causal || key <= query);
                s[j][e] = visible ? s[j][e] * p.scale : -INFINITY;
                new_maximum[e >> 1] = fmaxf(new_maximum[e >> 1], s[j][e]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            new_maximum[r] = fmaxf(new_maximum[r], shuffle_xor(new_maximum[r], 1));
            new_maximum[r] = fmaxf(new_maximum[r], shuffle_xor(new_maximum[r], 2));
            float shrink = exp2f(maximum[r] - new_maximum[r]);
            maximum[r] = new_maximum[r];
            sums[r] *= shrink;
#pragma unroll
            for (int j = 0; j < OUT_TILES; j++) out[j][2 * r] *= shrink, out[j][2 * r + 1] *= shrink;
        }
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[j][e] = exp2f(s[j][e] - maximum[e >> 1]);
                sums[e >> 1] += s[j][e];
            }

#pragma unroll
        for (int i = 0; i < KEY_STEPS; i++) {
            uint32_t a[4], b[4];
            left_of_weights<KEY_TILES>(T(), a, s, i);
#pragma unroll
            for (int j = 0; j < OUT_TILES / 2; j++) {
                right_of_values(T(), b, here_v, LINE, i, j);
                product(T(), out[2 * j], a, b);
                product(T(), out[2 * j + 1], a, b + 2);
            }
        }
        // The tile after the next one overwrites this one.
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        sums[r] += shuffle_xor(sums[r], 1);
        sums[r] += shuffle_xor(sums[r], 2);
        int query = first_query + warp * 16 + (lane >> 2) + r * 8;
        if (query >= p.queries) continue;
        T* place = (T*)p.out + ((long long)image * p.queries + query) * stride + head * p.width;
#pragma unroll
        for (int j = 0; j < OUT_TILES; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = j * 8 + 2 * (lane & 3) + e;
                if (column < p.width) place[column] = from_float<T>(out[j][2 * r + e] / sums[r]);
            }
    }
}

// The softmax of rows of F32 scores.
struct Softmax {
    const float* x; // [rows][stride]
    void* out;      // [rows][stride], zero after `columns`
    int rows, columns, stride;
    float scale; // times log2(e)
};

template <typename T> DEVICE void softmax(const Softmax& p) {
    SHARED_MEMORY(shared);
    float* parts = (float*)shared;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const float* x = p.x + (long long)blockIdx.x * p.stride;
    T* out = (T*)p.out + (long long)blockIdx.x * p.stride;
    float maximum = -INFINITY, sum = 0.0f;
    for (int i = threadIdx.x; i < p.columns; i += blockDim.x) maximum = fmaxf(maximum, x[i]);
    for (int mask = 16; mask > 0; mask >>= 1) maximum = fmaxf(maximum, shuffle_xor(maximum, mask));
    if (lane == 0) parts[warp] = maximum;
    __syncthreads();
    for (int i = 0; i < warps; i++) maximum = fmaxf(maximum, parts[i]);
    for (int i = threadIdx.x; i < p.columns; i += blockDim.x) sum += exp2f((x[i] - maximum) * p.scale);
    for (int mask = 16; mask > 0; mask >>= 1) sum += shuffle_xor(sum, mask);
    __syncthreads();
    if (lane == 0) parts[warp] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < warps; i++) sum += parts[i];
    for (int i = threadIdx.x; i < p.stride; i += blockDim.x)
        out[i] = from_float<T>(i < p.columns ? exp2f((x[i] - maximum) * p.scale) / sum : 0.0f);
}
