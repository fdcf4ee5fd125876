/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/mount_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/io.h"
#include "common/loop.h"

#define DISK_BYTES (8ll << 30) /* sparse */

/* --- programs and waiting --- */

static const char *cdmfs_path(void)
{
	const char *path = getenv("CDMFS_BIN");

	return path ? path : "cdmfs";
}

bool program_exists(const char *name)
{
	_cleanup_free_ char *copy = strdup(getenv("PATH") ? getenv("PATH") : "/usr/sbin:/usr/bin:/sbin:/bin");
	char path[4096], *save = NULL;

	for (char *d = strtok_r(copy, ":", &save); d; d = strtok_r(NULL, ":", &save)) {
		snprintf(path, sizeof(path), "%s/%s", d, name);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static int wait_status(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int run_program(const char *cwd, const char *const *argv)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (chdir(cwd) == 0)
			execvp(argv[0], (char **)argv);
		_exit(127);
	}
	return pid < 0 ? -1 : wait_status(pid);
}

void fixture_wait(const char *what, bool (*cond)(void *arg), void *arg)
{
	int64_t end = cdm_now_ms() + FIXTURE_DEADLINE_MS;

	while (!cond(arg)) {
		if (cdm_now_ms() > end)
			fail_msg("not in time: %s", what);
		poll(NULL, 0, 5);
	}
}

void put_file(const char *path, const void *bytes, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0)
		fail_msg("create %s: %s", path, strerror(errno));
	assert_int_equal(cdm_pwrite_all(fd, bytes, len, 0), 0);
	assert_int_equal(close(fd), 0);
}

char *get_file(const char *path, size_t *ret_len)
{
	char *text = NULL;
	size_t len = 0;
	struct cdm_error err = CDM_ERROR_INIT;

	if (cdm_read_file(AT_FDCWD, path, 64u << 20, &text, &len, &err) < 0)
		fail_msg("%s", err.text);
	if (ret_len)
		*ret_len = len;
	return text;
}

static int replace(const char *dir, const char *name, const char *text, mode_t mode)
{
	struct cdm_error err = CDM_ERROR_INIT;
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return cdm_replace_file(fd, name, text, strlen(text), mode, &err);
}

/* --- the world around a test --- */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

/* A holder that was killed leaves the bare mountpoint immutable. */
static void make_mutable(const char *dir)
{
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int flags;

	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & FS_IMMUTABLE_FL))
		return;
	flags &= ~FS_IMMUTABLE_FL;
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0)
		fprintf(stderr, "%s stays immutable: %s\n", dir, strerror(errno));
}

static int require(bool good, const char *why)
{
	if (!good)
		fprintf(stderr, "skipped: %s\n", why);
	return good ? 0 : 77;
}

static int prepare_disk(struct fixture *f)
{
	char image[96];
	int fd;

	snprintf(image, sizeof(image), "%s/image", f->dir);
	fd = open(image, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, DISK_BYTES) < 0 || close(fd) < 0)
		return -1;
	const char *const make[] = {"mkfs.ext4", "-q", "-F", image, NULL};
	const char *const attach[] = {"mount", "-o", "loop,acl,user_xattr", image, f->disk, NULL};
	if (mkdir(f->disk, 0755) < 0 || run_program("/", make) != 0 || run_program("/", attach) != 0)
		return -1;
	if (mkdir(f->store, 0755) < 0 || mkdir(f->native, 0755) < 0)
		return -1;
	return 0;
}

static int prepare_node(struct fixture *f)
{
	static const char identity[] = "{\"node\":\"n1\",\"number\":1,\"group\":\"g1\",\"region\":\"r1\",\"master\":\"127.0.0.1:7440\","
				       "\"api\":\"https://127.0.0.1:7443\"}";
	char text[600];

	if (mkdir(f->mnt, 0755) < 0 || mkdir(f->run, 0755) < 0 || mkdir(f->state, 0700) < 0)
		return -1;
	if (replace(f->state, "identity.json", identity, 0600) < 0)
		return -1;
	snprintf(text, sizeof(text), "[node]\nstate = %s\nrun = %s\n[set %s]\nstore = %s\nmountpoint = %s\n", f->state, f->run, FIXTURE_SET,
		f->store, f->mnt);
	return replace(f->dir, "node.conf", text, 0644);
}

