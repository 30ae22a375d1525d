/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1, for tests of the agent's own logic. It proves nothing
 * about hardware.
 *
 * It does what the file beside it says, "<its own path>.script", which is looked at anew at each
 * call and read when it is another one; one instruction a line. GPUs are numbered by what they are,
 * from 0; the driver's indexes are the same numbers unless `order` says otherwise.
 *
 *   gpus N                 there are N GPUs (0 without this line)
 *   order I J …            the driver's index 0 is GPU I, 1 is GPU J, …
 *   driver TEXT            the driver's version
 *   init CODE              nvmlInit answers CODE
 *   hang                   every call but nvmlInit waits until this line is gone
 *   hang NAME              the function of that name waits until this line is gone
 *   handle I CODE          the handle of GPU I is answered with CODE
 *   lost I                 every question to GPU I is answered with 15
 *   uuid I TEXT            its UUID, instead of GPU-0000000I-…
 *   name I TEXT            its model
 *   memory I CODE          its memory is answered with CODE
 *   used I MIB             its used memory (1024)
 *   busy I PERCENT         its utilisation (42)
 *   temperature I DEGREES  (55)
 *   power I MILLIWATT      (61500)
 *   fan I PERCENT          not supported without this line
 *   throttle I HEX         bits of nvmlClocksThrottleReasons (0)
 *   pcie I GEN MAX WIDTH MAX   (4 4 16 16)
 *   ecc I VOLATILE AGGREGATE   uncorrected errors; not supported without this line
 *   remap I PENDING FAILED     rows; not supported without this line
 *   recovery I ACTION          nvmlDeviceGpuRecoveryAction_t; not supported without this line
 *   process I PID MIB [graphics | mps]   one process on it; any number of lines
 *   processes I CODE       the list of those that compute is answered with CODE
 *   xid I CODE N           an event; N is larger than that of the one before on this GPU. What is
 *                          there when somebody begins to listen is past.
 *   events I CODE          listening to GPU I is answered with CODE
 *   nvlink I J             a link from GPU I to GPU J, in this direction
 *   nvswitch I N           a link from GPU I to switch N
 *   topology I J LEVEL     the common ancestor of two GPUs (50: the system)
 *   cpus I HEX             bits of the processors near GPU I; not supported without this line
 *   mig I MODE             1: it is partitioned; not supported without this line
 *   partition I UUID MIB   one partition; any number of lines
 *
 * VERSION is the driver's version where the script names none. Built without nvmlShutdown when
 * WITHOUT_SHUTDOWN is defined, without nvmlDeviceGetPowerUsage when WITHOUT_POWER is, as functions are
 * missing in old drivers.
 */
#define _GNU_SOURCE
#ifndef VERSION
#define VERSION "570.86.15"
#endif
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    OK = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    LOST = 15
};
enum { MAX_LINES = 512, MAX_LINE = 200, MAX_GPUS = 64 };

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

typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} process_info;

typedef struct {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned type;
    int result;
    union {
        double d;
        unsigned u;
        unsigned long long ull;
    } value;
} field_value;

typedef struct {
    void *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
} event_data;

