/*
 * adapter.c - the life of a loaded adapter; adapter_load.c makes one.
 */
#include "lora/adapter.h"

#include <stdlib.h>

#include "lora/report.h"

struct adapter *adapter_ref(struct adapter *adapter)
{
    ref_take(&adapter->ref);
    return adapter;
}

void adapter_unref(struct adapter *adapter)
{
    if (adapter && ref_drop(&adapter->ref))
        adapter->dispose(adapter);
}

void adapter_destroy(struct adapter *adapter)
{
    if (!adapter)
        return;
    for (size_t i = 0; i < adapter->n_sites; i++)
        matrix_unref(adapter->sites[i].weight);
    report_finish(&adapter->report);
    arena_finish(&adapter->arena);
    free(adapter);
}

const struct adapter_site *adapter_find_site(const struct adapter *adapter, size_t index)
{
    size_t low = 0, high = adapter->n_sites;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (adapter->sites[middle].site < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < adapter->n_sites && adapter->sites[low].site == index ? &adapter->sites[low] : NULL;
}
