/* SPDX-License-Identifier: Apache-2.0 */
/* 013_mount_errors — what goes wrong at the start and at the end of a mount is said plainly, with what to do, and leaves nothing
 * behind. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/error.h"
#include "common/loop.h"
#include "tests/cluster/mount_fixture.h"

static struct fixture *fixture;
static char said[8192];

#define ARGS(...) ((const char *const[]){__VA_ARGS__ __VA_OPT__(,) NULL})

/* Starting with these arguments fails with that status and says all of these. */
static void refused(int status, const char *const *args, const char *const *texts)
{
	int got = fixture_cdmfs(fixture, args, said, sizeof(said));

	if (got != status)
		fail_msg("exit status %d, expected %d: %s", got, status, said);
	for (; *texts; texts++)
		if (!strstr(said, *texts))
			fail_msg("\"%s\" is missing in: %s", *texts, said);
}

static bool is_fuse(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC;
}

static bool mounts_left(void)
{
	char *text = get_file("/proc/self/mounts", NULL);
	bool left = strstr(text, fixture->mnt) || strstr(text, fixture->run);

	free(text);
	return left;
}

/* After a refused start or an end: no mount, no immutable directory, no run files but the lock. */
static void nothing_left(void)
{
	struct stat st;
	char path[200];

	assert_false(mounts_left());
	snprintf(path, sizeof(path), "%s/probe", fixture->mnt);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(stat(fixture->mnt, &st), 0);
}

static void write_conf(const char *store)
{
	char text[600];
	int n = snprintf(text, sizeof(text), "[node]\nstate = %s\nrun = %s\n[set %s]\nstore = %s\nmountpoint = %s\n", fixture->state, fixture->run,
		FIXTURE_SET, store, fixture->mnt);

	put_file(fixture->conf, text, (size_t)n);
}

/* --- before the mount --- */

static void wrong_usage(void **state)
{
	refused(2, ARGS("-o", "sidewise"), ARGS("unknown mount option \"sidewise\"", "--help"));
	refused(2, ARGS("--nonsense"), ARGS("--nonsense", "usage: cdmfs"));
	refused(2, ARGS("/a", "/b"), ARGS("too many arguments: /b"));
	nothing_left();
}

static void unknown_set(void **state)
{
	fixture->set = "shop";
	refused(1, ARGS(), ARGS("unknown set 'shop'", FIXTURE_SET));
	fixture->set = FIXTURE_SET;
}

static void not_joined_yet(void **state)
{
	char from[160], to[160];

	snprintf(from, sizeof(from), "%s/identity.json", fixture->state);
	snprintf(to, sizeof(to), "%s/identity.away", fixture->state);
	assert_int_equal(rename(from, to), 0);
	refused(1, ARGS(), ARGS("has not joined", "cdm-replicator join"));
	assert_int_equal(rename(to, from), 0);
	nothing_left();
}

static void store_missing(void **state)
{
	char missing[200];

	snprintf(missing, sizeof(missing), "%s/nowhere", fixture->disk);
	write_conf(missing);
	refused(1, ARGS(), ARGS("open store", "nowhere", "No such file", "mkdir -p -m 0700"));
	write_conf(fixture->store);
	nothing_left();
}

static void store_not_writable(void **state)
{
	assert_int_equal(mount(fixture->store, fixture->store, NULL, MS_BIND, NULL), 0);
	assert_int_equal(mount(NULL, fixture->store, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), 0);
	refused(1, ARGS(), ARGS("is not writable", "read-only"));
	assert_int_equal(umount(fixture->store), 0);
	nothing_left();
}

static void store_without_handles(void **state)
{
	char dir[200];

	snprintf(dir, sizeof(dir), "%s/proc-store", fixture->disk);
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(mount("proc", dir, "proc", 0, NULL), 0);
	write_conf(dir);
	refused(1, ARGS(), ARGS("file handles", "ext4, xfs or btrfs"));
	write_conf(fixture->store);
	assert_int_equal(umount(dir), 0);
	assert_int_equal(rmdir(dir), 0);
}

static void mountpoint_missing_or_a_file(void **state)
{
	refused(1, ARGS("/nowhere/at/all"), ARGS("/nowhere/at/all", "No such file", "mkdir -p /nowhere/at/all"));
	refused(1, ARGS(fixture->conf), ARGS("Not a directory"));
	nothing_left();
}

