/*
 * bench.c - lorad bench: JSON figures on stdout, progress on stderr.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"

static const char DESCRIPTION[] =
    "Prints one JSON object, or with several instruction sets (--cpu) an array of them. Scenarios, and what they measure (what is compared is measured in turns; medians are printed):\n"
    "  steady      prefill and decode\n"
    "  mix         decode rate of the same clients on the base, all on one adapter, each on its own\n"
    "  ranks       the same, base and each its own, over the rank (--points, 8,16,32,64,128)\n"
    "  adapters    rate over the number of adapters, all resident and all used (--points, 1,2,4,...,256)\n"
    "  merge       merged, on the fly and auto over the number of sequences (--points, 1,2,4,8,16), and where they cross\n"
    "  swap        time between tokens of running streams while adapters load and merge; first token after a load\n"
    "  starvation  time to first token of an adapter that asks now and then while another one floods\n"
    "  prefix      time to first token of requests that begin alike\n"
    "  quality     perplexity and divergence from f32 of each weight type (--weights: of one), and of adapters on the fly and merged\n"
    "What the machine can do at best is measured first. Beside each rate stands what that allows, and the share that is reached (steady: measured again beside each).\n"
    "A flag that is not given takes the value in brackets for its scenario; one that a scenario has no use for is refused.";

/* "8,16,32": whole numbers; their range is checked by who knows the scenario. */
static bool parse_points(const char *text, size_t *points, size_t *n_points, struct error *err)
{
    for (*n_points = 0; text; (*n_points)++) {
        char *end;
        unsigned long value = strtoul(text, &end, 10);
        if (*text < '0' || *text > '9' || (*end != ',' && *end != '\0'))
            return error_set(err, ERROR_BAD_INPUT, "points", "'%s' is not a list such as 8,16,32", text);
        if (*n_points == LORAD_BENCH_MAX_POINTS)
            return error_set(err, ERROR_BAD_INPUT, "points", "are more than %d", LORAD_BENCH_MAX_POINTS);
        points[*n_points] = value;
        text = *end ? end + 1 : NULL;
    }
    return true;
}

static int run(struct lorad_bench_options *bench, const char *points_text)
{
    struct error err = {0};
    size_t points[LORAD_BENCH_MAX_POINTS];
    if (!bench->open.model_path) {
        fprintf(stderr, "lorad: bench needs --model; 'lorad bench --help' tells more\n");
        return EXIT_USAGE;
    }
    if (points_text && !parse_points(points_text, points, &bench->n_points, &err))
        return cli_fail(&err, true);
    bench->points = points;
    log_configure(LOG_WARNING, LOG_TEXT);
    bench->open.progress = cli_progress;
    char *report = lorad_bench(bench, &err);
    if (!report)
        return cli_fail(&err, err.code == ERROR_BAD_INPUT);
    puts(report);
    free(report);
    return EXIT_DONE;
}

