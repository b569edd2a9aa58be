/*
 * seats.c - places and blocks.
 *
 * The fair queue says who should run. Who should no longer pauses and keeps its blocks; who should now takes blocks for all that it
 * knows, or begins. Blocks run out in two ways. A running sequence that needs one more takes them from the youngest one, which
 * computes its tokens again later, so the oldest always gets to its end. One that would begin takes them from paused ones, else
 * waits; nobody behind it begins before it. It also leaves a block for each that runs, so that it is not thrown out at once.
 */
#include "engine/engine_internal.h"

#include "base/bytes.h"

/* While tokens are being generated, prompts may make a step this many times longer: running streams keep their pace. */
static const double PACE = 3;
enum { LEAST_CHUNK = 16 }; /* but they get so many tokens always */

/* ---- blocks ---- */

static void preempt(struct engine *engine, struct sequence *sequence)
{
    sequence_drop_blocks(sequence, &engine->tools);
    sequence->n_preemptions++;
    stats_add(&engine->stats.preemptions, 1);
    engine_set_state(engine, sequence, SEQUENCE_PREEMPTED);
}

static struct sequence *find_youngest(struct engine *engine, enum sequence_state state)
{
    for (struct list *link = engine->live.previous; link != &engine->live; link = link->previous)
        if (sequence_at(link)->state == state)
            return sequence_at(link);
    return NULL;
}

/* A block for each running sequence that needs one for its next token. */
static void extend_running(struct engine *engine)
{
    LIST_FOR_EACH(link, &engine->live) {
        struct sequence *sequence = sequence_at(link);
        while (sequence->state == SEQUENCE_RUNNING && !sequence_extend(sequence, &engine->tools)) {
            struct sequence *victim = find_youngest(engine, SEQUENCE_PAUSED);
            preempt(engine, victim ? victim : find_youngest(engine, SEQUENCE_RUNNING));
        }
    }
}

static bool take_blocks(struct engine *engine, struct sequence *sequence)
{
    size_t n_running = engine->n_in_state[SEQUENCE_RUNNING], n_spare = n_running > 0 ? n_running + 1 : 0;
    while (!sequence_take_blocks(sequence, &engine->tools, n_spare)) {
        struct sequence *victim = find_youngest(engine, SEQUENCE_PAUSED);
        if (!victim)
            return false;
        preempt(engine, victim);
    }
    return true;
}

/* ---- on the fly or merged ---- */

void engine_add_load(struct engine *engine, size_t *n, const struct view *view, const struct cost_view *cost, size_t n_tokens)
{
    size_t i = 0;
    while (i < *n && engine->load_views[i] != view)
        i++;
    if (i == *n) {
        engine->load_views[i] = view;
        engine->loads[(*n)++] = (struct cost_load){*cost, 0};
    }
    engine->loads[i].n_tokens += n_tokens;
}

/* A step in which all that have a place decode: the adapter of `one` through `view`, everybody else on the fly who may. Not as they
   run: else each of several that began alone, merged, would be a reason for the next one not to go back to the weights they share. */
static double estimate(struct engine *engine, const struct sequence *one, const struct view *view)
{
    size_t n = 0;
    engine_add_load(engine, &n, view, sequence_cost_through(one, view), 1);
    LIST_FOR_EACH(link, &engine->live) {
        const struct sequence *sequence = sequence_at(link);
        const struct view *own = sequence->request->view;
        if (sequence == one || !sequence->item.is_chosen)
            continue;
        if (own == one->request->view)
            engine_add_load(engine, &n, view, sequence_cost_through(one, view), 1);
        else
            engine_add_load(engine, &n, own, &sequence->cost_on_the_fly, 1);
    }
    return cost_step_us(&engine->cost, engine->loads, n);
}

static bool is_merged_cheaper(struct engine *engine, const struct sequence *sequence)
{
    const struct engine_request *request = sequence->request;
    return estimate(engine, sequence, request->merged_view) <= estimate(engine, sequence, request->view);
}

/* For the batch as it is when the sequence begins. */
static void choose_mode(struct engine *engine, struct sequence *sequence)
{
    const struct engine_request *request = sequence->request;
    bool is_merged = request->merged_view && is_merged_cheaper(engine, sequence);
    sequence_use_view(sequence, is_merged ? request->merged_view : request->view);
}

static void count_choice(struct engine *engine, const struct sequence *sequence)
{
    const struct engine_request *request = sequence->request;
    enum mode_reason reason = !request->merged_view                    ? MODE_ONLY_ON_THE_FLY
                              : sequence->view == request->merged_view ? MODE_MERGED_CHEAPER
                                                                       : MODE_ON_THE_FLY_CHEAPER;
    if (request->gain)
        stats_add(&engine->stats.choices[reason], 1);
}

