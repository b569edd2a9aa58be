/*
 * peft_regex.c - PCRE2 with a callout before every item of a pattern, which counts.
 *
 * PCRE2's own match limit bounds one call. An adapter can have thousands of patterns, and each is
 * tried on thousands of paths, so what has to be bounded is the sum.
 */
#include "formats/peft_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/limits.h"

enum {
    MOST_STEPS = 20 * 1000 * 1000, /* less than a second; long real expressions take 200 steps a path */
    STEPS_PER_CALL = 8,            /* what a match costs that fails at once */
    MOST_MATCH = 2 * 1000 * 1000,  /* of one call */
    MOST_DEPTH = 20 * 1000,
    MOST_HEAP_KIB = 16 * 1024,
    MOST_CODE_BYTES = 32 * 1024 * 1024, /* of all compiled patterns */
};

#define LAYER_GROUP "layer__"

struct peft_regex {
    struct peft_regex *next;
    struct peft_matcher *matcher;
    pcre2_code *code;
    const char *param; /* the field that it is from, for messages */
    char *text;
};

struct peft_matcher {
    pcre2_match_context *context;
    pcre2_match_data *data; /* the whole match and a few groups */
    struct peft_regex *first;
    size_t n_steps, n_code_bytes;
};

static int count_step(pcre2_callout_block *block, void *data)
{
    struct peft_matcher *matcher = data;
    (void)block;
    return ++matcher->n_steps > MOST_STEPS ? PCRE2_ERROR_CALLOUT : 0;
}

struct peft_matcher *peft_matcher_create(struct error *err)
{
    struct peft_matcher *matcher = calloc(1, sizeof *matcher);
    if (!matcher) {
        error_no_memory(err);
        return NULL;
    }
    matcher->context = pcre2_match_context_create(NULL);
    matcher->data = pcre2_match_data_create(64, NULL);
    if (!matcher->context || !matcher->data) {
        peft_matcher_destroy(matcher);
        error_no_memory(err);
        return NULL;
    }
    pcre2_set_callout(matcher->context, count_step, matcher);
    pcre2_set_match_limit(matcher->context, MOST_MATCH);
    pcre2_set_depth_limit(matcher->context, MOST_DEPTH);
    pcre2_set_heap_limit(matcher->context, MOST_HEAP_KIB);
    return matcher;
}

static void regex_destroy(struct peft_regex *regex)
{
    pcre2_code_free(regex->code);
    free(regex->text);
    free(regex);
}

void peft_matcher_destroy(struct peft_matcher *matcher)
{
    if (!matcher)
        return;
    for (struct peft_regex *regex = matcher->first, *next; regex; regex = next) {
        next = regex->next;
        regex_destroy(regex);
    }
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    free(matcher);
}

static const char *describe(int code, char *buffer, size_t n_buffer)
{
    if (pcre2_get_error_message(code, (PCRE2_UCHAR *)buffer, n_buffer) < 0)
        return "unknown error";
    return buffer;
}

static pcre2_code *compile(const char *pattern, size_t n_pattern, bool to_the_end, size_t n_before,
                           const char *param, struct error *err)
{
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C | PCRE2_AUTO_CALLOUT;
    int problem;
    size_t offset;
    char reason[160];
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, n_pattern, to_the_end ? options | PCRE2_ENDANCHORED : options,
                      &problem, &offset, NULL);
    if (code)
        return code;
    if (problem == PCRE2_ERROR_NOMEMORY || problem == PCRE2_ERROR_HEAP_FAILED)
        error_no_memory(err);
    else
        error_set(err, ERROR_BAD_INPUT, param,
                  "%s is not a regular expression that we know: %s (at byte %zu)", param,
                  describe(problem, reason, sizeof reason), offset > n_before ? offset - n_before : 0);
    return NULL;
}

/* Builds and compiles the pattern of `form` around `text`. */
static pcre2_code *compile_form(const char *text, enum peft_regex_form form, const char *param,
                                struct error *err)
{
    static const struct {
        const char *before, *after;
    } AROUND[] = {
        [PEFT_REGEX_WHOLE] = {"", ""},
        [PEFT_REGEX_SUFFIX] = {"(.*\\.)?(", ")"},
        [PEFT_REGEX_LAYER] = {"(?:^|.*?\\.)", "\\.(?P<" LAYER_GROUP ">\\d+)\\."},
    };
    struct buffer pattern;
    pcre2_code *code = NULL;

