/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/story.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct lab *lab;

#define MUST(call) \
	do { \
		struct cdm_error err = CDM_ERROR_INIT; \
		if ((call) < 0) \
			fail_msg("%s (%s)", err.text, #call); \
	} while (0)

static void check(bool good, const char *what, const char *node, const char *path)
{
	if (!good)
		fail_msg("%s %s:%s: %s", what, node, path, strerror(errno));
}

/* -- what authors do --------------------------------------------------------------------------------------------- */

static void write_file(const char *node, const char *path, int flags, off_t offset, const void *bytes, size_t len)
{
	_cleanup_free_ char *full = lab_path(lab, node, path);
	int fd = open(full, flags | O_CLOEXEC, 0644);
	check(fd >= 0, "open", node, path);
	for (size_t done = 0; done < len;) {
		ssize_t n = flags & O_APPEND ? write(fd, (const char *)bytes + done, len - done) :
					       pwrite(fd, (const char *)bytes + done, len - done, offset + (off_t)done);
		check(n > 0, "write", node, path);
		done += (size_t)n;
	}
	check(close(fd) == 0, "close", node, path);
}

void save_bytes(const char *node, const char *path, const void *bytes, size_t len)
{
	write_file(node, path, O_WRONLY | O_CREAT | O_TRUNC, 0, bytes, len);
}

void save(const char *node, const char *path, const char *text)
{
	save_bytes(node, path, text, strlen(text));
}

void save_at(const char *node, const char *path, off_t offset, const char *text)
{
	write_file(node, path, O_WRONLY, offset, text, strlen(text));
}

void append(const char *node, const char *path, const char *text)
{
	write_file(node, path, O_WRONLY | O_APPEND, 0, text, strlen(text));
}

void make_directory(const char *node, const char *path)
{
	_cleanup_free_ char *full = lab_path(lab, node, path);
	check(mkdir(full, 0755) == 0, "mkdir", node, path);
}

void move(const char *node, const char *from, const char *to)
{
	_cleanup_free_ char *a = lab_path(lab, node, from), *b = lab_path(lab, node, to);
	check(rename(a, b) == 0, "rename", node, from);
}

void remove_file(const char *node, const char *path)
{
	_cleanup_free_ char *full = lab_path(lab, node, path);
	check(unlink(full) == 0, "unlink", node, path);
}

void remove_tree(const char *node, const char *path)
{
	_cleanup_free_ char *full = lab_path(lab, node, path);
	MUST(lab_remove_tree(full, &err));
}

static int shell_va(const char *node, char **ret_output, const char *fmt, va_list ap)
{
	_cleanup_free_ char *command = NULL;
	assert_true(vasprintf(&command, fmt, ap) >= 0);
	_cleanup_free_ char *line = NULL;
	assert_true(asprintf(&line, "cd '%s' && { %s\n}", lab_mount(lab, node), command) >= 0);
	int status = 0;
	MUST(lab_run(lab, node, (const char *const[]){"bash", "-c", line, NULL}, &status, ret_output, &err));
	return status;
}

int shell_status(const char *node, char **ret_output, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int status = shell_va(node, ret_output, fmt, ap);
	va_end(ap);
	return status;
}

void shell(const char *node, const char *fmt, ...)
{
	_cleanup_free_ char *output = NULL;
	va_list ap;
	va_start(ap, fmt);
	int status = shell_va(node, &output, fmt, ap);
	va_end(ap);
	if (status != 0)
		fail_msg("at %s `%s` ended with %d: %s", node, fmt, status, output);
}

/* -- what happens to the installation ---------------------------------------------------------------------------- */

void killed(const char *node, enum lab_program program)
{
	MUST(lab_kill9(lab, node, program, &err));
}

void started(const char *node, enum lab_program program)
{
	MUST(lab_start(lab, node, program, &err));
}

void node_killed(const char *node)
{
	MUST(lab_kill9_node(lab, node, &err));
}

void node_started(const char *node)
{
	MUST(lab_start_node(lab, node, &err));
}

void cut(const char *node)
{
	MUST(lab_cut(lab, node, &err));
}

void healed(const char *node)
{
	MUST(lab_heal(lab, node, &err));
}

void administrator(const char *first, ...)
{
	const char *words[31] = {first};
	va_list ap;
	va_start(ap, first);
	for (size_t i = 1; i < 30 && (words[i] = va_arg(ap, const char *)); i++)
		;
	va_end(ap);
	MUST(lab_cdmctl(lab, words, NULL, &err));
}

/* -- what must hold ---------------------------------------------------------------------------------------------- */

void in_sync(void)
{
	MUST(lab_wait_in_sync(lab, STORY_MS, &err));
}

static bool nothing_open(void *arg, char *seen)
{
	const char *node = arg;
	json_t *request = json_pack("{s:s,s:s}", "cmd", "status", "set", LAB_SET), *answer = NULL;
	MUST(lab_control(lab, node, request, STORY_MS, &answer, &err));
	json_t *open_files = json_object_get(answer, "open");
	_cleanup_free_ char *text = open_files ? json_dumps(open_files, 0) : NULL;
	snprintf(seen, 512, "open at %s: %.400s", node, text ?: "not told");
	bool nothing = json_array_size(open_files) == 0;
	json_decref(request);
	json_decref(answer);
	return nothing;
}

void all_rest(void)
{
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		MUST(lab_wait_for(nothing_open, (void *)lab_node_name(lab, i), STORY_MS, "no file open", &err));
}

static void same(const char *a, const char *b)
{
	struct cdm_error err = CDM_ERROR_INIT;
	char *differences = NULL;
	size_t len;
	FILE *out = open_memstream(&differences, &len);
	int r = lab_same_tree(a, b, out, &err);
	fclose(out);
	if (r != 0)
		fail_msg("%s and %s differ: %s%s", a, b, differences, err.text);
	free(differences);
}

void same_everywhere(void)
{
	const char *first = lab_node_name(lab, 0);
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		const char *node = lab_node_name(lab, i);
		if (i > 0)
			same(lab_mount(lab, first), lab_mount(lab, node));
		same(lab_mount(lab, node), lab_store(lab, node));
	}
}

