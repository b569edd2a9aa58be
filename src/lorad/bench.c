/*
 * bench.c - lorad_bench: opens a model, runs one scenario on it, and says what was measured on what; once, or with one instruction set after
 * the other. Quality is measured without an engine: its scenario opens models itself.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/file.h"
#include "kernels/kernels.h"
#include "lorad/bench.h"

typedef bool scenario_run(struct bench *bench, json_t *report, struct error *err);

static scenario_run *const SCENARIOS[LORAD_BENCH_SCENARIOS] = {
    [LORAD_BENCH_STEADY] = bench_steady,     [LORAD_BENCH_MIX] = bench_mix,     [LORAD_BENCH_RANKS] = bench_ranks,
    [LORAD_BENCH_ADAPTERS] = bench_adapters, [LORAD_BENCH_MERGE] = bench_modes, [LORAD_BENCH_SWAP] = bench_swap,
    [LORAD_BENCH_STARVATION] = bench_starvation, [LORAD_BENCH_PREFIX] = bench_prefix,
};

void bench_progress(const struct bench *bench, size_t done, size_t n)
{
    const struct lorad_options *open = &bench->options.open;
    if (open->progress)
        open->progress(open->progress_context, "measuring", (double)done / (double)n);
}

static void set_size(json_t *out, const char *name, size_t value)
{
    if (value > 0)
        json_object_set_new(out, name, json_integer((json_int_t)value));
}

/* What was asked for, so that the figures can be had again. Sizes that the scenario has no use for are not there. */
static json_t *options_json(const struct lorad_bench_options *options)
{
    json_t *out = json_object();
    set_size(out, "clients", options->n_sequences);
    set_size(out, "adapters", options->n_adapters);
    set_size(out, "rank", options->rank);
    set_size(out, "prompt", options->prompt_tokens);
    set_size(out, "tokens", options->new_tokens);
    set_size(out, "repeats", options->n_repeats);
    set_size(out, "requests", options->n_requests);
    set_size(out, "flood", options->n_flood);
    set_size(out, "period_ms", options->period_ms);
    set_size(out, "merges", options->n_merges);
    set_size(out, "max_sequences", options->open.max_sequences);
    set_size(out, "max_batch_tokens", options->open.max_batch_tokens);
    return out;
}

static json_t *name_report(const struct lorad_bench_options *options)
{
    json_t *out = json_object();
    json_object_set_new(out, "scenario", json_string(lorad_bench_scenario_name(options->scenario)));
    json_object_set_new(out, "version", json_string(lorad_version()));
    return out;
}

static json_t *begin_report(const struct bench *bench)
{
    const struct lorad_model_info *info = lorad_model(bench->lorad);
    json_t *out = name_report(&bench->options);
    json_object_set_new(out, "model", json_string(info->name));
    json_object_set_new(out, "family", json_string(info->family));
    json_object_set_new(out, "weights", json_string(info->weights));
    json_object_set_new(out, "kv_type", json_string(info->kv_type));
    json_object_set_new(out, "adapter_dtype", json_string(bench_adapter_dtype_name(bench)));
    json_object_set_new(out, "kernels", json_string(info->kernels));
    json_object_set_new(out, "threads", json_integer((json_int_t)info->n_threads));
    json_object_set_new(out, "parameters", json_integer((json_int_t)info->n_parameters));
    json_object_set_new(out, "options", options_json(&bench->options));
    json_object_set_new(out, "limits", limits_json(&bench->limits));
    return out;
}

static char *make_directory(struct error *err)
{
    const char *parent = getenv("TMPDIR");
    char *path = path_join(parent && *parent ? parent : "/tmp", "lorad-bench-XXXXXX");
    if (!path) {
        error_no_memory(err);
        return NULL;
    }
    if (mkdtemp(path))
        return path;
    error_set(err, ERROR_IO, NULL, "no temporary directory can be made: '%s'", path);
    free(path);
    return NULL;
}

/* Before the model is there: the buffer that is read wants its memory. */
static bool measure_limits(struct bench *bench, struct error *err)
{
    struct lorad_limits_options options = bench->options.limits;
    options.n_threads = bench->options.open.n_threads;
    options.n_repeats = options.n_repeats ? options.n_repeats : 3;
    options.progress = bench->options.open.progress;
    options.progress_context = bench->options.open.progress_context;
    return limits_measure(&options, &bench->limits, err);
}

