/*
 * A stand-in for CUDA's driver library, libcuda.so.1, for tests of the agent's wipe. It proves nothing
 * about hardware: memory is a number.
 *
 * It does what the file beside it says, "<its own path>.script"; one instruction a line:
 *
 *   init CODE      cuInit answers CODE
 *   hang           memset waits for ever
 *   memset CODE    memset answers CODE
 *   free MIB       so much is said to be free (1000)
 *   had MIB        so much can be had (all that is free)
 *   largest MIB    and so much in one piece (all that can be had)
 *
 * What it is asked goes to "<its own path>.log", a line each: `sees UUID` with the GPU that the process
 * was shown, `pid N`, `zeroed BYTES`, `freed`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, OUT_OF_MEMORY = 2 };

static unsigned long long had, next_address = 1ULL << 40;

static const char *beside(const char *ending) {
    static char path[4300];
    Dl_info self;
    if (!dladdr((void *)beside, &self)) return "";
    snprintf(path, sizeof path, "%s.%s", self.dli_fname, ending);
    return path;
}

static int instruction(const char *key, unsigned long long *value) {
    char text[256];
    int found = 0;
    FILE *script = fopen(beside("script"), "r");
    if (!script) return 0;
    while (!found && fgets(text, sizeof text, script)) {
        size_t length = strlen(key);
        text[strcspn(text, "\n")] = 0;
        if (strncmp(text, key, length) == 0 && (text[length] == ' ' || text[length] == 0)) {
            if (value && text[length]) sscanf(text + length, "%llu", value);
            found = 1;
        }
    }
    fclose(script);
    return found;
}

static unsigned long long number(const char *key, unsigned long long otherwise) {
    unsigned long long value = otherwise;
    instruction(key, &value);
    return value;
}

static void note(const char *what, unsigned long long value) {
    FILE *log = fopen(beside("log"), "a");
    if (!log) return;
    fprintf(log, "%s %llu\n", what, value);
    fclose(log);
}

static unsigned long long available(void) {
    return number("had", number("free", 1000)) << 20;
}

int cuInit(unsigned flags) {
    const char *seen = getenv("CUDA_VISIBLE_DEVICES");
    FILE *log = fopen(beside("log"), "a");
    (void)flags;
    if (log) {
        fprintf(log, "sees %s\n", seen ? seen : "all");
        fclose(log);
    }
    note("pid", (unsigned long long)getpid());
    return (int)number("init", OK);
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? OK : 101;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)attribute;
    (void)device;
    *value = 0;
    return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    *context = (void *)1;
    return OK;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    return OK;
}

int cuCtxGetCurrent(void **context) {
    *context = (void *)1;
    return OK;
}

int cuCtxSetCurrent(void *context) {
    (void)context;
    return OK;
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = (size_t)(number("free", 1000) << 20) - had;
    *total = (size_t)1 << 30;
    return OK;
}

int cuMemAlloc_v2(unsigned long long *address, size_t size) {
    unsigned long long most = available();
    if (size > number("largest", most >> 20) << 20 || had + size > most) return OUT_OF_MEMORY;
    had += size;
    *address = next_address;
    next_address += size;
    return OK;
}

int cuMemFree_v2(unsigned long long address) {
    (void)address;
    note("freed", 1);
    return OK;
}

int cuMemsetD8Async(unsigned long long address, unsigned char value, size_t size, void *stream) {
    (void)address;
    (void)stream;
    while (instruction("hang", NULL)) usleep(5000);
    if (value == 0) note("zeroed", size);
    return (int)number("memset", OK);
}

int cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    *event = (void *)1;
    return OK;
}

int cuEventDestroy_v2(void *event) {
    (void)event;
    return OK;
}

int cuEventRecord(void *event, void *stream) {
    (void)event;
    (void)stream;
    return OK;
}

int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    (void)stream;
    (void)event;
    (void)flags;
    return OK;
}

int cuStreamSynchronize(void *stream) {
    (void)stream;
    return OK;
}

int cuGetErrorName(int error, const char **name) {
    (void)error;
    *name = "CUDA_ERROR_AS_THE_TEST_WANTS";
    return OK;
}

int cuGetErrorString(int error, const char **text) {
    (void)error;
    *text = "as the test wants";
    return OK;
}