/* Who allows it follows the batch as it changes. */
static void switch_modes(struct engine *engine)
{
    LIST_FOR_EACH(link, &engine->live) {
        struct sequence *sequence = sequence_at(link);
        const struct engine_request *request = sequence->request;
        if (sequence->state == SEQUENCE_RUNNING && request->may_switch && request->merged_view)
            sequence_use_view(sequence, is_merged_cheaper(engine, sequence) ? request->merged_view : request->view);
    }
}

/* ---- places ---- */

static void assign_places(struct engine *engine)
{
    if (!engine->places_changed)
        return;
    queue_choose(&engine->queue, engine->max_sequences);
    LIST_FOR_EACH(link, &engine->live) {
        struct sequence *sequence = sequence_at(link);
        if (sequence->state == SEQUENCE_RUNNING && !sequence->item.is_chosen) {
            engine_set_state(engine, sequence, SEQUENCE_PAUSED);
            stats_add(&engine->stats.pauses, 1);
        } else if (sequence->state == SEQUENCE_PAUSED && sequence->item.is_chosen) {
            engine_set_state(engine, sequence, SEQUENCE_RUNNING);
        }
    }
    switch_modes(engine);
    engine->places_changed = false;
}

enum beginning { HAS_BEGUN, HAS_TO_WAIT, HAS_FAILED };

static enum beginning begin(struct engine *engine, struct sequence *sequence, uint64_t now_us)
{
    struct error err;
    bool is_new = sequence->state == SEQUENCE_WAITING;
    if (is_new && !sequence->sampler && !sequence_begin(sequence, &engine->tools, &err)) {
        engine_end_sequence(engine, sequence, LORAD_FINISH_ERROR, err.message);
        return HAS_FAILED;
    }
    if (is_new)
        choose_mode(engine, sequence);
    if (!take_blocks(engine, sequence))
        return HAS_TO_WAIT; /* for blocks */
    if (is_new) {
        sequence->began_us = now_us;
        histogram_add(&engine->stats.queue_time, now_us - sequence->request->submitted_us);
        count_choice(engine, sequence);
    }
    engine_set_state(engine, sequence, SEQUENCE_RUNNING);
    return HAS_BEGUN;
}

static bool is_decoding(const struct sequence *sequence)
{
    return sequence->state == SEQUENCE_RUNNING && sequence_n_pending(sequence) == 1;
}

/* Those that read a prompt or should begin, who is to be served first in front. */
static size_t collect_readers(struct engine *engine, struct sequence **out)
{
    size_t n = 0;
    LIST_FOR_EACH(link, &engine->live) {
        struct sequence *sequence = sequence_at(link);
        bool is_outside = sequence->state == SEQUENCE_WAITING || sequence->state == SEQUENCE_PREEMPTED;
        if (is_outside ? !sequence->item.is_chosen : sequence->state != SEQUENCE_RUNNING || is_decoding(sequence))
            continue;
        size_t i = n++;
        for (; i > 0 && queue_comes_before(&sequence->item, &out[i - 1]->item); i--)
            out[i] = out[i - 1];
        out[i] = sequence;
    }
    return n;
}

static size_t collect_decoding(struct engine *engine, struct sequence **out)
{
    size_t n = 0;
    LIST_FOR_EACH(link, &engine->live)
        if (is_decoding(sequence_at(link)))
            out[n++] = sequence_at(link);
    return n;
}

static size_t choose_prompt_tokens(const struct engine *engine, size_t n_decoding)
{
    size_t n_left = engine->options.max_batch_tokens - n_decoding;
    if (n_decoding == 0)
        return n_left;
    return size_min(n_left, size_max(LEAST_CHUNK, cost_room(&engine->cost, n_decoding, PACE, n_left)));
}

size_t engine_seat(struct engine *engine, struct sequence **out, size_t *max_prompt_out, uint64_t now_us)
{
    enum beginning beginning = HAS_BEGUN;
    assign_places(engine);
    extend_running(engine);
    size_t n_out = collect_decoding(engine, out);
    struct sequence **readers = out + n_out;
    size_t n_readers = collect_readers(engine, readers), n_left = choose_prompt_tokens(engine, n_out);
    *max_prompt_out = n_left;
    for (size_t i = 0; i < n_readers; i++) {
        struct sequence *sequence = readers[i];
        if (sequence->state != SEQUENCE_RUNNING) {
            if (n_left == 0 || beginning == HAS_TO_WAIT)
                continue; /* none overtakes another */
            beginning = begin(engine, sequence, now_us);
            if (beginning != HAS_BEGUN)
                continue;
        }
        n_left -= size_min(n_left, sequence_n_pending(sequence));
        out[n_out++] = sequence;
    }
    return n_out;
}
