// Device memory and pinned memory, the memory pool and the memory of graphs.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"

namespace driver {

static const size_t PAGE = 4096, ARENA = (size_t)1 << 38, BLOCK = 2 << 20;
static const uint8_t NAN_BYTE = 0xff; // values of these bytes are NaN in every float type
// The kernels need an alignment of 16 bytes. A greater alignment would hide reads past the end.
static const size_t ALIGNMENT = 16;

static uint64_t arena, next_page;
static std::map<uint64_t, std::unique_ptr<Allocation>> allocations; // by `page`
static std::map<uint64_t, size_t> pinned;
static size_t used, used_high, reserved, reserved_high;
static size_t leaving; // bytes that pending work will free
uint64_t threshold;
size_t graphs_used, graphs_reserved, graphs_used_high, graphs_reserved_high;

static size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

size_t all_memory() { return setting("MEMORY", (uint64_t)8 << 30); }
size_t free_memory() {
    size_t taken = reserved + graphs_reserved;
    return taken < all_memory() ? all_memory() - taken : 0;
}
bool fits(size_t more) { return more <= free_memory(); }

bool in_arena(uint64_t address) { return arena && address >= arena && address < next_page; }

Allocation* find(uint64_t address) {
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return nullptr;
    Allocation* found = std::prev(after)->second.get();
    return address < found->page + found->pages + PAGE ? found : nullptr;
}

const char* describe(uint64_t address) {
    static char text[200];
    Allocation* found = find(address);
    if (!found)
        snprintf(text, sizeof text, "%#lx, which is not device memory", (unsigned long)address);
    else
        snprintf(text, sizeof text, "byte %ld of %s memory of %zu bytes%s", (long)(address - found->begin),
                 found->open ? "live" : found->lives ? "not yet allocated" : "freed", found->bytes,
                 found->graph ? " of a graph" : "");
    return text;
}

bool is_alive(uint64_t address, size_t count, const char* what) {
    Allocation* found = find(address);
    if (found && found->lives && address >= found->begin && address + count <= found->begin + found->bytes) return true;
    complain("%s of %zu bytes at %s", what, count, describe(address));
    return false;
}

// Reports an invalid access on SIGSEGV and exits.
static void outside(int, siginfo_t* info, void*) {
    uint64_t address = (uint64_t)info->si_addr;
    bool in_kernel = running && running->kind == Operation::KERNEL;
    const char* kernel = in_kernel ? running->function->name.c_str() : "the program";
    fprintf(stderr, "fake CUDA driver: invalid access by %s to %s\n", kernel, describe(address));
    _exit(98);
}

Allocation* reserve(size_t bytes) {
    if (!arena) {
        // A range of addresses that pairs of integers rarely match.
        void* wanted = (void*)0x6b4d00000000;
        void* found = mmap(wanted, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found == MAP_FAILED) return nullptr;
        arena = (uint64_t)found;
        next_page = arena + PAGE;
        struct sigaction action = {};
        action.sa_sigaction = outside;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, nullptr);
    }
    size_t pages = rounded(bytes, PAGE);
    uint64_t begin = next_page + pages - rounded(bytes, ALIGNMENT);
    if (next_page + pages + PAGE > arena + ARENA) return nullptr;
    Allocation made = {begin, bytes, next_page, pages, true, false, nullptr};
    next_page += pages + PAGE;
    return (allocations[made.page] = std::make_unique<Allocation>(made)).get();
}

void open(Allocation* allocation) {
    if (mprotect((void*)allocation->page, allocation->pages, PROT_READ | PROT_WRITE)) {
        fprintf(stderr, "fake CUDA driver: out of memory\n");
        abort();
    }
    memset((void*)allocation->page, NAN_BYTE, allocation->pages);
    allocation->open = true;
}

void close(Allocation* allocation) {
    const uint8_t* bytes = (const uint8_t*)allocation->page;
    size_t first = allocation->begin - allocation->page, end = first + allocation->bytes;
    for (size_t i = 0; i < allocation->pages; i++) {
        if (i == first) i = end;
        if (i == allocation->pages || bytes[i] == NAN_BYTE) continue;
        complain("invalid write to %s", describe(allocation->page + i));
        break;
    }
    allocation->open = false;
    if (!allocation->graph) leaving -= allocation->bytes;
    madvise((void*)allocation->page, allocation->pages, MADV_DONTNEED);
    mprotect((void*)allocation->page, allocation->pages, PROT_NONE);
}

