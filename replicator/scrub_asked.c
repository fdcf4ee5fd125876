/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_asked.c — a neighbour asks for digests of files: they are read here in turn with all else (scrub_read.h); for one that
 * wants to know what others have, our other neighbours are asked, too. */
#include "replicator/scrub_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OWN_QUESTIONS 2 /* of a run, and of a file in question */

struct asked {
	struct asked *next;
	struct scrub *scrub;
	uint64_t serial;
	struct scrub_read *reading;
	unsigned waiting; /* for other neighbours */
	struct scrub_tell tell;
};

static void asked_drop(struct asked *a)
{
	struct asked **at = &a->scrub->asked;
	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	scrub_forget_questions(a->scrub, a);
	scrub_read_cancel(&a->reading);
	free(a);
}

static void answer_if_complete(struct asked *a)
{
	struct set *s = a->scrub->set;
	struct peer *p = set_peer_by_serial(s, a->serial);
	struct bytes frame = {0};
	if (a->reading || a->waiting)
		return;
	scrub_tell_encode(&a->tell, &frame);
	link_send(p->link, s, FRAME_SCRUB_TELL, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	asked_drop(a);
}

static void add_answer(struct asked *a, size_t index, uint32_t node, uint8_t found, const uint8_t digest[16])
{
	if (a->tell.count == SCRUB_ANSWERS_MAX)
		return;
	struct scrub_answer *answer = &a->tell.answers[a->tell.count++];
	*answer = (struct scrub_answer){.index = (uint16_t)index, .node = node, .found = found};
	memcpy(answer->digest, digest, sizeof answer->digest);
}

static void was_read(void *arg, struct scrub_files *files)
{
	struct asked *a = arg;
	a->reading = NULL;
	for (size_t i = 0; i < files->count; i++)
		add_answer(a, i, a->scrub->set->node->id->number, files->files[i].found, files->files[i].digest);
	scrub_files_free(files);
	answer_if_complete(a);
}

/* Each speaks of itself only. */
static void other_told(void *arg, struct peer *p, const struct scrub_tell *tell)
{
	struct asked *a = arg;
	a->waiting--;
	for (size_t i = 0; tell && i < tell->count; i++)
		if (tell->answers[i].node == p->number && tell->answers[i].index == 0) {
			add_answer(a, 0, p->number, tell->answers[i].found, tell->answers[i].digest);
			break;
		}
	answer_if_complete(a);
}

static size_t count_of(const struct scrub *sc, uint64_t serial)
{
	size_t n = 0;
	for (const struct asked *a = sc->asked; a; a = a->next)
		n += a->serial == serial;
	return n;
}

int asked_take(struct scrub *sc, struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct scrub_ask *ask = calloc(1, sizeof *ask);
	struct asked *a = calloc(1, sizeof *a);
	struct scrub_files *files = scrub_files_new();
	if (!ask || !a)
		abort();
	int r = scrub_ask_decode(payload, len, ask) < 0 || count_of(sc, p->serial) >= SCRUB_OPEN_MAX ? -EBADMSG : 0;
	for (size_t i = 0; r == 0 && i < ask->count; i++)
		r = scrub_files_add(files, &ask->files[i]) ? 0 : -EBADMSG;
	if (r < 0) {
		scrub_files_free(files);
		free(a);
		free(ask);
		return cdm_fail_plain(err, EBADMSG, "SCRUB_ASK malformed or too many of them");
	}
	*a = (struct asked){.next = sc->asked, .scrub = sc, .serial = p->serial, .tell = {.request = ask->request}};
	sc->asked = a;
	for (struct peer *other = sc->set->peers; ask->others && other; other = other->next) {
		if (other == p || !scrub_may_ask(other) || scrub_questions_to(sc, other) + OWN_QUESTIONS >= SCRUB_OPEN_MAX)
			continue;
		a->waiting++;
		scrub_ask_peer(sc, other, files, (struct scrub_ask_how){.doubted = ask->doubted}, other_told, a);
	}
	a->reading = scrub_read(sc->reader, files, ask->doubted ? READ_IN_DOUBT : READ_TO_COMPARE, was_read, a);
	free(ask);
	return 0;
}

void asked_peer_gone(struct scrub *sc, const struct peer *p)
{
	for (struct asked *a = sc->asked, *next; a; a = next) {
		next = a->next;
		if (a->serial == p->serial)
			asked_drop(a);
	}
}

void asked_free(struct scrub *sc)
{
	while (sc->asked)
		asked_drop(sc->asked);
}
