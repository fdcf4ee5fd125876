/* SPDX-License-Identifier: Apache-2.0 */
/* The power of a node is pulled while everybody saves. Promise 1: what fsync had covered is there again and gets everywhere; promise 4:
 * all end equal; nothing that another node had already is lost, and no file is half.
 *
 * What a disk holds when the power goes: the stores of n1 and n3 are ext4 images in loop devices on a filesystem that can be frozen. While
 * it is frozen, what the loop device is given stands still, in the middle of whatever the store's filesystem was doing; its programs are
 * killed, and the image is copied as it is then. The store's own filesystem is not asked: no sync, no unmount before the copy. Then RUN
 * is emptied (memory is gone), the copy is mounted (ext4 replays its journal) and the node started.
 *
 * CDMFS_POWER_ROUNDS: how often (4); CDMFS_POWER_SEED: which node, when. */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "common/loop.h"
#include "common/vector.h"

#define IMAGE_MIB 320
#define FILES 8         /* of one author */
#define NEW_FILES 400   /* of one author that makes new ones, at most in a round */
#define FILE_BYTES 8000 /* and up to as much again, as its version says */

/* -- disks ------------------------------------------------------------------------------------------------------- */

static char *disks; /* the filesystem that is frozen */

static void here(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void here(const char *fmt, ...)
{
	_cleanup_free_ char *command = NULL;
	va_list ap;
	va_start(ap, fmt);
	assert_true(vasprintf(&command, fmt, ap) >= 0);
	va_end(ap);
	shell("n2", "cd / && { %s; }", command);
}

/* Mounted, searched through, and known to the others again. */
static void all_are_back(void)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_ready(lab, STORY_MS, &err) < 0)
		fail_msg("%s", err.text);
}

/* Of the kind that the labs are on. Copies of a disk have its name. */
static bool is_xfs(void)
{
	const char *type = getenv("CDMFS_TEST_FS");
	return type && strcmp(type, "xfs") == 0;
}
#define MKFS (is_xfs() ? "mkfs.xfs -q" : "mkfs.ext4 -q -E lazy_itable_init=0")
#define MOUNT (is_xfs() ? "mount -o loop,nouuid" : "mount -o loop")

/* Before the first start of a node its empty store gets a disk of its own; here the node runs already and begins anew. */
static void give_disk(const char *node)
{
	node_killed(node);
	here("umount -l %s %s/full %s; truncate -s %dM %s/%s.0 && %s %s/%s.0 && %s %s/%s.0 %s && rm -rf %s/lost+found", lab_mount(lab, node),
		lab_run_dir(lab, node), lab_run_dir(lab, node), IMAGE_MIB, disks, node, MKFS, disks, node, MOUNT, disks, node, lab_store(lab, node), lab_store(lab, node));
	node_started(node);
}

static int give_disks(void **state)
{
	assert_true(asprintf(&disks, "%s/disks", lab_dir(lab)) >= 0);
	here("mkdir %s && truncate -s %dM %s.image && mkfs.ext4 -q %s.image && mount -o loop %s.image %s", disks, 4 * IMAGE_MIB, disks, disks, disks, disks);
	give_disk("n1");
	give_disk("n3");
	all_are_back();
	in_sync();
	return 0;
}

/* The images go, and the stores with them; what tells how it came to pass stays with the logs: each journal, and the version of each name. */
static void keep_evidence(void)
{
	for (unsigned k = 0; k < lab_node_count(lab); k++) {
		const char *node = lab_node_name(lab, k), *store = lab_store(lab, node);
		here("mkdir -p %s/logs/%s && cd %s && cp -a .cdmfs/journal %s/logs/%s/ && ls -lRA --time-style=full-iso > %s/logs/%s/names && "
		     "getfattr -R -P -h -d -m ^trusted.cdmfs -e hex . > %s/logs/%s/versions",
			lab_dir(lab), node, store, lab_dir(lab), node, lab_dir(lab), node, lab_dir(lab), node);
	}
}

static bool story_is_over; /* no check failed */

static int take_disks(void **state)
{
	if (!story_is_over)
		keep_evidence();
	here("for n in n1 n3; do umount -l %s/$n/store; done; umount -l %s; rm %s.image", lab_dir(lab), disks, disks);
	free(disks);
	return 0;
}