// Returns the unused memory of the pool to the system, except for `keep` bytes.
void released_memory(size_t keep) {
    size_t least = rounded(used + leaving, BLOCK);
    if (least < keep) least = keep;
    if (least < reserved) reserved = least;
}

static int reserve_in_pool(size_t bytes) {
    size_t needed = rounded(used + bytes, BLOCK);
    if (needed > reserved) {
        if (needed - reserved > free_memory()) return OUT_OF_MEMORY;
        reserved = needed;
    }
    used += bytes;
    if (used > used_high) used_high = used;
    if (reserved > reserved_high) reserved_high = reserved;
    return SUCCESS;
}

bool is_pinned(const void* host, size_t count) {
    auto after = pinned.upper_bound((uint64_t)host);
    if (after == pinned.begin()) return false;
    auto found = std::prev(after);
    return (uint64_t)host + count <= found->first + found->second;
}

bool is_near_pinned(const void* host, size_t count) {
    for (auto& [begin, bytes] : pinned)
        if ((uint64_t)host < begin + bytes && (uint64_t)host + count > begin) return true;
    return false;
}

void report_memory() {
    size_t count = 0, bytes = 0;
    for (auto& [_, allocation] : allocations)
        if (allocation->lives && !allocation->graph) count++, bytes += allocation->bytes;
    if (count) complain("%zu allocations of %zu bytes in total were not freed at exit", count, bytes);
    if (!pinned.empty()) complain("%zu pinned allocations were not freed at exit", pinned.size());
    if (setting("REPORT"))
        fprintf(stderr, "fake CUDA driver: peak %zu bytes used, %zu reserved; graphs %zu used, %zu reserved\n",
                used_high, reserved_high, graphs_used_high, graphs_reserved_high);
}

} // namespace driver

using namespace driver;

API int cuMemAllocAsync(uint64_t* address, size_t bytes, void* handle) {
    ENTER_CONTEXT(cuMemAllocAsync);
    if (!setting("POOLS", 1)) return NOT_SUPPORTED;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (!address || !bytes) return INVALID_VALUE;
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    bool captured = stream->capture == Stream::ACTIVE;
    if (!captured)
        if (int code = reserve_in_pool(bytes)) return code;
    Allocation* made = reserve(bytes);
    if (!made) return OUT_OF_MEMORY;
    if (captured) made->graph = stream->graph, stream->graph->allocations.push_back(made);
    Operation operation = {};
    operation.kind = Operation::ALLOCATE;
    operation.allocation = made;
    *address = made->begin;
    return enqueue(stream, operation);
}

API int cuMemFreeAsync(uint64_t address, void* handle) {
    ENTER_CONTEXT(cuMemFreeAsync);
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    Allocation* found = find(address);
    if (!found || found->begin != address) {
        complain("invalid free of %s", describe(address));
        return INVALID_VALUE;
    }
    if (!found->lives) {
        complain("double free of %s", describe(address));
        return INVALID_VALUE;
    }
    if (stream->capture == Stream::ACTIVE && found->graph != stream->graph) {
        complain("free during a capture of memory that the graph does not own: %s", describe(address));
        return forbidden_while_capturing(INVALID_VALUE);
    }
    found->lives = false;
    if (!found->graph) used -= found->bytes, leaving += found->bytes;
    else if (stream->capture == Stream::NONE) graphs_used -= found->bytes;
    Operation operation = {};
    operation.kind = Operation::FREE;
    operation.allocation = found;
    return enqueue(stream, operation);
}

API int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    ENTER_CONTEXT(cuMemAlloc_v2);
    if (captures_here()) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    if (!address || !bytes) return INVALID_VALUE;
    if (int code = reserve_in_pool(bytes)) return code;
    Allocation* made = reserve(bytes);
    if (!made) return OUT_OF_MEMORY;
    open(made);
    *address = made->begin;
    return SUCCESS;
}

