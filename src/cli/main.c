/*
 * main.c - which command; and what all commands share.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

const char *const CLI_WEIGHTS[] = {"native", "f32", "f16", "bf16", "q8", "q4", NULL};
const char *const CLI_KV_TYPES[] = {"f16", "bf16", "f32", NULL};

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} COMMANDS[] = {
    {"serve", "serve a base model and its adapters over HTTP", serve_main},
    {"generate", "generate text once, on the command line", generate_main},
    {"inspect", "say what a model or adapter directory is, and whether an adapter fits a model", inspect_main},
    {"merge", "write a model directory with adapters merged in", merge_main},
    {"bench", "measure prefill and decode speed", bench_main},
};
#define N_COMMANDS (sizeof COMMANDS / sizeof *COMMANDS)

int cli_fail(const struct error *err, bool is_usage)
{
    const char *dashes = is_usage && err->param[0] ? "--" : "";
    fprintf(stderr, "lorad: %s%s%s%s\n", dashes, err->param, err->param[0] ? ": " : "", err->message);
    return is_usage ? EXIT_USAGE : EXIT_FAILED;
}

bool cli_begin(const struct command *command, int argc, char **argv, const char **operands, size_t *n_operands,
               int *exit_code)
{
    struct error err = {0};
    switch (command_parse(command, argc, argv, operands, n_operands, &err)) {
    case PARSE_HELP:
        command_print_help(command);
        *exit_code = EXIT_DONE;
        return false;
    case PARSE_WRONG:
        *exit_code = cli_fail(&err, true);
        return false;
    case PARSE_OK:
        break;
    }
    return true;
}

void cli_progress(void *context, const char *what, double fraction)
{
    (void)context;
    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r\033[K%s %3.0f %%", what, fraction * 100);
    if (fraction >= 1)
        fprintf(stderr, "\r\033[K");
    fflush(stderr);
}

static void print_usage(FILE *to)
{
    fprintf(to, "lorad %s: one frozen base model, many LoRA adapters, on ordinary machines\n\nusage: lorad COMMAND [flags]\n\n",
            lorad_version());
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-10s%s\n", COMMANDS[i].name, COMMANDS[i].summary);
    fprintf(to, "\n'lorad COMMAND --help' tells all of a command's flags; 'lorad --version' the version.\n"
                "Exit codes: 0 done, 1 the work failed, 2 the command line is wrong.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("lorad %s\n", lorad_version());
        return EXIT_DONE;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], COMMANDS[i].name) == 0)
            return COMMANDS[i].run(argc - 1, argv + 1);
    fprintf(stderr, "lorad: there is no command '%s'; 'lorad --help' lists them\n", argv[1]);
    return EXIT_USAGE;
}
