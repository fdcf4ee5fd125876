/* SPDX-License-Identifier: Apache-2.0 */
/* conflict.c — which of two versions of a name stays (design.md 6): the higher of (clock, origin, number), on every node,
 * whatever the order of arrival. A version that its successor's origin had seen is replaced silently; otherwise the loser is
 * kept in .cdmfs/conflicts/ and reported. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/io.h"
#include "replicator/publish.h"

struct cdm_version change_version(const struct cdm_change *c)
{
	if (!cdm_dot_is_none(c->version.dot))
		return c->version;
	return (struct cdm_version){.dot = c->dot, .clock = c->clock};
}

static struct cdm_version incoming_version(const struct incoming *in)
{
	const struct carried *k = &in->carried;
	if ((k->kind == CONTENT_WHOLE || k->kind == CONTENT_RANGES) && !cdm_dot_is_none(k->stamp.content.dot))
		return k->stamp.content;
	return change_version(&k->change);
}

bool conflict_saved_by(struct publisher *pub, struct cdm_dot version, struct cdm_dot *ret)
{
	if (!publisher_read_up(pub))
		return false;
	*ret = history_saved_by(pub->history, version);
	return true;
}

/* A version is the dot of the last write in it; others know it only from its SAVE on, and may know what lies between. */
enum seen conflict_seen(struct publisher *pub, const struct incoming *in, const struct cdm_announcement *found)
{
	struct cdm_dot at = in->carried.change.dot;
	struct cdm_dot was = history_found_as(pub->history, found->found.dot); /* what a start-up check gave a version of its own */
	struct cdm_dot here = cdm_dot_is_none(was) ? found->found.dot : was;
	if (found->found_unsaved)
		return UNSEEN;
	if (cdm_dot_equal(incoming_version(in).dot, here))
		return SEEN;
	if (at.origin == here.origin)
		return here.number < at.number ? SEEN : AHEAD;
	struct cdm_dot saved_by;
	if (!conflict_saved_by(pub, here, &saved_by))
		return UNSEEN;
	return cdm_vector_covers(&in->context, cdm_dot_is_none(saved_by) ? here : saved_by) ? SEEN : UNSEEN;
}

/* A node passes on what it took from a neighbour after a power cut, in place of what it had (unsure.h): what it saw before says nothing. */
static bool is_told_again(const struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	return c->op == CDM_OP_SAVE && !in->resync && !in->instead_of && !cdm_dot_is_none(c->version.dot) && c->version.dot.origin != c->dot.origin;
}

static bool is_read_only(struct publisher *pub)
{
	struct set *s = pub->set;
	pthread_mutex_lock(&s->policy_lock);
	bool read_only = s->policy.read_only;
	pthread_mutex_unlock(&s->policy_lock);
	return read_only;
}

bool conflict_is_refused(struct publisher *pub, const struct incoming *in, struct cdm_dot here)
{
	bool lost = in->orphaned || (in->decisive && !cdm_vector_covers(&in->context, here)); /* with its author: resync_compare.c */
	return in->resync && (lost || CDM_ORIGIN_NODE(here.origin) == pub->set->node->id->number) && (in->keeps_own || is_read_only(pub));
}

