/* A management library of one GPU, for tests: what NVML's own would say, by environment variables. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } process_t;

static long of(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

int nvmlInit_v2(void) {
    if (of("FAKE_HANG", 0)) sleep(60);
    return (int)of("FAKE_INIT", 0);
}
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned int size) {
    strncpy(out, "580.65.06", size);
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = (unsigned int)of("FAKE_COUNT", 1); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **out) {
    *out = (void *)(unsigned long)(index + 1);
    return 0;
}
int nvmlDeviceGetName(void *gpu, char *out, unsigned int size) {
    (void)gpu;
    strncpy(out, "NVIDIA Test 24GB", size);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *gpu, memory_t *out) {
    (void)gpu;
    out->total = 24000000000ULL;
    out->free = 20000000000ULL;
    out->used = 4000000000ULL;
    return 0;
}
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned int *out) {
    (void)gpu; (void)sensor;
    *out = (unsigned int)of("FAKE_TEMPERATURE", 45);
    return 0;
}
int nvmlDeviceGetTemperatureThreshold(void *gpu, int kind, unsigned int *out) {
    (void)gpu; (void)kind;
    *out = 90;
    return 0;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *out) {
    (void)gpu;
    *out = (unsigned long long)of("FAKE_THROTTLE", 0);
    return 0;
}
int nvmlDeviceGetTotalEccErrors(void *gpu, int kind, int counter, unsigned long long *out) {
    (void)gpu; (void)kind; (void)counter;
    if (of("FAKE_NO_ECC", 0)) return 3; /* NVML_ERROR_NOT_SUPPORTED */
    *out = (unsigned long long)of("FAKE_ECC", 0);
    return 0;
}
int nvmlDeviceGetRemappedRows(
    void *gpu, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending,
    unsigned int *failed) {
    (void)gpu;
    if (of("FAKE_NO_ECC", 0)) return 3;
    *corrected = *uncorrected = 0;
    *pending = (unsigned int)of("FAKE_PENDING", 0);
    *failed = (unsigned int)of("FAKE_FAILED", 0);
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned int *count, process_t *out) {
    (void)gpu;
    if (out == NULL || *count < 1) { *count = 1; return 7; } /* NVML_ERROR_INSUFFICIENT_SIZE */
    out[0].pid = 4242;
    out[0].used = 4000000000ULL;
    *count = 1;
    return 0;
}
