#include "formats/tensor_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/check.h"
#include "support/scratch.h"

/* A file in memory: the header's length, the header, `n_data` bytes that count up. */
struct image {
    unsigned char *bytes;
    size_t n_bytes;
};

static struct image make_image(const char *header, size_t n_data)
{
    size_t n_header = strlen(header);
    struct image image = {.n_bytes = 8 + n_header + n_data};
    image.bytes = malloc(image.n_bytes);
    for (int i = 0; i < 8; i++)
        image.bytes[i] = (unsigned char)(n_header >> 8 * i);
    memcpy(image.bytes + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++)
        image.bytes[8 + n_header + i] = (unsigned char)i;
    return image;
}

static bool parse(struct tensor_file *out, struct image image, const struct tensor_file_limits *limits,
                  struct error *err)
{
    return safetensors_parse(out, image.bytes, image.n_bytes, "test", limits, err);
}

#define T(name, dtype, shape, begin, end)                                                                    \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void tensors_are_found_with_type_shape_and_bytes(void **state)
{
    struct image image =
        make_image("{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "[2,3]", 4, 28) "," T(
                       "a", "BF16", "[2]", 0, 4) "," T("c", "F16", "[]", 28, 30) "}  ",
                   30);
    struct tensor_file file;
    struct error err;
    char shape[64];
    (void)state;
    assert_ok(parse(&file, image, &TENSOR_FILE_ADAPTER, &err), &err);
    assert_int_equal(file.n_tensors, 3);
    const struct tensor *a = tensor_file_find(&file, "a"), *b = tensor_file_find(&file, "b");
    const struct tensor *c = tensor_file_find(&file, "c");
    assert_non_null(a);
    assert_int_equal(a->dtype, DTYPE_BF16);
    assert_int_equal(a->n_elements, 2);
    assert_int_equal(b->dtype, DTYPE_F32);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->n_bytes, 24);
    assert_ptr_equal(b->data, image.bytes + image.n_bytes - 26);
    assert_int_equal(c->n_dims, 0);
    assert_int_equal(c->n_elements, 1);
    assert_string_equal(tensor_shape_text(a, shape, sizeof shape), "[2]");
    assert_string_equal(tensor_shape_text(b, shape, sizeof shape), "[2, 3]");
    assert_string_equal(tensor_shape_text(c, shape, sizeof shape), "[]");
    assert_string_equal(tensor_shape_text(b, shape, 4), "[2");
    assert_null(tensor_file_find(&file, "__metadata__"));
    assert_null(tensor_file_find(&file, "d"));
    /* In the order of the file, whatever the header's. */
    assert_string_equal(file.tensors[0].name, "a");
    assert_string_equal(file.tensors[2].name, "c");
    tensor_file_close(&file);
    tensor_file_close(&file);
    tensor_file_close(NULL);
    free(image.bytes);
}

static void a_file_without_tensors_is_legal(void **state)
{
    struct image image = make_image("{}", 0);
    struct tensor_file file;
    struct error err;
    (void)state;
    assert_ok(parse(&file, image, &TENSOR_FILE_ADAPTER, &err), &err);
    assert_int_equal(file.n_tensors, 0);
    assert_null(tensor_file_find(&file, "x"));
    tensor_file_close(&file);
    free(image.bytes);
}

static void empty_tensors_are_for_base_models_only(void **state)
{
    struct image image = make_image(
        "{" T("a", "F32", "[0,4]", 4, 4) "," T("b", "F32", "[1]", 0, 4) "," T("c", "F32", "[4,0]", 0, 0) "}",
        4);
    struct tensor_file file;
    struct error err;
    (void)state;
    assert_ok(parse(&file, image, &TENSOR_FILE_BASE_MODEL, &err), &err);
    assert_int_equal(file.n_tensors, 3);
    tensor_file_close(&file);
    assert_false(parse(&file, image, &TENSOR_FILE_ADAPTER, &err));
    assert_error(&err, ERROR_BAD_INPUT, "a", "test: tensor 'a' has no elements");
    free(image.bytes);
}

