/* SPDX-License-Identifier: Apache-2.0 */
/* kept.h — ids of what a node keeps until somebody decides (set.h: set_conflicts, set_quarantine): a letter and eight hexadecimal digits, made of the node's
 * number and of what it is, so that they stay the same as long as it is there. */
#ifndef REPLICATOR_KEPT_H
#define REPLICATOR_KEPT_H

#include <stddef.h>
#include <stdint.h>

#define KEPT_ID_SIZE 12
void kept_id(char letter, uint32_t node, const char *what, size_t len, char out[KEPT_ID_SIZE]);

#endif
