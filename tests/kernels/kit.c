/*
 * kit.c - see kit.h.
 */
#include "kit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { REGION_BYTES = 4 << 20, N_REGIONS = 8 };

size_t n_checks, n_failures, cases_per_check = 1;

void check(bool ok, const char *set, const char *row, const char *detail)
{
    n_checks++;
    if (ok)
        return;
    if (n_failures++ < 20)
        fprintf(stderr, "FAILED: %s %s: %s\n", set, row, detail);
}

int print_result(const struct kernels *const *sets, size_t n_sets)
{
    printf("instruction sets:");
    for (size_t i = 0; i < n_sets; i++)
        printf(" %s", sets[i]->name);
    printf("\n%zu checks, %zu failures\n", n_checks, n_failures);
    return n_failures ? 1 : 0;
}

/* ---- random numbers, from a fixed seed ---- */

static uint64_t random_state = 0x9e3779b97f4a7c15u;

uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1du;
}

size_t random_between(size_t least, size_t most)
{
    return least + (size_t)(random_bits() >> 33) % (most - least + 1);
}

bool is_left_out(void)
{
    return cases_per_check > 1 && random_between(1, cases_per_check) > 1;
}

float random_float(void)
{
    return (float)((int64_t)(random_bits() >> 40) - (1 << 23)) * 0x1p-23f;
}

float random_value(enum values kind)
{
    static const float nasty[] = {0.0f,      -0.0f,      1e-40f, -1e-40f, 0x1p-149f, -0x1p-149f,
                                  0x1p-126f, -0x1p-126f, 1e-20f, -3e-20f, 1e19f,     -2e19f,
                                  3e38f,     -3e38f,     1.0f,   -1.0f};
    if (kind == NASTY)
        return random_bits() >> 62 ? random_float() : nasty[random_bits() >> 60];
    if (kind == EQUALS)
        return (float)random_between(0, 2) - 1.0f;
    return kind == WIDE ? random_float() * 100.0f : random_float();
}

/* ---- memory with edges ---- */

static char *regions[N_REGIONS];

void make_regions(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    for (size_t i = 0; i < N_REGIONS; i++) {
        char *at =
            mmap(NULL, REGION_BYTES + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED || mprotect(at + REGION_BYTES, page, PROT_NONE) != 0) {
            perror("mmap");
            exit(2);
        }
        regions[i] = at;
    }
}

void *edge(size_t region, size_t bytes)
{
    if (bytes > REGION_BYTES)
        abort();
    return regions[region] + REGION_BYTES - bytes;
}

float *edge_floats(size_t region, size_t n, enum values kind)
{
    float *at = edge(region, n * sizeof *at);
    for (size_t i = 0; i < n; i++)
        at[i] = random_value(kind);
    return at;
}

void *edge_weights(size_t region, size_t n, enum weight_type type, enum values kind)
{
    if (type == WEIGHT_F32)
        return edge_floats(region, n, kind);
    uint16_t *at = edge(region, n * sizeof *at);
    for (size_t i = 0; i < n; i++) {
        if (kind == NASTY) {
            uint16_t exponent = type == WEIGHT_F16 ? 0x7c00 : 0x7f80;
            do
                at[i] = (uint16_t)random_bits();
            while ((at[i] & exponent) == exponent);
        } else {
            at[i] = (uint16_t)((type == WEIGHT_F16 ? 0x3800 : 0x3f00) + (random_bits() & 0x83ff));
        }
    }
    return at;
}

static unsigned char output_bytes[2][MAX_OUT * sizeof(float) + 2 * GUARD_BYTES + 64];

struct outputs outputs_of(size_t n, enum values kind)
{
    if (n > MAX_OUT)
        abort();
    memset(output_bytes, 0xa5, sizeof output_bytes);
    struct outputs out = {.n = n,
                          .reference = (float *)(void *)(output_bytes[0] + GUARD_BYTES),
                          .set =
                              (float *)(void *)(output_bytes[1] + GUARD_BYTES + 4 * random_between(0, 15))};
    for (size_t i = 0; i < n; i++)
        out.reference[i] = out.set[i] = random_value(kind);
    return out;
}

bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)); /* one NaN is as good as another */
}

static bool guards_hold(const struct outputs *out)
{
    const unsigned char *begin = (const unsigned char *)out->set, *end = begin + out->n * sizeof *out->set;

    for (const unsigned char *at = output_bytes[1]; at < output_bytes[1] + sizeof output_bytes[1]; at++)
        if ((at < begin || at >= end) && *at != 0xa5)
            return false;
    return true;
}

void compare(const struct outputs *out, const struct kernels *set, const char *row, const char *shape)
{
    char detail[256];

    for (size_t i = 0; i < out->n; i++)
        if (!same_float(out->reference[i], out->set[i])) {
            snprintf(detail, sizeof detail, "%s: [%zu] is %a instead of %a", shape, i, (double)out->set[i],
                     (double)out->reference[i]);
            check(false, set->name, row, detail);
            return;
        }
    check(true, set->name, row, shape);
    check(guards_hold(out), set->name, row, "wrote outside its output");
}

