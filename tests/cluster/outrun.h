/* SPDX-License-Identifier: Apache-2.0 */
/* outrun.h — a journal that ends before a node comes back. */
#ifndef OUTRUN_H
#define OUTRUN_H

#define OUTRUN_JOURNAL "16M" /* of such a lab */

/* More changes than the small journal of this lab holds: symlinks with long targets, as their records hold the target. They are removed when
 * `witness` (may be NULL) has them, so that its journal is outrun, too: what comes and goes unseen does not travel. */
void outrun_the_journal(const char *node, const char *witness);

#endif