/* header, bytes of data, the field at fault, what the message says. */
static const struct {
    const char *header;
    size_t n_data;
    const char *param, *message;
} BAD_HEADERS[] = {
    {"", 0, "header", "the header does not begin with '{'"},
    {" {}", 0, "header", "does not begin with '{'"},
    {"[]", 0, "header", "does not begin with '{'"},
    {"\xef\xbb\xbf{}", 0, "header", "does not begin with '{'"},
    {"{\"\xff\":1}", 0, "", "the header is not valid UTF-8 (byte 2)"},
    {"{", 0, "", "the header is not valid JSON"},
    {"{}x", 0, "", "the header is not valid JSON"},
    {"{} {}", 0, "", "the header is not valid JSON"},
    {"{\"\\u0000\":1}", 0, "", "the header is not valid JSON"},
    {"{\"a\":NaN}", 0, "", "the header is not valid JSON"},
    /* the same name twice, plainly and in disguise */
    {"{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 0, 4) "}", 4, "", "duplicate object key"},
    {"{" T("a", "F32", "[1]", 0, 4) "," T("\\u0061", "F32", "[1]", 0, 4) "}", 4, "", "duplicate object key"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "", "duplicate object key"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "",
     "duplicate object key"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "",
     "duplicate object key"},
    /* entries of a wrong form */
    {"{\"a\":1}", 0, "a", "tensor 'a' must have an object as its entry, but has the number 1"},
    {"{\"a\":null}", 0, "a", "but has null"},
    {"{\"a\":{}}", 0, "a", "tensor 'a' has no dtype"},
    {"{\"a\":{\"dtype\":\"F32\"}}", 0, "a", "has no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "a", "has no data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "a",
     "has an unknown field 'x'"},
    {"{\"__metadata__\":1}", 0, "__metadata__", "must be an object of strings"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__", "'a' in __metadata__ must be a string"},
    {"{\"__metadata__\":{\"a\":null}}", 0, "__metadata__", "must be a string"},
    {"{\"\":{}}", 0, "", "must have from 1 to 512 bytes, but one has 0"},
    /* dtype */
    {"{" T("a", "F33", "[1]", 0, 4) "}", 4, "a",
     "must have a type that we know as its dtype, but has the string \"F33\""},
    {"{" T("a", "f32", "[1]", 0, 4) "}", 4, "a", "a type that we know"},
    {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "a", "must have a string as its dtype"},
    {"{" T("a", "F64", "[1]", 0, 4) "}", 4, "a", "has 4 bytes, but [1] of F64 needs 8"},
    /* shape */
    {"{" T("a", "F32", "{}", 0, 4) "}", 4, "a", "must have an array as its shape"},
    {"{" T("a", "F32", "[\"1\"]", 0, 4) "}", 4, "a", "each size of its shape, but has the string \"1\""},
    {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, "a", "but has the number -1"},
    {"{" T("a", "F32", "[1.0]", 0, 4) "}", 4, "a", "each size of its shape"},
    {"{" T("a", "F32", "[1e0]", 0, 4) "}", 4, "a", "each size of its shape"},
    {"{" T("a", "F32", "[null]", 0, 4) "}", 4, "a", "each size of its shape"},
    {"{" T("a", "F32", "[[1]]", 0, 4) "}", 4, "a", "each size of its shape"},
    {"{" T("a", "F32", "[18446744073709551616]", 0, 4) "}", 4, "a", "each size of its shape"},
    {"{" T("a", "F32", "[9223372036854775808]", 0, 4) "}", 4, "a", "each size of its shape"},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "a", "has 9 dimensions; at most 8"},
    {"{" T("a", "F32", "[]", 0, 0) "}", 0, "a", "has 0 bytes, but [] of F32 needs 4"},
    /* products that wrap: to 2^64, 2^64 + 4, and only with the element's size */
    {"{" T("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0, "a", "whose size does not fit in memory"},
    {"{" T("a", "F32", "[6148914691236517206,3]", 0, 8) "}", 8, "a", "whose size does not fit in memory"},
    {"{" T("a", "F32", "[4611686018427387904]", 0, 0) "}", 0, "a", "whose size does not fit in memory"},
    {"{" T("a", "F32", "[4611686018427387905]", 0, 4) "}", 4, "a", "whose size does not fit in memory"},
    {"{" T("a", "U8", "[4294967296,4294967296,0]", 0, 0) "}", 0, "a", "whose size does not fit in memory"},
    {"{" T("a", "F32", "[2147483648]", 0, 0) "}", 0, "a", "needs 8589934592"},
    /* spans */
    {"{" T("a", "F32", "[2]", 0, 4) "}", 4, "a", "has 4 bytes, but [2] of F32 needs 8"},
    {"{" T("a", "F32", "[1]", 0, 8) "}", 8, "a", "has 8 bytes, but [1] of F32 needs 4"},
    {"{" T("a", "F32", "[1]", 4, 0) "}", 4, "a", "ends at 0, before it begins at 4"},
    {"{" T("a", "F32", "[1]", 0, 4) "}", 3, "a",
     "ends at byte 4 of the data, but the file has only 3: it is cut short"},
    {"{" T("a", "F32", "[1]", 0, 9223372036854775807) "}", 4, "a", "it is cut short"},
    {"{" T("a", "F32", "[1]", 9223372036854775804, 9223372036854775807) "}", 4, "a", "it is cut short"},
    {"{" T("a", "F32", "[1]", -4, 0) "}", 4, "a", "two integers from 0 as data_offsets"},
    {"{" T("a", "F32", "[1]", 0.0, 4.0) "}", 4, "a", "two integers from 0 as data_offsets"},
    {"{" T("a", "F32", "[1]", 0, 18446744073709551620) "}", 4, "a", "two integers from 0 as data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "a", "two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "a", "two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"b\":0}}}", 4, "a", "two integers"},
    /* coverage */
    {"{" T("a", "F32", "[1]", 0, 4) "}", 5, "data",
     "the last tensor ends at byte 4 of the data, but the file goes on to 5"},
    {"{}", 1, "data", "ends at byte 0 of the data, but the file goes on to 1"},
    {"{" T("a", "F32", "[1]", 4, 8) "}", 8, "a",
     "begins at byte 4 of the data, but the bytes from 0 on belong to no tensor"},
    {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 5, 9) "}", 9, "b",
     "the bytes from 4 on belong to no tensor"},
    {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[1]", 4, 8) "}", 8, "b",
     "begins at byte 4 of the data, inside of 'a'"},
    {"{" T("b", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 0, 4) "}", 4, NULL,
     "begins at byte 0 of the data, inside of"},
};

