/*
 * lorad.h - one frozen base model in memory, many LoRA adapters, generation.
 *
 * Life: lorad_open, then any thread may call anything; lorad_drain, lorad_close. Every function
 * that can fail fills `err` (may be NULL) and leaves its outputs alone then.
 */
#ifndef LORAD_LORAD_H
#define LORAD_LORAD_H

#include <lorad/error.h>
#include <lorad/types.h>

#if defined(__GNUC__)
#define LORAD_API __attribute__((visibility("default")))
#else
#define LORAD_API
#endif

struct lorad;
struct lorad_stream;

/* `fraction` in [0, 1]. Called from the thread that does the work; must be quick. */
typedef void lorad_progress(void *context, const char *what, double fraction);

struct lorad_options {
    const char *model_path;   /* a Hugging Face directory */
    const char *served_name;  /* NULL: the directory's name */
    const char *adapters_dir; /* load paths are confined to it; NULL: paths from the API are refused */
    const char *state_dir;    /* keeps the registry over a restart, and staged uploads; NULL: neither */
    const char *weights_cache; /* a directory that keeps packed weights, for a quick start and to share them between processes; NULL: none */
    enum lorad_weights weights;
    size_t n_threads;         /* 0: the cores that the cgroup and the affinity mask grant */
    size_t context;           /* positions per sequence; 0: the model's, at most 8,192 */
    size_t max_sequences;     /* that run at a time; 0: as many as keep the machine busy (measured at start), 16 to 64 */
    size_t max_batch_tokens;  /* tokens per step; 0: 256 */
    size_t max_queue;         /* waiting requests; 0: 1,024 */
    enum lorad_kv_type kv_type;
    uint64_t kv_memory;       /* bytes; 0: chosen by the memory that is granted */
    uint64_t adapter_memory;  /* bytes; 0: chosen */
    uint64_t merged_memory;   /* bytes; 0: chosen */
    bool no_auto_merge;       /* W' only where it is asked for */
    bool lazy;                /* what lies in adapters_dir is loaded on use, under its directory's name, and makes room for others */
    const char *cpu;          /* forces an instruction set: "c", "avx2", "avx512", "neon", ...; NULL: the best */
    lorad_progress *progress; /* NULL: none */
    void *progress_context;
};

LORAD_API const char *lorad_version(void);

/* Loads the model, starts the threads. NULL on failure. */
LORAD_API struct lorad *lorad_open(const struct lorad_options *options, struct error *err);

/* From now on lorad_submit and loads are refused with ERROR_UNAVAILABLE, and who waits for merged weights is told so; what runs
   goes on. */
LORAD_API void lorad_drain(struct lorad *lorad);
LORAD_API bool lorad_is_draining(struct lorad *lorad);
/* True when no request waits or runs. */
LORAD_API bool lorad_is_idle(struct lorad *lorad);

/* Ends what still runs (LORAD_FINISH_CANCELLED), joins the threads, frees. All streams must be closed. */
LORAD_API void lorad_close(struct lorad *lorad);

/* -- The base ----------------------------------------------------------------------------- */

struct lorad_model_info {
    const char *name;        /* as served */
    const char *path;
    const char *family;      /* "llama", "gpt2", ... */
    const char *weights;     /* "f32", "bf16", "f16" */
    const char *kv_type;     /* "bf16", "f16", "f32" */
    const char *kernels;     /* "avx512", ... */
    size_t n_layers, d_model, n_heads, n_kv_heads, d_head, n_vocab, context, n_threads;
    uint64_t n_parameters, weight_bytes, kv_bytes;
    int64_t loaded_unix;
};
LORAD_API const struct lorad_model_info *lorad_model(const struct lorad *lorad);

/* Neutral values, and the model's recommended sampling (generation_config.json) over them. */
LORAD_API void lorad_request_init(const struct lorad *lorad, struct lorad_request *request);

/* -- Adapters ----------------------------------------------------------------------------- */

/* Loads or replaces. Blocks until it is done, off the request path: nobody else waits. On failure what was
   there goes on serving. `report` may be NULL; else finish it. */
LORAD_API bool lorad_adapter_load(struct lorad *lorad, const char *id, const struct lorad_load_options *options,
                                  struct lorad_load_report *report, struct error *err);
LORAD_API void lorad_load_report_finish(struct lorad_load_report *report);

/* New requests get ERROR_NOT_FOUND; those in flight end normally or, with `force`, at the engine's next step with
   LORAD_FINISH_CANCELLED. `force` also ends what an unload before left running; that there is such then is enough for success.
   `if_match` as above. */
LORAD_API bool lorad_adapter_unload(struct lorad *lorad, const char *id, const char *if_match, bool force,
                                    struct error *err);

