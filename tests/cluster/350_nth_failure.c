/* SPDX-License-Identifier: Apache-2.0 */
/* 350_nth_failure — the Nth system call of a program fails while an author works: each program × kind of call × error. The program may refuse, wait, say so
 * or end and be started again; afterwards no call of the author failed but as on any disk, what was acknowledged is there, no file is torn, all trees are equal.
 *
 * A row first counts its calls, then fails some of them, evenly over all. Suite cluster tries the middle one of some rows. With CDMFS_NTH_POINTS=n all
 * rows run and n calls of each are tried (0: every one), CDMFS_NTH_FIRST / 1000 of a step from the begin; CDMFS_NTH_FOR_GOOD=1: where it makes sense each
 * call from there on fails until the author is done. CDMFS_TEST_ONLY='n2_replicator_works*' runs the rows of one program. Suite soak tries ten calls of each row:
 * some 1900 of about 11,000, and of 110,000 requests for memory (most are made by programs that start). */
#include "tests/cluster/nth.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/loop.h"

#define SMALL 3000
#define LARGE (700 << 10)
#define PATCH (64 << 10)
#define TRIES 4
#define HEAL_MS 8000

/* -- what the author does: every call may be refused as by a disk, and is then made again ------------------------- */

static uint64_t version;
static char folder[32];
static const char *victim_node;
static enum lab_program victim;
static unsigned refused, restarted;
static bool for_good;

static char *here(const char *name)
{
	char rel[128];
	snprintf(rel, sizeof rel, "%s/%s", folder, name);
	return lab_path(lab, "n1", rel);
}

static int write_at(const char *path, int flags, off_t offset, size_t len, bool sync)
{
	_cleanup_free_ char *bytes = malloc(len);
	fill_version(bytes, len, version);
	int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
	if (fd < 0)
		return -errno;
	int r = 0;
	for (size_t done = 0; r == 0 && done < len;) {
		ssize_t n = pwrite(fd, bytes + done, len - done, offset + (off_t)done);
		r = n > 0 ? 0 : n < 0 ? -errno : -EIO;
		done += n > 0 ? (size_t)n : 0;
	}
	if (r == 0 && sync && fsync(fd) < 0)
		r = -errno;
	if (close(fd) < 0 && r == 0)
		r = -errno;
	return r;
}

static int whole(const char *name, size_t len, bool sync)
{
	_cleanup_free_ char *path = here(name);
	return write_at(path, O_CREAT | O_TRUNC, 0, len, sync);
}

static int result(int r)
{
	return r < 0 ? -errno : 0;
}

#define PATH(name) _cleanup_free_ char *name = here(#name)

static int make_folder(void) { _cleanup_free_ char *path = lab_path(lab, "n1", folder); return result(mkdir(path, 0755)); }
static int make_sub(void) { PATH(sub); return result(mkdir(sub, 0755)); }
static int save_small(void) { return whole("sub/small", SMALL, false); }
static int save_temporary(void) { return whole("sub/.doc.tmp", SMALL, true); }
static int put_in_place(void)
{
	_cleanup_free_ char *from = here("sub/.doc.tmp"), *to = here("sub/doc");
	return result(rename(from, to));
}
static int save_gone(void) { return whole("gone", SMALL, false); }
static int remove_gone(void) { PATH(gone); return result(unlink(gone)); }
static int save_large(void) { return whole("large", LARGE, false); }
static int cut_large(void)
{
	PATH(large);
	_cleanup_close_ int fd = open(large, O_WRONLY | O_CLOEXEC); /* by path would count as saved only after a second */
	return result(fd < 0 ? fd : ftruncate(fd, LARGE - 4096));
}
static int make_link(void) { _cleanup_free_ char *a = here("sub/small"); PATH(linked); return result(link(a, linked)); }
static int make_symlink(void) { PATH(symbolic); return result(symlink("sub/small", symbolic)); }
static int set_mode(void) { PATH(linked); return result(chmod(linked, 0600)); }
static int set_attribute(void) { PATH(large); return result(setxattr(large, "user.x", "y", 1, 0)); }
static int move_sub(void) { PATH(sub); PATH(moved); return result(rename(sub, moved)); }
static int patch(void)
{
	_cleanup_free_ char *path = lab_path(lab, "n1", "patched");
	return write_at(path, O_CREAT, (off_t)(version % 16) * PATCH, PATCH, false);
}

