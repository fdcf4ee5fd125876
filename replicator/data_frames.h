/* SPDX-License-Identifier: Apache-2.0 */
/* data_frames.h — payloads of the set data plane's frames (wire_protocol.md, "Set data plane"): the one place that knows their bytes.
 * encode functions append to a struct bytes; decode functions check everything and point into the payload they were given.
 * Pure: no thread, no state. */
#ifndef REPLICATOR_DATA_FRAMES_H
#define REPLICATOR_DATA_FRAMES_H

#include "common/change.h"

/* A growing byte buffer. {0} is empty. Allocation failure aborts (bounded by the callers' limits). */
struct bytes {
	uint8_t *data;
	size_t len, room;
};
void bytes_fini(struct bytes *b);
uint8_t *bytes_add(struct bytes *b, size_t len); /* room for len more bytes, uninitialised */
void bytes_put(struct bytes *b, const void *data, size_t len);
void bytes_put_u8(struct bytes *b, uint8_t v);
void bytes_put_u16(struct bytes *b, uint16_t v);
void bytes_put_u32(struct bytes *b, uint32_t v);
void bytes_put_u64(struct bytes *b, uint64_t v);

/* A cursor over received bytes; after the first short read `bad` stays set and everything reads as zero. */
struct reading {
	const uint8_t *data;
	size_t len, at;
	bool bad;
};
uint8_t reading_u8(struct reading *r);
uint16_t reading_u16(struct reading *r);
uint32_t reading_u32(struct reading *r);
uint64_t reading_u64(struct reading *r);
const uint8_t *reading_bytes(struct reading *r, size_t len); /* NULL when short */

#define FRAME_PIECE_MAX (128u << 10)    /* content bytes in one frame */
#define FRAME_XATTRS_MAX 1024           /* xattrs of one object */
#define FRAME_XATTR_BYTES_MAX (1u << 20) /* and their bytes together */
#define FRAME_OWNER_MAX 64              /* bytes of a user or group name */
#define FRAME_BATCH_CHANGES_MAX 4096
#define FRAME_BATCH_INLINE_MAX (24u << 20) /* inline content of one batch: more is a protocol error */
#define FRAME_BATCHES_IN_FLIGHT 4

/* SUBSCRIBE, ACK: two vectors; SUBSCRIBE adds flags and the partial contents it could go on with. */
enum subscribe_flags {
	SUBSCRIBE_EMPTY = 1,  /* I have nothing of this set yet: if your journal is not the whole story, walk the trees with me */
	SUBSCRIBE_RESYNC = 2, /* my own journal was lost: walk the trees in any case */
};
struct partial {
	struct cdm_dot dot;
	uint64_t bytes; /* content bytes, in the order sent, that are there */
	uint64_t hash;  /* XXH3-64 of them, so that a changed source is noticed */
};
#define FRAME_PARTIALS_MAX 64
struct subscribe {
	uint8_t flags;
	struct cdm_vector visible, durable; /* owned by the decoded struct: subscribe_fini */
	struct partial partials[FRAME_PARTIALS_MAX];
	size_t partial_count;
};
void subscribe_encode(const struct subscribe *s, struct bytes *out);
int subscribe_decode(const uint8_t *in, size_t len, struct subscribe *ret);
void subscribe_fini(struct subscribe *s);

struct batch_head { /* BATCH, BATCH_END */
	uint64_t number;
	uint32_t changes;
	uint64_t bytes;
};
void batch_head_encode(const struct batch_head *h, struct bytes *out);
int batch_head_decode(const uint8_t *in, size_t len, struct batch_head *ret);

struct ack {
	uint64_t batch; /* newest batch that is visible; 0 = none in this link's life */
	struct cdm_vector visible, durable;
};
void ack_encode(const struct ack *a, struct bytes *out);
int ack_decode(const uint8_t *in, size_t len, struct ack *ret);
void ack_fini(struct ack *a);