/* NULL: an error, as of the next. */
static json_t *run_quality(const struct lorad_bench_options *options, const struct kernels *kernels, struct error *err)
{
    json_t *report = name_report(options);
    json_object_set_new(report, "model", json_string(options->open.model_path));
    json_object_set_new(report, "kernels", json_string(kernels->name));
    json_object_set_new(report, "kv_type", json_string(weight_type_name(kv_type_of(&options->open))));
    json_object_set_new(report, "options", options_json(options));
    if (bench_quality(options, report, err))
        return report;
    json_decref(report);
    return NULL;
}

/* Opens, measures, closes. NULL: an error. */
static json_t *measure(const struct lorad_bench_options *options, struct error *err)
{
    struct bench bench = {.options = *options};
    json_t *report = NULL;
    bool ok = false;
    const struct kernels *kernels = kernels_select(cpu_detect_features(), options->open.cpu, err);
    if (!kernels) /* before the machine is measured */
        return NULL;
    if (options->scenario == LORAD_BENCH_QUALITY)
        return run_quality(options, kernels, err);
    bench.directory = make_directory(err);
    if (bench.directory && measure_limits(&bench, err))
        bench.lorad = lorad_open(&bench.options.open, err);
    if (bench.lorad) {
        report = begin_report(&bench);
        ok = SCENARIOS[bench.options.scenario](&bench, report, err);
    }
    lorad_close(bench.lorad);
    limits_finish(&bench.limits);
    if (bench.directory)
        (void)!directory_remove(bench.directory, NULL); /* what stays in the temporary directory harms nobody */
    free(bench.directory);
    if (ok)
        return report;
    json_decref(report);
    return NULL;
}

/* ---- one instruction set after the other ---- */

struct sets {
    const struct kernels *tables[KERNELS_MOST_SETS];
    size_t n;
};

/* "avx2,avx512": all are looked at before anything is measured. */
static bool parse_sets(struct sets *sets, const char *list, struct error *err)
{
    for (const char *at = list; at;) {
        char name[32];
        size_t length = strcspn(at, ",");
        if (length == 0 || length >= sizeof name)
            return error_set(err, ERROR_BAD_INPUT, "cpu", "'%s' is not a list such as c,avx2", list);
        if (sets->n == KERNELS_MOST_SETS)
            return error_set(err, ERROR_BAD_INPUT, "cpu", "names more than %d instruction sets", KERNELS_MOST_SETS);
        memcpy(name, at, length);
        name[length] = '\0';
        sets->tables[sets->n] = kernels_select(cpu_detect_features(), name, err);
        if (!sets->tables[sets->n++])
            return false;
        at = at[length] ? at + length + 1 : NULL;
    }
    return true;
}

/* The fastest first: the reference may take longer than one wants to wait. */
static void take_all_sets(struct sets *sets)
{
    sets->n = kernels_all(cpu_detect_features(), sets->tables);
    for (size_t i = 0; i < sets->n / 2; i++) {
        const struct kernels *slow = sets->tables[i];
        sets->tables[i] = sets->tables[sets->n - 1 - i];
        sets->tables[sets->n - 1 - i] = slow;
    }
}

static json_t *measure_sets(const struct lorad_bench_options *options, struct error *err)
{
    struct lorad_bench_options one = *options;
    struct sets sets = {0};
    json_t *reports = NULL, *report;
    if (strcmp(options->open.cpu, "all") == 0)
        take_all_sets(&sets);
    else if (!parse_sets(&sets, options->open.cpu, err))
        return NULL;
    reports = json_array();
    for (size_t i = 0; i < sets.n; i++) {
        one.open.cpu = sets.tables[i]->name;
        report = measure(&one, err);
        if (!report) {
            json_decref(reports);
            return NULL;
        }
        json_array_append_new(reports, report);
    }
    return reports;
}

static bool names_several_sets(const char *cpu)
{
    return cpu && (strcmp(cpu, "all") == 0 || strchr(cpu, ','));
}

char *lorad_bench(const struct lorad_bench_options *given, struct error *err)
{
    struct lorad_bench_options options;
    char *text = NULL;
    if (!bench_complete_options(given, &options, err))
        return NULL;
    json_t *report = names_several_sets(options.open.cpu) ? measure_sets(&options, err) : measure(&options, err);
    if (report)
        text = report_text(report, err);
    json_decref(report);
    return text;
}
