/*
 * bench_options.c - one table says for each size which scenario takes it, what it is when nobody says, and its range.
 */
#include <string.h>

#include "base/bytes.h"
#include "base/cpu.h"
#include "lorad/bench.h"

enum { NOT_TAKEN = -1 };

struct rule {
    const char *field; /* the flag */
    size_t offset;
    size_t minimum, maximum;
    int own[LORAD_BENCH_SCENARIOS]; /* in the order of enum lorad_bench_scenario */
};

#define SIZE_AT(field) offsetof(struct lorad_bench_options, field)
static const struct rule RULES[] = {
    /*                                                     steady mix ranks adapters merge swap starvation prefix     quality */
    {"clients", SIZE_AT(n_sequences), 1, 256,             {1,     8,  8,    32,      -1,   4,   -1,        -1,         -1}},
    {"adapters", SIZE_AT(n_adapters), 0, 4096,            {0,     0,  -1,   -1,      -1,   20,  -1,        -1,         -1}},
    {"rank", SIZE_AT(rank), 1, 4096,                      {16,    16, -1,   16,      16,   16,  16,        16,         -1}},
    {"prompt", SIZE_AT(prompt_tokens), 1, 1000000,        {512,   32, 32,   16,      16,   64,  32,        512,        -1}},
    {"tokens", SIZE_AT(new_tokens), 2, 1000000,           {64,    32, 32,   16,      32,   64,  32,        4,          256}},
    {"repeats", SIZE_AT(n_repeats), 1, 64,                {5,     5,  5,    3,       5,    3,   3,         5,          -1}},
    {"requests", SIZE_AT(n_requests), 2, 100000,          {-1,    -1, -1,   -1,      -1,   -1,  20,        8,          32}},
    {"flood", SIZE_AT(n_flood), 1, 1000,                  {-1,    -1, -1,   -1,      -1,   -1,  200,       -1,         -1}},
    {"period-ms", SIZE_AT(period_ms), 1, 60000,           {-1,    -1, -1,   -1,      -1,   -1,  1000,      -1,         -1}},
    {"merges", SIZE_AT(n_merges), 1, 4096,                {-1,    -1, -1,   -1,      -1,   5,   -1,        -1,         -1}},
};

struct points {
    size_t n, values[LORAD_BENCH_MAX_POINTS];
    size_t maximum; /* that makes sense */
};
static const struct points POINTS[LORAD_BENCH_SCENARIOS] = {
    [LORAD_BENCH_RANKS] = {5, {8, 16, 32, 64, 128}, 4096},
    [LORAD_BENCH_ADAPTERS] = {9, {1, 2, 4, 8, 16, 32, 64, 128, 256}, 1024},
    [LORAD_BENCH_MERGE] = {5, {1, 2, 4, 8, 16}, 256},
};

const char *lorad_bench_scenario_name(enum lorad_bench_scenario scenario)
{
    static const char *const names[LORAD_BENCH_SCENARIOS] = {
        [LORAD_BENCH_STEADY] = "steady",     [LORAD_BENCH_MIX] = "mix",   [LORAD_BENCH_RANKS] = "ranks",
        [LORAD_BENCH_ADAPTERS] = "adapters", [LORAD_BENCH_MERGE] = "merge", [LORAD_BENCH_SWAP] = "swap",
        [LORAD_BENCH_STARVATION] = "starvation", [LORAD_BENCH_PREFIX] = "prefix", [LORAD_BENCH_QUALITY] = "quality",
    };
    return (size_t)scenario < LORAD_BENCH_SCENARIOS ? names[scenario] : NULL;
}

static size_t *size_of_rule(struct lorad_bench_options *options, const struct rule *rule)
{
    return (size_t *)(void *)((char *)options + rule->offset);
}

static bool complete_size(struct lorad_bench_options *options, const struct rule *rule, struct error *err)
{
    size_t *value = size_of_rule(options, rule);
    int own = rule->own[options->scenario];
    if (own == NOT_TAKEN)
        return *value == 0 || error_set(err, ERROR_BAD_INPUT, rule->field, "is %zu, but scenario '%s' has no use for it", *value,
                                        lorad_bench_scenario_name(options->scenario));
    if (*value == 0)
        *value = (size_t)own;
    if (*value < rule->minimum || *value > rule->maximum)
        return error_set(err, ERROR_BAD_INPUT, rule->field, "is %zu, but must be in %zu..%zu", *value, rule->minimum,
                         rule->maximum);
    return true;
}

