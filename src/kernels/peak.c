/*
 * peak.c - which loop shows the most, the loop for any processor, and the reader.
 */
#include "kernels/peak.h"

#include <assert.h>

#include "base/cpu.h"

#if defined(__aarch64__)
#include <arm_neon.h>
typedef float32x4_t four;
#define MULTIPLY_ADD(sum, a, b) vfmaq_f32(sum, a, b)
#define REGISTER "w"
#define PLAIN_NAME "fmla, 128 bits"
#else
typedef float four __attribute__((vector_size(16)));
#define MULTIPLY_ADD(sum, a, b) ((sum) + (a) * (b))
#define REGISTER "x"
#define PLAIN_NAME "mulps and addps, 128 bits"
#endif

PEAK_LOOP(run_plain, four, REGISTER, MULTIPLY_ADD)
static const struct peak_loop peak_f32_plain = {PLAIN_NAME, 0, PEAK_SUMS * 4 * 2, run_plain};

/* The best first. */
enum { MOST_LOOPS = 4 };
static const struct peak_loop *const LOOPS[N_PEAK_KINDS][MOST_LOOPS + 1] = {
    [PEAK_F32] =
        {
#if defined(PEAK_HAVE_AVX512)
            &peak_f32_avx512,
#endif
#if defined(PEAK_HAVE_AVX2)
            &peak_f32_avx2,
#endif
            &peak_f32_plain,
        },
    [PEAK_BF16] =
        {
#if defined(PEAK_HAVE_AVX512BF16)
            &peak_bf16_avx512bf16,
#endif
            NULL,
        },
    [PEAK_INT8] =
        {
#if defined(PEAK_HAVE_AVX512VNNI)
            &peak_int8_avx512vnni,
#endif
#if defined(PEAK_HAVE_AVX512)
            &peak_int8_avx512,
#endif
#if defined(PEAK_HAVE_AVXVNNI)
            &peak_int8_avxvnni,
#endif
#if defined(PEAK_HAVE_AVX2)
            &peak_int8_avx2,
#endif
            NULL,
        },
};

static const struct peak_loop *find_loop(enum peak_kind kind, unsigned features)
{
    for (const struct peak_loop *const *loop = LOOPS[kind]; *loop; loop++)
        if (((*loop)->needs & features) == (*loop)->needs)
            return *loop;
    return NULL;
}

const struct peak_loop *peak_choose(enum peak_kind kind, unsigned features, bool *is_widened)
{
    const struct peak_loop *loop = find_loop(kind, features);
    *is_widened = loop == NULL;
    return loop ? loop : find_loop(PEAK_F32, features);
}

/* Lines ahead of the one that is read: the processor's own prefetcher begins anew in each page of 4 KiB. */
enum { LINE = 64, WORDS = LINE / 8, AHEAD = 8 * LINE };

static inline void read_line(const uint64_t *words, uint64_t sums[WORDS])
{
    __builtin_prefetch((const char *)words + AHEAD);
    for (size_t i = 0; i < WORDS; i++)
        sums[i] ^= words[i];
}

uint64_t peak_read(const void *bytes, size_t n_bytes, size_t n_streams)
{
    assert(n_streams == 1 || n_streams == 4);
    uint64_t sums[WORDS] = {0}, all = 0;
    size_t n_words = n_bytes / n_streams / LINE * WORDS;
    const uint64_t *words = bytes;
    if (n_streams == 1)
        for (size_t i = 0; i < n_words; i += WORDS)
            read_line(words + i, sums);
    else
        for (size_t i = 0; i < n_words; i += WORDS)
            for (size_t stream = 0; stream < 4; stream++)
                read_line(words + stream * n_words + i, sums);
    for (size_t i = 0; i < WORDS; i++)
        all ^= sums[i];
    return all;
}

void peak_touch(void *bytes, size_t n_bytes)
{
    enum { PAGE = 4096 };
    for (size_t i = 0; i < n_bytes; i += PAGE)
        ((volatile char *)bytes)[i] = 1;
}
