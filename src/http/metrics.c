/*
 * metrics.c - GET /metrics: Prometheus text format 0.0.4.
 */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "http/generation.h"
#include "http/reply.h"
#include "http/router.h"

static void header(struct buffer *out, const char *name, const char *type, const char *help)
{
    buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void counter(struct buffer *out, const char *name, const char *help, uint64_t value)
{
    header(out, name, "counter", help);
    buffer_printf(out, "%s %" PRIu64 "\n", name, value);
}

static void gauge(struct buffer *out, const char *name, const char *help, uint64_t value)
{
    header(out, name, "gauge", help);
    buffer_printf(out, "%s %" PRIu64 "\n", name, value);
}

static void histogram(struct buffer *out, const char *name, const char *help, const struct lorad_histogram *values)
{
    uint64_t below = 0;
    header(out, name, "histogram", help);
    for (size_t i = 0; i < values->n_buckets; i++) {
        below += values->counts[i];
        if (isinf(values->bounds[i]))
            buffer_printf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, below);
        else
            buffer_printf(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, values->bounds[i], below);
    }
    buffer_printf(out, "%s_sum %.6f\n%s_count %" PRIu64 "\n", name, values->sum, name, values->n);
}

static void write_requests(struct buffer *out, const struct lorad_stats *stats)
{
    counter(out, "lorad_requests_total", "Requests accepted.", stats->requests_total);
    counter(out, "lorad_requests_rejected_total", "Requests refused because the queue was full.",
            stats->requests_rejected);
    header(out, "lorad_requests_finished_total", "counter", "Requests ended, by reason.");
    for (int i = LORAD_FINISH_STOP; i <= LORAD_FINISH_ERROR; i++)
        buffer_printf(out, "lorad_requests_finished_total{reason=\"%s\"} %" PRIu64 "\n",
                      finish_name((enum lorad_finish)i), stats->requests_finished[i]);
    gauge(out, "lorad_requests_running", "Requests being computed.", stats->requests_running);
    gauge(out, "lorad_max_sequences", "Requests that may be computed at a time.", stats->max_sequences);
    gauge(out, "lorad_requests_waiting", "Requests in the queue.", stats->requests_waiting);
    counter(out, "lorad_prompt_tokens_total", "Prompt tokens computed.", stats->prompt_tokens_total);
    counter(out, "lorad_completion_tokens_total", "Tokens generated.", stats->completion_tokens_total);
    counter(out, "lorad_steps_total", "Steps of the engine.", stats->steps_total);
    counter(out, "lorad_step_tokens_total", "Tokens in all steps.", stats->step_tokens_total);
    counter(out, "lorad_step_sequences_total", "Sequences in all steps.", stats->step_sequences_total);
}

static void write_cache(struct buffer *out, const struct lorad_stats *stats)
{
    gauge(out, "lorad_kv_blocks", "Blocks of the key/value cache.", stats->kv_blocks);
    gauge(out, "lorad_kv_blocks_used", "Blocks that requests hold.", stats->kv_blocks_used);
    gauge(out, "lorad_kv_blocks_cached", "Blocks that no request holds, kept for equal beginnings.", stats->kv_blocks_cached);
    gauge(out, "lorad_kv_block_tokens", "Positions per block.", stats->kv_block_tokens);
    counter(out, "lorad_prefix_tokens_sought_total", "Prompt tokens that were looked for in the cache.",
            stats->prefix_tokens_sought_total);
    counter(out, "lorad_prefix_tokens_found_total", "Of them, found: not computed again.", stats->prefix_tokens_found_total);
    counter(out, "lorad_prefix_evictions_total", "Cached blocks that made room.", stats->prefix_evictions_total);
    counter(out, "lorad_preemptions_total", "Times a request's blocks were taken away, to be computed again.",
            stats->preemptions_total);
    counter(out, "lorad_pauses_total", "Times a request gave its place to another adapter's.", stats->pauses_total);
}

