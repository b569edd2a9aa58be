/*
 * bpe.c - words become symbols in a linked list; entries (rank, position) say what to merge next.
 *
 * The entries of the first pairs are sorted once, those of pairs that come up later are in a heap. They are
 * never cleaned: an entry counts only if the pair at its position still has its rank. Short words, which
 * is nearly all of them, look for the lowest rank by scanning: same order, less work.
 */
#include "text/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "text/byte_level.h"

#define NO_RANK UINT32_MAX
#define SHORT_WORD 24 /* symbols; measured: the scan wins below about 30 */

struct pair_entry {
    uint64_t key;
    uint32_t rank; /* NO_RANK: the slot is free */
    int32_t id;
};

struct bpe_symbol {
    int32_t id;             /* -1: merged into its left neighbour */
    int32_t previous, next; /* indices, -1 at the ends */
};

/* ---- the table ---- */

static size_t pair_slot(const struct pair_table *table, uint64_t key)
{
    size_t mask = table->n_slots - 1;
    size_t slot = (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & mask;

    while (table->entries[slot].rank != NO_RANK && table->entries[slot].key != key)
        slot = (slot + 1) & mask;
    return slot;
}

static const struct pair_entry *pair_find(const struct pair_table *table, uint64_t key)
{
    const struct pair_entry *entry = &table->entries[pair_slot(table, key)];
    return entry->rank == NO_RANK ? NULL : entry;
}

static bool pair_table_create(struct pair_table *table, size_t n, struct error *err)
{
    size_t n_slots = 16;

    while (n_slots < n + n / 2) /* more would be cache misses, not fewer steps */
        n_slots *= 2;
    table->entries = malloc(n_slots * sizeof *table->entries);
    if (!table->entries)
        return error_no_memory(err);
    table->n_slots = n_slots;
    for (size_t i = 0; i < n_slots; i++)
        table->entries[i].rank = NO_RANK;
    return true;
}

/* A later value replaces an earlier one. */
static void pair_set(struct pair_table *table, uint64_t key, uint32_t rank, int32_t id)
{
    table->entries[pair_slot(table, key)] = (struct pair_entry){.key = key, .rank = rank, .id = id};
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* ---- loading ---- */

static bool load_vocabulary(struct vocabulary *vocabulary, const json_t *vocab, struct error *err)
{
    const char *token;
    json_t *id;

    json_object_foreach ((json_t *)vocab, token, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return error_set(err, ERROR_BAD_INPUT, "model.vocab", "token '%s' has no id", token);
        if (!vocabulary_add(vocabulary, token, strlen(token), (size_t)json_integer_value(id), err)) {
            error_prefix(err, "model.vocab");
            return false;
        }
    }
    return true;
}

static bool is_character(const struct vocabulary *vocabulary, size_t id, uint32_t *code_point_out)
{
    const char *token;
    size_t n_bytes;

    return vocabulary_get(vocabulary, (int32_t)id, &token, &n_bytes) && n_bytes > 0 &&
           utf8_decode(token, n_bytes, code_point_out) == n_bytes;
}

static bool load_characters(struct bpe *bpe, struct error *err)
{
    const struct vocabulary *vocabulary = bpe->vocabulary;
    size_t n_characters = 0;
    uint32_t code_point;

    for (size_t id = 0; id < vocabulary->n_tokens; id++)
        n_characters += is_character(vocabulary, id, &code_point);
    if (!pair_table_create(&bpe->code_points, n_characters, err))
        return false;
    for (size_t id = 0; id < vocabulary->n_tokens; id++)
        if (is_character(vocabulary, id, &code_point))
            pair_set(&bpe->code_points, code_point, 0, (int32_t)id);
    for (unsigned byte = 0; byte < 256; byte++) {
        char character[4], fallback[8];
        size_t n = utf8_encode(byte_level_code_point((unsigned char)byte), character);
        bpe->byte_ids[byte] = vocabulary_find(vocabulary, character, n);
        snprintf(fallback, sizeof fallback, "<0x%02X>", byte);
        bpe->fallback_ids[byte] = vocabulary_find(vocabulary, fallback, 6);
    }
    return true;
}

struct merge_text {
    const char *left, *right;
    size_t n_left, n_right;
};

static bool read_merge_string(const json_t *merge, struct merge_text *out)
{
    const char *text = json_string_value(merge);
    size_t n = json_string_length(merge);
    const char *space = memchr(text, ' ', n);

    if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - text)))
        return false;
    *out = (struct merge_text){.left = text,
                               .n_left = (size_t)(space - text),
                               .right = space + 1,
                               .n_right = n - (size_t)(space - text) - 1};
    return true;
}

