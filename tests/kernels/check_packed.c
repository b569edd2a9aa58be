/*
 * check_packed.c - packing, quantising and the products with packed weights, of every instruction set that this CPU has: bit for bit
 * against reference.c, and that against sums in double.
 *
 * `--quick` checks an eighth of the cases. `--bench [SET [PART]]` measures instead: one set, types whose name has PART in it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/huge.h"
#include "base/pool.h"
#include "kernels/pack.h"
#include "kit.h"

enum { PREPARED_BYTES = 1 << 20 };
static char *prepared_room[2];

/* A matrix in packed form at the end of memory, as `source` (row-major, of the type or f32) has it. */
static void *pack_matrix(enum weight_type type, const void *source, size_t n_out, size_t n_in)
{
    size_t row_bytes = n_in * (weight_type_is_exact(type) ? weight_type_size(type) : 4);
    char *packed = edge(2, packed_bytes(type, n_out, n_in));
    for (size_t row = 0; row < n_out; row += PANEL_ROWS) {
        size_t n = n_out - row < PANEL_ROWS ? n_out - row : PANEL_ROWS;
        pack_panel(type, packed + packed_at(type, row, n_in), (const char *)source + row * row_bytes, n, n_in);
    }
    return packed;
}

static const void *source_of(enum weight_type type, size_t n_out, size_t n_in, enum values kind)
{
    return edge_weights(0, n_out * n_in, weight_type_is_exact(type) ? type : WEIGHT_F32, kind);
}

/* ---- packing ---- */

static void check_exact_packing(const struct kernels *reference, enum weight_type type, size_t n_out, size_t n_in)
{
    const void *source = source_of(type, n_out, n_in, NASTY);
    void *packed = pack_matrix(type, source, n_out, n_in);
    float *wanted = malloc(n_out * n_in * sizeof(float)), *found = malloc(n_out * n_in * sizeof(float));
    char shape[64];
    snprintf(shape, sizeof shape, "%zu x %zu", n_out, n_in);
    reference->widen[type](wanted, source, n_out * n_in);
    size_t first = random_between(0, n_out - 1);
    unpack_rows(type, found, packed, n_out, n_in, 0, first);
    unpack_rows(type, found + first * n_in, packed, n_out, n_in, first, n_out - first);
    check(memcmp(wanted, found, n_out * n_in * sizeof(float)) == 0, weight_type_name(type), "pack", shape);
    free(wanted), free(found);
}

/* The error of normally distributed weights, relative to their square. */
static double quantisation_error(enum weight_type type)
{
    enum { N_OUT = 100, N_IN = 1000 };
    float *source = edge(0, N_OUT * N_IN * sizeof(float)), *found = malloc(N_OUT * N_IN * sizeof(float));
    double error = 0, square = 0;
    for (size_t i = 0; i < N_OUT * N_IN; i++) {
        source[i] = 0;
        for (size_t j = 0; j < 12; j++)
            source[i] += random_float() * 0.01f;
    }
    unpack_rows(type, found, pack_matrix(type, source, N_OUT, N_IN), N_OUT, N_IN, 0, N_OUT);
    for (size_t i = 0; i < N_OUT * N_IN; i++) {
        double difference = (double)found[i] - (double)source[i];
        error += difference * difference;
        square += (double)source[i] * (double)source[i];
    }
    free(found);
    return error / square;
}

/* Groups that have an exact form must come back as they were; what is not finite must not come back finite. */
static void check_special_groups(enum weight_type type)
{
    float source[2 * PACK_GROUP], found[2 * PACK_GROUP];
    unsigned char packed[PANEL_LANES * 2 * (PACK_GROUP + 2)];
    for (size_t i = 0; i < 2 * PACK_GROUP; i++)
        source[i] = i < PACK_GROUP ? 0.0f : (i % 2 ? 0.5f : -0.5f) * (type == WEIGHT_Q8 || i % 2 == 0);
    pack_panel(type, packed, source, 1, 2 * PACK_GROUP);
    unpack_rows(type, found, packed, 1, 2 * PACK_GROUP, 0, 1);
    for (size_t i = 0; i < 2 * PACK_GROUP; i++)
        check(fabsf(found[i] - source[i]) <= (type == WEIGHT_Q8 ? 0.002f : 0.04f), weight_type_name(type), "pack", "a simple group");
    source[3] = INFINITY;
    pack_panel(type, packed, source, 1, 2 * PACK_GROUP);
    unpack_rows(type, found, packed, 1, 2 * PACK_GROUP, 0, 1);
    check(!isfinite(found[3]), weight_type_name(type), "pack", "infinity becomes a number");
}

