/*
 * tokens.c - text and ids for clients.
 */
#include <stdlib.h>

#include "lorad/lorad_internal.h"

bool lorad_tokenize(const struct lorad *lorad, const char *text, size_t n_bytes, bool add_special, int32_t **ids_out,
                    size_t *n_ids_out, struct error *err)
{
    struct token_ids ids = {0};
    int flags = add_special ? TOKENIZER_ADD_SPECIAL : TOKENIZER_PLAIN;
    if (!tokenizer_encode(lorad->tokenizer, text, n_bytes, flags, &ids, err)) {
        token_ids_finish(&ids);
        return false;
    }
    *ids_out = ids.ids;
    *n_ids_out = ids.n_ids;
    return true;
}

bool lorad_detokenize(const struct lorad *lorad, const int32_t *ids, size_t n_ids, bool skip_special, char **text_out,
                      size_t *n_bytes_out, struct error *err)
{
    return tokenizer_decode(lorad->tokenizer, ids, n_ids, skip_special, text_out, n_bytes_out, err);
}

bool lorad_token_bytes(const struct lorad *lorad, int32_t id, const char **bytes_out, size_t *n_out)
{
    return tokenizer_token_bytes(lorad->tokenizer, id, bytes_out, n_out);
}

bool lorad_token_is_special(const struct lorad *lorad, int32_t id)
{
    return tokenizer_is_special(lorad->tokenizer, id);
}