static bool read_merge_pair(const json_t *merge, struct merge_text *out)
{
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);

    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
        return false;
    *out = (struct merge_text){.left = json_string_value(left),
                               .n_left = json_string_length(left),
                               .right = json_string_value(right),
                               .n_right = json_string_length(right)};
    return true;
}

static bool add_merge(struct bpe *bpe, const struct merge_text *merge, size_t rank, struct buffer *joined,
                      struct error *err)
{
    int32_t left = vocabulary_find(bpe->vocabulary, merge->left, merge->n_left);
    int32_t right = vocabulary_find(bpe->vocabulary, merge->right, merge->n_right);

    buffer_clear(joined);
    if (!buffer_append(joined, merge->left, merge->n_left) ||
        !buffer_append(joined, merge->right, merge->n_right))
        return error_no_memory(err);
    int32_t id = vocabulary_find(bpe->vocabulary, buffer_text(joined), joined->n_bytes);
    if (left < 0 || right < 0 || id < 0)
        return error_set(err, ERROR_BAD_INPUT, "model.merges", "merge %zu: '%.*s' is not in the vocabulary",
                         rank,
                         left < 0    ? (int)size_min(merge->n_left, 64)
                         : right < 0 ? (int)size_min(merge->n_right, 64)
                                     : 64,
                         left < 0    ? merge->left
                         : right < 0 ? merge->right
                                     : buffer_text(joined));
    pair_set(&bpe->merges, pair_key(left, right), (uint32_t)rank, id);
    return true;
}

/* All strings or all pairs; of the strings, those that begin with "#version" do not count. */
static bool load_merges(struct bpe *bpe, const json_t *merges, struct error *err)
{
    struct buffer joined;
    bool ok = pair_table_create(&bpe->merges, json_array_size(merges), err);
    bool are_strings = json_is_string(json_array_get(merges, 0));
    size_t rank = 0;

    buffer_init(&joined, 0);
    for (size_t i = 0; ok && i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        struct merge_text text;
        if (are_strings && json_is_string(merge) && strncmp(json_string_value(merge), "#version", 8) == 0)
            continue;
        if (json_is_string(merge) != are_strings ||
            !(are_strings ? read_merge_string(merge, &text) : read_merge_pair(merge, &text)))
            ok = error_set(err, ERROR_BAD_INPUT, "model.merges", "merge %zu is not a pair of tokens", i);
        else
            ok = add_merge(bpe, &text, rank++, &joined, err);
    }
    buffer_finish(&joined);
    return ok;
}

static bool check_options(const json_t *model, struct error *err)
{
    static const char *const known[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges",
                                        NULL};
    const char *type = "BPE", *prefix = "", *suffix = "";
    double dropout = 0;

    if (!json_get_string(model, "type", &type, err))
        return false;
    if (strcmp(type, "BPE") != 0)
        return error_set(err, ERROR_MISMATCH, "model.type", "model '%s' is not supported; BPE is", type);
    if (!json_check_known(model, known, err) || !json_get_number(model, "dropout", 0, 1, &dropout, err) ||
        !json_get_string(model, "continuing_subword_prefix", &prefix, err) ||
        !json_get_string(model, "end_of_word_suffix", &suffix, err))
        return false;
    if (dropout != 0)
        return error_set(err, ERROR_MISMATCH, "model.dropout", "BPE with dropout %g is not supported",
                         dropout);
    if (*prefix)
        return error_set(err, ERROR_MISMATCH, "model.continuing_subword_prefix", "'%s' is not supported",
                         prefix);
    if (*suffix)
        return error_set(err, ERROR_MISMATCH, "model.end_of_word_suffix", "'%s' is not supported", suffix);
    return true;
}

