#include "engine/sequence.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* A generated token costs a pass over the weights, which a prompt's tokens share. */
enum { SERVICE_OF_OUTPUT = 2 };

/* ---- beginning ---- */

struct sequence *sequence_create(struct stream *stream, size_t max_tokens, struct error *err)
{
    const struct engine_request *request = stream_request(stream);
    struct sequence *sequence = calloc(1, sizeof *sequence);
    if (!sequence) {
        error_no_memory(err);
        return NULL;
    }
    *sequence = (struct sequence){.stream = stream, .request = request, .max_tokens = max_tokens, .stop_id = -1};
    sequence->cost_on_the_fly = cost_of_view(request->view);
    sequence->cost_merged = request->merged_view ? cost_of_view(request->merged_view) : cost_if_merged(request->view);
    return sequence;
}

void sequence_discard(struct sequence *sequence)
{
    free(sequence);
}

static bool copy_prompt(struct sequence *sequence, struct error *err)
{
    const struct engine_request *request = sequence->request;
    size_t n_most = request->n_prompt + sequence->max_tokens;
    sequence->tokens = calloc(n_most, sizeof *sequence->tokens);
    sequence->blocks = calloc(ceil_divide(n_most, KV_BLOCK_TOKENS), sizeof *sequence->blocks);
    if (!sequence->tokens || !sequence->blocks)
        return error_no_memory(err);
    memcpy(sequence->tokens, request->prompt, request->n_prompt * sizeof *sequence->tokens);
    sequence->n_known = request->n_prompt;
    return true;
}

static bool create_detokenizer(struct sequence *sequence, const struct tokenizer *tokenizer, struct error *err)
{
    const struct engine_request *request = sequence->request;
    struct detokenizer_options options = {
        .skip_special = !request->keep_special,
        .continues_text = true, /* there always is a prompt, and even ids stand for a text */
        .include_stop = request->include_stop,
        .stops = request->stops,
        .n_stops = request->n_stops,
    };
    if (tokenizer)
        sequence->detokenizer = detokenizer_create(tokenizer, &options, err);
    return !tokenizer || sequence->detokenizer;
}

static bool collect_banned(struct sequence *sequence, const struct generation_config *generation, struct error *err)
{
    const struct engine_request *request = sequence->request;
    size_t n_eos = request->ignore_eos ? 0 : generation->n_eos_ids;
    if (request->min_tokens == 0 || n_eos + request->n_stop_ids == 0)
        return true;
    sequence->banned = calloc(n_eos + request->n_stop_ids, sizeof *sequence->banned);
    if (!sequence->banned)
        return error_no_memory(err);
    for (size_t i = 0; i < n_eos; i++)
        sequence->banned[sequence->n_banned++] = generation->eos_ids[i];
    for (size_t i = 0; i < request->n_stop_ids; i++)
        sequence->banned[sequence->n_banned++] = request->stop_ids[i];
    return true;
}

static bool create_prompt_tokens(struct sequence *sequence, struct error *err)
{
    const struct engine_request *request = sequence->request;
    if (request->prompt_logprobs < 0)
        return true;
    sequence->prompt_tokens = calloc(request->n_prompt, sizeof *sequence->prompt_tokens);
    if (!sequence->prompt_tokens)
        return error_no_memory(err);
    sequence->prompt_tokens[0] = (struct lorad_token){.id = request->prompt[0], .logprob = NAN};
    return true;
}

bool sequence_begin(struct sequence *sequence, const struct sequence_tools *tools, struct error *err)
{
    const struct engine_request *request = sequence->request;
    sequence_use_view(sequence, request->view);
    if (!copy_prompt(sequence, err) || !create_detokenizer(sequence, tools->tokenizer, err) ||
        !collect_banned(sequence, &tools->model->generation, err) || !create_prompt_tokens(sequence, err))
        return false;
    sequence->sampler = sampler_create(&request->sampling, request->prompt, request->n_prompt,
                                       tools->model->config.n_vocab, tools->model->kernels, err);
    return sequence->sampler != NULL;
}

void sequence_use_view(struct sequence *sequence, struct view *view)
{
    sequence->is_mixed |= sequence->n_most > 0 && sequence->view != view;
    sequence->view = view;
    stream_set_merged(sequence->stream, view == sequence->request->merged_view);
}

const struct cost_view *sequence_cost_through(const struct sequence *sequence, const struct view *view)
{
    return view == sequence->request->view ? &sequence->cost_on_the_fly : &sequence->cost_merged;
}

