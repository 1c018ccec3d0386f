// A CUDA driver whose card is the emulation, so that what a program asks of the driver is tested without a card: see
// run_driver.py. It has the functions that src/render/cuda and what it is built on call, and refuses what NVIDIA's
// driver would refuse, or may refuse.
//
// Nothing happens when it is asked for: a stream's work is done when the program waits for it, as late as on the
// slowest card. Memory lies between pages that nobody may touch, and no address is used twice.
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

// Memory of the card.
struct Allocation {
    uint64_t begin;
    size_t bytes;
    uint64_t page;    // where its pages begin, between two that are closed
    size_t pages;     // bytes of them
    bool lives;       // for who asks now: it was asked for, and nobody asked to free it
    bool open;        // for the work that has been done so far
    Graph* graph;     // that it belongs to
};

struct Function {
    std::string name;
    size_t parameters;
    unsigned most_threads;
    unsigned most_shared; // that a launch may ask for
    size_t element;       // of candle's copy2d; 0 where it is one of the emulation's
};

struct Event {
    bool pending;     // recorded, and not reached yet
    bool captured;    // recorded by a stream that was being captured
    Stream* stream;
};

struct Operation {
    enum Kind { KERNEL, COPY, SET, ALLOCATE, FREE, RECORD } kind;
    Function* function;
    unsigned grid[3], threads, shared;
    std::vector<uint8_t> bytes; // parameters, or what a copy brings from memory that is not pinned
    void* to;
    const void* from;           // null where `bytes` are copied
    size_t count;
    uint8_t value;
    Allocation* allocation;
    Event* event;
};

struct Stream {
    std::deque<Operation> work;
    enum { NONE = 0, ACTIVE = 1, INVALIDATED = 2 } capture;
    Graph* graph; // that is being captured
    unsigned long thread;
    unsigned mode;
};

struct Graph {
    std::vector<Operation> work;
    std::vector<Allocation*> allocations;
    size_t most; // bytes that its work holds at a time
    bool instantiated;
};

struct Executable {
    Graph* graph;
    std::vector<Operation> work;
    std::vector<Allocation*> allocations;
    size_t most;
    bool frees_on_launch, uploaded;
};

// What is wrong with the program that uses the driver. It is said at once, and the program's exit status is 99.
void complain(const char* format, ...) __attribute__((format(printf, 1, 2)));

// A setting of the card, EMULATED_CUDA_<name>.
const char* setting(const char* name);
uint64_t setting(const char* name, uint64_t otherwise);

// Whether this call is one that the settings make fail, and with which code.
int ordered_to_fail(const char* function);

extern std::recursive_mutex lock;
extern thread_local bool has_context;
extern bool initialized;
extern unsigned contexts;

// What every function begins with. The second one is for those that need a context.
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
// Whether all of it may be read and written by work that is asked for now.
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
extern uint64_t threshold; // what a pool keeps when the program waits for the card
void report_memory();
extern size_t graphs_used, graphs_reserved, graphs_used_high, graphs_reserved_high;

// driver_stream.cpp
Stream* stream_of(void* handle);
extern Stream* capturing; // the one stream that is
// Makes a capture useless, as a forbidden call does.
int forbidden_while_capturing(int code);
// Where this thread must not do what could wait for the card.
bool captures_here();
int enqueue(Stream*, Operation);
void drain(Stream*);
void drain_all();
extern const Operation* running;
extern unsigned long kernels_of_candle, kernels_alone, kernels_of_graphs, graph_launches, captures;

// driver_kernels.cpp
int run_kernel(const Operation&);

} // namespace driver
