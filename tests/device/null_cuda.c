/* A CUDA runtime whose devices are made of host memory and whose kernels do nothing. Preloaded, it takes the place of
 * libcudart 13: torch then sees GPUs on any machine. What is computed on them is the business of simulation.py.
 *
 * No header of CUDA is needed. Arguments of functions that do nothing are not declared: callers clean up themselves.
 * NULL_CUDA_DEVICES: the number of devices (1). NULL_CUDA_BYTES: the memory of all of them together (2^33).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { OK = 0, OUT_OF_MEMORY = 2, UNREGISTERED = 0, HOST = 1, DEVICE = 2, BLOCKS = 1 << 16 };

typedef struct { char *start; size_t bytes; int kind; } block;
static block blocks[BLOCKS];
static int count;
static size_t used;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static __thread int current;

static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}
static size_t total(void) { return (size_t)setting("NULL_CUDA_BYTES", 1L << 33); }

static int take(void **out, size_t bytes, int kind) {
  int result = OUT_OF_MEMORY;
  *out = NULL;
  pthread_mutex_lock(&mutex);
  if (count < BLOCKS && (kind == HOST || used + bytes <= total())) {
    char *start = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start != MAP_FAILED) {
      if (kind == DEVICE) used += bytes;
      blocks[count++] = (block){start, bytes, kind};
      *out = start;
      result = OK;
    }
  }
  pthread_mutex_unlock(&mutex);
  return result;
}

static int give_back(void *start) {
  pthread_mutex_lock(&mutex);
  for (int i = 0; start && i < count; i++)
    if (blocks[i].start == start) {
      munmap(start, blocks[i].bytes + 4096);
      if (blocks[i].kind == DEVICE) used -= blocks[i].bytes;
      blocks[i] = blocks[--count];
      break;
    }
  pthread_mutex_unlock(&mutex);
  return OK;
}

/* Devices. Offsets are those of cudaDeviceProp in CUDA 13. */
int cudaGetDeviceProperties(char *p, int device) {
  memset(p, 0, 1008);
  snprintf(p, 256, "Null device");
  p[256] = (char)(device + 1); /* the first byte of its uuid */
  *(size_t *)(p + 288) = total();
  *(size_t *)(p + 296) = 49152;                                             /* shared memory per block */
  *(int *)(p + 308) = 32;                                                   /* threads of a warp */
  *(int *)(p + 320) = *(int *)(p + 324) = *(int *)(p + 328) = 1024;         /* threads per block */
  *(int *)(p + 332) = 64;
  *(int *)(p + 336) = 2147483647, *(int *)(p + 340) = *(int *)(p + 344) = 65535; /* blocks of a grid */
  *(int *)(p + 360) = 9;                                                    /* compute capability 9.0 */
  *(int *)(p + 384) = 132;                                                  /* multiprocessors */
  *(int *)(p + 604) = 2048;                                                 /* threads of one */
  return OK;
}
int cudaGetDeviceCount(int *n) { return *n = (int)setting("NULL_CUDA_DEVICES", 1), OK; }
int cudaGetDevice(int *device) { return *device = current, OK; }
int cudaSetDevice(int device) { return current = device, OK; }
int cudaDriverGetVersion(int *version) { return *version = 13000, OK; }
int cudaRuntimeGetVersion(int *version) { return *version = 13000, OK; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  return *value = attribute == 75 ? 9 : attribute == 16 ? 132 : attribute == 10 ? 32 : 0, OK;
}
int cudaDeviceCanAccessPeer(int *can, int a, int b) { return *can = 0, OK; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, OK; }
int cudaDeviceGetPCIBusId(char *text, int length, int device) { return snprintf(text, length, "0000:00:%02d.0", device), OK; }
const char *cudaGetErrorString(int error) { return error == OUT_OF_MEMORY ? "out of memory" : "null device"; }
const char *cudaGetErrorName(int error) { return "null device"; }

