/* SPDX-License-Identifier: Apache-2.0 */
/* delta.h — the least that must travel of a rewritten file (design.md 6). After the idea of A. Tridgell and P. Mackerras, "The
 * rsync algorithm" (1996): the old version is known by the checksums of its blocks; the new one is searched for these blocks at any
 * position, with a rolling checksum; what was found is copied from the old version, the rest is sent.
 *
 * A file is cut into blocks of 2^bits bytes (delta_bits: by its size, never more than DELTA_BLOCKS_MAX of them); the last one may be
 * shorter. The signature of a version has 8 bytes per block: the rolling checksum and 32 bits of its XXH3-128. That a wrong block
 * passes takes an equal checksum and an equal hash: about one of 2^20 rewritten files of 256 MiB, and it does no harm, for the
 * *digest* of the new version (XXH3-128 over the XXH3-128 of all its blocks and its size) is checked by who puts it together. Then the
 * whole is sent. Nothing here resists an author who makes collisions on purpose: he would spoil his own file at others, which
 * his right to write allows him anyway.
 *
 * Memory: at most DELTA_MEMORY_MAX for a search, whatever the size of the files. Everything is pure but for reading the descriptors
 * it is given; any thread, one at a time per object. */
#ifndef REPLICATOR_DELTA_H
#define REPLICATOR_DELTA_H

#include <stdbool.h>
#include <stdint.h>
#include <xxhash.h>
#include "common/error.h"
#include "replicator/data_frames.h"

#define DELTA_BITS_MIN 7
#define DELTA_BITS_MAX 22
#define DELTA_BLOCKS_MAX (1u << 18)
#define DELTA_COPIES_MAX (1u << 18)
#define DELTA_SIZE_MAX ((uint64_t)DELTA_BLOCKS_MAX << DELTA_BITS_MAX) /* 1 TiB; larger files have no signature */
#define DELTA_MEMORY_MAX (32u << 20)

/* Block size, as a power of two, of a file of this size (at most DELTA_SIZE_MAX). */
unsigned delta_bits(uint64_t size);

struct delta_block {
	uint32_t rolling, strong;
};
struct delta_signature {
	uint64_t size;
	unsigned bits;
	size_t count; /* of blocks: size / 2^bits, rounded up */
	struct delta_block blocks[];
};

/* --- delta_sign.c: a file's content, from its beginning to its end, becomes its digest and its signature --- */
struct delta_signer;
/* size must be what will come, at most DELTA_SIZE_MAX. want_blocks: also the signature, not only the digest. */
struct delta_signer *delta_signer_new(uint64_t size, bool want_blocks);
void delta_signer_free(struct delta_signer **s);
void delta_signer_feed(struct delta_signer *s, const void *data, size_t len);
void delta_signer_feed_zeros(struct delta_signer *s, uint64_t len); /* a hole; costs next to nothing */
/* After exactly `size` bytes. Digest, and the signature for the caller to free() (NULL if not wanted). */
struct delta_signature *delta_signer_end(struct delta_signer *s, uint8_t ret_digest[16]);
/* Sign a whole file; it is read once. -ESTALE: it changed its size meanwhile; -EFBIG. */
int delta_sign_file(int fd, struct delta_signature **ret, uint8_t ret_digest[16], struct cdm_error *err);

/* --- delta_search.c: what of a file is in another one of which only the signature is known --- */
struct delta_copy {
	uint64_t at, from, length; /* new[at … at + length) = old[from …) */
};
struct delta_copies { /* sorted by `at`, disjoint */
	struct delta_copy *list;
	size_t count, room;
	uint64_t bytes; /* they cover */
};
void delta_copies_fini(struct delta_copies *c);
struct delta_found {
	struct delta_copies copies;        /* holes of the new file are in none of them */
	struct delta_signature *signature; /* of the new file, as read for the search */
	uint8_t digest[16];
	uint64_t size;
};
void delta_found_fini(struct delta_found *f);
/* Search fd (a regular file, read from its beginning to its end, once) for the blocks of `old`. -ESTALE: it changed its size
 * meanwhile; -EFBIG: too large, or more than DELTA_COPIES_MAX pieces; else -errno of reading. */
int delta_search(int fd, const struct delta_signature *old, struct delta_found *ret, struct cdm_error *err);

/* --- delta_code.c: bytes --- */
/* Signature: u8 1 (format), u8 bits, u64 size, then per block u32 rolling, u32 strong. Decode checks all before it takes memory;
 * -EBADMSG. The caller frees. */
size_t delta_signature_size(const struct delta_signature *s);
size_t delta_signature_size_for(uint64_t file_size); /* of a file of at most DELTA_SIZE_MAX */
void delta_signature_encode(const struct delta_signature *s, struct bytes *out);
int delta_signature_decode(const uint8_t *in, size_t len, struct delta_signature **ret);

/* Copies: for each, as variable length integers (7 bits a byte, low first, no more bytes than needed), the bytes of the new file
 * since the end of the copy before, the distance in the old file from the end of the copy before (zigzag: 0, -1, 1, -2 …), and the length. A list may
 * be cut anywhere between two copies: encode appends copies[from …) until `room` bytes are used, and returns how many. */
size_t delta_copies_encode(const struct delta_copies *c, size_t from, size_t room, struct bytes *out);
/* Append to *c what these bytes say, the continuation of what is there already. -EBADMSG: malformed, out of order, beyond one of
 * the sizes, too many; then *c is as it was. */
int delta_copies_decode(const uint8_t *in, size_t len, uint64_t old_size, uint64_t new_size, struct delta_copies *c);

/* --- delta_apply.c: old version + copies + what is there already = new version --- */
/* Fill the copies into new_fd, which has everything else of the new version (holes stay) and gets its size here; old_fd is only read, its
 * holes are kept, and large parts of it are shared where the filesystem can (delta_share.h). The signer (made for new_size) is fed with all of the new version: the caller compares the digest. -ESTALE: the old version
 * is shorter than the copies want, or was changed meanwhile; else -errno of reading or writing. */
int delta_apply(int old_fd, const struct delta_copies *copies, int new_fd, uint64_t new_size, struct delta_signer *signer, struct cdm_error *err);

#endif
