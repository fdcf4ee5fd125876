/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/wire_codec.h"

#include <errno.h>
#include <string.h>
#include "common/cursor.h"
#include "replicator/link.h"

#define STATE_FIXED 128u
#define VECTOR_BYTES_MAX (4u + CDM_VECTOR_MAX * 16u)

/* Largest payload of a type; 0 = unknown. */
static uint32_t payload_limit(uint8_t type)
{
	switch (type) {
	case FRAME_PING:
	case FRAME_PONG:
		return 8;
	case FRAME_PLAIN:
		return 1;
	case FRAME_HELLO:
	case FRAME_ERROR:
	case FRAME_SET_UP:
	case FRAME_SET_DOWN:
		return WIRE_SMALL_MAX;
	case FRAME_STATE:
		return STATE_FIXED + 16 + 32 + 256 + 2 * VECTOR_BYTES_MAX;
	case FRAME_FETCH:
	case FRAME_FETCH_STOP:
	case FRAME_FED:
	case FRAME_FED_END:
	case FRAME_FETCH_LOOK:
	case FRAME_FETCH_AT:
		return FRAME_PAYLOAD_MAX;
	default:
		return type >= FRAME_SUBSCRIBE && type <= FRAME_SEAL_SEEN ? FRAME_PAYLOAD_MAX : 0;
	}
}

void wire_header_encode(const struct wire_header *h, uint8_t out[WIRE_HEADER])
{
	struct cdm_writer w = cdm_writer_of(out, WIRE_HEADER);
	cdm_put_u32(&w, h->payload + WIRE_HEADER - 4);
	cdm_put_u8(&w, h->type);
	cdm_put_u8(&w, h->flags);
	cdm_put_u16(&w, h->set);
}

int wire_header_decode(const uint8_t in[WIRE_HEADER], struct wire_header *ret, struct cdm_error *err)
{
	struct cdm_reader r = cdm_reader_of(in, WIRE_HEADER);
	uint32_t length = cdm_get_u32(&r);
	ret->type = cdm_get_u8(&r);
	ret->flags = cdm_get_u8(&r);
	ret->set = cdm_get_u16(&r);
	uint32_t limit = payload_limit(ret->type);
	if (limit == 0 && !(ret->flags & WIRE_FLAG_MAY_SKIP))
		return cdm_fail_plain(err, EPROTO, "a frame of the unknown type %u", ret->type);
	if (limit == 0)
		limit = FRAME_PAYLOAD_MAX;
	if (length < WIRE_HEADER - 4 || length - (WIRE_HEADER - 4) > limit)
		return cdm_fail_plain(err, EPROTO, "a frame of type %u with the length %u (at most %u)", ret->type, length, limit + 4);
	ret->payload = length - (WIRE_HEADER - 4);
	return 0;
}

/* Text with a bound; NUL inside is refused. */
static void get_text(struct cdm_reader *r, char *out, size_t room)
{
	size_t len;
	const char *p = cdm_get_blob(r, room - 1, &len);
	if (r->bad || (len > 0 && memchr(p, 0, len))) {
		r->bad = true;
		out[0] = 0;
		return;
	}
	if (len > 0)
		memcpy(out, p, len);
	out[len] = 0;
}

static void put_text(struct cdm_writer *w, const char *s)
{
	cdm_put_blob(w, s, strlen(s));
}

static int at_end(const struct cdm_reader *r)
{
	return r->bad || r->at != r->end ? -EBADMSG : 0;
}

static size_t written(const struct cdm_writer *w, const uint8_t *out)
{
	return w->bad ? 0 : (size_t)(w->at - out);
}

size_t wire_hello_encode(const struct wire_hello *h, uint8_t *out)
{
	struct cdm_writer w = cdm_writer_of(out, WIRE_SMALL_MAX);
	cdm_put_u32(&w, WIRE_MAGIC);
	cdm_put_u16(&w, h->version);
	cdm_put_u16(&w, h->min_version);
	cdm_put_u32(&w, h->features);
	cdm_put_u32(&w, h->required);
	cdm_put_u32(&w, h->number);
	cdm_put_u64(&w, h->instance);
	cdm_put_u64(&w, h->clock);
	put_text(&w, h->name);
	return written(&w, out);
}

/* A newer hello may be longer: what follows the name is not looked at. */
int wire_hello_decode(const uint8_t *in, size_t len, struct wire_hello *ret)
{
	struct cdm_reader r = cdm_reader_of(in, len);
	if (cdm_get_u32(&r) != WIRE_MAGIC)
		return -EBADMSG;
	ret->version = cdm_get_u16(&r);
	ret->min_version = cdm_get_u16(&r);
	ret->features = cdm_get_u32(&r);
	ret->required = cdm_get_u32(&r);
	ret->number = cdm_get_u32(&r);
	ret->instance = cdm_get_u64(&r);
	ret->clock = cdm_get_u64(&r);
	get_text(&r, ret->name, sizeof ret->name);
	return r.bad || ret->number == 0 || !ret->name[0] ? -EBADMSG : 0;
}

static void put_error(struct cdm_writer *w, const struct wire_error *e)
{
	cdm_put_u32(w, e->number);
	put_text(w, e->text);
}

static void get_error(struct cdm_reader *r, struct wire_error *ret)
{
	ret->number = cdm_get_u32(r);
	get_text(r, ret->text, sizeof ret->text);
}

