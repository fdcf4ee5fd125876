/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/scrub_read.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ioprio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "common/filter.h"
#include "common/io.h"
#include "replicator/blocks.h"
#include "replicator/content.h"
#include "replicator/deltas.h"
#include "replicator/seal.h"
#include "replicator/signatures.h"

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80
#endif
#define RATE_DEFAULT (32u << 20) /* bytes a second */
#define STEP_BYTES (4u << 20)
#define FILE_COST 4096           /* what a file counts beside its bytes */
#define BUSY_FACTOR 8            /* so much slower while changes come or go */

struct scrub_read {
	struct scrub_read *next;
	struct scrub_reader *reader;
	struct scrub_files *files;
	scrub_read_fn *done; /* NULL: nobody waits for it any more */
	void *arg;
	/* the worker's during a step */
	size_t at;
	uint64_t offset, size;
	int64_t mtime_ns;
	struct block_hash hash;
	struct block_sha sha;
	bool seals;
	uint64_t step_bytes;
	struct signatures *signatures; /* NULL: not doubted, or none are kept */
	struct delta_signer *signer;   /* of the file at work, while signatures has its version */
	uint64_t signed_to;
};

struct scrub_reader {
	struct set *set;
	struct cdm_worker *worker;
	struct scrub_read *queue, **tail; /* the first one is at work, or waits for its turn */
	bool reading, stopping;
	struct cdm_timer *pause;
	int64_t step_began_ms;
	uint64_t traffic;
	uint8_t *block;                   /* the worker's */
	bool no_dontcache;                /* likewise */
};

/* --- files --- */

struct scrub_files *scrub_files_new(void)
{
	struct scrub_files *files = calloc(1, sizeof *files);
	if (!files)
		abort();
	return files;
}

void scrub_files_free(struct scrub_files *files)
{
	for (size_t i = 0; files && i < files->count; i++) {
		if (files->files[i].fd >= 0)
			close(files->files[i].fd);
		free(files->files[i].path);
	}
	free(files);
}

bool scrub_files_add(struct scrub_files *files, const struct scrub_question *q)
{
	if (files->count == SCRUB_FILES_MAX || (files->count && files->path_bytes + q->path_len > SCRUB_PATHS_MAX))
		return false;
	struct scrub_file *f = &files->files[files->count++];
	*f = (struct scrub_file){.path = strndup(q->path, q->path_len), .len = q->path_len, .version = q->version, .size = q->size,
		.mtime_ns = q->mtime_ns, .found = SCRUB_OTHER, .fd = -1};
	if (!f->path)
		abort();
	files->path_bytes += q->path_len;
	files->bytes += q->size;
	return true;
}

struct scrub_question scrub_file_question(const struct scrub_file *f)
{
	return (struct scrub_question){.path = f->path, .path_len = f->len, .version = f->version, .size = f->size, .mtime_ns = f->mtime_ns};
}

/* --- reading (worker) --- */

static struct cdm_dot version_of(int fd)
{
	struct cdm_stamp stamp;
	return cdm_stamp_get(fd, &stamp) < 0 ? (struct cdm_dot){0} : stamp.content.dot;
}

static int64_t mtime_of(const struct stat *st)
{
	return st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
}

/* Is the open file the content that is meant? */
static bool is_meant(const struct scrub_file *f, const struct stat *st)
{
	bool unversioned = cdm_dot_is_none(f->version);
	return S_ISREG(st->st_mode) && cdm_dot_equal(version_of(f->fd), f->version) &&
		(!unversioned || ((uint64_t)st->st_size == f->size && mtime_of(st) == f->mtime_ns));
}

static void file_over(struct scrub_read *d, uint8_t found)
{
	delta_signer_free(&d->signer);
	d->files->files[d->at].found = found;
	d->at++;
	d->offset = 0;
}

static uint8_t found_by_error(int error)
{
	return error == EIO || error == EUCLEAN || error == EBADMSG ? SCRUB_BAD : SCRUB_OTHER;
}

/* False: it is settled, without a digest. */
static bool open_file(struct scrub_read *d)
{
	struct scrub_file *f = &d->files->files[d->at];
	struct stat st;
	if (set_leaves_out(d->reader->set, f->path, f->len)) { /* nobody else's business */
		file_over(d, SCRUB_OTHER);
		return false;
	}
	f->fd = cdm_open_beneath(d->reader->set->store_fd, f->path, f->len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME, 0);
	if (f->fd < 0 || fstat(f->fd, &st) < 0 || cdm_handle_get(f->fd, "", &f->handle) < 0) {
		file_over(d, found_by_error(f->fd < 0 ? -f->fd : errno));
		return false;
	}
	if (!is_meant(f, &st)) {
		file_over(d, SCRUB_OTHER);
		return false;
	}
	d->size = (uint64_t)st.st_size;
	d->mtime_ns = mtime_of(&st);
	block_hash_begin(&d->hash, d->size);
	if (d->seals || f->is_sealed)
		block_sha_begin(&d->sha);
	if (d->signatures && d->size <= DELTA_SIZE_MAX && signatures_has(d->signatures, f->version))
		d->signer = delta_signer_new(d->size, true);
	d->signed_to = 0;
	return true;
}

