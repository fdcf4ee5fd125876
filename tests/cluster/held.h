/* SPDX-License-Identifier: Apache-2.0 */
/* held.h — threads of a replicator wait at named places until a test lets them go on (common/faultpoint.h). */
#ifndef HELD_H
#define HELD_H

void started_to_be_held(const char *node); /* its replicator, anew: it is the one that can be held */
const char *hold_path(void);               /* CDMFS_FAULTPOINT_FILE of whatever else is to be one that can be held */
void hold(const char *point);              /* whoever comes to this point waits there */
int arrived(const char *point);            /* somebody waits there; he goes on when what is returned is closed */

#endif
