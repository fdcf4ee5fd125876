/* SPDX-License-Identifier: Apache-2.0 */
/* store_rig.h — an empty store with its .cdmfs/, for tests of what is kept there. */
#ifndef STORE_RIG_H
#define STORE_RIG_H

extern int store_fd; /* of the store's root */

/* cmocka's group set-up and tear-down; what the tests left in .cdmfs/ goes. */
int store_set_up(void **state);
int store_tear_down(void **state);

#endif
