// A CUDA driver and a HIP runtime that do nothing but write down what they are called with.
// Compiled with -DWITH_CUDA_HEADER the prototypes are checked against the real cuda.h.
#include <cstdint>
#include <cstring>
#ifdef WITH_CUDA_HEADER
#include <cuda.h>
#else
typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef int CUdevice_attribute;
typedef int CUfunction_attribute;
typedef int CUstreamCaptureStatus;
typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;
struct alignas(128) CUtensorMap { uint64_t opaque[16]; };
typedef int CUtensorMapDataType;
typedef int CUtensorMapInterleave;
typedef int CUtensorMapSwizzle;
typedef int CUtensorMapL2promotion;
typedef int CUtensorMapFloatOOBfill;
struct CUlaunchAttribute { int id; char pad[4]; union { char pad[64]; struct { unsigned x, y, z; } clusterDim; int programmaticStreamSerializationAllowed; } value; };
struct CUlaunchConfig {
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    CUstream hStream;
    CUlaunchAttribute *attrs;
    unsigned numAttrs;
};
#define CUDAAPI
#endif

struct Launch {
    uint64_t function, stream;
    uint32_t grid[3], block[3], shared, extra;
    unsigned char parameters[8][128];
};
struct EncodedMap {  // fits in 128 bytes
    uint64_t address, dims[5], strides[4];
    uint32_t dtype, rank;
    uint16_t box[5], steps[5];
    uint8_t interleave, swizzle, l2, oob;
};
static_assert(sizeof(EncodedMap) <= 128, "the encoded map must fit");

constexpr uint32_t TOGETHER = 2;  // in place of `extra`: a cooperative launch
constexpr uint32_t EARLY = 3;  // the like: one that may begin before the launch in front of it ends

static struct {
    int devices, sizes[8], count_sizes, launches, fail_next, capturing, unloads, loads, waits, allowed;
    uint64_t context, contexts_set;
    int device;
    Launch last[16];
} state = {2, {0}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {}};

