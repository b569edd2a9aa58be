#include "base/file.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "support/check.h"
#include "support/scratch.h"

static char *folder;

static int enter(void **state)
{
    (void)state;
    folder = scratch_create();
    return chdir(folder);
}

static int leave(void **state)
{
    (void)state;
    if (chdir("/"))
        return 1;
    scratch_remove(folder);
    return 0;
}

static void assert_holds(const char *path, const char *text)
{
    struct buffer found = {0};
    struct error err;
    assert_ok(file_read_text(&found, path, 1 << 20, &err), &err);
    assert_string_equal(buffer_text(&found), text);
    buffer_finish(&found);
}

/* --- reading --- */

static void a_file_is_read_and_mapped_with_the_same_bytes(void **state)
{
    static unsigned char bytes[100001];
    struct file_bytes mapped, read;
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 7 >> 3);
    scratch_write(folder, "f", bytes, sizeof bytes);
    assert_ok(file_map(&mapped, "f", &err), &err);
    assert_ok(file_read(&read, "f", sizeof bytes, &err), &err);
    assert_true(mapped.is_mapped && !read.is_mapped);
    assert_int_equal(mapped.n_bytes, sizeof bytes);
    assert_int_equal(read.n_bytes, sizeof bytes);
    assert_int_equal((uintptr_t)mapped.data % 64, 0);
    assert_int_equal((uintptr_t)read.data % 64, 0);
    assert_memory_equal(mapped.data, bytes, sizeof bytes);
    assert_memory_equal(read.data, bytes, sizeof bytes);
    file_close(&mapped);
    file_close(&read);
    file_close(&read);
    file_close(NULL);
}

static void a_large_file_is_mapped_where_huge_pages_can_begin(void **state)
{
    enum { N = (5 << 20) + 3, HUGE_PAGE = 2 << 20 };
    unsigned char *bytes = calloc(1, N);
    struct file_bytes file;
    struct error err;
    (void)state;
    bytes[0] = 1;
    bytes[N - 1] = 2;
    scratch_write(folder, "f", bytes, N);
    for (int i = 0; i < 3; i++) {
        assert_ok(file_map(&file, "f", &err), &err);
        assert_int_equal((uintptr_t)file.data % HUGE_PAGE, 0);
        assert_int_equal(file.n_bytes, N);
        assert_memory_equal(file.data, bytes, N);
        file_close(&file);
    }
    free(bytes);
}

static void a_stamp_tells_files_of_the_same_name_apart(void **state)
{
    struct file_bytes old, replaced, touched;
    struct error err;
    const struct timespec times[2] = {{.tv_sec = 1000000000, .tv_nsec = 1}, {.tv_sec = 1000000000, .tv_nsec = 1}};
    (void)state;
    scratch_write_text(folder, "f", "same");
    assert_ok(file_map(&old, "f", &err), &err);
    assert_int_equal(utimensat(AT_FDCWD, "f", times, 0), 0);
    assert_ok(file_map(&touched, "f", &err), &err);
    assert_ok(file_replace("f", "same", 4, &err), &err);
    assert_ok(file_read(&replaced, "f", 4, &err), &err);
    assert_int_equal(old.stamp.inode, touched.stamp.inode);
    assert_int_equal(touched.stamp.modified_ns, 1000000000000000001);
    assert_int_not_equal(old.stamp.modified_ns, touched.stamp.modified_ns);
    assert_int_not_equal(touched.stamp.inode, replaced.stamp.inode); /* the old one is still there, unnamed */
    file_close(&old);
    file_close(&touched);
    file_close(&replaced);
}

static void an_empty_file_has_no_bytes(void **state)
{
    struct file_bytes file = {.n_bytes = 9};
    struct error err;
    (void)state;
    scratch_write_text(folder, "empty", "");
    assert_ok(file_map(&file, "empty", &err), &err);
    assert_int_equal(file.n_bytes, 0);
    assert_null(file.data);
    file_close(&file);
    assert_ok(file_read(&file, "empty", 0, &err), &err);
    assert_int_equal(file.n_bytes, 0);
    file_close(&file);
}

static void a_file_over_the_maximum_is_refused_before_it_is_read(void **state)
{
    struct file_bytes file = {0};
    struct error err;
    (void)state;
    scratch_write_text(folder, "f", "123456");
    assert_false(file_read(&file, "f", 5, &err));
    assert_error(&err, ERROR_TOO_LARGE, "", "'f' has 6 bytes; at most 5 are allowed");
    assert_null(file.data);
    /* A terabyte without blocks: reading it would take memory that is not there. */
    int descriptor = open("huge", O_CREAT | O_WRONLY, 0600);
    if (ftruncate(descriptor, (off_t)1 << 40) == 0) {
        assert_false(file_read(&file, "huge", 1 << 20, &err));
        assert_int_equal(err.code, ERROR_TOO_LARGE);
    }
    close(descriptor);
    file_close(&file);
}