/* What is not in the page cache does not stay there, where the kernel can do that. */
static int read_block(struct scrub_reader *r, int fd, uint32_t len, uint64_t offset)
{
	int result = r->no_dontcache ? -EOPNOTSUPP : block_read(fd, r->block, len, offset, RWF_DONTCACHE);
	r->no_dontcache |= result == -EOPNOTSUPP || result == -EINVAL;
	return r->no_dontcache ? block_read(fd, r->block, len, offset, 0) : result;
}

static int hash_block(struct scrub_read *d, const struct scrub_file *f)
{
	uint32_t len = d->size - d->offset < BLOCK ? (uint32_t)(d->size - d->offset) : BLOCK, run = 0, length;
	int r = read_block(d->reader, f->fd, len, d->offset);
	for (; r == 0 && block_next_run(d->reader->block, len, &run, &length); run += length)
		r = block_hash_piece(&d->hash, d->offset + run, d->reader->block + run, length);
	if (r == 0 && (d->seals || f->is_sealed))
		block_sha_block(&d->sha, d->offset, d->reader->block, len);
	if (r == 0 && d->signer) {
		delta_signer_feed_zeros(d->signer, d->offset - d->signed_to);
		delta_signer_feed(d->signer, d->reader->block, len);
		d->signed_to = d->offset + len;
	}
	d->offset += len;
	d->step_bytes += len;
	return r;
}

/* Is it known whether this is what was sent? */
static uint8_t compare_with_sent(struct scrub_read *d)
{
	const struct scrub_file *f = &d->files->files[d->at];
	uint8_t digest[16];
	if (!d->signer)
		return SCRUB_DIGEST;
	delta_signer_feed_zeros(d->signer, d->size - d->signed_to);
	struct delta_signature *now = delta_signer_end(d->signer, digest), *sent = signatures_get(d->signatures, f->version);
	bool same = sent && !(sent->size != now->size || sent->bits != now->bits || sent->count != now->count ||
		memcmp(sent->blocks, now->blocks, now->count * sizeof *now->blocks) != 0);
	uint8_t found = !sent ? SCRUB_DIGEST : same ? SCRUB_AS_SENT : SCRUB_BAD;
	free(now);
	free(sent);
	return found;
}

/* Of one version all the while? What the journal says of it is looked at later, on the loop. */
static void file_was_read(struct scrub_read *d)
{
	struct scrub_file *f = &d->files->files[d->at];
	struct stat st;
	block_hash_end(&d->hash, f->digest);
	if (d->seals || f->is_sealed)
		block_sha_end(&d->sha, d->size, f->sha);
	bool same = fstat(f->fd, &st) == 0 && is_meant(f, &st) && (uint64_t)st.st_size == d->size && mtime_of(&st) == d->mtime_ns;
	uint8_t found = compare_with_sent(d);
	if (f->is_sealed)
		found = memcmp(f->sha, f->sealed, sizeof f->sha) == 0 ? SCRUB_AS_SENT : SCRUB_BAD;
	file_over(d, same ? found : SCRUB_OTHER);
}

static void read_on(struct scrub_read *d)
{
	struct scrub_file *f = &d->files->files[d->at];
	int r = 0;
	if (f->fd < 0 && !open_file(d))
		return;
	while (r == 0 && d->step_bytes < STEP_BYTES && (d->offset = block_next_data(f->fd, d->offset, d->size)) < d->size)
		r = hash_block(d, f);
	if (r < 0)
		file_over(d, found_by_error(-r));
	else if (d->offset >= d->size)
		file_was_read(d);
}

static void step_work(void *arg)
{
	struct scrub_read *d = arg;
	d->step_bytes = 0;
	while (d->at < d->files->count && d->step_bytes < STEP_BYTES) {
		d->step_bytes += FILE_COST;
		read_on(d);
	}
}

int scrub_digest(int fd, uint64_t size, uint8_t ret[16])
{
	return block_hash_file(fd, size, ret);
}

/* --- steps --- */

static void next_step(struct scrub_reader *r);

static void read_free(struct scrub_read *d)
{
	scrub_files_free(d->files);
	block_hash_fini(&d->hash);
	block_sha_fini(&d->sha);
	delta_signer_free(&d->signer);
	free(d);
}

static uint64_t traffic_of(struct set *s)
{
	const struct set_counters *c = &s->counters;
	return atomic_load(&c->changes_sent) + atomic_load(&c->changes_received) + atomic_load(&c->content_sent_bytes) +
		atomic_load(&c->content_received_bytes);
}

