// Streams and events. Work is captured, or deferred until the program waits for it.
#include <pthread.h>

#include "driver.h"

namespace driver {

static std::set<Stream*> streams;
static std::set<Event*> events;
static Stream the_default;
Stream* capturing;
const Operation* running;
unsigned long kernels_alone, kernels_of_graphs, captures;

Stream* stream_of(void* handle) {
    // 0, 1 and 2 are the handles of the default stream.
    if ((uintptr_t)handle <= 2) return &the_default;
    Stream* stream = (Stream*)handle;
    return streams.count(stream) ? stream : nullptr;
}

int forbidden_while_capturing(int code) {
    if (capturing && capturing->capture == Stream::ACTIVE) capturing->capture = Stream::INVALIDATED;
    return code;
}

bool captures_here() {
    const unsigned RELAXED = 2, GLOBAL = 0;
    if (!capturing || capturing->capture == Stream::NONE || capturing->mode == RELAXED) return false;
    return capturing->mode == GLOBAL || capturing->thread == pthread_self();
}

int enqueue(Stream* stream, Operation operation) {
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    // Work on the default stream would implicitly wait for the captured stream.
    if (stream == &the_default && captures_here()) return forbidden_while_capturing(CAPTURE_IMPLICIT);
    if (stream->capture == Stream::ACTIVE)
        stream->graph->work.push_back(std::move(operation));
    else
        stream->work.push_back(std::move(operation));
    return SUCCESS;
}

static void perform(Operation& operation) {
    running = &operation;
    switch (operation.kind) {
    case Operation::KERNEL: run_kernel(operation); break;
    case Operation::COPY:
        memcpy(operation.to, operation.from ? operation.from : operation.bytes.data(), operation.count);
        break;
    case Operation::SET: memset(operation.to, operation.value, operation.count); break;
    case Operation::ALLOCATE: open(operation.allocation); break;
    case Operation::FREE: close(operation.allocation); break;
    case Operation::RECORD: operation.event->pending = false; break;
    }
    running = nullptr;
}

static void drain_until(Stream* stream, Event* event) {
    while (!stream->work.empty() && (!event || event->pending)) {
        perform(stream->work.front());
        stream->work.pop_front();
    }
}

void drain(Stream* stream) { drain_until(stream, nullptr); }
void drain_all() {
    drain(&the_default);
    for (Stream* stream : streams) drain(stream);
}

// A copy between the CPU and the device, or on the device. Reads CPU memory at once if it is not pinned.
static int copy(Stream* stream, void* to, const void* from, size_t count, bool to_host, bool from_host, bool waits) {
    if (!count) return SUCCESS;
    if (!to || !from) return INVALID_VALUE;
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    if (waits && captures_here()) return forbidden_while_capturing(CAPTURE_IMPLICIT);
    if (!to_host && !is_alive((uint64_t)to, count, "copy to device memory")) return INVALID_VALUE;
    if (!from_host && !is_alive((uint64_t)from, count, "copy from device memory")) return INVALID_VALUE;
    const void* host = to_host ? to : from_host ? from : nullptr;
    if (host && in_arena((uint64_t)host)) complain("device memory as the CPU side of a copy: %s", describe((uint64_t)host));
    bool is_fast = !host || is_pinned(host, count);
    if (!is_fast && is_near_pinned(host, count)) complain("a copy of %zu bytes extends beyond pinned memory", count);
    Operation operation = {};
    operation.kind = Operation::COPY;
    operation.to = to;
    operation.from = from;
    operation.count = count;
    if (!is_fast) {
        if (stream->capture == Stream::ACTIVE) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
        if (from_host) {
            operation.bytes.assign((const uint8_t*)from, (const uint8_t*)from + count);
            operation.from = nullptr;
        }
    }
    int code = enqueue(stream, std::move(operation));
    if (!code && (waits || (to_host && !is_fast))) drain(stream);
    return code;
}

static int set(Stream* stream, uint64_t to, uint8_t value, size_t count, bool waits) {
    if (!count) return SUCCESS;
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    if (waits && captures_here()) return forbidden_while_capturing(CAPTURE_IMPLICIT);
    if (!is_alive(to, count, "memset")) return INVALID_VALUE;
    Operation operation = {};
    operation.kind = Operation::SET;
    operation.to = (void*)to;
    operation.value = value;
    operation.count = count;
    int code = enqueue(stream, operation);
    if (!code && waits) drain(stream);
    return code;
}

} // namespace driver

