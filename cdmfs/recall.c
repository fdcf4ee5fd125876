/* SPDX-License-Identifier: Apache-2.0 */
/* What the journal forgets after its tail was lost (journal.h, cut_to_mark): this node's own changes of names since the last mark. The
 * start-up check finds what came to be, but not what is gone; so names that the journal says were removed, renamed or linked, and that the
 * store shows so, are recorded once more under the new incarnation. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cdmfs/fs.h"
#include "common/io.h"
#include "common/log.h"

#define RECALLED_MAX 65536
#define RECALLED_BYTES_MAX (32u << 20)
#define RECENT 256 /* renames of one object are looked for among so many */

#define DOTS_MAX 262144 /* received saves, fsyncs that are remembered: the newest */

struct recalled {
	struct recalled *next;
	struct cdm_change change;
	char path[];
};

static bool names_matter(const struct fs *fs, const struct cdm_change *c)
{
	bool own = CDM_ORIGIN_NODE(c->dot.origin) == fs->node_number && !(c->flags & (CDM_CH_RECEIVED | CDM_CH_LOCAL));

	if (c->flags & CDM_CH_UNSAVED && !(c->flags & CDM_CH_COVERS))
		return false;
	return own && (c->op == CDM_OP_UNLINK || c->op == CDM_OP_RMDIR || c->op == CDM_OP_RENAME);
}

static struct recalled *recalled_new(const struct cdm_change *c)
{
	struct recalled *r = malloc(sizeof(*r) + c->path_len);
	char *path2 = malloc(c->path2_len ? c->path2_len : 1);

	if (!r || !path2) {
		free(r);
		free(path2);
		return NULL;
	}
	r->next = NULL;
	r->change = (struct cdm_change){.op = c->op, .flags = (c->flags & CDM_CH_LINKED) | CDM_CH_RECOVERED, .version = c->version, .base = c->base,
		.victim = c->victim, .attr = c->attr, .rename_flags = c->rename_flags, .handle = c->handle, .path = r->path, .path_len = c->path_len,
		.path2 = path2, .path2_len = c->path2_len};
	memcpy(r->path, c->path, c->path_len);
	if (c->path2_len)
		memcpy(path2, c->path2, c->path2_len);
	return r;
}

/* a -> b -> c is a -> c for the others, who may never have seen b. */
static bool renamed_again(struct recalled *const *recent, size_t count, const struct cdm_change *c)
{
	size_t known = count < RECENT ? count : RECENT;

	for (size_t i = 1; c->op == CDM_OP_RENAME && !c->rename_flags && i <= known; i++) {
		struct cdm_change *before = &recent[(count - i) % RECENT]->change;
		char *path2;
		if (before->op != CDM_OP_RENAME || before->rename_flags || !cdm_handle_equal(&before->handle, &c->handle) ||
		    before->path2_len != c->path_len || memcmp(before->path2, c->path, c->path_len) != 0)
			continue;
		path2 = malloc(c->path2_len);
		if (!path2)
			return false;
		memcpy(path2, c->path2, c->path2_len);
		free((char *)before->path2);
		before->path2 = path2;
		before->path2_len = c->path2_len;
		return true;
	}
	return false;
}

/* --- versions whose content was on the disk --- */

static int by_dot(const void *a, const void *b)
{
	const struct cdm_dot *x = a, *y = b;

	if (x->origin != y->origin)
		return x->origin < y->origin ? -1 : 1;
	return x->number < y->number ? -1 : x->number > y->number;
}

static void dots_add(struct recalled_dots *d, struct cdm_dot dot)
{
	if (!d->dots)
		d->dots = malloc(DOTS_MAX * sizeof(*d->dots));
	if (d->dots)
		d->dots[d->count++ % DOTS_MAX] = dot;
}

static void dots_sort(struct recalled_dots *d)
{
	if (d->count > DOTS_MAX)
		d->count = DOTS_MAX;
	if (d->count)
		qsort(d->dots, d->count, sizeof(*d->dots), by_dot);
}

static bool dots_have(const struct recalled_dots *d, struct cdm_dot dot)
{
	return d->count && bsearch(&dot, d->dots, d->count, sizeof(*d->dots), by_dot);
}

static void dots_drop(struct recalled_dots *d)
{
	free(d->dots);
	*d = (struct recalled_dots){0};
}

/* --- reading --- */

