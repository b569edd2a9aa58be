/*
 * avx2.c - the rows on AVX2 with FMA and F16C: a vector is two registers.
 */
#include "kernels/sets.h"

#include "kernels/avx2.h"

/* The sign of a weight goes to the activation, so that no pair of products leaves 16 bits. */
static inline bits b_start(bits start)
{
    (void)start;
    return BOTH_BITS(_mm256_set1_epi32(PACK_SUM_START), _mm256_set1_epi32(PACK_SUM_START));
}
static inline __m256i add_quads(__m256i acc, __m256i w, __m256i x)
{
    __m256i weights = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline bits b_add_quads(bits acc, bits w, bits x)
{
    return BOTH_BITS(add_quads(acc.lo, w.lo, x.lo), add_quads(acc.hi, w.hi, x.hi));
}
/* 16 registers: at most 12 of sums, the weights of two rows, one half of x. */
enum { TILE_ROWS = 2, TILE_TOKENS = 3, FEW_TOKENS = 6, TILE_COLUMNS = 2, TILE_HEADS = 2 };
static const unsigned char tall_rows[FEW_TOKENS] = {4, 2, 2, 1, 1, 1};

#define TILES_OF_TYPE(TYPE, suffix)                                                                          \
    TILE(TYPE, suffix, 4, 1)                                                                                 \
    TILE(TYPE, suffix, 2, 2)                                                                                 \
    TILE(TYPE, suffix, 2, 3)
#define TALL_TILES(suffix)                                                                                   \
    {                                                                                                        \
        tile_##suffix##_4_1, tile_##suffix##_2_2, tile_##suffix##_2_3, tile_##suffix##_1_4,                  \
            tile_##suffix##_1_5, tile_##suffix##_1_6                                                         \
    }

#include "kernels/rows.h"
#include "kernels/merge.h"
#include "kernels/select.h"

/* 12 registers of sums, two of keys or values, one of the queries or weights. */
enum { ATTEND_ROWS = 6, ATTEND_MOST_ROWS = 6 };
#define ATTEND_TILES(TILE) TILE(1, 4) TILE(2, 2) TILE(3, 2) TILE(4, 1) TILE(5, 1) TILE(6, 1)
#define ATTEND_TILE_TABLE(name)                                                                              \
    {                                                                                                        \
        name##_1, name##_2, name##_3, name##_4, name##_5, name##_6                                           \
    }

#include "kernels/attend.h"

const struct kernels kernels_avx2 = KERNELS_TABLE("avx2");
