/* SPDX-License-Identifier: Apache-2.0 */
/* 340_crash_points — replicators die at each named point of receiving, staging, publishing and checkpoints, again and again, while authors work, and
 * servers amid what a replicator publishes: nothing is lost, nothing is done twice, all end equal. (The mount's other points: 014, the journal's:
 * test_journal_kill.) */
#include "tests/cluster/story.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEATHS 3

static char point_file[64];

static void arm(const char *point, int pass)
{
	char temporary[80], text[64];
	snprintf(temporary, sizeof temporary, "%s.new", point_file);
	snprintf(text, sizeof text, "%s:%d", point, pass);
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && write(fd, text, strlen(text)) > 0 && close(fd) == 0 && rename(temporary, point_file) == 0);
}

/* One of each kind of change, at n1 and n2; the conflict is for both to save one name. */
static void work(const char *dir)
{
	shell("n1", "mkdir -p %s && cd %s && mkdir -p sub/deep && for i in 1 2 3 4 5; do echo $i > file-$i; done && head -c 300k /dev/urandom > large && "
		    "ln file-1 other-name && ln -sfn file-2 link && chmod 600 file-3 && echo more >> file-4 && mv file-5 sub/moved && rm file-2 && "
		    "mv sub sub-renamed && touch -d 2020-01-01 file-1 && mkfifo fifo && setfattr -n user.x -v y file-3", dir, dir);
	save("n1", "both", dir);
	save("n2", "both", "by n2");
	shell("n1", "echo a line >> log");
}

/* Authors go on until somebody is dead: some points are passed only now and then. */
static bool has_died(void *arg, char *seen)
{
	bool all_run = true;
	shell("n1", "date +%%N >> log");
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		all_run &= lab_pid(lab, lab_node_name(lab, i), LAB_REPLICATOR) != 0;
	snprintf(seen, 512, "%s %s", access(point_file, F_OK) == 0 ? "nobody has come to" : "nobody is dead who came to", (const char *)arg);
	return !all_run;
}

static void all_run_again(void)
{
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		started(lab_node_name(lab, i), LAB_REPLICATOR);
}

static void die_at(const char *point)
{
	struct cdm_error err = CDM_ERROR_INIT;
	for (int death = 1; death <= DEATHS; death++) {
		char dir[80];
		snprintf(dir, sizeof dir, "%s-%d", point, death);
		arm(point, death);
		work(dir);
		if (lab_wait_for(has_died, (void *)point, STORY_MS, "the death of a replicator", &err) < 0)
			fail_msg("%s", err.text);
		work("meanwhile");
		shell("n1", "rm -rf meanwhile");
		all_run_again();
		everywhere_equal();
	}
}

static bool has_come(void *arg, char *seen)
{
	snprintf(seen, 512, "no server has come to %s", (const char *)arg);
	return access(point_file, F_OK) < 0;
}

/* Its holder starts it again. Nothing comes after it that would tell of that directory once more. */
static void before_a_directory_has_its_time(void **state)
{
	static const char *const changes[] = {"mkdir new", "rmdir old", "rm file", "mv file moved", "mv file old/", "mv file over", "ln file linked",
		"ln -s file link", "echo x > saved", "mkdir new && echo x > new/file"};
	struct cdm_error err = CDM_ERROR_INIT;
	char point[] = "act.done_not_dated";
	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
		shell("n1", "mkdir -p time-%zu/old && cd time-%zu && echo x > file && echo y > over", i, i);
		in_sync();
		arm(point, 1);
		shell("n1", "cd time-%zu && %s", i, changes[i]);
		if (lab_wait_for(has_come, point, STORY_MS, "the death of a server", &err) < 0)
			fail_msg("%s: %s", changes[i], err.text);
		everywhere_equal();
	}
}

/* What is written there afterwards is a change of that name, and what is written to the file that had it before is none. */
static void before_a_published_file_has_its_name(void **state)
{
	static const char *const changes[] = {"echo new > page", "echo newer > page", "mkdir deep && echo deep > deep/page"};
	struct cdm_error err = CDM_ERROR_INIT;
	char point[] = "rename.done_not_noted";
	shell("n1", "mkdir named && echo old > named/page");
	everywhere_equal();
	for (size_t i = 0; i < 3; i++) {
		int held[2];
		for (unsigned k = 0; k < 2; k++) {
			_cleanup_free_ char *replaced = lab_path(lab, k ? "n3" : "n2", "named/page");
			assert_true((held[k] = open(replaced, O_WRONLY | O_APPEND | O_CLOEXEC)) >= 0);
		}
		arm(point, 1);
		shell("n1", "cd named && %s", changes[i]);
		if (lab_wait_for(has_come, point, STORY_MS, "the death of a server", &err) < 0)
			fail_msg("%s: %s", changes[i], err.text);
		everywhere_equal();
		for (unsigned k = 0; k < 2 && i < 2; k++)
			assert_int_equal(write(held[k], "late", 4), 4);
		for (unsigned k = 0; k < 2; k++)
			close(held[k]);
		everywhere_equal();
		has_text("n1", "named/page", i ? "newer\n" : "new\n");
		for (unsigned k = 0; k < lab_node_count(lab); k++) {
			const char *node = lab_node_name(lab, k), *page = i < 2 ? "named/page" : "named/deep/page";
			shell(node, "echo by %s > %s", node, page);
			everywhere_equal();
		}
		shell("n1", "echo newer > named/page");
		everywhere_equal();
	}
}

static void before_a_batch_is_applied(void **state) { die_at("receive.batch_whole_not_applied"); }
static void before_what_is_staged_is_published(void **state) { die_at("stage.made_not_published"); }
static void before_a_call_that_is_announced(void **state) { die_at("publish.announced_not_called"); }
static void after_a_call_that_was_announced(void **state) { die_at("publish.called_not_counted"); }
static void before_the_mark_of_a_checkpoint(void **state) { die_at("durable.synced_not_marked"); }

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(before_a_batch_is_applied),
		cmocka_unit_test(before_what_is_staged_is_published),
		cmocka_unit_test(before_a_call_that_is_announced),
		cmocka_unit_test(after_a_call_that_was_announced),
		cmocka_unit_test(before_the_mark_of_a_checkpoint),
		cmocka_unit_test(before_a_directory_has_its_time),
		cmocka_unit_test(before_a_published_file_has_its_name),
	};
	snprintf(point_file, sizeof point_file, "/tmp/cdmfs-crash-point-%d", getpid());
	setenv("CDMFS_FAULTPOINT_FILE", point_file, 1);
	int status = STORIES("points", ((struct lab_options){.nodes = 3}), stories);
	unlink(point_file);
	return status;
}
