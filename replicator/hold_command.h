/* SPDX-License-Identifier: Apache-2.0 */
/* hold_command.h — `cdm-replicator hold list | approve H | reject H`: the same as cdmctl's, at the node itself, so that it works while the
 * master is away. */
#ifndef REPLICATOR_HOLD_COMMAND_H
#define REPLICATOR_HOLD_COMMAND_H

#include "common/error.h"

/* decision: NULL = list, "approve", "reject". The exit code; errors are in err. */
int hold_command(const char *config, const char *decision, const char *id, struct cdm_error *err);

#endif
