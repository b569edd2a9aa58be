/* The command line's sources belong to the program alone, so that this one is compiled here once more. */
#include "cli/options.c"

#include "support/check.h"

struct values {
    bool flag, count_given;
    const char *text;
    size_t count;
    uint64_t bytes;
    double number;
    int choice;
    struct option_list list;
};

static const char *const COLORS[] = {"red", "green", NULL};
static struct values values;

static struct option OPTIONS[] = {
    {.name = "quiet", .kind = OPTION_FLAG, .out = &values.flag, .help = ""},
    {.name = "output", .argument = "DIR", .kind = OPTION_TEXT, .out = &values.text, .help = ""},
    {.name = "max-count", .argument = "N", .kind = OPTION_COUNT, .out = &values.count, .minimum = 1, .maximum = 100,
     .given = &values.count_given, .help = ""},
    {.name = "memory", .argument = "SIZE", .kind = OPTION_BYTES, .out = &values.bytes, .help = ""},
    {.name = "scale", .argument = "S", .kind = OPTION_NUMBER, .out = &values.number, .minimum = -2, .maximum = 2, .help = ""},
    {.name = "color", .argument = "C", .kind = OPTION_CHOICE, .out = &values.choice, .choices = COLORS, .help = ""},
    {.name = "item", .argument = "X", .kind = OPTION_LIST, .out = &values.list, .help = ""},
    {0}};
static struct command COMMAND = {.name = "test", .options = OPTIONS, .operands = "X", .has_environment = true};

static const char *operands[32];
static size_t n_operands;
static struct error err;

/* The words after the command's name; NULL ends them. */
static enum parse_result parse_words(const char *const *words)
{
    static char name[] = "test";
    int argc = 1;
    char *argv[32] = {name};
    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1]; /* main()'s argument, which nobody writes to */
    command_finish(&COMMAND);
    values = (struct values){.choice = -1};
    err = (struct error){0};
    return command_parse(&COMMAND, argc, argv, operands, &n_operands, &err);
}
#define PARSE(...) parse_words((const char *const[]){__VA_ARGS__, NULL})
#define assert_wrong(param, part, ...)                       \
    do {                                                     \
        assert_int_equal(PARSE(__VA_ARGS__), PARSE_WRONG);   \
        assert_error(&err, ERROR_BAD_INPUT, param, part);    \
    } while (0)

static int clean_up(void **state)
{
    (void)state;
    for (const struct option *option = OPTIONS; option->name; option++) {
        char name[64];
        environment_name(option, name, sizeof name);
        unsetenv(name);
    }
    command_finish(&COMMAND);
    values = (struct values){0};
    COMMAND.operands = "X";
    COMMAND.has_environment = true;
    return 0;
}

static void every_kind_is_read(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--quiet", "--output", "dir", "--max-count=7", "--memory", "2G", "--scale", "-1.5", "--color=green",
                           "--item", "a", "--item=b=c"), PARSE_OK);
    assert_true(values.flag);
    assert_string_equal(values.text, "dir");
    assert_int_equal(values.count, 7);
    assert_true(values.count_given);
    assert_int_equal(values.bytes, (uint64_t)2 << 30);
    assert_true(values.number == -1.5);
    assert_int_equal(values.choice, 1);
    assert_int_equal(values.list.n_items, 2);
    assert_string_equal(values.list.items[1], "b=c");
    assert_int_equal(n_operands, 0);
}

static void what_is_not_given_stays_as_it_is(void **state)
{
    (void)state;
    assert_int_equal(PARSE("operand"), PARSE_OK);
    assert_int_equal(values.choice, -1);
    assert_false(values.count_given);
    assert_int_equal(n_operands, 1);
    assert_string_equal(operands[0], "operand");
}