/* The script, as last read. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char lines[MAX_LINES][MAX_LINE];
static int count;
static struct stat seen;

static void read_if_new(void) {
    static char path[4200];
    struct stat now;
    if (!path[0]) {
        Dl_info self;
        if (!dladdr((void *)read_if_new, &self)) return;
        snprintf(path, sizeof path, "%s.script", self.dli_fname);
    }
    if (stat(path, &now)) {
        count = 0;
        return;
    }
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    FILE *script = fopen(path, "r");
    if (!script) return;
    seen = now;
    count = 0;
    while (count < MAX_LINES && fgets(lines[count], MAX_LINE, script)) {
        lines[count][strcspn(lines[count], "\n")] = 0;
        count++;
    }
    fclose(script);
}

/* The rest of the nth line that begins with `key`, copied. */
static int nth(const char *key, int n, char *rest, size_t size) {
    size_t length = strlen(key);
    int found = 0;
    pthread_mutex_lock(&lock);
    read_if_new();
    for (int i = 0; i < count && !found; i++) {
        const char *text = lines[i];
        if (strncmp(text, key, length) || (text[length] != ' ' && text[length])) continue;
        if (n-- > 0) continue;
        snprintf(rest, size, "%s", text[length] ? text + length + 1 : "");
        found = 1;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static int instruction(const char *key, char *rest, size_t size) { return nth(key, 0, rest, size); }

static void hang_if_told(const char *function) {
    char rest[MAX_LINE];
    int hangs;
    do {
        hangs = 0;
        for (int n = 0; !hangs && nth("hang", n, rest, sizeof rest); n++)
            hangs = !rest[0] || !strcmp(rest, function);
        if (hangs) usleep(5000);
    } while (hangs);
}

static int number(const char *key, int otherwise) {
    char rest[MAX_LINE];
    int value;
    return instruction(key, rest, sizeof rest) && sscanf(rest, "%d", &value) == 1 ? value : otherwise;
}

/* The rest of the nth line about this GPU. */
static int about(const char *what, unsigned gpu, int n, char *rest) {
    char key[64];
    snprintf(key, sizeof key, "%s %u", what, gpu);
    return nth(key, n, rest, MAX_LINE);
}

static int number_of(const char *what, unsigned gpu, int otherwise) {
    char rest[MAX_LINE];
    int value;
    return about(what, gpu, 0, rest) && sscanf(rest, "%d", &value) == 1 ? value : otherwise;
}

/* Handles are 1 + the GPU, since a null handle would look unset; 1000 more for each partition. */
static unsigned gpu_of(void *device) { return ((unsigned)(unsigned long)device - 1) % 1000; }
static unsigned partition_of(void *device) { return ((unsigned)(unsigned long)device - 1) / 1000; }
static void *handle_of(unsigned gpu, unsigned partition) {
    return (void *)(unsigned long)(gpu + 1 + 1000 * partition);
}

/* What every function about a GPU does first. */
static int begin(const char *function, void *device) {
    char rest[MAX_LINE];
    hang_if_told(function);
    return about("lost", gpu_of(device), 0, rest) ? LOST : OK;
}
#define BEGIN(device)                                    \
    do {                                                 \
        int begun = begin(__func__, device);             \
        if (begun != OK) return begun;                   \
    } while (0)

int nvmlInit_v2(void) { return number("init", OK); }

#ifndef WITHOUT_SHUTDOWN
int nvmlShutdown(void) { return OK; }
#endif

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    char text[MAX_LINE];
    hang_if_told(__func__);
    snprintf(version, length, "%s", instruction("driver", text, sizeof text) ? text : VERSION);
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = 12080;
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *devices) {
    hang_if_told(__func__);
    *devices = (unsigned)number("gpus", 0);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    char order[MAX_LINE];
    unsigned gpu = index;
    hang_if_told(__func__);
    if (instruction("order", order, sizeof order)) {
        char *rest = order;
        for (unsigned place = 0; place <= index; place++) {
            int used = 0;
            if (sscanf(rest, "%u%n", &gpu, &used) != 1) return INVALID_ARGUMENT;
            rest += used;
        }
    }
    *device = handle_of(gpu, 0);
    return number_of("handle", gpu, OK);
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    char text[MAX_LINE];
    unsigned gpu = gpu_of(device), partition = partition_of(device);
    BEGIN(device);
    if (partition) {
        if (!about("partition", gpu, (int)partition - 1, text)) return NOT_FOUND;
        text[strcspn(text, " ")] = 0;
        snprintf(uuid, length, "%s", text);
    } else if (about("uuid", gpu, 0, text))
        snprintf(uuid, length, "%s", text);
    else
        snprintf(uuid, length, "GPU-%08x-0000-0000-0000-000000000000", gpu);
    return OK;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    char text[MAX_LINE];
    BEGIN(device);
    snprintf(name, length, "%s", about("name", gpu_of(device), 0, text) ? text : "NVIDIA Stand-In");
    return OK;
}

static void fill_pci(pci_info *info, unsigned bus, unsigned device_id) {
    memset(info, 0, sizeof *info);
    info->bus = bus;
    info->device_id = device_id;
    /* A domain that no host has: nothing is found there below /sys. */
    info->domain = 0xfa7e;
    snprintf(info->bus_id, sizeof info->bus_id, "0000FA7E:%02X:00.0", bus);
}

int nvmlDeviceGetPciInfo_v3(void *device, pci_info *info) {
    BEGIN(device);
    fill_pci(info, gpu_of(device) + 1, 0x233010de);
    return OK;
}

int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) {
    BEGIN(device);
    *minor = gpu_of(device);
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *info) {
    char text[MAX_LINE];
    unsigned gpu = gpu_of(device), partition = partition_of(device);
    unsigned long long mib = 0;
    BEGIN(device);
    info->total = 24ULL << 30;
    if (partition && about("partition", gpu, (int)partition - 1, text)) {
        sscanf(text, "%*s %llu", &mib);
        info->total = mib << 20;
    }
    info->reserved = 0;
    info->used = (unsigned long long)number_of("used", gpu, 1024) << 20;
    info->free = info->total - info->used;
    return number_of("memory", gpu, OK);
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    BEGIN(device);
    *major = 8;
    *minor = 9;
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization *rates) {
    BEGIN(device);
    rates->gpu = (unsigned)number_of("busy", gpu_of(device), 42);
    rates->memory = 7;
    return OK;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *temperature) {
    BEGIN(device);
    if (sensor != 0) return INVALID_ARGUMENT;
    *temperature = (unsigned)number_of("temperature", gpu_of(device), 55);
    return OK;
}