/* The node is off, and its disk holds what it held at that moment. */
static void power_cut(const char *node, unsigned round)
{
	here("fsfreeze -f %s", disks);
	for (enum lab_program p = LAB_HOLDER; p <= LAB_REPLICATOR; p++) {
		pid_t pid = lab_pid(lab, node, p);
		if (pid)
			kill(pid, SIGKILL); /* who waits for the disk ends when it moves again */
	}
	here("cp --sparse=always %s/%s.%u %s/copy; fsfreeze -u %s", disks, node, round, lab_dir(lab), disks);
	node_killed(node);
	here("umount -l %s %s/full %s; rm -rf %s/%s/run/*; umount -l %s; rm %s/%s.%u", lab_mount(lab, node), lab_run_dir(lab, node), lab_run_dir(lab, node),
		lab_dir(lab), node, lab_store(lab, node), disks, node, round);
	here("cp --sparse=always %s/copy %s/%s.%u && rm %s/copy && %s %s/%s.%u %s", lab_dir(lab), disks, node, round + 1, lab_dir(lab), MOUNT, disks,
		node, round + 1, lab_store(lab, node));
}

/* -- files that say which version they are in every word and by their length --------------------------------------- */

static size_t length_of(uint64_t version)
{
	return FILE_BYTES + version % 1000 * 8;
}

/* The version; 0: no such file; -1: not one whole version. */
static int64_t version_at(const char *node, const char *rel)
{
	_cleanup_free_ char *path = lab_path(lab, node, rel);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t words[2 * FILE_BYTES / 8 + 1];
	if (fd < 0)
		return errno == ENOENT ? 0 : -1;
	ssize_t n = read(fd, words, sizeof words);
	size_t at = 1;
	while (n >= 8 && at < (size_t)n / 8 && words[at] == words[0])
		at++;
	if (n >= FILE_BYTES && at == (size_t)n / 8 && (size_t)n == length_of(words[0]))
		return (int64_t)words[0];
	return -1;
}

/* -- authors ----------------------------------------------------------------------------------------------------- */

enum way { REPLACE_SYNCED, REPLACE, REWRITE_SYNCED, NEW_SYNCED, NEW, WAYS };
static const char *const way_names[WAYS] = {"replace-synced", "replace", "rewrite-synced", "new-synced", "new"};

struct author {
	pthread_t thread;
	_Atomic bool stop;
	const char *node;
	enum way way;
	char *dir, *rel; /* of the mount; of the set */
	int dir_fd;
	unsigned count;
	_Atomic uint64_t begun[NEW_FILES], saved[NEW_FILES], synced[NEW_FILES]; /* by file: versions */
	uint64_t seen[NEW_FILES];
	int error; /* why it ended by itself */
};

static bool write_version(int fd, uint64_t version)
{
	uint64_t words[2 * FILE_BYTES / 8 + 1];
	size_t len = length_of(version), half = len / 16 * 8;
	fill_version(words, len, version);
	return write(fd, words, half) == (ssize_t)half && write(fd, (char *)words + half, len - half) == (ssize_t)(len - half);
}

static bool is_new(enum way way)
{
	return way == NEW || way == NEW_SYNCED;
}