static bool load_options(struct bpe *bpe, const json_t *model, struct error *err)
{
    const char *unk = NULL;

    if (!json_get_bool(model, "fuse_unk", &bpe->fuse_unk, err) ||
        !json_get_bool(model, "byte_fallback", &bpe->byte_fallback, err) ||
        !json_get_bool(model, "ignore_merges", &bpe->ignore_merges, err) ||
        !json_get_string(model, "unk_token", &unk, err))
        return false;
    bpe->has_unk = unk != NULL;
    bpe->unk_id = unk ? vocabulary_find(bpe->vocabulary, unk, strlen(unk)) : -1;
    return true;
}

bool bpe_parse(struct bpe *bpe, struct vocabulary *vocabulary, const json_t *model, struct error *err)
{
    const json_t *vocab = NULL, *merges = NULL;

    *bpe = (struct bpe){.vocabulary = vocabulary, .unk_id = -1};
    if (!check_options(model, err) || !json_get_object(model, "vocab", &vocab, err) ||
        !json_get_array(model, "merges", &merges, err))
        return false;
    if (!vocab || !merges)
        return error_set(err, ERROR_BAD_INPUT, vocab ? "model.merges" : "model.vocab", "is missing");
    return load_vocabulary(vocabulary, vocab, err) && load_characters(bpe, err) &&
           load_merges(bpe, merges, err) && load_options(bpe, model, err);
}

void bpe_finish(struct bpe *bpe)
{
    free(bpe->merges.entries);
    free(bpe->code_points.entries);
    *bpe = (struct bpe){0};
}

void bpe_scratch_finish(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->pairs);
    buffer_finish(&scratch->characters);
    *scratch = (struct bpe_scratch){0};
}

/* ---- symbols ---- */

static bool grow(void **array, size_t *capacity, size_t n, size_t size, struct error *err)
{
    size_t wanted = size_max(n, *capacity + *capacity / 2), n_total;
    void *grown = NULL;

    if (n <= *capacity)
        return true;
    if (!size_multiply(wanted, size, &n_total) || !(grown = realloc(*array, n_total)))
        return error_no_memory(err);
    *array = grown;
    *capacity = wanted;
    return true;
}

bool token_ids_append(struct token_ids *ids, int32_t id, struct error *err)
{
    if (ids->n_ids == ids->capacity) {
        void *grown = ids->ids;
        if (!grow(&grown, &ids->capacity, size_max(64, ids->n_ids + 1), sizeof *ids->ids, err))
            return false;
        ids->ids = grown;
    }
    ids->ids[ids->n_ids++] = id;
    return true;
}

/* Room for every byte of the word is reserved beforehand. */
static void add_symbol(struct bpe_scratch *scratch, int32_t id)
{
    int32_t index = (int32_t)scratch->n_symbols++;
    scratch->symbols[index] = (struct bpe_symbol){.id = id, .previous = index - 1, .next = index + 1};
}

static bool add_fallback(const struct bpe *bpe, const char *character, size_t n_bytes,
                         struct bpe_scratch *scratch)
{
    for (size_t i = 0; i < n_bytes; i++)
        if (bpe->fallback_ids[(unsigned char)character[i]] < 0)
            return false;
    for (size_t i = 0; i < n_bytes; i++)
        add_symbol(scratch, bpe->fallback_ids[(unsigned char)character[i]]);
    return true;
}

