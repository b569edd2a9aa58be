/*
 * tiny_model.c - names and shapes are written out here once more, on purpose not taken from the loader's tables.
 */
#include "support/tiny_model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"
#include "formats/tensor_file.h"

#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                          \
            abort();                                                                                                 \
        }                                                                                                            \
    } while (0)

enum { MOST_TENSORS = 2048 };

struct writer {
    struct tensor tensors[MOST_TENSORS];
    size_t n;
    enum dtype dtype;
};

float tiny_random(uint64_t *state)
{
    /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(int32_t)(z >> 32) / 2147483648.0f;
}

static uint64_t seed_of(const char *name, unsigned seed)
{
    uint64_t hash = 1469598103934665603u ^ seed * 0x9e3779b97f4a7c15u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash;
}

/* A tensor of `mean` + size * random. n_columns 0: a vector. */
static void add(struct writer *writer, const char *name, size_t n_rows, size_t n_columns, float mean, float size,
                unsigned seed)
{
    CHECK(writer->n < MOST_TENSORS);
    struct tensor *tensor = &writer->tensors[writer->n++];
    size_t n = n_rows * (n_columns ? n_columns : 1);
    uint64_t state = seed_of(name, seed);
    float *values = malloc(n * sizeof *values);
    void *data = malloc(n * dtype_size(writer->dtype));
    CHECK(values && data);
    for (size_t i = 0; i < n; i++)
        values[i] = mean + size * tiny_random(&state);
    dtype_from_f32(data, writer->dtype, values, n);
    free(values);
    *tensor = (struct tensor){.name = strdup(name), .dtype = writer->dtype, .n_dims = n_columns ? 2 : 1,
                              .shape = {n_rows, n_columns}, .n_elements = n, .n_bytes = n * dtype_size(writer->dtype),
                              .data = data};
    CHECK(tensor->name);
}

static void finish(struct writer *writer, const char *directory, const char *file)
{
    struct error err;
    char *path = path_join(directory, file);
    CHECK(path);
    if (!safetensors_write(path, writer->tensors, writer->n, &err)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    free(path);
    for (size_t i = 0; i < writer->n; i++) {
        free((void *)(uintptr_t)writer->tensors[i].name);
        free((void *)(uintptr_t)writer->tensors[i].data);
    }
    free(writer);
}

static char *new_directory(void)
{
    const char *base = getenv("TMPDIR");
    char name[512];
    snprintf(name, sizeof name, "%s/lorad-tiny-XXXXXX", base && *base ? base : "/tmp");
    CHECK(mkdtemp(name));
    char *copy = strdup(name);
    CHECK(copy);
    return copy;
}

void tiny_remove(char *directory)
{
    struct error err;
    if (directory)
        CHECK(directory_remove(directory, &err));
    free(directory);
}

static void write_text(const char *directory, const char *file, struct buffer *text)
{
    struct error err;
    char *path = path_join(directory, file);
    CHECK(path && !text->failed);
    CHECK(file_replace(path, buffer_text(text), text->n_bytes, &err));
    free(path);
    buffer_finish(text);
}

/* ---- the model ---- */

static bool is_gpt2(const struct tiny_model *spec)
{
    return strcmp(spec->family, "gpt2") == 0;
}

static bool is_qwen3(const struct tiny_model *spec)
{
    return strcmp(spec->family, "qwen3") == 0;
}

static size_t or_else(size_t value, size_t otherwise)
{
    return value ? value : otherwise;
}

static struct tiny_model with_defaults(struct tiny_model spec)
{
    if (!spec.family)
        spec.family = "llama";
    spec.n_layers = or_else(spec.n_layers, 2);
    spec.d_model = or_else(spec.d_model, 32);
    spec.n_heads = or_else(spec.n_heads, 4);
    spec.n_kv_heads = is_gpt2(&spec) ? spec.n_heads : or_else(spec.n_kv_heads, 2);
    if (is_qwen3(&spec))
        spec.d_head = or_else(spec.d_head, spec.d_model / spec.n_heads);
    spec.d_ffn = or_else(spec.d_ffn, 48);
    spec.n_vocab = or_else(spec.n_vocab, spec.has_tokenizer ? 260 : 96);
    spec.max_positions = or_else(spec.max_positions, 128);
    if (spec.tied_head == 0)
        spec.tied_head = is_gpt2(&spec) ? 1 : -1;
    return spec;
}

static const char *class_name(const struct tiny_model *spec)
{
    static const char *const NAMES[][2] = {{"gpt2", "GPT2LMHeadModel"}, {"llama", "LlamaForCausalLM"},
                                           {"mistral", "MistralForCausalLM"}, {"qwen2", "Qwen2ForCausalLM"},
                                           {"qwen3", "Qwen3ForCausalLM"}};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(spec->family, NAMES[i][0]) == 0)
            return NAMES[i][1];
    return "UnknownForCausalLM";
}

