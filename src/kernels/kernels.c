/*
 * kernels.c - which instruction set does the work.
 */
#include "kernels/kernels.h"

#include <assert.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/sets.h"

/* From the slowest to the fastest. */
static const struct {
    unsigned needs; /* one of enum cpu_features, or 0 */
    const struct kernels *table;
} sets[] = {
    {0, &kernels_reference},
#if defined(KERNELS_HAVE_AVX2)
    {CPU_AVX2, &kernels_avx2},
#endif
#if defined(KERNELS_HAVE_AVX512)
    {CPU_AVX512, &kernels_avx512},
#endif
};

enum { N_SETS = sizeof sets / sizeof *sets };

const char *weight_type_name(enum weight_type type)
{
    static const char *const names[N_WEIGHT_TYPES] = {
        [WEIGHT_F32] = "f32", [WEIGHT_F16] = "f16", [WEIGHT_BF16] = "bf16"};

    assert((unsigned)type < N_WEIGHT_TYPES);
    return names[type];
}

static bool can_run(size_t i, unsigned features)
{
    return (features & sets[i].needs) == sets[i].needs;
}

static bool is_known_name(const char *name)
{
    return strcmp(name, "c") == 0 || strcmp(name, "avx2") == 0 || strcmp(name, "avx512") == 0;
}

const struct kernels *kernels_select(unsigned features, const char *forced, struct error *err)
{
    bool any = !forced || !*forced;

    for (size_t i = N_SETS; i-- > 0;) {
        if (!any && strcmp(sets[i].table->name, forced) != 0)
            continue;
        if (can_run(i, features))
            return sets[i].table;
        if (!any) {
            error_set(err, ERROR_BAD_INPUT, "cpu", "this CPU does not have the instruction set '%s'", forced);
            return NULL;
        }
    }
    if (is_known_name(forced))
        error_set(err, ERROR_BAD_INPUT, "cpu", "the instruction set '%s' was left out of this build", forced);
    else
        error_set(err, ERROR_BAD_INPUT, "cpu", "'%s' is no instruction set: use c, avx2 or avx512", forced);
    return NULL;
}

size_t kernels_all(unsigned features, const struct kernels *out[8])
{
    size_t n = 0;

    for (size_t i = 0; i < N_SETS; i++)
        if (can_run(i, features))
            out[n++] = sets[i].table;
    return n;
}