#ifndef WITHOUT_POWER
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    BEGIN(device);
    *milliwatts = (unsigned)number_of("power", gpu_of(device), 61500);
    return OK;
}
#endif

int nvmlDeviceGetNumFans(void *device, unsigned *fans) {
    BEGIN(device);
    *fans = 2;
    return OK;
}

/* The second one is a little faster. */
int nvmlDeviceGetFanSpeed_v2(void *device, unsigned fan, unsigned *speed) {
    int percent = number_of("fan", gpu_of(device), -1);
    BEGIN(device);
    *speed = (unsigned)percent + fan;
    return percent < 0 ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    char text[MAX_LINE];
    BEGIN(device);
    *reasons = 0;
    if (about("throttle", gpu_of(device), 0, text)) sscanf(text, "%llx", reasons);
    return OK;
}

static int pcie(void *device, int which, unsigned *value) {
    char text[MAX_LINE];
    unsigned values[4] = {4, 4, 16, 16};
    if (about("pcie", gpu_of(device), 0, text))
        sscanf(text, "%u %u %u %u", &values[0], &values[1], &values[2], &values[3]);
    *value = values[which];
    return OK;
}

int nvmlDeviceGetCurrPcieLinkGeneration(void *device, unsigned *value) {
    BEGIN(device);
    return pcie(device, 0, value);
}

int nvmlDeviceGetMaxPcieLinkGeneration(void *device, unsigned *value) {
    BEGIN(device);
    return pcie(device, 1, value);
}

int nvmlDeviceGetCurrPcieLinkWidth(void *device, unsigned *value) {
    BEGIN(device);
    return pcie(device, 2, value);
}

int nvmlDeviceGetMaxPcieLinkWidth(void *device, unsigned *value) {
    BEGIN(device);
    return pcie(device, 3, value);
}

int nvmlDeviceGetTotalEccErrors(void *device, int kind, int since, unsigned long long *errors) {
    char text[MAX_LINE];
    unsigned long long counts[2] = {0, 0};
    BEGIN(device);
    if (!about("ecc", gpu_of(device), 0, text)) return NOT_SUPPORTED;
    sscanf(text, "%llu %llu", &counts[0], &counts[1]);
    *errors = kind == 1 ? counts[since ? 1 : 0] : 0;
    return OK;
}

int nvmlDeviceGetFieldValues(void *device, int values, field_value *fields) {
    char text[MAX_LINE];
    unsigned gpu = gpu_of(device);
    BEGIN(device);
    for (int i = 0; i < values; i++) {
        unsigned remap[2] = {0, 0};
        int recovery = number_of("recovery", gpu, -1);
        fields[i].type = 1;
        fields[i].result = NOT_SUPPORTED;
        if ((fields[i].id == 144 || fields[i].id == 145) && about("remap", gpu, 0, text)) {
            sscanf(text, "%u %u", &remap[0], &remap[1]);
            fields[i].result = OK;
            fields[i].value.u = remap[fields[i].id - 144];
        } else if (fields[i].id == 230 && recovery >= 0) {
            fields[i].result = OK;
            fields[i].value.u = (unsigned)recovery;
        }
    }
    return OK;
}

static int list(void *device, const char *kind, unsigned *room, process_info *processes) {
    char text[MAX_LINE], its_kind[32];
    unsigned found = 0, pid, mib;
    for (int n = 0; about("process", gpu_of(device), n, text); n++) {
        int words = sscanf(text, "%u %u %31s", &pid, &mib, its_kind);
        if (words < 2 || strcmp(words == 3 ? its_kind : "compute", kind)) continue;
        if (processes && found < *room) {
            processes[found].pid = pid;
            processes[found].memory = (unsigned long long)mib << 20;
            processes[found].gpu_instance = processes[found].compute_instance = ~0U;
        }
        found++;
    }
    int fits = found <= *room && (processes || !found);
    *room = found;
    return fits ? OK : INSUFFICIENT_SIZE;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *room, process_info *processes) {
    int code = number_of("processes", gpu_of(device), OK);
    BEGIN(device);
    return code == OK ? list(device, "compute", room, processes) : code;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *room, process_info *processes) {
    BEGIN(device);
    return list(device, "graphics", room, processes);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *device, unsigned *room, process_info *processes) {
    BEGIN(device);
    return list(device, "mps", room, processes);
}

