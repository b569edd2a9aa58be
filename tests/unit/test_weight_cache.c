#include "model/weight_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/check.h"
#include "support/runner.h"
#include "support/scratch.h"
#include "support/tiny_model.h"

/* A model on disk and a directory for its cache. */
struct setting {
    char *directory, *cache;
};

static struct setting begin(struct tiny_model spec)
{
    return (struct setting){tiny_model_write(spec), scratch_create()};
}

static void end(struct setting setting)
{
    tiny_remove(setting.directory);
    scratch_remove(setting.cache);
}

static struct model *open_in(const char *directory, const char *cache, enum model_weights weights)
{
    struct error err = {0};
    struct model_options options = {.directory = directory, .weights = weights, .cache_directory = cache, .kernels = runner_kernels()};
    struct model *model = model_open(&options, &err);
    if (!model)
        fail_msg("%s", err.message);
    return model;
}

static struct model *open_cached(struct setting setting, enum model_weights weights)
{
    return open_in(setting.directory, setting.cache, weights);
}

/* Opens and closes: what became of the cache. */
static void assert_written(struct setting setting, enum model_weights weights)
{
    struct model *model = open_cached(setting, weights);
    assert_null(model->cache_refused);
    assert_null(model->cache_failed);
    assert_true(model->cache_was_written);
    model_destroy(model);
}

static void assert_mapped(struct setting setting, enum model_weights weights)
{
    struct model *model = open_cached(setting, weights);
    if (model->cache_refused)
        fail_msg("refused: %s", model->cache_refused);
    assert_null(model->cache_failed);
    assert_false(model->cache_was_written);
    assert_non_null(model->cache.file.data);
    model_destroy(model);
}

static void assert_refused_and_written_again(struct setting setting, const char *why)
{
    struct model *model = open_cached(setting, MODEL_WEIGHTS_NATIVE);
    if (!model->cache_refused)
        fail_msg("used, although %s", why);
    if (!strstr(model->cache_refused, why))
        fail_msg("'%s' does not say '%s'", model->cache_refused, why);
    assert_null(model->cache_failed);
    assert_true(model->cache_was_written);
    model_destroy(model);
    assert_mapped(setting, MODEL_WEIGHTS_NATIVE);
}

/* Same elements, same bytes: in the tables, in what is packed, and in what they were made from. */
static void assert_same_weights(const struct model *a, const struct model *b)
{
    assert_int_equal(a->n_sites, b->n_sites);
    assert_string_equal(a->weights_name, b->weights_name);
    assert_int_equal(a->weight_bytes, b->weight_bytes);
    for (size_t i = 0; i < a->n_sites; i++) {
        const struct matrix *one = a->sites[i].weight, *other = b->sites[i].weight;
        assert_int_equal(one->type, other->type);
        assert_int_equal(one->layout, other->layout);
        assert_int_equal(one->n_out, other->n_out);
        assert_int_equal(one->n_in, other->n_in);
        assert_memory_equal(one->data, other->data, matrix_bytes(one));
        assert_int_equal(one->origin != NULL, other->origin != NULL);
        assert_int_equal(one->origin_is_transposed, other->origin_is_transposed);
        float *rows = malloc(2 * one->n_out * one->n_in * sizeof *rows), *others = rows + one->n_out * one->n_in;
        matrix_read_rows(one, 0, one->n_out, rows);
        matrix_read_rows(other, 0, one->n_out, others);
        assert_memory_equal(rows, others, one->n_out * one->n_in * sizeof *rows);
        free(rows);
    }
}

/* Nothing is left in memory of the process's own, not even of who wrote the cache. */
static void assert_mapped_weights(const struct model *model)
{
    for (size_t i = 0; i < model->n_sites; i++) {
        const struct matrix *weight = model->sites[i].weight;
        assert_null(weight->owned);
        if (weight->layout == MATRIX_PACKED)
            assert_int_equal((uintptr_t)weight->data % 64, 0);
    }
}

