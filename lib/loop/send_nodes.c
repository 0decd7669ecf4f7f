/*
 * The nodes of the send queues: an array that all connections of a loop share. See send.c.
 *
 * The invariant: a node is in one queue, in one record of what the kernel reads, or free.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/send.h"

#include <string.h>

#include "os/memory.h"

/** Nodes of all queues of a loop together: 32 MiB of address space, resident as used. */
#define NODES_MAX (UINT32_C(1) << 20)
#define NODES_PER_COMMIT (UINT32_C(1) << 15)

int
send_nodes_create(struct send_nodes *nodes)
{
    memset(nodes, 0, sizeof(*nodes));
    void *memory = NULL;
    const int error = berth_memory_reserve(&memory, NODES_MAX * sizeof(struct send_node),
                                           BERTH_HUGE_PAGE_BYTES, "berth-send");
    if (error)
        return error;
    nodes->at = memory;
    nodes->max = NODES_MAX;
    nodes->fresh = 1; /* node 0 is "none" */
    return 0;
}

void
send_nodes_destroy(struct send_nodes *nodes)
{
    berth_memory_release(nodes->at, nodes->max * sizeof(struct send_node));
    memset(nodes, 0, sizeof(*nodes));
}

uint32_t
send_node_fresh(struct send_nodes *nodes)
{
    if (nodes->fresh == nodes->max)
        return 0;
    if (nodes->fresh >= nodes->committed) {
        if (berth_memory_commit(&nodes->at[nodes->committed],
                                NODES_PER_COMMIT * sizeof(struct send_node)) != 0)
            return 0;
        nodes->committed += NODES_PER_COMMIT;
    }
    return nodes->fresh++;
}