    buffer_init(&pattern, 0);
    buffer_append_text(&pattern, AROUND[form].before);
    buffer_append_text(&pattern, text);
    if (buffer_append_text(&pattern, AROUND[form].after))
        code = compile(buffer_text(&pattern), pattern.n_bytes, form != PEFT_REGEX_LAYER,
                       strlen(AROUND[form].before), param, err);
    else
        error_no_memory(err);
    buffer_finish(&pattern);
    return code;
}

/* Python has no verbs and no callouts; in PCRE2 they would change or spend what we count with. */
static bool has_foreign_syntax(const char *text)
{
    return strstr(text, "(*") || strstr(text, "(?C");
}

struct peft_regex *peft_regex_compile(struct peft_matcher *matcher, const char *text,
                                      enum peft_regex_form form, const char *param, struct error *err)
{
    if (strlen(text) > LIMIT_PATTERN_BYTES) {
        error_set(err, ERROR_TOO_LARGE, param,
                  "%s has a regular expression of %zu bytes; at most %zu are allowed", param, strlen(text),
                  LIMIT_PATTERN_BYTES);
        return NULL;
    }
    if (has_foreign_syntax(text)) {
        error_set(err, ERROR_BAD_INPUT, param,
                  "%s is not a regular expression of Python's: it has '(*' or '(?C'", param);
        return NULL;
    }
    pcre2_code *code = compile_form(text, form, param, err);
    struct peft_regex *regex = code ? calloc(1, sizeof *regex) : NULL;
    char *copy = regex ? strdup(text) : NULL;
    if (!copy) {
        if (code)
            error_no_memory(err);
        free(regex);
        pcre2_code_free(code);
        return NULL;
    }
    *regex = (struct peft_regex){matcher->first, matcher, code, param, copy};
    matcher->first = regex;

    size_t n_bytes = 0;
    pcre2_pattern_info(code, PCRE2_INFO_SIZE, &n_bytes);
    matcher->n_code_bytes += n_bytes;
    if (matcher->n_code_bytes <= MOST_CODE_BYTES)
        return regex;
    error_set(err, ERROR_TOO_LARGE, param, "the regular expressions take more than %d bytes",
              MOST_CODE_BYTES);
    return NULL;
}

/* *result_out: 0 or more for a match, PCRE2_ERROR_NOMATCH for none. */
static bool run(const struct peft_regex *regex, const char *path, int *result_out, struct error *err)
{
    struct peft_matcher *matcher = regex->matcher;
    char reason[160];
    int result = PCRE2_ERROR_CALLOUT;
    matcher->n_steps += STEPS_PER_CALL;
    if (matcher->n_steps <= MOST_STEPS)
        result =
            pcre2_match(regex->code, (PCRE2_SPTR)path, strlen(path), 0, 0, matcher->data, matcher->context);
    if (result >= 0 || result == PCRE2_ERROR_NOMATCH) {
        *result_out = result;
        return true;
    }
    if (result == PCRE2_ERROR_NOMEMORY)
        return error_no_memory(err);
    if (result == PCRE2_ERROR_CALLOUT || result == PCRE2_ERROR_MATCHLIMIT ||
        result == PCRE2_ERROR_DEPTHLIMIT || result == PCRE2_ERROR_HEAPLIMIT)
        return error_set(err, ERROR_BAD_INPUT, regex->param,
                         "matching the regular expression '%.200s' takes too long", regex->text);
    return error_set(err, ERROR_BAD_INPUT, regex->param,
                     "matching the regular expression '%.200s' failed: %s", regex->text,
                     describe(result, reason, sizeof reason));
}

bool peft_regex_match(const struct peft_regex *regex, const char *path, bool *out, struct error *err)
{
    int result = 0;
    if (!run(regex, path, &result, err))
        return false;
    *out = result != PCRE2_ERROR_NOMATCH;
    return true;
}

bool peft_regex_find_layer(const struct peft_regex *regex, const char *path, bool *found_out,
                           int64_t *layer_out, struct error *err)
{
    int result = 0;
    PCRE2_UCHAR digits[24];
    PCRE2_SIZE n_digits = sizeof digits;
    if (!run(regex, path, &result, err))
        return false;
    *found_out =
        result != PCRE2_ERROR_NOMATCH &&
        pcre2_substring_copy_byname(regex->matcher->data, (PCRE2_SPTR)LAYER_GROUP, digits, &n_digits) == 0 &&
        n_digits <= 18;
    if (*found_out)
        *layer_out = strtoll((const char *)digits, NULL, 10);
    return true;
}