void everywhere_equal_below(const char *path)
{
	in_sync();
	_cleanup_free_ char *first = lab_path(lab, lab_node_name(lab, 0), path);
	for (unsigned i = 1; i < lab_node_count(lab); i++) {
		_cleanup_free_ char *other = lab_path(lab, lab_node_name(lab, i), path);
		same(first, other);
	}
}

void everywhere_equal(void)
{
	in_sync();
	same_everywhere();
}

/* The first bytes of a file as text, or NULL. */
static char *text_of(const char *node, const char *path)
{
	_cleanup_free_ char *full = lab_path(lab, node, path);
	_cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC);
	char *text = fd >= 0 ? calloc(1, 1 << 16) : NULL;
	if (text && read(fd, text, (1 << 16) - 1) < 0) {
		free(text);
		return NULL;
	}
	return text;
}

void has_text(const char *node, const char *path, const char *text)
{
	_cleanup_free_ char *now = text_of(node, path);
	if (!now || strcmp(now, text) != 0)
		fail_msg("%s:%s holds %s instead of %s", node, path, now ?: "nothing (cannot be read)", text);
}

struct expectation {
	const char *node, *path, *text; /* text NULL: absent */
};

static bool fulfilled(void *arg, char *seen)
{
	struct expectation *e = arg;
	_cleanup_free_ char *now = text_of(e->node, e->path);
	snprintf(seen, 512, "%s:%s %s%.300s", e->node, e->path, now ? "holds " : strerror(errno), now ?: "");
	return e->text ? now && strcmp(now, e->text) == 0 : !exists(e->node, e->path);
}

void gets_text(const char *node, const char *path, const char *text)
{
	struct expectation e = {node, path, text};
	MUST(lab_wait_for(fulfilled, &e, STORY_MS, text, &err));
}

bool exists(const char *node, const char *path)
{
	_cleanup_free_ char *full = lab_path(lab, node, path);
	struct stat st;
	return lstat(full, &st) == 0;
}

void absent(const char *node, const char *path)
{
	if (exists(node, path))
		fail_msg("%s:%s is there", node, path);
}

void becomes_absent(const char *node, const char *path)
{
	struct expectation e = {node, path, NULL};
	MUST(lab_wait_for(fulfilled, &e, STORY_MS, "absent", &err));
}

static unsigned files_below(int dir_fd)
{
	unsigned count = 0;
	DIR *dir = fdopendir(dir_fd);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		struct stat st;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		int sub = S_ISDIR(st.st_mode) ? openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		count += sub >= 0 ? files_below(sub) : 1;
	}
	if (dir)
		closedir(dir);
	return count;
}

unsigned kept_files(const char *node, const char *state_directory)
{
	_cleanup_free_ char *rel = NULL;
	assert_true(asprintf(&rel, ".cdmfs/%s", state_directory) >= 0);
	_cleanup_free_ char *path = lab_store_path(lab, node, rel);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? files_below(fd) : 0;
}

int64_t counter(const char *node, const char *name)
{
	json_t *request = json_pack("{s:s}", "cmd", "stats"), *answer = NULL;
	MUST(lab_control(lab, node, request, STORY_MS, &answer, &err));
	json_decref(request);
	json_t *at = json_object_get(json_object_get(json_object_get(answer, "sets"), LAB_SET), name);
	if (!json_is_number(at)) {
		char *all = json_dumps(answer, 0);
		fail_msg("%s has no statistic %s: %s", node, name, all);
	}
	int64_t value = (int64_t)json_number_value(at);
	json_decref(answer);
	return value;
}

struct counted {
	const char *node, *name;
	int64_t least;
};

static bool has_counted(void *arg, char *seen)
{
	struct counted *c = arg;
	int64_t now = counter(c->node, c->name);
	snprintf(seen, 512, "%s %s is %lld", c->node, c->name, (long long)now);
	return now >= c->least;
}

void counts(const char *node, const char *name, int64_t least)
{
	struct counted c = {node, name, least};
	MUST(lab_wait_for(has_counted, &c, STORY_MS, "what a replicator counts", &err));
}