static void sizes_have_units_of_1024(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},           {"17", 17},          {"17B", 17},         {"1K", 1024},
                {"1k", 1024},       {"2M", 2 << 20},     {"2MB", 2 << 20},    {"2MiB", 2 << 20},
                {"1.5G", 3ull << 29}, {"3T", 3ull << 40}, {"4Mi", 4 << 20}};
    static const char *const bad[] = {"", "x", "1X", "1KX", "-1", "1e400", "nan", "inf", "5000000T", "1 G", "KB", "1iB", "1GG"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(PARSE("--memory", (char *)good[i].text), PARSE_OK);
        assert_int_equal(values.bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_wrong("memory", "is not a size", "--memory", (char *)bad[i]);
}

static void counts_are_whole_and_in_their_range(void **state)
{
    static const char *const bad[] = {"", "x", "1.5", "-1", "7 ", "99999999999999999999", "nan", "inf", "1x"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_wrong("max-count", "whole number", "--max-count", (char *)bad[i]);
    assert_wrong("max-count", "1..100", "--max-count", "0");
    assert_wrong("max-count", "1..100", "--max-count", "101");
    assert_int_equal(PARSE("--max-count", "100"), PARSE_OK);
}

static void numbers_are_finite_and_in_their_range(void **state)
{
    (void)state;
    assert_wrong("scale", "not a number", "--scale", "two");
    assert_wrong("scale", "not a number", "--scale", "nan");
    assert_wrong("scale", "not a number", "--scale", "1e999");
    assert_wrong("scale", "-2..2", "--scale", "2.5");
}

static void a_choice_is_one_of_its_words(void **state)
{
    (void)state;
    assert_wrong("color", "red, green", "--color", "blue");
    assert_wrong("color", "red, green", "--color", "");
    assert_wrong("color", "red, green", "--color", "redd");
}

static void a_flag_may_say_true_or_false(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--quiet=false"), PARSE_OK);
    assert_false(values.flag);
    assert_int_equal(PARSE("--quiet=yes"), PARSE_OK);
    assert_true(values.flag);
    assert_wrong("quiet", "maybe", "--quiet=maybe");
}

static void unknown_flags_are_named(void **state)
{
    (void)state;
    assert_wrong("", "--colour", "--colour", "red");
    assert_wrong("", "--colo;", "--colo=red");
    assert_wrong("", "--max-count-er", "--max-count-er=3");
}

static void a_flag_at_the_end_needs_its_value(void **state)
{
    (void)state;
    assert_wrong("memory", "needs a value", "--quiet", "--memory");
    assert_wrong("output", "needs a value", "-o");
}

static void two_dashes_end_the_flags(void **state)
{
    (void)state;
    assert_int_equal(PARSE("a", "--", "--quiet", "--help", "-"), PARSE_OK);
    assert_false(values.flag);
    assert_int_equal(n_operands, 4);
    assert_string_equal(operands[1], "--quiet");
}

static void operands_are_refused_where_none_are_taken(void **state)
{
    (void)state;
    COMMAND.operands = NULL;
    assert_wrong("", "'stray'", "--quiet", "stray");
}

static void help_comes_before_all_errors(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--nonsense", "--help"), PARSE_HELP);
    assert_int_equal(PARSE("-h"), PARSE_HELP);
}

static void the_environment_is_read_first_and_flags_win(void **state)
{
    (void)state;
    setenv("LORAD_MAX_COUNT", "5", 1);
    setenv("LORAD_QUIET", "1", 1);
    setenv("LORAD_ITEM", "a=/x,,b=/y", 1);
    setenv("LORAD_MEMORY", "", 1); /* empty is as not set */
    assert_int_equal(PARSE("--max-count", "6", "--item", "c"), PARSE_OK);
    assert_int_equal(values.count, 6);
    assert_true(values.flag);
    assert_int_equal(values.list.n_items, 3);
    assert_string_equal(values.list.items[0], "a=/x");
    assert_string_equal(values.list.items[1], "b=/y");
    assert_string_equal(values.list.items[2], "c");
}

static void a_wrong_value_in_the_environment_names_the_variable(void **state)
{
    (void)state;
    setenv("LORAD_MAX_COUNT", "many", 1);
    assert_wrong("max-count", "LORAD_MAX_COUNT", "operand");
}

static void the_environment_is_not_read_by_commands_without_it(void **state)
{
    (void)state;
    COMMAND.has_environment = false;
    setenv("LORAD_MAX_COUNT", "many", 1);
    assert_int_equal(PARSE("operand"), PARSE_OK);
    assert_false(values.count_given);
}

static void an_adapter_argument_is_an_id_a_path_and_a_weight(void **state)
{
    static const struct {
        const char *text, *id, *path;
        double weight;
    } cases[] = {{"a=/x/y", "a", "/x/y", 1},       {"a=/x/y:0.5", "a", "/x/y", 0.5}, {"/x/y", "y", "/x/y", 1},
                 {"/x/y///:-2", "y", "/x/y", -2},  {"y", "y", "y", 1},               {"a=/x:y", "a", "/x:y", 1},
                 {"a=/x=1:2:3", "a", "/x=1:2", 3}, {"a=/x:nan", "a", "/x:nan", 1}};
    char *id, *path;
    double weight;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        weight = 1;
        assert_ok(parse_adapter_argument(cases[i].text, &id, &path, &weight, &err), &err);
        assert_string_equal(id, cases[i].id);
        assert_string_equal(path, cases[i].path);
        assert_true(weight == cases[i].weight);
        free(id);
        free(path);
    }
    assert_ok(parse_adapter_argument("a=/x:2", &id, &path, NULL, &err), &err); /* where weights have no place */
    assert_string_equal(path, "/x:2");
    free(id);
    free(path);
}

static void an_adapter_argument_without_id_or_path_is_refused(void **state)
{
    static const char *const texts[] = {"", "a=", "=/x", "a=:3"};
    char *id, *path;
    double weight = 1;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_false(parse_adapter_argument(texts[i], &id, &path, &weight, &err));
        assert_error(&err, ERROR_BAD_INPUT, "adapter", "ID=PATH");
    }
}

#define TEST(name) cmocka_unit_test_teardown(name, clean_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_kind_is_read),
        TEST(what_is_not_given_stays_as_it_is),
        TEST(sizes_have_units_of_1024),
        TEST(counts_are_whole_and_in_their_range),
        TEST(numbers_are_finite_and_in_their_range),
        TEST(a_choice_is_one_of_its_words),
        TEST(a_flag_may_say_true_or_false),
        TEST(unknown_flags_are_named),
        TEST(a_flag_at_the_end_needs_its_value),
        TEST(two_dashes_end_the_flags),
        TEST(operands_are_refused_where_none_are_taken),
        TEST(help_comes_before_all_errors),
        TEST(the_environment_is_read_first_and_flags_win),
        TEST(a_wrong_value_in_the_environment_names_the_variable),
        TEST(the_environment_is_not_read_by_commands_without_it),
        TEST(an_adapter_argument_is_an_id_a_path_and_a_weight),
        TEST(an_adapter_argument_without_id_or_path_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
