/*
 * cli.h - the commands, and what they share.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <lorad/lorad.h>

#include "cli/options.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

int serve_main(int argc, char **argv);
int generate_main(int argc, char **argv);
int inspect_main(int argc, char **argv);
int merge_main(int argc, char **argv);
int bench_main(int argc, char **argv);

/* bench --limits, with flags of its own. */
bool bench_wants_limits(int argc, char **argv);
int bench_limits_main(int argc, char **argv);
/* Rows for how the limits are measured; `limits` is a struct lorad_limits_options. */
#define CLI_LIMITS_OPTIONS(limits)                                                                                              \
    {.name = "limits-seconds", .argument = "S", .kind = OPTION_NUMBER, .out = &(limits).seconds, .minimum = 0.001,              \
     .maximum = 60, .help = "how long a measurement of the machine takes (0.1)"},                                              \
    {.name = "limits-buffer", .argument = "SIZE", .kind = OPTION_BYTES, .out = &(limits).buffer_bytes,                          \
     .help = "that is read to measure memory (four times the last-level cache, at most a quarter of the memory)"}

/* "lorad: --flag: message" on stderr; returns the exit code for the error: 2 for a bad command line, else 1. */
int cli_fail(const struct error *err, bool is_usage);

/* Parses; on --help prints it, on a wrong line the error. True: go on; false: leave with *exit_code. */
bool cli_begin(const struct command *command, int argc, char **argv, const char **operands, size_t *n_operands,
               int *exit_code);

/* A progress line on stderr when that is a terminal, else nothing. */
void cli_progress(void *context, const char *what, double fraction);

extern const char *const CLI_WEIGHTS[]; /* the choices of --weights, in the order of enum lorad_weights */
extern const char *const CLI_KV_TYPES[]; /* of --kv-type, in the order of enum lorad_kv_type */

#endif
