/* Adapters that must not load, each with the reason; and all others of the golden files, which must. */
#include <dirent.h>
#include <stdlib.h>
#include <strings.h>

#include <jansson.h>

#include "base/cpu.h"
#include "base/json.h"
#include "lora/adapter.h"
#include "support/check.h"
#include "support/scratch.h"

struct models {
    char name[64];
    struct model *model;
};

static struct models loaded[64];
static size_t n_loaded;

static char *golden_path(const char *folder, const char *name)
{
    const char *given = getenv("LORAD_TEST_GOLDEN");
    char *path = NULL;
    int n = given ? asprintf(&path, "%s/%s/%s", given, folder, name)
                  : asprintf(&path, "%s/tests/golden/%s/%s", source_folder(), folder, name);
    if (n < 0)
        abort();
    return path;
}

static struct model *model_named(const char *name)
{
    struct error err = {0};
    for (size_t i = 0; i < n_loaded; i++)
        if (strcmp(loaded[i].name, name) == 0)
            return loaded[i].model;
    char *path = golden_path("models", name);
    const struct kernels *kernels = kernels_select(cpu_detect_features(), "c", &err);
    struct model *model = model_load(path, MODEL_WEIGHTS_NATIVE, kernels, NULL, NULL, &err);
    free(path);
    if (!model)
        fail_msg("model %s: %s", name, err.message);
    snprintf(loaded[n_loaded].name, sizeof loaded[0].name, "%s", name);
    loaded[n_loaded++].model = model;
    return model;
}

static int free_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_loaded; i++)
        model_destroy(loaded[i].model);
    return 0;
}

static bool is_mentioned(const struct error *err, const char *word)
{
    return strcasestr(err->message, word) || strcasestr(err->param, word);
}

static size_t check_refused(const char *directory, const char *name)
{
    struct error err = {0};
    size_t n_wrong = 0, i;
    json_t *word;
    char *expect_path = path_join(directory, "expect.json");
    json_t *expect = json_read_file(expect_path, 1 << 20, JSON_PLAIN, "expect.json", &err);
    free(expect_path);
    assert_non_null(expect);
    struct adapter *adapter = adapter_load(
        directory, model_named(json_string_value(json_object_get(expect, "model"))), false, UINT64_MAX, &err);
    if (adapter) {
        print_error("%s: is loaded\n", name);
        n_wrong++;
    } else {
        const char *status = json_string_value(json_object_get(expect, "status"));
        if (strcmp(error_code_name(err.code), status) != 0) {
            print_error("%s: is %s, not %s: [%s] %s\n", name, error_code_name(err.code), status, err.param,
                        err.message);
            n_wrong++;
        }
        json_array_foreach (json_object_get(expect, "message_contains"), i, word)
            if (!is_mentioned(&err, json_string_value(word))) {
                print_error("%s: '%s' is not in: [%s] %s\n", name, json_string_value(word), err.param,
                            err.message);
                n_wrong++;
            }
        if (getenv("GOLDEN_SHOW"))
            print_message("%-28s [%s] %s\n", name, err.param, err.message);
    }
    adapter_unref(adapter);
    json_decref(expect);
    return n_wrong;
}

static void every_bad_adapter_is_refused_with_its_reason(void **state)
{
    char *folder = golden_path("refused", "");
    DIR *stream = opendir(folder);
    size_t n = 0, n_wrong = 0;
    (void)state;
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.')
            continue;
        char *directory = path_join(folder, entry->d_name);
        n_wrong += check_refused(directory, entry->d_name);
        free(directory);
        n++;
    }
    closedir(stream);
    free(folder);
    assert_true(n > 70);
    assert_int_equal(n_wrong, 0);
}

static size_t check_loads(const char *directory, const char *name)
{
    struct error err = {0};
    char model_name[64];
    size_t n_wrong = 0;
    snprintf(model_name, sizeof model_name, "%.*s", (int)(strchr(name, '.') - name), name);
    struct adapter *adapter = adapter_load(directory, model_named(model_name), false, UINT64_MAX, &err);
    if (!adapter) {
        print_error("%s: [%s] %s\n", name, err.param, err.message);
        return 1;
    }
    const struct lorad_load_report *report = &adapter->report;
    n_wrong += report->tensors_applied + report->tensors_ignored != report->tensors_present;
    n_wrong += report->tensors_applied == 0 || report->n_sites + report->n_norms == 0;
    /* What is left out is a copy of the base's, and is said. */
    n_wrong += report->tensors_ignored > 2 || (report->tensors_ignored > 0 && report->n_warnings == 0);
    if (n_wrong)
        print_error("%s: %zu of %zu tensors, %zu ignored\n", name, report->tensors_applied,
                    report->tensors_present, report->tensors_ignored);
    if (getenv("GOLDEN_SHOW"))
        for (size_t i = 0; i < report->n_warnings; i++)
            print_message("%-28s %s\n", name, report->warnings[i]);
    adapter_unref(adapter);
    return n_wrong;
}

static void every_good_adapter_is_loaded_and_all_its_tensors_are_accounted_for(void **state)
{
    char *folder = golden_path("adapters", "");
    DIR *stream = opendir(folder);
    size_t n = 0, n_wrong = 0;
    (void)state;
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.')
            continue;
        char *directory = path_join(folder, entry->d_name);
        n_wrong += check_loads(directory, entry->d_name);
        free(directory);
        n++;
    }
    closedir(stream);
    free(folder);
    assert_true(n > 90);
    assert_int_equal(n_wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bad_adapter_is_refused_with_its_reason),
        cmocka_unit_test(every_good_adapter_is_loaded_and_all_its_tensors_are_accounted_for),
    };
    return cmocka_run_group_tests(tests, NULL, free_models);
}