/* The thread's own time: others may use the core meanwhile. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { MAX_REPEATS = 2000 };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Short works are timed by the hundred, for reading the clock takes its time too. */
double median_seconds(void (*work)(void *context, size_t i), void *context)
{
    static double times[MAX_REPEATS];
    double begin = now();
    size_t n = 0, i = 0;

    work(context, i++);
    size_t at_once = now() - begin < 20e-6 ? 100 : 1;
    begin = now();
    for (double last = begin; n < MAX_REPEATS && (n < 5 || last - begin < 0.25); n++) {
        double before = now();
        for (size_t j = 0; j < at_once; j++)
            work(context, i++);
        last = now();
        times[n] = (last - before) / (double)at_once;
    }
    qsort(times, n, sizeof *times, by_value);
    return times[n / 2];
}

volatile float sink;

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f"))) static void fma_512(void *context, size_t i)
{
    __m512 a[12], b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps((float)i);
    for (int j = 0; j < 12; j++)
        a[j] = _mm512_set1_ps((float)j);
    for (size_t n = *(size_t *)context; n > 0; n--)
#pragma GCC unroll 12
        for (int j = 0; j < 12; j++)
            a[j] = _mm512_fmadd_ps(a[j], b, c);
    for (int j = 1; j < 12; j++)
        a[0] = _mm512_add_ps(a[0], a[j]);
    sink = _mm512_reduce_add_ps(a[0]);
}

__attribute__((target("avx2,fma"))) static void fma_256(void *context, size_t i)
{
    __m256 a[12], b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps((float)i);
    for (int j = 0; j < 12; j++)
        a[j] = _mm256_set1_ps((float)j);
    for (size_t n = *(size_t *)context; n > 0; n--)
#pragma GCC unroll 12
        for (int j = 0; j < 12; j++)
            a[j] = _mm256_fmadd_ps(a[j], b, c);
    for (int j = 1; j < 12; j++)
        a[0] = _mm256_add_ps(a[0], a[j]);
    sink = _mm_cvtss_f32(_mm256_castps256_ps128(a[0]));
}

__attribute__((target("avx2"))) static void read_pool(void *context, size_t i)
{
    const __m256i *at = context;
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                      _mm256_setzero_si256()};

    for (size_t n = POOL_BYTES / 128; n > 0; n--, at += 4) {
        _mm_prefetch((const char *)at + 4096, _MM_HINT_T0);
        _mm_prefetch((const char *)at + 4096 + 64, _MM_HINT_T0);
        for (size_t j = 0; j < 4; j++)
            sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(at + j));
    }
    sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
    sink = (float)(_mm256_extract_epi32(sum[0], 0) + (int)i);
}
#elif defined(__aarch64__)
#include <arm_neon.h>

static void fma_neon(void *context, size_t i)
{
    float32x4_t a[24], b = vdupq_n_f32(0.999f), c = vdupq_n_f32((float)i);
    for (int j = 0; j < 24; j++)
        a[j] = vdupq_n_f32((float)j);
    for (size_t n = *(size_t *)context; n > 0; n--)
#pragma GCC unroll 24
        for (int j = 0; j < 24; j++)
            a[j] = vfmaq_f32(c, a[j], b);
    for (int j = 1; j < 24; j++)
        a[0] = vaddq_f32(a[0], a[j]);
    sink = vaddvq_f32(a[0]);
}

static void read_pool(void *context, size_t i)
{
    const uint32_t *at = context;
    uint32x4_t sum[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};

    for (size_t n = POOL_BYTES / 64; n > 0; n--, at += 16) {
        __builtin_prefetch((const char *)at + 4096);
        for (size_t j = 0; j < 4; j++)
            sum[j] = veorq_u32(sum[j], vld1q_u32(at + 4 * j));
    }
    sum[0] = veorq_u32(veorq_u32(sum[0], sum[1]), veorq_u32(sum[2], sum[3]));
    sink = (float)(vgetq_lane_u32(sum[0], 0) + (uint32_t)i);
}
#endif

struct limits measure_limits(const struct kernels *set, void *pool)
{
    struct limits limits = {NAN, NAN};
    size_t n = 2000000;
    if (strcmp(set->name, "c") == 0)
        return limits;
#if defined(__x86_64__)
    if (strncmp(set->name, "avx512", 6) == 0)
        limits.flops = 12.0 * 32 * (double)n / median_seconds(fma_512, &n);
    else
        limits.flops = 12.0 * 16 * (double)n / median_seconds(fma_256, &n);
    limits.bytes = POOL_BYTES / median_seconds(read_pool, pool);
#elif defined(__aarch64__)
    limits.flops = 24.0 * 8 * (double)n / median_seconds(fma_neon, &n);
    limits.bytes = POOL_BYTES / median_seconds(read_pool, pool);
#endif
    return limits;
}