static void bad_headers_are_refused_with_field_and_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof BAD_HEADERS / sizeof *BAD_HEADERS; i++) {
        struct image image = make_image(BAD_HEADERS[i].header, BAD_HEADERS[i].n_data);
        struct tensor_file file = {.n_tensors = 77};
        struct error err;
        if (parse(&file, image, &TENSOR_FILE_ADAPTER, &err))
            fail_msg("accepted: %s", BAD_HEADERS[i].header);
        enum error_code code = strstr(BAD_HEADERS[i].message, "at most") ? ERROR_TOO_LARGE : ERROR_BAD_INPUT;
        assert_error(&err, code, BAD_HEADERS[i].param ? BAD_HEADERS[i].param : err.param,
                     BAD_HEADERS[i].message);
        assert_int_equal(file.n_tensors, 77);
        free(image.bytes);
    }
}

static void the_length_of_the_header_is_not_believed(void **state)
{
    static const uint64_t LENGTHS[] = {3,
                                       7,
                                       100,
                                       (uint64_t)1 << 31,
                                       (uint64_t)1 << 32,
                                       (uint64_t)1 << 63,
                                       UINT64_MAX - 8,
                                       UINT64_MAX - 7,
                                       UINT64_MAX};
    struct image image = make_image("{}", 0);
    struct tensor_file file;
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
        for (int j = 0; j < 8; j++)
            image.bytes[j] = (unsigned char)(LENGTHS[i] >> 8 * j);
        assert_false(parse(&file, image, &TENSOR_FILE_ADAPTER, &err));
        assert_error(&err, ERROR_BAD_INPUT, "header", "cut short, or not safetensors");
    }
    for (size_t n_bytes = 0; n_bytes < 8; n_bytes++) {
        image.n_bytes = n_bytes;
        assert_false(parse(&file, image, &TENSOR_FILE_ADAPTER, &err));
        assert_error(&err, ERROR_BAD_INPUT, "header", "too short for safetensors");
    }
    free(image.bytes);
}

