/*
 * sets.h - what kernels.c makes its tables of: whole ones, and rows that replace some of them, in a file and library for each
 * instruction set.
 */
#ifndef KERNELS_SETS_H
#define KERNELS_SETS_H

#include "kernels/kernels.h"

extern const struct kernels kernels_reference;
#if defined(KERNELS_HAVE_AVX2)
extern const struct kernels kernels_avx2;
#endif
#if defined(KERNELS_HAVE_AVX512)
extern const struct kernels kernels_avx512;
#endif
#if defined(KERNELS_HAVE_NEON)
extern const struct kernels kernels_neon;
#endif

void kernels_use_pairs_apart(struct kernels *table); /* the reference */
void kernels_use_avxvnni(struct kernels *table);
void kernels_use_avx512vnni(struct kernels *table);
void kernels_use_avx512amx(struct kernels *table); /* after avx512vnni */
void kernels_use_avx512amxbf16(struct kernels *table); /* after avx512amx */
void kernels_use_avx512bf16(struct kernels *table);
void kernels_use_neondot(struct kernels *table);

#endif
