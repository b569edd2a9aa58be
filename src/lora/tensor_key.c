/*
 * tensor_key.c - a name is cut at its dots. The first segment that PEFT's wrappers own (lora_A, base_layer,
 * ...) ends the module's path; without one the last segment is the parameter and the rest the module.
 */
#include "lora/tensor_key.h"

#include <string.h>

#include "base/limits.h"

struct segment {
    const char *text;
    size_t n;
};

enum { MAX_SEGMENTS = 64 };

struct segments {
    struct segment at[MAX_SEGMENTS];
    size_t n;
};

static bool is(struct segment segment, const char *text)
{
    return segment.n == strlen(text) && memcmp(segment.text, text, segment.n) == 0;
}

static bool begins(struct segment segment, const char *text)
{
    return segment.n >= strlen(text) && memcmp(segment.text, text, strlen(text)) == 0;
}

static bool is_wrapper(struct segment segment)
{
    return is(segment, "_orig_mod") || is(segment, "_fsdp_wrapped_module") ||
           is(segment, "_checkpoint_wrapped_module") || is(segment, "module");
}

/* Segments without the wrappers' own. False: too many, or an empty one. */
static bool split(struct segments *out, const char *name)
{
    out->n = 0;
    for (;;) {
        const char *dot = strchr(name, '.');
        struct segment segment = {name, dot ? (size_t)(dot - name) : strlen(name)};
        if (segment.n == 0 || out->n == MAX_SEGMENTS)
            return false;
        if (!is_wrapper(segment))
            out->at[out->n++] = segment;
        if (!dot)
            return out->n > 0;
        name = dot + 1;
    }
}

static bool is_marker(struct segment segment)
{
    return begins(segment, "lora_") || is(segment, "modules_to_save") || is(segment, "original_module") ||
           is(segment, "base_layer") || is(segment, "token_adapter");
}

static const char *join(const struct segments *segments, size_t first, size_t end, const char *between,
                        struct arena *arena)
{
    char text[2 * LIMIT_NAME_BYTES];
    size_t n = 0;
    for (size_t i = first; i < end; i++) {
        struct segment segment = segments->at[i];
        if (n + segment.n + 1 >= sizeof text)
            return NULL;
        if (i > first)
            text[n++] = *between;
        memcpy(text + n, segment.text, segment.n);
        n += segment.n;
    }
    return arena_copy_text(arena, text, n);
}

/* What follows a lora_* marker: [adapter's name] [leaf]. */
struct tail {
    size_t n;
    const char *leaf; /* "weight", "bias", or NULL */
    size_t name;      /* index of the adapter's name among all segments; 0: none */
    bool is_known;
};

static struct tail read_tail(const struct segments *segments, size_t first)
{
    struct tail tail = {.n = segments->n - first, .is_known = true};
    size_t n_names = tail.n;
    if (tail.n > 0 && is(segments->at[segments->n - 1], "weight"))
        tail.leaf = "weight";
    else if (tail.n > 0 && is(segments->at[segments->n - 1], "bias"))
        tail.leaf = "bias";
    if (tail.leaf)
        n_names--;
    if (n_names == 1)
        tail.name = first;
    tail.is_known = n_names <= 1;
    return tail;
}

static bool leaf_is(const struct tail *tail, const char *leaf)
{
    return tail->leaf && strcmp(tail->leaf, leaf) == 0;
}

/* The part that a lora_* marker with its tail stands for, or false. */
static bool find_lora_part(struct segment marker, const struct tail *tail, enum key_part *out)
{
    if (is(marker, "lora_monteclora_sampler"))
        return *out = KEY_IGNORED, true;
    if (!tail->is_known)
        return false;
    if (is(marker, "lora_A") && leaf_is(tail, "weight"))
        return *out = KEY_A, true;
    if (is(marker, "lora_B") && tail->leaf)
        return *out = leaf_is(tail, "bias") ? KEY_B_BIAS : KEY_B, true;
    if (is(marker, "lora_embedding_A") && !leaf_is(tail, "bias"))
        return *out = KEY_EMBEDDING_A, true;
    if (is(marker, "lora_embedding_B") && !leaf_is(tail, "bias"))
        return *out = KEY_EMBEDDING_B, true;
    if (is(marker, "lora_magnitude_vector") && !leaf_is(tail, "bias"))
        return *out = KEY_MAGNITUDE, true;
    return false;
}

static bool copy_names(struct tensor_key *out, const struct segments *segments, size_t module_end,
                       size_t name, struct arena *arena, struct error *err)
{
    size_t first = 0;
    if (segments->n > 1 && is(segments->at[0], "base_model"))
        first = is(segments->at[1], "model") && module_end > 2 ? 2 : 1;
    if (first >= module_end)
        return error_set(err, ERROR_MISMATCH, NULL, "names no module");
    out->module = join(segments, first, module_end, ".", arena);
    out->adapter_name = name ? join(segments, name, name + 1, ".", arena) : NULL;
    if (!out->module || (name && !out->adapter_name))
        return error_no_memory(err);
    return true;
}

