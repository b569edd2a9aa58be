/*
 * avx512bf16.c - AVX-512 as AMD makes it: vdpbf16ps is as fast as one product in f32, and streams of memory are fetched by the hardware.
 *
 * vdpbf16ps adds a pair of products in one instruction, which rounds as two fused ones do when denormals are flushed.
 */
#include "kernels/sets.h"

#include "kernels/avx512vnni.h"

static inline vec v_add_pairs(vec acc, bits w, bits x)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}

/* With few tokens all vectors of a panel pass side by side, so that its bytes are read one behind the other. Hardware fetches such a stream sooner than
   instructions, which only take buffers for misses from it. With how many tokens that pays was measured (Zen 4). */
#define IS_FOLLOWED(type, tokens) ((tokens) <= ((type) == WEIGHT_F16 || (type) == WEIGHT_Q4 ? 3 : 4))
#define WHOLE_VECTORS(type, tokens) (IS_FOLLOWED(type, tokens) ? 4 : (tokens) <= 6 ? 2 : 1)
#define WHOLE_STEPS(type, tokens) ((tokens) <= 3 ? 4 : IS_FOLLOWED(type, tokens) ? 1 : (tokens) <= 12 ? 4 : 2)

#define PANELS_ELEMENTS
#define PANELS_PAIRS
#define PANELS_GROUPS
#include "kernels/panels.h"

void kernels_use_avx512bf16(struct kernels *table)
{
    table->prepare[WEIGHT_BF16] = prepare_pairs;
    table->multiply_packed[WEIGHT_F32] = multiply_f32;
    table->multiply_packed[WEIGHT_F16] = multiply_f16;
    table->multiply_packed[WEIGHT_BF16] = multiply_bf16;
    table->multiply_packed[WEIGHT_Q8] = multiply_q8;
    table->multiply_packed[WEIGHT_Q4] = multiply_q4;
}