int bench_main(int argc, char **argv)
{
    static const char *const ELEMENTS[] = {"bf16", "f16", "f32", NULL}; /* in the order of enum lorad_element */
    int kv_type = LORAD_KV_F16, weights = LORAD_WEIGHTS_NATIVE, adapter_dtype = LORAD_ELEMENT_BF16, scenario = LORAD_BENCH_STEADY;
    const char *points = NULL, *scenarios[LORAD_BENCH_SCENARIOS + 1] = {NULL};
    struct lorad_bench_options bench = {0};
    bool limits_alone = false;
    if (bench_wants_limits(argc, argv))
        return bench_limits_main(argc, argv);
    struct option options[] = {
        {.name = "model", .argument = "PATH", .kind = OPTION_TEXT, .out = &bench.open.model_path, .help = "a Hugging Face directory"},
        {.name = "scenario", .argument = "NAME", .kind = OPTION_CHOICE, .out = &scenario, .choices = scenarios,
         .help = "what to measure (steady)"},
        {.name = "limits", .kind = OPTION_FLAG, .out = &limits_alone,
         .help = "measure the machine and no model; 'lorad bench --limits --help' tells more"},
        {.name = "weights", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &weights, .choices = CLI_WEIGHTS,
         .help = "what products multiply with (native: what the files hold)"},
        {.name = "weights-cache", .argument = "DIR", .kind = OPTION_TEXT, .out = &bench.open.weights_cache,
         .help = "keeps packed weights there: the next start takes a moment, processes share them"},
        {.name = "kv-type", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &kv_type, .choices = CLI_KV_TYPES,
         .help = "what keys and values are held as: f16, bf16, f32 (f16)"},
        {.name = "threads", .argument = "N", .kind = OPTION_COUNT, .out = &bench.open.n_threads, .minimum = 1, .maximum = 1024,
         .help = "compute threads (the cores that are granted)"},
        {.name = "clients", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_sequences, .minimum = 1, .maximum = 256,
         .help = "sequences at a time (steady 1; mix, ranks 8; adapters 32; swap 4)"},
        {.name = "adapters", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_adapters, .minimum = 0, .maximum = 4096,
         .help = "random adapters on all linear sites; client i uses adapter i mod N (steady 0: the base; mix: one for each client; "
                 "swap 20, which are loaded)"},
        {.name = "rank", .argument = "R", .kind = OPTION_COUNT, .out = &bench.rank, .minimum = 1, .maximum = 4096,
         .help = "their rank (16)"},
        {.name = "adapter-dtype", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &adapter_dtype, .choices = ELEMENTS,
         .help = "what their files hold (bf16)"},
        {.name = "points", .argument = "N,N,...", .kind = OPTION_TEXT, .out = &points,
         .help = "the ranks, numbers of adapters or sequences that are stepped through, growing (see above)"},
        {.name = "prompt", .argument = "N", .kind = OPTION_COUNT, .out = &bench.prompt_tokens, .minimum = 1, .maximum = 1e6,
         .help = "tokens in each prompt (steady, prefix 512; swap 64; mix, ranks, starvation 32; adapters, merge 16)"},
        {.name = "tokens", .argument = "N", .kind = OPTION_COUNT, .out = &bench.new_tokens, .minimum = 2, .maximum = 1e6,
         .help = "tokens to generate (steady 64; mix, ranks, merge, starvation 32; adapters 16; prefix 4; swap 64, before and after "
                 "the loads; quality 256, in each text)"},
        {.name = "repeats", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_repeats, .minimum = 1, .maximum = 64,
         .help = "turns (5; adapters, swap, starvation 3)"},
        {.name = "requests", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_requests, .minimum = 2, .maximum = 1e5,
         .help = "starvation: of the adapter that asks now and then (20); prefix: that begin alike (8); quality: texts (32)"},
        {.name = "flood", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_flood, .minimum = 1, .maximum = 1000,
         .help = "starvation: requests at once of the other one (200)"},
        {.name = "period-ms", .argument = "MS", .kind = OPTION_COUNT, .out = &bench.period_ms, .minimum = 1, .maximum = 60000,
         .help = "starvation: between two requests (1000)"},
        {.name = "merges", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_merges, .minimum = 1, .maximum = 4096,
         .help = "swap: of the adapters that are loaded (5)"},
        {.name = "merged", .kind = OPTION_FLAG, .out = &bench.merged, .help = "steady: through W' = W + s BA, not on the fly"},
        {.name = "adapters-dir", .argument = "DIR", .kind = OPTION_TEXT, .out = &bench.open.adapters_dir,
         .help = "quality: every PEFT directory in it is measured too"},
        {.name = "texts", .argument = "DIR", .kind = OPTION_TEXT, .out = &bench.texts_dir,
         .help = "quality: right answers of adapters, ID.jsonl with a {\"prompt\", \"answer\"} in each line (texts that each model writes "
                 "in f32)"},
        {.name = "cpu", .argument = "SET", .kind = OPTION_TEXT, .out = &bench.open.cpu,
         .help = "forces an instruction set: c, avx2, avxvnni, avx512, avx512vnni, avx512amx, avx512amxbf16 "
                 "(other last bits with bf16 weights), avx512bf16, neon, neondot; several (c,avx2), or all "
                 "that this CPU has: one after the other, in a JSON array"},
        {.name = "context", .argument = "N", .kind = OPTION_COUNT, .out = &bench.open.context, .minimum = 1, .maximum = 1e7,
         .help = "positions per sequence (the model's, at most 8,192)"},
        {.name = "max-sequences", .argument = "N", .kind = OPTION_COUNT, .out = &bench.open.max_sequences, .minimum = 1,
         .maximum = 4096, .help = "that run at a time (as many as the scenario has clients; starvation and prefix 64)"},
        {.name = "max-batch-tokens", .argument = "N", .kind = OPTION_COUNT, .out = &bench.open.max_batch_tokens, .minimum = 1,
         .maximum = 65536, .help = "tokens per step (256)"},
        {.name = "kv-memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &bench.open.kv_memory, .help = "key/value cache"},
        {.name = "adapter-memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &bench.open.adapter_memory,
         .help = "for adapters (ranks, adapters: half of the memory)"},
        {.name = "merged-memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &bench.open.merged_memory,
         .help = "for merged weights (merge, swap: half of the memory)"},
        CLI_LIMITS_OPTIONS(bench.limits),
        {0}};
    struct command command = {
        .name = "bench",
        .synopsis = "--model PATH [--scenario NAME] [--clients N] [--adapters N] [--rank R] [flags] | --limits [flags]",
        .summary = "Measures how fast a model and its adapters are served, how steadily, and how well.",
        .description = DESCRIPTION,
        .options = options};
    const char **operands = calloc((size_t)argc + 1, sizeof *operands);
    size_t n_operands;
    int code = EXIT_FAILED;
    for (int i = 0; i < LORAD_BENCH_SCENARIOS; i++)
        scenarios[i] = lorad_bench_scenario_name((enum lorad_bench_scenario)i);
    if (operands && cli_begin(&command, argc, argv, operands, &n_operands, &code)) {
        bench.scenario = (enum lorad_bench_scenario)scenario;
        bench.open.weights = (enum lorad_weights)weights;
        bench.open.kv_type = (enum lorad_kv_type)kv_type;
        bench.adapter_dtype = (enum lorad_element)adapter_dtype;
        code = run(&bench, points);
    }
    command_finish(&command);
    free(operands);
    return code;
}