static void mountpoint_not_empty(void **state)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/index.html", fixture->mnt);
	put_file(path, "x", 1);
	refused(1, ARGS(), ARGS("is not empty", "index.html", "cdmctl set adopt", "-o nonempty"));
	fixture_mount(fixture, ARGS("-o", "nonempty"));
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(fixture_unmount(fixture), 0);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(unlink(path), 0);
	nothing_left();
}

static void mountpoint_busy(void **state)
{
	assert_int_equal(mount("other", fixture->mnt, "tmpfs", 0, NULL), 0);
	refused(1, ARGS(), ARGS("is busy", "other (tmpfs) is mounted there", "umount"));
	assert_int_equal(umount(fixture->mnt), 0);
	nothing_left();
}

static void store_and_mountpoint_nested(void **state)
{
	char inside[200];

	refused(1, ARGS(fixture->store), ARGS("same directory", "keep the store apart"));
	refused(1, ARGS(fixture->disk), ARGS("lies inside the mountpoint"));
	snprintf(inside, sizeof(inside), "%s/mnt", fixture->store);
	assert_int_equal(mkdir(inside, 0755), 0);
	refused(1, ARGS(inside), ARGS("lies inside the store"));
	assert_int_equal(rmdir(inside), 0);
	refused(1, ARGS(fixture->dir), ARGS("would cover"));
	nothing_left();
}

static void damaged_files(void **state)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/routes.json", fixture->state);
	put_file(path, "{not json", 9);
	refused(1, ARGS(), ARGS("routes.json"));
	assert_int_equal(unlink(path), 0);
	put_file(fixture->conf, "[node]\nstat = /x\n", 17);
	refused(1, ARGS(), ARGS("line 2", "stat"));
	write_conf(fixture->store);
	nothing_left();
}

static bool is_unmounted(void *arg)
{
	return umount(fixture->mnt) == 0;
}

/* The watcher may be looking at a file just closed, which keeps the mount busy for a moment. */
static void umount_it(void)
{
	fixture_wait("umount", is_unmounted, NULL);
}

/* --- a second one, and the first one's end --- */

static void second_instance(void **state)
{
	char other[200], expected[64];

	fixture_mount(fixture, NULL);
	snprintf(expected, sizeof(expected), "by process %d", (int)fixture->holder);
	refused(1, ARGS(), ARGS("is mounted already", expected));
	snprintf(other, sizeof(other), "%s/other", fixture->dir);
	assert_int_equal(mkdir(other, 0755), 0);
	refused(1, ARGS(other), ARGS("is mounted already"));
	assert_true(is_fuse(fixture->mnt));
	assert_int_equal(rmdir(other), 0);
	assert_int_equal(fixture_unmount(fixture), 0);
	nothing_left();
}

static bool holder_ended(void *arg)
{
	int *status = arg;

	return waitpid(fixture->holder, status, WNOHANG) == fixture->holder;
}

static void umount_ends_it(void **state)
{
	int status;

	fixture_mount(fixture, NULL);
	umount_it();
	fixture_wait("the end of the holder", holder_ended, &status);
	fixture->holder = 0;
	assert_int_equal(status, 0);
	nothing_left();
}

/* `umount X && mount X`: the second waits for the end of the first. */
static void mounted_again_at_once(void **state)
{
	char path[200];
	int status;

	for (int i = 0; i < 5; i++) {
		fixture_mount(fixture, NULL);
		snprintf(path, sizeof(path), "%s/again", fixture->mnt);
		put_file(path, "again", 5);
		umount_it();
		pid_t first = fixture->holder;
		fixture->holder = 0;
		fixture_mount(fixture, NULL);
		assert_int_equal(access(path, F_OK), 0);
		assert_int_equal(waitpid(first, &status, 0), first);
		assert_int_equal(status, 0);
		assert_int_equal(fixture_unmount(fixture), 0);
	}
	nothing_left();
}

/* Also while the holder has not heard yet that the visible one is there. */
static void umount_of_the_full_mount_ends_it(void **state)
{
	int status;

	for (int i = 0; i < 10; i++) {
		fixture_mount(fixture, NULL);
		assert_int_equal(umount2(fixture->full, MNT_DETACH), 0);
		fixture_wait("the end of the holder", holder_ended, &status);
		fixture->holder = 0;
		nothing_left();
	}
}