/* One character as the vocabulary writes it. Unknown ones wait in *has_pending_unk, so that runs can be
 * fused. */
static bool add_character(const struct bpe *bpe, int32_t id, const char *character, size_t n_bytes,
                          bool *has_pending_unk, struct bpe_scratch *scratch, struct error *err)
{
    if (id >= 0) {
        if (*has_pending_unk)
            add_symbol(scratch, bpe->unk_id);
        *has_pending_unk = false;
        add_symbol(scratch, id);
        return true;
    }
    if (bpe->byte_fallback && add_fallback(bpe, character, n_bytes, scratch))
        return true;
    if (!bpe->has_unk)
        return true; /* without an unk_token the character is dropped: that is the format's rule */
    if (bpe->unk_id < 0)
        return error_set(err, ERROR_BAD_INPUT, NULL,
                         "the text has a character that the vocabulary lacks, and "
                         "unk_token is not in the vocabulary either");
    if (*has_pending_unk && !bpe->fuse_unk)
        add_symbol(scratch, bpe->unk_id);
    *has_pending_unk = true;
    return true;
}

static bool add_bytes(const struct bpe *bpe, const char *word, size_t n_bytes, bool *has_pending_unk,
                      struct bpe_scratch *scratch, struct error *err)
{
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned char byte = (unsigned char)word[i];
        char character[4];
        size_t n = bpe->byte_ids[byte] < 0 ? utf8_encode(byte_level_code_point(byte), character) : 0;
        if (!add_character(bpe, bpe->byte_ids[byte], character, n, has_pending_unk, scratch, err))
            return false;
    }
    return true;
}

static bool add_code_points(const struct bpe *bpe, const char *word, size_t n_bytes, bool *has_pending_unk,
                            struct bpe_scratch *scratch, struct error *err)
{
    for (size_t i = 0, n; i < n_bytes; i += n) {
        uint32_t code_point;
        n = utf8_decode(word + i, n_bytes - i, &code_point);
        const struct pair_entry *entry = pair_find(&bpe->code_points, code_point);
        if (!add_character(bpe, entry ? entry->id : -1, word + i, n, has_pending_unk, scratch, err))
            return false;
    }
    return true;
}

static bool split_word(const struct bpe *bpe, const char *word, size_t n_bytes, bool is_byte_level,
                       struct bpe_scratch *scratch, struct error *err)
{
    void *symbols = scratch->symbols;
    bool has_pending_unk = false, ok;
    size_t n_most = is_byte_level ? 2 * n_bytes
                                  : n_bytes; /* a byte-level character has up to two bytes to fall back to */

    if (n_most > INT32_MAX)
        return error_set(err, ERROR_TOO_LARGE, NULL, "a word of %zu bytes is too long", n_bytes);
    ok = grow(&symbols, &scratch->symbol_capacity, n_most, sizeof *scratch->symbols, err);
    scratch->symbols = symbols;
    if (!ok)
        return false;
    scratch->n_symbols = 0;
    ok = is_byte_level ? add_bytes(bpe, word, n_bytes, &has_pending_unk, scratch, err)
                       : add_code_points(bpe, word, n_bytes, &has_pending_unk, scratch, err);
    if (!ok)
        return false;
    if (has_pending_unk)
        add_symbol(scratch, bpe->unk_id);
    if (scratch->n_symbols > 0)
        scratch->symbols[scratch->n_symbols - 1].next = -1;
    return true;
}

/* ---- merging ---- */

struct short_word {
    int32_t ids[SHORT_WORD];
    struct {
        uint32_t rank;
        int32_t id;
    } merges[SHORT_WORD]; /* [i]: of ids[i] and ids[i + 1] */
    size_t n;
};

static void rank_pair(const struct bpe *bpe, struct short_word *word, size_t i)
{
    const struct pair_entry *merge = pair_find(&bpe->merges, pair_key(word->ids[i], word->ids[i + 1]));

    word->merges[i].rank = merge ? merge->rank : NO_RANK;
    word->merges[i].id = merge ? merge->id : -1;
}