static bool succeeds(void *arg, char *seen)
{
	int status = shell_status("n1", NULL, "%s", (const char *)arg);
	snprintf(seen, 512, "%.400s: %s", (const char *)arg, status == 0 ? "yes" : "no");
	return status == 0;
}

void comes_about(const char *fmt, ...)
{
	char command[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(command, sizeof command, fmt, ap);
	va_end(ap);
	MUST(lab_wait_for(succeeds, command, STORY_MS, "this", &err));
}

int stat_wait(const char *node, const char *arguments, char **ret_output)
{
	return shell_status(node, ret_output, "cd / && cdmfs-stat " LAB_SET " --wait %s", arguments);
}

/* -- the program ------------------------------------------------------------------------------------------------- */

/* The programs' logs, to stderr: a lab that is not kept takes them with it. */
static void show_logs(void)
{
	_cleanup_free_ char *command = NULL, *output = NULL;
	fflush(NULL);
	if (asprintf(&command, "cd '%s/logs' && tail -n 60 -- *.log", lab_dir(lab)) >= 0 &&
		lab_run(lab, NULL, (const char *const[]){"bash", "-c", command, NULL}, &(int){0}, &output, NULL) == 0 && output)
		fprintf(stderr, "--- the last of the programs' logs:\n%s", output);
}

/* Programs must not have crashed, other than by the stories' own hand. */
static int logs_are_clean(void)
{
	_cleanup_free_ char *command = NULL, *output = NULL;
	int status = 0;
	if (asprintf(&command, "cd '%s/logs'; ls core* 2> /dev/null; grep -lE 'Sanitizer|Assertion .* failed|double free|corrupted size' -- *.log", lab_dir(lab)) < 0)
		return 1;
	lab_run(lab, NULL, (const char *const[]){"bash", "-c", command, NULL}, &status, &output, NULL);
	if (output && *output)
		fprintf(stderr, "a program crashed or wrote where it must not; see in %s/logs:\n%s", lab_dir(lab), output);
	return output && *output;
}

bool stories_alter;

/* Whatever came about, it is what its authors made. */
static int seals_are_whole(void)
{
	_cleanup_free_ char *command = NULL, *output = NULL;
	int status = 0;
	if (stories_alter)
		return 0;
	if (asprintf(&command, "cd '%s/logs'; grep 'event=seal_' -- *.log", lab_dir(lab)) < 0)
		return 1;
	lab_run(lab, NULL, (const char *const[]){"bash", "-c", command, NULL}, &status, &output, NULL);
	if (output && *output)
		fprintf(stderr, "a node has not what an author signed:\n%s", output);
	return output && *output;
}

/* A process that ends the lab if this one dies before it could (a time-out of the test runner, a crash). Returns the end of a pipe
 * to be written to when all is done. */
static int start_guardian(const char *dir)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	fflush(NULL);
	pid_t pid = fork();
	if (pid != 0) {
		close(ends[0]);
		return ends[1];
	}
	char byte;
	struct lab *left = NULL;
	setsid(); /* what ends the test's process group does not end us */
	close(ends[1]);
	for (int fd = 0; fd < 3; fd++) /* whoever reads the test's output must not wait for us */
		close(fd);
	if (read(ends[0], &byte, 1) == 1 || lab_open(dir, true, &left, NULL) < 0)
		_exit(0);
	lab_down(left, NULL);
	if (!getenv("CDMFS_TEST_KEEP"))
		lab_remove(left, NULL);
	_exit(0);
}

int story_tell(const char *name, struct lab_options options, const struct CMUnitTest stories[], size_t count)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0) {
		fprintf(stderr, "skipped: %s\n", geteuid() != 0 ? "needs root" : "no /dev/fuse");
		return 77;
	}
	_cleanup_free_ char *dir = lab_scratch_dir(name, &err);
	options.dir = dir;
	_cleanup_close_ int guardian = dir ? start_guardian(dir) : -1;
	if (!dir || lab_up(&options, &lab, &err) < 0) {
		cdm_error_print(name, &err);
		if (dir && !getenv("CDMFS_TEST_KEEP"))
			lab_remove_tree(dir, NULL);
		return 1;
	}
	if (getenv("CDMFS_TEST_ONLY"))
		cmocka_set_test_filter(getenv("CDMFS_TEST_ONLY"));
	const char *skip = getenv("CDMFS_TEST_SKIP");
	if (skip && *skip)
		cmocka_set_skip_filter(skip);
	int failed = _cmocka_run_group_tests(name, stories, count, NULL, NULL);
	failed += logs_are_clean() + seals_are_whole();
	if (failed)
		show_logs();
	if (lab_down(lab, &err) < 0 || (!(failed && getenv("CDMFS_TEST_KEEP")) && lab_remove(lab, &err) < 0)) {
		cdm_error_print(name, &err);
		failed++;
	}
	lab_close(&lab);
	if (write(guardian, "", 1) < 0)
		perror("guardian");
	return failed ? 1 : 0;
}