static void check_packing(const struct kernels *reference)
{
    for (size_t i = 0; i < 60; i++)
        for (int type = 0; type < N_ELEMENT_TYPES; type++)
            if (!is_left_out())
                check_exact_packing(reference, (enum weight_type)type, random_between(1, 200), random_between(1, 100));
    double q8 = quantisation_error(WEIGHT_Q8), q4 = quantisation_error(WEIGHT_Q4);
    printf("quantisation of normal weights loses of their square: q8 %.2g, q4 %.2g\n", q8, q4);
    check(q8 < 4e-5, "q8", "pack", "loses more than it should");
    check(q4 < 6e-3, "q4", "pack", "loses more than it should");
    check_special_groups(WEIGHT_Q8);
    check_special_groups(WEIGHT_Q4);
    check(packed_bytes(WEIGHT_F32, SIZE_MAX / 8, 64) == SIZE_MAX, "f32", "packed_bytes", "overflows");
}

/* ---- products ---- */

struct prepared {
    struct activations reference, set;
};

/* In parts: some of the tokens' inputs, the other tokens, the other inputs. */
static void prepare_in_parts(const struct kernels *set, const struct activations *to, const float *x)
{
    const size_t cut = random_between(0, to->n_in / PACK_GROUP) * PACK_GROUP, token = random_between(0, to->n_tokens);
    const struct activations_part parts[] = {{0, token, cut, to->n_in}, {token, to->n_tokens, 0, to->n_in}, {0, token, 0, cut}};
    memset(to->data, 0, activations_bytes(to));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        set->prepare[to->type](to, &parts[i], x, to->n_in);
}

/* Whether the set laid down the bytes of each group token by token, as tiles want them when there are several blocks, and nothing else differs: but
   for the starts, of which tiles have no use. */
static bool are_by_token(const struct prepared *both)
{
    const struct activations *x = &both->reference;
    size_t group_bytes = PACK_GROUP_UNITS * 4 * x->width, n_groups = (x->n_in + PACK_GROUP - 1) / PACK_GROUP;
    bool is_same = x->type >= N_ELEMENT_TYPES && x->n_tokens > x->width;
    for (size_t t = 0; is_same && t < x->n_tokens; t++) {
        size_t i = t % x->width, at = (size_t)(activations_at(x, t - i) - x->data);
        for (size_t g = 0; g < n_groups; g++, at += group_bytes) {
            const char *wanted = both->reference.data + at, *found = both->set.data + at, *scales = wanted + x->width * PACK_GROUP;
            for (size_t j = 0; j < PACK_GROUP / 4; j++)
                is_same = is_same && memcmp(wanted + (j * x->width + i) * 4, found + i * PACK_GROUP + j * 4, 4) == 0;
            is_same = is_same && memcmp(scales + i * 4, found + (scales - wanted) + i * 4, 4) == 0;
        }
    }
    return is_same;
}

/* x prepared by both as the set likes it; they must agree, but for bf16, which lies as the set likes, and for tiles. */
static struct prepared prepare(const struct kernels *reference, const struct kernels *set, enum weight_type type, const float *x, size_t n_in,
                               size_t n_tokens)
{
    struct activations to = {.type = type, .n_in = n_in, .n_tokens = n_tokens, .width = activations_width(set, type, n_tokens)};
    struct prepared both = {to, to};
    check(activations_bytes(&to) <= PREPARED_BYTES, set->name, "prepare", "wants more than there is");
    both.reference.data = prepared_room[0], both.set.data = prepared_room[1];
    prepare_in_parts(reference, &both.reference, x);
    prepare_in_parts(set, &both.set, x);
    check(type == WEIGHT_BF16 || memcmp(prepared_room[0], prepared_room[1], activations_bytes(&to)) == 0 || are_by_token(&both),
          set->name, "prepare", weight_type_name(type));
    return both;
}

