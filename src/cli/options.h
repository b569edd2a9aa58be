/*
 * options.h - command lines described by tables: flags, environment variables, help.
 *
 * Every flag of a command is one row; parsing, `--help` and the environment (LORAD_<FLAG>) come from the same table, so that
 * they cannot disagree.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_TEXT,   /* const char * */
    OPTION_COUNT,  /* size_t */
    OPTION_BYTES,  /* uint64_t: "512M", "2G", "1.5GiB", plain bytes */
    OPTION_NUMBER, /* double */
    OPTION_CHOICE, /* int: index into choices */
    OPTION_LIST    /* struct option_list: may be given several times */
};

struct option_list {
    const char **items;
    size_t n_items;
};

struct option {
    const char *name;           /* without the dashes */
    const char *argument;       /* as the help writes it: "PATH"; NULL for flags */
    enum option_kind kind;
    void *out;
    const char *help;
    const char *const *choices; /* OPTION_CHOICE; ends with NULL */
    double minimum, maximum;    /* COUNT and NUMBER; both 0: any */
    bool *given;                /* set when it was there; may be NULL */
};

struct command {
    const char *name;
    const char *synopsis;    /* after the name */
    const char *summary;     /* one line */
    const char *description; /* paragraphs */
    struct option *options;  /* ends with a row without name */
    bool has_environment;    /* flags may come from LORAD_... */
    const char *operands;    /* "PROMPT", ...; NULL: none are taken */
};

enum parse_result { PARSE_OK, PARSE_HELP, PARSE_WRONG };

/* Fills the options' outputs from the environment, then from argv[1..]; "--flag value" and "--flag=value"; "--" ends flags. Operands are
   left in `operands` (room for argc). PARSE_WRONG: err names the flag. */
enum parse_result command_parse(const struct command *command, int argc, char **argv, const char **operands,
                                size_t *n_operands, struct error *err);
void command_finish(const struct command *command); /* frees the lists */

void command_print_help(const struct command *command);

/* "ID=PATH" or "ID=PATH:WEIGHT" (only where `weight` is not NULL). The parts are malloc'ed. A path alone takes its last component
   as id. */
bool parse_adapter_argument(const char *text, char **id, char **path, double *weight, struct error *err) MUST_USE;

#endif