static void merge_pair(const struct bpe *bpe, struct short_word *word, size_t i)
{
    size_t n_after = word->n - i - 2;

    word->ids[i] = word->merges[i].id;
    memmove(word->ids + i + 1, word->ids + i + 2, n_after * sizeof *word->ids);
    memmove(word->merges + i, word->merges + i + 1, n_after * sizeof *word->merges);
    word->n--;
    if (i > 0)
        rank_pair(bpe, word, i - 1);
    if (i + 1 < word->n)
        rank_pair(bpe, word, i);
}

static bool merge_short(const struct bpe *bpe, const struct bpe_scratch *scratch, struct token_ids *out,
                        struct error *err)
{
    struct short_word word = {.n = scratch->n_symbols};

    for (size_t i = 0; i < word.n; i++)
        word.ids[i] = scratch->symbols[i].id;
    for (size_t i = 0; i + 1 < word.n; i++)
        rank_pair(bpe, &word, i);
    while (word.n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < word.n; i++)
            if (word.merges[i].rank < word.merges[best].rank)
                best = i;
        if (word.merges[best].rank == NO_RANK)
            break;
        merge_pair(bpe, &word, best);
    }
    for (size_t i = 0; i < word.n; i++)
        if (!token_ids_append(out, word.ids[i], err))
            return false;
    return true;
}

static void sift_up(uint64_t *heap, size_t i)
{
    uint64_t entry = heap[i];

    for (size_t parent; i > 0 && heap[parent = (i - 1) / 4] > entry; i = parent)
        heap[i] = heap[parent];
    heap[i] = entry;
}

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t entry = heap[i];

    for (size_t first; (first = 4 * i + 1) < n;) {
        size_t least = first, end = size_min(first + 4, n);
        for (size_t child = first + 1; child < end; child++)
            if (heap[child] < heap[least])
                least = child;
        if (heap[least] >= entry)
            break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = entry;
}

/* The merge of the pair that begins at `position`, NULL if there is none. */
static const struct pair_entry *merge_at(const struct bpe *bpe, const struct bpe_symbol *symbols,
                                         int32_t position)
{
    const struct bpe_symbol *left = &symbols[position];

    if (left->id < 0 || left->next < 0)
        return NULL;
    return pair_find(&bpe->merges, pair_key(left->id, symbols[left->next].id));
}

static uint64_t entry_of(const struct pair_entry *merge, int32_t position)
{
    return (uint64_t)merge->rank << 32 | (uint32_t)position;
}

/* Of the pairs that are there at the beginning. They come in order of position; a stable sort by rank does
 * the rest. */
static bool sort_pairs(const struct bpe *bpe, struct bpe_scratch *scratch, struct error *err)
{
    void *pairs = scratch->pairs;
    size_t n = 0, half = scratch->n_symbols;
    bool ok = grow(&pairs, &scratch->pair_capacity, 2 * half, sizeof *scratch->pairs, err);

    scratch->pairs = pairs;
    if (!ok)
        return false;
    uint64_t *from = scratch->pairs, *to = scratch->pairs + half, all = 0;
    for (size_t i = 0; i < scratch->n_symbols; i++) {
        const struct pair_entry *merge = merge_at(bpe, scratch->symbols, (int32_t)i);
        if (merge)
            from[n++] = entry_of(merge, (int32_t)i);
    }
    for (size_t i = 0; i < n; i++)
        all |= from[i] ^ from[0];
    for (unsigned shift = 32; shift < 64; shift += 8) {
        size_t starts[257] = {0};
        if ((all >> shift & 0xFF) == 0)
            continue;
        for (size_t i = 0; i < n; i++)
            starts[(from[i] >> shift & 0xFF) + 1]++;
        for (size_t i = 1; i < 256; i++)
            starts[i] += starts[i - 1];
        for (size_t i = 0; i < n; i++)
            to[starts[from[i] >> shift & 0xFF]++] = from[i];
        uint64_t *swapped = from;
        from = to;
        to = swapped;
    }
    scratch->sorted = from;
    scratch->n_sorted = n;
    return true;
}