static void write_choices(struct buffer *out, const struct lorad_stats *stats)
{
    static const char name[] = "lorad_mode_choices_total";
    header(out, name, "counter", "Requests of mode auto, by what was chosen and why.");
    buffer_printf(out, "%s{mode=\"on_the_fly\",reason=\"not_merged\"} %" PRIu64 "\n", name, stats->mode_only_on_the_fly_total);
    buffer_printf(out, "%s{mode=\"on_the_fly\",reason=\"cheaper\"} %" PRIu64 "\n", name, stats->mode_on_the_fly_cheaper_total);
    buffer_printf(out, "%s{mode=\"merged\",reason=\"cheaper\"} %" PRIu64 "\n", name, stats->mode_merged_cheaper_total);
}

static void write_memory(struct buffer *out, const struct lorad_stats *stats)
{
    gauge(out, "lorad_adapters_loaded", "Adapters that are ready.", stats->adapters_loaded);
    gauge(out, "lorad_adapter_bytes", "Bytes of loaded adapters.", stats->adapter_bytes);
    gauge(out, "lorad_adapter_bytes_limit", "The budget for them.", stats->adapter_bytes_limit);
    gauge(out, "lorad_merged_adapters", "Adapters with cached merged weights.", stats->merged_count);
    gauge(out, "lorad_merged_bytes", "Bytes of merged weights.", stats->merged_bytes);
    gauge(out, "lorad_merged_bytes_limit", "The budget for them.", stats->merged_bytes_limit);
    counter(out, "lorad_merges_total", "Merges completed.", stats->merges_total);
    counter(out, "lorad_adapter_evictions_total", "Adapters set aside for others; their next use loads them again.",
            stats->adapter_evictions_total);
    counter(out, "lorad_merge_evictions_total", "Merged weights evicted for others.", stats->merge_evictions_total);
    counter(out, "lorad_adapter_loads_total", "Adapters loaded or replaced.", stats->loads_total);
    counter(out, "lorad_adapter_load_failures_total", "Loads refused.", stats->load_failures_total);
    counter(out, "lorad_adapter_unloads_total", "Adapters unloaded.", stats->unloads_total);
}

static void write_decisions(struct buffer *out, const struct lorad_stats *stats)
{
    static const char *const names[LORAD_N_DECISIONS] = {
        [LORAD_DECISION_MERGED] = "merged",
        [LORAD_DECISION_PARTLY_MERGED] = "partly_merged",
        [LORAD_DECISION_NO_ROOM] = "refused_no_room",
        [LORAD_DECISION_NO_GAIN] = "refused_no_gain",
        [LORAD_DECISION_EVICTED] = "evicted",
    };
    header(out, "lorad_merge_decisions_total", "counter", "What was decided on merged weights that manage themselves.");
    for (size_t i = 0; i < LORAD_N_DECISIONS; i++)
        buffer_printf(out, "lorad_merge_decisions_total{decision=\"%s\"} %" PRIu64 "\n", names[i],
                      stats->merge_decisions[i]);
}

static void write_times(struct buffer *out, const struct lorad_stats *stats)
{
    histogram(out, "lorad_time_to_first_token_seconds", "Submission to first token.", &stats->time_to_first_token);
    histogram(out, "lorad_inter_token_seconds", "Between tokens of one request.", &stats->inter_token);
    histogram(out, "lorad_queue_seconds", "Submission to first computation.", &stats->queue_time);
    histogram(out, "lorad_step_seconds", "One step of the engine.", &stats->step_time);
}

/* -- By adapter: those that have had a request. Ids are [A-Za-z0-9._-], so that they need no quoting. -- */

