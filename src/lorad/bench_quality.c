/*
 * bench_quality.c - what each weight type costs in predictions, against f32 weights with keys and values in f32; for adapters, on the fly
 * and merged, and the one against the other.
 *
 * No engine: models are read position by position. The base is compared on texts that it writes itself in f32, so that any model
 * can be measured; adapters on what they were made for, where there are questions and answers, else on their own too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cpu.h"
#include "base/file.h"
#include "lora/catalogue.h"
#include "lorad/bench.h"
#include "lorad/quality.h"

static const enum lorad_weights TYPES[] = {LORAD_WEIGHTS_F32, LORAD_WEIGHTS_F16, LORAD_WEIGHTS_BF16, LORAD_WEIGHTS_Q8, LORAD_WEIGHTS_Q4};
enum { N_TYPES = sizeof TYPES / sizeof *TYPES, ANSWER_CONTEXT = 1024 };

/* A model of one weight type, ready to read. */
struct loaded {
    struct model *model;
    struct reader *reader, *second; /* through another view at the same time */
    struct view *base;
};

struct study {
    const struct lorad_bench_options *options;
    struct tokenizer *tokenizer;
    struct pool *pool;
    struct loaded reference;
    struct texts texts;              /* of the base */
    struct catalogue_names *names;   /* of the adapters; NULL: none */
    struct texts *adapter_texts;     /* by adapter */
    struct adapter **adapters;       /* on the reference */
    struct view **adapter_views;
    size_t n_done;
};

/* ---- a model of a type ---- */

static void loaded_finish(struct loaded *loaded)
{
    view_unref(loaded->base);
    reader_destroy(loaded->reader);
    reader_destroy(loaded->second);
    model_destroy(loaded->model);
    *loaded = (struct loaded){0};
}

static size_t context_of(const struct study *study, const struct model *model)
{
    size_t wanted = study->options->open.context;
    if (wanted == 0)
        wanted = size_max(study->options->new_tokens, ANSWER_CONTEXT);
    return size_min(wanted, model->config.max_positions);
}

static bool loaded_init(struct loaded *loaded, const struct study *study, enum lorad_weights weights, enum weight_type kv_type, struct error *err)
{
    struct lorad_options open = study->options->open;
    const struct kernels *kernels;
    open.weights = weights;
    *loaded = (struct loaded){.model = open_model(&open, &kernels, err)};
    if (!loaded->model)
        return false;
    size_t context = context_of(study, loaded->model);
    loaded->reader = reader_create(loaded->model, study->pool, kv_type, context, err);
    loaded->second = loaded->reader ? reader_create(loaded->model, study->pool, kv_type, context, err) : NULL;
    loaded->base = loaded->second ? view_create_base(loaded->model, err) : NULL;
    if (loaded->base)
        return true;
    loaded_finish(loaded);
    return false;
}

static struct quality_side side_of(const struct loaded *loaded, const struct view *view)
{
    return (struct quality_side){loaded->reader, view, loaded->model->config.n_vocab};
}

/* ---- an adapter's views ---- */

static struct adapter *load_adapter(const struct study *study, const char *name, const struct model *model, struct error *err)
{
    char *path = path_join(study->options->open.adapters_dir, name);
    struct adapter *adapter = path ? adapter_load(path, model, false, UINT64_MAX, err) : NULL;
    if (!path)
        error_no_memory(err);
    free(path);
    return adapter;
}

static struct view *view_on_the_fly(struct adapter *adapter, struct error *err)
{
    const struct compose_part part = {adapter, 1};
    return compose_on_the_fly(adapter->model, &part, 1, err);
}

static struct view *view_merged(struct adapter *adapter, struct error *err)
{
    struct merge_job *job = merge_begin(adapter, NULL, err);
    bool ok = job != NULL, is_done = false;
    while (ok && !is_done)
        ok = merge_step(job, &is_done, err);
    struct merged *merged = ok ? merge_take(job) : NULL;
    struct view *view = merged ? compose_merged(adapter->model, adapter, merged, err) : NULL;
    merge_end(job);
    merged_unref(merged); /* the view has its own reference */
    return view;
}

/* ---- texts ---- */

static size_t n_adapters(const struct study *study)
{
    return study->names ? study->names->n_names : 0;
}

static bool write_texts(struct study *study, const struct view *view, struct texts *out, struct error *err)
{
    const struct lorad_bench_options *options = study->options;
    size_t n_tokens = size_min(options->new_tokens, context_of(study, study->reference.model));
    return texts_begin(out, options->n_requests, n_tokens, study->tokenizer, study->reference.model, err) &&
           reader_write(study->reference.reader, view, out, err);
}

