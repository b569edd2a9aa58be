/*
 * merge.c - lorad merge: a Hugging Face directory with adapters merged in.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/limits.h"
#include "cli/cli.h"

static bool parse_parts(const struct option_list *list, struct lorad_merge_part *parts, struct error *err)
{
    for (size_t i = 0; i < list->n_items; i++) {
        char *id, *path;
        parts[i].weight = 1;
        if (!parse_adapter_argument(list->items[i], &id, &path, &parts[i].weight, err))
            return false;
        free(id);
        parts[i].path = path;
    }
    return true;
}

int merge_main(int argc, char **argv)
{
    const char *model = NULL, *output = NULL;
    struct option_list adapters = {0};
    struct option options[] = {
        {.name = "model", .argument = "PATH", .kind = OPTION_TEXT, .out = &model, .help = "the base: a Hugging Face directory"},
        {.name = "adapter", .argument = "ID=PATH[:WEIGHT]", .kind = OPTION_LIST, .out = &adapters,
         .help = "a PEFT directory and its weight (1); may be given several times"},
        {.name = "output", .argument = "DIR", .kind = OPTION_TEXT, .out = &output,
         .help = "the directory to make (-o); it must not exist, or be empty"},
        {0}};
    struct command command = {
        .name = "merge",
        .synopsis = "--model PATH --adapter ID=PATH[:WEIGHT]... -o DIR",
        .summary = "Writes W' = W + weight * s * BA as a Hugging Face directory that any program can load.",
        .description = "The sum is formed in f32 from the base's own weights and rounded once to their type.\n"
                       "Tokenizer and configuration are copied. Nothing is left behind when it fails.",
        .options = options};
    struct lorad_merge_part parts[LIMIT_REQUEST_ADAPTERS] = {0};
    struct error err = {0};
    const char **operands = calloc((size_t)argc + 1, sizeof *operands);
    size_t n_operands;
    int code = EXIT_FAILED;
    if (!operands || !cli_begin(&command, argc, argv, operands, &n_operands, &code))
        goto done;
    if (!model || !output || adapters.n_items == 0) {
        fprintf(stderr, "lorad: merge needs --model, --adapter and -o; 'lorad merge --help' tells more\n");
        code = EXIT_USAGE;
    } else if (adapters.n_items > LIMIT_REQUEST_ADAPTERS) {
        fprintf(stderr, "lorad: --adapter: at most %d can be merged\n", LIMIT_REQUEST_ADAPTERS);
        code = EXIT_USAGE;
    } else if (!parse_parts(&adapters, parts, &err)) {
        code = cli_fail(&err, true);
    } else if (!lorad_merge(model, parts, adapters.n_items, output, cli_progress, NULL, &err)) {
        code = cli_fail(&err, false);
    } else {
        printf("wrote %s\n", output);
        code = EXIT_DONE;
    }
done:
    for (size_t i = 0; i < LIMIT_REQUEST_ADAPTERS; i++)
        free((char *)parts[i].path);
    command_finish(&command);
    free(operands);
    return code;
}