static size_t n_files(const char *directory)
{
    size_t n = 0;
    DIR *dir = opendir(directory);
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* The one file of the cache; the caller frees. */
static char *cache_file(struct setting setting)
{
    struct model *model = open_cached(setting, MODEL_WEIGHTS_NATIVE);
    char *path = strdup(model->cache.path);
    model_destroy(model);
    return path;
}

/* ---- the same weights ---- */

static void what_is_mapped_has_the_bits_of_what_was_packed(void **state)
{
    static const struct tiny_model SPECS[] = {
        {.family = "llama", .tied_head = 1, .dtype = DTYPE_BF16}, {.family = "llama", .d_head = 12}, {.family = "gpt2"},
        {.family = "qwen2", .dtype = DTYPE_F16},
    };
    (void)state;
    for (size_t i = 0; i < sizeof SPECS / sizeof *SPECS; i++)
        for (int weights = MODEL_WEIGHTS_NATIVE; weights <= MODEL_WEIGHTS_Q4; weights++) {
            struct setting setting = begin(SPECS[i]);
            struct model *plain = open_in(setting.directory, NULL, (enum model_weights)weights);
            struct model *first = open_cached(setting, (enum model_weights)weights);
            struct model *second = open_cached(setting, (enum model_weights)weights);
            assert_null(plain->cache.file.data);
            assert_true(first->cache_was_written);
            assert_false(second->cache_was_written);
            assert_same_weights(plain, first);
            assert_same_weights(plain, second);
            assert_mapped_weights(first);
            assert_mapped_weights(second);
            model_destroy(plain);
            model_destroy(first);
            model_destroy(second);
            end(setting);
        }
}

static void a_mapped_model_answers_the_same(void **state)
{
    static const int32_t TOKENS[] = {1, 2, 3, 5, 8};
    enum { N = sizeof TOKENS / sizeof *TOKENS };
    struct setting setting = begin((struct tiny_model){.family = "gpt2"});
    float *logits[2];
    size_t n_bytes = 0;
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct model *model = open_cached(setting, MODEL_WEIGHTS_Q8);
        struct view *base = view_create_base(model, NULL);
        struct runner runner;
        runner_init(&runner, model, 2, 16, 1);
        logits[i] = runner_logits(&runner, base, TOKENS, N);
        n_bytes = N * model->config.n_vocab * sizeof(float);
        runner_finish(&runner);
        view_unref(base);
        model_destroy(model);
    }
    assert_memory_equal(logits[0], logits[1], n_bytes);
    free(logits[0]);
    free(logits[1]);
    end(setting);
}

/* Memory of one's own, in which products are quicker: so wherever the cache's pages are small. */
static void a_large_cache_in_small_pages_is_read(void **state)
{
    char cache[] = "/dev/shm/lorad-test-XXXXXX";
    struct setting setting = {NULL, cache};
    (void)state;
    if (!mkdtemp(cache))
        skip();
    setting.directory = tiny_model_write((struct tiny_model){.n_vocab = 4096, .d_model = 512, .dtype = DTYPE_F32, .family = "gpt2"});
    struct model *plain = open_in(setting.directory, NULL, MODEL_WEIGHTS_NATIVE), *first = open_cached(setting, MODEL_WEIGHTS_NATIVE);
    struct model *second = open_cached(setting, MODEL_WEIGHTS_NATIVE);
    assert_true(first->cache_was_written);
    assert_null(second->cache_refused);
    assert_int_equal(second->cache_was_read, second->cache.file.data == NULL); /* mapped: huge pages are on here */
    assert_int_equal(second->sites[second->head_site].weight->owned != NULL, second->cache_was_read);
    assert_same_weights(plain, first);
    assert_same_weights(plain, second);
    model_destroy(plain);
    model_destroy(first);
    model_destroy(second);
    tiny_remove(setting.directory);
    assert_true(directory_remove(cache, NULL));
}

/* ---- whose it is ---- */

static void each_type_and_model_has_a_file_of_its_own(void **state)
{
    struct setting one = begin((struct tiny_model){.seed = 1}), other = begin((struct tiny_model){.seed = 2});
    struct setting second = {other.directory, one.cache};
    (void)state;
    assert_written(one, MODEL_WEIGHTS_NATIVE);
    assert_written(one, MODEL_WEIGHTS_Q8);
    assert_written(one, MODEL_WEIGHTS_Q4);
    assert_written(second, MODEL_WEIGHTS_Q4);
    assert_int_equal(n_files(one.cache), 4);
    assert_mapped(one, MODEL_WEIGHTS_NATIVE);
    assert_mapped(one, MODEL_WEIGHTS_Q8);
    assert_mapped(one, MODEL_WEIGHTS_Q4);
    assert_mapped(second, MODEL_WEIGHTS_Q4);
    end(one);
    end(other);
}

static void a_link_to_the_model_is_the_model(void **state)
{
    struct setting setting = begin((struct tiny_model){0});
    char *link_path = path_join(setting.cache, ".link");
    (void)state;
    assert_written(setting, MODEL_WEIGHTS_NATIVE);
    assert_int_equal(symlink(setting.directory, link_path), 0);
    assert_mapped((struct setting){link_path, setting.cache}, MODEL_WEIGHTS_NATIVE);
    assert_int_equal(n_files(setting.cache), 1);
    free(link_path);
    end(setting);
}

static char *weights_path(struct setting setting)
{
    return path_join(setting.directory, "model.safetensors");
}