/* Right answers where there are some. */
static bool find_texts(struct study *study, size_t adapter, struct texts *out, struct error *err)
{
    const struct lorad_bench_options *options = study->options;
    char name[LORAD_ID_SIZE + sizeof ".jsonl"];
    snprintf(name, sizeof name, "%s.jsonl", study->names->names[adapter]);
    char *path = options->texts_dir ? path_join(options->texts_dir, name) : NULL;
    if (options->texts_dir && !path)
        return error_no_memory(err);
    const struct model *model = study->reference.model;
    bool ok = path && file_exists(path) ? texts_read(out, path, options->n_requests, context_of(study, model), study->tokenizer, model, err)
                                        : write_texts(study, study->adapter_views[adapter], out, err);
    free(path);
    return ok;
}

static bool prepare_adapters(struct study *study, struct error *err)
{
    struct catalogue *catalogue = catalogue_create(study->options->open.adapters_dir);
    if (!catalogue)
        return error_no_memory(err);
    study->names = catalogue_read(catalogue, err);
    catalogue_destroy(catalogue);
    if (!study->names)
        return false;
    size_t n = n_adapters(study) + 1; /* none is fine, too */
    study->adapter_texts = calloc(n, sizeof *study->adapter_texts);
    study->adapters = calloc(n, sizeof *study->adapters);
    study->adapter_views = calloc(n, sizeof *study->adapter_views);
    bool ok = study->adapter_texts && study->adapters && study->adapter_views ? true : error_no_memory(err);
    for (size_t i = 0; ok && i < n_adapters(study); i++) {
        study->adapters[i] = load_adapter(study, study->names->names[i], study->reference.model, err);
        study->adapter_views[i] = study->adapters[i] ? view_on_the_fly(study->adapters[i], err) : NULL;
        ok = study->adapter_views[i] && find_texts(study, i, &study->adapter_texts[i], err);
    }
    return ok;
}

/* ---- figures ---- */

static json_t *quality_json(const struct quality *quality, const struct texts *texts)
{
    json_t *out = json_object();
    json_object_set_new(out, "perplexity", json_number(quality->perplexity));
    json_object_set_new(out, "kl", json_number(quality->kl));
    json_object_set_new(out, "kl_p99", json_number(quality->kl_p99));
    json_object_set_new(out, "kl_maximum", json_number(quality->kl_most));
    json_object_set_new(out, "same_best", json_number(quality->agreement));
    if (texts->are_answers)
        json_object_set_new(out, "right", json_number(quality->right));
    return out;
}

static bool add_quality(const struct quality_side *reference, const struct quality_side *other, const struct texts *texts, const char *key,
                        json_t *out, struct error *err)
{
    struct quality quality;
    if (!quality_measure(reference, other, texts, &quality, err))
        return false;
    json_object_set_new(out, key, quality_json(&quality, texts));
    return true;
}

/* What the texts are, and what the reference itself makes of them. */
static bool add_texts(const struct study *study, const struct view *view, const struct texts *texts, json_t *out, struct error *err)
{
    const struct quality_side side = side_of(&study->reference, view);
    struct quality quality;
    if (!quality_measure(&side, &side, texts, &quality, err))
        return false;
    json_object_set_new(out, "texts", json_integer((json_int_t)texts->n_texts));
    json_object_set_new(out, "positions", json_integer((json_int_t)quality.n_positions));
    json_object_set_new(out, "scored", json_integer((json_int_t)quality.n_scored));
    json_object_set_new(out, "source", json_string(texts->are_answers ? "answers" : "written by the model"));
    json_object_set_new(out, "perplexity", json_number(quality.perplexity));
    if (texts->are_answers)
        json_object_set_new(out, "right", json_number(quality.right));
    return true;
}

static bool add_reference(const struct study *study, json_t *report, struct error *err)
{
    json_t *base = json_object(), *adapters = json_array();
    json_object_set_new(report, "base", base);
    json_object_set_new(report, "adapters", adapters);
    bool ok = add_texts(study, study->reference.base, &study->texts, base, err);
    for (size_t i = 0; ok && i < n_adapters(study); i++) {
        json_t *one = json_pack("{s:s, s:I, s:b}", "id", study->names->names[i], "rank", (json_int_t)study->adapters[i]->rank_max, "dora",
                                study->adapters[i]->use_dora);
        json_array_append_new(adapters, one);
        ok = add_texts(study, study->adapter_views[i], &study->adapter_texts[i], one, err);
    }
    return ok;
}

