/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include "common/io.h"
#include "replicator/deltas.h"
#include "replicator/wire_codec.h"

#define SIGNS_MAX 64 /* asked by one peer at a time */

void base_here(const struct set *s, struct need *need)
{
	struct cdm_stamp stamp;
	struct stat st;
	_cleanup_close_ int fd = cdm_open_beneath(s->store_fd, need->path, need->path_len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || cdm_stamp_get(fd, &stamp) < 0)
		return;
	need->base = stamp.content.dot;
	need->base_size = (uint64_t)st.st_size;
}

void base_send_need(struct peer *p, struct need *need, uint8_t flags)
{
	struct bytes frame = {0};
	if (!link_has(p->link, WIRE_FEATURE_ANSWERS) || need->base_size < DELTA_FILE_MIN)
		need->base = (struct cdm_dot){0};
	need_encode(need, &frame);
	link_send(p->link, p->set, FRAME_NEED, flags, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
}

struct asked {
	struct set *set;
	uint64_t peer_serial, ticket, base_size;
};

static void tell(struct peer *p, uint64_t ticket, const struct bytes *signature)
{
	struct bytes head = {0};
	size_t at = 0;
	signature_part_encode_head(ticket, (uint32_t)signature->len, &head);
	do {
		size_t n = signature->len - at < FRAME_PIECE_MAX ? signature->len - at : FRAME_PIECE_MAX;
		link_send(p->link, p->set, FRAME_SIGNATURE, 0, head.data, head.len, signature->data + at, n);
		at += n;
	} while (at < signature->len);
	bytes_fini(&head);
}

static void signed_done(void *arg, const struct bytes *encoded)
{
	static const struct bytes none;
	struct asked *a = arg;
	struct peer *p = set_peer_by_serial(a->set, a->peer_serial);
	bool as_said = a->base_size <= DELTA_SIZE_MAX && encoded->len == delta_signature_size_for(a->base_size);
	if (p) { /* one that was remembered may be of more than the disk still has */
		p->signs--;
		tell(p, a->ticket, as_said ? encoded : &none);
	}
	free(a);
}

int base_sign(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	static const struct bytes none;
	struct need need;
	if (need_decode(payload, len, &need) < 0 || cdm_dot_is_none(need.base) || p->signs == SIGNS_MAX)
		return cdm_fail_plain(err, EBADMSG, "malformed SIGN, or too many");
	struct asked *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	*a = (struct asked){p->set, p->serial, need.ticket, need.base_size};
	p->signs++;
	if (set_leaves_out(p->set, need.path, need.path_len) || deltas_sign(p->set->deltas, need.path, need.path_len, need.base, signed_done, a) < 0)
		signed_done(a, &none);
	return 0;
}
