/*
 * bench_limits.c - lorad bench --limits: for people by default, --json for programs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/cli.h"

static double number_at(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* "  name   12.3 UNIT (12.1 to 12.5)", in thousand millions. */
static void print_series(const char *name, const json_t *series, const char *unit)
{
    printf("  %-20s %8.1f %s (%.1f to %.1f)", name, number_at(series, "median") / 1e9, unit, number_at(series, "minimum") / 1e9,
           number_at(series, "maximum") / 1e9);
}

static void print_memory(const json_t *report, const char *key, const char *name)
{
    const json_t *memory = json_object_get(report, key);
    int n_streams = (int)number_at(memory, "streams_per_thread");
    double huge = number_at(memory, "share_on_huge_pages");
    print_series(name, json_object_get(memory, "bytes_per_second"), "GB/s");
    printf(", %d stream%s per thread", n_streams, n_streams == 1 ? "" : "s");
    if (strcmp(key, "huge_pages") == 0 && huge < 0.99)
        printf("; only %.0f %% lay on huge pages", huge * 100);
    printf("\n");
}

static void print_rate(const json_t *report, const char *key, const char *unit)
{
    const json_t *rate = json_object_get(report, key), *series = json_object_get(rate, "operations_per_second");
    bool is_widened = json_is_true(json_object_get(rate, "widened_to_f32"));
    double limit = number_at(rate, "limit_operations_per_second");
    print_series(key, series, unit);
    printf(", %s", json_string_value(json_object_get(rate, "instruction")));
    if (is_widened)
        printf(": widened to f32, there is no instruction for it");
    else if (limit > number_at(series, "median"))
        printf(": f32 is faster, so the limit is %.1f, widened", limit / 1e9);
    printf("\n");
}

static void print_buffer(const json_t *report)
{
    const double MIB = 1 << 20;
    double cache = number_at(report, "cache_bytes");
    printf("  read: a buffer of %.0f MiB", number_at(report, "buffer_bytes") / MIB);
    if (cache > 0)
        printf("; the last-level cache has %.0f MiB", cache / MIB);
    if (json_is_true(json_object_get(report, "buffer_may_lie_in_cache")))
        printf(", so part of the buffer may lie in it: memory may be slower than this says");
    printf("\n");
}

static void print_report(const json_t *report)
{
    int n_threads = (int)number_at(report, "threads");
    printf("limits of %d thread%s, medians (least to most):\n", n_threads, n_threads == 1 ? "" : "s");
    print_memory(report, "huge_pages", "memory, huge pages");
    print_memory(report, "small_pages", "memory, small pages");
    print_rate(report, "f32", "GFLOP/s");
    print_rate(report, "bf16", "GFLOP/s");
    print_rate(report, "int8", "Gop/s");
    print_buffer(report);
}

static int run(const struct lorad_limits_options *options, bool as_json)
{
    struct error err = {0};
    char *text = lorad_limits(options, &err);
    if (!text)
        return cli_fail(&err, err.code == ERROR_BAD_INPUT);
    json_t *report = as_json ? NULL : json_loads(text, 0, NULL);
    if (report)
        print_report(report);
    else
        puts(text);
    json_decref(report);
    free(text);
    return EXIT_DONE;
}

bool bench_wants_limits(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--limits") == 0)
            return true;
    return false;
}

int bench_limits_main(int argc, char **argv)
{
    struct lorad_limits_options limits = {.progress = cli_progress};
    bool is_wanted = false, as_json = false;
    struct option options[] = {
        {.name = "limits", .kind = OPTION_FLAG, .out = &is_wanted, .help = "measure the machine"},
        {.name = "threads", .argument = "N", .kind = OPTION_COUNT, .out = &limits.n_threads, .minimum = 1, .maximum = 1024,
         .help = "compute threads (the cores that are granted)"},
        {.name = "repeats", .argument = "N", .kind = OPTION_COUNT, .out = &limits.n_repeats, .minimum = 1, .maximum = 64,
         .help = "of each measurement (5)"},
        CLI_LIMITS_OPTIONS(limits),
        {.name = "json", .kind = OPTION_FLAG, .out = &as_json, .help = "print JSON, with all values"},
        {0}};
    struct command command = {
        .name = "bench",
        .synopsis = "--limits [--threads N] [--repeats N] [--json]",
        .summary = "Measures what this machine can do at best, all threads together.",
        .description = "How fast memory is read, on huge pages and on small ones, and how many operations are done in a second: f32, and\n"
                       "products of bf16 and of 8-bit integers where the processor has instructions for them (a product and its addition\n"
                       "are two operations). Reports of 'lorad bench' have the same beside their figures.",
        .options = options};
    const char **operands = calloc((size_t)argc + 1, sizeof *operands);
    size_t n_operands;
    int code = EXIT_FAILED;
    if (operands && cli_begin(&command, argc, argv, operands, &n_operands, &code))
        code = run(&limits, as_json);
    command_finish(&command);
    free(operands);
    return code;
}
