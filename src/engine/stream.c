/*
 * stream.c - events are records in one of two byte queues: the engine appends to `written`, the client takes from `reading`,
 * and they change places when it has taken all. So what the client has borrowed never moves, and memory is used again.
 *
 * The eventfd is written and drained under the lock: it is readable exactly while there is an event to take.
 */
#include "engine/stream.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/ref.h"
#include "engine/inbox.h"

struct queue {
    char *data;
    size_t n_bytes, capacity;
};

/* Followed by n_top alternatives, the text and a NUL, and filled up to 8 bytes. */
struct record {
    enum lorad_event_kind kind;
    int32_t id;
    float logprob;
    uint32_t n_top;
    size_t n_text_bytes;
};

struct stream {
    struct ref sides;
    struct engine_request *request;
    struct inbox *inbox;
    int fd;
    atomic_bool is_cancelled;
    atomic_bool is_merged;

    pthread_mutex_t lock;
    struct queue written;   /* guarded by lock */
    bool has_end;           /* guarded by lock; `end` and what it points to do not change once it is set */
    bool is_signalled;      /* guarded by lock: the eventfd is readable */
    struct lorad_event end;
    char *end_text;
    char error_message[sizeof ((struct error *)0)->message];
    struct lorad_token *prompt_tokens; /* does not change once its record is in the queue */
    size_t n_prompt_tokens;

    /* The client's. */
    struct queue reading;
    size_t read_at;
    bool end_is_taken;
};

enum { TYPICAL_TEXT_BYTES = 16, RECORD_ALIGNMENT = 8 };

static bool reserve(struct queue *queue, size_t n_more)
{
    size_t n_needed, capacity;
    if (!size_add(queue->n_bytes, n_more, &n_needed))
        return false;
    if (n_needed <= queue->capacity)
        return true;
    if (!size_multiply(queue->capacity, 2, &capacity))
        return false;
    capacity = size_max(capacity, n_needed);
    char *data = realloc(queue->data, capacity);
    if (!data)
        return false;
    queue->data = data;
    queue->capacity = capacity;
    return true;
}

static bool record_bytes(size_t n_top, size_t n_text_bytes, size_t *out)
{
    size_t n_fixed = sizeof(struct record) + n_top * sizeof(struct lorad_token_logprob) + RECORD_ALIGNMENT;
    if (!size_add(n_fixed, n_text_bytes, out))
        return false;
    *out &= ~(size_t)(RECORD_ALIGNMENT - 1);
    return true;
}

static void signal_locked(struct stream *stream)
{
    if (stream->is_signalled)
        return;
    eventfd_write(stream->fd, 1);
    stream->is_signalled = true;
}

/* ---- the engine's side ---- */

/* Of both queues, because they change places. */
static bool reserve_room(struct stream *stream)
{
    size_t n_tokens = size_min(stream->request->max_tokens, STREAM_ROOM_TOKENS), n_record;
    size_t n_top = stream->request->logprobs > 0 ? (size_t)stream->request->logprobs : 0;
    return record_bytes(n_top, TYPICAL_TEXT_BYTES, &n_record) && reserve(&stream->written, n_tokens * n_record) &&
           reserve(&stream->reading, n_tokens * n_record);
}

struct stream *stream_create(struct engine_request *request, struct inbox *inbox, struct error *err)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) {
        error_no_memory(err);
        return NULL;
    }
    stream->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stream->fd < 0) {
        error_set(err, ERROR_UNAVAILABLE, NULL, "no event descriptor for the answer: %s", strerror(errno));
        free(stream);
        return NULL;
    }
    if (pthread_mutex_init(&stream->lock, NULL) != 0) {
        error_no_memory(err);
        close(stream->fd);
        free(stream);
        return NULL;
    }
    stream->request = request;
    stream->inbox = inbox_ref(inbox);
    if (!reserve_room(stream)) {
        stream_discard(stream);
        error_no_memory(err);
        return NULL;
    }
    ref_init(&stream->sides);
    ref_take(&stream->sides);
    return stream;
}

