/*
 * avx512vnni.h - what panels.h asks for of vpdpbusd: four products of unsigned and signed bytes, summed, in one instruction.
 */
#ifndef KERNELS_AVX512VNNI_H
#define KERNELS_AVX512VNNI_H

#include "kernels/avx512.h"

static inline bits b_start(bits start)
{
    return start;
}
static inline bits b_add_quads(bits acc, bits w, bits x)
{
    return _mm512_dpbusd_epi32(acc, w, x);
}
/* GCC 12 would repeat the quad in an instruction of its own. */
typedef int32_t __attribute__((may_alias)) four_bytes;
static inline bits b_add_repeated(bits acc, bits w, const char *quad)
{
    __asm__ volatile("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*(const four_bytes *)quad));
    return acc;
}
#define b_add_repeated b_add_repeated

#endif
