#include "engine/inbox.h"

#include <stdlib.h>

struct inbox *inbox_create(struct error *err)
{
    struct inbox *inbox = calloc(1, sizeof *inbox);
    if (!inbox) {
        error_no_memory(err);
        return NULL;
    }
    if (!mailbox_init(&inbox->mailbox, err)) {
        free(inbox);
        return NULL;
    }
    ref_init(&inbox->ref);
    return inbox;
}

struct inbox *inbox_ref(struct inbox *inbox)
{
    ref_take(&inbox->ref);
    return inbox;
}

void inbox_unref(struct inbox *inbox)
{
    if (!inbox || !ref_drop(&inbox->ref))
        return;
    mailbox_finish(&inbox->mailbox);
    free(inbox);
}