static void compare_product(const struct kernels *reference, const struct kernels *set, enum weight_type type, size_t n_out, size_t n_in,
                            size_t n_tokens, enum values kind)
{
    if (is_left_out())
        return;
    size_t out_stride = n_out + random_between(0, 5);
    void *packed = pack_matrix(type, source_of(type, n_out, n_in, kind), n_out, n_in);
    const float *x = edge_floats(1, n_tokens * n_in, kind);
    struct prepared rows = prepare(reference, set, type, x, n_in, n_tokens);
    struct outputs out = outputs_of((n_tokens - 1) * out_stride + n_out, PLAIN);
    size_t first = random_between(0, 3) == 0 ? random_between(0, n_tokens - 1) : 0, n = n_tokens - first;
    char shape[128];
    n = random_between(0, 3) == 0 ? random_between(1, n) : n;
    snprintf(shape, sizeof shape, "%s %zu x %zu, tokens %zu to %zu of %zu", weight_type_name(type), n_out, n_in, first, first + n, n_tokens);
    reference->multiply_packed[type](out.reference, out_stride, packed, n_out, &rows.reference, first, n);
    set->multiply_packed[type](out.set, out_stride, packed, n_out, &rows.set, first, n);
    compare(&out, set, "multiply_packed", shape);
}

/* Some have more inputs than a chunk of a panel, or more tokens than those whose sums wait between chunks; the last has both, and more panels than
   pass together. */
static void check_products(const struct kernels *reference, const struct kernels *set, bool is_flushed)
{
    for (int i = 0; i < N_WEIGHT_TYPES; i++) {
        enum weight_type type = (enum weight_type)i;
        enum values nasty = type == WEIGHT_BF16 && !is_flushed ? PLAIN : NASTY; /* the instruction for pairs always flushes */
        for (size_t n = 1; n <= 70; n++) {
            compare_product(reference, set, type, random_between(1, 200), n, random_between(1, 9), n % 2 ? PLAIN : nasty);
            compare_product(reference, set, type, n, random_between(1, 200), random_between(1, 9), n % 2 ? PLAIN : nasty);
        }
        for (size_t n_tokens = 1; n_tokens <= 40; n_tokens++)
            compare_product(reference, set, type, random_between(1, 140), random_between(1, 200), n_tokens, nasty);
        for (size_t n = 0; n < 4; n++)
            compare_product(reference, set, type, random_between(60, 80), random_between(5000, 8000), random_between(1, 20), PLAIN);
        for (size_t n = 0; n < 8; n++)
            compare_product(reference, set, type, random_between(1, 140), random_between(1000, 3000), random_between(17, 60), PLAIN);
        for (size_t n = 0; n < 3; n++)
            compare_product(reference, set, type, random_between(1, 140), random_between(1, 150), random_between(500, 1100), PLAIN);
        compare_product(reference, set, type, random_between(257, 400), random_between(257, 350), random_between(580, 600), PLAIN);
    }
}

