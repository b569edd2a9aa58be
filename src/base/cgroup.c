#include "base/cgroup.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"

/* --- texts --- */

/* The digits at the beginning of the text, or false. */
static bool parse_number(const char *text, uint64_t *out, const char **end_out)
{
    char *end;
    while (isspace((unsigned char)*text))
        text++;
    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    *out = errno == ERANGE ? UINT64_MAX : value;
    if (end_out)
        *end_out = end;
    return true;
}

static uint64_t milli_cores(uint64_t quota, uint64_t period)
{
    uint64_t product;
    if (period == 0 || __builtin_mul_overflow(quota, (uint64_t)1000, &product))
        return UINT64_MAX;
    return product / period;
}

uint64_t cgroup_parse_cpu_max(const char *text)
{
    uint64_t quota, period;
    const char *rest;
    if (!parse_number(text, &quota, &rest) || !parse_number(rest, &period, NULL))
        return UINT64_MAX;
    return milli_cores(quota, period);
}

uint64_t cgroup_parse_quota(const char *quota_text, const char *period_text)
{
    uint64_t quota, period;
    if (!parse_number(quota_text, &quota, NULL) || !parse_number(period_text, &period, NULL))
        return UINT64_MAX;
    return milli_cores(quota, period);
}

uint64_t cgroup_parse_bytes(const char *text)
{
    /* v1 writes "no limit" as LONG_MAX rounded down to a page. */
    const uint64_t HUGE_LIMIT = (uint64_t)1 << 62;
    uint64_t value;
    if (!parse_number(text, &value, NULL) || value >= HUGE_LIMIT)
        return UINT64_MAX;
    return value;
}

/* Whether the comma-separated list has the word. */
static bool list_has(const char *list, size_t n_list, const char *word)
{
    size_t n_word = strlen(word);
    for (const char *end = list + n_list; list < end;) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        size_t length = (size_t)((comma ? comma : end) - list);
        if (length == n_word && memcmp(list, word, n_word) == 0)
            return true;
        list += length + 1;
    }
    return false;
}

static bool copy_out(char *out, size_t n_out, const char *text, size_t n_bytes)
{
    if (n_bytes + 1 > n_out)
        return false;
    memcpy(out, text, n_bytes);
    out[n_bytes] = '\0';
    return true;
}

/* Lines are "number:controllers:path"; v2's has number 0 and no controllers. */
bool cgroup_find_path(const char *text, const char *controller, char *out, size_t n_out)
{
    while (*text) {
        size_t n_line = strcspn(text, "\n");
        const char *list = memchr(text, ':', n_line);
        const char *path = list ? memchr(list + 1, ':', n_line - (size_t)(list + 1 - text)) : NULL;
        if (path) {
            size_t n_list = (size_t)(path - list - 1);
            bool is_ours = controller ? list_has(list + 1, n_list, controller) : n_list == 0;
            if (is_ours)
                return copy_out(out, n_out, path + 1, n_line - (size_t)(path + 1 - text));
        }
        text += n_line + (text[n_line] == '\n');
    }
    return false;
}

/* Space, tab, newline and backslash come as three octal digits behind a backslash. */
static bool copy_unescaped(char *out, size_t n_out, const char *text, size_t n_bytes)
{
    size_t n_written = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\\' && i + 3 < n_bytes && text[i + 1] >= '0' && text[i + 1] <= '3') {
            c = (unsigned char)((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
            i += 3;
        }
        if (n_written + 1 >= n_out)
            return false;
        out[n_written++] = (char)c;
    }
    out[n_written] = '\0';
    return true;
}

struct word {
    const char *text;
    size_t n_bytes;
};

static bool word_is(struct word word, const char *text)
{
    return word.n_bytes == strlen(text) && memcmp(word.text, text, word.n_bytes) == 0;
}

/* Lines are "id parent device root mount options [optional]... - type source super-options". */
bool cgroup_find_mount(const char *text, const char *controller, char *mount_out, size_t n_mount,
                       char *root_out, size_t n_root)
{
    enum { ROOT = 3, MOUNT = 4, MOST_WORDS = 32 };
    while (*text) {
        struct word words[MOST_WORDS];
        size_t n_words = 0, dash = 0, n_line = strcspn(text, "\n");
        for (size_t i = 0; i < n_line && n_words < MOST_WORDS;) {
            size_t length = strcspn(text + i, " \n");
            words[n_words] = (struct word){text + i, length};
            if (!dash && n_words > MOUNT && word_is(words[n_words], "-"))
                dash = n_words;
            n_words++;
            i += length + 1;
        }
        text += n_line + (text[n_line] == '\n');
        if (!dash || dash + 3 >= n_words)
            continue;
        struct word type = words[dash + 1], options = words[dash + 3];
        bool is_ours = controller
                           ? word_is(type, "cgroup") && list_has(options.text, options.n_bytes, controller)
                           : word_is(type, "cgroup2");
        if (is_ours)
            return copy_unescaped(mount_out, n_mount, words[MOUNT].text, words[MOUNT].n_bytes) &&
                   copy_unescaped(root_out, n_root, words[ROOT].text, words[ROOT].n_bytes);
    }
    return false;
}