static void other_formats_are_not_taken_for_safetensors(void **state)
{
    static const char *const MAGICS[] = {
        "PK\x03\x04\x14\x00\x08\x08....", "\x1f\x8b\x08\x00\x00\x00\x00\x00....",
        "GGUF\x03\x00\x00\x00........",   "\x80\x02}q\x00(X\x0c....",
        "#!/bin/sh\nrm -rf /\n",          "<html><body>404</body></html>"};
    struct tensor_file file;
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof MAGICS / sizeof *MAGICS; i++) {
        char bytes[64] = {0};
        memcpy(bytes, MAGICS[i], 12);
        assert_false(safetensors_parse(&file, bytes, sizeof bytes, "test", &TENSOR_FILE_ADAPTER, &err));
        assert_int_equal(err.code, ERROR_BAD_INPUT);
    }
}

static void limits_are_kept(void **state)
{
    struct image image = make_image("{" T("a", "U8", "[1]", 0, 1) "," T("b", "U8", "[1]", 1, 2) "}", 2);
    struct tensor_file_limits limits = TENSOR_FILE_ADAPTER;
    struct tensor_file file;
    struct error err;
    (void)state;
    limits.header_bytes = 20;
    assert_false(parse(&file, image, &limits, &err));
    assert_error(&err, ERROR_TOO_LARGE, "header", "at most 20 are allowed");
    limits = TENSOR_FILE_ADAPTER;
    limits.n_tensors = 1;
    assert_false(parse(&file, image, &limits, &err));
    assert_error(&err, ERROR_TOO_LARGE, "header", "the file has 2 tensors; at most 1 are allowed");
    free(image.bytes);
}

static void a_name_has_a_maximum_of_bytes(void **state)
{
    (void)state;
    for (size_t n = LIMIT_NAME_BYTES; n <= LIMIT_NAME_BYTES + 1; n++) {
        char header[2000], name[LIMIT_NAME_BYTES + 2];
        struct tensor_file file;
        struct error err;
        memset(name, 'n', n);
        name[n] = '\0';
        snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                 name);
        struct image image = make_image(header, 1);
        bool parsed = parse(&file, image, &TENSOR_FILE_ADAPTER, &err);
        assert_int_equal(parsed, n == LIMIT_NAME_BYTES);
        if (parsed)
            tensor_file_close(&file);
        else
            assert_int_equal(err.code, ERROR_BAD_INPUT);
        free(image.bytes);
    }
}

