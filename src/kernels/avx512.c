/*
 * avx512.c - the rows on AVX-512 (F, BW, VL, DQ): a vector is one register.
 */
#include "kernels/sets.h"

#include "kernels/avx512.h"

/* Without vpdpbusd: the sign of a weight goes to the activation, so that no pair of products leaves 16 bits. */
static inline bits b_start(bits start)
{
    (void)start;
    return _mm512_set1_epi32(PACK_SUM_START);
}
static inline bits b_add_quads(bits acc, bits w, bits x)
{
    bits weights = _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80));
    bits signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), x);
    bits pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), signed_x);
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

/* Vectors that are multiplied together share what is loaded of an activation; a lone token waits for memory, not for that. */
#define WHOLE_VECTORS(type, tokens) ((tokens) == 1 ? 1 : (tokens) <= 6 ? 4 : (tokens) <= 12 ? 2 : 1)
#define WHOLE_STEPS(type, tokens) ((tokens) == 1 ? 4 : 1)

/* 32 registers: 24 of sums, the weights of four rows, one vector of x. A lone token waits for memory, and one
   stream is what memory likes best. */
enum { TILE_ROWS = 4, TILE_TOKENS = 6, FEW_TOKENS = 6, TILE_COLUMNS = 4, TILE_HEADS = 4 };
static const unsigned char tall_rows[FEW_TOKENS] = {1, 4, 4, 4, 4, 4};

#define TILES_OF_TYPE(TYPE, suffix)                                                                          \
    TILE(TYPE, suffix, 4, 1)                                                                                 \
    TILE(TYPE, suffix, 4, 2)                                                                                 \
    TILE(TYPE, suffix, 4, 3)                                                                                 \
    TILE(TYPE, suffix, 4, 4)                                                                                 \
    TILE(TYPE, suffix, 4, 5)                                                                                 \
    TILE(TYPE, suffix, 4, 6)
#define TALL_TILES(suffix)                                                                                   \
    {                                                                                                        \
        tile_##suffix##_1_1, tile_##suffix##_4_2, tile_##suffix##_4_3, tile_##suffix##_4_4,                  \
            tile_##suffix##_4_5, tile_##suffix##_4_6                                                         \
    }

#include "kernels/rows.h"
#include "kernels/merge.h"
#include "kernels/select.h"

/* 24 sums, a vector of keys or values for up to six rows, which a broadcast from memory meets. */
enum { ATTEND_ROWS = 6, ATTEND_MOST_ROWS = 8 };
#define ATTEND_TILES(TILE) TILE(1, 4) TILE(2, 4) TILE(3, 4) TILE(4, 4) TILE(5, 4) TILE(6, 4) TILE(7, 2) TILE(8, 2)
#define ATTEND_TILE_TABLE(name)                                                                              \
    {                                                                                                        \
        name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8                       \
    }

#include "kernels/attend.h"

const struct kernels kernels_avx512 = KERNELS_TABLE("avx512");
