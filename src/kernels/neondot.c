/*
 * neondot.c - sdot: four products of signed bytes, summed, in one instruction.
 */
#include "kernels/sets.h"

#include "kernels/neon.h"

static inline uint8x16_t add_quads(uint8x16_t acc, uint8x16_t w, uint8x16_t x)
{
    return vreinterpretq_u8_s32(vdotq_s32(vreinterpretq_s32_u8(acc), signed_weights(w), vreinterpretq_s8_u8(x)));
}
static inline bits b_add_quads(bits acc, bits w, bits x)
{
    return (bits)FOUR_OF_THREE(add_quads, acc, w, x);
}

#define PANELS_GROUPS
#include "kernels/panels.h"

void kernels_use_neondot(struct kernels *table)
{
    table->multiply_packed[WEIGHT_Q8] = multiply_q8;
    table->multiply_packed[WEIGHT_Q4] = multiply_q4;
}