/* --- files --- */

struct place {
    char directory[PATH_MAX]; /* of our group */
    size_t n_mount;           /* length of the mount point's part of it: the top of the walk */
};

/* Files below /proc and /sys have no size, so they are read to the end. False: not there. */
static bool read_small(struct buffer *out, const char *root, const char *path)
{
    char full[PATH_MAX];
    buffer_clear(out);
    return snprintf(full, sizeof full, "%s%s", root, path) < (int)sizeof full && file_read_system_text(out, full);
}

static bool find_place(struct place *place, const char *root, const char *controller)
{
    char group[PATH_MAX], mount[PATH_MAX], mount_root[PATH_MAX];
    struct buffer text;
    buffer_init(&text, (size_t)4 << 20);
    bool found =
        read_small(&text, root, "/proc/self/cgroup") &&
        cgroup_find_path(buffer_text(&text), controller, group, sizeof group) &&
        read_small(&text, root, "/proc/self/mountinfo") &&
        cgroup_find_mount(buffer_text(&text), controller, mount, sizeof mount, mount_root, sizeof mount_root);
    buffer_finish(&text);
    if (!found)
        return false;

    /* In a container the mount may begin at our own group, or the path may be seen from another
       namespace ("/../.."): then the mount point is the best that we have. */
    size_t n_root = strcmp(mount_root, "/") == 0 ? 0 : strlen(mount_root);
    bool is_below = strncmp(group, mount_root, n_root) == 0 &&
                    (group[n_root] == '/' || group[n_root] == '\0') && !strstr(group, "/..");
    const char *below = is_below ? group + n_root : "";
    if (strcmp(below, "/") == 0)
        below = "";
    place->n_mount = strlen(mount);
    return snprintf(place->directory, sizeof place->directory, "%s%s", mount, below) <
           (int)sizeof place->directory;
}

/* To the parent; false when that would leave the mount. */
static bool go_up(struct place *place)
{
    char *slash = strrchr(place->directory, '/');
    if (!slash || (size_t)(slash - place->directory) < place->n_mount)
        return false;
    *slash = '\0';
    return true;
}

static bool read_value(struct buffer *out, const char *root, const struct place *place, const char *name)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", place->directory, name);
    return read_small(out, root, path);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void apply_v2(struct cgroup_limits *limits, const char *root, struct place place)
{
    struct buffer text;
    buffer_init(&text, 4096);
    do {
        if (read_value(&text, root, &place, "cpu.max"))
            limits->milli_cores = least(limits->milli_cores, cgroup_parse_cpu_max(buffer_text(&text)));
        /* Over memory.high the kernel slows us to a crawl: a limit as well. */
        if (read_value(&text, root, &place, "memory.max"))
            limits->memory_bytes = least(limits->memory_bytes, cgroup_parse_bytes(buffer_text(&text)));
        if (read_value(&text, root, &place, "memory.high"))
            limits->memory_bytes = least(limits->memory_bytes, cgroup_parse_bytes(buffer_text(&text)));
    } while (go_up(&place));
    buffer_finish(&text);
}

static void apply_v1_cpu(struct cgroup_limits *limits, const char *root, struct place place)
{
    struct buffer quota, period;
    buffer_init(&quota, 4096);
    buffer_init(&period, 4096);
    do {
        if (read_value(&quota, root, &place, "cpu.cfs_quota_us") &&
            read_value(&period, root, &place, "cpu.cfs_period_us"))
            limits->milli_cores =
                least(limits->milli_cores, cgroup_parse_quota(buffer_text(&quota), buffer_text(&period)));
    } while (go_up(&place));
    buffer_finish(&period);
    buffer_finish(&quota);
}

static void apply_v1_memory(struct cgroup_limits *limits, const char *root, struct place place)
{
    struct buffer text;
    buffer_init(&text, 4096);
    do {
        if (read_value(&text, root, &place, "memory.limit_in_bytes"))
            limits->memory_bytes = least(limits->memory_bytes, cgroup_parse_bytes(buffer_text(&text)));
    } while (go_up(&place));
    buffer_finish(&text);
}

struct cgroup_limits cgroup_read_limits(const char *root)
{
    struct cgroup_limits limits = {UINT64_MAX, UINT64_MAX};
    struct place place;
    /* A machine may have both: each controller lives in one of them only. */
    if (find_place(&place, root, NULL))
        apply_v2(&limits, root, place);
    if (find_place(&place, root, "cpu"))
        apply_v1_cpu(&limits, root, place);
    if (find_place(&place, root, "memory"))
        apply_v1_memory(&limits, root, place);
    return limits;
}