/* ---- its part of the cache ---- */

/* The last token that is known is always computed: its logits are wanted. Prompt log-probabilities want all of them. */
static size_t find_blocks(struct sequence *sequence, struct sequence_tools *tools)
{
    sequence->cursor = (struct prefix_cursor){.identity = sequence->is_mixed ? "" : sequence->view->identity};
    size_t n_tokens = sequence->prompt_tokens ? 0 : sequence->n_known - 1;
    return prefix_find(tools->prefix, &sequence->cursor, sequence->tokens, n_tokens, sequence->blocks);
}

static void count_blocks(struct sequence_tools *tools)
{
    stats_set(&tools->stats->kv_blocks_available, prefix_n_available(tools->prefix));
    stats_set(&tools->stats->kv_blocks_cached, prefix_n_cached(tools->prefix));
    stats_set(&tools->stats->prefix_evictions, prefix_n_evicted(tools->prefix));
}

bool sequence_take_blocks(struct sequence *sequence, struct sequence_tools *tools, size_t n_spare)
{
    size_t n_found = find_blocks(sequence, tools), n_needed = ceil_divide(sequence->n_known, KV_BLOCK_TOKENS);
    assert(sequence->n_blocks == 0 && sequence->n_done == 0);
    if (n_needed - n_found + n_spare > prefix_n_available(tools->prefix)) {
        prefix_release(tools->prefix, sequence->blocks, n_found);
        return false;
    }
    for (size_t i = n_found; i < n_needed; i++)
        sequence->blocks[i] = prefix_acquire(tools->prefix);
    sequence->n_blocks = n_needed;
    sequence->n_published = n_found;
    sequence->n_done = n_found * KV_BLOCK_TOKENS;
    if (sequence->n_most == 0) {
        sequence->n_cached = sequence->n_done;
        stats_add(&tools->stats->prefix_tokens_sought, sequence->n_known);
        stats_add(&tools->stats->prefix_tokens_found, sequence->n_done);
    }
    sequence->n_most = size_max(sequence->n_most, sequence->n_done);
    count_blocks(tools);
    return true;
}

bool sequence_extend(struct sequence *sequence, struct sequence_tools *tools)
{
    if (sequence->n_done < sequence->n_blocks * KV_BLOCK_TOKENS)
        return true;
    uint32_t block = prefix_acquire(tools->prefix);
    if (block == KV_NO_BLOCK)
        return false;
    sequence->blocks[sequence->n_blocks++] = block;
    count_blocks(tools);
    return true;
}

void sequence_drop_blocks(struct sequence *sequence, struct sequence_tools *tools)
{
    prefix_release(tools->prefix, sequence->blocks, sequence->n_blocks);
    sequence->n_blocks = sequence->n_done = sequence->n_published = 0;
    count_blocks(tools);
}

static void publish_blocks(struct sequence *sequence, struct sequence_tools *tools)
{
    if (sequence->is_mixed)
        return;
    for (; (sequence->n_published + 1) * KV_BLOCK_TOKENS <= sequence->n_done; sequence->n_published++) {
        uint32_t *block = &sequence->blocks[sequence->n_published];
        *block = prefix_publish(tools->prefix, &sequence->cursor, sequence->tokens + sequence->n_published * KV_BLOCK_TOKENS,
                                *block);
    }
    count_blocks(tools);
}

/* ---- what is next ---- */

size_t sequence_n_pending(const struct sequence *sequence)
{
    return sequence->n_known - sequence->n_done;
}

bool sequence_wants_prompt_logprobs(const struct sequence *sequence)
{
    return sequence->prompt_tokens != NULL;
}

size_t sequence_n_outputs(const struct sequence *sequence, size_t n_tokens)
{
    bool reaches_end = n_tokens == sequence_n_pending(sequence);
    bool wants_last = reaches_end && sequence->max_tokens > 0;
    if (!sequence_wants_prompt_logprobs(sequence))
        return wants_last ? 1 : 0;
    return reaches_end && !wants_last ? n_tokens - 1 : n_tokens;
}

const int32_t *sequence_next_tokens(const struct sequence *sequence)
{
    return sequence->tokens + sequence->n_done;
}

static size_t n_generated(const struct sequence *sequence)
{
    return sequence->tokens ? sequence->n_known - sequence->request->n_prompt : 0;
}

/* ---- what came out ---- */

