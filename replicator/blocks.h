/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.h — a whole content as blocks of BLOCK bytes at multiples of BLOCK: what of a block must travel (pages of zeros do not; they are holes
 * at the receiver), and a digest that depends on bytes and size only, not on where holes are or how the content was cut into pieces.
 * The digest is XXH3-128 over, for each block that has a byte other than zero, its number (le64) and its bytes, then the size (le64).
 * Pure; no thread. */
#ifndef REPLICATOR_BLOCKS_H
#define REPLICATOR_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <openssl/evp.h>
#include <xxhash.h>
#include "common/error.h"

#define BLOCK (128u << 10)
#define BLOCK_PAGE 4096u

/* The next run of pages that are not all zero, from *at on, in a block of len bytes. False: none is left. */
bool block_next_run(const uint8_t *block, uint32_t len, uint32_t *at, uint32_t *ret_len);

/* All of these bytes; flags: RWF_… of preadv2(2). -ENODATA: the file ends before. */
int block_read(int fd, uint8_t *to, uint32_t len, uint64_t offset, int flags);
/* The first block at or behind `at` (a block's start) that has data in this file; size if only a hole is left. */
uint64_t block_next_data(int fd, uint64_t at, uint64_t size);

struct block_hash {
	XXH3_state_t *state;
	uint64_t size;
	uint64_t block;  /* number + 1 of the block at work, 0 = none yet */
	uint32_t filled; /* bytes of it that were hashed */
};
void block_hash_begin(struct block_hash *h, uint64_t size);
/* Pieces in ascending order, none across a block's border. -EBADMSG: they are not. */
int block_hash_piece(struct block_hash *h, uint64_t offset, const void *data, uint32_t len);
void block_hash_end(struct block_hash *h, uint8_t ret[16]);
void block_hash_fini(struct block_hash *h);

/* Of what a file has. 0 or -errno; -ENODATA when it is shorter than size. Blocks: for a worker. */
int block_hash_file(int fd, uint64_t size, uint8_t ret[16]);

/* SHA-256 over the same: what nobody can find another content for. Whole blocks, in ascending order; those that are all zero may be left out. */
#define BLOCK_SHA 32
struct block_sha {
	EVP_MD_CTX *ctx;
};
void block_sha_begin(struct block_sha *h);
void block_sha_block(struct block_sha *h, uint64_t offset, const uint8_t *block, uint32_t len);
void block_sha_end(struct block_sha *h, uint64_t size, uint8_t ret[BLOCK_SHA]);
void block_sha_fini(struct block_sha *h);
int block_sha_file(int fd, uint64_t size, uint8_t ret[BLOCK_SHA]); /* as block_hash_file */

#endif
