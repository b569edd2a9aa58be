/*
 * types.h - the plain data that crosses the public API. No owner but what is said at the field.
 */
#ifndef LORAD_TYPES_H
#define LORAD_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LORAD_DIGEST_SIZE 65  /* SHA-256 in hex, and a NUL */
#define LORAD_ID_SIZE 129     /* an adapter's id, and a NUL: [A-Za-z0-9][A-Za-z0-9._-]{0,127} */
#define LORAD_TOP_LOGPROBS 20

/* How an adapter's W x + s B(A x) is computed. */
enum lorad_mode {
    LORAD_MODE_AUTO,       /* the engine chooses */
    LORAD_MODE_ON_THE_FLY, /* W x, then + s B(A x) */
    LORAD_MODE_MERGED,     /* W' x with a cached W' = W + s BA */
    LORAD_MODE_PARTLY_MERGED, /* W' at some sites; only ever reported */
    LORAD_N_MODES
};

enum lorad_adapter_state {
    LORAD_ADAPTER_LOADING,  /* being loaded for the first time */
    LORAD_ADAPTER_READY,
    LORAD_ADAPTER_DRAINING, /* unloaded; requests in flight still hold it */
    LORAD_ADAPTER_FAILED,   /* could not be restored at start; `error` says why */
    LORAD_ADAPTER_AVAILABLE /* not in memory; the next request for it loads it */
};

enum lorad_merged_state {
    LORAD_MERGED_NO,
    LORAD_MERGED_QUEUED,
    LORAD_MERGED_BUILDING,
    LORAD_MERGED_YES,
    LORAD_MERGED_REFUSED,
    LORAD_MERGED_PARTLY /* at some sites; mode auto may use it, mode merged does not */
};

/* What became of merged weights that manage themselves. */
enum lorad_merge_decision {
    LORAD_DECISION_MERGED,
    LORAD_DECISION_PARTLY_MERGED,
    LORAD_DECISION_NO_ROOM, /* refused: what would have to go is worth as much */
    LORAD_DECISION_NO_GAIN, /* refused: by the time it was looked at it had faded */
    LORAD_DECISION_EVICTED, /* made room for another */
    LORAD_N_DECISIONS
};

/* One site in a load report. */
struct lorad_site_report {
    char site[192];    /* module path in the base, "model.layers.0.self_attn.q_proj" */
    size_t rank;       /* 0: replaced whole (modules_to_save) or only its bias */
    double alpha, scale;
    size_t n_out, n_in;
    bool dora, replaced, bias; /* magnitude vector; whole weight replaced; bias replaced or added */
};

/* What loading found. Owned by whoever holds it: lorad_load_report_finish. */
struct lorad_load_report {
    char id[LORAD_ID_SIZE];
    char digest[LORAD_DIGEST_SIZE]; /* the generation: SHA-256 over config and weights */
    bool replaced;                  /* another generation answered to this id before */
    bool unchanged;                 /* the same generation was already there */
    size_t tensors_present, tensors_applied, tensors_ignored; /* ignored: named in the warnings */
    size_t n_sites, n_norms;
    size_t rank_min, rank_max;
    uint64_t n_parameters;
    uint64_t resident_bytes;
    double load_ms;
    struct lorad_site_report *sites; /* n_sites */
    char **warnings;                 /* n_warnings */
    size_t n_warnings;
};

/* How to load an adapter. */
struct lorad_load_options {
    const char *path;           /* a PEFT directory, relative to adapters_dir or absolute inside it */
    bool trusted_path;          /* the operator's own (--adapter): not confined */
    bool staged;                /* an upload: the directory becomes the registry's, removed with the generation */
    const char *if_match;       /* only if this generation (digest) is there now; NULL: whatever. "*": any, but one */
    bool only_new;              /* ERROR_CONFLICT when the id is taken */
    bool dry_run;               /* check and report, change nothing */
    bool allow_other_heads;     /* accept an adapter of another task type, without its head */
    bool has_default_mode;
    enum lorad_mode default_mode;
    bool has_pin, pin;          /* pinned: stays in memory when adapters are loaded on use; not given: as it was */
};

/* What the requests of an adapter came to, each counted when it ended. They outlive its generations, until it is unloaded. */
struct lorad_adapter_counters {
    uint64_t requests[LORAD_N_MODES]; /* by the mode that was used; AUTO stays 0 */
    uint64_t prompt_tokens, cached_tokens, completion_tokens;
    uint64_t first_tokens;            /* requests that got a token */
    double first_token_seconds;       /* what they waited for it, from submission; the sum */
    uint64_t preemptions;
};

/* A look at one adapter in the registry; a copy. */
struct lorad_adapter_info {
    char id[LORAD_ID_SIZE];
    enum lorad_adapter_state state;
    char digest[LORAD_DIGEST_SIZE];
    char *path;  /* where it was loaded from; owned by the list */
    char *error; /* FAILED: why; owned by the list; else NULL */
    enum lorad_mode default_mode;
    enum lorad_merged_state merged;
    size_t n_sites, rank_min, rank_max;
    double alpha;  /* the config's; patterns may differ per site (see the load report) */
    bool dora, rslora;
    uint64_t resident_bytes, merged_bytes;
    uint64_t requests_in_flight, requests_total; /* the total: as they were admitted */
    struct lorad_adapter_counters counters;
    uint64_t n_loads;
    int64_t loaded_unix; /* seconds */
    size_t merged_sites;         /* sites that have W' */
    double merge_value_us_per_s; /* engine time that merging saves, or would save, at the present traffic */
    double merge_price_us;       /* what the full merge costs */
    char merge_reason[192];      /* what was last decided on its W', and why: a sentence; "": nothing yet */
    bool pinned;                 /* never makes room for another */
};

