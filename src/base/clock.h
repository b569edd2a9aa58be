/*
 * clock.h - monotonic time. Tests may set it.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_now_us(void);

/* From now on clock_now_us returns this; UINT64_MAX goes back to the real clock. Tests only. */
void clock_set_us(uint64_t now_us);

#endif