void stream_discard(struct stream *stream)
{
    if (!stream)
        return;
    inbox_unref(stream->inbox);
    pthread_mutex_destroy(&stream->lock);
    close(stream->fd);
    free(stream->written.data);
    free(stream->reading.data);
    free(stream->end_text);
    free(stream->prompt_tokens);
    free(stream);
}

static void drop_side(struct stream *stream)
{
    if (!ref_drop(&stream->sides))
        return;
    struct engine_request *request = stream->request;
    struct lorad_usage usage = stream->end.usage;
    bool is_merged = stream_is_merged(stream);
    stream_discard(stream);
    request->release(request, &usage, is_merged);
}

/* A record's place at the end of the queue, or NULL. */
static char *append_locked(struct stream *stream, const struct record *record)
{
    size_t n_bytes;
    if (!record_bytes(record->n_top, record->n_text_bytes, &n_bytes) || !reserve(&stream->written, n_bytes))
        return NULL;
    char *place = stream->written.data + stream->written.n_bytes;
    memcpy(place, record, sizeof *record);
    stream->written.n_bytes += n_bytes;
    return place + sizeof *record;
}

bool stream_push_token(struct stream *stream, const struct lorad_token *token, const char *text, size_t n_text_bytes)
{
    struct record record = {LORAD_EVENT_TOKEN, token->id, token->logprob, (uint32_t)token->n_top, n_text_bytes};
    size_t n_top_bytes = token->n_top * sizeof *token->top;
    pthread_mutex_lock(&stream->lock);
    assert(!stream->has_end);
    char *place = append_locked(stream, &record);
    if (place) {
        memcpy(place, token->top, n_top_bytes);
        if (n_text_bytes)
            memcpy(place + n_top_bytes, text, n_text_bytes);
        place[n_top_bytes + n_text_bytes] = '\0';
        signal_locked(stream);
    }
    pthread_mutex_unlock(&stream->lock);
    return place != NULL;
}

bool stream_push_prompt(struct stream *stream, struct lorad_token *tokens, size_t n_tokens)
{
    struct record record = {.kind = LORAD_EVENT_PROMPT};
    pthread_mutex_lock(&stream->lock);
    assert(!stream->has_end && !stream->prompt_tokens);
    stream->prompt_tokens = tokens;
    stream->n_prompt_tokens = n_tokens;
    char *place = append_locked(stream, &record);
    if (place) {
        *place = '\0';
        signal_locked(stream);
    }
    pthread_mutex_unlock(&stream->lock);
    return place != NULL;
}

void stream_set_merged(struct stream *stream, bool is_merged)
{
    atomic_store_explicit(&stream->is_merged, is_merged, memory_order_relaxed);
}

bool stream_is_merged(const struct stream *stream)
{
    return atomic_load_explicit(&stream->is_merged, memory_order_relaxed);
}

bool stream_is_cancelled(const struct stream *stream)
{
    return atomic_load_explicit(&stream->is_cancelled, memory_order_relaxed);
}

