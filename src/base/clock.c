#include "base/clock.h"

#include <stdatomic.h>
#include <time.h>

static _Atomic uint64_t set_time = UINT64_MAX;

uint64_t clock_now_us(void)
{
    uint64_t set = atomic_load_explicit(&set_time, memory_order_relaxed);
    if (set != UINT64_MAX)
        return set;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void clock_set_us(uint64_t now_us)
{
    atomic_store_explicit(&set_time, now_us, memory_order_relaxed);
}