static void collect(struct fs *fs, struct cdm_journal_reader *reader)
{
	struct recalled **end = &fs->recalled, *recent[RECENT];
	size_t count = 0, bytes = 0;
	struct cdm_change c;

	while (count < RECALLED_MAX && bytes < RECALLED_BYTES_MAX && cdm_journal_reader_next(reader, &c) == 1) {
		if (c.op == CDM_OP_SYNCED)
			dots_add(&fs->synced, c.version.dot);
		struct recalled *r = names_matter(fs, &c) && !renamed_again(recent, count, &c) ? recalled_new(&c) : NULL;
		if (!r)
			continue;
		*end = r;
		end = &r->next;
		recent[count++ % RECENT] = r;
		bytes += sizeof(*r) + c.path_len + c.path2_len;
	}
}

void recall_read(struct fs *fs)
{
	struct cdm_journal_reader *reader;

	if (cdm_journal_reader_open(fs->store.journal_fd, fs->run_dir, &reader, NULL) < 0)
		return; /* no journal yet, or damaged: opening it for writing says so */
	if (cdm_journal_reader_seek(reader, CDM_JOURNAL_LAST_MARK) == 0)
		collect(fs, reader);
	cdm_journal_reader_close(&reader);
}

void recall_drop(struct fs *fs)
{
	while (fs->recalled) {
		struct recalled *r = fs->recalled;
		fs->recalled = r->next;
		free((char *)r->change.path2);
		free(r);
	}
}

/* What lies at the path: 1 the object of this handle, 0 nothing, -1 something else. *ret_mtime_ns: of its directory. */
static int look(struct fs *fs, const char *path, size_t len, const struct cdm_handle *handle, int64_t *ret_mtime_ns)
{
	const char *name;
	struct object o;
	struct stat st;
	_cleanup_close_ int dir = cdm_open_parent(fs->store.root_fd, path, len, &name);
	int found = 0;

	*ret_mtime_ns = 0;
	if (dir < 0)
		return 0;
	if (fstat(dir, &st) == 0)
		*ret_mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	if (object_find(fs, dir, name, &o) < 0)
		return -1;
	if (o.fd >= 0)
		found = cdm_handle_equal(&o.handle, handle) ? 1 : -1;
	object_close(&o);
	return found;
}

static bool was_done(struct fs *fs, struct cdm_change *c)
{
	int at_path = look(fs, c->path, c->path_len, &c->handle, &c->parent_mtime_ns);

	if (c->op != CDM_OP_RENAME)
		return at_path == 0; /* else not done, or another has the name now, which the check finds */
	return at_path != 1 && look(fs, c->path2, c->path2_len, &c->handle, &c->parent2_mtime_ns) == 1;
}

void recall_record(struct fs *fs)
{
	uint64_t count = 0;

	for (struct recalled *r = fs->recalled; r; r = r->next)
		if (was_done(fs, &r->change) && cdm_journal_put(fs->journal, &r->change) == 0)
			count++;
	recall_drop(fs);
	if (count)
		cdm_log(check_recalled, cdm_uint("changes", count));
}

/* --- what the check asks --- */

/* What others saved and the last mark covers; what is not found counts as unconfirmed: more is told than need be. */
void recall_confirm(struct fs *fs)
{
	struct cdm_journal_reader *reader;
	struct cdm_change c;

	if (cdm_journal_reader_open(fs->store.journal_fd, fs->run_dir, &reader, NULL) < 0)
		return;
	if (cdm_journal_reader_seek(reader, 0) == 0)
		while (cdm_journal_reader_next(reader, &c) == 1)
			if (c.op == CDM_OP_SAVE && c.flags & CDM_CH_RECEIVED)
				dots_add(&fs->confirmed, c.version.dot);
	cdm_journal_reader_close(&reader);
	dots_sort(&fs->confirmed);
	dots_sort(&fs->synced);
}

void recall_synced_write(struct fs *fs, FILE *to)
{
	for (size_t i = 0; i < fs->synced.count; i++)
		fprintf(to, "%llu %llu\n", (unsigned long long)fs->synced.dots[i].origin, (unsigned long long)fs->synced.dots[i].number);
}

void recall_synced_read(struct fs *fs, const char *text)
{
	for (char *end; *text; text = *end ? end + 1 : end) {
		struct cdm_dot dot = {.origin = (cdm_origin)strtoull(text, &end, 10)};
		if (end == text)
			return;
		dot.number = strtoull(end, &end, 10);
		dots_add(&fs->synced, dot);
	}
}

bool recall_is_confirmed(const struct fs *fs, struct cdm_dot version)
{
	return dots_have(&fs->confirmed, version);
}

bool recall_is_synced(const struct fs *fs, struct cdm_dot version)
{
	return dots_have(&fs->synced, version);
}

void recall_confirmed_drop(struct fs *fs)
{
	dots_drop(&fs->confirmed);
	dots_drop(&fs->synced);
}