static bool save_one(struct author *a, unsigned i, uint64_t version)
{
	bool synced = a->way != REPLACE && a->way != NEW, replaces = a->way == REPLACE || a->way == REPLACE_SYNCED;
	char name[32], temporary[40];
	snprintf(name, sizeof name, "f-%u", i);
	snprintf(temporary, sizeof temporary, ".f-%u.tmp", i);
	atomic_store(&a->begun[i], version);
	int fd = openat(a->dir_fd, replaces ? temporary : name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	bool good = fd >= 0 && write_version(fd, version) && (!synced || fsync(fd) == 0);
	int e = errno;
	if (fd >= 0 && close(fd) < 0)
		good = false;
	if (good && replaces)
		good = renameat(a->dir_fd, temporary, a->dir_fd, name) == 0;
	if (good)
		atomic_store(&a->saved[i], version);
	if (good && synced && (a->way == REWRITE_SYNCED || fsync(a->dir_fd) == 0))
		atomic_store(&a->synced[i], version);
	if (!good)
		a->error = errno ?: e;
	return good;
}

static void *author_thread(void *arg)
{
	struct author *a = arg;
	if (is_new(a->way)) {
		while (!a->stop && a->count < NEW_FILES && save_one(a, a->count, 1))
			a->count++;
		return NULL;
	}
	a->count = FILES;
	for (uint64_t version = 1; !a->stop; version++)
		for (unsigned i = 0; i < FILES && !a->stop; i++)
			if (!save_one(a, i, version))
				return NULL;
	return NULL;
}

static struct author *author_begin(const char *node, enum way way, unsigned round)
{
	struct author *a = calloc(1, sizeof *a);
	assert_non_null(a);
	a->node = node;
	a->way = way;
	assert_true(asprintf(&a->rel, "round-%u/%s-%s", round, node, way_names[way]) >= 0);
	a->dir = lab_path(lab, node, a->rel);
	make_directory(node, a->rel);
	a->dir_fd = open(a->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(a->dir_fd >= 0 && fsync(a->dir_fd) == 0);
	assert_int_equal(pthread_create(&a->thread, NULL, author_thread, a), 0);
	return a;
}

static void author_end(struct author *a)
{
	a->stop = true;
	pthread_join(a->thread, NULL);
	close(a->dir_fd);
}

static void author_free(struct author *a)
{
	free(a->dir);
	free(a->rel);
	free(a);
}

static unsigned files_of(const struct author *a)
{
	return is_new(a->way) ? NEW_FILES : FILES;
}

/* What the nodes that still run show now; at them every file must be whole at any time. */
static unsigned look_around(struct author *a, const char *off)
{
	unsigned wrong = 0;
	for (unsigned i = 0; i < files_of(a); i++)
		for (unsigned k = 0; k < lab_node_count(lab); k++) {
			_cleanup_free_ char *rel = NULL;
			const char *node = lab_node_name(lab, k);
			if (strcmp(node, off) == 0 || strcmp(node, a->node) == 0)
				continue;
			assert_true(asprintf(&rel, "%s/f-%u", a->rel, i) >= 0);
			int64_t version = version_at(node, rel);
			wrong += version < 0;
			if (version > (int64_t)a->seen[i])
				a->seen[i] = (uint64_t)version;
		}
	return wrong;
}

/* The oldest version that a file of this author may have. Who writes into a file that was synced ends that version on his own disk by his
 * own hand; then what another node had of it counts. */
static uint64_t least_of(const struct author *a, unsigned i, bool pulled)
{
	bool ended = a->way == REWRITE_SYNCED && a->begun[i] > a->synced[i];
	uint64_t least = !pulled ? a->saved[i] : ended ? 0 : a->synced[i];
	return least < a->seen[i] ? a->seen[i] : least;
}

/* Is a file of this author, at this node, as it must be? */
static bool file_is_good(struct author *a, unsigned i, const char *node, bool pulled)
{
	_cleanup_free_ char *rel = NULL;
	assert_true(asprintf(&rel, "%s/f-%u", a->rel, i) >= 0);
	uint64_t least = least_of(a, i, pulled);
	int64_t version = version_at(node, rel);
	if (version >= (int64_t)least)
		return true;
	if (version < 0 && pulled && least == 0)
		return true; /* being saved when the power went; nobody ever had it whole */
	print_error("%s:%s: version %lld instead of %llu or later (begun %llu, saved %llu, synced %llu, seen by others %llu)\n", node, rel, (long long)version,
		(unsigned long long)least, (unsigned long long)a->begun[i], (unsigned long long)a->saved[i], (unsigned long long)a->synced[i],
		(unsigned long long)a->seen[i]);
	return false;
}

static unsigned check_author(struct author *a, bool pulled)
{
	unsigned wrong = 0;
	for (unsigned i = 0; i < files_of(a); i++)
		for (unsigned k = 0; k < lab_node_count(lab); k++)
			wrong += !file_is_good(a, i, lab_node_name(lab, k), pulled);
	return wrong;
}

/* -- the story --------------------------------------------------------------------------------------------------- */

static void pull_the_power(const char *node, unsigned round, unsigned cut_number, unsigned after_ms)
{
	static const struct {
		const char *node;
		enum way way;
	} cast[] = {{"n1", REPLACE_SYNCED}, {"n1", REPLACE}, {"n1", REWRITE_SYNCED}, {"n1", NEW_SYNCED}, {"n1", NEW}, {"n2", REPLACE}, {"n2", NEW}, {"n3", REPLACE_SYNCED},
		{"n3", NEW}};
	enum { CAST = sizeof cast / sizeof *cast };
	struct author *authors[CAST];
	_cleanup_free_ char *dir = NULL;
	unsigned wrong = 0;
	assert_true(asprintf(&dir, "round-%u", round) >= 0);
	make_directory("n1", dir);
	everywhere_equal();
	for (unsigned i = 0; i < CAST; i++)
		authors[i] = author_begin(cast[i].node, cast[i].way, round);
	nanosleep(&(struct timespec){after_ms / 1000, after_ms % 1000 * 1000000}, NULL); /* an instant by chance; nothing waits for it */
	power_cut(node, cut_number);
	for (unsigned i = 0; i < CAST; i++)
		if (strcmp(authors[i]->node, node) == 0) {
			author_end(authors[i]);
			wrong += look_around(authors[i], node);
		}
	int64_t begun_ms = cdm_now_ms();
	node_started(node);
	int64_t up_ms = cdm_now_ms();
	for (unsigned i = 0; i < CAST; i++)
		if (strcmp(authors[i]->node, node) != 0) {
			author_end(authors[i]);
			if (authors[i]->error)
				fail_msg("an author at %s, whose power was on, got: %s", authors[i]->node, strerror(authors[i]->error));
		}
	all_are_back();
	in_sync();
	int64_t sync_ms = cdm_now_ms();
	print_message("round %u: %s after %u ms; up in %lld ms, in sync %lld ms later\n", round, node, after_ms, (long long)(up_ms - begun_ms),
		(long long)(sync_ms - up_ms));
	for (unsigned i = 0; i < CAST; i++) {
		wrong += check_author(authors[i], strcmp(authors[i]->node, node) == 0);
		author_free(authors[i]);
	}
	if (wrong)
		fail_msg("round %u, power of %s: %u files are not as they must be", round, node, wrong);
	same_everywhere();
	remove_tree("n2", dir);
}

static char *checkpoint_fifo; /* of common/faultpoint.h */

/* No checkpoint of a node is finished any more; then its memory goes, while its store keeps all there is. (A disk that stands still would do, too, but
 * for a rename that waits for what the filesystem was just writing.) */
static void checkpoints_stand_still(const char *node)
{
	char path[64];
	snprintf(path, sizeof path, "/tmp/cdmfs-power-%d", getpid());
	assert_true(asprintf(&checkpoint_fifo, "%s.durable.synced_not_marked", path) >= 0);
	killed(node, LAB_REPLICATOR);
	setenv("CDMFS_FAULTPOINT_FILE", path, 1);
	started(node, LAB_REPLICATOR);
	unsetenv("CDMFS_FAULTPOINT_FILE");
	everywhere_equal();
	assert_int_equal(mkfifo(checkpoint_fifo, 0600), 0);
}

/* After checkpoints_stand_still. */
static void node_off(const char *node)
{
	node_killed(node);
	unlink(checkpoint_fifo);
	free(checkpoint_fifo);
	here("umount -l %s %s/full; rm -rf %s/*", lab_mount(lab, node), lab_run_dir(lab, node), lab_run_dir(lab, node));
}

static void memory_goes(const char *node)
{
	node_off(node);
	node_started(node);
}

static void a_half_file_is_not_renamed(void)
{
	shell("n1", "mkdir half && echo old > half/page && echo draft > half/next");
	everywhere_equal();
	checkpoints_stand_still("n1");
	shell("n1", "echo whole > half/next");
	gets_text("n2", "half/next", "whole\n");
	shell("n1", "mv half/next half/page");
	gets_text("n2", "half/page", "whole\n");
	_cleanup_free_ char *next = lab_path(lab, "n1", "half/next");
	int fd = open(next, O_WRONLY | O_CREAT | O_CLOEXEC, 0644); /* the save after that, under way when the power goes */
	assert_true(fd >= 0 && write(fd, "ha", 2) == 2);
	memory_goes("n1");
	close(fd);
	all_are_back();
	everywhere_equal();
	has_text("n1", "half/page", "whole\n"); /* which n2 tells of once more, as a rename of what was saved under the other name */
	has_text("n3", "half/page", "whole\n");
	has_text("n2", "half/next", "ha");
}

static void nothing_acknowledged_is_lost(void **state)
{
	const char *rounds_text = getenv("CDMFS_POWER_ROUNDS"), *seed_text = getenv("CDMFS_POWER_SEED");
	unsigned rounds = rounds_text ? (unsigned)atoi(rounds_text) : 4, seed = seed_text ? (unsigned)atoi(seed_text) : (unsigned)time(NULL);
	unsigned cuts[2] = {0};
	a_half_file_is_not_renamed();
	print_message("CDMFS_POWER_SEED=%u\n", seed);
	for (unsigned round = 0; round < rounds; round++) {
		unsigned target = round % 2;
		pull_the_power(target ? "n3" : "n1", round, cuts[target]++, 200 + (unsigned)rand_r(&seed) % 1500);
	}
	in_sync();
	story_is_over = true;
}

/* The same for a node's memory only: its journal is known to its last checkpoint, the store has everything. Its replicator, which makes the
 * checkpoints, was off while `command` was done there. */
static void memory_lost(const char *node, const char *command)
{
	killed(node, LAB_REPLICATOR);
	shell(node, "%s", command);
	node_killed(node);
	here("umount -l %s %s/full %s; rm -rf %s/*", lab_mount(lab, node), lab_run_dir(lab, node), lab_run_dir(lab, node), lab_run_dir(lab, node));
	node_started(node);
	all_are_back();
	everywhere_equal();
}

static void what_was_not_synced_gives_way(void **state)
{
	shell("n2", "mkdir rules && for f in rewritten replaced synced synced-then-rewritten; do echo old > rules/$f; done");
	everywhere_equal();
	unsigned kept = kept_files("n2", "conflicts");
	memory_lost("n2", "cd rules && echo new > rewritten && echo new > .tmp && mv .tmp replaced && echo new > created && ln -s created link && mkdir dir && "
			  "echo new | dd of=synced conv=fsync status=none && echo new | dd of=synced-then-rewritten conv=fsync status=none && echo newer > synced-then-rewritten");
	has_text("n2", "rules/rewritten", "old\n"); /* might have been half; the others have it whole */
	has_text("n2", "rules/replaced", "old\n");
	has_text("n1", "rules/synced", "new\n");
	has_text("n3", "rules/created", "new\n");
	has_text("n2", "rules/synced-then-rewritten", "old\n");
	assert_true(exists("n1", "rules/link") && exists("n3", "rules/dir"));
	assert_int_equal(kept_files("n2", "conflicts"), kept + 3);
	shell("n2", "echo afterwards > rules/created");
	gets_text("n1", "rules/created", "afterwards\n");
}

static int lines_in_log(const char *node, const char *what)
{
	_cleanup_free_ char *count = NULL;
	shell_status(node, &count, "grep -c '%s' %s/logs/%s-replicator.log", what, lab_dir(lab), node);
	return atoi(count);
}

struct line {
	const char *node, *what;
	int before;
};

static bool is_logged_again(void *arg, char *seen)
{
	const struct line *l = arg;
	int now = lines_in_log(l->node, l->what);
	snprintf(seen, 512, "%d times in the log of %s: %s", now, l->node, l->what);
	return now > l->before;
}

/* n2 has an older version, n3 the newest whole one, but is slow to answer. What n2 has must not take its place before n3 was asked. */
static void who_has_the_newest_comes_late(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n1", NULL);
	shell("n1", "mkdir late && echo old > late/file");
	everywhere_equal();
	killed("n2", LAB_REPLICATOR);
	shell("n1", "echo newer > late/file");
	gets_text("n3", "late/file", "newer\n");
	shell("n1", "cdmfs-stat " LAB_SET " --wait --node n1 --timeout 30 && cdmfs-stat " LAB_SET " --wait --node n3 --timeout 30");
	killed("n1", LAB_REPLICATOR);
	assert_int_equal(kill(lab_pid(lab, "n3", LAB_REPLICATOR), SIGSTOP), 0);
	shell("n1", "echo half > late/file");
	node_killed("n1");
	here("umount -l %s %s/full; rm -rf %s/*", lab_mount(lab, "n1"), lab_run_dir(lab, "n1"), lab_run_dir(lab, "n1"));
	struct line linked = {"n1", "event=link_up.*peer=\"n2\"", lines_in_log("n1", "event=link_up.*peer=\"n2\"")};
	struct line settled = {"n1", "event=unsure_settled", lines_in_log("n1", "event=unsure_settled")};
	node_started("n1");
	started("n2", LAB_REPLICATOR);
	if (lab_wait_for(is_logged_again, &linked, STORY_MS, "the link to n2", &err) < 0)
		fail_msg("%s", err.text);
	assert_true(lab_wait_for(is_logged_again, &settled, 5000, "a decision without n3", &err) < 0);
	assert_int_equal(kill(lab_pid(lab, "n3", LAB_REPLICATOR), SIGCONT), 0);
	everywhere_equal();
	has_text("n2", "late/file", "newer\n");
	remove_tree("n1", "late");
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n3", "--auto", NULL);
}

static bool is_marked(void *arg, char *seen)
{
	const char *node = arg;
	_cleanup_free_ char *said = NULL;
	int status = shell_status(node, &said, "cd %s && jq -c '[.nodes[] | select(.self) | .visible, .durable]' peers && "
		"jq -e '.nodes[] | select(.self) | .visible == .durable' peers > /dev/null", lab_run_dir(lab, node));
	snprintf(seen, 512, "%s: visible and durable are %s", node, said ?: "?");
	return status == 0;
}

/* What it has made is in its journal's last mark. */
static void checkpoint_is_done(const char *node)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(is_marked, (void *)node, STORY_MS, "a checkpoint", &err) < 0)
		fail_msg("%s", err.text);
}