/* From the server, not from the kernel's cache. */
static int read_back(void)
{
	PATH(large);
	_cleanup_free_ char *bytes = malloc(LARGE - 4096), *wanted = malloc(LARGE - 4096);
	_cleanup_close_ int fd = open(large, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0 || (errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)))
		return -errno;
	for (off_t at = 0; at < LARGE - 4096;) {
		ssize_t n = pread(fd, bytes + at, (size_t)(LARGE - 4096 - at), at);
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		at += n;
	}
	fill_version(wanted, LARGE - 4096, version);
	return memcmp(bytes, wanted, LARGE - 4096) == 0 ? 0 : -EBADMSG;
}

static int list(void)
{
	_cleanup_free_ char *path = lab_path(lab, "n1", folder);
	DIR *dir = opendir(path);
	unsigned names = 0;
	errno = dir ? 0 : errno;
	while (dir && readdir(dir))
		names++;
	int r = -errno;
	if (dir)
		closedir(dir);
	return r < 0 ? r : names < 6 ? -EBADMSG : 0;
}

static int remove_old(void)
{
	char name[32];
	snprintf(name, sizeof name, "v%u", (unsigned)version - 1);
	_cleanup_free_ char *path = lab_path(lab, "n1", name);
	struct stat st;
	return lstat(path, &st) < 0 ? 0 : lab_remove_tree(path, NULL);
}

static const struct step {
	const char *name;
	int (*act)(void);
} steps[] = {
#define STEP(name) {#name, name}
	STEP(make_folder), STEP(make_sub), STEP(save_small), STEP(save_temporary), STEP(put_in_place), STEP(save_gone), STEP(patch), STEP(save_large),
	STEP(cut_large), STEP(make_link), STEP(make_symlink), STEP(set_mode), STEP(set_attribute), STEP(read_back), STEP(list), STEP(remove_gone), STEP(move_sub), STEP(remove_old),
#undef STEP
};

