/*
 * mailbox.h - many senders, one receiver, one wake-up. Messages are list links inside the
 * sender's objects; who receives a message owns it.
 */
#ifndef BASE_MAILBOX_H
#define BASE_MAILBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/list.h"

struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    struct list messages; /* guarded by lock */
    size_t n_messages;    /* guarded by lock */
    bool closed;          /* guarded by lock */
    bool nudged;          /* guarded by lock: mailbox_wake was called */
};

bool mailbox_init(struct mailbox *mailbox, struct error *err) MUST_USE;
void mailbox_finish(struct mailbox *mailbox); /* must be empty */

/* False when the mailbox is closed: the message stays the caller's. `n_maximum` 0: no limit;
   otherwise false also when that many messages wait already. */
bool mailbox_post(struct mailbox *mailbox, struct list *message, size_t n_maximum);

/* Takes the oldest message, or NULL when there is none now. */
struct list *mailbox_take(struct mailbox *mailbox);

/* Waits until a message is there, somebody calls mailbox_wake, or `timeout_ms` has passed
   (-1: for ever). Then as mailbox_take. NULL does not mean closed: ask mailbox_is_closed. */
struct list *mailbox_wait(struct mailbox *mailbox, int timeout_ms);

void mailbox_wake(struct mailbox *mailbox);  /* makes the present or the next mailbox_wait return */
void mailbox_close(struct mailbox *mailbox); /* no more posts; wakes the receiver */
bool mailbox_is_closed(struct mailbox *mailbox);

#endif