/* A small adapter, made by our own writer. */
static struct image make_adapter(const char *folder)
{
    static const float a[12] = {1, 2, 3}, b[8] = {4, 5};
    struct tensor tensors[] = {
        {.name = "base_model.model.l.lora_A.weight",
         .n_dims = 2,
         .shape = {2, 6},
         .n_elements = 12,
         .n_bytes = 48,
         .data = a},
        {.name = "base_model.model.l.lora_B.weight",
         .n_dims = 2,
         .shape = {4, 2},
         .n_elements = 8,
         .n_bytes = 32,
         .data = b},
    };
    struct file_bytes bytes;
    struct error err;
    char *path = path_join(folder, "adapter.safetensors");
    assert_ok(safetensors_write(path, tensors, 2, &err), &err);
    assert_ok(file_read(&bytes, path, 1 << 20, &err), &err);
    struct image image = {malloc(bytes.n_bytes + 1), bytes.n_bytes};
    memcpy(image.bytes, bytes.data, bytes.n_bytes);
    file_close(&bytes);
    free(path);
    return image;
}

static void a_file_cut_at_any_byte_or_grown_by_one_is_refused(void **state)
{
    char *folder = scratch_create();
    struct image image = make_adapter(folder);
    struct tensor_file file;
    struct error err;
    (void)state;
    assert_ok(parse(&file, image, &TENSOR_FILE_ADAPTER, &err), &err);
    tensor_file_close(&file);
    for (size_t n = 0; n < image.n_bytes; n++) {
        /* A copy of the exact size, so that a sanitizer sees a byte read too many. */
        struct image cut = {malloc(n ? n : 1), n};
        memcpy(cut.bytes, image.bytes, n);
        if (parse(&file, cut, &TENSOR_FILE_ADAPTER, &err))
            fail_msg("accepted with %zu of %zu bytes", n, image.n_bytes);
        assert_int_equal(err.code, ERROR_BAD_INPUT);
        free(cut.bytes);
    }
    image.bytes[image.n_bytes++] = 0;
    assert_false(parse(&file, image, &TENSOR_FILE_ADAPTER, &err));
    assert_error(&err, ERROR_BAD_INPUT, "data", "but the file goes on to");
    free(image.bytes);
    scratch_remove(folder);
}

/* Whatever is accepted must still cover the data exactly, without overlap. */
static void check_invariants(const struct tensor_file *file, struct image image)
{
    size_t n_covered = 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct tensor *tensor = &file->tensors[i];
        const unsigned char *begin = tensor->data;
        assert_true(begin >= image.bytes + 8 && begin + tensor->n_bytes <= image.bytes + image.n_bytes);
        assert_int_equal(tensor->n_bytes, tensor->n_elements * dtype_size(tensor->dtype));
        assert_ptr_equal(tensor_file_find(file, tensor->name), tensor);
        if (i > 0) {
            const struct tensor *before = &file->tensors[i - 1];
            assert_ptr_equal((const unsigned char *)before->data + before->n_bytes, begin);
        }
        n_covered += tensor->n_bytes;
    }
    uint64_t n_header;
    memcpy(&n_header, image.bytes, 8);
    assert_int_equal(8 + n_header + n_covered, image.n_bytes);
}