/* The same, but n3 is away until all is settled, and n1 began anew meanwhile: it is asked before it gets anything. */
static void who_has_the_newest_comes_when_it_is_settled(void **state)
{
	enum { SETTLED_MS = 60000 };
	struct cdm_error err = CDM_ERROR_INIT;
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n1", NULL);
	shell("n1", "mkdir away && echo old > away/file && echo old > away/changed");
	everywhere_equal();
	killed("n2", LAB_REPLICATOR);
	shell("n1", "echo newer > away/file && echo newer > away/changed");
	gets_text("n3", "away/changed", "newer\n");
	shell("n1", "cdmfs-stat " LAB_SET " --wait --node n1 --timeout 30 && cdmfs-stat " LAB_SET " --wait --node n3 --timeout 30");
	checkpoint_is_done("n1");
	killed("n1", LAB_REPLICATOR);
	killed("n3", LAB_REPLICATOR);
	shell("n1", "echo half > away/file && echo half > away/changed");
	node_killed("n1");
	here("umount -l %s %s/full; rm -rf %s/*", lab_mount(lab, "n1"), lab_run_dir(lab, "n1"), lab_run_dir(lab, "n1"));
	struct line settled = {"n1", "event=unsure_settled", lines_in_log("n1", "event=unsure_settled")};
	node_started("n1");
	started("n2", LAB_REPLICATOR);
	if (lab_wait_for(is_logged_again, &settled, SETTLED_MS, "a decision without n3", &err) < 0)
		fail_msg("%s", err.text);
	gets_text("n1", "away/file", "old\n");
	shell("n1", "echo newest > away/changed"); /* by somebody who saw the old one */
	gets_text("n2", "away/changed", "newest\n");
	killed("n1", LAB_REPLICATOR);
	started("n1", LAB_REPLICATOR);
	started("n3", LAB_REPLICATOR);
	everywhere_equal();
	has_text("n1", "away/file", "newer\n");
	has_text("n2", "away/file", "newer\n");
	has_text("n3", "away/changed", "newest\n");
	assert_int_equal(shell_status("n1", NULL, "test -e %s/.cdmfs/late", lab_store(lab, "n1")), 1);
	remove_tree("n1", "away");
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n3", "--auto", NULL);
}

