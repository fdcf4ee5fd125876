/* SPDX-License-Identifier: Apache-2.0 */
/* posix.h — the scenarios of 010_mount_posix, by what they are about. Each list ends with a NULL name. */
#ifndef POSIX_H
#define POSIX_H

#include "tests/cluster/probe.h"

extern const struct scenario posix_names[], posix_content[], posix_attributes[], posix_permissions[], posix_locks[], posix_directories[];

#endif
