// Graphs: captured work that can be run repeatedly.
#include "driver.h"

namespace driver {

static std::set<Graph*> graphs;
static std::set<Executable*> executables;
unsigned long graph_launches;

// Reserves the memory of a graph. The graphs of a stream run one after another and share their memory, which remains
// reserved when a graph is destroyed.
static int reserve_memory(Executable* executable) {
    if (executable->most > graphs_reserved) {
        if (!fits(executable->most - graphs_reserved)) {
            released_memory(0);
            if (!fits(executable->most - graphs_reserved)) return OUT_OF_MEMORY;
        }
        graphs_reserved = executable->most;
    }
    if (graphs_reserved > graphs_reserved_high) graphs_reserved_high = graphs_reserved;
    executable->uploaded = true;
    return SUCCESS;
}

} // namespace driver

using namespace driver;

API int cuGraphInstantiateWithFlags(Executable** executable, Graph* graph, unsigned long long flags) {
    ENTER_CONTEXT(cuGraphInstantiateWithFlags);
    const unsigned FREES = 1, UPLOADS = 2, BY_THE_DEVICE = 4;
    if (!executable || !graph || flags > 15) return INVALID_VALUE;
    if ((flags & BY_THE_DEVICE) && (flags & FREES)) return INVALID_VALUE;
    // A graph with allocations can have only one instance at a time.
    if (graph->instantiated && !graph->allocations.empty()) return INVALID_VALUE;
    graphs.insert(graph);
    graph->instantiated = true;
    Executable made = {graph, graph->work, graph->allocations, graph->most, (flags & FREES) != 0, false};
    if (flags & UPLOADS)
        if (int code = reserve_memory(&made)) return code;
    *executable = new Executable(made);
    executables.insert(*executable);
    return SUCCESS;
}

API int cuGraphUpload(Executable* executable, void* handle) {
    ENTER_CONTEXT(cuGraphUpload);
    Stream* stream = stream_of(handle);
    if (!stream || !executables.count(executable)) return INVALID_HANDLE;
    if (stream->capture != Stream::NONE) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    return reserve_memory(executable);
}

API int cuGraphLaunch(Executable* executable, void* handle) {
    ENTER_CONTEXT(cuGraphLaunch);
    Stream* stream = stream_of(handle);
    if (!stream || !executables.count(executable)) return INVALID_HANDLE;
    // A graph with allocations cannot be part of another graph.
    if (stream->capture != Stream::NONE) return forbidden_while_capturing(CAPTURE_UNSUPPORTED);
    if (int code = reserve_memory(executable)) return code;
    for (Allocation* allocation : executable->allocations) {
        if (!allocation->lives) continue;
        if (!executable->frees_on_launch) return INVALID_VALUE;
        allocation->lives = false;
        graphs_used -= allocation->bytes;
        Operation operation = {};
        operation.kind = Operation::FREE;
        operation.allocation = allocation;
        stream->work.push_back(operation);
    }
    graph_launches++;
    for (const Operation& operation : executable->work) {
        if (operation.kind == Operation::ALLOCATE) {
            operation.allocation->lives = true;
            graphs_used += operation.allocation->bytes;
            if (graphs_used > graphs_used_high) graphs_used_high = graphs_used;
        }
        if (operation.kind == Operation::FREE) {
            operation.allocation->lives = false;
            graphs_used -= operation.allocation->bytes;
        }
        if (operation.kind == Operation::KERNEL) kernels_of_graphs++;
        stream->work.push_back(operation);
    }
    return SUCCESS;
}

API int cuGraphExecDestroy(Executable* executable) {
    ENTER_CONTEXT(cuGraphExecDestroy);
    if (!executables.erase(executable)) return INVALID_HANDLE;
    if (graphs.count(executable->graph)) executable->graph->instantiated = false;
    delete executable;
    return SUCCESS;
}

API int cuGraphDestroy(Graph* graph) {
    ENTER_CONTEXT(cuGraphDestroy);
    if (!graph) return INVALID_VALUE;
    // Not deleted, because messages may still refer to its addresses.
    graphs.erase(graph);
    return SUCCESS;
}

API int cuDeviceGraphMemTrim(int device) {
    ENTER(cuDeviceGraphMemTrim);
    if (device != 0) return INVALID_DEVICE;
    size_t needed = 0;
    for (Executable* executable : executables)
        if (executable->uploaded && executable->most > needed) needed = executable->most;
    if (needed < graphs_reserved) graphs_reserved = needed;
    return SUCCESS;
}
