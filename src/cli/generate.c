/*
 * generate.c - lorad generate: one prompt, the text on stdout as it comes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/limits.h"
#include "base/log.h"
#include "cli/cli.h"

struct generate {
    struct lorad_options open;
    struct lorad_request request;
    struct option_list adapters, stops;
    struct lorad_adapter_choice choices[LIMIT_REQUEST_ADAPTERS];
    char *paths[LIMIT_REQUEST_ADAPTERS];
    struct buffer prompt;
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, scale;
    size_t max_tokens, top_k, seed;
    bool has_temperature, has_top_p, has_min_p, has_top_k, has_repetition_penalty, has_seed;
    bool ignore_eos, merged, echo, no_special_tokens, verbose;
};

static const char DESCRIPTION[] =
    "Loads the model and the adapters, generates once and leaves. Sampling flags that are not given take what the model's\n"
    "generation_config.json recommends. A prompt of '-' is read from standard input. Several adapters are added up,\n"
    "each times its weight.";

static bool parse_adapters(struct generate *g, struct error *err)
{
    if (g->adapters.n_items > LIMIT_REQUEST_ADAPTERS)
        return error_set(err, ERROR_BAD_INPUT, "adapter", "at most %d can be given", LIMIT_REQUEST_ADAPTERS);
    for (size_t i = 0; i < g->adapters.n_items; i++) {
        char *id;
        g->choices[i].weight = 1;
        if (!parse_adapter_argument(g->adapters.items[i], &id, &g->paths[i], &g->choices[i].weight, err))
            return false;
        g->choices[i].id = id;
    }
    return true;
}

static bool load_adapters(struct generate *g, struct lorad *lorad, struct error *err)
{
    for (size_t i = 0; i < g->adapters.n_items; i++) {
        struct lorad_load_options load = {.path = g->paths[i], .trusted_path = true, .only_new = true};
        if (!lorad_adapter_load(lorad, g->choices[i].id, &load, NULL, err))
            return false;
    }
    return true;
}

static bool read_prompt(struct generate *g, const char *operand, struct error *err)
{
    char chunk[4096];
    size_t n;
    buffer_init(&g->prompt, LIMIT_BODY_BYTES);
    if (strcmp(operand, "-") != 0)
        return buffer_append_text(&g->prompt, operand) || error_no_memory(err);
    while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0)
        if (!buffer_append(&g->prompt, chunk, n))
            return error_set(err, ERROR_TOO_LARGE, NULL, "the prompt has more than %zu bytes", LIMIT_BODY_BYTES);
    return true;
}

static void fill_request(struct generate *g, const struct lorad *lorad)
{
    struct lorad_request *request = &g->request;
    lorad_request_init(lorad, request);
    request->prompt = buffer_text(&g->prompt);
    request->n_prompt_bytes = g->prompt.n_bytes;
    request->adapters = g->choices;
    request->n_adapters = g->adapters.n_items;
    request->scale = g->scale;
    request->has_mode = true;
    request->mode = g->merged ? LORAD_MODE_MERGED : LORAD_MODE_ON_THE_FLY;
    request->merge_wait_ms = 3600000;
    request->no_special_tokens = g->no_special_tokens;
    request->max_tokens = g->max_tokens;
    request->ignore_eos = g->ignore_eos;
    request->stops = g->stops.items;
    request->n_stops = g->stops.n_items;
    if (g->has_temperature)
        request->sampling.temperature = g->temperature;
    if (g->has_top_p)
        request->sampling.top_p = g->top_p;
    if (g->has_min_p)
        request->sampling.min_p = g->min_p;
    if (g->has_top_k)
        request->sampling.top_k = g->top_k;
    if (g->has_repetition_penalty)
        request->sampling.repetition_penalty = g->repetition_penalty;
    request->sampling.presence_penalty = g->presence_penalty;
    request->sampling.frequency_penalty = g->frequency_penalty;
    request->sampling.has_seed = g->has_seed;
    request->sampling.seed = g->seed;
}

static void print_usage_line(const struct generate *g, const struct lorad_event *end)
{
    const struct lorad_usage *usage = &end->usage;
    if (!g->verbose)
        return;
    fprintf(stderr, "prompt %zu tokens in %.1f ms; generated %zu tokens", usage->prompt_tokens, usage->prefill_ms,
            usage->completion_tokens);
    if (usage->completion_tokens > 1 && usage->decode_ms > 0)
        fprintf(stderr, ", %.1f per second", (double)(usage->completion_tokens - 1) / usage->decode_ms * 1e3);
    fprintf(stderr, "; finish: %s\n", end->finish == LORAD_FINISH_STOP ? "stop" : "length");
}

static bool print_stream(const struct generate *g, struct lorad_stream *stream, struct error *err)
{
    struct lorad_event event;
    for (;;) {
        lorad_stream_wait(stream, -1);
        while (lorad_stream_next(stream, &event)) {
            if (event.kind == LORAD_EVENT_PROMPT)
                continue;
            fwrite(event.text, 1, event.n_text_bytes, stdout);
            fflush(stdout);
            if (event.kind == LORAD_EVENT_END) {
                putchar('\n');
                print_usage_line(g, &event);
                if (event.finish == LORAD_FINISH_ERROR)
                    return error_set(err, ERROR_INTERNAL, NULL, "%s", event.error_message);
                return true;
            }
        }
    }
}

static bool run(struct generate *g, struct error *err)
{
    struct lorad *lorad = lorad_open(&g->open, err);
    if (!lorad)
        return false;
    bool ok = load_adapters(g, lorad, err);
    if (ok) {
        fill_request(g, lorad);
        if (g->echo)
            fwrite(g->prompt.data, 1, g->prompt.n_bytes, stdout);
        struct lorad_stream *stream = lorad_submit(lorad, &g->request, err);
        ok = stream && print_stream(g, stream, err);
        lorad_stream_close(stream);
    }
    lorad_close(lorad);
    return ok;
}

int generate_main(int argc, char **argv)
{
    struct generate g = {.temperature = 0, .scale = 1, .max_tokens = 128, .open = {.max_sequences = 1}};
    int kv_type = LORAD_KV_F16, weights = LORAD_WEIGHTS_NATIVE;
    struct option options[] = {
        {.name = "model", .argument = "PATH", .kind = OPTION_TEXT, .out = &g.open.model_path, .help = "a Hugging Face directory"},
        {.name = "adapter", .argument = "ID=PATH[:WEIGHT]", .kind = OPTION_LIST, .out = &g.adapters,
         .help = "a PEFT directory and its weight (1); may be given several times"},
        {.name = "scale", .argument = "S", .kind = OPTION_NUMBER, .out = &g.scale, .minimum = -1000, .maximum = 1000,
         .help = "multiplies all adapters' deltas (1); 0 is the base"},
        {.name = "merged", .kind = OPTION_FLAG, .out = &g.merged, .help = "through W' = W + s BA, not on the fly"},
        {.name = "max-tokens", .argument = "N", .kind = OPTION_COUNT, .out = &g.max_tokens, .help = "at most so many new tokens (128)"},
        {.name = "temperature", .argument = "T", .kind = OPTION_NUMBER, .out = &g.temperature, .given = &g.has_temperature,
         .minimum = 0, .maximum = 100, .help = "0: greedy"},
        {.name = "top-k", .argument = "K", .kind = OPTION_COUNT, .out = &g.top_k, .given = &g.has_top_k, .help = "0: off"},
        {.name = "top-p", .argument = "P", .kind = OPTION_NUMBER, .out = &g.top_p, .given = &g.has_top_p, .minimum = 0, .maximum = 1,
         .help = "nucleus sampling; 1: off"},
        {.name = "min-p", .argument = "P", .kind = OPTION_NUMBER, .out = &g.min_p, .given = &g.has_min_p, .minimum = 0, .maximum = 1,
         .help = "drops tokens below P times the best; 0: off"},
        {.name = "repetition-penalty", .argument = "R", .kind = OPTION_NUMBER, .out = &g.repetition_penalty,
         .given = &g.has_repetition_penalty, .minimum = 0.01, .maximum = 100, .help = "1: off"},
        {.name = "presence-penalty", .argument = "X", .kind = OPTION_NUMBER, .out = &g.presence_penalty, .minimum = -2, .maximum = 2,
         .help = "-2..2 (0)"},
        {.name = "frequency-penalty", .argument = "X", .kind = OPTION_NUMBER, .out = &g.frequency_penalty, .minimum = -2, .maximum = 2,
         .help = "-2..2 (0)"},
        {.name = "seed", .argument = "N", .kind = OPTION_COUNT, .out = &g.seed, .given = &g.has_seed, .help = "makes sampling reproducible"},
        {.name = "stop", .argument = "TEXT", .kind = OPTION_LIST, .out = &g.stops, .help = "ends the text; may be given several times"},
        {.name = "ignore-eos", .kind = OPTION_FLAG, .out = &g.ignore_eos, .help = "end tokens do not end the text"},
        {.name = "no-special-tokens", .kind = OPTION_FLAG, .out = &g.no_special_tokens, .help = "add no BOS to the prompt"},
        {.name = "echo", .kind = OPTION_FLAG, .out = &g.echo, .help = "print the prompt first"},
        {.name = "weights", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &weights, .choices = CLI_WEIGHTS,
         .help = "what products multiply with (native: what the files hold)"},
        {.name = "weights-cache", .argument = "DIR", .kind = OPTION_TEXT, .out = &g.open.weights_cache,
         .help = "keeps packed weights there: the next start takes a moment, processes share them"},
        {.name = "kv-type", .argument = "TYPE", .kind = OPTION_CHOICE, .out = &kv_type, .choices = CLI_KV_TYPES,
         .help = "what keys and values are held as: f16, bf16, f32 (f16)"},
        {.name = "threads", .argument = "N", .kind = OPTION_COUNT, .out = &g.open.n_threads, .minimum = 1, .maximum = 1024,
         .help = "compute threads (the cores that are granted)"},
        {.name = "context", .argument = "N", .kind = OPTION_COUNT, .out = &g.open.context, .help = "positions (the model's, at most 8192)"},
        {.name = "verbose", .kind = OPTION_FLAG, .out = &g.verbose, .help = "token counts and speed on stderr"},
        {0}};
    struct command command = {.name = "generate",
                              .synopsis = "--model PATH [--adapter ID=PATH[:WEIGHT]]... [flags] PROMPT",
                              .summary = "Generates text from a prompt.",
                              .description = DESCRIPTION,
                              .options = options,
                              .operands = "PROMPT"};
    struct error err = {0};
    const char **operands = calloc((size_t)argc + 1, sizeof *operands);
    size_t n_operands;
    int code = EXIT_FAILED;
    if (!operands || !cli_begin(&command, argc, argv, operands, &n_operands, &code))
        goto done;
    log_configure(LOG_WARNING, LOG_TEXT);
    g.open.weights = (enum lorad_weights)weights;
    g.open.kv_type = (enum lorad_kv_type)kv_type;
    g.open.progress = cli_progress;
    if (!g.open.model_path || n_operands != 1) {
        fprintf(stderr, "lorad: generate needs --model and one PROMPT; 'lorad generate --help' tells more\n");
        code = EXIT_USAGE;
    } else if (!parse_adapters(&g, &err) || !read_prompt(&g, operands[0], &err)) {
        code = cli_fail(&err, true);
    } else {
        code = run(&g, &err) ? EXIT_DONE : cli_fail(&err, false);
    }
done:
    for (size_t i = 0; i < LIMIT_REQUEST_ADAPTERS; i++) {
        free((char *)g.choices[i].id);
        free(g.paths[i]);
    }
    buffer_finish(&g.prompt);
    command_finish(&command);
    free(operands);
    return code;
}
