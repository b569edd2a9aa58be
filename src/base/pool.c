/*
 * pool.c - parts are drawn from one counter that runs down.
 *
 * Whoever takes the counter from v to v - 1 with v > 0 owns part n_parts - v of the run that is
 * going on, whichever run it woke up for: that run cannot end before its part is reported, so the
 * run's fields stay as they are. Hence a thread that comes late can do no harm, and nobody has to
 * wait for all threads to arrive. A counter below one only says that nothing is left.
 *
 * Waiting, on both sides, is a short spin and then a sleep. A sleeper announces itself before it
 * looks a last time, and who has news looks for sleepers after writing it; both sequentially
 * consistent, so one of the two sees the other.
 */
#include "base/pool.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

/* About 50 microseconds: longer than the pause between two kernel calls of a step, shorter than a
   waste that anybody would see when the engine is idle. */
enum { SPINS = 2000 };

struct worker {
    struct pool *pool;
    size_t index;
    pthread_t thread;
};

struct pool {
    /* The run: written by pool_run while no part is out, read by owners of a part. */
    pool_task *task;
    void *context;
    size_t n_parts;

    alignas(64) _Atomic int64_t n_left;      /* parts not yet drawn */
    alignas(64) _Atomic size_t n_unreported; /* parts not yet done */
    alignas(64) _Atomic unsigned run;        /* counts up with each run, and to stop */
    _Atomic unsigned n_sleeping;             /* workers */
    _Atomic bool caller_sleeps;
    _Atomic bool stopping;

    pthread_mutex_t lock; /* only for sleeping */
    pthread_cond_t run_began, run_ended;
    size_t n_threads, n_started;
    struct worker *workers; /* n_threads - 1 */
};

#if defined(__SSE2__)
typedef unsigned int float_mode;
enum { FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x0040 };
static float_mode float_mode_flush(void)
{
    float_mode before = _mm_getcsr();
    _mm_setcsr(before | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
    return before;
}
static void float_mode_set(float_mode mode)
{
    _mm_setcsr(mode);
}
static void spin(void)
{
    _mm_pause();
}
#elif defined(__aarch64__)
typedef uint64_t float_mode;
static void float_mode_set(float_mode mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}
static float_mode float_mode_flush(void)
{
    float_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    float_mode_set(before | (uint64_t)1 << 24);
    return before;
}
static void spin(void)
{
    __asm__ volatile("yield");
}
#else
#error "say here how this processor flushes denormals to zero"
#endif

void compute_thread_begin(void)
{
    float_mode_flush();
}

static void run_parts(struct pool *pool, size_t thread)
{
    size_t n_done = 0;
    for (;;) {
        int64_t left = atomic_fetch_sub_explicit(&pool->n_left, 1, memory_order_acquire);
        if (left <= 0)
            break;
        size_t n_parts = pool->n_parts;
        pool->task(pool->context, n_parts - (size_t)left, n_parts, thread);
        n_done++;
    }
    /* All of them belong to one run, because a run with an unreported part does not end. */
    if (n_done == 0 || atomic_fetch_sub(&pool->n_unreported, n_done) != n_done)
        return;
    if (atomic_load(&pool->caller_sleeps)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_signal(&pool->run_ended);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Returns when `run` is no longer `seen`. */
static void await_run(struct pool *pool, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->run, memory_order_acquire) != seen)
            return;
        spin();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (atomic_load(&pool->run) == seen)
        pthread_cond_wait(&pool->run_began, &pool->lock);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void await_reports(struct pool *pool)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->n_unreported, memory_order_acquire) == 0)
            return;
        spin();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->n_unreported) != 0)
        pthread_cond_wait(&pool->run_ended, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

static void begin_run(struct pool *pool)
{
    atomic_fetch_add(&pool->run, 1);
    if (atomic_load(&pool->n_sleeping) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->run_began);
    pthread_mutex_unlock(&pool->lock);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    unsigned seen = 0;

    compute_thread_begin();
    for (;;) {
        await_run(pool, seen);
        /* Before the parts: a run that begins while we work is seen at the next turn. */
        seen = atomic_load(&pool->run);
        if (atomic_load(&pool->stopping))
            return NULL;
        run_parts(pool, worker->index);
    }
}

static bool start_workers(struct pool *pool, struct error *err)
{
    /* Signals are for the threads that wait for them. */
    sigset_t all, before;
    int failure = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; pool->n_started < pool->n_threads - 1; pool->n_started++) {
        struct worker *worker = &pool->workers[pool->n_started];
        *worker = (struct worker){.pool = pool, .index = pool->n_started + 1};
        failure = pthread_create(&worker->thread, NULL, work, worker);
        if (failure)
            break;
        pthread_setname_np(worker->thread, "compute");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failure)
        return true;
    char reason[128];
    return error_set(err, ERROR_INTERNAL, "threads", "compute thread %zu of %zu does not start: %s",
                     pool->n_started + 2, pool->n_threads, strerror_r(failure, reason, sizeof reason));
}

struct pool *pool_create(size_t n_threads, struct error *err)
{
    enum { MOST_THREADS = 4096 };
    if (n_threads < 1 || n_threads > MOST_THREADS) {
        error_set(err, ERROR_BAD_INPUT, "threads", "must be from 1 to %d, but is %zu", MOST_THREADS,
                  n_threads);
        return NULL;
    }
    struct pool *pool = aligned_alloc(alignof(struct pool), sizeof *pool);
    struct worker *workers = calloc(n_threads, sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        error_no_memory(err);
        return NULL;
    }
    memset(pool, 0, sizeof *pool);
    pool->n_threads = n_threads;
    pool->workers = workers;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->run_began, NULL);
    pthread_cond_init(&pool->run_ended, NULL);
    if (!start_workers(pool, err)) {
        pool_destroy(pool);
        return NULL;
    }
    return pool;
}

void pool_destroy(struct pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stopping, true);
    begin_run(pool);
    for (size_t i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->run_ended);
    pthread_cond_destroy(&pool->run_began);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

size_t pool_n_threads(const struct pool *pool)
{
    return pool->n_threads;
}

void pool_run(struct pool *pool, pool_task *task, void *context, size_t n_parts)
{
    assert(n_parts <= INT64_MAX);
    float_mode before = float_mode_flush();

    if (pool->n_threads == 1 || n_parts <= 1) {
        for (size_t part = 0; part < n_parts; part++)
            task(context, part, n_parts, 0);
    } else {
        assert(atomic_load_explicit(&pool->n_unreported, memory_order_relaxed) ==
               0); /* not from inside a task */
        pool->task = task;
        pool->context = context;
        pool->n_parts = n_parts;
        atomic_store(&pool->n_unreported, n_parts);
        atomic_store_explicit(&pool->n_left, (int64_t)n_parts, memory_order_release);
        begin_run(pool);
        run_parts(pool, 0);
        await_reports(pool);
    }
    float_mode_set(before);
}
