#include "base/huge.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/bytes.h"

/* So much more is mapped that a border lies in it; what is before and behind goes back. */
void *huge_allocate(size_t n_bytes)
{
    if (n_bytes == 0 || n_bytes > SIZE_MAX / 2)
        return NULL;
    size_t n_wanted = align_up(n_bytes, HUGE_PAGE_BYTES), n_mapped = n_wanted + HUGE_PAGE_BYTES;
    char *mapped = mmap(NULL, n_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return NULL;
    size_t n_before = align_up((uintptr_t)mapped, HUGE_PAGE_BYTES) - (uintptr_t)mapped, n_behind = HUGE_PAGE_BYTES - n_before;
    char *memory = mapped + n_before;
    if (n_before > 0)
        munmap(mapped, n_before);
    if (n_behind > 0)
        munmap(memory + n_wanted, n_behind);
    (void)madvise(memory, n_wanted, MADV_HUGEPAGE); /* a wish: without them all works as well */
    return memory;
}

void huge_free(void *memory, size_t n_bytes)
{
    if (memory)
        munmap(memory, align_up(n_bytes, HUGE_PAGE_BYTES));
}

void *huge_malloc(size_t n_bytes)
{
    enum { SMALL_ALIGNMENT = 64 };
    bool is_large = n_bytes >= 2 * HUGE_PAGE_BYTES;
    void *memory;
    if (n_bytes > SIZE_MAX / 2 || posix_memalign(&memory, is_large ? HUGE_PAGE_BYTES : SMALL_ALIGNMENT, n_bytes) != 0)
        return NULL;
    if (is_large)
        (void)madvise(memory, n_bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES, MADV_HUGEPAGE);
    return memory;
}