static void write_config(const char *directory, const struct tiny_model *spec)
{
    struct buffer text;
    buffer_init(&text, 0);
    buffer_printf(&text, "{\"model_type\": \"%s\", \"architectures\": [\"%s\"], \"vocab_size\": %zu, ", spec->family,
                  class_name(spec), spec->n_vocab);
    if (is_gpt2(spec))
        buffer_printf(&text, "\"n_embd\": %zu, \"n_layer\": %zu, \"n_head\": %zu, \"n_inner\": %zu, \"n_positions\": %zu",
                      spec->d_model, spec->n_layers, spec->n_heads, spec->d_ffn, spec->max_positions);
    else
        buffer_printf(&text,
                      "\"hidden_size\": %zu, \"num_hidden_layers\": %zu, \"num_attention_heads\": %zu, "
                      "\"num_key_value_heads\": %zu, \"intermediate_size\": %zu, \"max_position_embeddings\": %zu",
                      spec->d_model, spec->n_layers, spec->n_heads, spec->n_kv_heads, spec->d_ffn, spec->max_positions);
    if (strcmp(spec->family, "mistral") == 0 && !(spec->more_config && strstr(spec->more_config, "sliding_window")))
        buffer_append_text(&text, ", \"sliding_window\": null");
    if (spec->d_head)
        buffer_printf(&text, ", \"head_dim\": %zu", spec->d_head);
    if (spec->attention_bias)
        buffer_append_text(&text, ", \"attention_bias\": true");
    if (spec->mlp_bias)
        buffer_append_text(&text, ", \"mlp_bias\": true");
    buffer_printf(&text, ", \"eos_token_id\": %d, \"tie_word_embeddings\": %s", spec->has_tokenizer ? 256 : 0,
                  spec->tied_head > 0 ? "true" : "false");
    if (spec->more_config)
        buffer_printf(&text, ", %s", spec->more_config);
    buffer_append_text(&text, "}\n");
    write_text(directory, "config.json", &text);
}

struct model_writer {
    struct writer *out;
    const struct tiny_model *spec;
};

static void add_named(struct model_writer *writer, size_t n_rows, size_t n_columns, float mean, float size,
                      const char *format, ...) PRINTF_LIKE(6, 7);
static void add_named(struct model_writer *writer, size_t n_rows, size_t n_columns, float mean, float size,
                      const char *format, ...)
{
    const struct tiny_model *spec = writer->spec;
    char name[256];
    const char *shown = name;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const char *prefix = is_gpt2(spec) ? "transformer." : "model.";
    if (spec->has_no_prefix && strncmp(name, prefix, strlen(prefix)) == 0)
        shown += strlen(prefix);
    if (spec->without && strcmp(spec->without, shown) == 0)
        return;
    if (spec->misshapen && strcmp(spec->misshapen, shown) == 0)
        n_rows++;
    add(writer->out, shown, n_rows, n_columns, mean, size, spec->seed);
    if (spec->not_finite && strcmp(spec->not_finite, shown) == 0) {
        struct tensor *tensor = &writer->out->tensors[writer->out->n - 1];
        memset((void *)(uintptr_t)tensor->data, 0xff, dtype_size(tensor->dtype));
    }
}

/* Elements of a weight with n_in inputs, so that outputs are about as large as inputs. */
static float spread(size_t n_in)
{
    return 1.7f / sqrtf((float)n_in);
}

static void add_gpt2(struct model_writer *writer)
{
    const struct tiny_model *spec = writer->spec;
    size_t d = spec->d_model, f = spec->d_ffn;
    add_named(writer, spec->n_vocab, d, 0, 1, "transformer.wte.weight");
    add_named(writer, spec->max_positions, d, 0, 0.5f, "transformer.wpe.weight");
    for (size_t i = 0; i < spec->n_layers; i++) {
        static const char *const NORMS[] = {"ln_1", "ln_2"};
        for (size_t n = 0; n < 2; n++) {
            add_named(writer, d, 0, 1, 0.3f, "transformer.h.%zu.%s.weight", i, NORMS[n]);
            add_named(writer, d, 0, 0, 0.3f, "transformer.h.%zu.%s.bias", i, NORMS[n]);
        }
        const struct {
            const char *name;
            size_t n_in, n_out;
        } maps[] = {{"attn.c_attn", d, 3 * d}, {"attn.c_proj", d, d}, {"mlp.c_fc", d, f}, {"mlp.c_proj", f, d}};
        for (size_t m = 0; m < 4; m++) {
            add_named(writer, maps[m].n_in, maps[m].n_out, 0, spread(maps[m].n_in), "transformer.h.%zu.%s.weight", i,
                      maps[m].name);
            add_named(writer, maps[m].n_out, 0, 0, 0.3f, "transformer.h.%zu.%s.bias", i, maps[m].name);
        }
    }
    add_named(writer, d, 0, 1, 0.3f, "transformer.ln_f.weight");
    add_named(writer, d, 0, 0, 0.3f, "transformer.ln_f.bias");
}

