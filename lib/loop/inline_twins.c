/*
 * Exported twins, with the suffix _fn, of the inline functions in berth/loop.h, berth/timer.h and
 * berth/udp.h: for languages that cannot compile C.
 *
 * SPDX-License-Identifier: MIT
 */
#include "berth/loop.h"
#include "berth/udp.h"

#define TWIN(type, name, parameters, arguments)                                                    \
    BERTH_API type name##_fn parameters;                                                           \
    type name##_fn parameters                                                                      \
    {                                                                                              \
        return name arguments;                                                                     \
    }

TWIN(void *, berth_conn_payload, (struct berth_conn * conn), (conn))
TWIN(berth_token, berth_conn_token, (const struct berth_conn *conn), (conn))
TWIN(void *, berth_udp_payload, (struct berth_udp * udp), (udp))
TWIN(berth_token, berth_udp_token, (const struct berth_udp *udp), (udp))
TWIN(int, berth_timer_running, (const struct berth_timer *timer), (timer))

BERTH_API void berth_timer_init_fn(struct berth_timer *timer, berth_timer_fn *fn, void *context);
void
berth_timer_init_fn(struct berth_timer *timer, berth_timer_fn *fn, void *context)
{
    berth_timer_init(timer, fn, context);
}

BERTH_API void berth_loop_options_init_fn(struct berth_loop_options *options);
void
berth_loop_options_init_fn(struct berth_loop_options *options)
{
    berth_loop_options_init(options);
}

BERTH_API void berth_udp_options_init_fn(struct berth_udp_options *options);
void
berth_udp_options_init_fn(struct berth_udp_options *options)
{
    berth_udp_options_init(options);
}