API int cuMemFree_v2(uint64_t address) {
    ENTER_CONTEXT(cuMemFree_v2);
    if (captures_here()) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    drain_all();
    Allocation* found = find(address);
    if (!found || found->begin != address || !found->lives || !found->open) {
        complain("invalid free of %s", describe(address));
        return INVALID_VALUE;
    }
    found->lives = false;
    (found->graph ? graphs_used : used) -= found->bytes;
    if (!found->graph) leaving += found->bytes;
    close(found);
    return SUCCESS;
}

API int cuMemHostAlloc(void** host, size_t bytes, unsigned flags) {
    ENTER_CONTEXT(cuMemHostAlloc);
    if (captures_here()) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    if (!host || !bytes || flags > 7) return INVALID_VALUE;
    void* made = mmap(nullptr, rounded(bytes, PAGE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) return OUT_OF_MEMORY;
    pinned[(uint64_t)made] = bytes;
    *host = made;
    return SUCCESS;
}

API int cuMemFreeHost(void* host) {
    ENTER_CONTEXT(cuMemFreeHost);
    if (captures_here()) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    auto found = pinned.find((uint64_t)host);
    if (found == pinned.end()) {
        complain("invalid free of pinned memory");
        return INVALID_VALUE;
    }
    drain_all();
    munmap(host, rounded(found->second, PAGE));
    pinned.erase(found);
    return SUCCESS;
}

API int cuMemGetInfo_v2(size_t* available, size_t* total) {
    ENTER_CONTEXT(cuMemGetInfo_v2);
    if (!available || !total) return INVALID_VALUE;
    *available = free_memory();
    *total = all_memory();
    return SUCCESS;
}

static int the_pool;

static int get_pool(void** pool, int device) {
    if (!initialized) return NOT_INITIALIZED;
    if (device != 0) return INVALID_DEVICE;
    if (!setting("POOLS", 1)) return NOT_SUPPORTED;
    if (!pool) return INVALID_VALUE;
    *pool = &the_pool;
    return SUCCESS;
}
API int cuDeviceGetDefaultMemPool(void** pool, int device) {
    ENTER(cuDeviceGetDefaultMemPool);
    return get_pool(pool, device);
}
API int cuDeviceGetMemPool(void** pool, int device) {
    ENTER(cuDeviceGetMemPool);
    return get_pool(pool, device);
}

API int cuMemPoolSetAttribute(void* pool, int attribute, void* value) {
    ENTER(cuMemPoolSetAttribute);
    if (pool != &the_pool) return INVALID_HANDLE;
    if (!value) return INVALID_VALUE;
    uint64_t number;
    memcpy(&number, value, 8);
    if (attribute == 4) {
        threshold = number;
        return SUCCESS;
    }
    // High-water marks can only be reset, by setting them to zero.
    if ((attribute != 6 && attribute != 8) || number) return INVALID_VALUE;
    (attribute == 6 ? reserved_high : used_high) = attribute == 6 ? reserved : used;
    return SUCCESS;
}

API int cuMemPoolGetAttribute(void* pool, int attribute, void* value) {
    ENTER(cuMemPoolGetAttribute);
    if (pool != &the_pool) return INVALID_HANDLE;
    if (attribute < 4 || attribute > 8 || !value) return INVALID_VALUE;
    uint64_t numbers[] = {threshold, reserved, reserved_high, used, used_high};
    memcpy(value, &numbers[attribute - 4], 8);
    return SUCCESS;
}

API int cuMemPoolTrimTo(void* pool, size_t keep) {
    ENTER(cuMemPoolTrimTo);
    if (pool != &the_pool) return INVALID_HANDLE;
    released_memory(keep);
    return SUCCESS;
}

API int cuDeviceGetGraphMemAttribute(int device, int attribute, void* value) {
    ENTER(cuDeviceGetGraphMemAttribute);
    if (device != 0) return INVALID_DEVICE;
    if (attribute < 0 || attribute > 3 || !value) return INVALID_VALUE;
    uint64_t numbers[] = {graphs_used, graphs_used_high, graphs_reserved, graphs_reserved_high};
    memcpy(value, &numbers[attribute], 8);
    return SUCCESS;
}