enum content_kind {
	CONTENT_NONE = 0,
	CONTENT_WHOLE = 1,   /* everything; what no piece covers is a hole */
	CONTENT_RANGES = 2,  /* pieces on top of the base version */
	CONTENT_ATTRS = 3,   /* object attributes only (directories) */
	CONTENT_DELTA = 4,   /* pieces, and copies out of the base version; the rest are holes */
	CONTENT_APART = 5,   /* everything, fetched apart from the change (fetch.h) */
};
#define ANSWER_ORIGIN CDM_ORIGIN(UINT32_MAX, UINT32_MAX) /* of the dot of an answer: (this, ticket) */
enum carried_flags {
	CARRIED_INLINE = 1, /* pieces and hash follow in the same frame */
	CARRIED_ANSWER = 2, /* answer to NEED, not part of a batch */
	CARRIED_GONE = 4,   /* with ANSWER: nothing is there */
};
struct carried_xattr {
	const char *name; /* NUL-terminated */
	const uint8_t *value;
	uint32_t value_len;
};
#define FRAME_COPIES_INLINE_MAX (32u << 10) /* bytes of copies in CHANGE; more come in COPIES frames */
#define FRAME_COPIES_MAX (4u << 20)         /* bytes of copies of one content … */
#define FRAME_ANSWER_COPIES_MAX (128u << 10) /* … in an answer: many of them may wait */
struct carried_delta { /* with CONTENT_DELTA */
	struct cdm_dot base;     /* content version that the copies are taken from … */
	const char *path;        /* … and where it is, "" = at the change's own path */
	size_t path_len;
	uint64_t base_size;
	uint8_t digest[16];      /* of the new content (delta.h) */
	uint32_t copies_total;   /* bytes of encoded copies (delta_code.c), at most FRAME_COPIES_MAX */
	const uint8_t *copies;   /* all of them, if at most FRAME_COPIES_INLINE_MAX; else NULL: COPIES frames follow */
};
struct carried { /* CHANGE: one change and what travels with it */
	enum content_kind kind;
	uint8_t flags;
	struct cdm_change change;    /* carried_fini */
	const char *user, *group;    /* names of the owner where the sender knows them, else "" */
	size_t user_len, group_len;
	/* kind != NONE: */
	struct cdm_stamp stamp;
	uint32_t mode, uid, gid;
	uint64_t size, rdev;
	int64_t mtime_ns;
	struct carried_xattr *xattrs; /* owned by the decoded struct */
	size_t xattr_count;
	uint64_t content_bytes;       /* of all pieces together */
	uint64_t content_skipped;     /* resumed: so many of them are with the receiver already */
	struct carried_delta delta;
	const uint8_t *pieces;        /* INLINE: walk with piece_next */
	size_t pieces_len;
	uint8_t hash[16];             /* INLINE */
};
/* Encodes all but pieces and hash; with CARRIED_INLINE the caller appends pieces (piece_encode_head + bytes), then 16 bytes of hash. */
void carried_encode(const struct carried *c, struct bytes *out);
int carried_decode(const uint8_t *in, size_t len, struct carried *ret);
void carried_fini(struct carried *c);
bool carried_has_content(const struct carried *c); /* of a file: WHOLE, RANGES or DELTA */

struct piece { /* DATA, and inline content */
	uint64_t offset;
	const uint8_t *data;
	uint32_t len;
};
void piece_encode_head(uint64_t offset, uint32_t len, struct bytes *out);
/* Next of inline pieces: 1, 0 at the end, -EBADMSG. *at starts at 0. */
int piece_next(const uint8_t *pieces, size_t len, size_t *at, struct piece *ret);
int piece_decode(const uint8_t *in, size_t len, struct piece *ret); /* a DATA frame: exactly one piece */

