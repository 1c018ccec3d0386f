// A fake CUDA driver on top of the emulated GPU, to test a program's calls to the driver without a GPU: see
// run_driver.py. It implements the functions that crates/render/src/cuda, cudarc and candle call, and fails where
// NVIDIA's driver fails or is allowed to fail.
//
// Work on a stream runs as late as possible: when the program waits for it. Allocations lie between inaccessible pages,
// and no address is used twice.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace driver {

enum Code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

struct Stream;
struct Graph;

// An allocation of device memory.
struct Allocation {
    uint64_t begin;
    size_t bytes;
    uint64_t page;    // the first of its pages; the pages around them are inaccessible
    size_t pages;     // the size of its pages in bytes
    bool lives;       // allocated and not freed, in the order of the calls
    bool open;        // allocated and not freed, in the order of the work that has run
    Graph* graph;     // the graph that owns it, or null
};

struct Function {
    std::string name;
    size_t parameters;
    unsigned most_threads;
    unsigned most_shared; // the maximum of a launch
    size_t element;       // the size of an element of candle's copy2d; 0 for kernels of the emulation
};

struct Event {
    bool pending;     // recorded, but not reached yet
    bool captured;    // recorded during a capture
    Stream* stream;
};

struct Operation {
    enum Kind { KERNEL, COPY, SET, ALLOCATE, FREE, RECORD } kind;
    Function* function;
    unsigned grid[3], threads, shared;
    std::vector<uint8_t> bytes; // the parameters, or the source of a copy from memory that is not pinned
    void* to;
    const void* from;           // null if the source is `bytes`
    size_t count;
    uint8_t value;
    Allocation* allocation;
    Event* event;
};

struct Stream {
    std::deque<Operation> work;
    enum { NONE = 0, ACTIVE = 1, INVALIDATED = 2 } capture;
    Graph* graph; // the graph that is captured
    unsigned long thread;
    unsigned mode;
};

struct Graph {
    std::vector<Operation> work;
    std::vector<Allocation*> allocations;
    size_t most; // the peak memory use in bytes
    bool instantiated;
};

struct Executable {
    Graph* graph;
    std::vector<Operation> work;
    std::vector<Allocation*> allocations;
    size_t most;
    bool frees_on_launch, uploaded;
};

// Reports incorrect use of the driver, and sets the exit status of the program to 99.
void complain(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The value of the environment variable FAKE_CUDA_<name>.
const char* setting(const char* name);
uint64_t setting(const char* name, uint64_t otherwise);

// Counts a call. Returns the error code that the setting FAIL requests for it, or SUCCESS.
int ordered_to_fail(const char* function);

extern std::recursive_mutex lock;
extern thread_local bool has_context;
extern bool initialized;
extern unsigned contexts;

// The first statement of every function; ENTER_CONTEXT is for functions that require a context.
#define ENTER(function)                                                     \
    std::lock_guard<std::recursive_mutex> guard(driver::lock);              \
    if (int code = driver::ordered_to_fail(#function)) return code
#define ENTER_CONTEXT(function)                                             \
    ENTER(function);                                                        \
    if (!driver::initialized) return driver::NOT_INITIALIZED;               \
    if (!driver::has_context || !driver::contexts) return driver::INVALID_CONTEXT

// driver_memory.cpp
Allocation* find(uint64_t address);
bool in_arena(uint64_t address);
const char* describe(uint64_t address);
// Whether work that is submitted now may access this memory. Reports an error if not.
bool is_alive(uint64_t address, size_t count, const char* what);
bool is_pinned(const void* host, size_t count);
bool is_near_pinned(const void* host, size_t count);
Allocation* reserve(size_t bytes);
void open(Allocation*);
void close(Allocation*);
bool fits(size_t more);
size_t all_memory();
size_t free_memory();
void released_memory(size_t keep);
extern uint64_t threshold; // bytes that the pool keeps at a synchronization
void report_memory();
extern size_t graphs_used, graphs_reserved, graphs_used_high, graphs_reserved_high;

// driver_stream.cpp
Stream* stream_of(void* handle);
extern Stream* capturing; // the stream that is captured, or null
// Invalidates the capture, as a forbidden call does, and returns the code.
int forbidden_while_capturing(int code);
// Whether this thread must not make calls that could synchronize.
bool captures_here();
int enqueue(Stream*, Operation);
void drain(Stream*);
void drain_all();
extern const Operation* running;
extern unsigned long kernels_of_candle, kernels_alone, kernels_of_graphs, graph_launches, captures;

// driver_kernels.cpp
int run_kernel(const Operation&);

} // namespace driver
