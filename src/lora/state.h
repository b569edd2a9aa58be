/*
 * state.h - registry.json in the state directory: which adapters are to be there after a restart.
 */
#ifndef LORA_STATE_H
#define LORA_STATE_H

#include <lorad/types.h>

#include "base/error.h"

struct state_entry {
    char id[LORAD_ID_SIZE];
    char digest[LORAD_DIGEST_SIZE];
    char *path; /* NULL for an upload, which lies at uploads/<digest> */
    bool is_upload;
    bool allow_other_heads, is_pinned;
    enum lorad_mode default_mode;
};

struct state {
    struct state_entry *entries;
    size_t n_entries;
};

/* An absent file is an empty state; one that is not ours in every field is an error. */
bool state_read(struct state *out, const char *state_dir, struct error *err) MUST_USE;
bool state_write(const struct state *state, const char *state_dir,
                 struct error *err) MUST_USE; /* atomically */
void state_finish(struct state *state);       /* zeroed is fine */

#endif
