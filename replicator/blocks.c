/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/blocks.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static const uint8_t zeros[BLOCK_PAGE];

static bool is_zero(const uint8_t *page, uint32_t len)
{
	return memcmp(page, zeros, len) == 0;
}

static uint32_t page_at(uint32_t at, uint32_t len)
{
	uint32_t room = BLOCK_PAGE - at % BLOCK_PAGE;
	return len - at < room ? len - at : room;
}

bool block_next_run(const uint8_t *block, uint32_t len, uint32_t *at, uint32_t *ret_len)
{
	uint32_t start = *at;
	while (start < len && is_zero(block + start, page_at(start, len)))
		start += page_at(start, len);
	uint32_t end = start;
	while (end < len && !is_zero(block + end, page_at(end, len)))
		end += page_at(end, len);
	*at = start;
	*ret_len = end - start;
	return end > start;
}

/* --- digest --- */

static void put_number(struct block_hash *h, uint64_t n)
{
	uint64_t le = htole64(n);
	XXH3_128bits_update(h->state, &le, sizeof le);
}

static void put_zeros(struct block_hash *h, uint32_t len)
{
	for (uint32_t n; len; len -= n) {
		n = len < sizeof zeros ? len : (uint32_t)sizeof zeros;
		XXH3_128bits_update(h->state, zeros, n);
	}
}

static void finish_block(struct block_hash *h)
{
	if (!h->block)
		return;
	uint64_t start = (h->block - 1) * BLOCK, left = h->size - start;
	put_zeros(h, (uint32_t)(left < BLOCK ? left : BLOCK) - h->filled);
	h->block = 0;
}

void block_hash_begin(struct block_hash *h, uint64_t size)
{
	if (!h->state && !(h->state = XXH3_createState()))
		abort();
	XXH3_128bits_reset(h->state);
	h->size = size;
	h->block = 0;
	h->filled = 0;
}

int block_hash_piece(struct block_hash *h, uint64_t offset, const void *data, uint32_t len)
{
	uint64_t number = offset / BLOCK;
	uint32_t at = (uint32_t)(offset % BLOCK);
	bool same = h->block == number + 1;
	if (len > BLOCK - at || offset > h->size || len > h->size - offset || (h->block && number + 1 < h->block) || (same && at < h->filled))
		return -EBADMSG;
	if (!same) {
		finish_block(h);
		put_number(h, number);
		h->block = number + 1;
		h->filled = 0;
	}
	put_zeros(h, at - h->filled);
	XXH3_128bits_update(h->state, data, len);
	h->filled = at + len;
	return 0;
}

void block_hash_end(struct block_hash *h, uint8_t ret[16])
{
	XXH128_canonical_t canonical;
	finish_block(h);
	put_number(h, h->size);
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(h->state));
	memcpy(ret, canonical.digest, 16);
}

void block_hash_fini(struct block_hash *h)
{
	if (h->state)
		XXH3_freeState(h->state);
	*h = (struct block_hash){0};
}

int block_read(int fd, uint8_t *to, uint32_t len, uint64_t offset, int flags)
{
	for (uint32_t got = 0; got < len;) {
		struct iovec iov = {to + got, len - got};
		ssize_t n = preadv2(fd, &iov, 1, (off_t)(offset + got), flags);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		got += (uint32_t)n;
	}
	return 0;
}

uint64_t block_next_data(int fd, uint64_t at, uint64_t size)
{
	if (at >= size)
		return size;
	off_t data = lseek(fd, (off_t)at, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? size : at;
	return (uint64_t)data < size ? (uint64_t)data / BLOCK * BLOCK : size;
}

int block_hash_file(int fd, uint64_t size, uint8_t ret[16])
{
	struct block_hash h = {0};
	uint8_t *block = malloc(BLOCK);
	int r = 0;
	if (!block)
		return -ENOMEM;
	block_hash_begin(&h, size);
	for (uint64_t at = 0; r == 0 && (at = block_next_data(fd, at, size)) < size; at += BLOCK) {
		uint32_t len = size - at < BLOCK ? (uint32_t)(size - at) : BLOCK, run = 0, length;
		r = block_read(fd, block, len, at, 0);
		for (; r == 0 && block_next_run(block, len, &run, &length); run += length)
			r = block_hash_piece(&h, at + run, block + run, length);
	}
	block_hash_end(&h, ret);
	block_hash_fini(&h);
	free(block);
	return r;
}

/* --- SHA-256; OpenSSL fails here only without memory --- */

void block_sha_begin(struct block_sha *h)
{
	if (!h->ctx && !(h->ctx = EVP_MD_CTX_new()))
		abort();
	if (EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1)
		abort();
}

static void sha_number(struct block_sha *h, uint64_t n)
{
	uint64_t le = htole64(n);
	if (EVP_DigestUpdate(h->ctx, &le, sizeof le) != 1)
		abort();
}

void block_sha_block(struct block_sha *h, uint64_t offset, const uint8_t *block, uint32_t len)
{
	uint32_t at = 0, run;
	if (!block_next_run(block, len, &at, &run))
		return;
	sha_number(h, offset / BLOCK);
	if (EVP_DigestUpdate(h->ctx, block, len) != 1)
		abort();
}

void block_sha_end(struct block_sha *h, uint64_t size, uint8_t ret[BLOCK_SHA])
{
	sha_number(h, size);
	if (EVP_DigestFinal_ex(h->ctx, ret, NULL) != 1)
		abort();
}

void block_sha_fini(struct block_sha *h)
{
	EVP_MD_CTX_free(h->ctx);
	*h = (struct block_sha){0};
}

int block_sha_file(int fd, uint64_t size, uint8_t ret[BLOCK_SHA])
{
	struct block_sha h = {0};
	uint8_t *block = malloc(BLOCK);
	int r = 0;
	if (!block)
		return -ENOMEM;
	block_sha_begin(&h);
	for (uint64_t at = 0; r == 0 && (at = block_next_data(fd, at, size)) < size; at += BLOCK) {
		uint32_t len = size - at < BLOCK ? (uint32_t)(size - at) : BLOCK;
		r = block_read(fd, block, len, at, 0);
		if (r == 0)
			block_sha_block(&h, at, block, len);
	}
	block_sha_end(&h, size, ret);
	block_sha_fini(&h);
	free(block);
	return r;
}
