/*
 * bench_mix.c - what adapters cost: the base against one adapter for all and an adapter for each; over the rank; over the number
 * of adapters.
 */
#include "lorad/bench.h"

static json_t *ratio_json(const struct variant *a, const struct variant *b)
{
    return json_number(series_median_ratio(&a->rates, &b->rates));
}

bool bench_mix(struct bench *bench, json_t *report, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct variant base = {.n_clients = options->n_sequences, .mode = LORAD_MODE_ON_THE_FLY, .rank = options->rank}, same = base, mixed = base;
    same.n_adapters = 1;
    mixed.n_adapters = options->n_adapters;
    bool ok = bench_add_adapters(bench, 0, options->n_adapters, options->rank, err) &&
              bench_take_turns(bench, (struct variant *[]){&base, &same, &mixed}, 3, err);
    if (ok) {
        json_object_set_new(report, "base", variant_json(bench, &base));
        json_object_set_new(report, "same", variant_json(bench, &same));
        json_object_set_new(report, "mixed", variant_json(bench, &mixed));
        json_object_set_new(report, "same_to_base", ratio_json(&same, &base));
        json_object_set_new(report, "mixed_to_base", ratio_json(&mixed, &base));
        json_object_set_new(report, "mixed_to_same", ratio_json(&mixed, &same));
    }
    variant_finish(&base);
    variant_finish(&same);
    variant_finish(&mixed);
    return ok;
}

/* The base and the adapters in turns, at one point of a curve: {NAME: value, "base", "mixed", "mixed_to_base"}. */
static bool measure_point(struct bench *bench, struct variant base, size_t n_adapters, const char *name, size_t value,
                          json_t *points, struct error *err)
{
    struct variant mixed = base;
    mixed.n_adapters = n_adapters;
    bool ok = bench_take_turns(bench, (struct variant *[]){&base, &mixed}, 2, err);
    if (ok) {
        json_t *point = json_object();
        json_object_set_new(point, name, json_integer((json_int_t)value));
        json_object_set_new(point, "base", variant_json(bench, &base));
        json_object_set_new(point, "mixed", variant_json(bench, &mixed));
        json_object_set_new(point, "mixed_to_base", ratio_json(&mixed, &base));
        json_array_append_new(points, point);
    }
    variant_finish(&base);
    variant_finish(&mixed);
    return ok;
}

bool bench_ranks(struct bench *bench, json_t *report, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    struct variant base = {.n_clients = options->n_sequences, .mode = LORAD_MODE_ON_THE_FLY};
    json_t *points = json_array();
    bool ok = true;
    json_object_set_new(report, "ranks", points);
    for (size_t i = 0; ok && i < options->n_points; i++) {
        base.rank = options->points[i];
        ok = bench_add_adapters(bench, 0, options->n_sequences, options->points[i], err) &&
             measure_point(bench, base, options->n_sequences, "rank", options->points[i], points, err) &&
             bench_unload_adapters(bench, 0, options->n_sequences, err);
    }
    return ok;
}

/* As many requests as adapters, so that each is used; as many at a time as there are clients. */
bool bench_adapters(struct bench *bench, json_t *report, struct error *err)
{
    const struct lorad_bench_options *options = &bench->options;
    size_t n_resident = 0;
    json_t *points = json_array();
    bool ok = true;
    json_object_set_new(report, "counts", points);
    for (size_t i = 0; ok && i < options->n_points; i++) {
        size_t n = options->points[i];
        struct variant base = {.n_clients = n, .mode = LORAD_MODE_ON_THE_FLY, .is_whole = true,
                               .rank = options->rank};
        ok = bench_add_adapters(bench, n_resident, n - n_resident, options->rank, err) &&
             measure_point(bench, base, n, "adapters", n, points, err);
        n_resident = n;
    }
    return ok;
}
