// The device, its context, and the report at exit.
#include <stdarg.h>
#include <unistd.h>

#include "driver.h"

namespace driver {

std::recursive_mutex lock;
thread_local bool has_context;
bool initialized;
unsigned contexts;
static unsigned complaints;
static int the_context;

void complain(const char* format, ...) {
    const unsigned MOST = 20; // maximum number of messages to print
    if (++complaints > MOST) return;
    va_list arguments;
    va_start(arguments, format);
    fputs("fake CUDA driver: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

const char* setting(const char* name) {
    const char* text = getenv((std::string("FAKE_CUDA_") + name).c_str());
    return text && *text ? text : nullptr;
}
uint64_t setting(const char* name, uint64_t otherwise) {
    const char* text = setting(name);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}

// FAKE_CUDA_FAIL is a list of failures, separated by commas:
//
//     function=code    each call fails
//     function@3=code  the third call fails
//     function~3=code  the third call during a capture fails
int ordered_to_fail(const char* function) {
    static std::map<std::string, unsigned> calls, captured;
    static const char* text = setting("FAIL");
    if (!text) return SUCCESS;
    unsigned call = ++calls[function], in_capture = capturing ? ++captured[function] : 0;
    for (const char *order = text, *comma; order; order = comma ? comma + 1 : nullptr) {
        comma = strchr(order, ',');
        size_t length = strcspn(order, "@~=");
        if (length != strlen(function) || strncmp(order, function, length)) continue;
        char how = order[length];
        unsigned number = how == '=' ? 0 : strtoul(order + length + 1, nullptr, 10);
        if ((how == '@' && call != number) || (how == '~' && in_capture != number)) continue;
        int code = atoi(strchr(order, '=') + 1);
        return code >= CAPTURE_UNSUPPORTED ? forbidden_while_capturing(code) : code;
    }
    return SUCCESS;
}

static int devices() { return setting("DEVICES", 1); }

// Checks and reports at exit.
struct End {
    ~End() {
        if (!initialized || !devices()) return;
        if (contexts) complain("the context was not released at exit");
        if (capturing) complain("a capture was not ended at exit");
        report_memory();
        if (setting("REPORT"))
            fprintf(stderr,
                    "fake CUDA driver: %lu kernels launched directly, %lu kernels in %lu graph launches, %lu captures, %lu kernels of candle\n",
                    kernels_alone, kernels_of_graphs, graph_launches, captures, kernels_of_candle);
        if (complaints) _exit(99);
    }
};
static End end;

static const struct {
    int code;
    const char *name, *text;
} ERRORS[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};

} // namespace driver

using namespace driver;

API int cuGetErrorName(int code, const char** name) {
    for (auto& error : ERRORS)
        if (error.code == code) return *name = error.name, SUCCESS;
    return *name = nullptr, INVALID_VALUE;
}
API int cuGetErrorString(int code, const char** text) {
    for (auto& error : ERRORS)
        if (error.code == code) return *text = error.text, SUCCESS;
    return *text = nullptr, INVALID_VALUE;
}

API int cuInit(unsigned flags) {
    ENTER(cuInit);
    if (flags) return INVALID_VALUE;
    if (!devices()) return NO_DEVICE;
    initialized = true;
    return SUCCESS;
}

API int cuDeviceGetCount(int* count) {
    ENTER(cuDeviceGetCount);
    if (!initialized) return NOT_INITIALIZED;
    *count = devices();
    return SUCCESS;
}

API int cuDeviceGet(int* device, int number) {
    ENTER(cuDeviceGet);
    if (!initialized) return NOT_INITIALIZED;
    if (number < 0 || number >= devices()) return INVALID_DEVICE;
    *device = number;
    return SUCCESS;
}

API int cuDeviceGetName(char* name, int room, int device) {
    ENTER(cuDeviceGetName);
    if (device != 0) return INVALID_DEVICE;
    snprintf(name, room, "Emulated GPU");
    return SUCCESS;
}

API int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ENTER(cuDeviceTotalMem_v2);
    if (device != 0) return INVALID_DEVICE;
    *bytes = all_memory();
    return SUCCESS;
}

API int cuDeviceGetAttribute(int* value, int attribute, int device) {
    ENTER(cuDeviceGetAttribute);
    if (!initialized) return NOT_INITIALIZED;
    if (device != 0) return INVALID_DEVICE;
    int capability = setting("CAPABILITY", 90);
    switch (attribute) {
    case 1: *value = 1024; return SUCCESS;      // maximum threads of a block
    case 8: *value = 48 << 10; return SUCCESS;  // shared memory of a block, by default
    case 10: *value = 32; return SUCCESS;       // threads of a warp
    case 16: *value = setting("MULTIPROCESSORS", 4); return SUCCESS;
    case 75: *value = capability / 10; return SUCCESS;
    case 76: *value = capability % 10; return SUCCESS;
    case 97: *value = 99 << 10; return SUCCESS; // shared memory of a block, opt-in maximum
    case 115: *value = setting("POOLS", 1); return SUCCESS;
    default: complain("the device attribute %d is not implemented", attribute); return INVALID_VALUE;
    }
}

API int cuDevicePrimaryCtxRetain(void** context, int device) {
    ENTER(cuDevicePrimaryCtxRetain);
    if (!initialized) return NOT_INITIALIZED;
    if (device != 0) return INVALID_DEVICE;
    contexts++;
    *context = &the_context;
    return SUCCESS;
}

API int cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER(cuDevicePrimaryCtxRelease_v2);
    if (device != 0) return INVALID_DEVICE;
    if (!contexts) return INVALID_CONTEXT;
    if (--contexts == 0) drain_all();
    return SUCCESS;
}

API int cuCtxGetCurrent(void** context) {
    ENTER(cuCtxGetCurrent);
    if (!initialized) return NOT_INITIALIZED;
    *context = has_context ? &the_context : nullptr;
    return SUCCESS;
}

API int cuCtxSetCurrent(void* context) {
    ENTER(cuCtxSetCurrent);
    if (!initialized) return NOT_INITIALIZED;
    if (context && (context != &the_context || !contexts)) return INVALID_CONTEXT;
    has_context = context != nullptr;
    return SUCCESS;
}
