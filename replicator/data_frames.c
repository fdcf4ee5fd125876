/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/data_frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void bytes_fini(struct bytes *b)
{
	free(b->data);
	*b = (struct bytes){0};
}

uint8_t *bytes_add(struct bytes *b, size_t len)
{
	if (b->len + len > b->room) {
		size_t room = b->room ? b->room : 256;
		while (room < b->len + len)
			room *= 2;
		uint8_t *grown = realloc(b->data, room);
		if (!grown)
			abort();
		b->data = grown;
		b->room = room;
	}
	uint8_t *at = b->data + b->len;
	b->len += len;
	return at;
}

void bytes_put(struct bytes *b, const void *data, size_t len)
{
	if (len)
		memcpy(bytes_add(b, len), data, len);
}

static void put_le(struct bytes *b, uint64_t v, size_t width)
{
	uint8_t *p = bytes_add(b, width);
	for (size_t i = 0; i < width; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

void bytes_put_u8(struct bytes *b, uint8_t v)
{
	put_le(b, v, 1);
}

void bytes_put_u16(struct bytes *b, uint16_t v)
{
	put_le(b, v, 2);
}

void bytes_put_u32(struct bytes *b, uint32_t v)
{
	put_le(b, v, 4);
}

void bytes_put_u64(struct bytes *b, uint64_t v)
{
	put_le(b, v, 8);
}

const uint8_t *reading_bytes(struct reading *r, size_t len)
{
	if (r->bad || len > r->len - r->at) {
		r->bad = true;
		return NULL;
	}
	const uint8_t *p = r->data + r->at;
	r->at += len;
	return p;
}

static uint64_t read_le(struct reading *r, size_t width)
{
	const uint8_t *p = reading_bytes(r, width);
	uint64_t v = 0;
	for (size_t i = 0; p && i < width; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

uint8_t reading_u8(struct reading *r)
{
	return (uint8_t)read_le(r, 1);
}

uint16_t reading_u16(struct reading *r)
{
	return (uint16_t)read_le(r, 2);
}

uint32_t reading_u32(struct reading *r)
{
	return (uint32_t)read_le(r, 4);
}

uint64_t reading_u64(struct reading *r)
{
	return read_le(r, 8);
}

static void put_vector(struct bytes *b, const struct cdm_vector *v)
{
	cdm_vector_encode(v, bytes_add(b, cdm_vector_encoded_size(v)));
}

static void read_vector(struct reading *r, struct cdm_vector *ret)
{
	if (r->bad)
		return;
	int n = cdm_vector_decode(r->data + r->at, r->len - r->at, ret);
	if (n < 0)
		r->bad = true;
	else
		r->at += (size_t)n;
}

/* All read, nothing left over? */
static bool reading_done(const struct reading *r)
{
	return !r->bad && r->at == r->len;
}

void subscribe_encode(const struct subscribe *s, struct bytes *out)
{
	bytes_put_u8(out, s->flags);
	put_vector(out, &s->visible);
	put_vector(out, &s->durable);
	bytes_put_u16(out, (uint16_t)s->partial_count);
	for (size_t i = 0; i < s->partial_count; i++) {
		bytes_put_u64(out, s->partials[i].dot.origin);
		bytes_put_u64(out, s->partials[i].dot.number);
		bytes_put_u64(out, s->partials[i].bytes);
		bytes_put_u64(out, s->partials[i].hash);
	}
}

int subscribe_decode(const uint8_t *in, size_t len, struct subscribe *ret)
{
	struct reading r = {in, len, 0, false};
	*ret = (struct subscribe){.flags = reading_u8(&r)};
	read_vector(&r, &ret->visible);
	read_vector(&r, &ret->durable);
	size_t count = reading_u16(&r);
	if (count > FRAME_PARTIALS_MAX)
		r.bad = true;
	for (size_t i = 0; !r.bad && i < count; i++) {
		struct partial *p = &ret->partials[ret->partial_count++];
		p->dot.origin = reading_u64(&r);
		p->dot.number = reading_u64(&r);
		p->bytes = reading_u64(&r);
		p->hash = reading_u64(&r);
	}
	if (reading_done(&r))
		return 0;
	subscribe_fini(ret);
	return -EBADMSG;
}

void subscribe_fini(struct subscribe *s)
{
	cdm_vector_fini(&s->visible);
	cdm_vector_fini(&s->durable);
	*s = (struct subscribe){0};
}

void batch_head_encode(const struct batch_head *h, struct bytes *out)
{
	bytes_put_u64(out, h->number);
	bytes_put_u32(out, h->changes);
	bytes_put_u64(out, h->bytes);
}

int batch_head_decode(const uint8_t *in, size_t len, struct batch_head *ret)
{
	struct reading r = {in, len, 0, false};
	ret->number = reading_u64(&r);
	ret->changes = reading_u32(&r);
	ret->bytes = reading_u64(&r);
	return reading_done(&r) && ret->number && ret->changes <= FRAME_BATCH_CHANGES_MAX ? 0 : -EBADMSG;
}

void ack_encode(const struct ack *a, struct bytes *out)
{
	bytes_put_u64(out, a->batch);
	put_vector(out, &a->visible);
	put_vector(out, &a->durable);
}

int ack_decode(const uint8_t *in, size_t len, struct ack *ret)
{
	struct reading r = {in, len, 0, false};
	*ret = (struct ack){.batch = reading_u64(&r)};
	read_vector(&r, &ret->visible);
	read_vector(&r, &ret->durable);
	if (reading_done(&r))
		return 0;
	ack_fini(ret);
	return -EBADMSG;
}

void ack_fini(struct ack *a)
{
	cdm_vector_fini(&a->visible);
	cdm_vector_fini(&a->durable);
}

static void put_short(struct bytes *out, const char *text, size_t len)
{
	if (len > FRAME_OWNER_MAX)
		len = 0;
	bytes_put_u8(out, (uint8_t)len);
	bytes_put(out, text, len);
}

static void encode_object(const struct carried *c, struct bytes *out)
{
	cdm_stamp_encode(&c->stamp, bytes_add(out, CDM_XATTR_VERSION_SIZE));
	bytes_put_u32(out, c->mode);
	bytes_put_u32(out, c->uid);
	bytes_put_u32(out, c->gid);
	bytes_put_u64(out, c->size);
	bytes_put_u64(out, c->rdev);
	bytes_put_u64(out, (uint64_t)c->mtime_ns);
	bytes_put_u16(out, (uint16_t)c->xattr_count);
	for (size_t i = 0; i < c->xattr_count; i++) {
		const struct carried_xattr *x = &c->xattrs[i];
		size_t name_len = strlen(x->name) + 1; /* with its NUL */
		bytes_put_u16(out, (uint16_t)name_len);
		bytes_put(out, x->name, name_len);
		bytes_put_u32(out, x->value_len);
		bytes_put(out, x->value, x->value_len);
	}
	bytes_put_u64(out, c->content_bytes);
	bytes_put_u64(out, c->content_skipped);
}

static void encode_delta(const struct carried_delta *d, struct bytes *out)
{
	bytes_put_u64(out, d->base.origin);
	bytes_put_u64(out, d->base.number);
	bytes_put_u32(out, (uint32_t)d->path_len);
	bytes_put(out, d->path, d->path_len);
	bytes_put_u64(out, d->base_size);
	bytes_put(out, d->digest, sizeof d->digest);
	bytes_put_u32(out, d->copies_total);
	if (d->copies_total <= FRAME_COPIES_INLINE_MAX)
		bytes_put(out, d->copies, d->copies_total);
}

void carried_encode(const struct carried *c, struct bytes *out)
{
	bytes_put_u8(out, (uint8_t)c->kind);
	bytes_put_u8(out, c->flags);
	size_t length_at = out->len;
	bytes_put_u32(out, 0);
	size_t max = cdm_change_encoded_max(&c->change);
	size_t n = cdm_change_encode(&c->change, bytes_add(out, max));
	out->len -= max - n;
	for (size_t i = 0; i < 4; i++)
		out->data[length_at + i] = (uint8_t)(n >> (8 * i));
	put_short(out, c->user, c->user_len);
	put_short(out, c->group, c->group_len);
	if (c->kind != CONTENT_NONE)
		encode_object(c, out);
	if (c->kind == CONTENT_DELTA)
		encode_delta(&c->delta, out);
}

static const char *read_short(struct reading *r, size_t *ret_len)
{
	*ret_len = reading_u8(r);
	if (*ret_len > FRAME_OWNER_MAX)
		r->bad = true;
	const char *text = (const char *)reading_bytes(r, *ret_len);
	if (text && memchr(text, 0, *ret_len))
		r->bad = true;
	return text;
}

static void decode_xattrs(struct reading *r, struct carried *ret)
{
	size_t count = reading_u16(r), total = 0;
	if (count > FRAME_XATTRS_MAX)
		r->bad = true;
	if (r->bad || !count)
		return;
	ret->xattrs = calloc(count, sizeof *ret->xattrs);
	if (!ret->xattrs)
		abort();
	for (size_t i = 0; !r->bad && i < count; i++) {
		struct carried_xattr *x = &ret->xattrs[ret->xattr_count++];
		size_t name_len = reading_u16(r);
		x->name = (const char *)reading_bytes(r, name_len);
		if (!x->name || name_len < 2 || name_len > 256 || memchr(x->name, 0, name_len) != x->name + name_len - 1)
			r->bad = true;
		x->value_len = reading_u32(r);
		total += x->value_len;
		if (x->value_len > CDM_VALUE_MAX || total > FRAME_XATTR_BYTES_MAX)
			r->bad = true;
		x->value = reading_bytes(r, x->value_len);
	}
}

static void decode_object(struct reading *r, struct carried *ret)
{
	const uint8_t *stamp = reading_bytes(r, CDM_XATTR_VERSION_SIZE);
	if (!stamp || cdm_stamp_decode(stamp, CDM_XATTR_VERSION_SIZE, &ret->stamp) < 0)
		r->bad = true;
	ret->mode = reading_u32(r);
	ret->uid = reading_u32(r);
	ret->gid = reading_u32(r);
	ret->size = reading_u64(r);
	ret->rdev = reading_u64(r);
	ret->mtime_ns = (int64_t)reading_u64(r);
	decode_xattrs(r, ret);
	ret->content_bytes = reading_u64(r);
	ret->content_skipped = reading_u64(r);
	if (ret->size > INT64_MAX || ret->content_bytes > INT64_MAX || ret->content_skipped > ret->content_bytes)
		r->bad = true;
}

static void decode_delta(struct reading *r, struct carried *c)
{
	struct carried_delta *d = &c->delta;
	d->base.origin = reading_u64(r);
	d->base.number = reading_u64(r);
	d->path_len = reading_u32(r);
	d->path = (const char *)reading_bytes(r, d->path_len);
	d->base_size = reading_u64(r);
	const uint8_t *digest = reading_bytes(r, sizeof d->digest);
	if (digest)
		memcpy(d->digest, digest, sizeof d->digest);
	d->copies_total = reading_u32(r);
	if (d->copies_total <= FRAME_COPIES_INLINE_MAX)
		d->copies = reading_bytes(r, d->copies_total);
	if (r->bad || cdm_dot_is_none(d->base) || c->change.op != CDM_OP_SAVE || d->base_size > INT64_MAX ||
		d->copies_total > (c->flags & CARRIED_ANSWER ? FRAME_ANSWER_COPIES_MAX : FRAME_COPIES_MAX) || (d->path_len && cdm_path_check(d->path, d->path_len) < 0))
		r->bad = true;
}

static void decode_inline(struct reading *r, struct carried *ret)
{
	if (r->bad || r->len - r->at < sizeof ret->hash) {
		r->bad = true;
		return;
	}
	ret->pieces_len = r->len - r->at - sizeof ret->hash;
	ret->pieces = reading_bytes(r, ret->pieces_len);
	memcpy(ret->hash, reading_bytes(r, sizeof ret->hash), sizeof ret->hash);
	size_t at = 0;
	uint64_t total = 0;
	struct piece p;
	int n;
	while ((n = piece_next(ret->pieces, ret->pieces_len, &at, &p)) > 0) {
		total += p.len;
		if (p.offset + p.len > ret->size)
			r->bad = true;
	}
	if (n < 0 || total != ret->content_bytes || ret->content_skipped)
		r->bad = true;
}

bool carried_has_content(const struct carried *c)
{
	return c->kind == CONTENT_WHOLE || c->kind == CONTENT_RANGES || c->kind == CONTENT_DELTA;
}

int carried_decode(const uint8_t *in, size_t len, struct carried *ret)
{
	struct reading r = {in, len, 0, false};
	*ret = (struct carried){0};
	uint8_t kind = reading_u8(&r);
	ret->flags = reading_u8(&r);
	size_t change_len = reading_u32(&r);
	const uint8_t *change = reading_bytes(&r, change_len);
	if (!change || kind > CONTENT_APART)
		return -EBADMSG;
	ret->kind = kind;
	int n = cdm_change_decode(change, change_len, &ret->change);
	if (n < 0)
		return -EBADMSG;
	if ((size_t)n != change_len)
		r.bad = true;
	ret->user = read_short(&r, &ret->user_len);
	ret->group = read_short(&r, &ret->group_len);
	if (ret->kind != CONTENT_NONE)
		decode_object(&r, ret);
	if (ret->kind == CONTENT_DELTA)
		decode_delta(&r, ret);
	if (ret->kind == CONTENT_APART && (ret->change.op != CDM_OP_SAVE || cdm_dot_is_none(ret->stamp.content.dot)))
		r.bad = true;
	if (ret->flags & CARRIED_INLINE) {
		if (!carried_has_content(ret) || ret->delta.copies_total > FRAME_COPIES_INLINE_MAX)
			r.bad = true;
		decode_inline(&r, ret);
	}
	if (reading_done(&r))
		return 0;
	carried_fini(ret);
	return -EBADMSG;
}

void carried_fini(struct carried *c)
{
	cdm_change_fini(&c->change);
	free(c->xattrs);
	*c = (struct carried){0};
}

void piece_encode_head(uint64_t offset, uint32_t len, struct bytes *out)
{
	bytes_put_u64(out, offset);
	bytes_put_u32(out, len);
}

static bool piece_is_good(const struct piece *p)
{
	return p->len > 0 && p->len <= FRAME_PIECE_MAX && p->offset <= (uint64_t)INT64_MAX - p->len;
}

int piece_next(const uint8_t *pieces, size_t len, size_t *at, struct piece *ret)
{
	if (*at == len)
		return 0;
	struct reading r = {pieces, len, *at, false};
	ret->offset = reading_u64(&r);
	ret->len = reading_u32(&r);
	ret->data = reading_bytes(&r, ret->len);
	if (r.bad || !piece_is_good(ret))
		return -EBADMSG;
	*at = r.at;
	return 1;
}

int piece_decode(const uint8_t *in, size_t len, struct piece *ret)
{
	size_t at = 0;
	int n = piece_next(in, len, &at, ret);
	return n == 1 && at == len ? 0 : -EBADMSG;
}

void change_end_encode(const struct change_end *e, struct bytes *out)
{
	bytes_put_u8(out, e->result);
	bytes_put(out, e->hash, sizeof e->hash);
}

int change_end_decode(const uint8_t *in, size_t len, struct change_end *ret)
{
	struct reading r = {in, len, 0, false};
	ret->result = reading_u8(&r);
	const uint8_t *hash = reading_bytes(&r, sizeof ret->hash);
	if (!hash || !reading_done(&r) || ret->result > CONTENT_FAILED)
		return -EBADMSG;
	memcpy(ret->hash, hash, sizeof ret->hash);
	return 0;
}

void need_encode(const struct need *n, struct bytes *out)
{
	bytes_put_u64(out, n->ticket);
	bytes_put_u32(out, (uint32_t)n->path_len);
	bytes_put(out, n->path, n->path_len);
	if (cdm_dot_is_none(n->base))
		return;
	bytes_put_u64(out, n->base.origin);
	bytes_put_u64(out, n->base.number);
	bytes_put_u64(out, n->base_size);
}

int need_decode(const uint8_t *in, size_t len, struct need *ret)
{
	struct reading r = {in, len, 0, false};
	*ret = (struct need){0};
	ret->ticket = reading_u64(&r);
	ret->path_len = reading_u32(&r);
	ret->path = (const char *)reading_bytes(&r, ret->path_len);
	if (!r.bad && r.at < len) {
		ret->base.origin = reading_u64(&r);
		ret->base.number = reading_u64(&r);
		ret->base_size = reading_u64(&r);
		r.bad |= cdm_dot_is_none(ret->base) || ret->base_size > INT64_MAX;
	}
	if (!reading_done(&r) || !ret->ticket || cdm_path_check(ret->path, ret->path_len) < 0)
		return -EBADMSG;
	return 0;
}

void signature_part_encode_head(uint64_t ticket, uint32_t total, struct bytes *out)
{
	bytes_put_u64(out, ticket);
	bytes_put_u32(out, total);
}

int signature_part_decode(const uint8_t *in, size_t len, struct signature_part *ret)
{
	struct reading r = {in, len, 0, false};
	ret->ticket = reading_u64(&r);
	ret->total = reading_u32(&r);
	if (r.bad || !ret->ticket || len - r.at > ret->total || (ret->total && len == r.at))
		return -EBADMSG;
	ret->len = len - r.at;
	ret->data = in + r.at;
	return 0;
}

/* --- contents that are fetched --- */

static void put_dot(struct bytes *out, struct cdm_dot dot)
{
	bytes_put_u64(out, dot.origin);
	bytes_put_u64(out, dot.number);
}

static struct cdm_dot read_version(struct reading *r)
{
	struct cdm_dot dot;
	dot.origin = reading_u64(r);
	dot.number = reading_u64(r);
	if (cdm_dot_is_none(dot))
		r->bad = true;
	return dot;
}

static const char *read_path(struct reading *r, size_t *ret_len)
{
	*ret_len = reading_u32(r);
	const char *path = (const char *)reading_bytes(r, *ret_len);
	if (!path || cdm_path_check(path, *ret_len) < 0)
		r->bad = true;
	return path;
}

void coming_encode(const struct coming *c, struct bytes *out)
{
	put_dot(out, c->version);
	bytes_put_u64(out, c->size);
	bytes_put_u32(out, (uint32_t)c->path_len);
	bytes_put(out, c->path, c->path_len);
}

int coming_decode(const uint8_t *in, size_t len, struct coming *ret)
{
	struct reading r = {in, len, 0, false};
	ret->version = read_version(&r);
	ret->size = reading_u64(&r);
	ret->path = read_path(&r, &ret->path_len);
	return reading_done(&r) && ret->size <= INT64_MAX ? 0 : -EBADMSG;
}

void fetch_ask_encode(const struct fetch_ask *f, struct bytes *out)
{
	bytes_put_u32(out, f->request);
	put_dot(out, f->version);
	bytes_put_u64(out, f->size);
	bytes_put_u64(out, f->from);
	bytes_put_u8(out, (uint8_t)f->set_len);
	bytes_put(out, f->set, f->set_len);
	bytes_put_u32(out, (uint32_t)f->path_len);
	bytes_put(out, f->path, f->path_len);
}

int fetch_ask_decode(const uint8_t *in, size_t len, struct fetch_ask *ret)
{
	struct reading r = {in, len, 0, false};
	ret->request = reading_u32(&r);
	ret->version = read_version(&r);
	ret->size = reading_u64(&r);
	ret->from = reading_u64(&r);
	ret->set_len = reading_u8(&r);
	ret->set = (const char *)reading_bytes(&r, ret->set_len);
	ret->path = read_path(&r, &ret->path_len);
	bool good = reading_done(&r) && ret->request && ret->set_len && !memchr(ret->set, 0, ret->set_len) && ret->size <= INT64_MAX &&
		ret->from <= ret->size && ret->from % FRAME_PIECE_MAX == 0;
	return good ? 0 : -EBADMSG;
}

void fed_piece_encode_head(uint32_t request, uint64_t offset, uint32_t len, struct bytes *out)
{
	bytes_put_u32(out, request);
	piece_encode_head(offset, len, out);
}

int fed_piece_decode(const uint8_t *in, size_t len, struct fed_piece *ret)
{
	struct reading r = {in, len, 0, false};
	ret->request = reading_u32(&r);
	return r.bad ? -EBADMSG : piece_decode(in + r.at, len - r.at, &ret->piece);
}

int fed_piece_decode_apart(const uint8_t *head, size_t head_len, const uint8_t *data, size_t len, struct fed_piece *ret)
{
	struct reading r = {head, head_len, 0, false};
	ret->request = reading_u32(&r);
	ret->piece.offset = reading_u64(&r);
	ret->piece.len = reading_u32(&r);
	ret->piece.data = data;
	return reading_done(&r) && ret->piece.len == len && piece_is_good(&ret->piece) ? 0 : -EBADMSG;
}

void fed_end_encode(const struct fed_end *e, struct bytes *out)
{
	bytes_put_u32(out, e->request);
	bytes_put_u8(out, e->result);
	bytes_put(out, e->digest, sizeof e->digest);
}

int fed_end_decode(const uint8_t *in, size_t len, struct fed_end *ret)
{
	struct reading r = {in, len, 0, false};
	ret->request = reading_u32(&r);
	ret->result = reading_u8(&r);
	const uint8_t *digest = reading_bytes(&r, sizeof ret->digest);
	if (!digest || !reading_done(&r) || ret->result > FED_BUSY)
		return -EBADMSG;
	memcpy(ret->digest, digest, sizeof ret->digest);
	return 0;
}

void fetch_stop_encode(uint32_t request, struct bytes *out)
{
	bytes_put_u32(out, request);
}

int fetch_stop_decode(const uint8_t *in, size_t len, uint32_t *ret_request)
{
	struct reading r = {in, len, 0, false};
	*ret_request = reading_u32(&r);
	return reading_done(&r) ? 0 : -EBADMSG;
}

void fetch_at_encode(const struct fetch_at *a, struct bytes *out)
{
	bytes_put_u32(out, a->request);
	bytes_put_u64(out, a->bytes);
	bytes_put_u64(out, a->elapsed);
}

int fetch_at_decode(const uint8_t *in, size_t len, struct fetch_at *ret)
{
	struct reading r = {in, len, 0, false};
	ret->request = reading_u32(&r);
	ret->bytes = reading_u64(&r);
	ret->elapsed = reading_u64(&r);
	return reading_done(&r) && ret->bytes <= INT64_MAX && ret->elapsed <= INT64_MAX ? 0 : -EBADMSG;
}
