/*
 * keeper.c - the mailbox feeds two kinds of work. `sliced` is the thread's own list, so slices need no lock.
 */
#include "lora/keeper.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/mailbox.h"
#include "base/pool.h"

enum { PAUSE_PER_SLICE = 6, LONGEST_PAUSE_MS = 50 };

struct keeper {
    struct mailbox mailbox;
    struct list sliced; /* keeper's thread only */
    const _Atomic size_t *n_running; /* requests in the engine; NULL: nobody says */
    atomic_bool stopping;
    pthread_t thread;
};

static struct keeper_job *job_of(struct list *link)
{
    return LIST_ENTRY(link, struct keeper_job, link);
}

static void take_message(struct keeper *keeper, struct list *message)
{
    struct keeper_job *job = job_of(message);
    if (job->in_slices)
        list_append(&keeper->sliced, &job->link);
    else
        while (job->run(job))
            ;
}

/* Of this thread: what a slice took of the machine, however long it waited for it. */
static uint64_t processor_time_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

static bool is_engine_busy(const struct keeper *keeper)
{
    return keeper->n_running && atomic_load_explicit(keeper->n_running, memory_order_relaxed) > 0;
}

/* A low priority alone does not make slices rare: whenever the engine's threads wait for each other there is a core to be had, and who
   has it keeps it for some milliseconds. So while the engine works a slice is followed by a pause, which a message ends. */
static struct list *pause_after(struct keeper *keeper, uint64_t slice_us)
{
    uint64_t pause_ms = size_min(slice_us * PAUSE_PER_SLICE / 1000, LONGEST_PAUSE_MS);
    if (!is_engine_busy(keeper) || pause_ms == 0)
        return NULL;
    return mailbox_wait(&keeper->mailbox, (int)pause_ms);
}

static void run_slice(struct keeper *keeper)
{
    struct keeper_job *job = job_of(keeper->sliced.next);
    list_remove(&job->link);
    if (job->run(job)) {
        /* Back to the front: one merge after the other, not all at a time. */
        list_append(keeper->sliced.next, &job->link);
    }
}

/* Whether a message ended the pause. */
static bool run_slice_and_pause(struct keeper *keeper)
{
    uint64_t began_us = processor_time_us();
    run_slice(keeper);
    struct list *message = pause_after(keeper, processor_time_us() - began_us);
    if (message)
        take_message(keeper, message);
    return message != NULL;
}

/* Before it sleeps the keeper gives back what adapters have left free between other blocks: loading and unloading for months
   must not make the process larger. Small blocks only are meant; large ones are mapped and go when they are freed. */
static void give_memory_back(bool *has_worked)
{
    if (*has_worked)
        malloc_trim(0);
    *has_worked = false;
}

/* Nice: about one part in fifteen of a core that the engine wants too, and all of one that nobody wants. */
enum { KEEPER_NICE = 12 };

static void lower_priority(void)
{
    id_t thread = (id_t)gettid(); /* Linux keeps a nice value for each thread */
    int present = getpriority(PRIO_PROCESS, thread);
    /* Where it is refused, the keeper does the same work at the engine's expense. */
    if (present < KEEPER_NICE && setpriority(PRIO_PROCESS, thread, KEEPER_NICE) != 0)
        return;
}

static void *keeper_main(void *context)
{
    struct keeper *keeper = context;
    bool has_worked = false;
    compute_thread_begin();
    lower_priority();
    for (;;) {
        bool has_slices = !list_is_empty(&keeper->sliced);
        bool is_closed =
            mailbox_is_closed(&keeper->mailbox); /* asked first: what was posted before is seen below */
        struct list *message = mailbox_take(&keeper->mailbox);
        if (!message && !has_slices) {
            give_memory_back(&has_worked);
            message = mailbox_wait(&keeper->mailbox, -1);
        }
        has_worked |= message != NULL;
        if (message)
            take_message(keeper, message);
        else if (has_slices)
            has_worked |= run_slice_and_pause(keeper);
        else if (is_closed)
            return NULL;
    }
}

struct keeper *keeper_create(const _Atomic size_t *n_running, struct error *err)
{
    struct keeper *keeper = calloc(1, sizeof *keeper);
    if (!keeper)
        return error_no_memory(err), NULL;
    list_init(&keeper->sliced);
    keeper->n_running = n_running;
    if (!mailbox_init(&keeper->mailbox, err)) {
        free(keeper);
        return NULL;
    }
    sigset_t all, before; /* signals are for the main thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int problem = pthread_create(&keeper->thread, NULL, keeper_main, keeper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (problem != 0) {
        error_set(err, ERROR_INTERNAL, NULL, "cannot start a thread: %s", strerror(problem));
        mailbox_finish(&keeper->mailbox);
        free(keeper);
        return NULL;
    }
    return keeper;
}

bool keeper_post(struct keeper *keeper, struct keeper_job *job)
{
    return mailbox_post(&keeper->mailbox, &job->link, 0);
}

void keeper_stop(struct keeper *keeper)
{
    atomic_store(&keeper->stopping, true);
    mailbox_wake(&keeper->mailbox);
}

bool keeper_is_stopping(const struct keeper *keeper)
{
    return atomic_load(&keeper->stopping);
}

bool keeper_is_current(const struct keeper *keeper)
{
    return pthread_equal(pthread_self(), keeper->thread);
}

void keeper_destroy(struct keeper *keeper)
{
    if (!keeper)
        return;
    keeper_stop(keeper);
    mailbox_close(&keeper->mailbox);
    pthread_join(keeper->thread, NULL);
    mailbox_finish(&keeper->mailbox);
    free(keeper);
}