static void finding(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static bool is_of_a_disk(int number)
{
	return number == -EIO || number == -ENOSPC || number == -ENOMEM || number == -ENFILE || number == -EMFILE;
}

static void victim_restarted(void)
{
	killed(victim_node, victim);
	started(victim_node, victim);
	restarted++;
}

static void do_step(const struct step *step)
{
	for (int attempt = 1;; attempt++) {
		int r = step->act();
		if (r == 0)
			return;
		if (!is_of_a_disk(r))
			finding("%s at try %d: %s", step->name, attempt, strerror(-r));
		refused++;
		if (attempt == TRIES)
			finding("%s still fails: %s", step->name, strerror(-r));
		nth_disarmed();
		if (attempt == TRIES - 1)
			victim_restarted();
	}
}

static void work(void)
{
	version++;
	snprintf(folder, sizeof folder, "v%u", (unsigned)version);
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
		do_step(&steps[i]);
}

/* What the author was told that it is so. */
static bool holds(const char *node, const char *name, off_t offset, size_t len, bool to_its_end, char *seen)
{
	char rel[128];
	snprintf(rel, sizeof rel, "%s%s%s", *name == '/' ? "" : folder, *name == '/' ? "" : "/", name + (*name == '/'));
	_cleanup_free_ char *path = lab_path(lab, node, rel), *wanted = malloc(len), *bytes = malloc(len);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	fill_version(wanted, len, version);
	if (fd < 0 || fstat(fd, &st) < 0) {
		snprintf(seen, 512, "%s:%s: %s", node, rel, strerror(errno));
		return false;
	}
	snprintf(seen, 512, "%s:%s (%lld bytes) does not hold what was saved", node, rel, (long long)st.st_size);
	return pread(fd, bytes, len, offset) == (ssize_t)len && memcmp(bytes, wanted, len) == 0 && (!to_its_end || st.st_size == offset + (off_t)len);
}

static bool has_all_that_was_acknowledged(const char *node, char *seen)
{
	char path[64], text[32];
	if (!holds(node, "moved/small", 0, SMALL, true, seen) || !holds(node, "moved/doc", 0, SMALL, true, seen) || !holds(node, "linked", 0, SMALL, true, seen) ||
		!holds(node, "large", 0, LARGE - 4096, true, seen) ||
		!holds(node, "/patched", (off_t)(version % 16) * PATCH, PATCH, false, seen))
		return false;
	snprintf(path, sizeof path, "%s/gone", folder);
	snprintf(seen, 512, "%s:%s is there again", node, path);
	if (exists(node, path))
		return false;
	snprintf(path, sizeof path, "%s/large", folder);
	_cleanup_free_ char *large = lab_path(lab, node, path);
	snprintf(seen, 512, "%s:%s lost its attribute", node, path);
	return getxattr(large, "user.x", text, sizeof text) == 1;
}

static bool are_same(const char *a, const char *b, char *seen)
{
	struct cdm_error err = CDM_ERROR_INIT;
	FILE *out = fmemopen(seen, 512, "w");
	int r = lab_same_tree(a, b, out, &err);
	fclose(out);
	if (r < 0)
		snprintf(seen, 512, "%.500s", err.text);
	return r == 0;
}

/* Nothing is lost, no file is torn, all trees are equal: now, or when the nodes compared what was set aside. */
static bool all_is_well(void *arg, char *seen)
{
	return has_all_that_was_acknowledged("n1", seen) && has_all_that_was_acknowledged("n2", seen) &&
		are_same(lab_mount(lab, "n1"), lab_mount(lab, "n2"), seen) && are_same(lab_mount(lab, "n1"), lab_store(lab, "n1"), seen) &&
		are_same(lab_mount(lab, "n2"), lab_store(lab, "n2"), seen);
}

/* -- one failure, and what becomes of it -------------------------------------------------------------------------- */

static const struct row *at_row;
static unsigned long at_nth;

static const char *const kind_names[NTH_KINDS] = {"", "read", "write", "sync", "open", "name", "attr", "look", "memory", "net", "device"};

enum when { CHANGES, START };

static const struct row {
	const char *node;
	enum lab_program program;
	enum when when;
	enum nth_kind kind;
	int number;
} rows[] = {
#define DISK(node, program, when) \
	{node, program, when, NTH_READ, EIO}, {node, program, when, NTH_READ, EINTR}, {node, program, when, NTH_READ, NTH_SHORT}, \
	{node, program, when, NTH_WRITE, EIO}, {node, program, when, NTH_WRITE, ENOSPC}, {node, program, when, NTH_WRITE, EINTR}, \
	{node, program, when, NTH_WRITE, NTH_SHORT}, {node, program, when, NTH_SYNC, EIO}, {node, program, when, NTH_SYNC, EINTR}, \
	{node, program, when, NTH_OPEN, EMFILE}, {node, program, when, NTH_OPEN, EIO}, {node, program, when, NTH_OPEN, EINTR}, \
	{node, program, when, NTH_NAME, EIO}, {node, program, when, NTH_NAME, ENOSPC}, {node, program, when, NTH_ATTR, EIO}, \
	{node, program, when, NTH_ATTR, ENOSPC}, {node, program, when, NTH_LOOK, EIO}, {node, program, when, NTH_LOOK, ENOMEM}, \
	{node, program, when, NTH_MEMORY, ENOMEM}
#define NET(node, program, when) \
	{node, program, when, NTH_NET, EIO}, {node, program, when, NTH_NET, EINTR}, {node, program, when, NTH_NET, ENOMEM}, \
	{node, program, when, NTH_NET, NTH_SHORT}
#define DEVICE(node, program, when) {node, program, when, NTH_DEVICE, EINTR}, {node, program, when, NTH_DEVICE, ENOMEM}
	DISK("n2", LAB_REPLICATOR, CHANGES), NET("n2", LAB_REPLICATOR, CHANGES), DISK("n2", LAB_REPLICATOR, START), NET("n2", LAB_REPLICATOR, START),
	DISK("n1", LAB_REPLICATOR, CHANGES), NET("n1", LAB_REPLICATOR, CHANGES), DISK("n1", LAB_REPLICATOR, START), NET("n1", LAB_REPLICATOR, START),
	DISK("n1", LAB_SERVER, CHANGES), DEVICE("n1", LAB_SERVER, CHANGES), DISK("n1", LAB_SERVER, START), DEVICE("n1", LAB_SERVER, START),
	DISK("n2", LAB_SERVER, CHANGES), DEVICE("n2", LAB_SERVER, CHANGES),
	DISK(NULL, LAB_MASTER, CHANGES), NET(NULL, LAB_MASTER, CHANGES), DISK(NULL, LAB_MASTER, START),
};

static const char *number_name(int number)
{
	return number == NTH_SHORT ? "short" : strerrorname_np(number);
}

static void finding(const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	nth_disarmed();
	fail_msg("%s %s %s, call %lu: %s; it was %s", nth_control->who, kind_names[at_row->kind], number_name(at_row->number), at_nth, text,
		nth_control->fired ? nth_control->where : "not reached");
}

/* The master is asked for something that it writes down; it may refuse, not hang. */
static void administrators_work(void)
{
	char name[32];
	snprintf(name, sizeof name, "v%u", (unsigned)version);
	for (int attempt = 1;; attempt++) {
		struct cdm_error err = CDM_ERROR_INIT;
		if (!lab_pid(lab, NULL, LAB_MASTER))
			return;
		int r = lab_cdmctl(lab, (const char *const[]){"group", "add", name, "--region", "r1", NULL}, NULL, &err);
		if (r == 0 || (attempt > 1 && strstr(err.text, "exists")))
			return;
		refused++;
		nth_disarmed();
		if (attempt == TRIES)
			finding("the master still refuses: %s", err.text);
	}
}

static void end_was_in_order(pid_t pid)
{
	siginfo_t end = {0};
	_cleanup_free_ char *said = NULL;
	if (waitid(P_PID, (id_t)pid, &end, WEXITED | WNOHANG | WNOWAIT) == 0 && end.si_pid == pid && end.si_code != CLD_EXITED && !nth_control->gave_up)
		finding("it was ended by signal %d", end.si_status);
	if (shell_status("n1", &said, "ls %s/logs/core*", lab_dir(lab)) == 0) {
		shell("n1", "cd %s/logs && mkdir -p was && mv core* was/", lab_dir(lab));
		finding("it crashed: %s", said);
	}
}

static bool becomes_in_sync(int timeout_ms, struct cdm_error *err)
{
	int64_t deadline = cdm_now_ms() + timeout_ms;
	int r;
	do {
		r = lab_wait_in_sync(lab, 500, err);
		if (r < 0 && !lab_pid(lab, victim_node, victim))
			return false;
	} while (r < 0 && cdm_now_ms() < deadline);
	return r == 0;
}

static void everything_heals(pid_t pid)
{
	struct cdm_error err = CDM_ERROR_INIT;
	bool good = becomes_in_sync(HEAL_MS, &err);
	nth_disarmed();
	end_was_in_order(pid);
	if (!lab_pid(lab, victim_node, victim)) {
		restarted++;
		started(victim_node, victim);
		good = false;
	}
	good = good || becomes_in_sync(HEAL_MS, &err);
	if (!good) {
		print_error("%s %s %s, call %lu: only a restart helps: %s; it was %s\n", nth_control->who, kind_names[at_row->kind], number_name(at_row->number),
			at_nth, err.text, nth_control->where);
		victim_restarted();
		if (!becomes_in_sync(STORY_MS, &err))
			finding("not even a restart helps: %s", err.text);
	}
	if (lab_wait_for(all_is_well, NULL, HEAL_MS, "all is well", &err) < 0)
		finding("%s", err.text);
}

/* A process that begins with the fault, and has something to catch up with; trees are compared, too. */
static pid_t begun_again(const struct row *row, unsigned long nth)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (row->program == LAB_SERVER) /* its holder starts the next at once */
		nth_armed(row->node, row->program, row->kind, row->number, nth, false);
	killed(row->node, row->program);
	if (row->program == LAB_REPLICATOR) {
		work();
		shell("n1", ": > %s/.cdmfs/doubt", lab_store(lab, row->node));
	}
	if (row->program != LAB_SERVER)
		nth_armed(row->node, row->program, row->kind, row->number, nth, false);
	if (lab_start(lab, row->node, row->program, &err) < 0) {
		nth_disarmed();
		if (strstr(err.text, "killed by SIG") && !nth_control->gave_up)
			finding("it did not start: %s", err.text);
		if (!nth_control->gave_up && strstr(err.text, "said nothing"))
			finding("it did not start and did not say why: %s", err.text);
		restarted++;
		started(row->node, row->program);
	}
	return lab_pid(lab, row->node, row->program);
}

