// Modules, functions and kernel launches.
#include <dlfcn.h>
#include <sys/mman.h>

#include "driver.h"

extern "C" int emulate(const char* name, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned shared,
                       const void* params, unsigned mode);

namespace driver {

static const unsigned SHARED = 48 << 10, MOST_SHARED = 99 << 10;
static std::map<std::string, std::unique_ptr<Function>> functions;
static std::map<int*, bool> modules; // true for the program's kernels, false for candle's
unsigned long kernels_of_candle;

// The limits of a kernel, which KERNEL in emulation.h defines. Null if there is no such kernel.
static const unsigned* limits_of(const std::string& name) {
    Dl_info info;
    if (!dladdr((void*)emulate, &info)) return nullptr;
    void* library = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    const unsigned* found = library ? (const unsigned*)dlsym(library, (name + "_limits").c_str()) : nullptr;
    if (library) dlclose(library);
    return found;
}

// Whether a word is the address of mapped CPU memory.
static bool is_of_cpu(uint64_t word) {
    unsigned char resident;
    return word >> 40 && !(word >> 47) && !mincore((void*)(word & ~(uint64_t)4095), 1, &resident);
}

static Function* function_of(void* handle) {
    for (auto& [_, function] : functions)
        if (function.get() == handle) return function.get();
    return nullptr;
}

// The element size of candle's kernel for concatenating tensors, the only candle kernel that is implemented here. 0 for
// other kernels.
static size_t element_of(const std::string& name) {
    if (name == "copy2d_f16" || name == "copy2d_bf16") return 2;
    return name == "copy2d_f32" || name == "copy2d_u32" ? 4 : name == "copy2d_u8" ? 1 : 0;
}

struct Copy2d {
    const uint8_t* from;
    uint8_t* to;
    uint32_t rows, columns, from_step, to_step;
};

int run_kernel(const Operation& operation) {
    if (size_t size = operation.function->element) {
        Copy2d copy;
        memcpy(&copy, operation.bytes.data(), sizeof copy);
        for (size_t row = 0; row < copy.rows; row++)
            memcpy(copy.to + row * copy.to_step * size, copy.from + row * copy.from_step * size, copy.columns * size);
        return SUCCESS;
    }
    static const unsigned mode = setting("MODE", 0);
    const unsigned* grid = operation.grid;
    int code = emulate(operation.function->name.c_str(), grid[0], grid[1], grid[2], operation.threads, operation.shared,
                       operation.bytes.data(), mode);
    if (code) complain("the emulation cannot run %s: code %d", operation.function->name.c_str(), code);
    return code;
}

} // namespace driver

using namespace driver;

API int cuModuleLoadData(int** module, const void* image) {
    ENTER_CONTEXT(cuModuleLoadData);
    if (!module || !image) return INVALID_VALUE;
    if (captures_here()) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    // Either the fat binary of the program's kernels, which the emulation replaces, or PTX of candle.
    const uint32_t FAT_BINARY = 0xba55ed50;
    uint32_t magic;
    memcpy(&magic, image, 4);
    bool own = magic == FAT_BINARY;
    if (!own && !strstr((const char*)image, ".target")) return INVALID_IMAGE;
    if (own && setting("CAPABILITY", 90) < 80) return NO_BINARY_FOR_GPU;
    *module = new int;
    modules[*module] = own;
    return SUCCESS;
}

API int cuModuleUnload(int* module) {
    ENTER_CONTEXT(cuModuleUnload);
    if (!modules.erase(module)) return INVALID_HANDLE;
    drain_all();
    delete module;
    return SUCCESS;
}

API int cuModuleGetFunction(void** function, int* module, const char* name) {
    ENTER_CONTEXT(cuModuleGetFunction);
    if (!function || !name) return INVALID_VALUE;
    if (!modules.count(module)) return INVALID_HANDLE;
    bool own = modules[module];
    const unsigned* limits = own ? limits_of(name) : nullptr;
    size_t element = own ? 0 : element_of(name);
    if (!limits && !element) {
        complain("there is no kernel %s", name);
        return NOT_FOUND;
    }
    auto& known = functions[name];
    if (!known && own) known = std::make_unique<Function>(Function{name, limits[0], limits[1], SHARED, 0});
    if (!known) known = std::make_unique<Function>(Function{name, sizeof(Copy2d), 1024, SHARED, element});
    *function = known.get();
    return SUCCESS;
}

API int cuFuncSetAttribute(void* handle, int attribute, int value) {
    ENTER_CONTEXT(cuFuncSetAttribute);
    const int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
    Function* function = function_of(handle);
    if (!function) return INVALID_HANDLE;
    if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || (unsigned)value > MOST_SHARED) return INVALID_VALUE;
    function->most_shared = value;
    return SUCCESS;
}

API int cuLaunchKernel(void* handle, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                       unsigned threads_z, unsigned shared, void* stream_handle, void** parameters, void** extra) {
    ENTER_CONTEXT(cuLaunchKernel);
    Stream* stream = stream_of(stream_handle);
    Function* function = function_of(handle);
    if (!stream || !function) return INVALID_HANDLE;
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    bool grid_fits = x && y && z && x <= 0x7fffffff && y <= 65535 && z <= 65535;
    bool block_fits = threads && threads <= function->most_threads && threads_y == 1 && threads_z == 1;
    if (!grid_fits || !block_fits || shared > function->most_shared || extra || !parameters || !parameters[0]) {
        complain("%s: invalid launch, grid %u x %u x %u, %u threads, %u bytes of shared memory", function->name.c_str(), x, y, z, threads,
                 shared);
        return INVALID_VALUE;
    }
    Operation operation = {};
    operation.kind = Operation::KERNEL;
    operation.function = function;
    operation.grid[0] = x, operation.grid[1] = y, operation.grid[2] = z;
    operation.threads = threads;
    operation.shared = shared;
    operation.bytes.resize(function->parameters);
    uint8_t* bytes = operation.bytes.data();
    if (function->element) {
        const size_t places[] = {0, 8, 16, 20, 24, 28};
        for (int i = 0; i < 6; i++) memcpy(bytes + places[i], parameters[i], i < 2 ? 8 : 4);
        kernels_of_candle++;
    } else {
        memcpy(bytes, parameters[0], function->parameters);
    }
    // Addresses come first in a structure. The last word may be two integers.
    for (size_t i = 0; i + 8 < function->parameters; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, 8);
        if (!in_arena(word)) {
            if (is_of_cpu(word)) complain("%s receives an address of CPU memory", function->name.c_str());
            continue;
        }
        Allocation* found = find(word);
        if (!found || !found->lives || word < found->begin || word >= found->begin + found->bytes)
            complain("%s receives the address of %s", function->name.c_str(), describe(word));
    }
    if (stream->capture == Stream::NONE) kernels_alone++;
    return enqueue(stream, std::move(operation));
}