static void add_llama(struct model_writer *writer)
{
    const struct tiny_model *spec = writer->spec;
    size_t d = spec->d_model, f = spec->d_ffn, d_head = or_else(spec->d_head, d / spec->n_heads);
    size_t q = spec->n_heads * d_head, kv = spec->n_kv_heads * d_head;
    bool qkv_bias = spec->attention_bias || strcmp(spec->family, "qwen2") == 0;
    add_named(writer, spec->n_vocab, d, 0, 1, "model.embed_tokens.weight");
    for (size_t i = 0; i < spec->n_layers; i++) {
        add_named(writer, d, 0, 1, 0.3f, "model.layers.%zu.input_layernorm.weight", i);
        add_named(writer, d, 0, 1, 0.3f, "model.layers.%zu.post_attention_layernorm.weight", i);
        if (is_qwen3(spec)) {
            add_named(writer, d_head, 0, 1, 0.3f, "model.layers.%zu.self_attn.q_norm.weight", i);
            add_named(writer, d_head, 0, 1, 0.3f, "model.layers.%zu.self_attn.k_norm.weight", i);
        }
        const struct {
            const char *name;
            size_t n_out, n_in;
            bool has_bias;
        } maps[] = {{"self_attn.q_proj", q, d, qkv_bias},          {"self_attn.k_proj", kv, d, qkv_bias},
                    {"self_attn.v_proj", kv, d, qkv_bias},         {"self_attn.o_proj", d, q, spec->attention_bias},
                    {"mlp.gate_proj", f, d, spec->mlp_bias},       {"mlp.up_proj", f, d, spec->mlp_bias},
                    {"mlp.down_proj", d, f, spec->mlp_bias}};
        for (size_t m = 0; m < 7; m++) {
            add_named(writer, maps[m].n_out, maps[m].n_in, 0, spread(maps[m].n_in), "model.layers.%zu.%s.weight", i,
                      maps[m].name);
            if (maps[m].has_bias)
                add_named(writer, maps[m].n_out, 0, 0, 0.3f, "model.layers.%zu.%s.bias", i, maps[m].name);
        }
    }
    add_named(writer, d, 0, 1, 0.3f, "model.norm.weight");
}

/* One line of tokenizer.json's vocabulary: byte-level BPE shows printable Latin-1 bytes as themselves and the others as
   U+0100 on, in order. */
static void append_byte_token(struct buffer *text, unsigned byte, unsigned *n_hidden)
{
    bool is_shown = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    unsigned character = is_shown ? byte : 256 + (*n_hidden)++;
    buffer_printf(text, "%s\"\\u%04x\": %u", byte ? ", " : "", character, byte);
}

static void write_tokenizer(const char *directory)
{
    struct buffer text;
    unsigned n_hidden = 0;
    buffer_init(&text, 0);
    buffer_append_text(&text,
                       "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [{\"id\": 256, "
                       "\"content\": \"<|end|>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                       "\"normalized\": false, \"special\": true}], \"normalizer\": null, \"pre_tokenizer\": {\"type\": "
                       "\"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, "
                       "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                       "\"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"dropout\": null, "
                       "\"unk_token\": null, \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
                       "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {");
    for (unsigned byte = 0; byte < 256; byte++)
        append_byte_token(&text, byte, &n_hidden);
    buffer_append_text(&text, ", \"<|end|>\": 256}, \"merges\": []}}\n");
    write_text(directory, "tokenizer.json", &text);
    buffer_init(&text, 0);
    buffer_append_text(&text, "{\"eos_token\": \"<|end|>\", \"tokenizer_class\": \"PreTrainedTokenizerFast\"}\n");
    write_text(directory, "tokenizer_config.json", &text);
}

