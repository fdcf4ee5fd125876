/* SPDX-License-Identifier: Apache-2.0 */
#include "journal_rig.h"

#include <ftw.h>

void rig_attach(struct rig *rig, const char *dir)
{
	*rig = (struct rig){0};
	snprintf(rig->dir, sizeof rig->dir, "%s", dir);
	snprintf(rig->run, sizeof rig->run, "%s/run", rig->dir);
	snprintf(rig->segments, sizeof rig->segments, "%s/journal", rig->dir);
	rig->dir_fd = open(rig->segments, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rig->conf = (struct cdm_journal_conf){
		.journal_dir_fd = rig->dir_fd,
		.run_dir = rig->run,
		.node_number = 1,
		.incarnation = 1,
		.tail_bytes = 1 << 20,
		.segment_bytes = 1 << 20,
		.max_bytes = 64 << 20,
		.sync_interval_ms = 20,
	};
}

void rig_init(struct rig *rig)
{
	char dir[] = "journal-XXXXXX", path[64];
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/run", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof path, "%s/journal", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	rig_attach(rig, dir);
	assert_true(rig->dir_fd >= 0);
}

static void forget_state(struct rig *rig)
{
	cdm_vector_fini(&rig->state.applied);
	cdm_vector_fini(&rig->state.durable);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

void rig_fini(struct rig *rig)
{
	cdm_journal_close(&rig->j, NULL);
	forget_state(rig);
	close(rig->dir_fd);
	assert_int_equal(nftw(rig->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
}

int rig_try_open(struct rig *rig)
{
	forget_state(rig);
	return cdm_journal_open(&rig->conf, &rig->j, &rig->state, &rig->err);
}

void rig_open(struct rig *rig)
{
	int r = rig_try_open(rig);
	if (r < 0)
		fail_msg("open: %s", rig->err.text);
}

void rig_close(struct rig *rig)
{
	int r = cdm_journal_close(&rig->j, &rig->err);
	if (r < 0)
		fail_msg("close: %s", rig->err.text);
}

void rig_in_dying_child(struct rig *rig, rig_fn *fn)
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (rig_try_open(rig) < 0)
			_exit(1);
		fn(rig);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

void rig_lose_tail(struct rig *rig)
{
	char path[128];
	snprintf(path, sizeof path, "%s/tail", rig->run);
	assert_int_equal(unlink(path), 0);
}

static void tell_found(struct rig *rig)
{
	char *applied = cdm_vector_format(&rig->state.applied), *durable = cdm_vector_format(&rig->state.durable), path[96];
	snprintf(path, sizeof path, "%s/found", rig->dir);
	FILE *f = fopen(path, "we");
	if (!f || fprintf(f, "applied %s durable %s marked %lld", applied, durable, (long long)rig->state.mark_ns) < 0 || fclose(f) != 0)
		_exit(4);
}

static void find(struct rig *rig, char out[1024])
{
	char path[96];
	rig_in_dying_child(rig, tell_found);
	snprintf(path, sizeof path, "%s/found", rig->dir);
	FILE *f = fopen(path, "re");
	assert_true(f && fgets(out, 1024, f));
	fclose(f);
}

void rig_assert_note_is_true(struct rig *rig)
{
	char note[128], kept[128], with[1024], without[1024];
	snprintf(note, sizeof note, "%s/resume", rig->run);
	snprintf(kept, sizeof kept, "%s/kept", rig->run);
	bool noted = rename(note, kept) == 0;
	find(rig, without);
	assert_true(!noted || rename(kept, note) == 0);
	find(rig, with);
	assert_string_equal(with, without);
}

struct cdm_journal_reader *rig_reader(struct rig *rig)
{
	struct cdm_journal_reader *r;
	if (cdm_journal_reader_open(rig->dir_fd, rig->run, &r, &rig->err) < 0)
		fail_msg("reader: %s", rig->err.text);
	return r;
}

struct cdm_change rig_write_change(const char *path)
{
	return (struct cdm_change){
		.op = CDM_OP_WRITE,
		.path = path,
		.path_len = strlen(path),
		.handle = {.len = 8, .type = 1, .bytes = {1, 2, 3}},
		.request = 7,
	};
}

uint64_t rig_put(struct rig *rig, unsigned count)
{
	uint64_t number = 0;
	while (count-- > 0) {
		struct cdm_change c = rig_write_change("some/directory/file.html");
		assert_int_equal(cdm_journal_put(rig->j, &c), 0);
		number = c.dot.number;
	}
	return number;
}

uint64_t rig_read_numbers(struct cdm_journal_reader *r, uint64_t last, unsigned *ret_count)
{
	struct cdm_change c;
	int n;
	*ret_count = 0;
	while ((n = cdm_journal_reader_next(r, &c)) == 1) {
		if (cdm_dot_is_none(c.dot) || c.flags & CDM_CH_RECEIVED)
			continue;
		if (last && c.dot.number != last + 1)
			fail_msg("number %llu follows %llu", (unsigned long long)c.dot.number, (unsigned long long)last);
		last = c.dot.number;
		++*ret_count;
	}
	if (n < 0)
		fail_msg("read: %s", strerror(-n));
	return last;
}

int rig_segment_fd(struct rig *rig, unsigned number)
{
	char name[32];
	snprintf(name, sizeof name, "%08u.log", number);
	int fd = openat(rig->dir_fd, name, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

void rig_assert_applied(struct rig *rig, const char *vector)
{
	struct cdm_vector v;
	cdm_journal_applied(rig->j, &v);
	char *text = cdm_vector_format(&v);
	assert_string_equal(text, vector);
	free(text);
	cdm_vector_fini(&v);
}
