/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/delta.h"
#include "replicator/delta_read.h"
#include "replicator/delta_share.h"

int delta_part(int fd, uint64_t at, uint64_t end, uint64_t *ret_end)
{
	off_t data = lseek(fd, (off_t)at, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return -errno;
	if (data < 0 || (uint64_t)data > at) {
		*ret_end = data < 0 || (uint64_t)data > end ? end : (uint64_t)data;
		return 0;
	}
	off_t hole = lseek(fd, (off_t)at, SEEK_HOLE);
	*ret_end = hole <= (off_t)at || (uint64_t)hole > end ? end : (uint64_t)hole; /* cut meanwhile: reading will tell */
	return 1;
}

int delta_pread(int fd, void *buf, size_t len, uint64_t offset, struct cdm_error *err)
{
	int r = cdm_pread_passing(fd, buf, len, (off_t)offset);
	if (r == -ENODATA)
		return cdm_fail_plain(err, ESTALE, "a file became shorter while it was read");
	return r < 0 ? cdm_fail(err, -r, "read a file") : 0;
}

/* What of `from` is to become part of a new version: written to `to` (-1: it is there already) and signed. */
struct pour {
	int from, to;
	struct delta_signer *signer;
	uint8_t *buf;
};

static int pour_data(const struct pour *p, uint64_t from, uint64_t len, uint64_t at, struct cdm_error *err)
{
	while (len) {
		size_t n = len < DELTA_CHUNK ? (size_t)len : DELTA_CHUNK;
		int r = delta_pread(p->from, p->buf, n, from, err);
		if (r < 0)
			return r;
		r = p->to < 0 ? 0 : cdm_pwrite_all(p->to, p->buf, n, (off_t)at);
		if (r < 0)
			return cdm_fail(err, -r, "write a new version");
		delta_signer_feed(p->signer, p->buf, n);
		from += n;
		at += n;
		len -= n;
	}
	return 0;
}

static int pour(const struct pour *p, uint64_t from, uint64_t len, uint64_t at, struct cdm_error *err)
{
	uint64_t end = from + len, part_end;
	while (from < end) {
		int data = delta_part(p->from, from, end, &part_end);
		if (data < 0)
			return cdm_fail(err, -data, "look for the holes of a file");
		uint64_t n = part_end - from;
		if (!data)
			delta_signer_feed_zeros(p->signer, n);
		int r = data ? pour_data(p, from, n, at, err) : 0;
		if (r < 0)
			return r;
		from += n;
		at += n;
	}
	return 0;
}

static uint8_t *chunk_new(uint64_t size)
{
	uint8_t *buf = malloc(size < DELTA_CHUNK ? (size_t)size + 1 : DELTA_CHUNK);
	if (!buf)
		abort();
	return buf;
}

int delta_feed(int fd, uint64_t from, uint64_t to, struct delta_signer *s, struct cdm_error *err)
{
	_cleanup_free_ uint8_t *buf = chunk_new(to - from);
	struct pour p = {.from = fd, .to = -1, .signer = s, .buf = buf};
	return pour(&p, from, to - from, 0, err);
}

static int pour_copy(const struct pour *p, struct delta_share *share, const struct delta_copy *c, struct cdm_error *err)
{
	uint64_t from, to, end = c->from + c->length;
	struct pour shared = *p;
	shared.to = -1;
	delta_share_copy(share, c, &from, &to);
	if (from == to)
		return pour(p, c->from, c->length, c->at, err);
	int r = pour(p, c->from, from - c->from, c->at, err);
	if (r == 0)
		r = pour(&shared, from, to - from, 0, err);
	return r < 0 ? r : pour(p, to, end - to, c->at + (to - c->from), err);
}

int delta_apply(int old_fd, const struct delta_copies *copies, int new_fd, uint64_t new_size, struct delta_signer *signer, struct cdm_error *err)
{
	_cleanup_free_ uint8_t *buf = chunk_new(new_size);
	struct pour here = {.from = new_fd, .to = -1, .signer = signer, .buf = buf};
	struct pour old = {.from = old_fd, .to = new_fd, .signer = signer, .buf = buf};
	struct delta_share share = {.from = old_fd, .to = new_fd};
	uint64_t at = 0;
	if (ftruncate(new_fd, (off_t)new_size) < 0)
		return cdm_fail(err, errno, "set the size of a new version");
	off_t old_size = lseek(old_fd, 0, SEEK_END);
	if (old_size < 0)
		return cdm_fail(err, errno, "look at the old version");
	for (size_t i = 0; i < copies->count; i++) {
		const struct delta_copy *c = &copies->list[i];
		if (c->from + c->length > (uint64_t)old_size)
			return cdm_fail_plain(err, ESTALE, "the old version is shorter than it should be");
		int r = pour(&here, at, c->at - at, at, err);
		if (r == 0)
			r = pour_copy(&old, &share, c, err);
		if (r < 0)
			return r;
		at = c->at + c->length;
	}
	int r = pour(&here, at, new_size - at, at, err);
	if (r == 0 && !delta_share_holds(&share))
		return cdm_fail_plain(err, ESTALE, "the old version was changed while it was read");
	return r;
}