/* How many calls there were. */
static unsigned long failed_at(const struct row *row, unsigned long nth)
{
	at_row = row;
	at_nth = nth;
	victim_node = row->node;
	victim = row->program;
	pid_t pid;
	if (row->when == START) {
		pid = begun_again(row, nth);
	} else {
		pid = lab_pid(lab, row->node, row->program);
		nth_armed(row->node, row->program, row->kind, row->number, nth, for_good);
	}
	work();
	if (row->program == LAB_MASTER)
		administrators_work();
	if (for_good)
		nth_disarmed();
	everything_heals(pid);
	return nth_control->passes;
}

static unsigned long setting(const char *name, unsigned long otherwise)
{
	const char *value = getenv(name);
	return value ? strtoul(value, NULL, 10) : otherwise;
}

/* Interrupted or short for good, or no request ever read: nothing would ever be done. */
static bool may_last(const struct row *row)
{
	return row->when == CHANGES && row->number != EINTR && row->number != NTH_SHORT && row->kind != NTH_DEVICE;
}

static void row_story(void **state)
{
	const struct row *row = *state;
	unsigned long points = setting("CDMFS_NTH_POINTS", 1), first = setting("CDMFS_NTH_FIRST", 500);
	refused = restarted = 0;
	for_good = false;
	unsigned long calls = failed_at(row, ULONG_MAX), tried = 0;
	if (!points || points > calls)
		points = calls;
	for_good = setting("CDMFS_NTH_FOR_GOOD", 0) && may_last(row);
	for (; tried < points; tried++)
		failed_at(row, points == calls ? tried + 1 : 1 + (calls * tried + calls * first / 1000) / points);
	print_message("%lu calls, %lu tried: %u refusals, %u restarts\n", calls, tried, refused, restarted);
}

