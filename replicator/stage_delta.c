/* SPDX-License-Identifier: Apache-2.0 */
/* stage_delta.c — a content that came as a delta is put together in staging: copies out of the version that is here, the rest as it came.
 * Base before and digest after are checked; the base is only read, so whatever happens to it meanwhile is found out by the digest. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/deltas.h"
#include "replicator/publish_ops.h"

/* What is at a path in the store, if it has this content version. fd; -ESTALE: it has not; -errno: it cannot be told. */
static int open_version(struct publisher *pub, const char *path, size_t len, struct cdm_dot version)
{
	struct cdm_stamp stamp;
	struct stat st;
	_cleanup_close_ int fd = cdm_open_beneath(pub->set->store_fd, path, len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
	int r = fd < 0 ? fd : fstat(fd, &st) < 0 ? -errno : stamp_of(fd, &stamp);
	if (r < 0)
		return is_gone(r) || r == -ENXIO ? -ESTALE : r;
	return S_ISREG(st.st_mode) && !cdm_dot_is_none(version) && cdm_dot_equal(stamp.content.dot, version) ? cdm_take_fd(&fd) : -ESTALE;
}

static int open_base(struct publisher *pub, const struct incoming *in, struct cdm_error *err)
{
	const struct carried_delta *d = &in->carried.delta;
	const struct cdm_change *c = &in->carried.change;
	int fd = open_version(pub, d->path_len ? d->path : c->path, d->path_len ? d->path_len : c->path_len, d->base);
	return fd == -ESTALE ? cdm_fail_plain(err, ESTALE, "the base of a delta is not here") : fd < 0 ? cdm_fail(err, -fd, "open the base of a delta") : fd;
}

/* Its file in staging, with the pieces that came. Kept where a full disk makes the change wait: it is tried again. */
static int open_staged(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	bool made = in->staging[0];
	if (!made)
		snprintf(in->staging, sizeof in->staging, "delta.%lx", (unsigned long)++pub->staged_number);
	_cleanup_close_ int fd = openat(pub->set->staging_fd, in->staging, O_RDWR | O_NOFOLLOW | O_CLOEXEC | (made ? 0 : O_CREAT | O_EXCL), 0600);
	if (fd < 0) {
		int e = errno;
		if (!made)
			in->staging[0] = 0;
		return cdm_fail(err, e, "open a staging file");
	}
	int r = in->carried.flags & CARRIED_INLINE ? stage_write_pieces(in, pub->set->staging_fd, fd) : 0;
	return r < 0 ? cdm_fail(err, -r, "stage received content") : cdm_take_fd(&fd);
}

static const uint8_t *encoded_copies(const struct incoming *in)
{
	return in->carried.delta.copies ? in->carried.delta.copies : in->copies.data;
}

static int read_copies(const struct incoming *in, struct delta_copies *ret, struct cdm_error *err)
{
	const struct carried *k = &in->carried;
	size_t len = k->delta.copies ? k->delta.copies_total : in->copies.len;
	if (len != k->delta.copies_total || delta_copies_decode(encoded_copies(in), len, k->delta.base_size, k->size, ret) < 0)
		return cdm_fail_plain(err, ESTALE, "the copies of a delta make no sense");
	return 0;
}

static int put_together(struct publisher *pub, struct incoming *in, int base, int staged, struct cdm_error *err)
{
	const struct carried *k = &in->carried;
	struct delta_copies copies = {0};
	uint8_t digest[16];
	int r = k->size > DELTA_SIZE_MAX ? cdm_fail_plain(err, ESTALE, "a delta of a file that is too large") : read_copies(in, &copies, err);
	if (r == 0) {
		struct delta_signer *signer = delta_signer_new(k->size, false);
		r = delta_apply(base, &copies, staged, k->size, signer, err);
		if (r == 0) {
			delta_signer_end(signer, digest);
			if (memcmp(digest, k->delta.digest, sizeof digest) != 0)
				r = cdm_fail_plain(err, ESTALE, "a delta does not give the content it should");
		}
		delta_signer_free(&signer);
	}
	if (r == 0 && pub->set->deltas && !(k->flags & CARRIED_ANSWER)) /* of what only this node has */
		deltas_received(pub->set->deltas, k, &copies, encoded_copies(in));
	delta_copies_fini(&copies);
	return r;
}

int stage_delta(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	struct carried *k = &in->carried;
	_cleanup_close_ int done = open_version(pub, k->change.path, k->change.path_len, k->stamp.content.dot);
	if (done != -ESTALE)
		return done < 0 ? cdm_fail(err, -done, "look whether a delta's content is here") : APPLY_NOTHING;
	_cleanup_close_ int base = open_base(pub, in, err);
	_cleanup_close_ int staged = base < 0 ? -1 : open_staged(pub, in, err);
	int r = base < 0 ? base : staged < 0 ? staged : put_together(pub, in, base, staged, err);
	if (r == -ESTALE)
		count_up(&pub->set->counters.deltas_refused, 1);
	if (r < 0)
		return r;
	k->kind = CONTENT_WHOLE;
	k->flags &= (uint8_t)~CARRIED_INLINE;
	k->pieces = NULL;
	k->pieces_len = 0;
	count_up(&pub->set->counters.deltas_applied, 1);
	return 0;
}