static void every_flipped_bit_of_the_header_is_refused_or_keeps_the_invariants(void **state)
{
    char *folder = scratch_create();
    struct image image = make_adapter(folder);
    size_t n_accepted = 0;
    (void)state;
    for (size_t bit = 0; bit < 8 * (image.n_bytes - 80); bit++) {
        struct tensor_file file;
        struct error err;
        image.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        if (parse(&file, image, &TENSOR_FILE_ADAPTER, &err)) {
            check_invariants(&file, image);
            tensor_file_close(&file);
            n_accepted++;
        }
        image.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    /* Letters of names and of the metadata may change; little else may. */
    assert_in_range(n_accepted, 1, 8 * 100);
    free(image.bytes);
    scratch_remove(folder);
}

/* --- files --- */

static void what_is_written_is_read_back(void **state)
{
    char *folder = scratch_create(), *path = path_join(folder, "f.safetensors");
    static const uint16_t half[6] = {1, 2, 3, 4, 5, 6};
    static const float full[3] = {1.5f, -2.0f, 0.25f};
    struct tensor tensors[] = {
        {.name = "odd \"name\" \\ \xC3\xA4\t",
         .dtype = DTYPE_BF16,
         .n_dims = 2,
         .shape = {3, 2},
         .n_elements = 6,
         .n_bytes = 12,
         .data = half},
        {.name = "a",
         .dtype = DTYPE_F32,
         .n_dims = 1,
         .shape = {3},
         .n_elements = 3,
         .n_bytes = 12,
         .data = full},
        {.name = "scalar", .dtype = DTYPE_F16, .n_elements = 1, .n_bytes = 2, .data = half},
    };
    struct tensor_file file;
    struct error err;
    (void)state;
    assert_ok(safetensors_write(path, tensors, 3, &err), &err);
    for (int way = 0; way < 2; way++) {
        assert_ok(safetensors_open(&file, path, way ? &TENSOR_FILE_ADAPTER : &TENSOR_FILE_BASE_MODEL, &err),
                  &err);
        assert_int_equal(file.files[0].is_mapped, !way);
        assert_int_equal(file.n_tensors, 3);
        for (size_t i = 0; i < 3; i++) {
            const struct tensor *found = tensor_file_find(&file, tensors[i].name);
            assert_ptr_equal(found, &file.tensors[i]);
            assert_int_equal(found->dtype, tensors[i].dtype);
            assert_int_equal(found->n_dims, tensors[i].n_dims);
            assert_memory_equal(found->shape, tensors[i].shape, sizeof found->shape);
            assert_memory_equal(found->data, tensors[i].data, found->n_bytes);
        }
        assert_int_equal((uintptr_t)file.tensors[0].data % 64, 0);
        tensor_file_close(&file);
    }
    assert_ok(safetensors_write(path, NULL, 0, &err), &err);
    assert_ok(safetensors_open(&file, path, &TENSOR_FILE_ADAPTER, &err), &err);
    tensor_file_close(&file);
    free(path);
    scratch_remove(folder);
}

static void a_file_over_the_limit_or_not_there_is_refused_with_its_path(void **state)
{
    char *folder = scratch_create(), *path = path_join(folder, "f.safetensors");
    struct tensor_file_limits limits;
    struct tensor_file file;
    struct error err;
    (void)state;
    assert_false(safetensors_open(&file, path, &TENSOR_FILE_ADAPTER, &err));
    assert_error(&err, ERROR_NOT_FOUND, "", "f.safetensors");
    struct image image = make_image("{}", 0);
    scratch_write(folder, "f.safetensors", image.bytes, image.n_bytes);
    for (int way = 0; way < 2; way++) {
        limits = way ? TENSOR_FILE_ADAPTER : TENSOR_FILE_BASE_MODEL;
        limits.file_bytes = 9;
        assert_false(safetensors_open(&file, path, &limits, &err));
        assert_error(&err, ERROR_TOO_LARGE, "", "has 10 bytes; at most 9");
        limits.file_bytes = 10;
        assert_ok(safetensors_open(&file, path, &limits, &err), &err);
        tensor_file_close(&file);
    }
    scratch_write_text(folder, "f.safetensors", "");
    assert_false(safetensors_open(&file, path, &TENSOR_FILE_ADAPTER, &err));
    assert_error(&err, ERROR_BAD_INPUT, "header", "f.safetensors': the file has 0 bytes");
    free(image.bytes);
    free(path);
    scratch_remove(folder);
}

/* --- a model's directory --- */

static void write_image(const char *folder, const char *name, const char *header, size_t n_data)
{
    struct image image = make_image(header, n_data);
    scratch_write(folder, name, image.bytes, image.n_bytes);
    free(image.bytes);
}

#define INDEX "model.safetensors.index.json"

static void shards_make_one_file(void **state)
{
    char *folder = scratch_create();
    struct tensor_file file;
    struct error err;
    (void)state;
    write_image(folder, "one.safetensors", "{" T("a", "F32", "[1]", 0, 4) "," T("b", "U8", "[2]", 4, 6) "}",
                6);
    write_image(folder, "two.safetensors", "{" T("c", "F16", "[3]", 0, 6) "}", 6);
    scratch_write_text(folder, INDEX,
                       "{\"metadata\":{\"total_size\":12},\"weight_map\":{\"c\":\"two.safetensors\","
                       "\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}");
    assert_ok(safetensors_open_model(&file, folder, &err), &err);
    assert_int_equal(file.n_files, 2);
    assert_int_equal(file.n_tensors, 3);
    assert_int_equal(tensor_file_find(&file, "c")->n_elements, 3);
    assert_memory_equal(tensor_file_find(&file, "b")->data, "\4\5", 2);
    tensor_file_close(&file);
    /* The single file wins when both are there. */
    write_image(folder, "model.safetensors", "{" T("z", "U8", "[1]", 0, 1) "}", 1);
    assert_ok(safetensors_open_model(&file, folder, &err), &err);
    assert_non_null(tensor_file_find(&file, "z"));
    tensor_file_close(&file);
    scratch_remove(folder);
}

static void bad_indexes_are_refused_with_the_reason(void **state)
{
    static const struct {
        const char *index;
        enum error_code code;
        const char *param, *message;
    } CASES[] = {
        {"{}", ERROR_BAD_INPUT, "weight_map", "weight_map is missing"},
        {"{\"weight_map\":[]}", ERROR_BAD_INPUT, "weight_map", "must be an object"},
        {"{\"weight_map\":{}}", ERROR_BAD_INPUT, "weight_map", "weight_map is empty"},
        {"{\"weight_map\":{\"a\":1}}", ERROR_BAD_INPUT, "a", "plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", ERROR_BAD_INPUT, "a", "plain file name"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", ERROR_BAD_INPUT, "a", "plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", ERROR_BAD_INPUT, "a", "plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", ERROR_BAD_INPUT, "a", "plain file name"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"}}", ERROR_BAD_INPUT, "b",
         "tensor 'b' is in 'one.safetensors', but not in the index"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}", ERROR_BAD_INPUT, "b",
         "but the index says 'two.safetensors'"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"d\":\"one.safetensors\"}}",
         ERROR_BAD_INPUT, "d", "tensor 'd' should be in 'one.safetensors', but is not there"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"c\":\"none.safetensors\"}}",
         ERROR_NOT_FOUND, "", "none.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"a2\":\"twice.safetensors\"}"
         "}",
         ERROR_BAD_INPUT, "a", "tensor 'a' is in 'twice.safetensors', but the index says 'one.safetensors'"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"x\":\"bad.safetensors\"}}",
         ERROR_BAD_INPUT, "header", "'bad.safetensors': the file has 3 bytes"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}", ERROR_BAD_INPUT, "",
         "duplicate"},
        {"not json", ERROR_BAD_INPUT, "", INDEX " is not valid JSON"},
    };
    char *folder = scratch_create();
    (void)state;
    write_image(folder, "one.safetensors", "{" T("a", "F32", "[1]", 0, 4) "," T("b", "U8", "[2]", 4, 6) "}",
                6);
    write_image(folder, "two.safetensors", "{" T("c", "F16", "[3]", 0, 6) "}", 6);
    write_image(folder, "twice.safetensors",
                "{" T("a", "F32", "[1]", 0, 4) "," T("a2", "U8", "[2]", 4, 6) "}", 6);
    scratch_write_text(folder, "bad.safetensors", "bad");
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct tensor_file file = {.n_tensors = 77};
        struct error err;
        scratch_write_text(folder, INDEX, CASES[i].index);
        if (safetensors_open_model(&file, folder, &err))
            fail_msg("accepted: %s", CASES[i].index);
        assert_error(&err, CASES[i].code, CASES[i].param, CASES[i].message);
        assert_int_equal(file.n_tensors, 77);
    }
    scratch_remove(folder);
}