static void more_than_is_remembered(void **state)
{
	shell("n2", "mkdir crowd && for i in $(seq 20); do echo old > crowd/known-$i; done");
	everywhere_equal();
	memory_lost("n2", "cd crowd && for i in $(seq 4500); do echo $i > new-$i; done; for i in $(seq 20); do echo new > known-$i; done");
	assert_true(counter("n2", "full_resync_count") > 0);
	has_text("n1", "crowd/known-20", "old\n");
	has_text("n3", "crowd/new-4500", "4500\n");
	remove_tree("n2", "crowd");
}

/* Write past the mount, under a version that n2 made and nobody's vector tells of. */
static void put_ahead(const char *node, const char *name, uint64_t number)
{
	_cleanup_free_ char *by_n2 = NULL, *path = NULL;
	struct cdm_stamp stamp;
	assert_true(asprintf(&by_n2, "%s/ahead/by-n2", lab_store(lab, node)) >= 0 && asprintf(&path, "%s/ahead/%s", lab_store(lab, node), name) >= 0);
	_cleanup_close_ int like = open(by_n2, O_RDONLY | O_CLOEXEC), fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(like >= 0 && cdm_stamp_get(like, &stamp) == 0 && CDM_ORIGIN_NODE(stamp.content.dot.origin) > 0);
	stamp.content.dot.number += 1000000 + number;
	stamp.content.clock = cdm_clock_now();
	assert_true(fd >= 0 && write(fd, "ahead\n", 6) == 6 && cdm_stamp_set(fd, &stamp) == 0);
}