static const char *forced_path;

/* A test that hangs may have processes that wait for a server that is gone: the kernel ends their calls. */
static void force_end(int signo)
{
	umount2(forced_path, MNT_FORCE | MNT_DETACH);
	_exit(128 + signo);
}

/* Process 1 of the namespace: everything in it ends with it. */
__attribute__((noreturn)) static void be_init(struct fixture *f, int (*body)(struct fixture *f))
{
	pid_t test, ended;
	int status = 0, test_status = 1;

	forced_path = f->full;
	signal(SIGTERM, force_end);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("proc", "/proc", "proc", 0, NULL) < 0) {
		fprintf(stderr, "skipped: no mount namespace of its own: %s\n", strerror(errno));
		_exit(77);
	}
	test = fork();
	if (test == 0) {
		if (prepare_disk(f) < 0 || prepare_node(f) < 0) {
			fprintf(stderr, "skipped: cannot make an ext4 in a loop device: %s\n", strerror(errno));
			exit(77);
		}
		signal(SIGTERM, SIG_DFL);
		cmocka_set_test_filter(getenv("ONLY"));
		exit(body(f));
	}
	while ((ended = wait(&status)) > 0 || errno == EINTR)
		if (ended == test) {
			test_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			break;
		}
	if (test_status != 0 && test_status != 77) {
		const char *const show[] = {"tail", "-n", "60", f->log, NULL};
		fprintf(stderr, "--- the last of the mount's log:\n");
		run_program("/", show);
	}
	umount2(f->full, MNT_FORCE | MNT_DETACH);
	_exit(test_status);
}

static pid_t outer_child;

static void pass_on_end(int signo)
{
	if (outer_child > 0)
		kill(outer_child, SIGKILL);
}

int fixture_main(int (*body)(struct fixture *f))
{
	static struct fixture f = {.set = FIXTURE_SET};
	struct sigaction end = {.sa_handler = pass_on_end};
	int status;

	if ((status = require(geteuid() == 0, "needs root")) ||
		(status = require(access("/dev/fuse", R_OK | W_OK) == 0, "needs /dev/fuse")) ||
		(status = require(program_exists("mkfs.ext4"), "needs mkfs.ext4")) ||
		(status = require(access(cdmfs_path(), X_OK) == 0, "needs the cdmfs program (CDMFS_BIN)")))
		return status;
	snprintf(f.dir, sizeof(f.dir), "%s/cdmfs-mount.XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(f.dir) || chmod(f.dir, 0755) < 0)
		return require(false, "no room for scratch files");
	snprintf(f.disk, sizeof(f.disk), "%s/disk", f.dir);
	snprintf(f.store, sizeof(f.store), "%s/store", f.disk);
	snprintf(f.native, sizeof(f.native), "%s/native", f.disk);
	snprintf(f.mnt, sizeof(f.mnt), "%s/mnt", f.dir);
	snprintf(f.run, sizeof(f.run), "%s/run", f.dir);
	snprintf(f.full, sizeof(f.full), "%s/%s/full", f.run, FIXTURE_SET);
	snprintf(f.state, sizeof(f.state), "%s/state", f.dir);
	snprintf(f.conf, sizeof(f.conf), "%s/node.conf", f.dir);
	snprintf(f.log, sizeof(f.log), "%s/log", f.dir);
	sigaction(SIGTERM, &end, NULL);
	sigaction(SIGINT, &end, NULL);
	outer_child = fork();
	if (outer_child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWNS | CLONE_NEWPID) < 0) {
			fprintf(stderr, "skipped: no namespaces of its own: %s\n", strerror(errno));
			_exit(77);
		}
		pid_t init = fork();
		if (init == 0)
			be_init(&f, body);
		_exit(init < 0 ? 77 : wait_status(init));
	}
	status = wait_status(outer_child);
	make_mutable(f.mnt);
	nftw(f.dir, remove_entry, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	return status;
}

