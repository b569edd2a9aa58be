/*
 * merge_policy.c - the meter's writer is one thread, so loads and stores do; a reader that comes in between sees a sum
 * and a time that are one step apart, which is as good.
 */
#include "lora/merge_policy.h"

#include <math.h>
#include <stdlib.h>

/* -- The meter ----------------------------------------------------------------------------- */

static double get(const _Atomic double *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void set(_Atomic double *value, double to)
{
    atomic_store_explicit(value, to > 0 ? to : 0, memory_order_relaxed);
}

static double fade(double value, uint64_t from_us, uint64_t to_us)
{
    return to_us > from_us ? value * exp2(-(double)(to_us - from_us) / (double)MERGE_HALF_LIFE_US) : value;
}

bool merge_meter_add(struct merge_meter *meter, double gain_us, double price_us, bool is_merged, uint64_t now_us)
{
    if (!isfinite(gain_us))
        return false;
    uint64_t before = atomic_load_explicit(&meter->at_us, memory_order_relaxed);
    double debt = is_merged ? 0 : fade(get(&meter->debt_us), before, now_us) + gain_us;
    bool is_due =
        !is_merged && debt >= price_us && now_us >= atomic_load_explicit(&meter->not_before_us, memory_order_relaxed);
    set(&meter->value_us, fade(get(&meter->value_us), before, now_us) + gain_us);
    set(&meter->debt_us, is_due ? 0 : debt);
    atomic_store_explicit(&meter->at_us, now_us, memory_order_relaxed);
    if (is_due)
        atomic_store_explicit(&meter->not_before_us, now_us + MERGE_PAUSE_US, memory_order_relaxed);
    return is_due;
}

double merge_meter_value(const struct merge_meter *meter, uint64_t now_us)
{
    return fade(get(&meter->value_us), atomic_load_explicit(&meter->at_us, memory_order_relaxed), now_us);
}

double merge_value_rate(double value_us)
{
    /* r us/s for ever sum up to r * half-life / ln 2. */
    return value_us * M_LN2 / ((double)MERGE_HALF_LIFE_US / 1e6);
}

/* -- Sites --------------------------------------------------------------------------------- */

double merge_site_gain(size_t rank, size_t n_in, size_t n_out, bool is_table)
{
    return (double)rank * (double)(is_table ? 1 + n_out : n_in + n_out); /* of a table's A one column is read */
}

static int compare_offers(const void *a, const void *b)
{
    const struct merge_offer *x = a, *y = b;
    double x_density = x->gain / (double)x->bytes, y_density = y->gain / (double)y->bytes;
    if (x_density != y_density)
        return x_density > y_density ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

double merge_choose(struct merge_offer *offers, size_t n_offers, uint64_t room, uint64_t *bytes_out)
{
    double whole = 0, chosen = 0;
    uint64_t n_bytes = 0;
    qsort(offers, n_offers, sizeof *offers, compare_offers);
    for (size_t i = 0; i < n_offers; i++) {
        struct merge_offer *offer = &offers[i];
        whole += offer->gain;
        offer->is_chosen = offer->bytes <= room - n_bytes;
        if (!offer->is_chosen)
            continue;
        n_bytes += offer->bytes;
        chosen += offer->gain;
    }
    *bytes_out = n_bytes;
    return whole > 0 ? chosen / whole : 0;
}

/* -- Room ---------------------------------------------------------------------------------- */

bool merge_goes_before(const struct merge_rank *a, const struct merge_rank *b)
{
    if (a->claim != b->claim)
        return a->claim < b->claim;
    if (a->is_held != b->is_held)
        return b->is_held;
    if (a->value_per_byte != b->value_per_byte)
        return a->value_per_byte < b->value_per_byte;
    return a->last_used < b->last_used;
}

bool merge_may_displace(double value_per_byte, const struct merge_rank *other)
{
    return other->claim == MERGE_AUTOMATIC && value_per_byte > MERGE_MARGIN * other->value_per_byte;
}

/* -- The price ----------------------------------------------------------------------------- */

double merge_learn_price(double us_per_byte, double spent_us, uint64_t n_bytes)
{
    if (n_bytes == 0 || !(spent_us > 0))
        return us_per_byte;
    return (us_per_byte + spent_us / (double)n_bytes) / 2;
}
