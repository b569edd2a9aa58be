/*
 * bench_modes.c - merged against on the fly over the number of sequences, and what `auto` makes of it.
 *
 * Two families of batches: all sequences through one adapter, where W' saves the low-rank products; and each through its own,
 * where every W' is another matrix to read. Somewhere the one way becomes cheaper than the other.
 */
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "lorad/bench.h"

enum { N_MODES = 3 };
static const enum lorad_mode MODES[N_MODES] = {LORAD_MODE_ON_THE_FLY, LORAD_MODE_MERGED, LORAD_MODE_AUTO};
static const char *const MODE_NAMES[N_MODES] = {"on_the_fly", "merged", "auto"};

struct point {
    double n_sequences, merged_to_fly; /* NAN: not every adapter's W' fits the budget */
};

/* Makes W' of the first `n` adapters, unless they do not all fit; then *fits is false and nothing has changed. */
static bool merge_first(struct bench *bench, size_t n, size_t *n_merged, bool *fits, struct error *err)
{
    struct lorad_stats stats;
    for (*fits = true; *n_merged < n; ++*n_merged) {
        lorad_stats_read(bench->lorad, &stats);
        if (*n_merged > 0 && stats.merged_bytes / *n_merged * n > stats.merged_bytes_limit) {
            *fits = false;
            return true;
        }
        if (!bench_merge_adapter(bench, *n_merged, 600000, err))
            return false;
    }
    return true;
}

/* `on_the_fly`, `merged` and `auto` in turns, for one number of sequences through `n_adapters`. */
static bool measure_point(struct bench *bench, size_t n_sequences, size_t n_adapters, bool fits, json_t *points,
                          struct point *out, struct error *err)
{
    struct variant variants[N_MODES] = {0}, *turns[N_MODES];
    size_t n_turns = 0;
    for (size_t i = 0; i < N_MODES; i++) {
        variants[i] = (struct variant){.n_clients = n_sequences, .n_adapters = n_adapters, .mode = MODES[i],
                                        .rank = bench->options.rank};
        if (fits || MODES[i] != LORAD_MODE_MERGED)
            turns[n_turns++] = &variants[i];
    }
    bool ok = bench_take_turns(bench, turns, n_turns, err);
    if (ok) {
        double ratio = series_median_ratio(&variants[1].rates, &variants[0].rates);
        json_t *point = json_object();
        json_object_set_new(point, "sequences", json_integer((json_int_t)n_sequences));
        for (size_t i = 0; i < N_MODES; i++)
            json_object_set_new(point, MODE_NAMES[i], variants[i].rates.n ? variant_json(bench, &variants[i]) : json_null());
        json_object_set_new(point, "merged_to_on_the_fly", json_number(ratio));
        json_object_set_new(point, "auto_to_on_the_fly", json_number(series_median_ratio(&variants[2].rates, &variants[0].rates)));
        json_array_append_new(points, point);
        *out = (struct point){.n_sequences = (double)n_sequences, .merged_to_fly = ratio};
    }
    for (size_t i = 0; i < N_MODES; i++)
        variant_finish(&variants[i]);
    return ok;
}

/* Where the ratio passes 1, on a straight line of its logarithm over the logarithm of the size; NAN when it does not. */
static double find_crossing(const struct point *points, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        double a = log(points[i - 1].merged_to_fly), b = log(points[i].merged_to_fly);
        if (!isfinite(a) || !isfinite(b) || (a > 0) == (b > 0))
            continue;
        double x = log(points[i - 1].n_sequences), y = log(points[i].n_sequences);
        return exp(x + (y - x) * a / (a - b));
    }
    return NAN;
}

/* One family: `is_own`: each sequence has an adapter of its own. */
static bool measure_family(struct bench *bench, bool is_own, const char *name, size_t *n_merged, json_t *report,
                           struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct point measured[LORAD_BENCH_MAX_POINTS];
    json_t *family = json_object(), *points = json_array();
    bool ok = true;
    json_object_set_new(family, "points", points);
    json_object_set_new(report, name, family);
    for (size_t i = 0; ok && i < options->n_points; i++) {
        size_t n = options->points[i], n_adapters = is_own ? n : 1;
        bool fits;
        ok = merge_first(bench, n_adapters, n_merged, &fits, err) &&
             measure_point(bench, n, n_adapters, fits, points, &measured[i], err);
    }
    if (ok)
        json_object_set_new(family, "crossing", json_number(find_crossing(measured, options->n_points)));
    return ok;
}

bool bench_modes(struct bench *bench, json_t *report, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    size_t n_merged = 0;
    struct lorad_stats stats;
    bool ok = bench_add_adapters(bench, 0, options->points[options->n_points - 1], options->rank, err) &&
              measure_family(bench, false, "one_adapter", &n_merged, report, err) &&
              measure_family(bench, true, "own_adapters", &n_merged, report, err);
    if (ok) {
        lorad_stats_read(bench->lorad, &stats);
        json_object_set_new(report, "merged_bytes_each", json_integer((json_int_t)(stats.merged_bytes / size_max(1, n_merged))));
        json_object_set_new(report, "merged_bytes_limit", json_integer((json_int_t)stats.merged_bytes_limit));
    }
    return ok;
}