static void what_is_not_a_regular_file_is_refused(void **state)
{
    static const char *const PATHS[] = {"fifo", "folder", "/dev/zero"};
    struct file_bytes file;
    struct error err;
    (void)state;
    assert_int_equal(mkfifo("fifo", 0600), 0);
    assert_int_equal(mkdir("folder", 0700), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_false(file_read(&file, PATHS[i], 100, &err));
        assert_error(&err, ERROR_BAD_INPUT, "", "is not a regular file");
        assert_false(file_map(&file, PATHS[i], &err));
        assert_error(&err, ERROR_BAD_INPUT, "", "is not a regular file");
    }
}

static void a_missing_file_is_not_found(void **state)
{
    struct file_bytes file;
    struct buffer text = {0};
    struct error err;
    (void)state;
    assert_false(file_read(&file, "none", 100, &err));
    assert_error(&err, ERROR_NOT_FOUND, "", "cannot open 'none'");
    assert_false(file_map(&file, "none", &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    assert_false(file_read_text(&text, "none/none", 100, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
}

/* A file that another thread cuts and grows all the time. Whoever reads it gets one of its sizes in
   full, or an error, and never a signal. */
static atomic_bool writer_stops;

static void *cut_and_grow(void *argument)
{
    int descriptor = open("moving", O_WRONLY);
    (void)argument;
    for (off_t size = 0; !atomic_load(&writer_stops); size = (size + 70001) % 1000000)
        if (ftruncate(descriptor, size))
            abort();
    close(descriptor);
    return NULL;
}

static void a_file_that_changes_under_the_reader_is_an_error_or_whole(void **state)
{
    pthread_t writer;
    int n_read = 0, n_refused = 0;
    (void)state;
    scratch_write_text(folder, "moving", "x");
    writer_stops = false;
    pthread_create(&writer, NULL, cut_and_grow, NULL);
    for (int i = 0; i < 2000; i++) {
        struct file_bytes file;
        struct error err;
        if (file_read(&file, "moving", 1 << 20, &err)) {
            n_read++;
            file_close(&file);
        } else {
            n_refused++;
            assert_error(&err, ERROR_IO, "", "changed its size");
        }
    }
    writer_stops = true;
    pthread_join(writer, NULL);
    assert_true(n_read + n_refused == 2000);
}

/* The kernel says that this one is empty, and then it has bytes: a file that grew, for us. */
static void a_file_that_is_longer_than_announced_is_refused(void **state)
{
    struct file_bytes file;
    struct error err;
    (void)state;
    if (!file_exists("/proc/self/status"))
        skip();
    assert_false(file_read(&file, "/proc/self/status", 1 << 20, &err));
    assert_error(&err, ERROR_IO, "", "changed its size while it was read");
}

static void a_buffer_with_a_maximum_of_its_own_is_respected(void **state)
{
    struct buffer text;
    struct error err;
    (void)state;
    scratch_write_text(folder, "f", "123456");
    buffer_init(&text, 3);
    assert_false(file_read_text(&text, "f", 100, &err));
    buffer_finish(&text);
}

/* --- writing --- */

static size_t n_entries(const char *path)
{
    char command[300];
    size_t n = 0;
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", path);
    FILE *pipe = popen(command, "r");
    if (fscanf(pipe, "%zu", &n) != 1)
        abort();
    pclose(pipe);
    return n;
}

static void replacing_leaves_the_new_bytes_and_nothing_else(void **state)
{
    struct error err;
    (void)state;
    assert_ok(file_replace("f", "one", 3, &err), &err);
    assert_holds("f", "one");
    assert_ok(file_replace("f", "two!", 4, &err), &err);
    assert_holds("f", "two!");
    char *path = path_join(folder, "f");
    assert_ok(file_replace(path, "", 0, &err), &err);
    assert_holds("f", "");
    free(path);
    assert_int_equal(n_entries(folder), 1);
}

static void a_replace_that_fails_leaves_the_old_bytes_and_nothing_else(void **state)
{
    struct error err;
    struct rlimit before, small = {.rlim_cur = 1000, .rlim_max = RLIM_INFINITY};
    static const char big[5000];
    (void)state;
    scratch_write_text(folder, "f", "old");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    bool replaced = file_replace("f", big, sizeof big, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_false(replaced);
    assert_error(&err, ERROR_IO, "", "cannot write");
    assert_holds("f", "old");
    assert_int_equal(n_entries(folder), 1);
    assert_false(file_replace("missing/f", "x", 1, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
}

static void a_directory_in_the_way_is_not_replaced(void **state)
{
    struct error err;
    (void)state;
    scratch_write_text(folder, "d/inside", "x");
    assert_false(file_replace("d", "x", 1, &err));
    assert_error(&err, ERROR_IO, "", "cannot replace 'd'");
    assert_int_equal(n_entries(folder), 1);
}

static void an_aborted_writer_leaves_nothing(void **state)
{
    struct file_writer writer;
    struct error err;
    (void)state;
    assert_ok(file_writer_open(&writer, "f", &err), &err);
    assert_ok(file_writer_write(&writer, "half", 4, &err), &err);
    assert_false(file_exists("f"));
    file_writer_abort(&writer);
    file_writer_abort(&writer);
    file_writer_abort(NULL);
    assert_int_equal(n_entries(folder), 0);
}

/* As when the daemon gets a signal while it writes gigabytes. */
static void a_writer_that_is_killed_leaves_nothing(void **state)
{
    (void)state;
    int probe = open(".", O_TMPFILE | O_WRONLY, 0600);
    if (probe < 0)
        skip(); /* this file system needs names */
    close(probe);
    pid_t child = fork();
    if (child == 0) {
        struct file_writer writer;
        bool written = file_writer_open(&writer, "f", NULL) && file_writer_write(&writer, "half", 4, NULL);
        _exit(written ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(n_entries(folder), 0);
}

static void readers_see_the_old_or_the_new_while_a_file_is_replaced(void **state)
{
    struct error err;
    char text[50000];
    (void)state;
    memset(text, 'a', sizeof text);
    assert_ok(file_replace("f", text, sizeof text, &err), &err);
    for (int round = 0; round < 50; round++) {
        struct file_bytes before;
        assert_ok(file_map(&before, "f", &err), &err);
        char old = (char)before.data[0];
        memset(text, 'a' + round % 26, sizeof text);
        assert_ok(file_replace("f", text, sizeof text, &err), &err);
        for (size_t i = 0; i < before.n_bytes; i++)
            assert_int_equal(before.data[i], old);
        file_close(&before);
    }
}

/* --- directories --- */

static void directories_are_made_with_their_parents(void **state)
{
    struct error err;
    (void)state;
    assert_ok(directory_create("a/b//c/", &err), &err);
    assert_true(path_is_directory("a/b/c"));
    assert_ok(directory_create("a/b/c", &err), &err);
    scratch_write_text(folder, "file", "x");
    assert_false(directory_create("file/x", &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_false(directory_create("file", &err));
    assert_false(path_is_directory("file"));
    assert_true(file_exists("file"));
}

static void removing_a_directory_takes_all_of_it_and_follows_no_link(void **state)
{
    struct error err;
    (void)state;
    scratch_write_text(folder, "keep/precious", "x");
    scratch_write_text(folder, "gone/a/b/file", "x");
    scratch_write_text(folder, "gone/file", "x");
    assert_int_equal(symlink("../keep", "gone/link"), 0);
    assert_int_equal(symlink("../../keep/precious", "gone/a/link"), 0);
    assert_int_equal(mkfifo("gone/fifo", 0600), 0);
    assert_ok(directory_remove("gone", &err), &err);
    assert_false(file_exists("gone"));
    assert_true(file_exists("keep/precious"));
    assert_ok(directory_remove("gone", &err), &err);
    assert_int_equal(symlink("keep", "link"), 0);
    assert_false(directory_remove("link", &err));
    assert_true(file_exists("keep/precious"));
    assert_false(directory_remove("keep/precious", &err));
}

/* --- paths --- */

static void joining_puts_one_slash_between(void **state)
{
    static const char *const CASES[][3] = {
        {"/a", "b", "/a/b"}, {"/a/", "b", "/a/b"}, {"/", "b", "/b"}, {"a", "b/c", "a/b/c"}};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        char *path = path_join(CASES[i][0], CASES[i][1]);
        assert_string_equal(path, CASES[i][2]);
        free(path);
    }
}

static void a_path_inside_the_root_is_resolved(void **state)
{
    static const char *const PATHS[] = {"poet", "./poet", "poet/", "sub/../poet", "link", "sub/up/poet"};
    struct error err;
    char *real = realpath(folder, NULL), *root = path_join(folder, "root"),
         *absolute = path_join(real, "root/poet");
    (void)state;
    scratch_write_text(folder, "root/poet/x", "x");
    scratch_write_text(folder, "root/sub/x", "x");
    assert_int_equal(symlink("poet", "root/link"), 0);
    assert_int_equal(symlink("..", "root/sub/up"), 0);
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        char *found = path_confine(root, PATHS[i], "path", &err);
        assert_non_null(found);
        assert_string_equal(found, absolute);
        free(found);
    }
    char *found = path_confine(root, absolute, "path", &err);
    assert_string_equal(found, absolute);
    free(found);
    found = path_confine(root, ".", "path", &err);
    assert_non_null(found);
    free(found);
    free(absolute);
    free(root);
    free(real);
}

static void a_path_outside_of_the_root_is_refused(void **state)
{
    static const char *const PATHS[] = {"..",
                                        "../rootless",
                                        "../rootless/secret",
                                        "out",
                                        "out/secret",
                                        "sub/../../rootless",
                                        "/etc/passwd",
                                        "/",
                                        "../no/such/place",
                                        "/no/such/place",
                                        "sub/../../no",
                                        "file-link"};
    struct error err;
    char *root = path_join(folder, "root");
    (void)state;
    scratch_write_text(folder, "root/sub/x", "x");
    scratch_write_text(folder, "rootless/secret", "x"); /* begins with the root's name */
    assert_int_equal(symlink("../rootless", "root/out"), 0);
    assert_int_equal(symlink("../rootless/secret", "root/file-link"), 0);
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        assert_null(path_confine(root, PATHS[i], "path", &err));
        assert_error(&err, ERROR_BAD_INPUT, "path", "lies outside of the allowed directory");
    }
    assert_null(path_confine(root, "", "path", &err));
    assert_error(&err, ERROR_BAD_INPUT, "path", "empty");
    free(root);
}

static void a_missing_path_inside_the_root_is_not_found(void **state)
{
    struct error err;
    char *root = path_join(folder, "root"), *absolute = path_join(root, "none/x");
    (void)state;
    scratch_write_text(folder, "root/file", "x");
    assert_null(path_confine(root, "none", "path", &err));
    assert_error(&err, ERROR_NOT_FOUND, "path", "No such file");
    assert_null(path_confine(root, "file/x", "path", &err));
    assert_error(&err, ERROR_NOT_FOUND, "path", "Not a directory");
    assert_null(path_confine(root, absolute, "path", &err));
    assert_error(&err, ERROR_NOT_FOUND, "path", "No such file");
    assert_int_equal(symlink("loop", "root/loop"), 0);
    assert_null(path_confine(root, "loop", "path", &err));
    assert_int_equal(err.code, ERROR_BAD_INPUT);
    char *long_path = calloc(1, 10000);
    memset(long_path, 'a', 9999);
    assert_null(path_confine(root, long_path, "path", &err));
    assert_int_equal(err.code, ERROR_BAD_INPUT);
    assert_null(path_confine("/no/such/root", "x", "path", &err));
    free(long_path);
    free(absolute);
    free(root);
}

static void the_root_of_all_confines_nothing(void **state)
{
    struct error err;
    (void)state;
    char *found = path_confine("/", "/tmp/..", "path", &err);
    assert_string_equal(found, "/");
    free(found);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_is_read_and_mapped_with_the_same_bytes),
        TEST(a_large_file_is_mapped_where_huge_pages_can_begin),
        TEST(a_stamp_tells_files_of_the_same_name_apart),
        TEST(an_empty_file_has_no_bytes),
        TEST(a_file_over_the_maximum_is_refused_before_it_is_read),
        TEST(what_is_not_a_regular_file_is_refused),
        TEST(a_missing_file_is_not_found),
        TEST(a_file_that_changes_under_the_reader_is_an_error_or_whole),
        TEST(a_file_that_is_longer_than_announced_is_refused),
        TEST(a_buffer_with_a_maximum_of_its_own_is_respected),
        TEST(replacing_leaves_the_new_bytes_and_nothing_else),
        TEST(a_replace_that_fails_leaves_the_old_bytes_and_nothing_else),
        TEST(a_directory_in_the_way_is_not_replaced),
        TEST(an_aborted_writer_leaves_nothing),
        TEST(a_writer_that_is_killed_leaves_nothing),
        TEST(readers_see_the_old_or_the_new_while_a_file_is_replaced),
        TEST(directories_are_made_with_their_parents),
        TEST(removing_a_directory_takes_all_of_it_and_follows_no_link),
        TEST(joining_puts_one_slash_between),
        TEST(a_path_inside_the_root_is_resolved),
        TEST(a_path_outside_of_the_root_is_refused),
        TEST(a_missing_path_inside_the_root_is_not_found),
        TEST(the_root_of_all_confines_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