extern "C" {
void *stub_state() { return &state; }
void stub_reset(int devices) { memset(&state, 0, sizeof state); state.devices = devices; }
void stub_sizes(int count, const int *sizes) { state.count_sizes = count; memcpy(state.sizes, sizes, 4 * count); }
void stub_fail_next(int status) { state.fail_next = status; }
void stub_capture(int on) { state.capturing = on; }
int stub_counts(int which) {
    int counts[] = {state.launches, state.loads, state.unloads, state.waits, state.allowed, state.device};
    return counts[which];
}
uint64_t stub_context() { return state.context; }
void stub_set_context(uint64_t context) { state.context = context; }
Launch *stub_launch(int index) { return &state.last[index]; }

static int launch(uint64_t function, const uint32_t *grid, const uint32_t *block, uint32_t shared,
                  uint64_t stream, void **parameters, void **extra) {
    if (state.fail_next) { int status = state.fail_next; state.fail_next = 0; return status; }
    Launch &to = state.last[state.launches++ % 16];
    memset(&to, 0, sizeof to);
    to.function = function; to.stream = stream; to.shared = shared; to.extra = extra != nullptr;
    memcpy(to.grid, grid, 12); memcpy(to.block, block, 12);
    for (int i = 0; i < state.count_sizes; ++i) memcpy(to.parameters[i], parameters[i], state.sizes[i]);
    return 0;
}

CUresult CUDAAPI cuInit(unsigned) { return (CUresult)0; }
CUresult CUDAAPI cuDeviceGetCount(int *count) { *count = state.devices; return (CUresult)0; }
CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return (CUresult)0; }
CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    int number = (int)attribute;
    *value = number == 16 ? 132 + device : number == 97 ? 232448 : number == 75 ? 9 : number == 76 ? 0 : -1;
    return (CUresult)0;
}
CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = (CUcontext)(uint64_t)(0x1000 + device); return (CUresult)0;
}
CUresult CUDAAPI cuCtxGetCurrent(CUcontext *context) { *context = (CUcontext)state.context; return (CUresult)0; }
CUresult CUDAAPI cuCtxSetCurrent(CUcontext context) { state.context = (uint64_t)context; return (CUresult)0; }
CUresult CUDAAPI cuModuleLoadData(CUmodule *module, const void *image) {
    if (memcmp(image, "cubin", 5) && memcmp(image, ".version", 8)) return (CUresult)209;
    *module = (CUmodule)(uint64_t)(0x2000 + state.loads++ + (state.context << 32)); return (CUresult)0;
}
CUresult CUDAAPI cuModuleUnload(CUmodule) { state.unloads++; return (CUresult)0; }
CUresult CUDAAPI cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    if (!strcmp(name, "absent")) return (CUresult)500;
    *function = (CUfunction)((uint64_t)module * 256 + (unsigned char)name[0]); return (CUresult)0;
}
CUresult CUDAAPI cuFuncSetAttribute(CUfunction, CUfunction_attribute attribute, int value) {
    if ((int)attribute != 8) return (CUresult)1;
    state.allowed = value; return (CUresult)0;
}
// One cluster less than multiprocessors would do.
CUresult CUDAAPI cuOccupancyMaxActiveClusters(int *count, CUfunction, const CUlaunchConfig *config) {
    const unsigned blocks = config->attrs[0].value.clusterDim.x;
    if (config->numAttrs != 1 || (int)config->attrs[0].id != 4 || config->gridDimX % blocks || config->hStream) return (CUresult)1;
    const bool nothing = config->blockDimX == 32 && (int)config->sharedMemBytes == state.allowed;
    if (!nothing && (config->blockDimX != 256 || config->sharedMemBytes != 65536)) return (CUresult)1;
    if (config->attrs[0].value.clusterDim.z != 1) return (CUresult)1;
    *count = 132 / (int)blocks - 1;
    return (CUresult)0;
}
CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                unsigned bz, unsigned shared, CUstream stream, void **parameters, void **extra) {
    uint32_t grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    return (CUresult)launch((uint64_t)f, grid, block, shared, (uint64_t)stream, parameters, extra);
}
CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                           unsigned bz, unsigned shared, CUstream stream, void **parameters) {
    uint32_t grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    int status = launch((uint64_t)f, grid, block, shared, (uint64_t)stream, parameters, nullptr);
    if (!status) state.last[(state.launches - 1) % 16].extra = TOGETHER;
    return (CUresult)status;
}
CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **parameters, void **extra) {
    if (config->numAttrs != 1 || (int)config->attrs[0].id != 6 || config->attrs[0].value.programmaticStreamSerializationAllowed != 1)
        return (CUresult)1;
    uint32_t grid[] = {config->gridDimX, config->gridDimY, config->gridDimZ};
    uint32_t block[] = {config->blockDimX, config->blockDimY, config->blockDimZ};
    int status = launch((uint64_t)f, grid, block, config->sharedMemBytes, (uint64_t)config->hStream, parameters, extra);
    if (!status) state.last[(state.launches - 1) % 16].extra = EARLY;
    return (CUresult)status;
}
// Two blocks fit a multiprocessor.
CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, CUfunction, int threads, size_t shared) {
    if (threads != 256 || shared != 65536) return (CUresult)1;
    *count = 2;
    return (CUresult)0;
}
CUresult CUDAAPI cuStreamIsCapturing(CUstream, CUstreamCaptureStatus *status) {
    if (state.capturing > 2) return (CUresult)state.capturing;
    *status = (CUstreamCaptureStatus)state.capturing; return (CUresult)0;
}
CUresult CUDAAPI cuEventCreate(CUevent *event, unsigned flags) { *event = (CUevent)(uint64_t)(0x5000 + flags); return (CUresult)0; }
CUresult CUDAAPI cuEventRecord(CUevent event, CUstream) { return (CUresult)((uint64_t)event == 0x5002 ? 0 : 1); }
CUresult CUDAAPI cuEventDestroy_v2(CUevent) { return (CUresult)0; }
CUresult CUDAAPI cuStreamWaitEvent(CUstream, CUevent, unsigned) { state.waits++; return (CUresult)0; }
CUresult CUDAAPI cuDriverGetVersion(int *version) { *version = 13010; return (CUresult)0; }
CUresult CUDAAPI cuDeviceGetName(char *name, int length, CUdevice) {
    strncpy(name, "Stub GPU", length); return (CUresult)0;
}
CUresult CUDAAPI cuGetErrorName(CUresult status, const char **text) {
    *text = (int)status == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OTHER"; return (CUresult)0;
}
CUresult CUDAAPI cuGetErrorString(CUresult, const char **text) { *text = "as the stub says"; return (CUresult)0; }
CUresult CUDAAPI cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType dtype, cuuint32_t rank, void *address,
                                        const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box,
                                        const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                        CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2,
                                        CUtensorMapFloatOOBfill oob) {
    if (!state.context) return (CUresult)201;
    if ((uint64_t)map % 64) return (CUresult)1;
    EncodedMap encoded = {};
    encoded.address = (uint64_t)address; encoded.dtype = (uint32_t)dtype; encoded.rank = rank;
    for (unsigned i = 0; i < rank; ++i) {
        encoded.dims[i] = dims[i]; encoded.box[i] = (uint16_t)box[i]; encoded.steps[i] = (uint16_t)steps[i];
        if (i + 1 < rank) encoded.strides[i] = strides[i];
    }
    encoded.interleave = (uint8_t)interleave; encoded.swizzle = (uint8_t)swizzle;
    encoded.l2 = (uint8_t)l2; encoded.oob = (uint8_t)oob;
    memset(map, 0, 128); memcpy(map, &encoded, sizeof encoded);
    return (CUresult)0;
}