static void ended_while_busy(void **state)
{
	char path[200];

	fixture_mount(fixture, NULL);
	snprintf(path, sizeof(path), "%s/busy", fixture->mnt);
	put_file(path, "content", 7);
	int fd = open(path, O_RDWR);
	assert_int_equal(fixture_unmount(fixture), 0);
	char *log = get_file(fixture->log, NULL);
	assert_non_null(strstr(log, "event=mount_busy"));
	assert_non_null(strstr(log, "013_mount_error")); /* who it was */
	free(log);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	close(fd);
	nothing_left();
}

static void bare_mountpoint_is_immutable(void **state)
{
	int flags = 0, fd = open(fixture->mnt, O_RDONLY | O_DIRECTORY);

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0) {
		close(fd);
		skip();
	}
	fixture_mount(fixture, NULL);
	assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &flags), 0);
	assert_true(flags & FS_IMMUTABLE_FL);
	assert_int_equal(mkdirat(fd, "lost", 0755), -1);
	close(fd);
	assert_int_equal(fixture_unmount(fixture), 0);
	nothing_left();
}

static void all_killed_then_started(void **state)
{
	char path[200];
	pid_t server, watcher;
	struct statfs fs;

	fixture_mount(fixture, NULL);
	snprintf(path, sizeof(path), "%s/kept", fixture->mnt);
	put_file(path, "before the crash", 16);
	server = fixture_pid(fixture, "server"), watcher = fixture_pid(fixture, "watcher");
	kill(fixture->holder, SIGKILL);
	kill(server, SIGKILL);
	kill(watcher, SIGKILL);
	assert_int_equal(waitpid(fixture->holder, NULL, 0), fixture->holder);
	fixture->holder = 0;
	int64_t end = cdm_now_ms() + FIXTURE_DEADLINE_MS;
	while (statfs(fixture->mnt, &fs) == 0 || errno != ENOTCONN) { /* until the kernel has ended the connection */
		assert_true(cdm_now_ms() < end);
		poll(NULL, 0, 2);
	}
	fixture_mount(fixture, NULL); /* the dead mount goes away by itself */
	char *text = get_file(path, NULL);
	assert_string_equal(text, "before the crash");
	free(text);
	assert_int_equal(fixture_unmount(fixture), 0);
	nothing_left();
}

/* --- the check after a lost tail --- */

#define FOUND 1000 /* so many that the server is ready before they are all found */

static void take_save(const struct cdm_change *c, void *arg)
{
	bool *found = arg;
	unsigned n;
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)c->path_len, c->path ? c->path : "");
	if (c->op == CDM_OP_SAVE && c->flags & CDM_CH_RECOVERED && sscanf(name, "past-%u", &n) == 1 && n < FOUND)
		found[n] = true;
}

static bool all_told(void *arg)
{
	bool found[FOUND] = {false};

	fixture_journal_read(fixture, 0, take_save, found);
	return !memchr(found, false, sizeof(found));
}

static void kill_all_of_it(void)
{
	const pid_t server = fixture_pid(fixture, "server"), watcher = fixture_pid(fixture, "watcher");
	struct statfs fs;
	int64_t end = cdm_now_ms() + FIXTURE_DEADLINE_MS;

	kill(fixture->holder, SIGKILL);
	kill(server, SIGKILL);
	kill(watcher, SIGKILL);
	assert_int_equal(waitpid(fixture->holder, NULL, 0), fixture->holder);
	fixture->holder = 0;
	while (statfs(fixture->mnt, &fs) == 0 || errno != ENOTCONN) {
		assert_true(cdm_now_ms() < end);
		poll(NULL, 0, 2);
	}
}

/* Whoever comes next undoes what the holder had done, however short it lived. */
static void all_killed_as_soon_as_mounted(void **state)
{
	for (int i = 0; i < 10; i++) {
		fixture_mount(fixture, NULL);
		kill_all_of_it();
		fixture_mount(fixture, NULL);
		assert_int_equal(fixture_unmount(fixture), 0);
		nothing_left();
	}
}