static void write_adapter_modes(struct buffer *out, const struct lorad_adapter_list *list)
{
    static const char name[] = "lorad_adapter_requests_total";
    static const struct {
        enum lorad_mode mode;
        const char *name;
    } modes[] = {{LORAD_MODE_ON_THE_FLY, "on_the_fly"},
                 {LORAD_MODE_MERGED, "merged"},
                 {LORAD_MODE_PARTLY_MERGED, "partly_merged"}};
    header(out, name, "counter", "Requests that ended, by adapter and the mode that was used.");
    for (size_t i = 0; i < list->n_adapters; i++)
        for (size_t k = 0; k < sizeof modes / sizeof *modes && list->adapters[i].requests_total > 0; k++)
            buffer_printf(out, "%s{adapter=\"%s\",mode=\"%s\"} %" PRIu64 "\n", name, list->adapters[i].id, modes[k].name,
                          list->adapters[i].counters.requests[modes[k].mode]);
}

static uint64_t number_at(const struct lorad_adapter_info *info, size_t offset)
{
    uint64_t value;
    memcpy(&value, (const char *)info + offset, sizeof value);
    return value;
}

static void write_adapter_numbers(struct buffer *out, const struct lorad_adapter_list *list)
{
#define INFO(field) offsetof(struct lorad_adapter_info, field)
    static const struct {
        const char *name, *type, *help;
        size_t offset; /* of a uint64_t */
    } families[] = {
        {"lorad_adapter_prompt_tokens_total", "counter", "Prompt tokens by adapter.", INFO(counters.prompt_tokens)},
        {"lorad_adapter_cached_tokens_total", "counter", "Of them, found in the cache.", INFO(counters.cached_tokens)},
        {"lorad_adapter_completion_tokens_total", "counter", "Tokens generated by adapter.",
         INFO(counters.completion_tokens)},
        {"lorad_adapter_preemptions_total", "counter", "Preemptions by adapter.", INFO(counters.preemptions)},
        {"lorad_adapter_resident_bytes", "gauge", "Memory by adapter.", INFO(resident_bytes)},
        {"lorad_adapter_loaded_total", "counter", "Times it was loaded or replaced.", INFO(n_loads)},
    };
#undef INFO
    for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
        header(out, families[k].name, families[k].type, families[k].help);
        for (size_t i = 0; i < list->n_adapters; i++)
            if (list->adapters[i].requests_total > 0)
                buffer_printf(out, "%s{adapter=\"%s\"} %" PRIu64 "\n", families[k].name, list->adapters[i].id,
                              number_at(&list->adapters[i], families[k].offset));
    }
}

static void write_adapter_waits(struct buffer *out, const struct lorad_adapter_list *list)
{
    static const char name[] = "lorad_adapter_time_to_first_token_seconds";
    header(out, name, "summary", "Submission to first token, by adapter; requests that got one.");
    for (size_t i = 0; i < list->n_adapters; i++) {
        const struct lorad_adapter_info *info = &list->adapters[i];
        if (info->requests_total > 0)
            buffer_printf(out, "%s_sum{adapter=\"%s\"} %.6f\n%s_count{adapter=\"%s\"} %" PRIu64 "\n", name, info->id,
                          info->counters.first_token_seconds, name, info->id, info->counters.first_tokens);
    }
}

/* -- Under vLLM's names, for gateways that route by them and for dashboards ------------------------- */

/* How many adapters of the size that those here have would fit. */
static uint64_t adapters_that_fit(const struct lorad_stats *stats)
{
    if (stats->adapters_loaded == 0 || stats->adapter_bytes == 0)
        return 1;
    double mean = (double)stats->adapter_bytes / (double)stats->adapters_loaded;
    uint64_t n_fitting = (uint64_t)((double)stats->adapter_bytes_limit / mean);
    return n_fitting > stats->adapters_loaded ? n_fitting : stats->adapters_loaded;
}

