/*
 * merge_policy.h - when a W' pays, and at which sites: arithmetic alone, with the clock passed in.
 *
 * What an adapter gains by being merged is metered step by step and fades by half each minute. A merge is due when
 * what was lost for want of it equals what it costs (the rule for renting skis: never more than twice the cost of knowing the future).
 */
#ifndef LORA_MERGE_POLICY_H
#define LORA_MERGE_POLICY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MERGE_HALF_LIFE_US (60u * 1000000u)
#define MERGE_PAUSE_US (10u * 1000000u) /* at least this between two looks at one adapter */
#define MERGE_LEAST_SHARE 0.25          /* a partial W' gains at least this part of what the full one does */
#define MERGE_MARGIN 1.25               /* by how much what comes must beat what goes */

/* Zeroed: nothing yet. One thread adds; any may read. */
struct merge_meter {
    _Atomic double value_us; /* all gains, faded, as of at_us */
    _Atomic double debt_us;  /* those since the last time that it was due, likewise */
    _Atomic uint64_t at_us;
    _Atomic uint64_t not_before_us;
};

/* Adds a gain (a loss when negative; the sum stays at 0 or above). True: the debt has reached the price, so that the adapter is due to
   be looked at; the debt begins anew. `is_merged`: there is no debt while W' serves. */
bool merge_meter_add(struct merge_meter *meter, double gain_us, double price_us, bool is_merged, uint64_t now_us);
/* The faded sum of all gains. */
double merge_meter_value(const struct merge_meter *meter, uint64_t now_us);
/* The steady gain, in us per second, that would have that sum. */
double merge_value_rate(double value_us);

/* One site that could be merged. */
struct merge_offer {
    size_t index;   /* the caller's */
    uint64_t bytes; /* of its W' */
    double gain;    /* of any unit */
    bool is_chosen;
};

/* What a low-rank pair costs on the fly, in weights read. */
double merge_site_gain(size_t rank, size_t n_in, size_t n_out, bool is_table);

/* Chooses the sites with the highest gain per byte that fit into `room`, and sorts the offers by that. The same offers and room give the
   same choice, in whatever order they come. Returns the chosen part of the whole gain, 0 to 1. */
double merge_choose(struct merge_offer *offers, size_t n_offers, uint64_t room, uint64_t *bytes_out);

/* One cached W', in the order in which they make room: first those that nobody asked for, then those a request asked for lately,
   last those that are to be kept; of these the ones that no request holds; of these the least valuable; then the oldest. */
enum merge_claim { MERGE_AUTOMATIC, MERGE_REQUESTED, MERGE_KEPT };
struct merge_rank {
    enum merge_claim claim;
    bool is_held;
    double value_per_byte;
    uint64_t last_used;
};
bool merge_goes_before(const struct merge_rank *a, const struct merge_rank *b);
/* Whether a W' that nobody asked for, of this value per byte, may push out that one. */
bool merge_may_displace(double value_per_byte, const struct merge_rank *other);

/* What merging costs, learnt from the merges that were made. */
#define MERGE_FIRST_US_PER_BYTE 0.001
double merge_learn_price(double us_per_byte, double spent_us, uint64_t n_bytes);

#endif