enum content_end { CONTENT_OK = 0, CONTENT_SUPERSEDED = 1, CONTENT_FAILED = 2 };
struct change_end {
	uint8_t result; /* enum content_end */
	uint8_t hash[16];
};
void change_end_encode(const struct change_end *e, struct bytes *out);
int change_end_decode(const uint8_t *in, size_t len, struct change_end *ret);

struct coming { /* COMING: this content is on its way to you; it can be fetched already */
	struct cdm_dot version;
	uint64_t size;
	const char *path;
	size_t path_len;
};
void coming_encode(const struct coming *c, struct bytes *out);
int coming_decode(const uint8_t *in, size_t len, struct coming *ret);

#define FETCH_SET_NAME_MAX 255
struct fetch_ask { /* FETCH, FETCH_LOOK: send this content from `from` (a multiple of a block) on */
	uint32_t request; /* the asker's, not 0; names it in the answers */
	struct cdm_dot version;
	uint64_t size, from;
	const char *set, *path; /* path: where it may be, if it is already published */
	size_t set_len, path_len;
};
void fetch_ask_encode(const struct fetch_ask *f, struct bytes *out);
int fetch_ask_decode(const uint8_t *in, size_t len, struct fetch_ask *ret);

struct fed_piece { /* FED */
	uint32_t request;
	struct piece piece;
};
void fed_piece_encode_head(uint32_t request, uint64_t offset, uint32_t len, struct bytes *out);
int fed_piece_decode(const uint8_t *in, size_t len, struct fed_piece *ret);
/* The same where the bytes of the piece are elsewhere. */
int fed_piece_decode_apart(const uint8_t *head, size_t head_len, const uint8_t *data, size_t len, struct fed_piece *ret);

enum fed_result {
	FED_WHOLE = 0,   /* all of it was sent; digest of the whole content (blocks.h) */
	FED_GONE = 1,    /* this version is not here any more */
	FED_UNKNOWN = 2, /* nothing is known of it here */
	FED_BUSY = 3,    /* not now */
};
struct fed_end { /* FED_END */
	uint32_t request;
	uint8_t result;
	uint8_t digest[16];
};
void fed_end_encode(const struct fed_end *e, struct bytes *out);
int fed_end_decode(const uint8_t *in, size_t len, struct fed_end *ret);

struct fetch_at { /* FETCH_AT */
	uint32_t request;
	uint64_t bytes;   /* so much the one got who has most of it … */
	uint64_t elapsed; /* … in so many ms; 0 = nobody took it */
};
void fetch_at_encode(const struct fetch_at *a, struct bytes *out);
int fetch_at_decode(const uint8_t *in, size_t len, struct fetch_at *ret);

void fetch_stop_encode(uint32_t request, struct bytes *out); /* FETCH_STOP */
int fetch_stop_decode(const uint8_t *in, size_t len, uint32_t *ret_request);

#define NEED_LOOK 1   /* flag of a NEED frame: version and attributes of a file are enough */
#define NEED_WITHIN 2 /* the bytes of whom is asked are wanted, in the answer: the content is not fetched apart, maybe from somebody else */
struct need { /* NEED: send what is at this path; the answer carries `ticket` as its change's number */
	uint64_t ticket;
	const char *path;
	size_t path_len;
	struct cdm_dot base; /* this version of it is with the asker: the answer may be a delta; none: whole */
	uint64_t base_size;
};
void need_encode(const struct need *n, struct bytes *out); /* also SIGN: of a NEED with a base, as it came */
int need_decode(const uint8_t *in, size_t len, struct need *ret);
struct signature_part { /* SIGNATURE: delta_signature_encode of the base of a NEED, in parts */
	uint64_t ticket;
	uint32_t total; /* bytes of all parts; 0: it is not to be had */
	const uint8_t *data;
	size_t len;
};
void signature_part_encode_head(uint64_t ticket, uint32_t total, struct bytes *out);
int signature_part_decode(const uint8_t *in, size_t len, struct signature_part *ret);

#endif
