/* SPDX-License-Identifier: Apache-2.0 */
/* status.h — a set's status, {"set","in_sync","nodes":[…],"open":[…]} as replicators and master give it (docs/reference.md), for people. */
#ifndef CDM_STATUS_H
#define CDM_STATUS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* The node is meant to be up to date (a target that is not drained); a pure source has nothing to receive. */
bool cdm_status_is_counted(const json_t *node);
bool cdm_status_is_good(const json_t *node);
/* A list of objects by the text at `key`, n2 before n10. */
void cdm_status_sort(json_t *list, const char *key);

bool cdm_status_has_colours(void); /* standard output is a terminal that shows them and NO_COLOR is not set */
/* NODE STATE LAG PENDING WHY, one line per node, what is open, and the line that sums it up. */
void cdm_status_print(const json_t *status);
/* The files that are open for writing and so not counted: strings, or objects with path and since_ns. Nothing for an empty list. */
void cdm_status_print_open(const json_t *open);

#endif
