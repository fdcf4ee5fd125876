/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.h — what Prometheus is told at /metrics: of each set how it stands, and of each node what it sent. Counters begin anew with a
 * node's replicator, so they are given per node. */
#ifndef MASTER_METRICS_H
#define MASTER_METRICS_H

#include "master/http.h"

void metrics_answer(struct http_call *c);

#endif