int hipInit(unsigned) { return 0; }
int hipGetDeviceCount(int *count) { *count = state.devices; return state.devices ? 0 : 100; }
int hipGetDevice(int *device) { *device = state.device; return 0; }
int hipSetDevice(int device) { state.device = device; return device < state.devices ? 0 : 101; }
int hipDeviceGetAttribute(int *value, int attribute, int) {
    *value = attribute == 63 ? 304 : attribute == 74 ? 65536 : attribute == 23 ? 9 : attribute == 61 ? 4 : -1;
    return 0;
}
int hipModuleLoadData(void **module, const void *) { *module = (void *)(uint64_t)(0x3000 + state.loads++); return 0; }
int hipModuleUnload(void *) { state.unloads++; return 0; }
int hipModuleGetFunction(void **function, void *, const char *name) { *function = (void *)(uint64_t)(0x4000 + name[0]); return 0; }
int hipModuleLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void *stream, void **parameters, void **extra) {
    uint32_t grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    return launch((uint64_t)f, grid, block, shared, (uint64_t)stream, parameters, extra);
}
int hipModuleLaunchCooperativeKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                     unsigned bz, unsigned shared, void *stream, void **parameters) {
    uint32_t grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    int status = launch((uint64_t)f, grid, block, shared, (uint64_t)stream, parameters, nullptr);
    if (!status) state.last[(state.launches - 1) % 16].extra = TOGETHER;
    return status;
}
int hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(int *count, void *, int, size_t) { *count = 2; return 0; }
int hipStreamIsCapturing(void *, int *status) { *status = state.capturing; return 0; }
int hipEventCreateWithFlags(void **event, unsigned flags) { *event = (void *)(uint64_t)(0x5000 + flags); return 0; }
int hipEventRecord(void *event, void *) { return (uint64_t)event == 0x5002 ? 0 : 1; }
int hipEventDestroy(void *) { return 0; }
int hipStreamWaitEvent(void *, void *, unsigned) { state.waits++; return 0; }
int hipDriverGetVersion(int *version) { *version = 70125; return 0; }
int hipDeviceGetName(char *name, int length, int) { strncpy(name, "Stub AMD GPU", length); return 0; }
const char *hipGetErrorName(int) { return "hipErrorOther"; }
const char *hipGetErrorString(int) { return "as the stub says"; }

// A run-time compiler of the same shape as NVRTC: "compiles" text by turning it round.
struct Program { char text[4096]; char log[4096]; };
static Program program;
int hiprtcVersion(int *major, int *minor) { *major = 7; *minor = 1; return 0; }
int hiprtcCreateProgram(void **to, const char *text, const char *name, int headers, const char **, const char **) {
    strncpy(program.text, text, 4095); strcpy(program.log, name); *to = &program; return headers;
}
int hiprtcCompileProgram(void *, int count, const char **options) {
    for (int i = 0; i < count; ++i) { strcat(program.log, " "); strcat(program.log, options[i]); }
    return strstr(program.text, "wrong") ? 6 : 0;
}
int hiprtcGetProgramLogSize(void *, size_t *size) { *size = strlen(program.log) + 1; return 0; }
int hiprtcGetProgramLog(void *, char *to) { strcpy(to, program.log); return 0; }
int hiprtcGetCodeSize(void *, size_t *size) { *size = strlen(program.text); return 0; }
int hiprtcGetCode(void *, char *to) {
    size_t size = strlen(program.text);
    for (size_t i = 0; i < size; ++i) to[i] = program.text[size - 1 - i];
    return 0;
}
int hiprtcDestroyProgram(void **to) { *to = nullptr; return 0; }
const char *hiprtcGetErrorString(int) { return "HIPRTC_ERROR_COMPILATION"; }
}
