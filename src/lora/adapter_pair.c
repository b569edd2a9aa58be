/*
 * adapter_pair.c - checking a site's low-rank pair: both halves, their shapes, rank and scale, and what stands beside them.
 */
#include "lora/adapter_load.h"

#include <math.h>

#include "lora/report.h"

static bool check_half(const struct tensor *here, const struct tensor *other, const char *missing,
                       struct error *err)
{
    return !here || other || load_refuse(err, here, "is half a pair: its %s is missing", missing);
}

/* Finds the two halves of site's pair among its parts: plan->a stays NULL when there is none. */
static bool find_pair(struct plan *plan, const struct matched_module *module, const struct site *site,
                      struct error *err)
{
    enum key_part a = is_table(site) ? KEY_EMBEDDING_A : KEY_A, b = is_table(site) ? KEY_EMBEDDING_B : KEY_B;
    const struct tensor *foreign = module->parts[is_table(site) ? KEY_A : KEY_EMBEDDING_A];
    if (!foreign)
        foreign = module->parts[is_table(site) ? KEY_B : KEY_EMBEDDING_B];
    if (foreign)
        return load_refuse(err, foreign,
                      is_table(site) ? "is for a linear map, but the base's module is an embedding"
                                     : "is for an embedding, but the base's module is a linear map");
    plan->a = module->parts[a];
    plan->b = module->parts[b];
    return check_half(plan->a, plan->b, is_table(site) ? "lora_embedding_B" : "lora_B", err) &&
           check_half(plan->b, plan->a, is_table(site) ? "lora_embedding_A" : "lora_A", err);
}

static bool check_pair_shapes(struct load *load, struct plan *plan, const struct site *site, size_t rank,
                              struct error *err)
{
    char shape[128];
    if (plan->a->n_dims != 2)
        return load_refuse(err, plan->a, "has the shape %s, but a matrix is needed",
                      tensor_shape_text(plan->a, shape, sizeof shape));
    if (plan->b->n_dims != 2)
        return load_refuse(err, plan->b, "has the shape %s, but a matrix is needed",
                      tensor_shape_text(plan->b, shape, sizeof shape));
    if (plan->a->shape[1] != site->n_in)
        return load_refuse(err, plan->a, "has the shape %s, but '%s' takes %zu inputs",
                      tensor_shape_text(plan->a, shape, sizeof shape), site->path, site->n_in);
    if (plan->b->shape[0] != site->n_out)
        return load_refuse(err, plan->b, "has the shape %s, but '%s' gives %zu outputs",
                      tensor_shape_text(plan->b, shape, sizeof shape), site->path, site->n_out);
    if (plan->a->shape[0] != plan->b->shape[1])
        return load_refuse(err, plan->a, "has the rank %zu, but its lora_B the rank %zu", plan->a->shape[0],
                      plan->b->shape[1]);
    if (plan->a->shape[0] != rank)
        return load_refuse(err, plan->a,
                      "has the rank %zu, but adapter_config.json says %zu: the scale would be unknown",
                      plan->a->shape[0], rank);
    if (rank > LIMIT_RANK)
        return error_set(err, ERROR_TOO_LARGE, plan->a->name,
                         "tensor '%s' has the rank %zu; at most %d is served", plan->a->name, rank,
                         LIMIT_RANK);
    (void)load;
    return true;
}

static bool check_scale(struct load *load, struct plan *plan, const struct site *site, struct error *err)
{
    plan->scale = peft_config_scale(load->config, plan->rank, plan->alpha);
    if (!isfinite((float)plan->scale))
        return error_set(err, ERROR_BAD_INPUT, "lora_alpha",
                         "%g at rank %zu gives a scale that is not finite (%s)", plan->alpha, plan->rank,
                         site->path);
    if ((float)plan->scale == 0)
        return report_warn(load->report, err, "%s: lora_alpha %g gives the scale 0: the pair has no effect",
                           site->path, plan->alpha);
    return true;
}

