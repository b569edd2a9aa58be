/*
 * tokenizer_json.h - small tokenizers written in the test itself.
 */
#ifndef SUPPORT_TOKENIZER_JSON_H
#define SUPPORT_TOKENIZER_JSON_H

#include <stdio.h>
#include <stdlib.h>

#include "support/check.h"
#include "text/tokenizer.h"

/* Parses JSON in which ' stands for ". Never NULL. */
static inline struct tokenizer *tokenizer_of(const char *json)
{
    struct error err = {0};
    char *text = strdup(json);
    for (char *c = text; *c; c++)
        if (*c == '\'')
            *c = '"';
    struct tokenizer *tokenizer = tokenizer_parse(text, strlen(text), NULL, 0, &err);
    free(text);
    if (!tokenizer)
        fail_msg("%s: %s", err.param, err.message);
    return tokenizer;
}

/* "3 14 15": the ids of `text`. Valid until the next call. */
static inline const char *ids_of_flags(const struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                                       int flags)
{
    static char shown[4096];
    struct token_ids ids = {0};
    struct error err = {0};
    size_t n = 0;
    shown[0] = '\0';
    if (!tokenizer_encode(tokenizer, text, n_bytes, flags, &ids, &err))
        fail_msg("%s", err.message);
    for (size_t i = 0; i < ids.n_ids && n < sizeof shown - 16; i++)
        n += (size_t)snprintf(shown + n, sizeof shown - n, "%s%d", i ? " " : "", ids.ids[i]);
    token_ids_finish(&ids);
    return shown;
}

static inline const char *ids_of(const struct tokenizer *tokenizer, const char *text)
{
    return ids_of_flags(tokenizer, text, strlen(text), TOKENIZER_PLAIN);
}

/* The caller frees. */
static inline char *text_of(const struct tokenizer *tokenizer, const int32_t *ids, size_t n_ids,
                            bool skip_special)
{
    struct error err = {0};
    char *text = NULL;
    size_t n_bytes;
    if (!tokenizer_decode(tokenizer, ids, n_ids, skip_special, &text, &n_bytes, &err))
        fail_msg("%s", err.message);
    assert_int_equal(n_bytes, strlen(text));
    return text;
}

#endif
