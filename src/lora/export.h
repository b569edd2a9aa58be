/*
 * export.h - a merged Hugging Face directory.
 */
#ifndef LORA_EXPORT_H
#define LORA_EXPORT_H

#include "lora/compose.h"

typedef void export_progress(void *context, const char *what, double fraction);

/* Writes `out_directory` (must not exist, or be empty): model.safetensors with every tensor of the base under its own name and
   type, the touched ones merged (Conv1D stored as it was; a tied head that no longer equals the embedding is written as lm_head.weight
   and config.json says tie_word_embeddings false), and copies of config.json, tokenizer and generation files. Written beside and
   renamed into place when whole. Adapters that cannot be expressed as weights of the family (lora_bias on a map without bias) are
   ERROR_MISMATCH. */
bool export_merged(const struct model *model, const char *model_directory, const struct compose_part *parts,
                   size_t n_parts, const char *out_directory, export_progress *progress, void *progress_context,
                   struct error *err) MUST_USE;

#endif
