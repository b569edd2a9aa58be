/*
 * peft_directory.h - the two files of a PEFT adapter: found, read into private memory, parsed, digested.
 */
#ifndef LORA_PEFT_DIRECTORY_H
#define LORA_PEFT_DIRECTORY_H

#include "base/digest.h"
#include "formats/peft_config.h"
#include "formats/tensor_file.h"

struct peft_directory {
    struct peft_config config;
    struct file_bytes weights; /* what the tensors point into */
    struct tensor_file tensors;
    char digest[DIGEST_HEX_SIZE]; /* of exactly the bytes that were parsed */
};

/* `directory`, or its only subdirectory that holds an adapter_config.json. `file_limit`: bytes of the weights
   file at most (ERROR_TOO_LARGE before it is read); 0: any. */
bool peft_directory_open(struct peft_directory *out, const char *directory, bool allow_other_heads,
                         size_t file_limit, struct error *err) MUST_USE;
void peft_directory_close(struct peft_directory *directory); /* zeroed is fine */

/* The digest alone: SHA-256 over both lengths (8 bytes each, little-endian), adapter_config.json and
   adapter_model.safetensors. `file_limit` as above. */
bool peft_directory_digest(const char *directory, size_t file_limit, char out[DIGEST_HEX_SIZE],
                           struct error *err) MUST_USE;

#endif