enum verdict conflict_decide(struct publisher *pub, const struct incoming *in, const struct cdm_announcement *found)
{
	struct cdm_version mine = incoming_version(in);
	if (in->mends) {
		bool meant = found->found_exists && !found->found_is_dir && !found->found_unsaved && cdm_dot_equal(mine.dot, found->found.dot);
		return meant ? INCOMING_WINS_KEEP_OLD : SAME;
	}
	if (!found->found_exists)
		return ABSENT;
	if (found->found_is_dir)
		return TYPE_CLASH;
	if (cdm_dot_equal(mine.dot, found->found.dot))
		return in->decisive ? INCOMING_WINS : SAME; /* it differs in attributes or names */
	bool unversioned = in->resync && in->carried.kind != CONTENT_NONE && cdm_dot_is_none(in->carried.stamp.content.dot);
	if (cdm_dot_is_none(found->found.dot) || unversioned)
		return INCOMING_WINS_KEEP_OLD;
	if (mine.clock == CDM_CLOCK_UNSURE && found->found.clock != CDM_CLOCK_UNSURE)
		return in->decisive ? INCOMING_WINS_KEEP_OLD : LOCAL_WINS;
	enum seen seen = is_told_again(in) ? UNSEEN : conflict_seen(pub, in, found);
	if (seen != UNSEEN) /* what the author made of what he saw counts, be it an older content under this name */
		return seen != SEEN ? LOCAL_WINS : conflict_is_refused(pub, in, found->found.dot) ? INCOMING_WINS_KEEP_OLD : INCOMING_WINS;
	if (cdm_version_compare(&mine, &found->found) < 0)
		return conflict_is_refused(pub, in, found->found.dot) ? INCOMING_WINS_KEEP_OLD : LOCAL_WINS;
	bool same_author = !found->found_unsaved && mine.dot.origin == found->found.dot.origin;
	return same_author ? INCOMING_WINS : INCOMING_WINS_KEEP_OLD;
}

void conflict_report(struct publisher *pub, const char *path, size_t len, struct cdm_version loser, const char *what)
{
	char dot[64], shown[512];
	cdm_dot_format(loser.dot, dot);
	snprintf(shown, sizeof shown, "%.*s", (int)(len < 500 ? len : 500), path);
	cdm_log(conflict_decided, cdm_str("set", set_name(pub->set)), cdm_str("path", shown), cdm_str("loser", dot), cdm_str("what", what));
	count_up(&pub->set->counters.conflicts, 1);
	pub->kept_more = true;
}

/* "dir%2Fname@1.1:77": '/' and '%' escaped; too long names keep their end and get a hash. */
static void kept_name(const char *path, size_t len, struct cdm_version version, char out[CDM_NAME_LEN_MAX + 1])
{
	char dot[64], escaped[CDM_NAME_LEN_MAX + 1];
	cdm_dot_format(version.dot, dot);
	size_t room = CDM_NAME_LEN_MAX - strlen(dot) - 1 - 17, n = 0, from = len;
	while (from > 0) { /* how much of the end fits? */
		size_t wants = path[from - 1] == '/' || path[from - 1] == '%' ? 3 : 1;
		if (n + wants > room)
			break;
		n += wants;
		from--;
	}
	n = 0;
	for (size_t i = from; i < len; i++) {
		if (path[i] == '/' || path[i] == '%')
			n += (size_t)sprintf(escaped + n, "%%%02X", (unsigned char)path[i]);
		else
			escaped[n++] = path[i];
	}
	size_t at = from ? (size_t)sprintf(out, "%016" PRIx64 "-", (uint64_t)XXH3_64bits(path, len)) : 0;
	memcpy(out + at, escaped, n); /* n <= room */
	out[at + n] = '@';
	strcpy(out + at + n + 1, dot);
}

/* Its name may tell only the end of it. */
static void remember_path(int dir, const char *name, const char *path, size_t len)
{
	char at[64 + CDM_NAME_LEN_MAX];
	snprintf(at, sizeof at, "/proc/self/fd/%d/%s", dir, name);
	(void)lsetxattr(at, CDM_XATTR_KEPT, path, len, 0); /* without it: kept.c takes what the name tells */
}

void conflict_keep_staged(struct publisher *pub, const char *staged, const char *path, size_t len, struct cdm_version version)
{
	char name[CDM_NAME_LEN_MAX + 1];
	kept_name(path, len, version, name);
	if (renameat(pub->set->staging_fd, staged, pub->set->conflicts_fd, name) < 0) {
		struct cdm_error err = CDM_ERROR_INIT;
		cdm_fail(&err, errno, "keep the losing version as conflicts/%s", name);
		cdm_log_err(failed, &err, cdm_str("set", set_name(pub->set)));
		return;
	}
	remember_path(pub->set->conflicts_fd, name, path, len);
	conflict_report(pub, path, len, version, "received version");
}
