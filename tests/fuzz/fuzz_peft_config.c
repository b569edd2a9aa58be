/*
 * fuzz_peft_config.c - any bytes as adapter_config.json. What is accepted is then asked about modules
 * of both families, since its regular expressions run only there.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/utf8.h"
#include "formats/peft_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data);

static volatile size_t sink;

static void check_texts(const char *const *texts, size_t n_texts)
{
    for (size_t i = 0; i < n_texts; i++) {
        assert(utf8_is_valid(texts[i], strlen(texts[i])));
        sink += strlen(texts[i]);
    }
}

static void check_values(const struct peft_config *config)
{
    assert(config->rank >= 1 && config->rank <= LIMIT_RANK);
    assert(isfinite(config->alpha));
    assert(isfinite(peft_config_scale(config, config->rank, config->alpha)));
    for (size_t i = 0; i < config->n_rank_patterns; i++)
        assert(config->rank_pattern[i].value >= 1 && config->rank_pattern[i].value <= LIMIT_RANK);
    for (size_t i = 0; i < config->n_alpha_patterns; i++)
        assert(isfinite(config->alpha_pattern[i].value));
    check_texts(config->target_modules.names, config->target_modules.n_names);
    check_texts(config->exclude_modules.names, config->exclude_modules.n_names);
    check_texts(config->modules_to_save, config->n_modules_to_save);
    check_texts(config->layers_pattern, config->n_layers_pattern);
    check_texts(config->warnings, config->n_warnings);
    for (size_t i = 0; i < config->n_token_indices; i++)
        for (size_t j = 0; j < config->token_indices[i].n_indices; j++)
            assert(config->token_indices[i].indices[j] >= 0);
}

static void check_error(const struct error *err)
{
    assert(err->code == ERROR_BAD_INPUT || err->code == ERROR_TOO_LARGE || err->code == ERROR_MISMATCH);
    assert(utf8_is_valid(err->message, strlen(err->message)) &&
           utf8_is_valid(err->param, strlen(err->param)));
}

static void check_matching(const struct peft_config *config)
{
    static const char *const PATHS[][2] = {
        {"model.layers.0.self_attn.q_proj", "llama"},
        {"model.layers.11.mlp.down_proj", "llama"},
        {"model.embed_tokens", "qwen3"},
        {"lm_head", "llama"},
        {"transformer.h.3.attn.c_attn", "gpt2"},
        {"", "gpt2"},
        {"x.y.1.w", "unheard_of"},
    };
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        struct error err;
        bool found;
        size_t rank;
        double alpha;
        if (!peft_config_targets(config, PATHS[i][0], i % 2, PATHS[i][1], &found, &err))
            check_error(&err);
        if (!peft_config_rank_alpha(config, PATHS[i][0], &rank, &alpha, &err))
            check_error(&err);
        else
            assert(rank >= 1 && rank <= LIMIT_RANK && isfinite(alpha));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data)
{
    struct peft_config config;
    struct error err;
    for (int allow_other_heads = 0; allow_other_heads < 2; allow_other_heads++) {
        if (!peft_config_parse(&config, (const char *)data, n_data, allow_other_heads, &err)) {
            check_error(&err);
            continue;
        }
        check_values(&config);
        check_matching(&config);
        peft_config_finish(&config);
    }
    return 0;
}