/* A store that opens a file for writes past its page cache, and then takes none: what comes is written all the same, and not asked for again. */
static void direct_writes_are_refused(void **state)
{
	enum { MIB = 40 };
	int64_t received = counter("n2", "content_received_bytes"), resumed = counter("n2", "fetch_resumed_bytes");
	nth_armed("n2", LAB_REPLICATOR, NTH_WRITE, EINVAL, 20, false);
	shell("n1", "head -c %dM /dev/urandom > direct", MIB);
	everywhere_equal();
	nth_disarmed();
	assert_int_equal(nth_control->fired, 1);
	assert_int_equal(counter("n2", "content_received_bytes") - received, (int64_t)MIB << 20);
	assert_int_equal(counter("n2", "fetch_resumed_bytes"), resumed);
	remove_file("n1", "direct");
}

/* A new directory with a large file, built in staging: two calls on names there fail in a row, also the one that publishes it and the one that
 * moves the file back. Nothing is set aside for that: what was lost comes again. */
static void names_in_staging_fail_twice(void **state)
{
	enum { POINTS = 6 };
	int64_t quarantined = counter("n2", "quarantined");
	unsigned long fired = 0;
	for (unsigned nth = 1; nth <= POINTS; nth++) {
		killed("n1", LAB_REPLICATOR); /* so that all comes at once */
		shell("n1", "mkdir new-%u && cd new-%u && echo x > small && head -c 700K /dev/urandom > large && head -c 2M /dev/urandom > fetched", nth, nth);
		nth_armed_twice("n2", LAB_REPLICATOR, NTH_NAME, EIO, nth, "staging");
		started("n1", LAB_REPLICATOR);
		everywhere_equal();
		nth_disarmed();
		fired += nth_control->fired;
		assert_int_equal(counter("n2", "quarantined"), quarantined);
	}
	assert_true(fired >= POINTS);
	assert_true(counter("n2", "assembled") > 0);
}

