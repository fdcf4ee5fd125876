/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/set_internal.h"
void resync_begin(struct peer *p) { cdm_log(resync_begins, cdm_str("set", set_name(p->set)), cdm_str("peer", link_peer_name(p->link)), cdm_str("reason","journal")); }
int resync_frame(struct peer *p, enum frame_type type, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err) { return 0; }
void resync_drained(struct peer *p) {}
void resync_free(struct peer *p) {}
bool set_has_unstamped(struct set *s) { return false; }
