/* A stand-in for libnvidia-ml.so.1: two GPUs, the second in MIG mode with one instance. Compiled with -DINIT=code it refuses,
 * with -DHANG it never answers, with -DCRASH it dies, with -DOLD it has no second version of the memory call,
 * with -DUNIFIED its GPUs have no memory of their own. */
#include <string.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_1;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_2;
typedef struct { char legacy[16]; unsigned int domain, bus, device, id, subsystem; char address[32]; } pci_3;

enum { OK, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, MISMATCH = 25 };
#define MIB (1ULL << 20)

static char gpus[2], part; /* handles are addresses */

#ifndef INIT
#define INIT 0
#endif

int nvmlInit_v2(void) {
#ifdef HANG
  for (;;) pause();
#endif
#ifdef CRASH
  *(volatile int *)0 = 0;
#endif
  return INIT;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == 18 ? "Driver/library version mismatch" : "Unknown Error"; }
static int say(char *to, unsigned int room, const char *text) { strncpy(to, text, room); return OK; }
int nvmlSystemGetDriverVersion(char *to, unsigned int room) { return say(to, room, "580.159.04"); }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
  if (index > 1) return INVALID_ARGUMENT;
  *handle = &gpus[index];
  return OK;
}
int nvmlDeviceGetName(void *handle, char *to, unsigned int room) {
  return say(to, room, handle == &part ? "NVIDIA H100 MIG 1g.10gb" : "NVIDIA H100");
}
int nvmlDeviceGetUUID(void *handle, char *to, unsigned int room) {
  return say(to, room, handle == &part ? "MIG-aaaa" : handle == &gpus[0] ? "GPU-0000" : "GPU-1111");
}
static unsigned long long total(void *handle) { return (handle == &part ? 10000 : 81559) * MIB; }
int nvmlDeviceGetMemoryInfo(void *handle, memory_1 *memory) {
#ifdef UNIFIED
  return NOT_SUPPORTED;
#endif
  memory->total = total(handle); memory->used = 500 * MIB; memory->free = memory->total - memory->used;
  return OK;
}
#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_2 *memory) {
  if (memory->version != (sizeof *memory | 2 << 24)) return MISMATCH;
#ifdef UNIFIED
  return NOT_SUPPORTED;
#endif
  memory->total = total(handle); memory->reserved = 480 * MIB; memory->used = 20 * MIB;
  memory->free = memory->total - memory->used - memory->reserved;
  return OK;
}
#endif
int nvmlDeviceGetPciInfo_v3(void *handle, pci_3 *pci) {
  memset(pci, 0, sizeof *pci);
  return say(pci->address, sizeof pci->address, handle == &gpus[0] ? "00000000:00:06.0" : "00000000:00:07.0");
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) { *major = 9; *minor = 0; return OK; }
int nvmlDeviceGetMigMode(void *handle, unsigned int *now, unsigned int *pending) {
  *now = *pending = handle == &gpus[1];
  return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) { *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **found) {
  if (index != 3) return NOT_FOUND;
  *found = &part;
  return OK;
}