using namespace driver;

static int make_stream(void** handle, unsigned flags) {
    if (!handle || flags > 1) return INVALID_VALUE;
    Stream* made = new Stream();
    streams.insert(made);
    *handle = made;
    return SUCCESS;
}
API int cuStreamCreate(void** handle, unsigned flags) {
    ENTER_CONTEXT(cuStreamCreate);
    return make_stream(handle, flags);
}
API int cuStreamCreateWithPriority(void** handle, unsigned flags, int) {
    ENTER_CONTEXT(cuStreamCreateWithPriority);
    return make_stream(handle, flags);
}

API int cuStreamDestroy_v2(void* handle) {
    ENTER_CONTEXT(cuStreamDestroy_v2);
    Stream* stream = stream_of(handle);
    if (!stream || stream == &the_default) return INVALID_HANDLE;
    if (stream->capture != Stream::NONE) {
        complain("a stream was destroyed during its capture");
        capturing = nullptr;
    }
    drain(stream);
    streams.erase(stream);
    for (Event* event : events)
        if (event->stream == stream) event->stream = nullptr;
    delete stream;
    return SUCCESS;
}

API int cuStreamSynchronize(void* handle) {
    ENTER_CONTEXT(cuStreamSynchronize);
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    if (stream->capture == Stream::ACTIVE) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    drain(stream);
    released_memory(threshold);
    return SUCCESS;
}

API int cuCtxSynchronize() {
    ENTER_CONTEXT(cuCtxSynchronize);
    if (capturing) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    drain_all();
    released_memory(threshold);
    return SUCCESS;
}

API int cuStreamWaitEvent(void* handle, Event* event, unsigned flags) {
    ENTER_CONTEXT(cuStreamWaitEvent);
    Stream* stream = stream_of(handle);
    if (!stream || !events.count(event)) return INVALID_HANDLE;
    if (flags > 1) return INVALID_VALUE;
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    if (stream->capture == Stream::ACTIVE && !event->captured && event->stream)
        return forbidden_while_capturing(CAPTURE_ISOLATION);
    if (event->pending && event->stream && event->stream != stream) drain_until(event->stream, event);
    return SUCCESS;
}

API int cuStreamBeginCapture_v2(void* handle, unsigned mode) {
    ENTER_CONTEXT(cuStreamBeginCapture_v2);
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream == &the_default) return CAPTURE_UNSUPPORTED;
    if (mode > 2 || stream->capture != Stream::NONE) return INVALID_VALUE;
    stream->capture = Stream::ACTIVE;
    stream->graph = new Graph();
    stream->mode = mode;
    stream->thread = pthread_self();
    capturing = stream;
    captures++;
    return SUCCESS;
}

API int cuStreamEndCapture(void* handle, Graph** graph) {
    ENTER_CONTEXT(cuStreamEndCapture);
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (!graph) return INVALID_VALUE;
    *graph = nullptr;
    if (stream->capture == Stream::NONE) return ILLEGAL_STATE;
    if (stream->mode != 2 && stream->thread != pthread_self()) return CAPTURE_WRONG_THREAD;
    bool whole = stream->capture == Stream::ACTIVE;
    stream->capture = Stream::NONE;
    capturing = nullptr;
    for (Event* event : events)
        if (event->captured) event->captured = false, event->stream = nullptr;
    if (!whole) {
        // The allocations of an invalidated capture no longer exist.
        for (Allocation* allocation : stream->graph->allocations) allocation->lives = false;
        return CAPTURE_INVALIDATED;
    }
    size_t now = 0;
    for (const Operation& operation : stream->graph->work) {
        if (operation.kind == Operation::ALLOCATE) now += operation.allocation->bytes;
        if (operation.kind == Operation::FREE) now -= operation.allocation->bytes;
        if (now > stream->graph->most) stream->graph->most = now;
    }
    *graph = stream->graph;
    return SUCCESS;
}

