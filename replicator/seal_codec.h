/* SPDX-License-Identifier: Apache-2.0 */
/* seal_codec.h — payload of a SEAL frame (wire_protocol.md, "Seals"): what an author says of the names that its newest changes were about, its
 * signature, and its certificate. The one place that knows the bytes. Decoding checks everything and points into the payload. Pure. */
#ifndef REPLICATOR_SEAL_CODEC_H
#define REPLICATOR_SEAL_CODEC_H

#include "replicator/data_frames.h"

#define SEAL_NAMES_MAX 64
#define SEAL_PATHS_MAX (128u << 10) /* bytes of their paths together, so that a seal with the largest vector fits into its frame */
#define SEAL_DIGEST 32              /* SHA-256 */
#define SEAL_SET_MAX 255

struct sealed { /* one name */
	const char *path;
	size_t path_len;
	bool there;             /* false: nothing is there, and nothing below counts */
	uint32_t mode, uid, gid;
	uint64_t size, rdev;
	int64_t mtime_ns;
	struct cdm_stamp stamp; /* which content and which attributes are meant */
	const char *user, *group; /* of the owner, where the author knows names; "" else */
	size_t user_len, group_len;
	uint8_t content[SEAL_DIGEST]; /* of a file (blocks.h), of a symlink's target; zeros: it is not told */
	uint8_t xattrs[SEAL_DIGEST];  /* of what replicates (seal_look.h); zeros: there are none */
};

bool seal_tells_content(const struct sealed *n);

struct seal {
	const uint8_t *certificate; /* DER */
	size_t certificate_len;
	const uint8_t *signature;   /* of SEAL_PURPOSE and the statement; seal_sign.h */
	size_t signature_len;
	const uint8_t *statement;   /* all that follows */
	size_t statement_len;
	char set[SEAL_SET_MAX + 1];
	uint64_t clock;             /* hybrid logical clock, rises from seal to seal of a node: what comes again is known by it */
	struct cdm_dot upto;        /* newest change of the author that it speaks for */
	uint64_t after, through;    /* Of its changes (numbers of upto's origin) those after `after` up to `through` are told of by this seal, or need not
	                             * be. The next seal has this `through` as its `after`, so one that is missing shows. after 0: the first of a process;
	                             * what that one does not find noted will have no seal. A seal without names says only that */
	bool still;                 /* `vector` is all that the author had applied while it looked: absence counts, too */
	struct cdm_vector vector;   /* owned by the decoded struct: seal_fini */
	struct sealed names[SEAL_NAMES_MAX];
	size_t count;
};

#define SEAL_AUTHORS_MAX 4096
struct seal_seen { /* SEAL_SEEN: of each author, how far its seals came to the sender */
	size_t count;
	struct seal_author {
		uint32_t number;
		uint64_t clock; /* of the newest */
	} authors[SEAL_AUTHORS_MAX];
};
void seal_seen_encode(const struct seal_seen *s, struct bytes *out);
int seal_seen_decode(const uint8_t *in, size_t len, struct seal_seen *ret);

/* The statement: everything from `set` on. */
void seal_statement_encode(const struct seal *s, struct bytes *out);
/* The whole payload, of certificate, signature and statement. */
void seal_encode(const struct seal *s, struct bytes *out);
int seal_decode(const uint8_t *in, size_t len, struct seal *ret);
void seal_fini(struct seal *s);

#endif
