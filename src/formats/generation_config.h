/*
 * generation_config.h - generation_config.json (absent is fine): which tokens end a text, and the
 * sampling that the model's makers recommend.
 */
#ifndef FORMATS_GENERATION_CONFIG_H
#define FORMATS_GENERATION_CONFIG_H

#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

#define GENERATION_MAX_EOS 16

struct generation_config {
    int32_t eos_ids[GENERATION_MAX_EOS]; /* generation_config.json's, else config.json's */
    size_t n_eos_ids;
    /* Recommended sampling: NAN / -1 when the file does not say, or when do_sample is false. The
       repetition penalty holds for greedy decoding too, so it does not ask do_sample. */
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k; /* 0: no limit, as the makers write it */
};

/* `model_config`: the object of config.json, for eos_token_id where the other file does not say.
   Ids must be in [0, n_vocab). */
bool generation_config_read(struct generation_config *out, const char *directory, const json_t *model_config,
                            size_t n_vocab, struct error *err) MUST_USE;

#endif