static bool complete_points(struct lorad_bench_options *options, struct error *err)
{
    const struct points *own = &POINTS[options->scenario];
    if (own->n == 0)
        return options->n_points == 0 || error_set(err, ERROR_BAD_INPUT, "points", "are given, but scenario '%s' has no use for them",
                                                   lorad_bench_scenario_name(options->scenario));
    if (options->n_points == 0) {
        options->points = own->values;
        options->n_points = own->n;
    }
    if (options->n_points > LORAD_BENCH_MAX_POINTS)
        return error_set(err, ERROR_BAD_INPUT, "points", "are %zu, but at most %d are measured", options->n_points,
                         LORAD_BENCH_MAX_POINTS);
    for (size_t i = 0, last = 0; i < options->n_points; last = options->points[i++])
        if (options->points[i] <= last || options->points[i] > own->maximum)
            return error_set(err, ERROR_BAD_INPUT, "points", "hold %zu at index %zu, but must grow within 1..%zu",
                             options->points[i], i, own->maximum);
    return true;
}

static bool check_combinations(const struct lorad_bench_options *options, struct error *err)
{
    enum lorad_bench_scenario scenario = options->scenario;
    if (options->merged && scenario != LORAD_BENCH_STEADY)
        return error_set(err, ERROR_BAD_INPUT, "merged", "is of scenario 'steady'; 'merge' compares both ways by itself");
    if (options->merged && options->n_adapters == 0)
        return error_set(err, ERROR_BAD_INPUT, "merged", "needs --adapters: the base has nothing to merge");
    if (scenario != LORAD_BENCH_QUALITY && (options->texts_dir || options->open.adapters_dir))
        return error_set(err, ERROR_BAD_INPUT, options->texts_dir ? "texts" : "adapters-dir", "is of scenario 'quality'");
    if (options->texts_dir && !options->open.adapters_dir)
        return error_set(err, ERROR_BAD_INPUT, "texts", "needs --adapters-dir: it holds their answers");
    if (scenario == LORAD_BENCH_MIX && options->n_adapters > options->n_sequences)
        return error_set(err, ERROR_BAD_INPUT, "adapters", "is %zu, but only %zu clients use them", options->n_adapters,
                         options->n_sequences);
    if (scenario == LORAD_BENCH_SWAP && options->n_merges > options->n_adapters)
        return error_set(err, ERROR_BAD_INPUT, "merges", "is %zu, but only %zu adapters are loaded", options->n_merges,
                         options->n_adapters);
    return true;
}

/* The most sequences that must run at a time for the scenario to be what it says; 0: as many as lorad chooses. */
static size_t sequences_needed(const struct lorad_bench_options *options)
{
    if (options->scenario == LORAD_BENCH_MERGE)
        return options->points[options->n_points - 1];
    return options->n_sequences;
}

static bool complete_limits(struct lorad_bench_options *options, struct error *err)
{
    size_t n_needed = sequences_needed(options);
    uint64_t half = memory_usable_bytes() / 2;
    if (options->open.max_sequences == 0)
        options->open.max_sequences = n_needed;
    if (options->open.max_sequences < n_needed)
        return error_set(err, ERROR_BAD_INPUT, "max-sequences", "is %zu, but %zu must run at a time",
                         options->open.max_sequences, n_needed);
    options->open.max_queue = size_max(options->open.max_queue, 2048);
    if (options->open.adapter_memory == 0 && (options->scenario == LORAD_BENCH_RANKS || options->scenario == LORAD_BENCH_ADAPTERS))
        options->open.adapter_memory = half;
    if (options->open.merged_memory == 0 && (options->scenario == LORAD_BENCH_MERGE || options->scenario == LORAD_BENCH_SWAP))
        options->open.merged_memory = half;
    return true;
}

bool bench_complete_options(const struct lorad_bench_options *given, struct lorad_bench_options *out, struct error *err)
{
    struct lorad_bench_options options = *given;
    if (!lorad_bench_scenario_name(options.scenario))
        return error_set(err, ERROR_BAD_INPUT, "scenario", "is unknown");
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++)
        if (!complete_size(&options, &RULES[i], err))
            return false;
    if (!complete_points(&options, err) || !check_combinations(&options, err) || !complete_limits(&options, err))
        return false;
    if (options.scenario == LORAD_BENCH_MIX && options.n_adapters == 0)
        options.n_adapters = options.n_sequences;
    *out = options;
    return true;
}