/* n3 got from n2, as answers, what n2 then lost with its power, before anybody had the changes themselves. */
static void what_an_author_lost_is_taken_over_by_who_has_it(void **state)
{
	shell("n2", "mkdir ahead && echo saved > ahead/by-n2 && echo old > ahead/changed");
	everywhere_equal();
	node_killed("n3");
	put_ahead("n3", "new", 1);
	put_ahead("n3", "changed", 2);
	here("touch %s/.cdmfs/ahead", lab_store(lab, "n3"));
	node_started("n3");
	all_are_back();
	in_sync();
	has_text("n3", "ahead/new", "ahead\n");
	memory_lost("n2", "true");
	has_text("n2", "ahead/new", "ahead\n");
	has_text("n1", "ahead/changed", "ahead\n");
	remove_tree("n2", "ahead");
	everywhere_equal();
}

/* What n3 got of n1 was overtaken by the next writes there before n2 asked for it, and these went with the power of n1: n2 lacks what its vector covers. A
 * comparison of trees with n2 takes nothing from n3, and in the end all have it. */
static void what_overtook_it_is_lost(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n2", NULL);
	shell("n1", "mkdir over && echo old > over/page");
	everywhere_equal();
	checkpoints_stand_still("n1");
	killed("n2", LAB_REPLICATOR);
	shell("n1", "cd over && echo newer > page && echo new > fresh && mkdir tmp && echo new > tmp/next && mv tmp/next saved && touch tmp && ln saved linked");
	gets_text("n3", "over/linked", "new\n");
	static const char *const overtaken[] = {"over/page", "over/fresh", "over/saved"};
	int fds[3];
	for (unsigned i = 0; i < 3; i++) {
		_cleanup_free_ char *path = lab_path(lab, "n1", overtaken[i]);
		fds[i] = open(path, O_WRONLY | O_CLOEXEC);
		assert_true(fds[i] >= 0 && write(fds[i], "ha", 2) == 2);
	}
	shell("n1", "echo afterwards > over/after");
	started("n2", LAB_REPLICATOR);
	gets_text("n2", "over/after", "afterwards\n");
	node_off("n1");
	for (unsigned i = 0; i < 3; i++)
		close(fds[i]);
	here("cd %s/over && rm fresh saved linked", lab_store(lab, "n1"));
	killed("n3", LAB_REPLICATOR);
	here("touch %s/.cdmfs/doubt", lab_store(lab, "n3"));
	struct line compared = {"n3", "event=resync_ends.*peer=\"n2\"", lines_in_log("n3", "event=resync_ends.*peer=\"n2\"")};
	started("n3", LAB_REPLICATOR);
	if (lab_wait_for(is_logged_again, &compared, STORY_MS, "a comparison of trees with n2", &err) < 0)
		fail_msg("%s", err.text);
	has_text("n3", "over/page", "newer\n");
	has_text("n3", "over/fresh", "new\n");
	has_text("n3", "over/saved", "new\n");
	node_started("n1");
	all_are_back();
	everywhere_equal();
	has_text("n1", "over/page", "newer\n");
	has_text("n2", "over/fresh", "new\n");
	has_text("n1", "over/saved", "new\n");
	has_text("n2", "over/linked", "new\n");
	remove_tree("n1", "over");
	everywhere_equal();
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n3", "--auto", NULL);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(what_was_not_synced_gives_way),
		cmocka_unit_test(who_has_the_newest_comes_late),
		cmocka_unit_test(who_has_the_newest_comes_when_it_is_settled),
		cmocka_unit_test(more_than_is_remembered),
		cmocka_unit_test(what_an_author_lost_is_taken_over_by_who_has_it),
		cmocka_unit_test(what_overtook_it_is_lost),
		cmocka_unit_test_setup_teardown(nothing_acknowledged_is_lost, give_disks, take_disks), /* the last: it leaves other stores */
	};
	return STORIES("power", ((struct lab_options){.nodes = 3, .journal = "64M"}), stories);
}