/* Nobody was at work on it while it was read (content.h), and it has that version still. */
static void settle(struct set *s, struct scrub_file *f)
{
	struct cdm_journal_reader *reader = s->follow.reader;
	bool unversioned = cdm_dot_is_none(f->version);
	bool at_work = f->fd >= 0 && (unversioned ? reader && cdm_journal_reader_pending(reader, &f->handle) != 0
						  : content_verdict(reader, &f->handle, f->fd, f->version) != 0);
	if (at_work)
		f->found = SCRUB_OTHER;
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

static void read_over(struct scrub_reader *r, struct scrub_read *d)
{
	r->queue = d->next;
	if (!r->queue)
		r->tail = &r->queue;
	for (size_t i = 0; i < d->files->count; i++)
		settle(r->set, &d->files->files[i]);
	if (d->done) {
		struct scrub_files *files = d->files;
		d->files = NULL;
		d->done(d->arg, files);
	}
	read_free(d);
}

/* The others have their turn. */
static void rotate(struct scrub_reader *r)
{
	struct scrub_read *d = r->queue;
	if (!d->next)
		return;
	r->queue = d->next;
	d->next = NULL;
	*r->tail = d;
	r->tail = &d->next;
}

static void pause_over(void *arg)
{
	struct scrub_reader *r = arg;
	r->pause = NULL;
	next_step(r);
}

/* What is sealed keeps up with the changes: it is not slower while they come. */
static void wait_for_pace(struct scrub_reader *r, const struct scrub_read *d)
{
	uint64_t traffic = traffic_of(r->set), rate = r->set->conf->scrub_rate ? r->set->conf->scrub_rate : RATE_DEFAULT;
	uint64_t ms = d->step_bytes * 1000 / rate * (traffic != r->traffic && !d->seals ? BUSY_FACTOR : 1);
	int64_t left = r->step_began_ms + (int64_t)ms - cdm_now_ms();
	r->traffic = traffic;
	r->pause = cdm_loop_after(r->set->node->loop, left > 0 ? left : 0, pause_over, r);
}

static void step_done(void *arg)
{
	struct scrub_read *d = arg;
	struct scrub_reader *r = d->reader;
	r->set->posted--;
	r->reading = false;
	if (r->stopping) {
		struct set *s = r->set;
		read_free(d);
		set_let_go(s);
		return;
	}
	wait_for_pace(r, d);
	if (d->at == d->files->count || !d->done)
		read_over(r, d);
	else
		rotate(r);
}

static void next_step(struct scrub_reader *r)
{
	if (r->reading || r->pause)
		return;
	while (r->queue && !r->queue->done)
		read_over(r, r->queue);
	if (!r->queue)
		return;
	r->reading = true;
	r->step_began_ms = cdm_now_ms();
	r->set->posted++;
	cdm_worker_submit(r->worker, step_work, step_done, r->queue);
}

struct scrub_read *scrub_read(struct scrub_reader *r, struct scrub_files *files, enum scrub_purpose why, scrub_read_fn *done, void *arg)
{
	struct scrub_read *d = calloc(1, sizeof *d);
	if (!d)
		abort();
	*d = (struct scrub_read){.reader = r, .files = files, .done = done, .arg = arg, .seals = why == READ_SEALED || why == READ_TO_SEAL,
		.signatures = why == READ_IN_DOUBT || why == READ_TO_SEAL ? deltas_signatures(r->set->deltas) : NULL};
	if (why == READ_IN_DOUBT && files->count == 1 && !files->files[0].is_sealed) /* who doubts, asks for one: nobody makes us search for many */
		files->files[0].is_sealed = seals_tell(r->set, files->files[0].version, files->files[0].sealed);
	*r->tail = d;
	r->tail = &d->next;
	next_step(r);
	return d;
}

void scrub_read_cancel(struct scrub_read **read)
{
	if (*read)
		(*read)->done = NULL;
	*read = NULL;
}

/* --- the thread --- */

static void be_humble(void *arg)
{
	setpriority(PRIO_PROCESS, 0, 19); /* of this thread alone */
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

struct scrub_reader *scrub_reader_new(struct set *s)
{
	struct scrub_reader *r = calloc(1, sizeof *r);
	if (!r || !(r->block = malloc(BLOCK)))
		abort();
	r->set = s;
	r->tail = &r->queue;
	r->worker = cdm_worker_new(s->node->loop, "cdm-scrub");
	if (!r->worker) {
		scrub_reader_free(&r);
		return NULL;
	}
	cdm_worker_submit(r->worker, be_humble, NULL, NULL);
	return r;
}

void scrub_reader_call(struct scrub_reader *r, cdm_loop_fn *work, cdm_loop_fn *done, void *arg)
{
	r->set->posted++;
	cdm_worker_submit(r->worker, work, done, arg);
}

void scrub_reader_stop(struct scrub_reader *r)
{
	r->stopping = true;
	cdm_timer_cancel(&r->pause);
	struct scrub_read *working = r->reading ? r->queue : NULL;
	for (struct scrub_read *d = working ? working->next : r->queue, *next; d; d = next) {
		next = d->next;
		read_free(d);
	}
	r->queue = NULL;
	cdm_worker_free(&r->worker);
}

void scrub_reader_free(struct scrub_reader **reader)
{
	struct scrub_reader *r = *reader;
	*reader = NULL;
	if (!r)
		return;
	free(r->block);
	free(r);
}
