/* SPDX-License-Identifier: Apache-2.0 */
/* signatures.h — signatures of the versions this node shipped, so that the delta of the next version takes neither the old content nor a
 * round trip. A cache: losing it costs bytes on the link, nothing else. Two files in STORE/.cdmfs/signatures/, each up to half of the limit; records are
 * appended to one, and when it is full the other, older one begins anew. Nothing is synced: a record that a crash tore
 * does not have its checksum. A record names its version by dot, so an old one never becomes wrong.
 *
 * Record (little endian): u32 magic "CDMd", u32 bytes of all of it, dot, u64 key of the name (below), u64 XXH3-64 of the path, u64 file size, u32 path length, u32 signature length,
 * u64 XXH3-64 of path and signature, u64 XXH3-64 of the 64 bytes before; path, signature (delta_signature_encode). A file begins with u64 generation.
 *
 * Any thread. The index in memory has about 90 bytes per record; a lookup never waits for a disk, get and put may. */
#ifndef REPLICATOR_SIGNATURES_H
#define REPLICATOR_SIGNATURES_H

#include "common/change.h"
#include "replicator/delta.h"

/* Bytes on disk of one set: SHARE of its filesystem, between MIN and MAX. Small files take a sixteenth of their size. */
#define SIGNATURES_SHARE 256
#define SIGNATURES_MIN (64ull << 20)
#define SIGNATURES_MAX (256ull << 20)

struct signatures;
/* store_fd is borrowed. Makes what is missing, reads what is there. */
int signatures_open(int store_fd, uint64_t limit, struct signatures **ret, struct cdm_error *err);
void signatures_close(struct signatures **s);

bool signatures_has(struct signatures *s, struct cdm_dot dot);
/* Remember; one that is there already is not written again. 0 or -errno (remembered nothing). */
int signatures_put(struct signatures *s, struct cdm_dot dot, const char *path, size_t path_len, const struct delta_signature *signature);
/* For the caller to free(); NULL: not there (any more). */
struct delta_signature *signatures_get(struct signatures *s, struct cdm_dot dot);

/* The newest remembered version of what was at this path when it was shipped; none: nothing is known. From the index alone. */
struct cdm_dot signatures_newest_at(struct signatures *s, const char *path, size_t path_len);

/* The newest remembered version of another file in path's directory whose name differs only in what programs make up for each version
 * (app.3f2a.js, app-1.2.3.js, page.html.new, .page.html.Xy12Ab), and whose size is between half and twice of this. False: none.
 * Of a temporary name: what is at the name that it will have, if that is remembered. */
struct signatures_like {
	struct cdm_dot dot;
	char *path; /* caller frees */
	size_t path_len;
};
bool signatures_may_find_like(struct signatures *s, const char *path, size_t path_len); /* from the index alone */
bool signatures_find_like(struct signatures *s, const char *path, size_t path_len, uint64_t size, struct signatures_like *ret);
/* Key of a path's directory and of what is constant in its name; 0: a name of which nothing is. For tests. */
uint64_t signatures_name_key(const char *path, size_t len);

#endif