struct lorad_adapter_list {
    struct lorad_adapter_info *adapters;
    size_t n_adapters;
};

/* Sampling, in the order in which it is applied. */
struct lorad_logit_bias {
    int32_t id;
    float bias;
};

struct lorad_sampling {
    const struct lorad_logit_bias *logit_bias;
    size_t n_logit_bias;
    double repetition_penalty; /* > 0; 1: off; prompt and output: logit > 0 ? l / p : l * p */
    double presence_penalty;   /* -2..2; output only */
    double frequency_penalty;  /* -2..2; output only */
    double temperature;        /* >= 0; 0: greedy */
    double min_p;              /* 0..1; 0: off */
    size_t top_k;              /* 0: off */
    double top_p;              /* (0, 1]; 1: off */
    bool has_seed;
    uint64_t seed;
};

struct lorad_adapter_choice {
    const char *id;
    double weight;
};

struct lorad_stream;

/* What a client asks for. Plain fields that the caller owns; lorad_submit copies what it needs. */
struct lorad_request {
    const char *prompt; /* text; or NULL and input_ids */
    size_t n_prompt_bytes;
    const int32_t *input_ids;
    size_t n_input_ids;
    bool no_special_tokens; /* do not add BOS and the like to a text prompt */

    const struct lorad_stream *same_as;          /* answer with the weights of this open stream; NULL: as the fields below say */
    const struct lorad_adapter_choice *adapters; /* none: the base */
    size_t n_adapters;
    double scale;            /* multiplies the low-rank deltas; 1 */
    bool has_mode;           /* false: the adapter's default */
    enum lorad_mode mode;
    unsigned merge_wait_ms;  /* how long to wait for W' when mode is merged and it is not there */
    bool may_switch;         /* mode auto may change while it runs; else it stays what it was at the beginning */
    int priority;            /* among the requests of the same adapter; higher first; -100..100 */

    struct lorad_sampling sampling;
    size_t max_tokens, min_tokens;
    bool ignore_eos;
    bool include_stop;       /* the stop string stays in the text */
    bool keep_special;       /* special tokens give text */
    const char *const *stops;
    size_t n_stops;
    const int32_t *stop_ids;
    size_t n_stop_ids;
    int logprobs;            /* -1: none; n: the chosen token and the n best */
    int prompt_logprobs;     /* the same for every prompt token but the first */
    unsigned timeout_ms;     /* 0: none */
};

struct lorad_token_logprob {
    int32_t id;
    float logprob;
};

/* One token with its log-probability under the model (before sampling's changes). */
struct lorad_token {
    int32_t id;
    float logprob; /* NAN when not asked for, and for the first prompt token */
    size_t n_top;
    struct lorad_token_logprob top[LORAD_TOP_LOGPROBS]; /* best first */
};

enum lorad_finish {
    LORAD_FINISH_STOP,      /* end token, stop string or stop id */
    LORAD_FINISH_LENGTH,
    LORAD_FINISH_CANCELLED,
    LORAD_FINISH_TIMEOUT,
    LORAD_FINISH_ERROR
};

struct lorad_usage {
    size_t prompt_tokens, completion_tokens;
    size_t cached_tokens;   /* of the prompt: not computed, because another request with the same weights had the same beginning */
    size_t n_preemptions;   /* how often its cache was taken away and recomputed */
    double queue_ms;        /* submission to first computation */
    double prefill_ms;      /* first computation to first token */
    double decode_ms;       /* first token to last */
};

enum lorad_event_kind {
    LORAD_EVENT_PROMPT, /* prompt log-probabilities are there: `prompt_tokens`; only when asked for */
    LORAD_EVENT_TOKEN,  /* one more token; `text` is what is certain now, possibly "" */
    LORAD_EVENT_END     /* the last event; `text` is what was held back */
};

/* Borrowed from the stream until the next call of lorad_stream_next. */
struct lorad_event {
    enum lorad_event_kind kind;
    const struct lorad_token *prompt_tokens; /* PROMPT */
    size_t n_prompt_tokens;
    struct lorad_token token;                /* TOKEN */
    const char *text;                        /* TOKEN, END; valid UTF-8, NUL-terminated */
    size_t n_text_bytes;
    enum lorad_finish finish;                /* END, and below */
    const char *stop_text;                   /* the stop string that matched, or NULL */
    int32_t stop_id;                         /* the stop id that matched (not an end token), or -1 */
    const char *error_message;               /* FINISH_ERROR */
    struct lorad_usage usage;
};

/* Which weights answer. */
struct lorad_answered_by {
    char id[LORAD_ID_SIZE];
    char digest[LORAD_DIGEST_SIZE];
    double weight;
};

enum lorad_weights { LORAD_WEIGHTS_NATIVE, LORAD_WEIGHTS_F32, LORAD_WEIGHTS_F16, LORAD_WEIGHTS_BF16, LORAD_WEIGHTS_Q8, LORAD_WEIGHTS_Q4 };

/* What keys and values are rounded to in the cache. f16 is the nearer of the two short ones, but ends at 65504. */
enum lorad_kv_type { LORAD_KV_F16, LORAD_KV_BF16, LORAD_KV_F32 };

#endif