/* Asks for W' in the background (wait_ms: how long to wait for it), or drops it. */
LORAD_API bool lorad_adapter_merge(struct lorad *lorad, const char *id, unsigned wait_ms, struct error *err);
LORAD_API bool lorad_adapter_unmerge(struct lorad *lorad, const char *id, struct error *err);

LORAD_API bool lorad_adapter_list(struct lorad *lorad, struct lorad_adapter_list *out, struct error *err);
/* With what lies in adapters_dir and was not used yet, where adapters are loaded on use. */
LORAD_API bool lorad_adapter_list_all(struct lorad *lorad, struct lorad_adapter_list *out, struct error *err);
/* One adapter, as a list of one; in adapters_dir too. ERROR_NOT_FOUND. */
LORAD_API bool lorad_adapter_get(struct lorad *lorad, const char *id, struct lorad_adapter_list *out,
                                 struct error *err);
LORAD_API void lorad_adapter_list_finish(struct lorad_adapter_list *list);
LORAD_API bool lorad_adapter_id_is_valid(const char *id);

/* A fresh private directory below state_dir for one upload; the caller fills it and hands it to
   lorad_adapter_load (staged) or removes it. malloc'ed; NULL on failure. */
LORAD_API char *lorad_staging_create(struct lorad *lorad, struct error *err);
LORAD_API void lorad_staging_remove(const char *directory);

/* -- Generation --------------------------------------------------------------------------- */

/* Checks every field, acquires the adapters, tokenises, queues. NULL: err names the field. */
LORAD_API struct lorad_stream *lorad_submit(struct lorad *lorad, const struct lorad_request *request,
                                            struct error *err);

/* The next event, or false when there is none yet. After LORAD_EVENT_END there is none ever. */
LORAD_API bool lorad_stream_next(struct lorad_stream *stream, struct lorad_event *out);
/* Waits until there is one, at most timeout_ms (-1: for ever); true when there is. */
LORAD_API bool lorad_stream_wait(struct lorad_stream *stream, int timeout_ms);
/* A descriptor that poll() finds readable while events wait. The stream's own. */
LORAD_API int lorad_stream_fd(struct lorad_stream *stream);
/* The engine lets go of it at its next step; an END event comes. */
LORAD_API void lorad_stream_cancel(struct lorad_stream *stream);
LORAD_API void lorad_stream_close(struct lorad_stream *stream); /* cancels if need be, frees */

LORAD_API const int32_t *lorad_stream_prompt_ids(const struct lorad_stream *stream, size_t *n_out);
/* The weights that answer: empty for the base. */
LORAD_API const struct lorad_answered_by *lorad_stream_adapters(const struct lorad_stream *stream, size_t *n_out);
/* Never AUTO. When the engine chooses (AUTO was asked for), it is settled from the first event on. */
LORAD_API enum lorad_mode lorad_stream_mode(const struct lorad_stream *stream);

/* -- Text ---------------------------------------------------------------------------------- */

/* malloc'ed ids. */
LORAD_API bool lorad_tokenize(const struct lorad *lorad, const char *text, size_t n_bytes, bool add_special,
                              int32_t **ids_out, size_t *n_ids_out, struct error *err);
LORAD_API bool lorad_detokenize(const struct lorad *lorad, const int32_t *ids, size_t n_ids, bool skip_special,
                                char **text_out, size_t *n_bytes_out, struct error *err);
/* The bytes a token stands for, possibly a fragment of a character; false: no such token. */
LORAD_API bool lorad_token_bytes(const struct lorad *lorad, int32_t id, const char **bytes_out, size_t *n_out);
/* Special tokens (BOS, EOS, ...) give no text unless a request keeps them. */
LORAD_API bool lorad_token_is_special(const struct lorad *lorad, int32_t id);

/* -- Figures ------------------------------------------------------------------------------- */

#define LORAD_HISTOGRAM_BUCKETS 16
struct lorad_histogram {
    const double *bounds;                         /* upper bounds in seconds, the last is infinity */
    uint64_t counts[LORAD_HISTOGRAM_BUCKETS];     /* not cumulative */
    size_t n_buckets;
    double sum;
    uint64_t n;
};

