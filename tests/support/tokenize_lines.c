/*
 * tokenize_lines.c - a tokenizer behind a pipe, for comparisons with other implementations.
 *
 *     tokenize_lines DIRECTORY < requests > answers
 *
 * A request is one letter, a 32-bit little-endian length and that many bytes:
 *     E  encode text        S  with special tokens added      T  special tokens in it are plain text
 *     D  decode ids (32-bit little-endian each)     K  without special tokens     P  streamed, pieces joined
 * An answer is a letter, a length and bytes: i ids, t text, ! a message. --time also prints to stderr how
 * much processor time the calls took.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/detokenizer.h"
#include "text/tokenizer.h"

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void answer(char kind, const void *bytes, size_t n_bytes)
{
    unsigned char head[5] = {(unsigned char)kind, (unsigned char)n_bytes, (unsigned char)(n_bytes >> 8),
                             (unsigned char)(n_bytes >> 16), (unsigned char)(n_bytes >> 24)};
    fwrite(head, 1, sizeof head, stdout);
    if (n_bytes > 0)
        fwrite(bytes, 1, n_bytes, stdout);
}

static bool encode(const struct tokenizer *tokenizer, char kind, const char *text, size_t n_bytes,
                   struct error *err)
{
    int flags = kind == 'S'   ? TOKENIZER_ADD_SPECIAL
                : kind == 'T' ? TOKENIZER_SPECIAL_AS_TEXT
                              : TOKENIZER_PLAIN;
    struct token_ids ids = {0};
    bool ok = tokenizer_encode(tokenizer, text, n_bytes, flags, &ids, err);

    if (ok)
        answer('i', ids.ids, ids.n_ids * sizeof *ids.ids);
    token_ids_finish(&ids);
    return ok;
}

static bool decode(const struct tokenizer *tokenizer, bool skip_special, const int32_t *ids, size_t n_ids,
                   struct error *err)
{
    char *text = NULL;
    size_t n_bytes = 0;
    bool ok = tokenizer_decode(tokenizer, ids, n_ids, skip_special, &text, &n_bytes, err);

    if (ok)
        answer('t', text, n_bytes);
    free(text);
    return ok;
}

static bool stream(const struct tokenizer *tokenizer, const int32_t *ids, size_t n_ids, struct error *err)
{
    struct detokenizer_options options = {0};
    struct detokenizer *detokenizer = detokenizer_create(tokenizer, &options, err);
    struct buffer text;
    bool ok = detokenizer != NULL, stopped;
    size_t stop;

    buffer_init(&text, 0);
    for (size_t i = 0; ok && i < n_ids; i++)
        ok = detokenizer_push(detokenizer, ids[i], &text, &stopped, &stop, err);
    ok = ok && detokenizer_flush(detokenizer, &text, err);
    if (ok)
        answer('t', buffer_text(&text), text.n_bytes);
    buffer_finish(&text);
    detokenizer_destroy(detokenizer);
    return ok;
}

static bool serve(const struct tokenizer *tokenizer, char kind, const char *bytes, size_t n_bytes,
                  struct error *err)
{
    const int32_t *ids = (const int32_t *)(const void *)bytes;

    if (strchr("EST", kind))
        return encode(tokenizer, kind, bytes, n_bytes, err);
    if (strchr("DK", kind))
        return decode(tokenizer, kind == 'K', ids, n_bytes / sizeof *ids, err);
    return stream(tokenizer, ids, n_bytes / sizeof *ids, err);
}

int main(int argc, char **argv)
{
    struct error err = {0};
    double start = seconds(), busy = 0;
    struct tokenizer *tokenizer = argc > 1 ? tokenizer_load(argv[1], &err) : NULL;
    unsigned char head[5];

    if (!tokenizer) {
        fprintf(stderr, "tokenize_lines: %s\n", argc > 1 ? err.message : "usage: tokenize_lines DIRECTORY");
        return 2;
    }
    double load = seconds() - start;
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        size_t n = (size_t)head[1] | (size_t)head[2] << 8 | (size_t)head[3] << 16 | (size_t)head[4] << 24;
        char *bytes = malloc(n + 1);
        if (!bytes || fread(bytes, 1, n, stdin) != n)
            return 2;
        err = (struct error){0};
        start = seconds();
        if (!serve(tokenizer, (char)head[0], bytes, n, &err))
            answer('!', err.message, strlen(err.message));
        busy += seconds() - start;
        free(bytes);
    }
    if (argc > 2 && strcmp(argv[2], "--time") == 0)
        fprintf(stderr, "load %.3f s, calls %.3f s\n", load, busy);
    tokenizer_destroy(tokenizer);
    return 0;
}
