/*
 * inbox.h - the engine's mailbox, counted: each stream holds it too, so that a client may cancel or close its stream at any
 * time, also after the engine has gone.
 */
#ifndef ENGINE_INBOX_H
#define ENGINE_INBOX_H

#include "base/mailbox.h"
#include "base/ref.h"

struct inbox {
    struct ref ref;
    struct mailbox mailbox;
};

struct inbox *inbox_create(struct error *err);
struct inbox *inbox_ref(struct inbox *inbox);
void inbox_unref(struct inbox *inbox); /* NULL is fine; the last one must leave it empty */

#endif