/* Memory. */
int cudaMalloc(void **p, size_t bytes) { return take(p, bytes, DEVICE); }
int cudaHostAlloc(void **p, size_t bytes, unsigned flags) { return take(p, bytes, HOST); }
int cudaFree(void *p) { return give_back(p); }
int cudaFreeHost(void *p) { return give_back(p); }
int cudaMemGetInfo(size_t *left, size_t *all) { return *all = total(), *left = *all - used, OK; }
int cudaPointerGetAttributes(char *a, const void *p) {
  memset(a, 0, 88);
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < count; i++)
    if ((char *)p >= blocks[i].start && (char *)p < blocks[i].start + blocks[i].bytes) {
      *(int *)a = blocks[i].kind;
      *(const void **)(a + 8) = p;
      if (blocks[i].kind == HOST) *(const void **)(a + 16) = p;
    }
  pthread_mutex_unlock(&mutex);
  return OK;
}
int cudaMemcpy(void *to, const void *from, size_t bytes) { return memmove(to, from, bytes), OK; }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes) { return memmove(to, from, bytes), OK; }
int cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t bytes) { return memmove(to, from, bytes), OK; }
int cudaMemset(void *p, int value, size_t bytes) { return memset(p, value, bytes), OK; }
int cudaMemsetAsync(void *p, int value, size_t bytes) { return memset(p, value, bytes), OK; }

/* Streams and events: everything is done when it is asked for. */
static char handles[1 << 12];
static int handle(void **out) { return *out = handles + 16 * (1 + rand() % 200), OK; }
int cudaStreamCreate(void **s) { return handle(s); }
int cudaStreamCreateWithFlags(void **s) { return handle(s); }
int cudaStreamCreateWithPriority(void **s) { return handle(s); }
int cudaEventCreate(void **e) { return handle(e); }
int cudaEventCreateWithFlags(void **e) { return handle(e); }
int cudaStreamGetPriority(void *s, int *priority) { return *priority = 0, OK; }
int cudaStreamIsCapturing(void *s, int *status) { return *status = 0, OK; }
int cudaStreamGetCaptureInfo(void *s, int *status) { return *status = 0, OK; }
int cudaEventElapsedTime(float *milliseconds) { return *milliseconds = 1, OK; }

/* What does nothing. */
#define NOTHING(name) int name(void) { return OK; }
NOTHING(cudaGetLastError) NOTHING(cudaPeekAtLastError) NOTHING(cudaDeviceSynchronize) NOTHING(cudaDeviceEnablePeerAccess)
NOTHING(cudaStreamDestroy) NOTHING(cudaStreamQuery) NOTHING(cudaStreamSynchronize) NOTHING(cudaStreamWaitEvent)
NOTHING(cudaThreadExchangeStreamCaptureMode) NOTHING(cudaEventDestroy) NOTHING(cudaEventQuery) NOTHING(cudaEventRecord)
NOTHING(cudaEventRecordWithFlags) NOTHING(cudaEventSynchronize) NOTHING(cudaHostRegister) NOTHING(cudaHostUnregister)
NOTHING(cudaLaunchKernel) NOTHING(cudaLaunchKernelExC) NOTHING(__cudaLaunchKernel)
NOTHING(__cudaRegisterFatBinaryEnd) NOTHING(__cudaUnregisterFatBinary) NOTHING(__cudaRegisterFunction)
NOTHING(__cudaRegisterVar)
void *__cudaRegisterFatBinary(void) { return handles; }

/* The driver, libcuda.so.1: torch looks these up when it starts, and asks whether a context exists. */
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = 0, *active = 1, OK; }
int cuCtxGetCurrent(void **context) { return *context = handles, OK; }
int cuDevicePrimaryCtxRetain(void **context) { return *context = handles, OK; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return cudaDeviceGetAttribute(value, attribute, device); }
int cuGetErrorString(int error, const char **text) { return *text = "null device", OK; }
NOTHING(cuCtxSetCurrent) NOTHING(cuFuncGetAttribute) NOTHING(cuFuncSetAttribute) NOTHING(cuFuncSetCacheConfig)
NOTHING(cuLaunchCooperativeKernel) NOTHING(cuLaunchKernel) NOTHING(cuLinkAddData_v2) NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate_v2) NOTHING(cuModuleGetFunction) NOTHING(cuModuleLoad) NOTHING(cuModuleLoadData)
NOTHING(cuModuleLoadDataEx) NOTHING(cuModuleUnload) NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOTHING(cuPointerGetAttribute) NOTHING(cuTensorMapEncodeTiled)
int cudaGetDriverEntryPointByVersion(const char *name, void **entry, unsigned version, unsigned long long flags, int *result) {
  *entry = strcmp(name, "cuDevicePrimaryCtxGetState") ? (void *)cudaGetLastError : (void *)cuDevicePrimaryCtxGetState;
  if (result) *result = 0;
  return OK;
}
