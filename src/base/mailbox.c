#include "base/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <time.h>

bool mailbox_init(struct mailbox *mailbox, struct error *err)
{
    pthread_condattr_t attributes;
    *mailbox = (struct mailbox){0};
    list_init(&mailbox->messages);
    if (pthread_mutex_init(&mailbox->lock, NULL) != 0)
        return error_no_memory(err);
    if (pthread_condattr_init(&attributes) != 0) {
        pthread_mutex_destroy(&mailbox->lock);
        return error_no_memory(err);
    }
    /* Waiting must not care about somebody setting the wall clock. */
    bool ready = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
                 pthread_cond_init(&mailbox->arrived, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    if (ready)
        return true;
    pthread_mutex_destroy(&mailbox->lock);
    return error_no_memory(err);
}

void mailbox_finish(struct mailbox *mailbox)
{
    assert(list_is_empty(&mailbox->messages));
    pthread_cond_destroy(&mailbox->arrived);
    pthread_mutex_destroy(&mailbox->lock);
}

bool mailbox_post(struct mailbox *mailbox, struct list *message, size_t n_maximum)
{
    pthread_mutex_lock(&mailbox->lock);
    bool accepted = !mailbox->closed && (n_maximum == 0 || mailbox->n_messages < n_maximum);
    if (accepted) {
        list_append(&mailbox->messages, message);
        mailbox->n_messages++;
        pthread_cond_signal(&mailbox->arrived);
    }
    pthread_mutex_unlock(&mailbox->lock);
    return accepted;
}

static struct list *take_locked(struct mailbox *mailbox)
{
    if (list_is_empty(&mailbox->messages))
        return NULL;
    struct list *message = mailbox->messages.next;
    list_remove(message);
    mailbox->n_messages--;
    return message;
}

struct list *mailbox_take(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    struct list *message = take_locked(mailbox);
    pthread_mutex_unlock(&mailbox->lock);
    return message;
}

static struct timespec time_from_now(int timeout_ms)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += timeout_ms / 1000;
    time.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (time.tv_nsec >= 1000000000L) {
        time.tv_sec++;
        time.tv_nsec -= 1000000000L;
    }
    return time;
}

struct list *mailbox_wait(struct mailbox *mailbox, int timeout_ms)
{
    struct timespec end = time_from_now(timeout_ms < 0 ? 0 : timeout_ms);
    int result = 0;

    pthread_mutex_lock(&mailbox->lock);
    while (list_is_empty(&mailbox->messages) && !mailbox->closed && !mailbox->nudged && result != ETIMEDOUT)
        result = timeout_ms < 0 ? pthread_cond_wait(&mailbox->arrived, &mailbox->lock)
                                : pthread_cond_timedwait(&mailbox->arrived, &mailbox->lock, &end);
    mailbox->nudged = false;
    struct list *message = take_locked(mailbox);
    pthread_mutex_unlock(&mailbox->lock);
    return message;
}

void mailbox_wake(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    mailbox->nudged = true;
    pthread_cond_signal(&mailbox->arrived);
    pthread_mutex_unlock(&mailbox->lock);
}

void mailbox_close(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    mailbox->closed = true;
    pthread_cond_broadcast(&mailbox->arrived);
    pthread_mutex_unlock(&mailbox->lock);
}

bool mailbox_is_closed(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    bool closed = mailbox->closed;
    pthread_mutex_unlock(&mailbox->lock);
    return closed;
}
