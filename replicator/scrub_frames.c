/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/scrub_frames.h"

#include <errno.h>
#include <string.h>

#define ASK_OTHERS 1
#define ASK_DOUBTED 2

static void put_question(const struct scrub_question *q, struct bytes *out)
{
	bytes_put_u64(out, q->version.origin);
	bytes_put_u64(out, q->version.number);
	bytes_put_u64(out, q->size);
	bytes_put_u64(out, (uint64_t)q->mtime_ns);
	bytes_put_u32(out, (uint32_t)q->path_len);
	bytes_put(out, q->path, q->path_len);
}

static int read_question(struct reading *r, struct scrub_question *ret)
{
	ret->version.origin = reading_u64(r);
	ret->version.number = reading_u64(r);
	ret->size = reading_u64(r);
	ret->mtime_ns = (int64_t)reading_u64(r);
	ret->path_len = reading_u32(r);
	ret->path = (const char *)reading_bytes(r, ret->path_len);
	return ret->path && ret->path_len && ret->size <= INT64_MAX ? cdm_path_check(ret->path, ret->path_len) : -EBADMSG;
}

void scrub_ask_encode(const struct scrub_ask *a, struct bytes *out)
{
	bytes_put_u32(out, a->request);
	bytes_put_u8(out, (a->others ? ASK_OTHERS : 0) | (a->doubted ? ASK_DOUBTED : 0));
	bytes_put_u16(out, (uint16_t)a->count);
	for (size_t i = 0; i < a->count; i++)
		put_question(&a->files[i], out);
}

int scrub_ask_decode(const uint8_t *in, size_t len, struct scrub_ask *ret)
{
	struct reading r = {in, len, 0, false};
	ret->request = reading_u32(&r);
	uint8_t flags = reading_u8(&r);
	ret->others = flags & ASK_OTHERS;
	ret->doubted = flags & ASK_DOUBTED;
	ret->count = reading_u16(&r);
	bool bad = r.bad || !ret->request || flags & ~(ASK_OTHERS | ASK_DOUBTED) || !ret->count || ret->count > SCRUB_FILES_MAX;
	if (bad || (ret->others && ret->count != 1))
		return -EBADMSG;
	for (size_t i = 0; i < ret->count; i++)
		if (read_question(&r, &ret->files[i]) < 0)
			return -EBADMSG;
	return r.at == len ? 0 : -EBADMSG;
}

static bool has_digest(uint8_t found)
{
	return found == SCRUB_DIGEST || found == SCRUB_AS_SENT;
}

void scrub_tell_encode(const struct scrub_tell *t, struct bytes *out)
{
	bytes_put_u32(out, t->request);
	bytes_put_u16(out, (uint16_t)t->count);
	for (size_t i = 0; i < t->count; i++) {
		const struct scrub_answer *a = &t->answers[i];
		bytes_put_u16(out, a->index);
		bytes_put_u32(out, a->node);
		bytes_put_u8(out, a->found);
		if (has_digest(a->found))
			bytes_put(out, a->digest, sizeof a->digest);
	}
}

int scrub_tell_decode(const uint8_t *in, size_t len, struct scrub_tell *ret)
{
	struct reading r = {in, len, 0, false};
	ret->request = reading_u32(&r);
	ret->count = reading_u16(&r);
	if (r.bad || !ret->request || ret->count > SCRUB_ANSWERS_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < ret->count; i++) {
		struct scrub_answer *a = &ret->answers[i];
		*a = (struct scrub_answer){.index = reading_u16(&r), .node = reading_u32(&r)};
		a->found = reading_u8(&r);
		const uint8_t *digest = has_digest(a->found) ? reading_bytes(&r, sizeof a->digest) : NULL;
		if (digest)
			memcpy(a->digest, digest, sizeof a->digest);
		if (r.bad || a->index >= SCRUB_FILES_MAX || a->found > SCRUB_AS_SENT)
			return -EBADMSG;
	}
	return r.at == len ? 0 : -EBADMSG;
}

void scrub_look_encode(const struct scrub_question *q, struct bytes *out)
{
	put_question(q, out);
}

int scrub_look_decode(const uint8_t *in, size_t len, struct scrub_question *ret)
{
	struct reading r = {in, len, 0, false};
	return read_question(&r, ret) < 0 || r.at != len ? -EBADMSG : 0;
}