static bool check_pair_extras(struct load *load, struct plan *plan, const struct matched_module *module,
                              const struct site *site, struct error *err)
{
    const struct tensor *bias = module->parts[KEY_B_BIAS], *magnitude = module->parts[KEY_MAGNITUDE];
    if (!!bias != load->config->lora_bias)
        return bias ? load_refuse(err, bias, "is a bias of B, but lora_bias is not set")
                    : load_refuse(err, plan->b, "has no lora_B.bias beside it, but lora_bias is set");
    if (!!magnitude != load->config->use_dora)
        return magnitude
                   ? load_refuse(err, magnitude, "is DoRA's, but use_dora is not set")
                   : load_refuse(err, plan->a, "has no lora_magnitude_vector beside it, but use_dora is set");
    if (bias && load->config->use_dora)
        return load_refuse(err, bias, "and use_dora exclude each other");
    plan->b_bias = bias;
    plan->magnitude = magnitude;
    return (!bias || (load_check_shape(bias, 1, site->n_out, 0, err) && load_check_finite(bias, err))) &&
           (!magnitude || (load_check_shape(magnitude, 1, site->n_out, 0, err) && load_check_finite(magnitude, err)));
}

static void count_pair(struct load *load, const struct plan *plan, const struct site *site)
{
    size_t size = weight_type_size(plan->type);
    load_count_block(load, plan->rank * site->n_in, size);
    load_count_block(load, delta_b_size(plan->rank, site->n_out), size);
    if (plan->b_bias)
        load_count_block(load, site->n_out, sizeof(float));
    if (plan->magnitude)
        load_count_block(load, site->n_out, sizeof(float));
}

bool load_check_pair(struct load *load, size_t index, struct error *err)
{
    const struct site *site = &load->model->sites[index];
    const struct matched_module *module = &load->matched.sites[index];
    struct plan *plan = &load->plans[index];
    bool is_targeted;
    size_t rank;
    if (!find_pair(plan, module, site, err))
        return false;
    if (!plan->a) {
        const struct tensor *alone =
            module->parts[KEY_MAGNITUDE] ? module->parts[KEY_MAGNITUDE] : module->parts[KEY_B_BIAS];
        return !alone || load_refuse(err, alone, "stands alone, without a pair lora_A and lora_B");
    }
    if (!load_targets(load, index, &is_targeted, err))
        return false;
    if (!is_targeted)
        return load_refuse(
            err, plan->a,
            "is for a module that target_modules, exclude_modules and layers_to_transform leave out: "
            "it would change what the adapter was trained to be");
    if (!peft_config_rank_alpha(load->config, module->path, &rank, &plan->alpha, err) ||
        !check_pair_shapes(load, plan, site, rank, err))
        return false;
    plan->rank = rank;
    plan->type = plan->a->dtype == plan->b->dtype ? weight_type_of(plan->a->dtype) : WEIGHT_F32;
    if (!load_check_finite(plan->a, err) || !load_check_finite(plan->b, err) || !check_scale(load, plan, site, err) ||
        !check_pair_extras(load, plan, module, site, err))
        return false;
    count_pair(load, plan, site);
    return true;
}

/* ensure_weight_tying without the head's own tensors: the head is the embedding's transpose, so is its delta.
 */
bool load_mirror_embedding(struct load *load, struct error *err)
{
    const struct model *model = load->model;
    const struct plan *embedding = &load->plans[model->embedding_site];
    struct plan *head = &load->plans[model->head_site];
    if (!load->config->ensure_weight_tying || !is_tied(model) || head->a || head->weight)
        return true;
    if (embedding->weight) {
        head->weight = embedding->weight;
        head->is_shared = true;
        load_count_matrix(load, &model->sites[model->head_site], weight_type_of(head->weight->dtype));
    }
    if (!embedding->a)
        return true;
    if (embedding->magnitude)
        return load_refuse(err, embedding->magnitude,
                      "would need one for the tied head too (ensure_weight_tying with use_dora)");
    *head = *embedding;
    head->is_mirrored = true;
    count_pair(load, head, &model->sites[model->head_site]);
    return true;
}