static void set_time(const char *path, struct timespec time)
{
    const struct timespec times[2] = {time, time};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void weights_with_another_time_or_inode_are_other_files(void **state)
{
    struct setting setting = begin((struct tiny_model){0});
    struct file_bytes bytes;
    struct stat status;
    struct error err;
    char *path = weights_path(setting);
    (void)state;
    assert_written(setting, MODEL_WEIGHTS_NATIVE);
    assert_int_equal(stat(path, &status), 0);
    struct timespec later = {status.st_mtim.tv_sec, (status.st_mtim.tv_nsec + 1) % 1000000000};
    set_time(path, later);
    assert_refused_and_written_again(setting, "made from other files");
    assert_ok(file_map(&bytes, path, &err), &err);
    assert_ok(file_replace(path, bytes.data, bytes.n_bytes, &err), &err);
    set_time(path, later);
    assert_refused_and_written_again(setting, "made from other files");
    file_close(&bytes);
    free(path);
    end(setting);
}

/* As from an image of a file system in which every release has the same times. */
static void other_weights_in_a_file_that_looks_the_same_are_noticed(void **state)
{
    struct setting setting = begin((struct tiny_model){.seed = 1});
    char *other = tiny_model_write((struct tiny_model){.seed = 2}), *path = weights_path(setting), *from = path_join(other, "model.safetensors");
    struct file_bytes bytes;
    struct stat status;
    struct error err;
    (void)state;
    assert_written(setting, MODEL_WEIGHTS_NATIVE);
    assert_int_equal(stat(path, &status), 0);
    assert_ok(file_map(&bytes, from, &err), &err);
    assert_int_equal(bytes.n_bytes, status.st_size);
    int descriptor = open(path, O_WRONLY);
    assert_int_equal(pwrite(descriptor, bytes.data, bytes.n_bytes, 0), bytes.n_bytes);
    close(descriptor);
    set_time(path, status.st_mtim);
    assert_refused_and_written_again(setting, "made from other files");
    file_close(&bytes);
    free(path);
    free(from);
    tiny_remove(other);
    end(setting);
}

/* ---- what it is not ---- */

static void a_damaged_cache_is_refused_and_written_again(void **state)
{
    static const struct {
        off_t at;
        const char *bytes;
        const char *why;
    } DAMAGES[] = {
        {0, "L0", "holds no packed weights"},
        {8, "\x63", "another version or kind of machine"},
        {12, "\1\2\3\4", "another version or kind of machine"},
        {16, "zz", "made from other files, or packed by another version"},
        {80, "\xff\xff\xff", "its header is damaged"},
        {88, "\xff\xff\xff\xff", "its header is damaged"},
        {100, "zz", "its header is damaged"},
        {160, "\x7f", "its header is damaged"},
        {176, "\xff\xff\xff\xff\xff\xff\xff\x7f", "its header is damaged"},
        {192, "\1", "its header is damaged"},
        {4000, "x", "its header is damaged"},
    };
    struct setting setting = begin((struct tiny_model){0});
    char *path = cache_file(setting);
    (void)state;
    for (size_t i = 0; i < sizeof DAMAGES / sizeof *DAMAGES; i++) {
        int descriptor = open(path, O_WRONLY);
        assert_int_equal(pwrite(descriptor, DAMAGES[i].bytes, strlen(DAMAGES[i].bytes), DAMAGES[i].at), strlen(DAMAGES[i].bytes));
        close(descriptor);
        assert_refused_and_written_again(setting, DAMAGES[i].why);
    }
    free(path);
    end(setting);
}

static void a_cache_of_another_length_is_refused_and_written_again(void **state)
{
    struct setting setting = begin((struct tiny_model){0});
    char *path = cache_file(setting);
    struct stat status;
    (void)state;
    assert_int_equal(stat(path, &status), 0);
    const struct {
        off_t n_bytes;
        const char *why;
    } LENGTHS[] = {
        {0, "it has 0 bytes, less than its header"},
        {1, "it has 1 bytes, less than its header"},
        {159, "less than its header"},
        {4095, "less than its header"},
        {8192, "it has 8192 bytes, not "},
        {status.st_size - 1, "bytes, not "},
        {status.st_size + 1, "bytes, not "},
    };
    for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
        assert_int_equal(truncate(path, LENGTHS[i].n_bytes), 0);
        assert_refused_and_written_again(setting, LENGTHS[i].why);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused_and_written_again(setting, "is not a regular file");
    free(path);
    end(setting);
}

/* ---- where it cannot be ---- */

static void without_a_place_for_it_the_model_is_there_all_the_same(void **state)
{
    struct setting setting = begin((struct tiny_model){0});
    struct setting nowhere = {setting.directory, path_join(setting.cache, "file/below")};
    struct model *plain = open_in(setting.directory, NULL, MODEL_WEIGHTS_NATIVE);
    (void)state;
    scratch_write_text(setting.cache, "file", "in the way");
    struct model *model = open_cached(nowhere, MODEL_WEIGHTS_NATIVE);
    assert_false(model->cache_was_written);
    assert_non_null(model->cache_failed);
    assert_non_null(strstr(model->cache_failed, "file"));
    assert_same_weights(plain, model);
    model_destroy(model);
    model_destroy(plain);
    free(nowhere.cache);
    end(setting);
}

static void a_directory_that_cannot_be_written_is_said(void **state)
{
    (void)state;
    if (geteuid() == 0)
        skip(); /* who may write everywhere */
    struct setting setting = begin((struct tiny_model){0});
    assert_int_equal(chmod(setting.cache, 0555), 0);
    struct model *model = open_cached(setting, MODEL_WEIGHTS_NATIVE);
    assert_int_equal(chmod(setting.cache, 0755), 0);
    assert_non_null(strstr(model->cache_failed, "ermission"));
    assert_int_equal(n_files(setting.cache), 0);
    model_destroy(model);
    end(setting);
}

static void a_full_disk_leaves_what_was_there(void **state)
{
    struct setting setting = begin((struct tiny_model){0});
    struct rlimit before, small;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){.rlim_cur = 20000, .rlim_max = before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct model *model = open_cached(setting, MODEL_WEIGHTS_NATIVE);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_false(model->cache_was_written);
    assert_non_null(strstr(model->cache_failed, "cannot write"));
    assert_int_equal(n_files(setting.cache), 0);
    model_destroy(model);
    assert_written(setting, MODEL_WEIGHTS_NATIVE);
    end(setting);
}

/* ---- several at once ---- */

enum { N_WRITERS = 6 };
static struct model *opened[N_WRITERS];
static struct setting shared;

static void *open_one(void *argument)
{
    opened[(size_t)argument] = open_cached(shared, MODEL_WEIGHTS_Q4);
    return NULL;
}

static void who_starts_at_the_same_time_writes_the_same(void **state)
{
    pthread_t threads[N_WRITERS];
    (void)state;
    shared = begin((struct tiny_model){.n_layers = 4});
    for (size_t i = 0; i < N_WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_one, (void *)i), 0);
    for (size_t i = 0; i < N_WRITERS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < N_WRITERS; i++) {
        assert_null(opened[i]->cache_refused);
        assert_null(opened[i]->cache_failed);
        assert_same_weights(opened[0], opened[i]);
    }
    assert_int_equal(n_files(shared.cache), 1);
    assert_mapped(shared, MODEL_WEIGHTS_Q4);
    for (size_t i = 0; i < N_WRITERS; i++)
        model_destroy(opened[i]);
    end(shared);
}

