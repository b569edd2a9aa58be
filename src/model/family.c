/*
 * family.c - the table. The facts are those of the published model classes and their configurations.
 */
#include "model/family.h"

#include <string.h>

#define LLAMA_FIELDS                                                                                                 \
    {                                                                                                                \
        .d_model = "hidden_size", .n_layers = "num_hidden_layers", .n_heads = "num_attention_heads",                 \
        .n_kv_heads = "num_key_value_heads", .d_head = "head_dim", .d_ffn = "intermediate_size",                     \
        .max_positions = "max_position_embeddings", .norm_eps = "rms_norm_eps", .activation = "hidden_act"           \
    }

#define LLAMA_NAMES                                                                                                  \
    .prefix = "model.", .embedding = "embed_tokens", .layers = "layers", .final_norm = "norm", .head = "lm_head",    \
    .projections = {[PROJECTION_Q] = "self_attn.q_proj", [PROJECTION_K] = "self_attn.k_proj",                        \
                    [PROJECTION_V] = "self_attn.v_proj", [PROJECTION_ATTENTION_OUT] = "self_attn.o_proj",            \
                    [PROJECTION_GATE] = "mlp.gate_proj", [PROJECTION_UP] = "mlp.up_proj",                            \
                    [PROJECTION_DOWN] = "mlp.down_proj"}

#define LLAMA_NORMS                                                                                                  \
    [NORM_ROLE_ATTENTION] = "input_layernorm", [NORM_ROLE_MLP] = "post_attention_layernorm"

static const struct family FAMILIES[] = {
    {
        .model_type = "gpt2",
        .architectures = {"GPT2LMHeadModel", "GPT2Model"},
        .fields = {.d_model = "n_embd", .n_layers = "n_layer", .n_heads = "n_head", .d_ffn = "n_inner",
                   .max_positions = "n_positions", .norm_eps = "layer_norm_epsilon",
                   .activation = "activation_function"},
        .aliases = {.d_model = "hidden_size", .n_layers = "num_hidden_layers", .n_heads = "num_attention_heads",
                    .max_positions = "max_position_embeddings"},
        .d_model = 768, .n_layers = 12, .n_heads = 12, .d_ffn = 0, .n_vocab = 50257, .max_positions = 1024,
        .norm_eps = 1e-5, .activation = "gelu_new", .tied_head = true,
        .norm = NORM_LAYER, .position = POSITION_LEARNED, .window = WINDOW_NEVER,
        .is_conv1d = true, .is_fused = true, .has_attention_scaling_fields = true,
        .qkv_bias = BIAS_ALWAYS, .attention_out_bias = BIAS_ALWAYS, .mlp_bias = BIAS_ALWAYS,
        .prefix = "transformer.", .embedding = "wte", .positions = "wpe", .layers = "h", .final_norm = "ln_f",
        .head = "lm_head",
        .projections = {[PROJECTION_QKV] = "attn.c_attn", [PROJECTION_ATTENTION_OUT] = "attn.c_proj",
                        [PROJECTION_UP] = "mlp.c_fc", [PROJECTION_DOWN] = "mlp.c_proj"},
        .norms = {[NORM_ROLE_ATTENTION] = "ln_1", [NORM_ROLE_MLP] = "ln_2"},
    },
    {
        .model_type = "llama",
        .architectures = {"LlamaForCausalLM", "LlamaModel"},
        .fields = LLAMA_FIELDS,
        .d_model = 4096, .n_layers = 32, .n_heads = 32, .d_ffn = 11008, .n_vocab = 32000, .max_positions = 2048,
        .norm_eps = 1e-6, .activation = "silu", .tied_head = false,
        .norm = NORM_RMS, .position = POSITION_ROPE, .window = WINDOW_NEVER, .is_gated = true,
        .qkv_bias = BIAS_BY_CONFIG, .attention_out_bias = BIAS_BY_CONFIG, .mlp_bias = BIAS_BY_CONFIG,
        LLAMA_NAMES,
        .norms = {LLAMA_NORMS},
    },
    {
        .model_type = "mistral",
        .architectures = {"MistralForCausalLM", "MistralModel"},
        .fields = LLAMA_FIELDS,
        .d_model = 4096, .n_layers = 32, .n_heads = 32, .n_kv_heads = 8, .d_ffn = 14336, .n_vocab = 32000,
        .max_positions = 4096 * 32, .norm_eps = 1e-6, .activation = "silu", .tied_head = false,
        .sliding_window = 4096,
        .norm = NORM_RMS, .position = POSITION_ROPE, .window = WINDOW_ALL_LAYERS, .is_gated = true,
        .qkv_bias = BIAS_NEVER, .attention_out_bias = BIAS_NEVER, .mlp_bias = BIAS_NEVER,
        LLAMA_NAMES,
        .norms = {LLAMA_NORMS},
    },
    {
        .model_type = "qwen2",
        .architectures = {"Qwen2ForCausalLM", "Qwen2Model"},
        .fields = LLAMA_FIELDS,
        .d_model = 4096, .n_layers = 32, .n_heads = 32, .n_kv_heads = 32, .d_ffn = 22016, .n_vocab = 151936,
        .max_positions = 32768, .norm_eps = 1e-6, .activation = "silu", .tied_head = false,
        .sliding_window = 4096,
        .norm = NORM_RMS, .position = POSITION_ROPE, .window = WINDOW_BY_LAYER, .is_gated = true,
        .qkv_bias = BIAS_ALWAYS, .attention_out_bias = BIAS_NEVER, .mlp_bias = BIAS_NEVER,
        LLAMA_NAMES,
        .norms = {LLAMA_NORMS},
    },
    {
        .model_type = "qwen3",
        .architectures = {"Qwen3ForCausalLM", "Qwen3Model"},
        .fields = LLAMA_FIELDS,
        .d_model = 4096, .n_layers = 32, .n_heads = 32, .n_kv_heads = 32, .d_head = 128, .d_ffn = 22016,
        .n_vocab = 151936, .max_positions = 32768, .norm_eps = 1e-6, .activation = "silu", .tied_head = false,
        .sliding_window = 4096,
        .norm = NORM_RMS, .position = POSITION_ROPE, .window = WINDOW_BY_LAYER, .is_gated = true,
        .has_qk_norm = true,
        .qkv_bias = BIAS_BY_CONFIG, .attention_out_bias = BIAS_BY_CONFIG, .mlp_bias = BIAS_NEVER,
        LLAMA_NAMES,
        .norms = {LLAMA_NORMS, [NORM_ROLE_Q] = "self_attn.q_norm", [NORM_ROLE_K] = "self_attn.k_norm"},
    },
};

enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

const struct family *family_find(const char *model_type)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(FAMILIES[i].model_type, model_type) == 0)
            return &FAMILIES[i];
    return NULL;
}

const char *family_list(void)
{
    return "gpt2, llama, mistral, qwen2, qwen3";
}

const char *family_name(const struct family *family)
{
    return family->model_type;
}