/* One series only: who reads it takes the one with the latest time. What is loaded can be routed to, in use or not. */
static void write_vllm_adapters(struct buffer *out, const struct lorad_stats *stats, const struct lorad_adapter_list *list)
{
    const char *comma = "";
    header(out, "vllm:lora_requests_info", "gauge", "Which adapters are loaded; the value is the time.");
    buffer_printf(out, "vllm:lora_requests_info{max_lora=\"%" PRIu64 "\",running_lora_adapters=\"", adapters_that_fit(stats));
    for (size_t i = 0; i < list->n_adapters; i++)
        if (list->adapters[i].state == LORAD_ADAPTER_READY) {
            buffer_printf(out, "%s%s", comma, list->adapters[i].id);
            comma = ",";
        }
    buffer_printf(out, "\",waiting_lora_adapters=\"\"} %lld\n", (long long)time(NULL));
}

static void write_vllm(struct buffer *out, const struct lorad_stats *stats, const struct lorad_adapter_list *list)
{
    gauge(out, "vllm:num_requests_waiting", "As lorad_requests_waiting.", stats->requests_waiting);
    gauge(out, "vllm:num_requests_running", "As lorad_requests_running.", stats->requests_running);
    header(out, "vllm:kv_cache_usage_perc", "gauge", "Share of the cache's blocks that requests hold, 0 to 1.");
    buffer_printf(out, "vllm:kv_cache_usage_perc %.6f\n",
                  stats->kv_blocks > 0 ? (double)stats->kv_blocks_used / (double)stats->kv_blocks : 0.0);
    header(out, "vllm:cache_config_info", "gauge", "The cache.");
    buffer_printf(out, "vllm:cache_config_info{block_size=\"%" PRIu64 "\",num_gpu_blocks=\"%" PRIu64 "\"} 1\n",
                  stats->kv_block_tokens, stats->kv_blocks);
    counter(out, "vllm:prompt_tokens_total", "As lorad_prompt_tokens_total.", stats->prompt_tokens_total);
    counter(out, "vllm:generation_tokens_total", "As lorad_completion_tokens_total.", stats->completion_tokens_total);
    counter(out, "vllm:num_preemptions_total", "As lorad_preemptions_total.", stats->preemptions_total);
    counter(out, "vllm:prefix_cache_queries_total", "As lorad_prefix_tokens_sought_total.", stats->prefix_tokens_sought_total);
    counter(out, "vllm:prefix_cache_hits_total", "As lorad_prefix_tokens_found_total.", stats->prefix_tokens_found_total);
    histogram(out, "vllm:time_to_first_token_seconds", "As lorad_time_to_first_token_seconds.", &stats->time_to_first_token);
    histogram(out, "vllm:inter_token_latency_seconds", "As lorad_inter_token_seconds.", &stats->inter_token);
    write_vllm_adapters(out, stats, list);
}

enum MHD_Result handle_metrics(struct http_request *request)
{
    struct error err = {0};
    struct lorad_stats stats;
    struct lorad_adapter_list list = {0};
    struct buffer out;
    const struct lorad_model_info *info = lorad_model(request->lorad);
    if (!lorad_adapter_list(request->lorad, &list, &err))
        return reply_error(request, &err);
    lorad_stats_read(request->lorad, &stats);
    buffer_init(&out, 0);
    header(&out, "lorad_info", "gauge", "What runs.");
    buffer_printf(&out, "lorad_info{version=\"%s\",family=\"%s\",weights=\"%s\",kv_type=\"%s\",kernels=\"%s\",threads=\"%zu\"} 1\n",
                  lorad_version(), info->family, info->weights, info->kv_type, info->kernels, info->n_threads);
    write_requests(&out, &stats);
    write_cache(&out, &stats);
    write_choices(&out, &stats);
    write_memory(&out, &stats);
    write_decisions(&out, &stats);
    write_times(&out, &stats);
    write_adapter_modes(&out, &list);
    write_adapter_numbers(&out, &list);
    write_adapter_waits(&out, &list);
    write_vllm(&out, &stats, &list);
    lorad_adapter_list_finish(&list);
    enum MHD_Result result = reply_text(request, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                                        buffer_text(&out), out.n_bytes);
    buffer_finish(&out);
    return result;
}
