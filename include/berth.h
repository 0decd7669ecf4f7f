/*
 * berth: the connection table and the buffer pool, all that libberth holds. The bundled loop is
 * another library with its own header, berth/loop.h; glue for foreign event loops is in
 * berth/adapt/.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_H
#define BERTH_H

#include "berth/alloc.h"
#include "berth/attr.h"
#include "berth/cacheline.h"
#include "berth/copies.h"
#include "berth/pool.h"
#include "berth/stats.h"
#include "berth/table.h"
#include "berth/token.h"
#include "berth/version.h"

#endif
