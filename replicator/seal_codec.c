/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/seal_codec.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define FORMAT 2
#define STILL 1
#define CERTIFICATE_MAX 4096u
#define SIGNATURE_MAX 256u
#define HAS_CONTENT 1
#define HAS_XATTRS 2

static bool has_content(uint32_t mode)
{
	return S_ISREG(mode) || S_ISLNK(mode);
}

static bool is_zero(const uint8_t digest[SEAL_DIGEST])
{
	static const uint8_t zeros[SEAL_DIGEST];
	return memcmp(digest, zeros, SEAL_DIGEST) == 0;
}

bool seal_tells_content(const struct sealed *n)
{
	return !is_zero(n->content);
}

/* --- encoding --- */

static void put_short(struct bytes *out, const char *text, size_t len)
{
	bytes_put_u8(out, (uint8_t)len);
	bytes_put(out, text, len);
}

static void put_object(const struct sealed *n, struct bytes *out)
{
	uint8_t has = (seal_tells_content(n) ? HAS_CONTENT : 0) | (is_zero(n->xattrs) ? 0 : HAS_XATTRS);
	bytes_put_u32(out, n->mode);
	bytes_put_u32(out, n->uid);
	bytes_put_u32(out, n->gid);
	bytes_put_u64(out, n->size);
	bytes_put_u64(out, n->rdev);
	bytes_put_u64(out, (uint64_t)n->mtime_ns);
	cdm_stamp_encode(&n->stamp, bytes_add(out, CDM_XATTR_VERSION_SIZE));
	put_short(out, n->user, n->user_len);
	put_short(out, n->group, n->group_len);
	bytes_put_u8(out, has);
	if (has & HAS_CONTENT)
		bytes_put(out, n->content, sizeof n->content);
	if (has & HAS_XATTRS)
		bytes_put(out, n->xattrs, sizeof n->xattrs);
}

void seal_statement_encode(const struct seal *s, struct bytes *out)
{
	bytes_put_u8(out, FORMAT);
	put_short(out, s->set, strlen(s->set));
	bytes_put_u64(out, s->clock);
	bytes_put_u64(out, s->upto.origin);
	bytes_put_u64(out, s->upto.number);
	bytes_put_u64(out, s->after);
	bytes_put_u64(out, s->through);
	bytes_put_u8(out, s->still ? STILL : 0);
	cdm_vector_encode(&s->vector, bytes_add(out, cdm_vector_encoded_size(&s->vector)));
	bytes_put_u16(out, (uint16_t)s->count);
	for (size_t i = 0; i < s->count; i++) {
		const struct sealed *n = &s->names[i];
		bytes_put_u32(out, (uint32_t)n->path_len);
		bytes_put(out, n->path, n->path_len);
		bytes_put_u8(out, n->there);
		if (n->there)
			put_object(n, out);
	}
}

void seal_encode(const struct seal *s, struct bytes *out)
{
	bytes_put_u16(out, (uint16_t)s->certificate_len);
	bytes_put(out, s->certificate, s->certificate_len);
	bytes_put_u16(out, (uint16_t)s->signature_len);
	bytes_put(out, s->signature, s->signature_len);
	bytes_put(out, s->statement, s->statement_len);
}

/* --- decoding --- */

static const uint8_t *read_short(struct reading *r, size_t *ret_len)
{
	*ret_len = reading_u8(r);
	return reading_bytes(r, *ret_len);
}

static void read_digest(struct reading *r, uint8_t ret[SEAL_DIGEST])
{
	const uint8_t *p = reading_bytes(r, SEAL_DIGEST);
	if (p)
		memcpy(ret, p, SEAL_DIGEST);
	r->bad |= p && is_zero(ret); /* says nothing: has one encoding, the missing one */
}

