// Emulates a GPU on the CPU for the kernels in src/kernels/source.
//
// Every thread of a block is a fiber, and the threads of a warp synchronize at the same points as on a GPU. Depending
// on `Mode`, asynchronous copies arrive at once or as late as possible, and the last warp runs first, so that a missing
// barrier or wait changes the result. Blocks run one after another. The speed of a GPU is not emulated.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

struct half_type {
    uint16_t bits;
};
struct bfloat_type {
    uint16_t bits;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
};

// Defines a kernel and its limits for the fake driver: the size of its structure, and the maximum number of threads per
// block.
#define KERNEL(name, threads, Params, call)                                \
    extern "C" const unsigned name##_limits[] = {sizeof(Params), threads}; \
    extern "C" void name(const void* params) {                             \
        const Params& p = *(const Params*)params;                          \
        call;                                                              \
    }
#define DEVICE static inline
#define SHARED_MEMORY(name) unsigned char* name = emulation::shared

namespace emulation {

enum Mode : unsigned {
    LATE_COPIES = 1,
    LAST_WARP_FIRST = 2,
};

struct Copy {
    void* to;
    const void* from;
    bool valid;
};

enum State { RUNS, WAITS_FOR_BLOCK, DONE };

struct Thread {
    void* stack_pointer;
    State state;
    std::vector<Copy> copies;
    std::vector<size_t> groups; // the end of each group in `copies`
};

struct Warp {
    void* slots[32];
    int arrived, lanes;
    unsigned generation;
};

extern unsigned mode;
extern unsigned char* shared;
extern unsigned current; // index of the running thread in its block
extern std::vector<Thread> threads;
extern std::vector<Warp> warps;

void yield();

// Synchronizes a warp. The last thread that arrives calls `all` with the arguments of all threads.
template <typename F> void together(void* mine, F all) {
    Warp& warp = warps[current / 32];
    unsigned generation = warp.generation;
    warp.slots[current % 32] = mine;
    if (++warp.arrived == warp.lanes) {
        all(warp.slots);
        warp.arrived = 0;
        warp.generation++;
    } else {
        while (warps[current / 32].generation == generation) yield();
    }
}

extern float of_half[65536];
half_type to_half(float x);

} // namespace emulation

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline void __syncthreads() {
    emulation::threads[emulation::current].state = emulation::WAITS_FOR_BLOCK;
    emulation::yield();
}

