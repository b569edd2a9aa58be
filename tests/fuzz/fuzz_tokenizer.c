/*
 * fuzz_tokenizer.c - any bytes as tokenizer.json. What is accepted encodes a few texts and decodes ids, all
 * at once and one by one.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/detokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data);

static void check_error(const struct error *err)
{
    assert(err->code == ERROR_BAD_INPUT || err->code == ERROR_TOO_LARGE || err->code == ERROR_MISMATCH);
    assert(utf8_is_valid(err->message, strlen(err->message)) &&
           utf8_is_valid(err->param, strlen(err->param)));
}

static void check_ids(const struct tokenizer *tokenizer, const struct token_ids *ids)
{
    for (size_t i = 0; i < ids->n_ids; i++) {
        const char *bytes;
        size_t n_bytes;
        assert(tokenizer_has_id(tokenizer, ids->ids[i]));
        assert(tokenizer_find(tokenizer, tokenizer_token(tokenizer, ids->ids[i])) >= -1);
        assert(tokenizer_token_bytes(tokenizer, ids->ids[i], &bytes, &n_bytes));
    }
}

static void check_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n_ids,
                         bool skip_special)
{
    struct error err = {0};
    char *text = NULL;
    size_t n_bytes = 0;

    if (!tokenizer_decode(tokenizer, ids, n_ids, skip_special, &text, &n_bytes, &err)) {
        check_error(&err);
        return;
    }
    assert(utf8_is_valid(text, n_bytes) && text[n_bytes] == '\0');
    free(text);
}

static void check_stream(const struct tokenizer *tokenizer, const int32_t *ids, size_t n_ids, bool option)
{
    static const char *const stops[] = {"the ", "\n\n", "\xC3\xA9", "ab"};
    struct detokenizer_options options = {.skip_special = option,
                                          .continues_text = option,
                                          .include_stop = !option,
                                          .stops = stops,
                                          .n_stops = option ? 4 : 0};
    struct error err = {0};
    struct detokenizer *detokenizer = detokenizer_create(tokenizer, &options, &err);
    bool ok = detokenizer != NULL, stopped = false;
    struct buffer piece;

    assert(ok);
    buffer_init(&piece, 0);
    for (size_t i = 0; ok && !stopped && i < n_ids; i++) {
        size_t stop = 0;
        buffer_clear(&piece);
        ok = detokenizer_push(detokenizer, ids[i], &piece, &stopped, &stop, &err);
        assert(!ok || utf8_is_valid(buffer_text(&piece), piece.n_bytes));
        assert(!stopped || stop < 4);
    }
    if (!ok)
        check_error(&err);
    else
        assert(detokenizer_flush(detokenizer, &piece, &err));
    assert(utf8_is_valid(buffer_text(&piece), piece.n_bytes));
    buffer_finish(&piece);
    detokenizer_destroy(detokenizer);
}

static void check_text(const struct tokenizer *tokenizer, const char *text, size_t n_bytes, int flags)
{
    struct token_ids ids = {0};
    struct error err = {0};

    if (tokenizer_encode(tokenizer, text, n_bytes, flags, &ids, &err)) {
        check_ids(tokenizer, &ids);
        check_decode(tokenizer, ids.ids, ids.n_ids, flags != 0);
        check_stream(tokenizer, ids.ids, ids.n_ids, flags != 0);
    } else {
        check_error(&err);
        assert(ids.n_ids == 0);
    }
    token_ids_finish(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_data)
{
    static const char *const texts[] = {
        "",
        "Hello, the world's 123 dogs.\n\n  x = 'y';\tend ",
        " <s>ab</s> <|x|>the<m>",
        "na\xC3\xAFve caf\x65\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD",
        "\xF0\x9F\x98\x80\xE2\x80\x8D\xC2\xA0\xE2\x96\x81 \xEF\xAC\x81",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabababababababababababababababab",
        "broken \xFF\xC3",
    };
    struct error err = {0};
    struct tokenizer *tokenizer = tokenizer_parse((const char *)data, n_data, NULL, 0, &err);
    int32_t ids[64];

    if (!tokenizer) {
        check_error(&err);
        return 0;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (int flags = 0; flags < 4; flags++)
            check_text(tokenizer, texts[i], strlen(texts[i]), flags);
    check_text(tokenizer, "a\0b", 3, TOKENIZER_PLAIN);
    size_t n_vocab = tokenizer_n_vocab(tokenizer), n_ids = 0;
    for (size_t id = 0; id < n_vocab && n_ids < sizeof ids / sizeof *ids; id++)
        if (tokenizer_has_id(tokenizer, (int32_t)id))
            ids[n_ids++] = (int32_t)id;
    check_decode(tokenizer, ids, n_ids, false);
    check_stream(tokenizer, ids, n_ids, false);
    check_stream(tokenizer, ids, n_ids, true);
    ids[0] = (int32_t)n_vocab;
    check_decode(tokenizer, ids, 1, false);
    tokenizer_destroy(tokenizer);
    return 0;
}