static json_t *measure_adapter(const struct study *study, const struct loaded *loaded, size_t index, struct error *err)
{
    json_t *out = json_pack("{s:s}", "id", study->names->names[index]);
    const struct texts *texts = &study->adapter_texts[index];
    struct adapter *adapter = load_adapter(study, study->names->names[index], loaded->model, err);
    struct view *on_the_fly = adapter ? view_on_the_fly(adapter, err) : NULL;
    struct view *merged = on_the_fly ? view_merged(adapter, err) : NULL;
    const struct quality_side reference = side_of(&study->reference, study->adapter_views[index]);
    const struct quality_side one_way = side_of(loaded, on_the_fly), other_way = {loaded->second, merged, loaded->model->config.n_vocab};
    bool ok = merged && add_quality(&reference, &one_way, texts, "on_the_fly", out, err) &&
              add_quality(&reference, &other_way, texts, "merged", out, err) &&
              add_quality(&one_way, &other_way, texts, "merged_to_on_the_fly", out, err);
    view_unref(on_the_fly);
    view_unref(merged);
    adapter_unref(adapter);
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

static double bits_per_weight(const struct model *model)
{
    double n_bytes = 0, n_weights = 0;
    for (size_t i = 0; i < model->n_sites; i++)
        if (site_layout(&model->sites[i]) == MATRIX_PACKED) {
            n_bytes += (double)matrix_bytes(model->sites[i].weight);
            n_weights += (double)model->sites[i].n_in * (double)model->sites[i].n_out;
        }
    return 8 * n_bytes / n_weights;
}

static void progress(struct study *study)
{
    const struct lorad_options *open = &study->options->open;
    size_t n_types = study->options->open.weights == LORAD_WEIGHTS_NATIVE ? N_TYPES : 1;
    if (open->progress)
        open->progress(open->progress_context, "measuring", (double)++study->n_done / (double)(n_types * (1 + n_adapters(study))));
}

static bool measure_loaded(struct study *study, const struct loaded *loaded, json_t *out, struct error *err)
{
    const struct quality_side reference = side_of(&study->reference, study->reference.base), side = side_of(loaded, loaded->base);
    json_t *adapters = json_array();
    json_object_set_new(out, "weights", json_string(loaded->model->weights_name));
    json_object_set_new(out, "bits_per_weight", json_number(bits_per_weight(loaded->model)));
    json_object_set_new(out, "adapters", adapters);
    bool ok = add_quality(&reference, &side, &study->texts, "base", out, err);
    progress(study);
    for (size_t i = 0; ok && i < n_adapters(study); i++) {
        json_t *one = measure_adapter(study, loaded, i, err);
        ok = one != NULL;
        if (ok)
            json_array_append_new(adapters, one);
        progress(study);
    }
    return ok;
}

static bool measure_types(struct study *study, json_t *report, struct error *err)
{
    enum lorad_weights wanted = study->options->open.weights;
    json_t *types = json_array();
    json_object_set_new(report, "types", types);
    bool ok = true;
    for (size_t i = 0; ok && i < N_TYPES; i++) {
        struct loaded loaded;
        if (wanted != LORAD_WEIGHTS_NATIVE && wanted != TYPES[i])
            continue;
        json_t *one = json_object();
        json_array_append_new(types, one);
        ok = loaded_init(&loaded, study, TYPES[i], kv_type_of(&study->options->open), err);
        if (ok) {
            ok = measure_loaded(study, &loaded, one, err);
            loaded_finish(&loaded);
        }
    }
    return ok;
}

/* ---- all together ---- */

static void study_finish(struct study *study)
{
    for (size_t i = 0; i < n_adapters(study); i++) {
        if (study->adapter_texts)
            texts_finish(&study->adapter_texts[i]);
        if (study->adapter_views)
            view_unref(study->adapter_views[i]);
        if (study->adapters)
            adapter_unref(study->adapters[i]);
    }
    free(study->adapter_texts);
    free(study->adapter_views);
    free(study->adapters);
    catalogue_names_unref(study->names);
    texts_finish(&study->texts);
    loaded_finish(&study->reference);
    pool_destroy(study->pool);
    tokenizer_destroy(study->tokenizer);
}

static bool prepare(struct study *study, struct error *err)
{
    const struct lorad_options *open = &study->options->open;
    study->tokenizer = tokenizer_load(open->model_path, err);
    study->pool = study->tokenizer ? pool_create(open->n_threads ? open->n_threads : cpu_usable_cores(), err) : NULL;
    return study->pool && loaded_init(&study->reference, study, LORAD_WEIGHTS_F32, WEIGHT_F32, err) &&
           write_texts(study, study->reference.base, &study->texts, err) && (!open->adapters_dir || prepare_adapters(study, err));
}

bool bench_quality(const struct lorad_bench_options *options, json_t *report, struct error *err)
{
    struct study study = {.options = options};
    bool ok = prepare(&study, err) && add_reference(&study, report, err) && measure_types(&study, report, err);
    study_finish(&study);
    return ok;
}