API int cuStreamIsCapturing(void* handle, int* status) {
    ENTER_CONTEXT(cuStreamIsCapturing);
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (!status) return INVALID_VALUE;
    if (stream == &the_default && captures_here()) return CAPTURE_IMPLICIT;
    *status = stream->capture;
    return SUCCESS;
}

API int cuEventCreate(Event** event, unsigned flags) {
    ENTER_CONTEXT(cuEventCreate);
    if (!event || flags > 7) return INVALID_VALUE;
    *event = new Event();
    events.insert(*event);
    return SUCCESS;
}

API int cuEventDestroy_v2(Event* event) {
    ENTER_CONTEXT(cuEventDestroy_v2);
    if (!events.count(event)) return INVALID_HANDLE;
    if (event->pending && event->stream) drain_until(event->stream, event);
    events.erase(event);
    delete event;
    return SUCCESS;
}

API int cuEventRecord(Event* event, void* handle) {
    ENTER_CONTEXT(cuEventRecord);
    Stream* stream = stream_of(handle);
    if (!stream || !events.count(event)) return INVALID_HANDLE;
    if (stream->capture == Stream::INVALIDATED) return CAPTURE_INVALIDATED;
    // Only the last record of an event counts.
    if (event->pending && event->stream) drain_until(event->stream, event);
    event->stream = stream;
    event->captured = stream->capture == Stream::ACTIVE;
    if (event->captured) return SUCCESS;
    event->pending = true;
    Operation operation = {};
    operation.kind = Operation::RECORD;
    operation.event = event;
    return enqueue(stream, operation);
}

API int cuEventSynchronize(Event* event) {
    ENTER_CONTEXT(cuEventSynchronize);
    if (!events.count(event)) return INVALID_HANDLE;
    if (event->captured) return forbidden_while_capturing(CAPTURED_EVENT);
    if (event->pending && event->stream) drain_until(event->stream, event);
    return SUCCESS;
}

API int cuEventQuery(Event* event) {
    ENTER_CONTEXT(cuEventQuery);
    if (!events.count(event)) return INVALID_HANDLE;
    if (event->captured) return forbidden_while_capturing(CAPTURED_EVENT);
    if (!event->pending) return SUCCESS;
    drain_until(event->stream, event);
    return NOT_READY;
}

#define COPY_FUNCTION(name, To, From, to_host, from_host)                                              \
    API int cuMemcpy##name##Async_v2(To to, From from, size_t count, void* handle) {                   \
        ENTER_CONTEXT(cuMemcpy##name##Async_v2);                                                       \
        Stream* stream = stream_of(handle);                                                            \
        if (!stream) return INVALID_HANDLE;                                                            \
        return copy(stream, (void*)to, (const void*)from, count, to_host, from_host, false);           \
    }                                                                                                  \
    API int cuMemcpy##name##_v2(To to, From from, size_t count) {                                      \
        ENTER_CONTEXT(cuMemcpy##name##_v2);                                                            \
        return copy(&the_default, (void*)to, (const void*)from, count, to_host, from_host, true);      \
    }
COPY_FUNCTION(HtoD, uint64_t, const void*, false, true)
COPY_FUNCTION(DtoH, void*, uint64_t, true, false)
COPY_FUNCTION(DtoD, uint64_t, uint64_t, false, false)

API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t count, void* handle) {
    ENTER_CONTEXT(cuMemsetD8Async);
    Stream* stream = stream_of(handle);
    return stream ? set(stream, to, value, count, false) : INVALID_HANDLE;
}
API int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t count) {
    ENTER_CONTEXT(cuMemsetD8_v2);
    return set(&the_default, to, value, count, true);
}