static bool reading_has_failed(void *arg, char *seen)
{
	int status = shell_status("n2", NULL, "grep -q 'event=failed.*read the journal' %s/logs/n2-replicator.log", lab_dir(lab));
	snprintf(seen, 512, "nothing is said of it, after %lu calls", (unsigned long)nth_control->fired);
	return status == 0;
}

/* For as long as a replicator can look at nothing it cannot read its journal; then it goes on by itself. */
static void a_journal_that_cannot_be_looked_at_is_read_later(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	nth_armed("n2", LAB_REPLICATOR, NTH_LOOK, EIO, 1, true);
	save("n1", "looked-at", "in the end");
	save("n2", "by-itself", "in the end");
	int r = lab_wait_for(reading_has_failed, NULL, STORY_MS, "the journal cannot be read", &err);
	nth_disarmed();
	if (r < 0)
		fail_msg("%s", err.text);
	everywhere_equal();
	has_text("n2", "looked-at", "in the end");
	has_text("n1", "by-itself", "in the end");
}

static bool is_for_every_day(const struct row *row)
{
	static const int numbers[NTH_KINDS] = {[NTH_READ] = EIO, [NTH_WRITE] = ENOSPC, [NTH_OPEN] = EMFILE, [NTH_NAME] = EIO, [NTH_ATTR] = EIO, [NTH_MEMORY] = ENOMEM,
		[NTH_NET] = EINTR, [NTH_DEVICE] = ENOMEM};
	return row->when == CHANGES && row->number && row->number == numbers[row->kind];
}

int main(void)
{
	enum { ROWS = sizeof rows / sizeof *rows };
	static struct CMUnitTest stories[ROWS + 3];
	static char names[ROWS][80];
	static const char *const programs[LAB_PROGRAMS] = {"holder", "server", "watcher", "replicator", "master"};
	size_t count = 0;
	for (size_t i = 0; i < ROWS; i++) {
		const struct row *row = &rows[i];
		if (!getenv("CDMFS_NTH_POINTS") && !is_for_every_day(row))
			continue;
		snprintf(names[i], sizeof names[i], "%s_%s_%s_%s_%s", row->node ?: "the", programs[row->program], row->when == START ? "starts" : "works",
			kind_names[row->kind], number_name(row->number));
		stories[count++] = (struct CMUnitTest){names[i], row_story, NULL, NULL, (void *)row};
	}
	stories[count++] = (struct CMUnitTest)cmocka_unit_test(direct_writes_are_refused);
	stories[count++] = (struct CMUnitTest)cmocka_unit_test(names_in_staging_fail_twice);
	stories[count++] = (struct CMUnitTest)cmocka_unit_test(a_journal_that_cannot_be_looked_at_is_read_later);
	nth_prepare();
	int status = story_tell("nth", (struct lab_options){.nodes = 2}, stories, count);
	nth_forget();
	return status;
}