/* Links are numbered: first those to GPUs, then those to switches. */
static int far_end(void *device, unsigned link, pci_info *info) {
    char text[MAX_LINE];
    unsigned number, links = 0;
    while (about("nvlink", gpu_of(device), (int)links, text)) {
        if (links++ == link && sscanf(text, "%u", &number) == 1) {
            fill_pci(info, number + 1, 0x233010de);
            return OK;
        }
    }
    if (!about("nvswitch", gpu_of(device), (int)(link - links), text)) return INVALID_ARGUMENT;
    sscanf(text, "%u", &number);
    fill_pci(info, number + 0xc0, 0x22a310de);
    return OK;
}

int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) {
    pci_info info;
    BEGIN(device);
    *active = 1;
    return far_end(device, link, &info);
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned link, pci_info *info) {
    BEGIN(device);
    return far_end(device, link, info);
}

int nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, unsigned *level) {
    char key[64];
    BEGIN(one);
    snprintf(key, sizeof key, "topology %u %u", gpu_of(one), gpu_of(other));
    *level = (unsigned)number(key, 50);
    snprintf(key, sizeof key, "topology %u %u", gpu_of(other), gpu_of(one));
    *level = (unsigned)number(key, (int)*level);
    return OK;
}

int nvmlDeviceGetCpuAffinity(void *device, unsigned size, unsigned long *set) {
    BEGIN(device);
    char text[MAX_LINE];
    memset(set, 0, size * sizeof *set);
    if (!about("cpus", gpu_of(device), 0, text)) return NOT_SUPPORTED;
    sscanf(text, "%lx", &set[0]);
    return OK;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    int mode = number_of("mig", gpu_of(device), -1);
    BEGIN(device);
    *current = *pending = (unsigned)mode;
    return mode < 0 ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *places) {
    BEGIN(device);
    *places = 7;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned place, void **partition) {
    char text[MAX_LINE];
    BEGIN(device);
    if (!about("partition", gpu_of(device), (int)place, text)) return NOT_FOUND;
    *partition = handle_of(gpu_of(device), place + 1);
    return OK;
}

/* One set for each GPU: the number of its last event, and who it is. */
typedef struct {
    void *device;
    int past, in_use;
} event_set;
static event_set sets[MAX_GPUS];

static int last_event(void *device, unsigned *code) {
    char text[MAX_LINE];
    int last = 0, at;
    unsigned its_code;
    for (int n = 0; about("xid", gpu_of(device), n, text); n++)
        if (sscanf(text, "%u %d", &its_code, &at) == 2 && at > last) {
            last = at;
            *code = its_code;
        }
    return last;
}

int nvmlEventSetCreate(void **set) {
    hang_if_told(__func__);
    pthread_mutex_lock(&lock);
    *set = NULL;
    for (int i = 0; i < MAX_GPUS && !*set; i++)
        if (!sets[i].in_use) {
            memset(&sets[i], 0, sizeof sets[i]);
            sets[i].in_use = 1;
            *set = &sets[i];
        }
    pthread_mutex_unlock(&lock);
    return *set ? OK : INSUFFICIENT_SIZE;
}

int nvmlEventSetFree(void *set) {
    ((event_set *)set)->in_use = 0;
    return OK;
}

int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *types) {
    BEGIN(device);
    *types = 8;
    return OK;
}

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    event_set *mine = set;
    unsigned code;
    BEGIN(device);
    if (types != 8 || mine->device) return INVALID_ARGUMENT;
    mine->device = device;
    mine->past = last_event(device, &code);
    return number_of("events", gpu_of(device), OK);
}

int nvmlEventSetWait_v2(void *set, event_data *data, unsigned limit_ms) {
    event_set *mine = set;
    unsigned code = 0;
    for (unsigned waited = 0;; waited += 5) {
        hang_if_told(__func__);
        int last = last_event(mine->device, &code);
        if (last > mine->past) {
            mine->past = last;
            memset(data, 0, sizeof *data);
            data->device = mine->device;
            data->type = 8;
            data->data = code;
            return OK;
        }
        if (waited >= limit_ms) return TIMEOUT;
        usleep(5000);
    }
}
