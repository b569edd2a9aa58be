/*
 * adapter_match.c - keys are parsed first; then one rule is looked for under which all module paths exist in
 * the base.
 */
#include "lora/adapter_match.h"

#include <string.h>

#include "lora/report.h"

struct matching {
    const struct model *model;
    const struct tensor_file *tensors;
    bool allow_other_heads;
    struct arena *arena;
    struct tensor_key *keys;
    enum key_rule rule;
    const char *adapter_name;
};

/* Modules that other task types put on top of the decoder. */
static bool is_other_head(const char *module)
{
    static const char *const heads[] = {"score",      "classifier", "classification_head",
                                        "qa_outputs", "v_head",     "pre_classifier"};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        size_t n = strlen(heads[i]);
        const char *last = strrchr(module, '.');
        if (strcmp(last ? last + 1 : module, heads[i]) == 0 ||
            (strncmp(module, heads[i], n) == 0 && module[n] == '.'))
            return true;
    }
    return false;
}

static bool is_left_out(const struct matching *matching, const struct tensor_key *key)
{
    return key->part == KEY_IGNORED || (matching->allow_other_heads && is_other_head(key->module));
}

/* One adapter per file: names that were left in the keys must agree. */
static bool check_adapter_name(struct matching *matching, const struct tensor_key *key, const char *name,
                               struct error *err)
{
    if (!key->adapter_name)
        return true;
    if (!matching->adapter_name)
        matching->adapter_name = key->adapter_name;
    if (strcmp(matching->adapter_name, key->adapter_name) == 0)
        return true;
    return error_set(err, ERROR_MISMATCH, name,
                     "the file holds several adapters ('%s' and '%s'): save one alone",
                     matching->adapter_name, key->adapter_name);
}

static bool parse_keys(struct matching *matching, struct error *err)
{
    const struct tensor_file *tensors = matching->tensors;
    matching->keys = arena_allocate_array(matching->arena, tensors->n_tensors, sizeof *matching->keys);
    if (!matching->keys)
        return error_no_memory(err);
    for (size_t i = 0; i < tensors->n_tensors; i++) {
        const char *name = tensors->tensors[i].name;
        if (!tensor_key_parse(&matching->keys[i], name, matching->arena, err) ||
            !check_adapter_name(matching, &matching->keys[i], name, err))
            return false;
    }
    return true;
}

static bool is_in_base(const struct model *model, const char *path)
{
    return model_find_site(model, path) || model_find_norm(model, path);
}

/* The head sits outside the wrapped decoder, so it may lack what the others have. */
static bool fits_rule(const struct matching *matching, enum key_rule rule, const char *module)
{
    const char *path = tensor_key_apply_rule(rule, module, matching->arena);
    bool is_changed = rule == KEY_RULE_AS_IS || path != module;
    const char *head = matching->model->sites[matching->model->head_site].path;
    return path && ((is_changed && is_in_base(matching->model, path)) || strcmp(module, head) == 0);
}

static bool all_fit(const struct matching *matching, enum key_rule rule)
{
    for (size_t i = 0; i < matching->tensors->n_tensors; i++)
        if (!is_left_out(matching, &matching->keys[i]) &&
            !fits_rule(matching, rule, matching->keys[i].module))
            return false;
    return true;
}

static void choose_rule(struct matching *matching)
{
    for (enum key_rule rule = KEY_RULE_AS_IS; rule < N_KEY_RULES; rule++)
        if (all_fit(matching, rule)) {
            matching->rule = rule;
            return;
        }
    matching->rule = KEY_RULE_AS_IS;
}

static bool refuse_unknown(const struct matching *matching, const struct tensor_key *key, const char *name,
                           struct error *err)
{
    if (is_other_head(key->module))
        return error_set(err, ERROR_MISMATCH, name,
                         "tensor '%s' is a head of another task, which a language model has not", name);
    return error_set(
        err, ERROR_MISMATCH, name, "tensor '%s' is for module '%s', which the base (%s, %zu layers) has not",
        name, key->module, family_name(matching->model->config.family), matching->model->config.n_layers);
}

/* KEY_RULE_AS_IS lets "lm_head" pass under any rule; the path is what the base calls it. */
static struct matched_module *find_module(struct matched *out, const struct matching *matching,
                                          const char *module)
{
    const struct model *model = matching->model;
    const char *path = tensor_key_apply_rule(matching->rule, module, matching->arena);
    if (!path)
        return NULL;
    if (!is_in_base(model, path))
        path = module;
    const struct site *site = model_find_site(model, path);
    const struct norm *norm = site ? NULL : model_find_norm(model, path);
    if (site)
        return &out->sites[site - model->sites];
    return norm ? &out->norms[norm - model->norms] : NULL;
}

static bool place(struct matched *out, const struct matching *matching, size_t index, struct error *err)
{
    const struct tensor *tensor = &matching->tensors->tensors[index];
    const struct tensor_key *key = &matching->keys[index];
    struct matched_module *module = find_module(out, matching, key->module);
    if (!module)
        return refuse_unknown(matching, key, tensor->name, err);
    if (!dtype_is_weight(tensor->dtype))
        return error_set(err, ERROR_MISMATCH, tensor->name,
                         "tensor '%s' holds %s, but F32, F16 or BF16 is served", tensor->name,
                         dtype_name(tensor->dtype));
    const struct tensor **part = &module->parts[key->part];
    if (*part)
        return error_set(err, ERROR_MISMATCH, tensor->name, "tensors '%s' and '%s' are the same thing twice",
                         tensor->name, (*part)->name);
    *part = tensor;
    module->path = key->module;
    return true;
}

static bool leave_out(const struct matching *matching, size_t index, size_t *n_copies,
                      struct lorad_load_report *report, struct error *err)
{
    const struct tensor_key *key = &matching->keys[index];
    report->tensors_ignored++;
    if (key->part == KEY_IGNORED) {
        (*n_copies)++;
        return true;
    }
    return report_warn(report, err, "tensor '%s' is a head of another task and is ignored",
                       matching->tensors->tensors[index].name);
}

bool adapter_match(struct matched *out, const struct model *model, const struct tensor_file *tensors,
                   bool allow_other_heads, struct lorad_load_report *report, struct arena *arena,
                   struct error *err)
{
    struct matching matching = {
        .model = model, .tensors = tensors, .allow_other_heads = allow_other_heads, .arena = arena};
    struct matched matched = {0};
    size_t n_copies = 0;

    if (!parse_keys(&matching, err))
        return false;
    choose_rule(&matching);
    matched.sites = arena_allocate_array(arena, model->n_sites, sizeof *matched.sites);
    matched.norms = arena_allocate_array(arena, model->n_norms, sizeof *matched.norms);
    if (!matched.sites || !matched.norms)
        return error_no_memory(err);
    report->tensors_present = tensors->n_tensors;
    for (size_t i = 0; i < tensors->n_tensors; i++) {
        bool ok = is_left_out(&matching, &matching.keys[i]) ? leave_out(&matching, i, &n_copies, report, err)
                                                            : place(&matched, &matching, i, err);
        if (!ok)
            return false;
    }
    if (n_copies > 0 &&
        !report_warn(report, err,
                     "%zu tensors that serve training alone (original_module, samplers) are ignored",
                     n_copies))
        return false;
    *out = matched;
    return true;
}