static void read_object(struct reading *r, struct sealed *n)
{
	n->mode = reading_u32(r);
	n->uid = reading_u32(r);
	n->gid = reading_u32(r);
	n->size = reading_u64(r);
	n->rdev = reading_u64(r);
	n->mtime_ns = (int64_t)reading_u64(r);
	const uint8_t *stamp = reading_bytes(r, CDM_XATTR_VERSION_SIZE);
	if (!stamp || cdm_stamp_decode(stamp, CDM_XATTR_VERSION_SIZE, &n->stamp) < 0)
		r->bad = true;
	n->user = (const char *)read_short(r, &n->user_len);
	n->group = (const char *)read_short(r, &n->group_len);
	uint8_t has = reading_u8(r);
	if (n->user_len > FRAME_OWNER_MAX || n->group_len > FRAME_OWNER_MAX || n->size > INT64_MAX || has & ~(HAS_CONTENT | HAS_XATTRS) ||
		(has & HAS_CONTENT && !has_content(n->mode)))
		r->bad = true;
	if (has & HAS_CONTENT)
		read_digest(r, n->content);
	if (has & HAS_XATTRS)
		read_digest(r, n->xattrs);
}

static int read_name(struct reading *r, struct sealed *n)
{
	*n = (struct sealed){.user = "", .group = ""};
	n->path_len = reading_u32(r);
	n->path = (const char *)reading_bytes(r, n->path_len);
	uint8_t there = reading_u8(r);
	if (r->bad || there > 1 || !n->path_len || cdm_path_check(n->path, n->path_len) < 0)
		return -EBADMSG;
	n->there = there;
	if (there)
		read_object(r, n);
	return r->bad ? -EBADMSG : 0;
}

static int read_statement(struct reading *r, struct seal *s)
{
	size_t set_len;
	uint8_t format = reading_u8(r);
	const uint8_t *set = read_short(r, &set_len);
	s->clock = reading_u64(r);
	s->upto.origin = reading_u64(r);
	s->upto.number = reading_u64(r);
	s->after = reading_u64(r);
	s->through = reading_u64(r);
	uint8_t flags = reading_u8(r);
	s->still = flags & STILL;
	if (r->bad || format != FORMAT || !set_len || memchr(set, 0, set_len) || !s->clock || cdm_dot_is_none(s->upto) || !s->upto.number || flags & ~STILL ||
		s->after > s->through || s->through > s->upto.number)
		return -EBADMSG;
	memcpy(s->set, set, set_len);
	int n = cdm_vector_decode(r->data + r->at, r->len - r->at, &s->vector);
	if (n < 0)
		return -EBADMSG;
	r->at += (size_t)n;
	s->count = reading_u16(r);
	if (r->bad || s->count > SEAL_NAMES_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < s->count; i++)
		if (read_name(r, &s->names[i]) < 0)
			return -EBADMSG;
	return r->at == r->len ? 0 : -EBADMSG;
}

int seal_decode(const uint8_t *in, size_t len, struct seal *ret)
{
	struct reading r = {in, len, 0, false};
	*ret = (struct seal){0};
	ret->certificate_len = reading_u16(&r);
	ret->certificate = reading_bytes(&r, ret->certificate_len);
	ret->signature_len = reading_u16(&r);
	ret->signature = reading_bytes(&r, ret->signature_len);
	if (r.bad || ret->certificate_len > CERTIFICATE_MAX || ret->signature_len > SIGNATURE_MAX)
		return -EBADMSG;
	ret->statement = in + r.at;
	ret->statement_len = len - r.at;
	int result = read_statement(&r, ret);
	if (result < 0)
		seal_fini(ret);
	return result;
}

void seal_fini(struct seal *s)
{
	cdm_vector_fini(&s->vector);
	s->vector = (struct cdm_vector){0};
}

void seal_seen_encode(const struct seal_seen *s, struct bytes *out)
{
	bytes_put_u16(out, (uint16_t)s->count);
	for (size_t i = 0; i < s->count; i++) {
		bytes_put_u32(out, s->authors[i].number);
		bytes_put_u64(out, s->authors[i].clock);
	}
}

int seal_seen_decode(const uint8_t *in, size_t len, struct seal_seen *ret)
{
	struct reading r = {in, len, 0, false};
	ret->count = reading_u16(&r);
	if (r.bad || ret->count > SEAL_AUTHORS_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < ret->count; i++)
		ret->authors[i] = (struct seal_author){.number = reading_u32(&r), .clock = reading_u64(&r)};
	return r.bad || r.at != r.len ? -EBADMSG : 0;
}