static void a_directory_without_weights_says_what_is_missing(void **state)
{
    char *folder = scratch_create();
    struct tensor_file file;
    struct error err;
    (void)state;
    assert_false(safetensors_open_model(&file, folder, &err));
    assert_error(&err, ERROR_NOT_FOUND, "", "has neither model.safetensors nor " INDEX);
    assert_null(strstr(err.message, "convert"));
    scratch_write_text(folder, "pytorch_model.bin", "x");
    assert_false(safetensors_open_model(&file, folder, &err));
    assert_error(&err, ERROR_NOT_FOUND, "", "convert its pytorch_model.bin");
    scratch_remove(folder);
}

/* --- real files --- */

static size_t open_all(const char *pattern_folder, const char *name, bool is_model)
{
    char command[600], line[500];
    size_t n_opened = 0;
    snprintf(command, sizeof command, "ls -d '%s'/*/ 2>/dev/null", pattern_folder);
    FILE *list = popen(command, "r");
    while (fgets(line, sizeof line, list)) {
        struct tensor_file file;
        struct error err;
        line[strcspn(line, "\n")] = '\0';
        char *path = path_join(line, name);
        if (is_model)
            assert_ok(safetensors_open_model(&file, line, &err), &err);
        else if (!file_exists(path)) {
            free(path);
            continue;
        } else
            assert_ok(safetensors_open(&file, path, &TENSOR_FILE_ADAPTER, &err), &err);
        assert_true(file.n_tensors > 0);
        tensor_file_close(&file);
        free(path);
        n_opened++;
    }
    pclose(list);
    return n_opened;
}

