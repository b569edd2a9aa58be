/*
 * bench.c - lorad bench: JSON figures on stdout, progress on stderr.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "cli/cli.h"

int bench_main(int argc, char **argv)
{
    static const char *const ELEMENTS[] = {"bf16", "f16", "f32", NULL}; /* in the order of enum lorad_element */
    int kv_type = LORAD_KV_F16, weights = LORAD_WEIGHTS_NATIVE, adapter_dtype = LORAD_ELEMENT_BF16;
    struct lorad_bench_options bench = {.rank = 16, .prompt_tokens = 512, .new_tokens = 64, .n_sequences = 1, .n_repeats = 5};
    struct option options[] = {
        {.name = "model", .argument = "PATH", .kind = OPTION_TEXT, .out = &bench.open.model_path, .help = "a Hugging Face directory"},
        {.name = "weights", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &weights, .choices = CLI_WEIGHTS,
         .help = "what the weights are held as (native)"},
        {.name = "kv-type", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &kv_type, .choices = CLI_KV_TYPES,
         .help = "what keys and values are held as: f16, bf16, f32 (f16)"},
        {.name = "threads", .argument = "N", .kind = OPTION_COUNT, .out = &bench.open.n_threads, .minimum = 1, .maximum = 1024,
         .help = "compute threads (the cores that are granted)"},
        {.name = "clients", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_sequences, .minimum = 1, .maximum = 256,
         .help = "sequences that decode at a time (1)"},
        {.name = "prompt", .argument = "N", .kind = OPTION_COUNT, .out = &bench.prompt_tokens, .minimum = 1, .maximum = 1e6,
         .help = "tokens in each prompt (512)"},
        {.name = "tokens", .argument = "N", .kind = OPTION_COUNT, .out = &bench.new_tokens, .minimum = 2, .maximum = 1e6,
         .help = "tokens to generate (64)"},
        {.name = "adapters", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_adapters, .minimum = 0, .maximum = 4096,
         .help = "random adapters on all linear sites; client i uses adapter i mod N (0: the base)"},
        {.name = "rank", .argument = "R", .kind = OPTION_COUNT, .out = &bench.rank, .minimum = 1, .maximum = 4096,
         .help = "their rank (16)"},
        {.name = "adapter-dtype", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &adapter_dtype, .choices = ELEMENTS,
         .help = "what their files hold (bf16)"},
        {.name = "merged", .kind = OPTION_FLAG, .out = &bench.merged, .help = "through W' = W + s BA, not on the fly"},
        {.name = "repeats", .argument = "N", .kind = OPTION_COUNT, .out = &bench.n_repeats, .minimum = 1, .maximum = 64,
         .help = "runs; medians are printed (5)"},
        {.name = "cpu", .argument = "SET", .kind = OPTION_TEXT, .out = &bench.open.cpu,
         .help = "forces an instruction set: c, avx2, avx512"},
        {.name = "kv-memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &bench.open.kv_memory, .help = "key/value cache"},
        {.name = "merged-memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &bench.open.merged_memory,
         .help = "for merged weights"},
        {0}};
    struct command command = {
        .name = "bench",
        .synopsis = "--model PATH [--adapters N --rank R] [flags]",
        .summary = "Measures prefill and decode tokens per second, and the share of the memory bandwidth that decoding reaches.",
        .description = "Prints one JSON object: medians over the repeats, the bytes that a decode step must read, and the read\n"
                       "bandwidth measured on this machine in the same run.",
        .options = options};
    struct error err = {0};
    const char **operands = calloc((size_t)argc + 1, sizeof *operands);
    size_t n_operands;
    int code = EXIT_FAILED;
    if (!operands || !cli_begin(&command, argc, argv, operands, &n_operands, &code))
        goto done;
    if (!bench.open.model_path) {
        fprintf(stderr, "lorad: bench needs --model; 'lorad bench --help' tells more\n");
        code = EXIT_USAGE;
        goto done;
    }
    log_configure(LOG_WARNING, LOG_TEXT);
    bench.open.weights = (enum lorad_weights)weights;
    bench.open.kv_type = (enum lorad_kv_type)kv_type;
    bench.adapter_dtype = (enum lorad_element)adapter_dtype;
    bench.open.progress = cli_progress;
    char *report = lorad_bench(&bench, &err);
    if (report) {
        puts(report);
        code = EXIT_DONE;
    } else {
        code = cli_fail(&err, err.code == ERROR_BAD_INPUT);
    }
    free(report);
done:
    command_finish(&command);
    free(operands);
    return code;
}
