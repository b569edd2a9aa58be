/*
 * inspect.c - lorad inspect: for people by default, --json for programs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "cli/cli.h"

/* Safe for a terminal: the texts are those of files that anybody may have made. Good for the next three calls. */
static const char *printable(const json_t *text)
{
    static char buffers[4][1024];
    static size_t n_calls;
    char *buffer = buffers[n_calls++ % 4];
    if (!json_is_string(text))
        return "";
    utf8_clean(buffer, sizeof buffers[0], json_string_value(text), json_string_length(text));
    return buffer;
}

static const char *text_of(const json_t *object, const char *key)
{
    return printable(json_object_get(object, key));
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static bool is_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static void print_bytes(const char *label, double n)
{
    if (n >= 1 << 20)
        printf("  %-18s%.1f MiB\n", label, n / (1 << 20));
    else
        printf("  %-18s%.1f KiB\n", label, n / 1024);
}

static void print_warnings(const json_t *object)
{
    const json_t *warnings = json_object_get(object, "warnings");
    size_t index;
    json_t *warning;
    json_array_foreach(warnings, index, warning)
        printf("  warning: %s\n", printable(warning));
}

static void print_model(const json_t *model)
{
    printf("%s: a %s model, %s weights\n", text_of(model, "path"), text_of(model, "family"), text_of(model, "weights"));
    printf("  %-18s%.2f million\n", "parameters", number_of(model, "n_parameters") / 1e6);
    print_bytes("weights", number_of(model, "weight_bytes"));
    printf("  %-18s%.0f layers, width %.0f, feed-forward %.0f\n", "shape", number_of(model, "n_layers"),
           number_of(model, "d_model"), number_of(model, "d_ffn"));
    printf("  %-18s%.0f query, %.0f key/value, %.0f wide\n", "heads", number_of(model, "n_heads"),
           number_of(model, "n_kv_heads"), number_of(model, "d_head"));
    printf("  %-18s%.0f tokens, head %s\n", "vocabulary", number_of(model, "n_vocab"),
           is_true(model, "tied_head") ? "tied to the embedding" : "of its own");
    printf("  %-18s%.0f positions, %.0f bytes of cache each\n", "context", number_of(model, "max_positions"),
           number_of(model, "kv_bytes_per_token"));
    printf("  adaptable sites (first layer, and outside the layers):\n");
    const json_t *sites = json_object_get(model, "sites");
    size_t index;
    json_t *site;
    json_array_foreach(sites, index, site)
        printf("    %-44s%6.0f x %-6.0f%s%s\n", text_of(site, "site"), number_of(site, "n_out"), number_of(site, "n_in"),
               is_true(site, "bias") ? " bias" : "", is_true(site, "conv1d") ? " (stored transposed)" : "");
    print_warnings(model);
}

static void print_config(const json_t *config)
{
    if (!config)
        return;
    const json_t *base = json_object_get(config, "base_model_name_or_path");
    printf("  %-18sr %.0f, alpha %g%s%s%s\n", "config", number_of(config, "r"), number_of(config, "lora_alpha"),
           is_true(config, "use_rslora") ? ", rsLoRA" : "", is_true(config, "use_dora") ? ", DoRA" : "",
           is_true(config, "lora_bias") ? ", LoRA bias" : "");
    if (json_is_string(base))
        printf("  %-18s%s\n", "trained on", printable(base));
    print_warnings(config);
}

static void print_sites(const json_t *sites)
{
    size_t index;
    json_t *site;
    printf("  %-44s%6s%8s%9s%12s%12s\n", "site", "rank", "alpha", "scale", "trained", "of");
    json_array_foreach(sites, index, site)
        printf("  %-44s%6.0f%8g%9.4g%12.0f%12.0f%s%s%s\n", text_of(site, "site"), number_of(site, "rank"),
               number_of(site, "alpha"), number_of(site, "scale"), number_of(site, "parameters"),
               number_of(site, "base_parameters"), is_true(site, "dora") ? " DoRA" : "",
               is_true(site, "replaced") ? " replaced" : "", is_true(site, "bias") ? " bias" : "");
}

static void print_report(const json_t *report)
{
    printf("  %-18s%s\n", "sha256", text_of(report, "sha256"));
    printf("  %-18s%.0f applied of %.0f present", "tensors", number_of(report, "tensors_applied"),
           number_of(report, "tensors_present"));
    if (number_of(report, "tensors_ignored") > 0)
        printf(", %.0f ignored", number_of(report, "tensors_ignored"));
    printf("\n  %-18s%.0f trained, the base has %.0f (%.2f %%)\n", "parameters", number_of(report, "n_parameters"),
           number_of(report, "base_n_parameters"),
           100 * number_of(report, "n_parameters") / number_of(report, "base_n_parameters"));
    print_bytes("in memory", number_of(report, "resident_bytes"));
    print_sites(json_object_get(report, "sites"));
    print_warnings(report);
}

static void print_tensors(const json_t *tensors)
{
    size_t index;
    json_t *tensor;
    json_array_foreach(tensors, index, tensor)
        printf("  %-72s %-5s %s\n", text_of(tensor, "name"), text_of(tensor, "dtype"), text_of(tensor, "shape"));
}

static void print_adapter(const json_t *adapter)
{
    const json_t *problem = json_object_get(adapter, "problem");
    const json_t *report = json_object_get(adapter, "report");
    printf("%s: a LoRA adapter\n", text_of(adapter, "path"));
    print_config(json_object_get(adapter, "config"));
    if (report) {
        printf("  %-18s%s\n", "fits", text_of(adapter, "base"));
        print_report(report);
    } else if (problem) {
        printf("  does not fit %s: %s%s%s\n", text_of(adapter, "base"), text_of(problem, "param"),
               *text_of(problem, "param") ? ": " : "", text_of(problem, "message"));
    } else {
        print_tensors(json_object_get(adapter, "tensors"));
    }
}

static void print_report_text(const char *text)
{
    json_t *object = json_loads(text, 0, NULL);
    if (!object)
        fputs(text, stdout);
    else if (strcmp(text_of(object, "kind"), "model") == 0)
        print_model(object);
    else
        print_adapter(object);
    json_decref(object);
}

int inspect_main(int argc, char **argv)
{
    const char *base = NULL;
    bool as_json = false, fits;
    struct option options[] = {
        {.name = "model", .argument = "BASE", .kind = OPTION_TEXT, .out = &base,
         .help = "check an adapter against this model: exit 1 and why when it does not fit"},
        {.name = "json", .kind = OPTION_FLAG, .out = &as_json, .help = "print JSON"},
        {0}};
    struct command command = {
        .name = "inspect",
        .synopsis = "PATH [--model BASE] [--json]",
        .summary = "Says what a model or adapter directory is.",
        .description = "With --model, an adapter is loaded against the base exactly as the daemon would: the report names every\n"
                       "site, its rank and effective scale, and what was trained of what is there.",
        .options = options,
        .operands = "PATH"};
    struct error err = {0};
    const char **operands = calloc((size_t)argc + 1, sizeof *operands);
    size_t n_operands;
    int code = EXIT_FAILED;
    if (!operands || !cli_begin(&command, argc, argv, operands, &n_operands, &code))
        goto done;
    if (n_operands != 1) {
        fprintf(stderr, "lorad: inspect needs one PATH; 'lorad inspect --help' tells more\n");
        code = EXIT_USAGE;
        goto done;
    }
    char *report = lorad_inspect(operands[0], base, &fits, &err);
    if (!report) {
        code = cli_fail(&err, false);
    } else {
        if (as_json)
            puts(report);
        else
            print_report_text(report);
        code = fits ? EXIT_DONE : EXIT_FAILED;
    }
    free(report);
done:
    free(operands);
    return code;
}
