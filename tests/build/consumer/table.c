/*
 * A program of somebody else: the installed libberth, used from C with nothing but its public
 * headers. It also compiles as C++, where it is the proof that the typed wrappers do.
 *
 * SPDX-License-Identifier: MIT
 */
#include <berth.h>
#include <stdio.h>
#include <string.h>

struct hot {
    uint32_t requests;
};

struct cold {
    char peer[64];
};

BERTH_TABLE_TYPE(client, struct hot, struct cold);

static int
use_table(void)
{
    struct berth_table table;
    struct hot *hot = NULL;
    struct cold *cold = NULL;
    int result = client_table_init(&table, NULL);
    if (result != 0)
        return result;

    result = client_claim(&table, 5, &hot);
    if (result == 0) {
        const berth_token token = client_token(hot, 1);
        hot->requests++;
        cold = client_cold(&table, hot);
        if (cold != NULL)
            strcpy(cold->peer, "somebody");
        if (cold == NULL || client_find(&table, token) != hot || client_release(&table, hot) != 0 ||
            client_find(&table, token) != NULL)
            result = -1;
    }
    berth_table_fini(&table);
    return result;
}

static int
use_pool(void)
{
    struct berth_pool *pool = NULL;
    struct berth_lease lease;
    int result = berth_pool_create(&pool, NULL);
    if (result != 0)
        return result;

    result = berth_pool_get(pool, BERTH_CLASS_512, BERTH_FOR_NEW, &lease);
    if (result == 0) {
        memset(berth_lease_data(pool, lease), 'b', lease.length);
        result = berth_release(pool, lease);
    }
    return berth_pool_destroy(pool) != 0 ? -1 : result;
}

int
main(void)
{
    const int table = use_table();
    const int pool = use_pool();
    printf("berth %s: table %d, pool %d\n", berth_version_string(), table, pool);
    return table == 0 && pool == 0 && berth_version() == BERTH_VERSION ? 0 : 1;
}
