#include "engine/queue.h"

#include <assert.h>
#include <stdlib.h>

struct queue_share {
    struct list link; /* active or resting */
    uint64_t key;
    uint64_t n_served; /* tokens: the virtual counter */
    struct list items;
    size_t n_items, n_places; /* n_places: dealt by queue_choose */
};

static struct queue_share *share_at(struct list *link)
{
    return LIST_ENTRY(link, struct queue_share, link);
}

static struct queue_item *item_at(struct list *link)
{
    return LIST_ENTRY(link, struct queue_item, link);
}

void queue_init(struct queue *queue)
{
    *queue = (struct queue){0};
    list_init(&queue->active);
    list_init(&queue->resting);
}

static void free_share(struct queue_share *share)
{
    list_remove(&share->link);
    free(share);
}

void queue_finish(struct queue *queue)
{
    assert(list_is_empty(&queue->active));
    while (!list_is_empty(&queue->resting))
        free_share(share_at(queue->resting.next));
}

/* ---- shares come and go ---- */

static uint64_t least_served(const struct queue *queue)
{
    uint64_t least = UINT64_MAX;
    LIST_FOR_EACH(link, &queue->active)
        if (share_at(link)->n_served < least)
            least = share_at(link)->n_served;
    return least;
}

/* One that was served no more than the least of the active ones would be lifted to that anyway: nothing of it needs to be remembered. With
   nobody active nobody was kept waiting, and all begin anew. */
static void forget_resting(struct queue *queue)
{
    uint64_t least = least_served(queue);
    for (struct list *link = queue->resting.next, *next; link != &queue->resting; link = next) {
        next = link->next;
        if (share_at(link)->n_served <= least)
            free_share(share_at(link));
    }
}

static struct queue_share *find(struct list *shares, uint64_t key)
{
    LIST_FOR_EACH(link, shares)
        if (share_at(link)->key == key)
            return share_at(link);
    return NULL;
}

static struct queue_share *activate(struct queue *queue, uint64_t key)
{
    struct queue_share *share = find(&queue->active, key);
    if (share)
        return share;
    bool is_first = list_is_empty(&queue->active);
    uint64_t least = is_first ? 0 : least_served(queue);
    forget_resting(queue);
    share = find(&queue->resting, key);
    if (share)
        list_remove(&share->link);
    else if (!(share = calloc(1, sizeof *share)))
        return NULL;
    share->key = key;
    if (share->n_served < least)
        share->n_served = least;
    list_init(&share->items);
    list_append(&queue->active, &share->link);
    return share;
}

/* ---- items ---- */

static bool goes_before(const struct queue_item *a, const struct queue_item *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->arrival < b->arrival;
}

bool queue_add(struct queue *queue, struct queue_item *item, uint64_t key, int priority)
{
    struct queue_share *share = activate(queue, key);
    if (!share)
        return false;
    *item = (struct queue_item){.share = share, .priority = priority, .arrival = queue->n_arrivals++};
    struct list *after = share->items.previous;
    while (after != &share->items && goes_before(item, item_at(after)))
        after = after->previous;
    list_append(after->next, &item->link); /* in front of what stands behind `after` */
    share->n_items++;
    return true;
}

void queue_remove(struct queue *queue, struct queue_item *item)
{
    struct queue_share *share = item->share;
    list_remove(&item->link);
    if (--share->n_items > 0)
        return;
    list_remove(&share->link);
    list_append(&queue->resting, &share->link);
    forget_resting(queue);
}

void queue_charge(struct queue_item *item, uint64_t n_tokens)
{
    item->share->n_served += n_tokens;
}

bool queue_comes_before(const struct queue_item *a, const struct queue_item *b)
{
    if (a->share->n_served != b->share->n_served)
        return a->share->n_served < b->share->n_served;
    return a->arrival < b->arrival;
}

/* ---- choosing ---- */

static size_t count_places(const struct queue_share *share)
{
    size_t n = 0;
    LIST_FOR_EACH(link, &share->items)
        n += item_at(link)->has_place;
    return n;
}

static size_t count_unsatisfied(const struct queue *queue)
{
    size_t n = 0;
    LIST_FOR_EACH(link, &queue->active)
        n += share_at(link)->n_items > share_at(link)->n_places;
    return n;
}

/* Who gets one more than `n_equal`: a share that has more sequences running already, else the one served least. */
static struct queue_share *find_next(const struct queue *queue, size_t n_equal)
{
    struct queue_share *best = NULL;
    bool best_has_more = false;
    LIST_FOR_EACH(link, &queue->active) {
        struct queue_share *share = share_at(link);
        if (share->n_places > n_equal || share->n_items <= n_equal)
            continue;
        bool has_more = count_places(share) > n_equal;
        if (!best || (has_more && !best_has_more) || (has_more == best_has_more && share->n_served < best->n_served)) {
            best = share;
            best_has_more = has_more;
        }
    }
    return best;
}

static void deal(struct queue *queue, size_t n_places)
{
    size_t n_wanting, n_equal = 0;
    LIST_FOR_EACH(link, &queue->active)
        share_at(link)->n_places = 0;
    for (; (n_wanting = count_unsatisfied(queue)) > 0 && n_wanting <= n_places; n_equal++)
        LIST_FOR_EACH(link, &queue->active)
            if (share_at(link)->n_items > share_at(link)->n_places) {
                share_at(link)->n_places++;
                n_places--;
            }
    for (; n_wanting > 0 && n_places > 0; n_places--) /* fewer places than shares that want one */
        find_next(queue, n_equal)->n_places++;
}

size_t queue_choose(struct queue *queue, size_t n_places)
{
    size_t n_chosen = 0;
    deal(queue, n_places);
    LIST_FOR_EACH(link, &queue->active) {
        size_t n_left = share_at(link)->n_places;
        LIST_FOR_EACH(item, &share_at(link)->items) {
            item_at(item)->is_chosen = n_left > 0;
            n_left -= n_left > 0;
        }
        n_chosen += share_at(link)->n_places;
    }
    return n_chosen;
}