size_t wire_error_encode(const struct wire_error *e, uint8_t *out)
{
	struct cdm_writer w = cdm_writer_of(out, WIRE_SMALL_MAX);
	put_error(&w, e);
	return written(&w, out);
}

int wire_error_decode(const uint8_t *in, size_t len, struct wire_error *ret)
{
	struct cdm_reader r = cdm_reader_of(in, len);
	get_error(&r, ret);
	return at_end(&r);
}

static const struct {
	enum wire_errno wire;
	int number;
} errnos[] = {
	{WIRE_E_PROTOCOL, EPROTO}, {WIRE_E_PROTOCOL, EBADMSG}, {WIRE_E_DENIED, EACCES}, {WIRE_E_DENIED, EPERM},
	{WIRE_E_VERSION, EPROTONOSUPPORT}, {WIRE_E_DUPLICATE, EALREADY}, {WIRE_E_UNKNOWN_SET, ENOENT}, {WIRE_E_NOT_READY, EAGAIN},
	{WIRE_E_NO_SPACE, ENOSPC}, {WIRE_E_TIMEOUT, ETIMEDOUT}, {WIRE_E_ENDING, ESHUTDOWN},
};

enum wire_errno wire_errno_of(int errnum)
{
	for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++)
		if (errnos[i].number == errnum)
			return errnos[i].wire;
	return WIRE_E_OTHER;
}

int wire_errno_to(uint32_t number)
{
	for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++)
		if (errnos[i].wire == number)
			return errnos[i].number;
	return EIO;
}

size_t wire_set_up_encode(const struct wire_set_up *s, uint8_t *out)
{
	struct cdm_writer w = cdm_writer_of(out, WIRE_SMALL_MAX);
	cdm_put_u8(&w, s->child);
	cdm_put_u64(&w, s->epoch);
	put_text(&w, s->name);
	return written(&w, out);
}

int wire_set_up_decode(const uint8_t *in, size_t len, struct wire_set_up *ret)
{
	struct cdm_reader r = cdm_reader_of(in, len);
	uint8_t child = cdm_get_u8(&r);
	ret->child = child == 1;
	ret->epoch = cdm_get_u64(&r);
	get_text(&r, ret->name, sizeof ret->name);
	return child > 1 || !ret->name[0] ? -EBADMSG : at_end(&r);
}

size_t wire_set_down_encode(const struct wire_set_down *s, uint8_t *out)
{
	struct cdm_writer w = cdm_writer_of(out, WIRE_SMALL_MAX);
	put_text(&w, s->name);
	put_error(&w, &s->why);
	return written(&w, out);
}

int wire_set_down_decode(const uint8_t *in, size_t len, struct wire_set_down *ret)
{
	struct cdm_reader r = cdm_reader_of(in, len);
	get_text(&r, ret->name, sizeof ret->name);
	get_error(&r, &ret->why);
	return !ret->name[0] ? -EBADMSG : at_end(&r);
}

size_t wire_state_size(const struct wire_state *s)
{
	return 1 + 4 + 3 * 8 + 3 * 4 + strlen(s->state) + strlen(s->reason_code) + strlen(s->reason) +
		cdm_vector_encoded_size(&s->visible) + cdm_vector_encoded_size(&s->durable);
}

static void put_vector(struct cdm_writer *w, const struct cdm_vector *v)
{
	uint8_t *room = cdm_put_room(w, cdm_vector_encoded_size(v));
	if (room)
		cdm_vector_encode(v, room);
}

static void get_vector(struct cdm_reader *r, struct cdm_vector *ret)
{
	int n = r->bad ? -EBADMSG : cdm_vector_decode(r->at, cdm_reader_left(r), ret);
	if (n < 0)
		r->bad = true;
	else
		r->at += n;
}

size_t wire_state_encode(const struct wire_state *s, uint8_t *out)
{
	struct cdm_writer w = cdm_writer_of(out, wire_state_size(s));
	cdm_put_u8(&w, s->down);
	cdm_put_u32(&w, s->number);
	cdm_put_u64(&w, s->start);
	cdm_put_u64(&w, s->sequence);
	cdm_put_u64(&w, s->clock);
	put_text(&w, s->state);
	put_text(&w, s->reason_code);
	put_text(&w, s->reason);
	put_vector(&w, &s->visible);
	put_vector(&w, &s->durable);
	return written(&w, out);
}

int wire_state_decode(const uint8_t *in, size_t len, struct wire_state *ret)
{
	*ret = (struct wire_state){0};
	struct cdm_reader r = cdm_reader_of(in, len);
	uint8_t down = cdm_get_u8(&r);
	ret->down = down == 1;
	ret->number = cdm_get_u32(&r);
	ret->start = cdm_get_u64(&r);
	ret->sequence = cdm_get_u64(&r);
	ret->clock = cdm_get_u64(&r);
	get_text(&r, ret->state, sizeof ret->state);
	get_text(&r, ret->reason_code, sizeof ret->reason_code);
	get_text(&r, ret->reason, sizeof ret->reason);
	get_vector(&r, &ret->visible);
	get_vector(&r, &ret->durable);
	if (at_end(&r) < 0 || down > 1 || ret->number == 0) {
		wire_state_fini(ret);
		return -EBADMSG;
	}
	return 0;
}

void wire_state_fini(struct wire_state *s)
{
	cdm_vector_fini(&s->visible);
	cdm_vector_fini(&s->durable);
}