char *tiny_model_write(struct tiny_model description)
{
    struct tiny_model spec = with_defaults(description);
    char *directory = new_directory();
    struct writer *out = calloc(1, sizeof *out);
    CHECK(out);
    out->dtype = spec.dtype;
    struct model_writer writer = {out, &spec};
    write_config(directory, &spec);
    if (is_gpt2(&spec))
        add_gpt2(&writer);
    else
        add_llama(&writer);
    if (spec.tied_head < 0)
        add_named(&writer, spec.n_vocab, spec.d_model, 0, spread(spec.d_model), "lm_head.weight");
    if (spec.extra_tensor)
        add(out, spec.extra_tensor, 3, 0, 0, 1, spec.seed);
    finish(out, directory, "model.safetensors");
    if (spec.has_tokenizer)
        write_tokenizer(directory);
    return directory;
}

struct model *tiny_model_load(struct tiny_model spec, enum model_weights weights, const struct kernels *kernels)
{
    struct error err;
    char *directory = tiny_model_write(spec);
    struct model *model = model_load(directory, weights, kernels, NULL, NULL, &err);
    if (!model) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    tiny_remove(directory);
    return model;
}

/* ---- the adapter ---- */

static bool is_targeted(const struct tiny_adapter *spec, const struct site *site)
{
    if (!spec->sites)
        return site->kind == SITE_LINEAR;
    for (const char *const *path = spec->sites; *path; path++)
        if (strcmp(*path, site->path) == 0)
            return true;
    return false;
}

static void add_adapter_tensor(struct writer *out, const struct tiny_adapter *spec, const struct site *site,
                               const char *suffix, size_t n_rows, size_t n_columns, float mean, float size)
{
    char name[512];
    snprintf(name, sizeof name, "base_model.model.%s.%s", site->path, suffix);
    add(out, name, n_rows, n_columns, mean, size, spec->seed);
}

static void add_pair(struct writer *out, const struct tiny_adapter *spec, const struct site *site)
{
    bool is_table = site->kind == SITE_EMBEDDING || site->kind == SITE_POSITION;
    add_adapter_tensor(out, spec, site, is_table ? "lora_embedding_A" : "lora_A.weight", spec->rank, site->n_in, 0,
                       spec->size);
    add_adapter_tensor(out, spec, site, is_table ? "lora_embedding_B" : "lora_B.weight", site->n_out, spec->rank, 0,
                       spec->size);
    if (spec->lora_bias && !is_table)
        add_adapter_tensor(out, spec, site, "lora_B.bias", site->n_out, 0, 0, spec->size);
    if (spec->use_dora)
        add_adapter_tensor(out, spec, site, "lora_magnitude_vector", site->n_out, 0, 1, 0.3f);
}

static void write_adapter_config(const char *directory, const struct model *model, const struct tiny_adapter *spec)
{
    struct buffer text;
    buffer_init(&text, 0);
    buffer_printf(&text,
                  "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": %zu, \"lora_alpha\": %g, "
                  "\"use_rslora\": %s, \"use_dora\": %s, \"lora_bias\": %s, \"bias\": \"none\", "
                  "\"fan_in_fan_out\": %s, \"target_modules\": [",
                  spec->rank, spec->alpha, spec->use_rslora ? "true" : "false", spec->use_dora ? "true" : "false",
                  spec->lora_bias ? "true" : "false",
                  strcmp(model->config.model_type, "gpt2") == 0 ? "true" : "false");
    const char *comma = "";
    for (size_t i = 0; i < model->n_sites; i++)
        if (is_targeted(spec, &model->sites[i])) {
            buffer_printf(&text, "%s\"%s\"", comma, model->sites[i].path);
            comma = ", ";
        }
    buffer_append_text(&text, "]");
    if (spec->more_config)
        buffer_printf(&text, ", %s", spec->more_config);
    buffer_append_text(&text, "}\n");
    write_text(directory, "adapter_config.json", &text);
}

char *tiny_adapter_write(const struct model *model, struct tiny_adapter spec)
{
    spec.rank = or_else(spec.rank, 4);
    if (spec.alpha == 0)
        spec.alpha = 8;
    if (spec.size == 0)
        spec.size = 0.1f;
    char *directory = new_directory();
    struct writer *out = calloc(1, sizeof *out);
    CHECK(out);
    out->dtype = spec.dtype;
    for (size_t i = 0; i < model->n_sites; i++)
        if (is_targeted(&spec, &model->sites[i]))
            add_pair(out, &spec, &model->sites[i]);
    finish(out, directory, "adapter_model.safetensors");
    write_adapter_config(directory, model, &spec);
    return directory;
}
