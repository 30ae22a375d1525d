/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1, for tests of the agent's own logic. It proves nothing
 * about hardware.
 *
 * It does what the file beside it says, "<its own path>.script", read anew at each call; one
 * instruction a line:
 *
 *   gpus N          there are N GPUs (0 without this line)
 *   init CODE       nvmlInit answers CODE
 *   handle I CODE   the handle of GPU I is answered with CODE
 *   memory I CODE   its memory likewise
 *   uuid I TEXT     its UUID, instead of GPU-0000000I-…
 *   name I TEXT     its model
 *   hang            every call but nvmlInit waits until this line is gone
 *
 * Built without nvmlShutdown when WITHOUT_SHUTDOWN is defined.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2 };

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_info;

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} memory_v2;

typedef struct {
    unsigned gpu, memory;
} utilization;

/* Finds the line that begins with `key` and copies the rest of it. */
static int instruction(const char *key, char *rest, size_t size) {
    Dl_info self;
    char path[4200], text[256];
    int found = 0;
    if (!dladdr((void *)instruction, &self)) return 0;
    snprintf(path, sizeof path, "%s.script", self.dli_fname);
    FILE *script = fopen(path, "r");
    if (!script) return 0;
    while (!found && fgets(text, sizeof text, script)) {
        size_t length = strlen(key);
        text[strcspn(text, "\n")] = 0;
        if (strncmp(text, key, length) == 0 && (text[length] == ' ' || text[length] == 0)) {
            snprintf(rest, size, "%s", text[length] ? text + length + 1 : "");
            found = 1;
        }
    }
    fclose(script);
    return found;
}

static void hang_if_told(void) {
    char rest[256];
    while (instruction("hang", rest, sizeof rest)) usleep(5000);
}

static int number(const char *key, int otherwise) {
    char rest[256];
    int value;
    return instruction(key, rest, sizeof rest) && sscanf(rest, "%d", &value) == 1 ? value : otherwise;
}

static int code_for(const char *what, unsigned index) {
    char key[64];
    hang_if_told();
    snprintf(key, sizeof key, "%s %u", what, index);
    return number(key, OK);
}

/* Handles are 1 + index, since a null handle would look unset. */
static unsigned index_of(void *device) { return (unsigned)(unsigned long)device - 1; }

int nvmlInit_v2(void) { return number("init", OK); }

#ifndef WITHOUT_SHUTDOWN
int nvmlShutdown(void) { return OK; }
#endif

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    hang_if_told();
    snprintf(version, length, "570.86.15");
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = 12080;
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    hang_if_told();
    *count = (unsigned)number("gpus", 0);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(unsigned long)(index + 1);
    return code_for("handle", index);
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    char key[64], text[256];
    snprintf(key, sizeof key, "uuid %u", index_of(device));
    if (instruction(key, text, sizeof text))
        snprintf(uuid, length, "%s", text);
    else
        snprintf(uuid, length, "GPU-%08x-0000-0000-0000-000000000000", index_of(device));
    return OK;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    char key[64], text[256];
    snprintf(key, sizeof key, "name %u", index_of(device));
    snprintf(name, length, "%s", instruction(key, text, sizeof text) ? text : "NVIDIA Stand-In");
    return OK;
}

int nvmlDeviceGetPciInfo_v3(void *device, pci_info *info) {
    memset(info, 0, sizeof *info);
    info->bus = index_of(device) + 1;
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *info) {
    info->total = 24ULL << 30;
    info->reserved = 0;
    info->used = 1ULL << 30;
    info->free = info->total - info->used;
    return code_for("memory", index_of(device));
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    (void)device;
    *major = 8;
    *minor = 9;
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization *rates) {
    (void)device;
    rates->gpu = 42;
    rates->memory = 7;
    return OK;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *temperature) {
    (void)device;
    if (sensor != 0) return INVALID_ARGUMENT;
    *temperature = 55;
    return OK;
}

/* nvmlDeviceGetPowerUsage is missing, as functions are in old drivers. */