/* What the store holds beyond the journal is found although the server dies, and is replaced, while it looks for it. */
static void check_survives_its_server(void **state)
{
	char path[200], point[200];

	fixture_mount(fixture, NULL);
	kill_all_of_it();
	snprintf(path, sizeof(path), "%s/%s/tail", fixture->run, FIXTURE_SET);
	assert_int_equal(unlink(path), 0); /* memory is lost with the power */
	for (int i = 0; i < FOUND; i++) {
		snprintf(path, sizeof(path), "%s/past-%d", fixture->store, i);
		put_file(path, "kept by the store only", 22);
	}
	snprintf(point, sizeof(point), "%s/point", fixture->dir);
	setenv("CDMFS_FAULTPOINT_FILE", point, 1);
	put_file(point, "check.recorded_not_next:800", 27);
	fixture_mount(fixture, NULL);
	unsetenv("CDMFS_FAULTPOINT_FILE");
	fixture_wait("the changes found", all_told, NULL);
	assert_int_equal(access(point, F_OK), -1); /* it did die of it */
	assert_int_equal(fixture_unmount(fixture), 0);
	nothing_left();
}

#define END_ROUNDS 20
#define END_STEP_US 1000 /* from one moment of the kill to the next */
#define DEATHS_UNTIL_PAUSE 3

/* One end of the mount, its server killed so many microseconds after it began, and `before` times ahead of that; says what was seen
 * if the holder fails. */
static void end_with_server_killed(int64_t kill_us, int before)
{
	char path[200];
	int status;

	fixture_mount(fixture, NULL);
	snprintf(path, sizeof(path), "%s/f%lld", fixture->mnt, (long long)kill_us);
	put_file(path, "x", 1);
	for (int i = 0; i < before; i++)
		fixture_kill(fixture, "server");
	assert_int_equal(access(path, F_OK), 0); /* a server answers */
	pid_t server = fixture_pid(fixture, "server");
	assert_true(server > 0);
	kill(fixture->holder, SIGTERM);
	const struct timespec moment = {.tv_nsec = kill_us * 1000};
	clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
	int killed = kill(server, SIGKILL) < 0 ? errno : 0;
	assert_int_equal(waitpid(fixture->holder, &status, 0), fixture->holder);
	fixture->holder = 0;
	if (status != 0)
		fail_msg("server killed %d times, then %lld us after SIGTERM (%s): the holder ended with wait status %d", before, (long long)kill_us,
			killed ? strerror(killed) : "it was there", status);
	nothing_left();
}

/* The server dies while the mount is being taken down: another one closes the journal, so that nothing is left. */
static void server_killed_at_the_end(void **state)
{
	for (int i = 0; i < END_ROUNDS; i++)
		end_with_server_killed(i * END_STEP_US, 0);
}

/* Also when the next one would be started after a pause only, because the ones before died early. */
static void server_killed_often_at_the_end(void **state)
{
	for (int i = 0; i < END_ROUNDS; i++)
		end_with_server_killed(i * END_STEP_US, DEATHS_UNTIL_PAUSE);
}

/* It has closed the journal and removed its files, and is killed before it can say so. */
static void server_killed_after_the_end(void **state)
{
	char point[200];

	snprintf(point, sizeof(point), "%s/point", fixture->dir);
	setenv("CDMFS_FAULTPOINT_FILE", point, 1);
	put_file(point, "server.closed_not_ended", 23);
	fixture_mount(fixture, NULL);
	unsetenv("CDMFS_FAULTPOINT_FILE");
	assert_int_equal(fixture_unmount(fixture), 0);
	assert_int_equal(access(point, F_OK), -1); /* it did die of it */
	nothing_left();
}

static void starts_in_the_background(void **state)
{
	char path[200];

	assert_int_equal(fixture_cdmfs(fixture, ARGS("--daemon"), said, sizeof(said)), 0);
	assert_true(is_fuse(fixture->mnt));
	snprintf(path, sizeof(path), "%s/there", fixture->mnt);
	put_file(path, "1", 1);
	pid_t holder = fixture_pid(fixture, "holder");
	assert_int_equal(kill(holder, SIGTERM), 0);
	int64_t end = cdm_now_ms() + FIXTURE_DEADLINE_MS;
	while (kill(holder, 0) == 0) {
		assert_true(cdm_now_ms() < end);
		poll(NULL, 0, 5);
	}
	nothing_left();
	write_conf("/nowhere");
	refused(1, ARGS("--daemon"), ARGS("open store /nowhere", "mkdir -p"));
	write_conf(fixture->store);
}

/* --- what the mount allows --- */