struct lorad_stats {
    uint64_t requests_total, requests_finished[5]; /* by enum lorad_finish */
    uint64_t requests_running, requests_waiting, requests_rejected;
    uint64_t prompt_tokens_total, completion_tokens_total;
    uint64_t steps_total, step_tokens_total, step_sequences_total;
    uint64_t kv_blocks, kv_blocks_used, kv_block_tokens; /* used: held by requests */
    uint64_t kv_blocks_cached;                           /* held by none, kept for who begins in the same way */
    uint64_t prefix_tokens_sought_total, prefix_tokens_found_total, prefix_evictions_total;
    uint64_t preemptions_total, pauses_total;
    uint64_t max_sequences; /* that run at a time */
    /* Requests with mode auto and an adapter: no W' was there; on the fly, or merged, was the cheaper one. */
    uint64_t mode_only_on_the_fly_total, mode_on_the_fly_cheaper_total, mode_merged_cheaper_total;
    uint64_t adapters_loaded, adapter_bytes, adapter_bytes_limit;
    uint64_t merged_count, merged_bytes, merged_bytes_limit, merges_total, merge_evictions_total;
    uint64_t adapter_evictions_total; /* adapters that made room for others, where they are loaded on use */
    uint64_t loads_total, load_failures_total, unloads_total;
    uint64_t merge_decisions[LORAD_N_DECISIONS];
    struct lorad_histogram time_to_first_token, inter_token, step_time, queue_time;
};
LORAD_API void lorad_stats_read(struct lorad *lorad, struct lorad_stats *out);

/* -- Offline work -------------------------------------------------------------------------- */

/* What a model or adapter directory is, as JSON text (malloc'ed). With `base_path`: whether the adapter fits;
   *fits_out false and "problem" in the JSON when not. */
LORAD_API char *lorad_inspect(const char *path, const char *base_path, bool *fits_out, struct error *err);

struct lorad_merge_part {
    const char *path; /* a PEFT directory */
    double weight;
};
/* Writes the base with the adapters merged in as a Hugging Face directory; it must not exist, or be empty. */
LORAD_API bool lorad_merge(const char *model_path, const struct lorad_merge_part *parts, size_t n_parts,
                           const char *out_directory, lorad_progress *progress, void *progress_context,
                           struct error *err);

/* What all threads together can do at best on this machine: read memory, and multiply and add in f32, bf16 and int8. What is 0 is
   chosen. */
struct lorad_limits_options {
    size_t n_threads;
    size_t n_repeats;         /* 5 */
    double seconds;           /* of a repeat; 0.1 */
    uint64_t buffer_bytes;    /* that are read; four times the last-level cache, as far as there is memory for it */
    lorad_progress *progress; /* NULL: none */
    void *progress_context;
};
/* Measures and returns JSON text (malloc'ed). */
LORAD_API char *lorad_limits(const struct lorad_limits_options *options, struct error *err);

enum lorad_element { LORAD_ELEMENT_BF16, LORAD_ELEMENT_F16, LORAD_ELEMENT_F32 };

enum lorad_bench_scenario {
    LORAD_BENCH_STEADY,     /* prefill and decode */
    LORAD_BENCH_MIX,        /* the base, one adapter for all, an adapter for each */
    LORAD_BENCH_RANKS,      /* an adapter for each, over the rank */
    LORAD_BENCH_ADAPTERS,   /* over the number of adapters, all in use */
    LORAD_BENCH_MERGE,      /* merged, on the fly and auto, over the number of sequences */
    LORAD_BENCH_SWAP,       /* running streams while adapters load and merge; the first token after a load */
    LORAD_BENCH_STARVATION, /* one adapter floods, another asks now and then */
    LORAD_BENCH_PREFIX,     /* requests that begin alike */
    LORAD_BENCH_QUALITY     /* predictions of each weight type against f32; of adapters, on the fly and merged */
};
#define LORAD_BENCH_SCENARIOS 9
#define LORAD_BENCH_MAX_POINTS 16

/* Sizes that are 0 become the scenario's own; what a scenario has no use for is refused. */
struct lorad_bench_options {
    struct lorad_options open;
    enum lorad_bench_scenario scenario;
    size_t n_adapters, rank;     /* random adapters on all linear sites; STEADY: 0 adapters are the base */
    enum lorad_element adapter_dtype;
    size_t prompt_tokens, new_tokens, n_sequences, n_repeats;
    size_t n_requests;           /* STARVATION: of the adapter that asks now and then; PREFIX: that begin alike; QUALITY: texts */
    size_t n_flood;              /* STARVATION: requests at once */
    size_t period_ms;            /* STARVATION: between two requests of the other adapter */
    size_t n_merges;             /* SWAP: of the adapters that are loaded */
    const size_t *points;        /* RANKS, ADAPTERS, MERGE: what is stepped through, growing */
    size_t n_points;
    bool merged;                 /* STEADY: through W' */
    const char *texts_dir;       /* QUALITY: what the adapters of open.adapters_dir answer, ID.jsonl; NULL: texts of their own */
    struct lorad_limits_options limits; /* how the limit beside each figure is measured; threads and progress are those of `open` */
};
LORAD_API const char *lorad_bench_scenario_name(enum lorad_bench_scenario scenario);
/* Measures and returns JSON text (malloc'ed): an object; where open.cpu is "all", or several names with commas between, an array of one for
   each instruction set, measured one after the other, of all the fastest first. */
LORAD_API char *lorad_bench(const struct lorad_bench_options *options, struct error *err);

#endif
