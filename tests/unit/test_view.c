#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/view.h"
#include "support/runner.h"
#include "support/tiny_model.h"

static size_t n_released;
static void count_release(struct view *view)
{
    n_released++;
    view_free(view);
}

static void the_base_view_shows_every_weight_as_it_is(void **state)
{
    struct model *model = tiny_model_load((struct tiny_model){.family = "qwen2"}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct view *view = view_create_base(model, NULL);
    (void)state;
    for (size_t i = 0; i < model->n_sites; i++) {
        assert_ptr_equal(view->sites[i].weight, model->sites[i].weight);
        assert_ptr_equal(view->sites[i].bias, model->sites[i].bias);
        assert_int_equal(view->sites[i].n_deltas, 0);
        assert_null(view->sites[i].row_gain);
    }
    for (size_t i = 0; i < model->n_norms; i++)
        assert_ptr_equal(view->norms[i].weight, model->norms[i].weight);
    assert_null(view->weight_group);
    assert_false(view->has_deltas);
    view_unref(view);
    view_unref(NULL);
    model_destroy(model);
}

static void a_maker_gets_room_of_its_own(void **state)
{
    struct model *model = tiny_model_load((struct tiny_model){0}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct site_view *sites;
    struct norm_view *norms;
    void *extra;
    (void)state;
    struct view *view = view_create_copy_of_base(model, 1000, &sites, &norms, &extra, NULL);
    assert_ptr_equal(view->sites, sites);
    assert_ptr_equal(view->norms, norms);
    assert_int_equal((uintptr_t)extra % 64, 0);
    memset(extra, 1, 1000);
    assert_ptr_equal(sites[model->n_sites - 1].weight, model->sites[model->n_sites - 1].weight);
    assert_ptr_equal(norms[model->n_norms - 1].weight, model->norms[model->n_norms - 1].weight);
    view_unref(view);
    view = view_create_copy_of_base(model, 0, NULL, NULL, &extra, NULL);
    assert_null(extra);
    view_unref(view);
    struct error err;
    assert_null(view_create_copy_of_base(model, SIZE_MAX - 100, NULL, NULL, NULL, &err));
    assert_int_equal(err.code, ERROR_NO_MEMORY);
    model_destroy(model);
}

static void the_last_reference_calls_the_makers_release(void **state)
{
    struct model *model = tiny_model_load((struct tiny_model){0}, MODEL_WEIGHTS_NATIVE, runner_kernels());
    struct view *view = view_create_base(model, NULL);
    (void)state;
    view->release = count_release;
    view_ref(view);
    view_unref(view);
    assert_int_equal(n_released, 0);
    view_unref(view);
    assert_int_equal(n_released, 1);
    model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_base_view_shows_every_weight_as_it_is),
        cmocka_unit_test(a_maker_gets_room_of_its_own),
        cmocka_unit_test(the_last_reference_calls_the_makers_release),
    };
    return cmocka_run_group_tests_name("view", tests, NULL, NULL);
}
