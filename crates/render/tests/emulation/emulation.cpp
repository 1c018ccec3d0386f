// The kernels and the emulated GPU of emulation.h, as a library with the function `emulate`.
//
//     c++ -std=c++17 -O2 -shared -fPIC -I tests/emulation -I src/kernels/source -DTRINART_EMULATION
//         -o kernels.so tests/emulation/emulation.cpp
#include "emulation.h"

#include <dlfcn.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

unsigned mode;
unsigned char* shared;
unsigned current;
std::vector<Thread> threads;
std::vector<Warp> warps;
float of_half[65536];

half_type to_half(float x) {
    uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return half_type{(uint16_t)(sign | 0x7e00)};
    if (magnitude >= 0x477ff000) return half_type{(uint16_t)(sign | 0x7c00)};
    if (magnitude < 0x38800000) {
        // Subnormal numbers are multiples of 2^-24. This sum rounds to them, ties to even.
        return half_type{(uint16_t)(sign | (as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f)))};
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return half_type{(uint16_t)(sign | ((magnitude - 0x38000000) >> 13))};
}

static void fill_table() {
    for (int bits = 0; bits < 65536; bits++) {
        int exponent = bits >> 10 & 31, fraction = bits & 1023;
        float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? ldexpf(1024 + fraction, exponent - 25)
                                     : ldexpf(fraction, -24);
        of_half[bits] = bits & 0x8000 ? -value : value;
    }
}

static const size_t STACK = 64 << 10;
static const unsigned MOST_THREADS = 1024;
static void* scheduler;
static void (*kernel)(const void*);
static const void* kernel_params;

#ifdef __x86_64__
extern "C" void emulation_switch(void** save, void* load);
asm(R"(
    .text
    .globl emulation_switch
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
static void change(void** save, void* load) { emulation_switch(save, load); }
static void* beginning(unsigned char* stack, void (*entry)()) {
    void** top = (void**)(stack + STACK - 64);
    *top = (void*)entry;
    memset(top - 6, 0, 6 * sizeof(void*));
    return top - 6;
}
#else
static ucontext_t contexts[MOST_THREADS + 1];
static void change(void** save, void* load) {
    ucontext_t** from = (ucontext_t**)save;
    if (!*from) *from = &contexts[MOST_THREADS];
    swapcontext(*from, (ucontext_t*)load);
}
static void* beginning(unsigned char* stack, void (*entry)()) {
    static unsigned next;
    ucontext_t* context = &contexts[next++ % MOST_THREADS];
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = STACK;
    makecontext(context, entry, 0);
    return context;
}
#endif

void yield() {
    unsigned mine = current;
    change(&threads[mine].stack_pointer, scheduler);
    current = mine;
    threadIdx.x = mine;
}

static void run_thread() {
    kernel(kernel_params);
    Thread& thread = threads[current];
    thread.state = DONE;
    // Copies that the kernel does not wait for never arrive.
    thread.copies.clear();
    thread.groups.clear();
    yield();
    abort();
}

static void run_block(unsigned count) {
    static unsigned char* stacks =
        (unsigned char*)mmap(0, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    threads.resize(count);
    warps.assign((count + 31) / 32, Warp{});
    for (unsigned i = 0; i < count; i++) {
        threads[i].state = RUNS;
        threads[i].stack_pointer = beginning(stacks + STACK * i, run_thread);
        warps[i / 32].lanes++;
    }
    for (;;) {
        unsigned waiting = 0, done = 0;
        for (unsigned w = 0; w < warps.size(); w++) {
            unsigned warp = mode & LAST_WARP_FIRST ? (unsigned)warps.size() - 1 - w : w;
            unsigned first = warp * 32, end = first + 32 < count ? first + 32 : count;
            for (;;) {
                unsigned running = 0;
                unsigned generation = warps[warp].generation;
                unsigned before = warps[warp].arrived;
                for (unsigned i = first; i < end; i++) {
                    if (threads[i].state != RUNS) continue;
                    current = i;
                    threadIdx.x = i;
                    change(&scheduler, threads[i].stack_pointer);
                    running += threads[i].state == RUNS;
                }
                if (!running) break;
                if (generation == warps[warp].generation && before == (unsigned)warps[warp].arrived) {
                    fprintf(stderr, "emulation: the threads of a warp wait at different barriers\n");
                    abort();
                }
            }
            for (unsigned i = first; i < end; i++) {
                waiting += threads[i].state == WAITS_FOR_BLOCK;
                done += threads[i].state == DONE;
            }
        }
        if (done == count) return;
        if (waiting + done == count)
            for (Thread& thread : threads)
                if (thread.state == WAITS_FOR_BLOCK) thread.state = RUNS;
    }
}

} // namespace emulation

#include "kernels.cu"

// The maximum shared memory of a block for compute capabilities 8.6 and 8.9.
static const unsigned MOST_SHARED = 99 << 10;

// Runs a kernel. Returns 0, or 1 if there is no kernel of this name, or 2 if the block or the grid is too large.
extern "C" int emulate(const char* name, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned shared,
                       const void* params, unsigned mode) {
    using namespace emulation;
    static bool ready = (fill_table(), true);
    static std::vector<unsigned char> memory(MOST_SHARED + 128);
    Dl_info info;
    if (!ready || !dladdr((void*)emulate, &info)) return 1;
    void* library = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    kernel = library ? (void (*)(const void*))dlsym(library, name) : nullptr;
    if (!kernel || !strcmp(name, "emulate")) return 1;
    if (threads > MOST_THREADS || threads == 0 || shared > MOST_SHARED || y > 65535 || z > 65535) return 2;
    emulation::mode = mode;
    emulation::shared = (unsigned char*)(((uintptr_t)memory.data() + 127) / 128 * 128);
    kernel_params = params;
    blockDim = {threads, 1, 1};
    gridDim = {x, y, z};
    for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++) {
                // NaN, so that reads of uninitialized memory change the result.
                memset(emulation::shared, 0xff, shared);
                run_block(threads);
            }
    return 0;
}