static void mount_options(void **state)
{
	char path[200];

	fixture_mount(fixture, ARGS("-o", "ro,noexec,defaults,_netdev,nofail,x-systemd.automount,comment=a"));
	snprintf(path, sizeof(path), "%s/x", fixture->mnt);
	assert_int_equal(open(path, O_WRONLY | O_CREAT, 0644), -1);
	assert_int_equal(errno, EROFS);
	char *mounts = get_file("/proc/self/mounts", NULL), line[300];
	snprintf(line, sizeof(line), FIXTURE_SET " %s fuse.cdmfs ro,nosuid,nodev,noexec", fixture->mnt);
	assert_non_null(strstr(mounts, line));
	free(mounts);
	assert_int_equal(fixture_cdmfs(fixture, ARGS("-o", "remount,rw"), said, sizeof(said)), 0);
	put_file(path, "now", 3);
	assert_int_equal(fixture_cdmfs(fixture, ARGS("-o", "remount,ro"), said, sizeof(said)), 0);
	assert_int_equal(unlink(path), -1);
	assert_int_equal(errno, EROFS);
	assert_int_equal(fixture_unmount(fixture), 0);
	refused(1, ARGS("-o", "remount,ro"), ARGS("is not mounted"));
	nothing_left();
}

static bool is_writable(void *arg)
{
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", fixture->mnt, (const char *)arg);
	fd = open(path, O_WRONLY | O_CREAT, 0644);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static bool is_not_writable(void *arg)
{
	return !is_writable(arg);
}

static void pure_target_is_read_only(void **state)
{
	char path[200];

	fixture_policy(fixture, "\"role\":\"target\"");
	fixture_mount(fixture, NULL);
	snprintf(path, sizeof(path), "%s/x", fixture->mnt);
	assert_int_equal(open(path, O_WRONLY | O_CREAT, 0644), -1);
	assert_int_equal(errno, EROFS);
	fixture_policy(fixture, "\"role\":\"both\""); /* the holder sees the file change; the server is told by the replicator */
	assert_int_equal(setxattr(fixture->full, "trusted.cdmfs.policy", "", 0, 0), 0);
	fixture_wait("the mount to become writable", is_writable, (char *)"x");
	fixture_policy(fixture, "\"role\":\"target\",\"local\":[\"cache/**\",\"cache\"]");
	assert_int_equal(setxattr(fixture->full, "trusted.cdmfs.policy", "", 0, 0), 0);
	fixture_wait("the mount to become read-only", is_not_writable, (char *)"y");
	snprintf(path, sizeof(path), "%s/cache", fixture->mnt);
	assert_int_equal(mkdir(path, 0755), 0);
	fixture_wait("local paths to be writable", is_writable, (char *)"cache/page");
	assert_int_equal(fixture_unmount(fixture), 0);
	fixture_policy(fixture, NULL);
	nothing_left();
}

static void metadata_is_hidden(void **state)
{
	char path[200], buf[64], list[1024];

	fixture_mount(fixture, NULL);
	snprintf(path, sizeof(path), "%s/.cdmfs", fixture->mnt);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(mkdir(path, 0755), -1);
	snprintf(path, sizeof(path), "%s/f", fixture->mnt);
	put_file(path, "x", 1);
	assert_int_equal(getxattr(path, "trusted.cdmfs.version", buf, sizeof(buf)), -1);
	assert_int_equal(setxattr(path, "trusted.cdmfs.version", "x", 1, 0), -1);
	ssize_t n = listxattr(path, list, sizeof(list));
	assert_int_equal(n, 0);
	assert_true(getxattr(path, "user.cdmfs.status", list, sizeof(list)) > 0);
	assert_int_equal(fixture_unmount(fixture), 0);
	nothing_left();
}

/* --- the service manager --- */

static int notify_fd;

static void listen_as_manager(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/notify", fixture->dir);
	unlink(addr.sun_path);
	notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(notify_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	setenv("NOTIFY_SOCKET", addr.sun_path, 1);
}

static bool was_told(void *arg)
{
	char text[600];
	ssize_t n = recv(notify_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return false;
	text[n] = 0;
	return strstr(text, arg) != NULL;
}

static void tells_the_service_manager(void **state)
{
	listen_as_manager();
	fixture_mount(fixture, NULL);
	fixture_wait("READY=1", was_told, (char *)"READY=1\nSTATUS=set www at");
	kill(fixture->holder, SIGHUP);
	fixture_wait("RELOADING=1", was_told, (char *)"RELOADING=1");
	assert_int_equal(fixture_unmount(fixture), 0);
	fixture_wait("STOPPING=1", was_told, (char *)"STOPPING=1");
	unsetenv("NOTIFY_SOCKET");
	close(notify_fd);
}

/* A call may be answered just before all threads have stopped: more of them, until the next server is there. */
static bool server_is_another(void *arg)
{
	static unsigned number;
	char path[200];

	snprintf(path, sizeof(path), "%s/call-%u", fixture->mnt, number++);
	put_file(path, "x", 1);
	pid_t now = fixture_pid(fixture, "server");

	return now > 0 && now != *(pid_t *)arg;
}

/* A server that hangs is replaced, if the service manager wants signs of life. */
static void hanging_server_is_replaced(void **state)
{
	pid_t server;

	listen_as_manager();
	setenv("WATCHDOG_USEC", "500000", 1);
	fixture_mount(fixture, NULL);
	unsetenv("WATCHDOG_USEC");
	fixture_wait("WATCHDOG=1", was_told, (char *)"WATCHDOG=1");
	server = fixture_pid(fixture, "server");
	assert_int_equal(kill(server, SIGSTOP), 0);
	fixture_wait("the next server", server_is_another, &server);
	fixture_wait("WATCHDOG=1", was_told, (char *)"WATCHDOG=1");
	assert_int_equal(fixture_unmount(fixture), 0);
	unsetenv("NOTIFY_SOCKET");
	close(notify_fd);
	nothing_left();
}

static bool manager_has_no_room(void *arg)
{
	return sendto(notify_fd, "", 0, MSG_DONTWAIT, arg, sizeof(struct sockaddr_un)) < 0 && errno == EAGAIN;
}

/* A service manager that does not listen must not stop the holder, for then nobody starts the next server. */
static void deaf_service_manager(void **state)
{
	struct sockaddr_un addr;
	socklen_t len = sizeof(addr);
	char path[200];

	listen_as_manager();
	assert_int_equal(getsockname(notify_fd, (struct sockaddr *)&addr, &len), 0);
	setenv("WATCHDOG_USEC", "100000", 1);
	fixture_mount(fixture, NULL);
	unsetenv("WATCHDOG_USEC");
	fixture_wait("a full queue", manager_has_no_room, &addr);
	for (int i = 0; i < 3; i++) {
		fixture_kill(fixture, "server");
		snprintf(path, sizeof(path), "%s/deaf-%d", fixture->mnt, i);
		put_file(path, "x", 1);
	}
	assert_int_equal(fixture_unmount(fixture), 0);
	unsetenv("NOTIFY_SOCKET");
	close(notify_fd);
	nothing_left();
}

static int end_mount(void **state)
{
	if (fixture->holder) {
		kill(fixture->holder, SIGTERM);
		waitpid(fixture->holder, NULL, 0);
		fixture->holder = 0;
	}
	umount2(fixture->mnt, MNT_DETACH);
	write_conf(fixture->store);
	return 0;
}

static int body(struct fixture *f)
{
#define ONE(name) cmocka_unit_test_teardown(name, end_mount)
	const struct CMUnitTest tests[] = {
		ONE(wrong_usage), ONE(unknown_set), ONE(not_joined_yet), ONE(store_missing), ONE(store_not_writable), ONE(store_without_handles),
		ONE(mountpoint_missing_or_a_file), ONE(mountpoint_not_empty), ONE(mountpoint_busy), ONE(store_and_mountpoint_nested),
		ONE(damaged_files), ONE(second_instance), ONE(umount_ends_it), ONE(mounted_again_at_once), ONE(umount_of_the_full_mount_ends_it), ONE(ended_while_busy),
		ONE(bare_mountpoint_is_immutable), ONE(all_killed_then_started), ONE(all_killed_as_soon_as_mounted),
		ONE(check_survives_its_server), ONE(server_killed_at_the_end),
		ONE(server_killed_often_at_the_end), ONE(server_killed_after_the_end), ONE(starts_in_the_background), ONE(mount_options),
		ONE(pure_target_is_read_only), ONE(metadata_is_hidden), ONE(tells_the_service_manager),
		ONE(hanging_server_is_replaced), ONE(deaf_service_manager)};
#undef ONE
	fixture = f;
	return cmocka_run_group_tests_name("mount_errors", tests, NULL, NULL);
}

int main(void)
{
	return fixture_main(body);
}
