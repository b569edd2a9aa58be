/*
 * kernels.c - which instruction set does the work.
 */
#include "kernels/kernels.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/sets.h"

/* From the slowest to the fastest: a whole table, and the rows that an instruction more makes faster. */
static const struct {
    const char *name;
    unsigned needs; /* of enum cpu_features */
    unsigned wants; /* to be chosen without being asked for: else it would be slower than those before it, or has other bits */
    const struct kernels *table;
    void (*use[3])(struct kernels *table);
} sets[] = {
    {"c", 0, 0, &kernels_reference, {0}},
#if defined(KERNELS_HAVE_AVX2)
    {"avx2", CPU_AVX2, 0, &kernels_avx2, {0}},
#if defined(KERNELS_HAVE_AVXVNNI)
    {"avxvnni", CPU_AVX2 | CPU_AVX_VNNI, 0, &kernels_avx2, {kernels_use_avxvnni}},
#endif
#endif
#if defined(KERNELS_HAVE_AVX512)
    {"avx512", CPU_AVX512, 0, &kernels_avx512, {0}},
#if defined(KERNELS_HAVE_AVX512VNNI)
    {"avx512vnni", CPU_AVX512 | CPU_AVX512_VNNI, 0, &kernels_avx512, {kernels_use_avx512vnni}},
#if defined(KERNELS_HAVE_AVX512AMX)
    {"avx512amx", CPU_AVX512 | CPU_AVX512_VNNI | CPU_AMX_INT8, 0, &kernels_avx512, {kernels_use_avx512vnni, kernels_use_avx512amx}},
#endif
#if defined(KERNELS_HAVE_AVX512AMX) && defined(KERNELS_HAVE_AVX512AMXBF16)
    {"avx512amxbf16", CPU_AVX512 | CPU_AVX512_VNNI | CPU_AMX_INT8 | CPU_AMX_BF16, CPU_NEVER, &kernels_avx512,
     {kernels_use_avx512vnni, kernels_use_avx512amx, kernels_use_avx512amxbf16}},
#endif
#if defined(KERNELS_HAVE_AVX512BF16)
    {"avx512bf16", CPU_AVX512 | CPU_AVX512_VNNI | CPU_AVX512_BF16, CPU_AVX512_BF16_FAST, &kernels_avx512, {kernels_use_avx512bf16}},
#endif
#endif
#endif
#if defined(KERNELS_HAVE_NEON)
    {"neon", CPU_NEON, 0, &kernels_neon, {0}},
#if defined(KERNELS_HAVE_NEONDOT)
    {"neondot", CPU_NEON | CPU_NEON_DOT, 0, &kernels_neon, {kernels_use_neondot}},
#endif
#endif
};

enum { N_SETS = sizeof sets / sizeof *sets };
_Static_assert(N_SETS <= KERNELS_MOST_SETS, "kernels_all has room for all");

static const char *const known_names[] = {"c", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512amx", "avx512amxbf16", "avx512bf16", "neon",
                                          "neondot"};

static struct kernels tables[N_SETS]; /* written once */
static struct kernels reference_apart;
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    for (size_t i = 0; i < N_SETS; i++) {
        tables[i] = *sets[i].table;
        tables[i].name = sets[i].name;
        for (size_t j = 0; j < 3 && sets[i].use[j]; j++)
            sets[i].use[j](&tables[i]);
    }
    reference_apart = kernels_reference;
    kernels_use_pairs_apart(&reference_apart);
}

const char *weight_type_name(enum weight_type type)
{
    static const char *const names[N_WEIGHT_TYPES] = {
        [WEIGHT_F32] = "f32", [WEIGHT_F16] = "f16", [WEIGHT_BF16] = "bf16", [WEIGHT_Q8] = "q8", [WEIGHT_Q4] = "q4"};

    assert((unsigned)type < N_WEIGHT_TYPES);
    return names[type];
}

static bool can_run(size_t i, unsigned features)
{
    return (features & sets[i].needs) == sets[i].needs;
}

enum { N_NAMES = sizeof known_names / sizeof *known_names };

static bool is_known_name(const char *name)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (strcmp(name, known_names[i]) == 0)
            return true;
    return false;
}

static void refuse_name(const char *name, struct error *err)
{
    char list[128] = "";
    for (size_t i = 0, n = 0; i < N_NAMES; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i == 0 ? "" : i + 1 < N_NAMES ? ", " : " or ", known_names[i]);
    error_set(err, ERROR_BAD_INPUT, "cpu", "'%s' is no instruction set: use %s", name, list);
}

const struct kernels *kernels_select(unsigned features, const char *forced, struct error *err)
{
    bool any = !forced || !*forced;

    pthread_once(&tables_once, make_tables);
    for (size_t i = N_SETS; i-- > 0;) {
        if (!any && strcmp(sets[i].name, forced) != 0)
            continue;
        if (can_run(i, features) && (!any || (features & sets[i].wants) == sets[i].wants))
            return &tables[i];
        if (!any) {
            error_set(err, ERROR_BAD_INPUT, "cpu", "this CPU does not have the instruction set '%s'", forced);
            return NULL;
        }
    }
    if (is_known_name(forced))
        error_set(err, ERROR_BAD_INPUT, "cpu", "the instruction set '%s' was left out of this build", forced);
    else
        refuse_name(forced, err);
    return NULL;
}

size_t kernels_all(unsigned features, const struct kernels *out[KERNELS_MOST_SETS])
{
    size_t n = 0;

    pthread_once(&tables_once, make_tables);
    for (size_t i = 0; i < N_SETS; i++)
        if (can_run(i, features))
            out[n++] = &tables[i];
    return n;
}

const struct kernels *kernels_reference_of(const struct kernels *set)
{
    pthread_once(&tables_once, make_tables);
    return set->sums_pairs_apart ? &reference_apart : &tables[0];
}