/* Sums in double of what the packed weights and prepared activations stand for. */
static void check_meaning(const struct kernels *set)
{
    enum { N_OUT = 70, N_IN = 333, N_TOKENS = 3 };
    static float x[N_TOKENS * N_IN], w[N_OUT * N_IN], out[N_TOKENS * N_OUT];
    static const double tolerance[N_WEIGHT_TYPES] = {1e-6, 1e-6, 1.0 / 256, 1.0 / 127, 1.0 / 127};
    for (size_t i = 0; i < N_TOKENS * N_IN; i++)
        x[i] = random_float();
    for (int i = 0; i < N_WEIGHT_TYPES; i++) {
        enum weight_type type = (enum weight_type)i;
        void *packed = pack_matrix(type, source_of(type, N_OUT, N_IN, PLAIN), N_OUT, N_IN);
        struct prepared rows = prepare(set, set, type, x, N_IN, N_TOKENS);
        unpack_rows(type, w, packed, N_OUT, N_IN, 0, N_OUT);
        set->multiply_packed[type](out, N_OUT, packed, N_OUT, &rows.set, 0, N_TOKENS);
        for (size_t t = 0; t < N_TOKENS; t++)
            for (size_t o = 0; o < N_OUT; o++) {
                double sum = 0, square = 0;
                for (size_t k = 0; k < N_IN; k++) {
                    double product = (double)w[o * N_IN + k] * (double)x[t * N_IN + k];
                    sum += product;
                    square += product * product;
                }
                check(fabs((double)out[t * N_OUT + o] - sum) < tolerance[type] * 5 * sqrt(square), set->name, "multiply_packed",
                      "far from double");
            }
    }
}

/* The same bits for a token alone, for some panels alone. */
static void check_independence(const struct kernels *set)
{
    enum { N_OUT = 203, N_IN = 150, N_TOKENS = 23 };
    static float x[N_TOKENS * N_IN], together[N_TOKENS * N_OUT], alone[N_OUT];
    for (size_t i = 0; i < N_TOKENS * N_IN; i++)
        x[i] = random_float();
    for (int i = 0; i < N_WEIGHT_TYPES; i++) {
        enum weight_type type = (enum weight_type)i;
        const char *packed = pack_matrix(type, source_of(type, N_OUT, N_IN, PLAIN), N_OUT, N_IN);
        struct prepared rows = prepare(set, set, type, x, N_IN, N_TOKENS);
        set->multiply_packed[type](together, N_OUT, packed, N_OUT, &rows.set, 0, N_TOKENS);
        for (size_t t = 0; t < N_TOKENS; t++) {
            for (size_t o = 0; o < N_OUT; o += PANEL_ROWS)
                set->multiply_packed[type](alone + o, N_OUT, packed + packed_at(type, o, N_IN),
                                           N_OUT - o < PANEL_ROWS ? N_OUT - o : PANEL_ROWS, &rows.set, t, 1);
            check(memcmp(alone, together + t * N_OUT, sizeof alone) == 0, set->name, "multiply_packed",
                  "a token's result depends on its company");
        }
    }
}

/* ---- merging ---- */

/* As the kernel of rows has it: sums in double. */
static void check_merge_meaning(const struct kernels *set, enum weight_type type, const void *w, const void *merged, size_t n_rows, size_t n_in,
                                const float *b, const float *a, size_t rank, float scale, const float *gain)
{
    double tolerance = type == WEIGHT_F32 ? 1e-5 : type == WEIGHT_F16 ? 1e-2 : 8e-2;
    for (size_t n = 0; n < 50; n++) {
        size_t o = random_between(0, n_rows - 1), k = random_between(0, n_in - 1);
        double sum = 0;
        for (size_t j = 0; j < rank; j++)
            sum += (double)b[(o / KERNELS_PANEL * rank + j) * KERNELS_PANEL + o % KERNELS_PANEL] * (double)a[k * rank + j];
        double expected = ((double)unpack_element(type, w, n_rows, n_in, o, k) + (double)scale * sum) * (gain ? (double)gain[o] : 1);
        check(fabs((double)unpack_element(type, merged, n_rows, n_in, o, k) - expected) < tolerance * (1 + fabs(expected)), set->name, "merge",
              "far from double");
    }
}