static bool push_pair(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t position, struct error *err)
{
    const struct pair_entry *merge = merge_at(bpe, scratch->symbols, position);
    void *heap = scratch->heap;
    bool ok;

    if (!merge)
        return true;
    ok = grow(&heap, &scratch->heap_capacity, scratch->n_heap + 1, sizeof *scratch->heap, err);
    scratch->heap = heap;
    if (!ok)
        return false;
    scratch->heap[scratch->n_heap] = entry_of(merge, position);
    sift_up(scratch->heap, scratch->n_heap++);
    return true;
}

/* The least of what was there at the beginning and what came up since. */
static uint64_t take_least(struct bpe_scratch *scratch)
{
    uint64_t top;

    if (scratch->n_sorted > 0 && (scratch->n_heap == 0 || *scratch->sorted < scratch->heap[0])) {
        scratch->n_sorted--;
        return *scratch->sorted++;
    }
    top = scratch->heap[0];
    scratch->heap[0] = scratch->heap[--scratch->n_heap];
    if (scratch->n_heap > 0)
        sift_down(scratch->heap, scratch->n_heap, 0);
    return top;
}

static bool merge_long(const struct bpe *bpe, struct bpe_scratch *scratch, struct error *err)
{
    struct bpe_symbol *symbols = scratch->symbols;

    scratch->n_heap = 0;
    if (!sort_pairs(bpe, scratch, err))
        return false;
    while (scratch->n_sorted > 0 || scratch->n_heap > 0) {
        uint64_t top = take_least(scratch);
        int32_t position = (int32_t)(uint32_t)top;
        const struct pair_entry *merge = merge_at(bpe, symbols, position);
        if (!merge || merge->rank != (uint32_t)(top >> 32))
            continue;
        struct bpe_symbol *left = &symbols[position], *right = &symbols[left->next];
        left->id = merge->id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0)
            symbols[left->next].previous = position;
        if (!push_pair(bpe, scratch, position, err) ||
            (left->previous >= 0 && !push_pair(bpe, scratch, left->previous, err)))
            return false;
    }
    return true;
}

/* ---- the word ---- */

/* Whether the whole word is a token; *id_out is -1 when it is not. */
static bool find_word(const struct bpe *bpe, const char *word, size_t n_bytes, bool is_byte_level,
                      struct buffer *characters, int32_t *id_out, struct error *err)
{
    *id_out = -1;
    if (n_bytes > bpe->vocabulary->longest)
        return true;
    if (!is_byte_level) {
        *id_out = vocabulary_find(bpe->vocabulary, word, n_bytes);
        return true;
    }
    buffer_clear(characters);
    byte_level_encode(word, n_bytes, characters);
    if (characters->failed)
        return error_no_memory(err);
    *id_out = vocabulary_find(bpe->vocabulary, characters->data, characters->n_bytes);
    return true;
}

bool bpe_encode(const struct bpe *bpe, const char *word, size_t n_bytes, bool is_byte_level,
                struct bpe_scratch *scratch, struct token_ids *out, struct error *err)
{
    int32_t id = -1;

    if (bpe->ignore_merges && !find_word(bpe, word, n_bytes, is_byte_level, &scratch->characters, &id, err))
        return false;
    if (id >= 0)
        return token_ids_append(out, id, err);
    if (!split_word(bpe, word, n_bytes, is_byte_level, scratch, err))
        return false;
    if (scratch->n_symbols <= SHORT_WORD)
        return merge_short(bpe, scratch, out, err);
    if (!merge_long(bpe, scratch, err))
        return false;
    for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next)
        if (!token_ids_append(out, scratch->symbols[i].id, err))
            return false;
    return true;
}