DEVICE float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
DEVICE uint32_t as_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(half_type x) { return emulation::of_half[x.bits]; }
DEVICE float to_float(bfloat_type x) { return as_float((uint32_t)x.bits << 16); }
DEVICE float convert(float, float x) { return x; }
DEVICE half_type convert(half_type, float x) { return emulation::to_half(x); }
DEVICE bfloat_type convert(bfloat_type, float x) {
    uint32_t bits = as_bits(x);
    if (x != x) return bfloat_type{0x7fff};
    return bfloat_type{(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <typename T> DEVICE uint32_t pack(T type, float a, float b) {
    return (uint32_t)convert(type, a).bits | (uint32_t)convert(type, b).bits << 16;
}

DEVICE void perform(const emulation::Copy& copy) {
    if (copy.valid)
        memcpy(copy.to, copy.from, 16);
    else
        memset(copy.to, 0, 16);
}
DEVICE void copy16(void* shared, const void* global, bool valid) {
    if ((uintptr_t)shared % 16 || (valid && (uintptr_t)global % 16)) {
        fprintf(stderr, "emulation: copy16 with an address that is not aligned to 16 bytes\n");
        abort();
    }
    emulation::Copy copy = {shared, global, valid};
    if (emulation::mode & emulation::LATE_COPIES)
        emulation::threads[emulation::current].copies.push_back(copy);
    else
        perform(copy);
}
DEVICE void commit_copies() {
    emulation::Thread& thread = emulation::threads[emulation::current];
    thread.groups.push_back(thread.copies.size());
}
template <int N> DEVICE void wait_for_copies() {
    emulation::Thread& thread = emulation::threads[emulation::current];
    if (thread.groups.size() <= N) return;
    size_t groups = thread.groups.size() - N, count = thread.groups[groups - 1];
    for (size_t i = 0; i < count; i++) perform(thread.copies[i]);
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + count);
    thread.groups.erase(thread.groups.begin(), thread.groups.begin() + groups);
    for (size_t& end : thread.groups) end -= count;
}

struct MatrixLoad {
    uint32_t* r;
    const unsigned char* row;
};
DEVICE void load_matrices(uint32_t (&r)[4], const void* shared) {
    MatrixLoad mine = {r, (const unsigned char*)shared};
    emulation::together(&mine, [](void** slots) {
        for (int lane = 0; lane < 32; lane++)
            for (int matrix = 0; matrix < 4; matrix++)
                memcpy(&((MatrixLoad*)slots[lane])->r[matrix], ((MatrixLoad*)slots[matrix * 8 + lane / 4])->row + lane % 4 * 4, 4);
    });
}
DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* shared) {
    MatrixLoad mine = {r, (const unsigned char*)shared};
    emulation::together(&mine, [](void** slots) {
        for (int lane = 0; lane < 32; lane++)
            for (int matrix = 0; matrix < 4; matrix++) {
                uint16_t halves[2];
                for (int i = 0; i < 2; i++)
                    memcpy(&halves[i], ((MatrixLoad*)slots[matrix * 8 + lane % 4 * 2 + i])->row + lane / 4 * 2, 2);
                memcpy(&((MatrixLoad*)slots[lane])->r[matrix], halves, 4);
            }
    });
}

struct Product {
    float* c;
    const uint32_t* a;
    const uint32_t* b;
};
// Multiplies fragments in the layout that the PTX manual specifies for m16n8k16 and m16n8k8.
template <int DEPTH, typename Element> DEVICE void multiply_fragments(void** slots, Element element) {
    float a[16][DEPTH], b[DEPTH][8];
    const int of_word = DEPTH / 8;
    for (int lane = 0; lane < 32; lane++) {
        const Product& mine = *(Product*)slots[lane];
        int group = lane / 4, place = lane % 4 * of_word;
        for (int i = 0; i < of_word; i++) {
            a[group][place + i] = element(mine.a[0], i);
            a[group + 8][place + i] = element(mine.a[1], i);
            a[group][place + i + DEPTH / 2] = element(mine.a[2], i);
            a[group + 8][place + i + DEPTH / 2] = element(mine.a[3], i);
            b[place + i][group] = element(mine.b[0], i);
            b[place + i + DEPTH / 2][group] = element(mine.b[1], i);
        }
    }
    float c[16][8] = {};
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < DEPTH; k++)
            for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int e = 0; e < 4; e++) ((Product*)slots[lane])->c[e] += c[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
}
DEVICE void product(half_type, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    Product mine = {c, a, b};
    emulation::together(&mine, [](void** slots) {
        multiply_fragments<16>(slots, [](uint32_t word, int i) { return emulation::of_half[word >> 16 * i & 0xffff]; });
    });
}
DEVICE void product(bfloat_type, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    Product mine = {c, a, b};
    emulation::together(&mine, [](void** slots) {
        multiply_fragments<16>(slots, [](uint32_t word, int i) { return as_float(word >> 16 * i << 16); });
    });
}
// TF32 is the first 19 bits of an F32 value.
DEVICE uint32_t to_tf32(float x) {
    uint32_t bits = as_bits(x);
    return x - x == 0.0f ? (bits + 0x1000) & ~0x1fffu : bits;
}
DEVICE void product_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    Product mine = {c, a, b};
    emulation::together(&mine, [](void** slots) {
        multiply_fragments<8>(slots, [](uint32_t word, int) { return as_float(word & ~0x1fffu); });
    });
}

struct Shuffle {
    float value, found;
};
DEVICE float shuffle_xor(float x, int mask) {
    Shuffle mine = {x, 0.0f};
    static int masks[32];
    masks[emulation::current % 32] = mask;
    emulation::together(&mine, [](void** slots) {
        for (int lane = 0; lane < 32; lane++)
            ((Shuffle*)slots[lane])->found = ((Shuffle*)slots[lane ^ masks[lane]])->value;
    });
    return mine.found;
}