static bool fail_not_finite(struct error *err)
{
    return error_set(err, ERROR_INTERNAL, NULL, "the model's logits are not finite numbers");
}

/* The row after the prompt's token next - 1. An id of -1 says that it is not finite. */
static void read_prompt_row(struct sequence *sequence, const struct model *model, size_t next, const float *row)
{
    const struct engine_request *request = sequence->request;
    size_t n_vocab = model->config.n_vocab;
    struct lorad_token *out = &sequence->prompt_tokens[next];
    if (sampler_is_finite(row, n_vocab))
        sampler_logprobs(model->kernels, row, n_vocab, request->prompt[next], (size_t)request->prompt_logprobs, out);
    else
        out->id = -1;
}

static void draw(struct sequence *sequence, const struct model *model, const float *row, struct sampler_scratch *scratch)
{
    const struct engine_request *request = sequence->request;
    size_t n_banned = n_generated(sequence) < request->min_tokens ? sequence->n_banned : 0;
    sampler_use_scratch(sequence->sampler, scratch);
    struct lorad_token token = {.id = sampler_draw(sequence->sampler, row, sequence->banned, n_banned), .logprob = NAN};
    if (token.id >= 0 && request->logprobs >= 0)
        sampler_logprobs(model->kernels, row, model->config.n_vocab, token.id, (size_t)request->logprobs, &token);
    sequence->drawn = token;
}

void sequence_read_row(struct sequence *sequence, const struct model *model, size_t n_tokens, size_t row, const float *logits,
                       struct sampler_scratch *scratch)
{
    bool is_last = row + 1 == n_tokens && n_tokens == sequence_n_pending(sequence);
    if (is_last || !sequence_wants_prompt_logprobs(sequence))
        draw(sequence, model, logits, scratch);
    else
        read_prompt_row(sequence, model, sequence->n_done + row + 1, logits);
}

static bool check_prompt_rows(const struct sequence *sequence, size_t first, size_t n_tokens, struct error *err)
{
    for (size_t next = first + 1; next <= first + n_tokens && next < sequence->request->n_prompt; next++)
        if (sequence->prompt_tokens[next].id < 0)
            return fail_not_finite(err);
    return true;
}

static bool publish_prompt(struct sequence *sequence, struct error *err)
{
    struct lorad_token *tokens = sequence->prompt_tokens;
    if (!tokens)
        return true;
    sequence->prompt_tokens = NULL;
    return stream_push_prompt(sequence->stream, tokens, sequence->request->n_prompt) || error_no_memory(err);
}