static void compare_merge(const struct kernels *reference, const struct kernels *set, enum weight_type type, size_t n_rows, size_t n_in, size_t rank)
{
    size_t n_b = (n_rows + KERNELS_PANEL - 1) / KERNELS_PANEL * KERNELS_PANEL * rank, n_bytes = packed_bytes(type, n_rows, n_in);
    const void *w = pack_matrix(type, source_of(type, n_rows, n_in, PLAIN), n_rows, n_in);
    float *b = edge_floats(1, n_b, PLAIN);
    const float *a = edge_floats(3, n_in * rank, PLAIN), *gain = random_between(0, 1) ? edge_floats(4, n_rows, PLAIN) : NULL;
    char *wanted = edge(5, n_bytes), *found = edge(6, n_bytes), shape[128];
    float scale = random_float();
    for (size_t o = n_rows; o < (n_rows + KERNELS_PANEL - 1) / KERNELS_PANEL * KERNELS_PANEL; o++)
        for (size_t j = 0; j < rank; j++)
            b[(o / KERNELS_PANEL * rank + j) * KERNELS_PANEL + o % KERNELS_PANEL] = 0;
    memset(wanted, 0, n_bytes);
    memset(found, 0xa5, n_bytes);
    snprintf(shape, sizeof shape, "%s %zu x %zu, rank %zu", weight_type_name(type), n_rows, n_in, rank);
    reference->merge[type](wanted, w, n_rows, n_in, b, a, rank, scale, gain);
    set->merge[type](found, w, n_rows, n_in, b, a, rank, scale, gain);
    check(memcmp(wanted, found, n_bytes) == 0, set->name, "merge", shape);
    check_merge_meaning(set, type, w, found, n_rows, n_in, b, a, rank, scale, gain);
}

static void check_merge(const struct kernels *reference, const struct kernels *set)
{
    for (int type = 0; type < N_ELEMENT_TYPES; type++)
        for (size_t n = 1; n <= 40; n++)
            compare_merge(reference, set, (enum weight_type)type, random_between(1, 200), n, random_between(0, 20));
}

/* ---- measuring ---- */

struct job {
    const struct kernels *set;
    enum weight_type type;
    size_t n_rows, n_in, n_tokens, bytes;
    char *pool;
    float *x, *out;
    struct activations prepared;
};

/* Another matrix each time, so that weights come from memory. */
static void run_product(void *context, size_t i)
{
    struct job *job = context;
    job->set->multiply_packed[job->type](job->out, job->n_rows + 16, job->pool + i % (POOL_BYTES / job->bytes) * job->bytes, job->n_rows,
                                         &job->prepared, 0, job->n_tokens);
}

static void run_prepare(void *context, size_t i)
{
    struct job *job = context;
    const struct activations_part all = {0, job->n_tokens, 0, job->n_in};
    (void)i;
    job->set->prepare[job->type](&job->prepared, &all, job->x, job->n_in);
}

static void set_tokens(struct job *job, size_t n_in, size_t n_tokens)
{
    job->n_in = n_in, job->n_tokens = n_tokens;
    job->prepared.type = job->type, job->prepared.n_in = n_in, job->prepared.n_tokens = n_tokens;
    job->prepared.width = activations_width(job->set, job->type, n_tokens);
    run_prepare(job, 0);
}

/* Rank 16. */
static void run_merge(void *context, size_t i)
{
    struct job *job = context;
    const char *w = job->pool + i % (POOL_BYTES / job->bytes) * job->bytes;
    job->set->merge[job->type](job->out, w, job->n_rows, job->n_in, job->x, job->x, 16, 2.0f, NULL);
}