static char *copy_text(const char *text, size_t n_bytes)
{
    char *copy = malloc(n_bytes + 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    return copy;
}

void stream_end(struct stream *stream, const struct stream_end *end)
{
    char *text = end->n_text_bytes ? copy_text(end->text, end->n_text_bytes) : NULL;
    bool is_lost = end->n_text_bytes > 0 && !text;
    const char *message = is_lost ? "no memory" : end->error_message;

    pthread_mutex_lock(&stream->lock);
    assert(!stream->has_end);
    stream->end_text = text;
    if (message)
        snprintf(stream->error_message, sizeof stream->error_message, "%s", message);
    stream->end = (struct lorad_event){
        .kind = LORAD_EVENT_END,
        .text = text ? text : "",
        .n_text_bytes = text ? end->n_text_bytes : 0,
        .finish = is_lost ? LORAD_FINISH_ERROR : end->finish,
        .stop_text = end->stop_text,
        .stop_id = end->stop_id,
        .error_message = message ? stream->error_message : NULL,
        .usage = end->usage,
    };
    stream->has_end = true;
    signal_locked(stream);
    pthread_mutex_unlock(&stream->lock);
    drop_side(stream);
}

/* ---- the client's side ---- */

static bool has_unread(const struct stream *stream)
{
    return stream->read_at < stream->reading.n_bytes;
}

static void read_record(struct stream *stream, struct lorad_event *out)
{
    const char *place = stream->reading.data + stream->read_at;
    struct record record;
    size_t n_bytes, n_top_bytes;
    memcpy(&record, place, sizeof record);
    n_top_bytes = record.n_top * sizeof *out->token.top;
    record_bytes(record.n_top, record.n_text_bytes, &n_bytes); /* fitted when it was written */
    stream->read_at += n_bytes;

    *out = (struct lorad_event){.kind = record.kind, .stop_id = -1};
    out->token = (struct lorad_token){.id = record.id, .logprob = record.logprob, .n_top = record.n_top};
    memcpy(out->token.top, place + sizeof record, n_top_bytes);
    out->text = place + sizeof record + n_top_bytes;
    out->n_text_bytes = record.n_text_bytes;
    if (record.kind == LORAD_EVENT_PROMPT) {
        out->prompt_tokens = stream->prompt_tokens;
        out->n_prompt_tokens = stream->n_prompt_tokens;
    }
}

/* What was read is no longer borrowed: its queue is the engine's now. */
static void swap_queues_locked(struct stream *stream)
{
    struct queue empty = stream->reading;
    empty.n_bytes = 0;
    stream->reading = stream->written;
    stream->written = empty;
    stream->read_at = 0;
}

bool stream_next(struct stream *stream, struct lorad_event *out)
{
    pthread_mutex_lock(&stream->lock);
    if (!has_unread(stream))
        swap_queues_locked(stream);
    bool is_record = has_unread(stream), is_end = !is_record && stream->has_end && !stream->end_is_taken;
    if (is_record)
        read_record(stream, out);
    if (is_end) {
        *out = stream->end;
        stream->end_is_taken = true;
    }
    bool more = has_unread(stream) || stream->written.n_bytes > 0 || (stream->has_end && !stream->end_is_taken);
    if (!more && stream->is_signalled) {
        eventfd_t count;
        eventfd_read(stream->fd, &count);
        stream->is_signalled = false;
    }
    pthread_mutex_unlock(&stream->lock);
    return is_record || is_end;
}

bool stream_wait(struct stream *stream, int timeout_ms)
{
    if (stream->end_is_taken)
        return false;
    struct pollfd poll_fd = {.fd = stream->fd, .events = POLLIN};
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t end_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + timeout_ms;
    for (int left_ms = timeout_ms;;) {
        int n_ready = poll(&poll_fd, 1, left_ms);
        if (n_ready >= 0 || errno != EINTR)
            return n_ready > 0;
        if (timeout_ms < 0)
            continue;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t left = end_ms - (int64_t)now.tv_sec * 1000 - now.tv_nsec / 1000000;
        left_ms = left > 0 ? (int)left : 0;
    }
}

int stream_fd(struct stream *stream)
{
    return stream->fd;
}

void stream_cancel(struct stream *stream)
{
    atomic_store_explicit(&stream->is_cancelled, true, memory_order_relaxed);
    mailbox_wake(&stream->inbox->mailbox);
}

void stream_close(struct stream *stream)
{
    if (!stream)
        return;
    if (!stream->end_is_taken)
        stream_cancel(stream);
    drop_side(stream);
}

const struct engine_request *stream_request(const struct stream *stream)
{
    return stream->request;
}
