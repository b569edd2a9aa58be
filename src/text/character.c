/*
 * character.c - utf8proc's tables, corrected by unicode_tables.h.
 */
#include "text/character.h"

#include <string.h>
#include <utf8proc.h>

#include "text/unicode_tables.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static bool in_ranges(const struct unicode_range *ranges, size_t n, uint32_t c)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && c >= ranges[low].first;
}

#define IN(ranges, c) in_ranges(ranges, COUNT(ranges), c)

/* "Lu" or the like for a character newer than the libraries' tables, NULL for others. */
static const char *late_category(uint32_t c)
{
    size_t low = 0, high = COUNT(late_categories);

    if (c < late_categories[0].first)
        return NULL;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > late_categories[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < COUNT(late_categories) && c >= late_categories[low].first ? late_categories[low].name : NULL;
}

static const char *category(uint32_t c)
{
    const char *late = late_category(c);
    return late ? late : utf8proc_category_string((utf8proc_int32_t)c);
}

bool character_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 0x09 && c <= 0x0D);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool character_is_numeric(uint32_t c)
{
    return category(c)[0] == 'N' || IN(late_numbers, c);
}

/* Alphabetic is L, Nl and Other_Alphabetic; of the latter only these are neither letters nor marks. */
static bool is_enclosed_letter(uint32_t c)
{
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

bool character_is_word(uint32_t c)
{
    const char *name = category(c);

    return name[0] == 'L' || name[0] == 'M' || strcmp(name, "Nd") == 0 || strcmp(name, "Nl") == 0 ||
           strcmp(name, "Pc") == 0 || is_enclosed_letter(c) || c == 0x200C || c == 0x200D;
}

bool character_is_accent(uint32_t c)
{
    if (c == 0x1CF2 || c == 0x1CF3)
        return true; /* marks up to Unicode 11 */
    return category(c)[0] == 'M' && !IN(late_marks, c);
}

bool character_is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return c > ' ' && c < 0x7F && !(c >= '0' && c <= '9') && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    if (c == 0x166D || c == 0x111C9)
        return true; /* punctuation once */
    return category(c)[0] == 'P' && !IN(late_punctuation, c);
}

uint32_t character_lower(uint32_t c)
{
    if (c >= late_lower_case[0][0])
        for (size_t i = 0; i < COUNT(late_lower_case); i++)
            if (late_lower_case[i][0] == c)
                return late_lower_case[i][1];
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

bool character_decomposes(uint32_t c)
{
    return !late_category(c) && !IN(late_decompositions, c);
}

int character_combining_class(uint32_t c)
{
    int class = utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
    return class != 0 && IN(late_marks, c) ? 0 : class;
}

bool character_next_late_range(const char *name, size_t *position, uint32_t *first_out, uint32_t *last_out)
{
    for (; *position < COUNT(late_categories); (*position)++) {
        const struct unicode_category *range = &late_categories[*position];
        if (strncmp(range->name, name, strlen(name)) != 0)
            continue;
        *first_out = range->first;
        *last_out = range->last;
        (*position)++;
        return true;
    }
    return false;
}