static bool contains(const int32_t *ids, size_t n_ids, int32_t id)
{
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static void finish(struct sequence *sequence, enum lorad_finish how)
{
    sequence->has_ended = true;
    sequence->finish = how;
}

/* Appends the token's text, and ends the sequence at a stop string. A model may have more rows than its tokenizer has
   entries: such a token has no text. */
static bool detokenize(struct sequence *sequence, struct sequence_tools *tools, int32_t token, struct error *err)
{
    bool is_stopped;
    size_t stop_index;
    if (!sequence->detokenizer || !tokenizer_has_id(tools->tokenizer, token))
        return true;
    if (!detokenizer_push(sequence->detokenizer, token, &tools->piece, &is_stopped, &stop_index, err))
        return false;
    if (is_stopped) {
        finish(sequence, LORAD_FINISH_STOP);
        sequence->stop_text = sequence->request->stops[stop_index];
        sequence->stop_id = -1;
    }
    return true;
}

/* Whether the token ends the sequence; *is_shown_out: it gives text. */
static void judge(struct sequence *sequence, const struct generation_config *generation, int32_t token, bool *is_shown_out)
{
    const struct engine_request *request = sequence->request;
    bool is_eos = !request->ignore_eos && contains(generation->eos_ids, generation->n_eos_ids, token);
    bool is_stop = !is_eos && contains(request->stop_ids, request->n_stop_ids, token);
    if (is_stop)
        sequence->stop_id = token;
    if (is_eos || is_stop)
        finish(sequence, LORAD_FINISH_STOP);
    else if (n_generated(sequence) == sequence->max_tokens)
        finish(sequence, LORAD_FINISH_LENGTH);
    *is_shown_out = is_eos ? request->keep_special : !is_stop || request->include_stop;
}

static void count_token(struct sequence *sequence, struct stats *stats, uint64_t now_us)
{
    if (n_generated(sequence) == 1) {
        sequence->first_us = now_us;
        histogram_add(&stats->time_to_first_token, now_us - sequence->request->submitted_us);
    } else {
        histogram_add(&stats->inter_token, now_us - sequence->last_us);
    }
    sequence->last_us = now_us;
    stats_add(&stats->completion_tokens, 1);
}

static bool generate(struct sequence *sequence, struct sequence_tools *tools, uint64_t now_us, struct error *err)
{
    int32_t drawn = sequence->drawn.id;
    bool is_shown;
    if (drawn < 0)
        return fail_not_finite(err);
    sampler_accept(sequence->sampler, drawn);
    sequence->tokens[sequence->n_known++] = drawn;

    judge(sequence, &tools->model->generation, drawn, &is_shown);
    buffer_clear(&tools->piece);
    if (is_shown && !detokenize(sequence, tools, drawn, err))
        return false;
    count_token(sequence, tools->stats, now_us);
    return stream_push_token(sequence->stream, &sequence->drawn, buffer_text(&tools->piece), tools->piece.n_bytes) ||
           error_no_memory(err);
}

/* What is computed for the first time; again is nobody's service. */
static size_t count_new(struct sequence *sequence, struct stats *stats)
{
    size_t n_prompt = sequence->request->n_prompt;
    size_t n_new = size_min(sequence->n_done, n_prompt) - size_min(sequence->n_most, n_prompt);
    stats_add(&stats->prompt_tokens, n_new);
    sequence->n_most = sequence->n_done;
    return n_new;
}

bool sequence_take_logits(struct sequence *sequence, struct sequence_tools *tools, size_t n_tokens, uint64_t now_us,
                          uint64_t *n_served_out, struct error *err)
{
    if (sequence_wants_prompt_logprobs(sequence) && !check_prompt_rows(sequence, sequence->n_done, n_tokens, err))
        return false;
    sequence->n_done += n_tokens;
    *n_served_out = sequence->n_done > sequence->n_most ? count_new(sequence, tools->stats) : 0;
    publish_blocks(sequence, tools);
    if (sequence->n_done < sequence->n_known)
        return true;
    if (!publish_prompt(sequence, err))
        return false;
    if (sequence->max_tokens > 0) {
        *n_served_out += SERVICE_OF_OUTPUT;
        return generate(sequence, tools, now_us, err);
    }
    sequence->first_us = sequence->last_us = now_us;
    finish(sequence, LORAD_FINISH_LENGTH);
    return true;
}

/* ---- ending ---- */

static struct lorad_usage usage_of(const struct sequence *sequence, uint64_t now_us)
{
    const struct engine_request *request = sequence->request;
    uint64_t began_us = sequence->began_us ? sequence->began_us : now_us;
    uint64_t first_us = sequence->first_us ? sequence->first_us : now_us;
    return (struct lorad_usage){
        .prompt_tokens = request->n_prompt,
        .completion_tokens = n_generated(sequence),
        .cached_tokens = sequence->n_cached,
        .n_preemptions = sequence->n_preemptions,
        .queue_ms = (double)(began_us - request->submitted_us) / 1000,
        .prefill_ms = (double)(first_us - began_us) / 1000,
        .decode_ms = sequence->last_us ? (double)(sequence->last_us - first_us) / 1000 : 0,
    };
}

void sequence_end(struct sequence *sequence, struct sequence_tools *tools, enum lorad_finish finish,
                  const char *error_message, uint64_t now_us)
{
    struct stream_end end = {.finish = finish, .stop_text = sequence->stop_text, .stop_id = sequence->stop_id,
                             .error_message = error_message, .usage = usage_of(sequence, now_us)};
    struct error err;
    buffer_clear(&tools->piece);
    if (sequence->detokenizer && finish != LORAD_FINISH_ERROR &&
        !detokenizer_flush(sequence->detokenizer, &tools->piece, &err)) {
        end.finish = LORAD_FINISH_ERROR;
        end.error_message = "no memory";
        buffer_clear(&tools->piece);
    }
    end.text = buffer_text(&tools->piece);
    end.n_text_bytes = tools->piece.n_bytes;
    sequence_drop_blocks(sequence, tools);
    stats_add(&tools->stats->requests_finished[end.finish], 1);
    stream_end(sequence->stream, &end);

    sampler_destroy(sequence->sampler);
    detokenizer_destroy(sequence->detokenizer);
    free(sequence->prompt_tokens);
    free(sequence->banned);
    free(sequence->blocks);
    free(sequence->tokens);
    free(sequence);
}
