/*
 * sets.h - the tables that kernels.c chooses from: one per instruction set, in a file and library of its own.
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

#endif