static void bench_type(struct job job, const struct limits *limits)
{
    static const size_t shapes[][2] = {{896, 896}, {2048, 2048}, {8192, 2048}, {2048, 8192}}, tokens[] = {1, 2, 4, 8, 16, 64, 512};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++) {
            job.n_rows = shapes[s][0];
            set_tokens(&job, shapes[s][1], tokens[t]);
            job.bytes = packed_bytes(job.type, job.n_rows, job.n_in);
            double operations = 2.0 * (double)(job.n_rows * job.n_in * job.n_tokens), seconds = median_seconds(run_product, &job);
            printf("%-10s %-4s %4zux%-4zu %3zu tokens %12.0f ns %8.1f Gop/s %7.2f x f32 %7.1f GB/s (%3.0f %%)\n", job.set->name,
                   weight_type_name(job.type), job.n_rows, job.n_in, job.n_tokens, seconds * 1e9, operations / seconds * 1e-9,
                   operations / seconds / limits->flops, (double)job.bytes / seconds * 1e-9,
                   100 * (double)job.bytes / seconds / limits->bytes);
            fflush(stdout);
        }
    job.n_rows = job.n_in = 2048, job.bytes = packed_bytes(job.type, job.n_rows, job.n_in);
    if (job.type < N_ELEMENT_TYPES)
        printf("%-10s %-4s merge 2048x2048, rank 16: %.0f ns\n", job.set->name, weight_type_name(job.type),
               median_seconds(run_merge, &job) * 1e9);
    for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++) {
        set_tokens(&job, 2048, tokens[t]);
        printf("%-10s %-4s prepare 2048, %3zu tokens: %.0f ns each\n", job.set->name, weight_type_name(job.type), tokens[t],
               median_seconds(run_prepare, &job) * 1e9 / (double)tokens[t]);
    }
}

static int bench(const struct kernels *const *sets, size_t n_sets, const char *only, const char *part)
{
    const size_t n_floats = 512 * 8300;
    struct job job = {.pool = huge_allocate(POOL_BYTES), .x = huge_malloc(n_floats * sizeof(float)), .out = huge_malloc(n_floats * sizeof(float))};
    job.prepared.data = huge_malloc(n_floats * sizeof(float));
    if (!job.pool || !job.x || !job.out || !job.prepared.data)
        return 2;
    for (size_t i = 0; i < POOL_BYTES / sizeof(uint16_t); i++) /* every type reads numbers near 1 or near 0.01 here */
        ((uint16_t *)(void *)job.pool)[i] = (uint16_t)(0x3c00 + (i * 40503 & 0x3ff));
    for (size_t i = 0; i < n_floats; i++)
        job.x[i] = random_float(), job.out[i] = random_float();
    for (size_t i = 0; i < n_sets; i++) {
        job.set = sets[i];
        if (only && *only ? strcmp(only, sets[i]->name) != 0 : strcmp("c", sets[i]->name) == 0)
            continue;
        struct limits limits = measure_limits(job.set, job.pool);
        printf("%-10s one core: %.1f GFLOP/s in f32, reads %.1f GB/s\n", job.set->name, limits.flops * 1e-9, limits.bytes * 1e-9);
        for (int type = 0; type < N_WEIGHT_TYPES; type++)
            if (!part || strstr(weight_type_name((enum weight_type)type), part)) {
                job.type = (enum weight_type)type;
                bench_type(job, &limits);
            }
    }
    huge_free(job.pool, POOL_BYTES), free(job.x), free(job.out), free(job.prepared.data);
    return 0;
}

int main(int argc, char **argv)
{
    const struct kernels *sets[KERNELS_MOST_SETS];
    size_t n_sets = kernels_all(cpu_detect_features(), sets);

    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        compute_thread_begin();
        return bench(sets, n_sets, argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : NULL);
    }
    if ((argc > 1 && strcmp(argv[1], "--quick") == 0) || getenv("LORAD_TEST_SANITIZED")) {
        cases_per_check = 8;
    } else if (argc > 1) {
        fprintf(stderr, "usage: check_packed [--quick | --bench [SET [PART]]]\n");
        return 2;
    }
    make_regions();
    for (size_t i = 0; i < 2; i++)
        prepared_room[i] = aligned_alloc(64, PREPARED_BYTES);
    check_packing(sets[0]);
    for (int flushed = 0; flushed < 2; flushed++) {
        if (flushed)
            compute_thread_begin();
        for (size_t i = 0; i < n_sets; i++) {
            check_meaning(sets[i]);
            if (kernels_reference_of(sets[i]) != sets[0])
                check_meaning(kernels_reference_of(sets[i]));
            check_independence(sets[i]);
            check_merge(sets[0], sets[i]);
            if (i > 0)
                check_products(kernels_reference_of(sets[i]), sets[i], flushed);
        }
    }
    free(prepared_room[0]), free(prepared_room[1]);
    return print_result(sets, n_sets);
}
