/*
 * options.c - see options.h. Values from the environment are parsed by the same code as flags.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

static bool parse_number(const char *text, double *out)
{
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && errno == 0 && isfinite(*out);
}

static bool set_count(const struct option *option, const char *text, struct error *err)
{
    double value;
    if (!parse_number(text, &value) || value < 0 || value != floor(value) || value > 9e15)
        return error_set(err, ERROR_BAD_INPUT, option->name, "'%s' is not a whole number", text);
    if (option->maximum > 0 && (value < option->minimum || value > option->maximum))
        return error_set(err, ERROR_BAD_INPUT, option->name, "is %s, but must be in %.0f..%.0f", text,
                         option->minimum, option->maximum);
    *(size_t *)option->out = (size_t)value;
    return true;
}

static bool set_number(const struct option *option, const char *text, struct error *err)
{
    double value;
    if (!parse_number(text, &value))
        return error_set(err, ERROR_BAD_INPUT, option->name, "'%s' is not a number", text);
    if ((option->minimum != 0 || option->maximum != 0) && (value < option->minimum || value > option->maximum))
        return error_set(err, ERROR_BAD_INPUT, option->name, "is %s, but must be in %g..%g", text, option->minimum,
                         option->maximum);
    *(double *)option->out = value;
    return true;
}

/* K, M, G, T are powers of 1024, with or without "B" or "iB". */
static bool set_bytes(const struct option *option, const char *text, struct error *err)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    bool ok = end != text && errno == 0 && value >= 0 && isfinite(value);
    if (ok && *end) {
        const char *unit = strchr(units, toupper((unsigned char)*end));
        if (unit) {
            value = ldexp(value, 10 * (int)(unit - units + 1));
            end++;
            if (*end == 'i')
                end++;
        }
        if (*end == 'B')
            end++;
        ok = *end == '\0';
    }
    if (!ok || value >= 0x1p62)
        return error_set(err, ERROR_BAD_INPUT, option->name, "'%s' is not a size such as 512M or 2G", text);
    *(uint64_t *)option->out = (uint64_t)value;
    return true;
}

static bool set_choice(const struct option *option, const char *text, struct error *err)
{
    char known[256] = "";
    size_t n = 0;
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *(int *)option->out = i;
            return true;
        }
        n += (size_t)snprintf(known + n, n < sizeof known ? sizeof known - n : 0, "%s%s", i ? ", " : "",
                              option->choices[i]);
    }
    return error_set(err, ERROR_BAD_INPUT, option->name, "'%s' is none of %s", text, known);
}

static bool append_item(const struct option *option, const char *text, struct error *err)
{
    struct option_list *list = option->out;
    const char **items = realloc(list->items, (list->n_items + 1) * sizeof *items);
    if (!items)
        return error_no_memory(err);
    list->items = items;
    list->items[list->n_items++] = text;
    return true;
}