static void the_golden_models_and_adapters_open(void **state)
{
    char *models = path_join(source_folder(), "tests/golden/models");
    char *adapters = path_join(source_folder(), "tests/golden/adapters");
    (void)state;
    size_t n_models = open_all(models, "", true),
           n_adapters = open_all(adapters, "adapter_model.safetensors", false);
    free(models);
    free(adapters);
    if (n_models == 0 && n_adapters == 0)
        skip();
}

static void real_adapters_open(void **state)
{
    char *adapters = test_data("adapters"), *model = test_data("stories260k");
    struct tensor_file file;
    struct error err;
    (void)state;
    if (!adapters || !model) {
        free(adapters);
        free(model);
        skip();
    }
    assert_true(open_all(adapters, "adapter_model.safetensors", false) > 0);
    assert_ok(safetensors_open_model(&file, model, &err), &err);
    tensor_file_close(&file);
    free(adapters);
    free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found_with_type_shape_and_bytes),
        cmocka_unit_test(a_file_without_tensors_is_legal),
        cmocka_unit_test(empty_tensors_are_for_base_models_only),
        cmocka_unit_test(bad_headers_are_refused_with_field_and_reason),
        cmocka_unit_test(the_length_of_the_header_is_not_believed),
        cmocka_unit_test(other_formats_are_not_taken_for_safetensors),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(a_name_has_a_maximum_of_bytes),
        cmocka_unit_test(a_file_cut_at_any_byte_or_grown_by_one_is_refused),
        cmocka_unit_test(every_flipped_bit_of_the_header_is_refused_or_keeps_the_invariants),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(a_file_over_the_limit_or_not_there_is_refused_with_its_path),
        cmocka_unit_test(shards_make_one_file),
        cmocka_unit_test(bad_indexes_are_refused_with_the_reason),
        cmocka_unit_test(a_directory_without_weights_says_what_is_missing),
        cmocka_unit_test(the_golden_models_and_adapters_open),
        cmocka_unit_test(real_adapters_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
