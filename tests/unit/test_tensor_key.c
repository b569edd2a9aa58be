#include "lora/tensor_key.h"

#include <stdlib.h>

#include "support/check.h"

struct good {
    const char *name, *module;
    enum key_part part;
    const char *adapter_name;
};

static const struct good goods[] = {
    {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj",
     KEY_A, NULL},
    {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "model.layers.0.self_attn.q_proj",
     KEY_B, NULL},
    {"base_model.model.lm_head.lora_B.bias", "lm_head", KEY_B_BIAS, NULL},
    {"base_model.model.lm_head.lora_B.default.bias", "lm_head", KEY_B_BIAS, "default"},
    {"model.layers.0.mlp.up_proj.lora_A.weight", "model.layers.0.mlp.up_proj", KEY_A, NULL},
    {"base_model.layers.0.mlp.up_proj.lora_A.weight", "layers.0.mlp.up_proj", KEY_A, NULL},
    {"base_model.model.x.lora_A.default.weight", "x", KEY_A, "default"},
    {"base_model.model.x.lora_A.weight.weight", "x", KEY_A, "weight"},
    {"base_model.model.model._orig_mod.layers.0.module.x.lora_A.weight", "model.layers.0.x", KEY_A, NULL},
    {"base_model.model._fsdp_wrapped_module.x._checkpoint_wrapped_module.lora_B.weight", "x", KEY_B, NULL},
    {"base_model.model.transformer.wte.lora_embedding_A", "transformer.wte", KEY_EMBEDDING_A, NULL},
    {"base_model.model.transformer.wte.lora_embedding_B.default", "transformer.wte", KEY_EMBEDDING_B,
     "default"},
    {"base_model.model.x.lora_magnitude_vector", "x", KEY_MAGNITUDE, NULL},
    {"base_model.model.x.lora_magnitude_vector.weight", "x", KEY_MAGNITUDE, NULL},
    {"base_model.model.x.lora_magnitude_vector.mine.weight", "x", KEY_MAGNITUDE, "mine"},
    {"base_model.model.model.norm.weight", "model.norm", KEY_WEIGHT, NULL},
    {"base_model.model.transformer.ln_f.bias", "transformer.ln_f", KEY_BIAS, NULL},
    {"base_model.model.model.norm.modules_to_save.default.weight", "model.norm", KEY_WEIGHT, "default"},
    {"base_model.model.model.layers.0.modules_to_save.a.mlp.up_proj.weight", "model.layers.0.mlp.up_proj",
     KEY_WEIGHT, "a"},
    {"base_model.model.model.norm.original_module.weight", "model.norm", KEY_IGNORED, NULL},
    {"base_model.model.x.lora_monteclora_sampler.a.b.c", "x", KEY_IGNORED, NULL},
    {"base_model.model.x.base_layer.bias", "x", KEY_BIAS, NULL},
    {"base_model.model.lm_head.base_layer.weight", "lm_head", KEY_BASE_WEIGHT, NULL},
    {"base_model.model.e.token_adapter.trainable_tokens_delta", "e", KEY_TOKENS, NULL},
    {"base_model.model.e.token_adapter.trainable_tokens_delta.default", "e", KEY_TOKENS, "default"},
    {"base_model.model.e.token_adapter.base_layer.weight", "e", KEY_BASE_WEIGHT, NULL},
};

static void every_form_of_a_key_is_brought_to_one(void **state)
{
    struct arena arena;
    struct error err = {0};
    (void)state;
    arena_init(&arena, 1 << 12);
    for (size_t i = 0; i < sizeof goods / sizeof goods[0]; i++) {
        struct tensor_key key;
        if (!tensor_key_parse(&key, goods[i].name, &arena, &err))
            fail_msg("%s: %s", goods[i].name, err.message);
        if (key.part != goods[i].part)
            fail_msg("%s: part %d", goods[i].name, key.part);
        assert_string_equal(key.module, goods[i].module);
        assert_int_equal(key.adapter_name == NULL, goods[i].adapter_name == NULL);
        if (key.adapter_name)
            assert_string_equal(key.adapter_name, goods[i].adapter_name);
    }
    arena_finish(&arena);
}

static void what_is_no_key_of_ours_is_refused_by_name(void **state)
{
    static const char *const bads[] = {
        "",
        ".",
        "step_count",
        "lora_A.weight",
        "base_model.model.x.lora_A",
        "base_model.model.x.lora_A.bias",
        "base_model.model.x.lora_A.a.b.weight",
        "base_model.model.x..lora_A.weight",
        "base_model.model.x.lora_C.weight",
        "base_model.model.x.lora_diag",
        "base_model.model.x.lora_arrow.weight",
        "base_model.model.experts.base_layer.lora_A.weight",
        "base_model.model.x.base_layer.weight.more",
        "base_model.model.x.modules_to_save.weight",
        "base_model.model.x.token_adapter.other",
        "base_model.model.x.running_mean",
        ("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x."
         "y.z.a.b.c.d.e.f.g.h.i.j.k.l.m.n.weight"),
    };
    struct arena arena;
    struct tensor_key key;
    (void)state;
    arena_init(&arena, 1 << 12);
    for (size_t i = 0; i < sizeof bads / sizeof bads[0]; i++) {
        struct error err = {0};
        if (tensor_key_parse(&key, bads[i], &arena, &err))
            fail_msg("'%s' is taken", bads[i]);
        assert_int_equal(err.code, ERROR_MISMATCH);
        assert_non_null(strstr(err.message, bads[i]));
    }
    arena_finish(&arena);
}

static void rules_take_a_segment_off_or_add_one(void **state)
{
    struct arena arena;
    (void)state;
    arena_init(&arena, 1 << 12);
    const char *plain = "model.layers.0.x";
    assert_ptr_equal(tensor_key_apply_rule(KEY_RULE_AS_IS, plain, &arena), plain);
    assert_ptr_equal(tensor_key_apply_rule(KEY_RULE_NO_LANGUAGE_MODEL, plain, &arena), plain);
    assert_string_equal(
        tensor_key_apply_rule(KEY_RULE_NO_LANGUAGE_MODEL, "model.language_model.layers.0.x", &arena), plain);
    assert_string_equal(
        tensor_key_apply_rule(KEY_RULE_NO_LANGUAGE_MODEL, "language_model.model.layers.0.x", &arena), plain);
    assert_string_equal(tensor_key_apply_rule(KEY_RULE_ONE_MODEL, "model.model.layers.0.x", &arena), plain);
    assert_string_equal(tensor_key_apply_rule(KEY_RULE_BOTH, "model.language_model.model.layers.0.x", &arena),
                        plain);
    assert_string_equal(tensor_key_apply_rule(KEY_RULE_ADD_MODEL, "layers.0.x", &arena), plain);
    arena_finish(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_a_key_is_brought_to_one),
        cmocka_unit_test(what_is_no_key_of_ours_is_refused_by_name),
        cmocka_unit_test(rules_take_a_segment_off_or_add_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