static bool set_flag(const struct option *option, const char *text, struct error *err)
{
    static const char *const yes[] = {"1", "true", "yes", "on"}, *const no[] = {"0", "false", "no", "off"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *(bool *)option->out = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return error_set(err, ERROR_BAD_INPUT, option->name, "'%s' is neither true nor false", text);
}

static bool set_option(const struct option *option, const char *text, struct error *err)
{
    bool ok = false;
    switch (option->kind) {
    case OPTION_FLAG:
        ok = set_flag(option, text, err);
        break;
    case OPTION_TEXT:
        *(const char **)option->out = text;
        ok = true;
        break;
    case OPTION_COUNT:
        ok = set_count(option, text, err);
        break;
    case OPTION_BYTES:
        ok = set_bytes(option, text, err);
        break;
    case OPTION_NUMBER:
        ok = set_number(option, text, err);
        break;
    case OPTION_CHOICE:
        ok = set_choice(option, text, err);
        break;
    case OPTION_LIST:
        ok = append_item(option, text, err);
        break;
    }
    if (ok && option->given)
        *option->given = true;
    return ok;
}

/* LORAD_ADAPTERS_DIR for adapters-dir. */
static void environment_name(const struct option *option, char *out, size_t n_out)
{
    int n = snprintf(out, n_out, "LORAD_%s", option->name);
    for (int i = 6; i < n && (size_t)i < n_out; i++)
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

/* A list comes separated by commas: LORAD_ADAPTER=a=/x,b=/y. */
static bool set_list_from_environment(const struct option *option, const char *text, struct error *err)
{
    static char *copies[16]; /* options are parsed once per process; the texts live as long as it does */
    static size_t n_copies;
    char *copy = strdup(text), *rest = copy, *item;
    if (!copy || n_copies == sizeof copies / sizeof *copies) {
        free(copy);
        return error_no_memory(err);
    }
    copies[n_copies++] = copy;
    while ((item = strsep(&rest, ",")) != NULL)
        if (*item && !set_option(option, item, err))
            return false;
    return true;
}

static bool read_environment(const struct command *command, struct error *err)
{
    char name[64];
    for (const struct option *option = command->options; option->name; option++) {
        environment_name(option, name, sizeof name);
        const char *text = getenv(name);
        if (!text || !*text)
            continue;
        bool ok = option->kind == OPTION_LIST ? set_list_from_environment(option, text, err)
                                              : set_option(option, text, err);
        if (!ok) {
            error_prefix(err, "environment variable %s", name);
            return false;
        }
    }
    return true;
}

static const struct option *find_option(const struct command *command, const char *name, size_t n_name)
{
    for (const struct option *option = command->options; option->name; option++)
        if (strlen(option->name) == n_name && strncmp(option->name, name, n_name) == 0)
            return option;
    return NULL;
}

/* Parses the flag at argv[*index]; moves *index to the value when that is an argument of its own. */
static bool parse_flag(const struct command *command, int argc, char **argv, int *index, struct error *err)
{
    const char *name = argv[*index] + 2;
    const char *equals = strchr(name, '=');
    size_t n_name = equals ? (size_t)(equals - name) : strlen(name);
    const struct option *option = find_option(command, name, n_name);
    if (!option)
        return error_set(err, ERROR_BAD_INPUT, NULL, "there is no flag --%.*s; 'lorad %s --help' lists them",
                         (int)n_name, name, command->name);
    if (equals)
        return set_option(option, equals + 1, err);
    if (option->kind == OPTION_FLAG)
        return set_option(option, "true", err);
    if (*index + 1 >= argc)
        return error_set(err, ERROR_BAD_INPUT, option->name, "needs a value: --%s %s", option->name, option->argument);
    (*index)++;
    return set_option(option, argv[*index], err);
}

enum parse_result command_parse(const struct command *command, int argc, char **argv, const char **operands,
                                size_t *n_operands, struct error *err)
{
    bool flags_ended = false;
    *n_operands = 0;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return PARSE_HELP;
        else if (strcmp(argv[i], "--") == 0)
            break;
    if (command->has_environment && !read_environment(command, err))
        return PARSE_WRONG;
    for (int i = 1; i < argc; i++) {
        if (!flags_ended && strcmp(argv[i], "--") == 0) {
            flags_ended = true;
        } else if (!flags_ended && strncmp(argv[i], "--", 2) == 0) {
            if (!parse_flag(command, argc, argv, &i, err))
                return PARSE_WRONG;
        } else if (!flags_ended && strcmp(argv[i], "-o") == 0 && find_option(command, "output", 6)) {
            if (i + 1 >= argc || !set_option(find_option(command, "output", 6), argv[++i], err)) {
                error_set(err, ERROR_BAD_INPUT, "output", "needs a value: -o DIR");
                return PARSE_WRONG;
            }
        } else if (command->operands) {
            operands[(*n_operands)++] = argv[i];
        } else {
            error_set(err, ERROR_BAD_INPUT, NULL, "'%s' is not a flag of 'lorad %s'", argv[i], command->name);
            return PARSE_WRONG;
        }
    }
    return PARSE_OK;
}

void command_finish(const struct command *command)
{
    for (const struct option *option = command->options; option->name; option++)
        if (option->kind == OPTION_LIST)
            free(((struct option_list *)option->out)->items);
}

static void print_choices(const struct option *option)
{
    printf("%28s", "");
    for (int i = 0; option->choices[i]; i++)
        printf("%s%s", i ? ", " : "one of: ", option->choices[i]);
    printf("\n");
}

void command_print_help(const struct command *command)
{
    printf("lorad %s %s\n\n%s\n\n%s\n\n", command->name, command->synopsis, command->summary, command->description);
    for (const struct option *option = command->options; option->name; option++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", option->name, option->argument ? " " : "",
                 option->argument ? option->argument : "");
        if (strlen(left) > 25)
            printf("  %s\n%28s%s\n", left, "", option->help);
        else
            printf("  %-26s%s\n", left, option->help);
        if (option->choices)
            print_choices(option);
    }
    printf("  %-26s%s\n", "--help", "this text");
    if (command->has_environment)
        printf("\nEvery flag can also be given as an environment variable: LORAD_MODEL, LORAD_ADAPTERS_DIR, ...;\n"
               "lists are separated by commas. A flag on the command line wins.\n");
}

bool parse_adapter_argument(const char *text, char **id, char **path, double *weight, struct error *err)
{
    const char *equals = strchr(text, '=');
    const char *begin = equals ? equals + 1 : text;
    size_t n_path = strlen(begin);
    const char *colon = weight ? strrchr(begin, ':') : NULL;
    double parsed;
    if (colon && parse_number(colon + 1, &parsed)) {
        *weight = parsed;
        n_path = (size_t)(colon - begin);
    }
    while (n_path > 1 && begin[n_path - 1] == '/')
        n_path--;
    if (n_path == 0 || equals == text)
        return error_set(err, ERROR_BAD_INPUT, "adapter", "'%s' is not ID=PATH", text);
    *path = strndup(begin, n_path);
    if (*path && equals) {
        *id = strndup(text, (size_t)(equals - text));
    } else if (*path) {
        const char *slash = strrchr(*path, '/');
        *id = strdup(slash ? slash + 1 : *path);
    }
    if (*path && *id)
        return true;
    free(*path);
    return error_no_memory(err);
}
