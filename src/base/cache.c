/*
 * cache.c - from /sys/devices/system/cpu. A cache stands there once for each processor that shares it, so each processor counts for its
 * share of it, and the sum is that of all caches, however many there are.
 */
#include "base/cache.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/file.h"

enum { MOST_CPUS = 4096, MOST_MISSING = 64, MOST_INDICES = 8, FILE_LIMIT = 4096 };

/* The text of a file of cpu `cpu`'s cache `index`; false: there is none. */
static bool read_property(struct buffer *text, const char *root, unsigned cpu, unsigned index, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%u/cache/index%u/%s", root, cpu, index, name);
    buffer_clear(text);
    return file_read_system_text(text, path);
}

/* "491520K" */
static uint64_t parse_size(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    return *end == 'K' ? value << 10 : *end == 'M' ? value << 20 : value;
}

/* "0-7,16": how many. At least 1. */
static uint64_t count_cpus(const char *text)
{
    uint64_t n = 0;
    while (*text >= '0' && *text <= '9') {
        char *end;
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        n += last >= first ? last - first + 1 : 1;
        text = *end == ',' ? end + 1 : end;
    }
    return n > 0 ? n : 1;
}

/* False: no such processor, or it has no caches. */
static bool add_share(struct buffer *text, const char *root, unsigned cpu, uint64_t *bytes)
{
    unsigned long highest = 0;
    uint64_t share = 0;
    for (unsigned index = 0; index < MOST_INDICES && read_property(text, root, cpu, index, "level"); index++) {
        unsigned long level = strtoul(buffer_text(text), NULL, 10);
        if (level < highest || !read_property(text, root, cpu, index, "size"))
            continue;
        uint64_t size = parse_size(buffer_text(text));
        if (!read_property(text, root, cpu, index, "shared_cpu_list"))
            continue;
        highest = level;
        share = size / count_cpus(buffer_text(text));
    }
    *bytes += share;
    return highest > 0;
}

uint64_t cache_last_level_bytes(const char *root)
{
    struct buffer text;
    uint64_t bytes = 0;
    buffer_init(&text, FILE_LIMIT);
    /* A processor that is switched off has no caches. */
    for (unsigned cpu = 0, n_missing = 0; cpu < MOST_CPUS && n_missing < MOST_MISSING; cpu++)
        n_missing = add_share(&text, root, cpu, &bytes) ? 0 : n_missing + 1;
    buffer_finish(&text);
    return bytes;
}
