/* Two cards with known figures behind the entry points of NVML that the sampler calls. Card 1 has no ECC and no error events. */
#include <string.h>
typedef unsigned int u; typedef unsigned long long ull;
static int cards[2] = {0, 1};
static int events_left = 1;
#define NOT_SUPPORTED 3
#define TIMEOUT 10
static int is1(void *c) { return c == &cards[1]; }
int nvmlInitWithFlags(u f) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return "refused"; }
int nvmlDeviceGetCount_v2(u *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(u i, void **c) { *c = &cards[i]; return 0; }
int nvmlDeviceGetIndex(void *c, u *i) { *i = is1(c); return 0; }
int nvmlDeviceGetUtilizationRates(void *c, u r[2]) { r[0] = is1(c) ? 0 : 83; r[1] = is1(c) ? 0 : 41; return 0; }
int nvmlDeviceGetMemoryInfo(void *c, ull m[3]) { m[0] = 80ULL << 30; m[2] = is1(c) ? 0 : 70ULL << 30; m[1] = m[0] - m[2]; return 0; }
/* nvmlProcessInfo_t of version 3: pid, memory, two instance ids */
struct process { u pid; ull used; u gi, ci; };
int nvmlDeviceGetComputeRunningProcesses_v3(void *c, u *n, struct process *p) {
  u have = is1(c) ? 0 : 3, room = *n;
  *n = have;
  if (!have) return 0;
  if (!p || room < have) return 7; /* insufficient size */
  memset(p, 0, have * sizeof *p);
  return 0;
}
int nvmlDeviceGetPowerUsage(void *c, u *mw) { *mw = is1(c) ? 60500 : 612000; return 0; }
int nvmlDeviceGetTemperature(void *c, u s, u *t) { *t = is1(c) ? 30 : 71; return 0; }
int nvmlDeviceGetClockInfo(void *c, u kind, u *mhz) { *mhz = kind == 1 ? 1980 : 3201; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *c, ull *r) { *r = is1(c) ? 1 : 4; return 0; }
int nvmlDeviceGetTotalEccErrors(void *c, u kind, u counter, ull *n) { if (is1(c)) return NOT_SUPPORTED; *n = kind ? 2 : 5; return 0; }
int nvmlDeviceGetPcieReplayCounter(void *c, u *n) { if (is1(c)) return NOT_SUPPORTED; *n = 6; return 0; }
/* GPM: a sample holds when it was taken; figures are for the second sample after the first alone, by number of the metric */
struct sample { int taken; };
static struct sample samples[2];
static int given, taken;
struct support { u version, yes; };
struct metric { u id; int result; double value; char *names[3]; };
struct question { u version, n; struct sample *from, *to; struct metric metrics[]; };
int nvmlGpmQueryDeviceSupport(void *c, struct support *s) { s->yes = !is1(c); return s->version == 1 ? 0 : 2; }
int nvmlGpmSampleAlloc(struct sample **s) { *s = &samples[given++ % 2]; return 0; }
int nvmlGpmSampleFree(struct sample *s) { return given-- > 0 ? 0 : 2; }
int nvmlGpmSampleGet(void *c, struct sample *s) { s->taken = ++taken; return 0; }
int nvmlGpmMetricsGet(struct question *q) {
  if (q->version != 1 || q->from->taken + 1 != q->to->taken) return 2; /* invalid argument */
  for (u i = 0; i < q->n; i++) {
    u id = q->metrics[i].id;
    q->metrics[i].value = id == 2 ? 93 : id == 3 ? 64 : id == 5 ? 52 : id == 20 ? 3 : 7;
    q->metrics[i].result = 0;
  }
  return 0;
}
int nvmlEventSetCreate(void **s) { *s = cards; return 0; }
int nvmlEventSetFree(void *s) { return 0; }
int nvmlDeviceRegisterEvents(void *c, ull t, void *s) { return is1(c) ? NOT_SUPPORTED : 0; }
struct event { void *card; ull type, data; u gi, ci; };
int nvmlEventSetWait_v2(void *s, struct event *e, u ms) {
  if (!events_left) return TIMEOUT;
  events_left--;
  memset(e, 0, sizeof *e);
  e->card = &cards[0]; e->type = 8; e->data = 79;
  return 0;
}