static void a_mapped_cache_outlives_its_successor(void **state)
{
    struct setting setting = begin((struct tiny_model){0});
    (void)state;
    assert_written(setting, MODEL_WEIGHTS_NATIVE);
    struct model *plain = open_in(setting.directory, NULL, MODEL_WEIGHTS_NATIVE), *old = open_cached(setting, MODEL_WEIGHTS_NATIVE);
    char *path = weights_path(setting);
    set_time(path, (struct timespec){.tv_sec = 1000000000});
    assert_refused_and_written_again(setting, "made from other files");
    assert_same_weights(plain, old);
    model_destroy(old);
    model_destroy(plain);
    free(path);
    end(setting);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_mapped_has_the_bits_of_what_was_packed),
        cmocka_unit_test(a_mapped_model_answers_the_same),
        cmocka_unit_test(a_large_cache_in_small_pages_is_read),
        cmocka_unit_test(each_type_and_model_has_a_file_of_its_own),
        cmocka_unit_test(a_link_to_the_model_is_the_model),
        cmocka_unit_test(weights_with_another_time_or_inode_are_other_files),
        cmocka_unit_test(other_weights_in_a_file_that_looks_the_same_are_noticed),
        cmocka_unit_test(a_damaged_cache_is_refused_and_written_again),
        cmocka_unit_test(a_cache_of_another_length_is_refused_and_written_again),
        cmocka_unit_test(without_a_place_for_it_the_model_is_there_all_the_same),
        cmocka_unit_test(a_directory_that_cannot_be_written_is_said),
        cmocka_unit_test(a_full_disk_leaves_what_was_there),
        cmocka_unit_test(who_starts_at_the_same_time_writes_the_same),
        cmocka_unit_test(a_mapped_cache_outlives_its_successor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
