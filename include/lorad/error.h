/*
 * error.h - what went wrong, as a value: on the caller's stack, filled by whoever finds it.
 */
#ifndef LORAD_ERROR_H
#define LORAD_ERROR_H

enum error_code {
    ERROR_NONE = 0,
    ERROR_BAD_INPUT,   /* a field is malformed or out of range; HTTP 400 */
    ERROR_NOT_FOUND,   /* no such adapter, route or file; 404 */
    ERROR_CONFLICT,    /* another generation is there than the caller named; 409 (412 for If-Match) */
    ERROR_TOO_LARGE,   /* over a limit or a budget; 413 */
    ERROR_MISMATCH,    /* the adapter does not fit the base, or is of a kind we do not serve; 422 */
    ERROR_BUSY,        /* the queue is full; 429 */
    ERROR_UNAVAILABLE, /* still loading, or draining; 503 */
    ERROR_NO_MEMORY,   /* 500 */
    ERROR_IO,          /* 500 */
    ERROR_INTERNAL,    /* 500 */
    ERROR_CANCELLED    /* the client left */
};

struct error {
    enum error_code code;
    char param[96];    /* the field, tensor or flag at fault; "" when there is none */
    char message[512]; /* a sentence for a person: what was found, what was expected */
};

#endif