/* "x.modules_to_save.NAME[.y...].weight": the module is x[.y...]. */
static bool parse_saved(struct tensor_key *out, struct segments *segments, size_t marker, struct arena *arena,
                        struct error *err)
{
    size_t n_after = segments->n - marker - 1;
    struct segment leaf = segments->at[segments->n - 1];
    if (n_after < 2 || !(is(leaf, "weight") || is(leaf, "bias")))
        return error_set(err, ERROR_MISMATCH, NULL, "is of no known form");
    out->part = is(leaf, "weight") ? KEY_WEIGHT : KEY_BIAS;
    struct segment name = segments->at[marker + 1];
    size_t n_below = n_after - 2;
    memmove(segments->at + marker, segments->at + marker + 2, n_below * sizeof segments->at[0]);
    segments->at[marker + n_below] = name;
    segments->n = marker + n_below + 1;
    return copy_names(out, segments, marker + n_below, marker + n_below, arena, err);
}

static bool parse_base_layer(struct tensor_key *out, const struct segments *segments, size_t marker,
                             struct arena *arena, struct error *err)
{
    bool is_last = segments->n == marker + 2;
    if (is_last && is(segments->at[marker + 1], "weight"))
        out->part = KEY_BASE_WEIGHT;
    else if (is_last && is(segments->at[marker + 1], "bias"))
        out->part = KEY_BIAS;
    else
        return error_set(err, ERROR_MISMATCH, NULL, "is of no known form");
    return copy_names(out, segments, marker, 0, arena, err);
}

static bool parse_tokens(struct tensor_key *out, const struct segments *segments, size_t marker,
                         struct arena *arena, struct error *err)
{
    size_t n_after = segments->n - marker - 1;
    if (n_after == 2 && is(segments->at[marker + 1], "base_layer") && is(segments->at[marker + 2], "weight"))
        out->part = KEY_BASE_WEIGHT;
    else if (n_after >= 1 && n_after <= 2 && is(segments->at[marker + 1], "trainable_tokens_delta"))
        out->part = KEY_TOKENS;
    else
        return error_set(err, ERROR_MISMATCH, NULL, "is of no known form");
    bool has_name = out->part == KEY_TOKENS && n_after == 2;
    return copy_names(out, segments, marker, has_name ? marker + 2 : 0, arena, err);
}

static bool parse_segments(struct tensor_key *out, struct segments *segments, struct arena *arena,
                           struct error *err)
{
    size_t marker = 0;
    while (marker < segments->n && !is_marker(segments->at[marker]))
        marker++;
    struct segment last = segments->at[segments->n - 1];
    if (marker == segments->n) {
        if (!is(last, "weight") && !is(last, "bias"))
            return error_set(err, ERROR_MISMATCH, NULL, "is of no known form");
        out->part = is(last, "weight") ? KEY_WEIGHT : KEY_BIAS;
        return copy_names(out, segments, segments->n - 1, 0, arena, err);
    }
    struct segment word = segments->at[marker];
    if (is(word, "original_module"))
        return out->part = KEY_IGNORED, copy_names(out, segments, marker, 0, arena, err);
    if (is(word, "modules_to_save"))
        return parse_saved(out, segments, marker, arena, err);
    if (is(word, "base_layer"))
        return parse_base_layer(out, segments, marker, arena, err);
    if (is(word, "token_adapter"))
        return parse_tokens(out, segments, marker, arena, err);
    struct tail tail = read_tail(segments, marker + 1);
    if (!find_lora_part(word, &tail, &out->part))
        return error_set(err, ERROR_MISMATCH, NULL, "is of a LoRA variant that is not served ('%.*s')",
                         (int)word.n, word.text);
    return copy_names(out, segments, marker, out->part == KEY_IGNORED ? 0 : tail.name, arena, err);
}

bool tensor_key_parse(struct tensor_key *out, const char *name, struct arena *arena, struct error *err)
{
    struct segments segments;
    struct tensor_key key = {0};
    struct error problem = {0};
    if (strlen(name) > LIMIT_NAME_BYTES || !split(&segments, name))
        return error_set(err, ERROR_MISMATCH, name, "tensor '%s' has a name of no known form", name);
    if (!parse_segments(&key, &segments, arena, &problem))
        return error_set(err, problem.code, name, "tensor '%s' %s", name, problem.message);
    *out = key;
    return true;
}

static const char *replace_front(const char *module, const char *front, const char *by, struct arena *arena)
{
    char text[2 * LIMIT_NAME_BYTES];
    size_t n_front = strlen(front), n_by = strlen(by), n_rest = strlen(module) - n_front;
    if (n_by + n_rest >= sizeof text)
        return NULL;
    memcpy(text, by, n_by);
    memcpy(text + n_by, module + n_front, n_rest);
    return arena_copy_text(arena, text, n_by + n_rest);
}

static bool has_front(const char *module, const char *front)
{
    return strncmp(module, front, strlen(front)) == 0;
}

static const char *drop_language_model(const char *module, struct arena *arena)
{
    if (has_front(module, "model.language_model."))
        return replace_front(module, "model.language_model.", "model.", arena);
    if (has_front(module, "language_model."))
        return replace_front(module, "language_model.", "", arena);
    return module;
}

const char *tensor_key_apply_rule(enum key_rule rule, const char *module, struct arena *arena)
{
    const char *out = module;
    if (rule == KEY_RULE_NO_LANGUAGE_MODEL || rule == KEY_RULE_BOTH)
        out = drop_language_model(out, arena);
    if (out && (rule == KEY_RULE_ONE_MODEL || rule == KEY_RULE_BOTH) && has_front(out, "model.model."))
        out = replace_front(out, "model.model.", "model.", arena);
    if (rule == KEY_RULE_ADD_MODEL)
        out = replace_front(out, "", "model.", arena);
    return out;
}
