/*
 * character.h - what kind of character a code point is, as tokenizers ask it. Any thread.
 *
 * The answers are those of the Unicode versions behind Hugging Face `tokenizers`, which differ from part to
 * part: models were trained on its splits, so its tables count and not the newest.
 */
#ifndef TEXT_CHARACTER_H
#define TEXT_CHARACTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool character_is_space(uint32_t code_point);       /* White_Space */
bool character_is_numeric(uint32_t code_point);     /* Nd, Nl, No */
bool character_is_word(uint32_t code_point);        /* \w: Alphabetic, M, Nd, Pc, Join_Control */
bool character_is_accent(uint32_t code_point);      /* Mn, Mc, Me */
bool character_is_punctuation(uint32_t code_point); /* P*, and ASCII's symbols */

uint32_t character_lower(uint32_t code_point); /* the lower case if it is one code point */

/* For normalisation. */
bool character_decomposes(uint32_t code_point); /* false: by no means; true: perhaps */
int character_combining_class(uint32_t code_point);

/* Walks over the ranges of characters newer than PCRE2's tables whose category begins with `category`
   ("L", "Nd"). Start with *position = 0; false at the end. */
bool character_next_late_range(const char *category, size_t *position, uint32_t *first_out,
                               uint32_t *last_out);

#endif