/* --- mount and its end --- */

static bool is_mounted(const struct fixture *f)
{
	struct statfs fs;

	return statfs(f->mnt, &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC;
}

static bool mounted_or_ended(void *arg)
{
	struct fixture *f = arg;
	int status;

	if (waitpid(f->holder, &status, WNOHANG) == f->holder) {
		f->holder = 0;
		return true;
	}
	return is_mounted(f);
}

static void build_argv(struct fixture *f, const char *const *extra, const char **argv, size_t room)
{
	size_t n = 0;

	argv[n++] = cdmfs_path();
	argv[n++] = f->set;
	for (; extra && *extra && n + 3 < room; extra++)
		argv[n++] = *extra;
	argv[n++] = "--config";
	argv[n++] = f->conf;
	argv[n] = NULL;
}

void fixture_mount(struct fixture *f, const char *const *extra)
{
	const char *argv[32];

	assert_int_equal(f->holder, 0);
	build_argv(f, extra, argv, 32);
	f->holder = fork();
	if (f->holder == 0) {
		int log = open(f->log, O_WRONLY | O_CREAT | O_APPEND, 0644);
		dup2(log, 1);
		dup2(log, 2);
		execv(argv[0], (char **)argv);
		_exit(127);
	}
	fixture_wait("the mount", mounted_or_ended, f);
	if (f->holder == 0)
		fail_msg("cdmfs ended before the mount was there");
}

int fixture_unmount(struct fixture *f)
{
	int status;

	assert_int_not_equal(f->holder, 0);
	kill(f->holder, SIGTERM);
	status = wait_status(f->holder);
	f->holder = 0;
	return status;
}

int fixture_cdmfs(struct fixture *f, const char *const *args, char *out, size_t room)
{
	const char *argv[32];
	int said[2];
	size_t used = 0;
	ssize_t n;
	pid_t pid;

	build_argv(f, args, argv, 32);
	assert_int_equal(pipe2(said, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		dup2(said[1], 2);
		execv(argv[0], (char **)argv);
		_exit(127);
	}
	close(said[1]);
	while (used + 1 < room && (n = read(said[0], out + used, room - 1 - used)) > 0)
		used += (size_t)n;
	out[used] = 0;
	close(said[0]);
	return wait_status(pid);
}

void fixture_policy(struct fixture *f, const char *policy)
{
	static unsigned epoch = 1;
	char path[160], text[2000];

	snprintf(path, sizeof(path), "%s/routes.json", f->state);
	if (!policy) {
		unlink(path);
		return;
	}
	snprintf(text, sizeof(text), "{\"epoch\":%u,\"node\":\"n1\",\"sets\":[{\"name\":\"%s\",\"id\":1,%s,\"parent\":null,"
		"\"alternates\":[],\"children\":[],\"members\":[]}]}", epoch++, FIXTURE_SET, policy);
	assert_int_equal(replace(f->state, "routes.json", text, 0600), 0);
}

pid_t fixture_pid(struct fixture *f, const char *which)
{
	_cleanup_free_ char *text = NULL;
	char path[160];
	size_t len = 0;

	snprintf(path, sizeof(path), "%s/%s/pids", f->run, FIXTURE_SET);
	if (cdm_read_file(AT_FDCWD, path, 65536, &text, &len, NULL) < 0)
		return 0;
	json_t *o = json_loadb(text, len, 0, NULL);
	pid_t pid = (pid_t)json_integer_value(json_object_get(o, which));
	json_decref(o);
	return pid;
}

struct replaced {
	struct fixture *f;
	const char *which;
	pid_t old;
};

static bool is_replaced(void *arg)
{
	struct replaced *r = arg;
	pid_t now = fixture_pid(r->f, r->which);

	return now > 0 && now != r->old;
}

void fixture_kill(struct fixture *f, const char *which)
{
	struct replaced r = {f, which, fixture_pid(f, which)};

	assert_true(r.old > 0);
	assert_int_equal(kill(r.old, SIGKILL), 0);
	fixture_wait("the next process", is_replaced, &r);
}

size_t fixture_unsaved(struct fixture *f)
{
	static char text[1 << 20];
	ssize_t n = getxattr(f->full, "trusted.cdmfs.open", text, sizeof(text));
	json_t *list = n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
	size_t count = json_array_size(list);

	if (!json_is_array(list))
		fail_msg("trusted.cdmfs.open: %s", strerror(errno));
	json_decref(list);
	return count;
}

void fixture_mark(struct fixture *f)
{
	static char text[1 << 16];
	struct cdm_vector vector = {0};
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &vector};
	ssize_t n = getxattr(f->full, "trusted.cdmfs.status", text, sizeof(text));
	json_t *status = n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
	const char *applied = json_string_value(json_object_get(status, "vector"));
	int store = open(f->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(applied && store >= 0);
	assert_int_equal(cdm_vector_parse(applied, &vector), 0);
	assert_int_equal(syncfs(store), 0);
	uint8_t *record = malloc(cdm_change_encoded_max(&mark) + 4);
	uint32_t len = (uint32_t)cdm_change_encode(&mark, record + 4);
	memcpy(record, &len, sizeof(len));
	assert_int_equal(setxattr(f->full, "trusted.cdmfs.journal", record, len + 4, 0), 0);
	free(record);
	close(store);
	json_decref(status);
	cdm_vector_fini(&vector);
}

/* --- the journal --- */

static struct cdm_journal_reader *open_reader(struct fixture *f, int *ret_dir)
{
	char path[192], run[160];
	struct cdm_journal_reader *r = NULL;
	struct cdm_error err = CDM_ERROR_INIT;

	snprintf(path, sizeof(path), "%s/.cdmfs/journal", f->store);
	snprintf(run, sizeof(run), "%s/%s", f->run, FIXTURE_SET);
	*ret_dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret_dir < 0 || cdm_journal_reader_open(*ret_dir, run, &r, &err) < 0)
		fail_msg("open the journal: %s", err.text);
	return r;
}

static void close_reader(struct cdm_journal_reader *r, int dir)
{
	cdm_journal_reader_close(&r);
	close(dir);
}


#define BARRIER_MS 1500

static void make_barrier(struct fixture *f, char name[static 64])
{
	static unsigned number;
	char path[256];

	snprintf(name, 64, ".barrier-%u", 1000000 + number++);
	snprintf(path, sizeof(path), "%s/staging/%s", f->full, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		fail_msg("create %s: %s", path, strerror(errno));
	close(fd);
	assert_int_equal(unlink(path), 0);
}

uint64_t fixture_journal_read(struct fixture *f, uint64_t position, void (*each)(const struct cdm_change *c, void *arg), void *arg)
{
	char name[64];
	int dir;
	int64_t end = cdm_now_ms() + FIXTURE_DEADLINE_MS, again = cdm_now_ms() + BARRIER_MS;
	bool done = false;

	make_barrier(f, name);
	struct cdm_journal_reader *r = open_reader(f, &dir);
	assert_int_equal(cdm_journal_reader_seek(r, position), 0);
	while (!done) {
		struct cdm_change c = {0};
		int n = cdm_journal_reader_next(r, &c);
		if (n < 0)
			fail_msg("read the journal: %s", strerror(-n));
		if (n == 0) {
			if (cdm_now_ms() > end)
				fail_msg("the barrier is not answered");
			if (cdm_now_ms() > again) { /* the watcher that was to tell of it is gone */
				make_barrier(f, name);
				again = cdm_now_ms() + BARRIER_MS;
			}
			if (!cdm_journal_reader_arm(r)) {
				struct pollfd p = {.fd = cdm_journal_reader_wake_fd(r), .events = POLLIN};
				char drain[64];
				if (poll(&p, 1, 100) > 0 && read(p.fd, drain, sizeof(drain)) < 0)
					assert_int_equal(errno, EAGAIN);
			}
			continue;
		}
		done = c.op == CDM_OP_BARRIER && c.path_len == strlen(name) && memcmp(c.path, name, c.path_len) == 0;
		if (!done)
			each(&c, arg);
	}
	position = cdm_journal_reader_position(r);
	close_reader(r, dir);
	return position;
}
