/* SPDX-License-Identifier: Apache-2.0 */
/* lab_nodes.c — the programs of a lab: set up, join, start, signal. */
#include "tests/lab/lab_private.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "common/io.h"
#include "common/loop.h"

const char *const lab_program_names[LAB_PROGRAMS] = {"cdmfs-holder", "cdmfs", "cdmfs-watcher", "replicator", "master"};

enum lab_program lab_program_find(const char *name)
{
	enum lab_program p = 0;
	while (p < LAB_PROGRAMS && strcmp(name, lab_program_names[p]) != 0)
		p++;
	return p;
}

/* -- the master -------------------------------------------------------------------------------------------------- */

static char *master_host(const struct lab *lab)
{
	return lab->netns ? lab_format("10.%u.%u.254", lab->subnet >> 8, lab->subnet & 255) : lab_format("127.0.0.1");
}

static int read_endpoints(struct lab *lab, struct cdm_error *err)
{
	_cleanup_free_ char *text = NULL, *token = NULL;
	size_t len, token_len;
	int r = cdm_read_file(lab->dir_fd, "master/endpoints.json", 65536, &text, &len, err);
	if (r == 0)
		r = cdm_read_file(lab->dir_fd, "master/admin.token", 65536, &token, &token_len, err);
	if (r == 0)
		r = cdm_replace_file(lab->dir_fd, "admin.token", token, token_len, 0600, err);
	if (r < 0)
		return r;
	json_t *j = json_loadb(text, len, 0, NULL);
	const char *api = json_string_value(json_object_get(j, "api")), *agents = json_string_value(json_object_get(j, "agents"));
	if (api && agents) {
		free(lab->url);
		free(lab->agents);
		lab->url = lab_format("%s", api);
		lab->agents = lab_format("%s", agents);
	} else {
		r = cdm_fail_plain(err, EINVAL, "%s/master/endpoints.json does not name api and agents", lab->dir);
	}
	json_decref(j);
	return r;
}

int lab_master_start(struct lab *lab, struct cdm_error *err)
{
	_cleanup_free_ char *path = lab_program_path(lab, "master", "cdm-master"), *dir = lab_format("%s/master", lab->dir);
	_cleanup_free_ char *host = master_host(lab), *netns = lab->netns ? lab_netns_name(lab, "master") : NULL;
	_cleanup_free_ char *api = lab_format("%s:%u", host, lab->api_port), *agents = lab_format("%s:%u", host, lab->agent_port);
	const char *const argv[] = {path, "--dir", dir, "--listen-api", api, "--listen-agents", agents, "--advertise", host,
		lab->certificate_life ? "--certificate-life" : NULL, lab->certificate_life, NULL};
	struct lab_spawn spawn = {.name = "master", .argv = argv, .netns = netns, .wait_ready = true};
	int r = lab_spawn_start(lab, &spawn, err);
	if (r == 0)
		r = lab_spawn_wait(lab, &spawn, LAB_READY_MS, err);
	lab->master = r == 0 ? spawn.process : (struct lab_process){0};
	if (r == 0)
		r = read_endpoints(lab, err);
	return r < 0 ? r : lab_state_save(lab, err);
}

/* cdmctl with the given words, as the administrator, where the master is. */
int lab_cdmctl(struct lab *lab, const char *const words[], char **ret_output, struct cdm_error *err)
{
	_cleanup_free_ char *path = lab_program_path(lab, "master", "cdmctl"), *netns = lab->netns ? lab_netns_name(lab, "master") : NULL;
	const char *argv[32] = {path};
	for (size_t i = 0; i < 30 && words[i]; i++)
		argv[i + 1] = words[i];
	return lab_tool_ok(lab, NULL, netns, argv, NULL, ret_output, err);
}

int lab_install(struct lab *lab, struct cdm_error *err)
{
	int r = 0;
	for (unsigned i = 1; r == 0 && i <= lab->regions; i++) {
		_cleanup_free_ char *region = lab_format("r%u", i);
		r = lab_cdmctl(lab, (const char *const[]){"region", "add", region, NULL}, NULL, err);
	}
	for (unsigned i = 1; r == 0 && i <= lab->groups; i++) {
		_cleanup_free_ char *group = lab_format("g%u", i), *region = lab_format("r%u", (i - 1) % lab->regions + 1);
		r = lab_cdmctl(lab, (const char *const[]){"group", "add", group, "--region", region, NULL}, NULL, err);
	}
	return r;
}

/* Add `option part` to words for each part of a list with commas; `copy` owns the parts. */
static size_t add_list(const char **words, size_t count, size_t room, const char *option, char *copy)
{
	for (char *part; copy && (part = strsep(&copy, ",")) && count + 2 < room;) {
		words[count++] = option;
		words[count++] = part;
	}
	return count;
}

int lab_install_set(struct lab *lab, const struct lab_options *o, struct cdm_error *err)
{
	const char *words[30] = {"set", "add", LAB_SET, "--both", o->sources ?: "@all"};
	_cleanup_free_ char *exclude = o->exclude ? lab_format("%s", o->exclude) : NULL;
	_cleanup_free_ char *local = o->local ? lab_format("%s", o->local) : NULL;
	size_t count = 5;
	if (o->sources) {
		words[count++] = "--target";
		words[count++] = "@all";
	}
	count = add_list(words, count, 30, "--exclude", exclude);
	count = add_list(words, count, 30, "--local", local);
	return lab_cdmctl(lab, words, NULL, err);
}

/* -- joining ----------------------------------------------------------------------------------------------------- */

static int node_files(struct lab *lab, const struct lab_node *node, struct cdm_error *err)
{
	static const char *const folders[] = {"", "/state", "/run", "/store", "/mnt"};
	for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
		_cleanup_free_ char *path = lab_format("%s%s", node->dir, folders[i]);
		if (mkdir(path, i == 1 ? 0700 : 0755) < 0 && errno != EEXIST)
			return cdm_fail(err, errno, "create %s", path);
	}
	_cleanup_free_ char *conf = lab_format("[node]\nstate = %s/state\nrun = %s/run\nlisten = %s:%u\nadvertise = %s:%u\n"
					       "[set " LAB_SET "]\nstore = %s\nmountpoint = %s\n%s%s%s",
		node->dir, node->dir, node->addr, node->port, node->addr, node->port, node->store, node->mount,
		lab->journal ? "journal = " : "", lab->journal ?: "", lab->journal ? "\n" : "");
	_cleanup_close_ int fd = open(node->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return cdm_fail(err, errno, "open %s", node->dir);
	return cdm_replace_file(fd, "node.conf", conf, strlen(conf), 0644, err);
}

/* A join token for a group, good for `uses` nodes; the caller frees. */
static int make_token(struct lab *lab, const char *group, unsigned uses, char **ret, struct cdm_error *err)
{
	_cleanup_free_ char *count = lab_format("%u", uses), *output = NULL;
	const char *const words[] = {"node", "token", "--group", group, "--role", "both", "--ttl", "1h", "--uses", count, "--json", NULL};
	int r = lab_cdmctl(lab, words, &output, err);
	if (r < 0)
		return r;
	json_t *j = json_loads(output, 0, NULL);
	const char *token = json_string_value(json_object_get(j, "token"));
	if (token)
		*ret = lab_format("%s", token);
	else
		r = cdm_fail_plain(err, EINVAL, "cdmctl node token gave no token: %s", output);
	json_decref(j);
	return r;
}

static int join_begin(struct lab *lab, const struct lab_node *node, const char *token, struct lab_spawn *spawn, struct cdm_error *err)
{
	_cleanup_free_ char *path = lab_program_path(lab, "replicator", "cdm-replicator");
	const char *const argv[] = {path, "join", lab->agents, "--token", token, "--name", node->name, NULL};
	*spawn = (struct lab_spawn){.argv = argv, .netns = node->netns, .node = node};
	snprintf(spawn->name, sizeof spawn->name, "%s-join", node->name);
	return lab_spawn_start(lab, spawn, err);
}

/* The token of the node's group: an earlier node's, or a new one. */
static int token_for(struct lab *lab, unsigned from, unsigned i, char **tokens, struct cdm_error *err)
{
	for (unsigned k = from; k < i; k++)
		if (strcmp(lab->nodes[k]->group, lab->nodes[i]->group) == 0) {
			tokens[i] = lab_format("%s", tokens[k]);
			return 0;
		}
	return make_token(lab, lab->nodes[i]->group, lab->node_count - from, &tokens[i], err);
}

int lab_nodes_join(struct lab *lab, unsigned from, struct cdm_error *err)
{
	struct lab_spawn spawns[LAB_NODES_MAX];
	char *tokens[LAB_NODES_MAX] = {NULL};
	unsigned begun = from;
	int r = 0;
	for (unsigned i = from; r == 0 && i < lab->node_count; i++) {
		r = node_files(lab, lab->nodes[i], err);
		if (r == 0)
			r = token_for(lab, from, i, tokens, err);
		if (r == 0)
			r = join_begin(lab, lab->nodes[i], tokens[i], &spawns[i], err);
		begun += r == 0;
	}
	for (unsigned i = from; i < begun; i++) {
		int e = lab_spawn_wait(lab, &spawns[i], LAB_READY_MS, r == 0 ? err : NULL);
		if (e < 0 && r == 0)
			r = e;
	}
	for (unsigned i = from; i < lab->node_count; i++)
		free(tokens[i]);
	return r;
}

/* -- a node's programs ------------------------------------------------------------------------------------------- */

static int replicator_begin(struct lab *lab, struct lab_node *node, struct lab_spawn *spawn, struct cdm_error *err)
{
	_cleanup_free_ char *path = lab_program_path(lab, "replicator", "cdm-replicator");
	const char *const argv[] = {path, NULL};
	*spawn = (struct lab_spawn){.argv = argv, .netns = node->netns, .node = node, .wait_ready = true};
	snprintf(spawn->name, sizeof spawn->name, "%s-replicator", node->name);
	return lab_spawn_start(lab, spawn, err);
}

static int holder_begin(struct lab *lab, struct lab_node *node, struct lab_spawn *spawn, struct cdm_error *err)
{
	_cleanup_free_ char *path = lab_program_path(lab, "cdmfs", "cdmfs");
	const char *const argv[] = {path, LAB_SET, node->mount, NULL};
	*spawn = (struct lab_spawn){.argv = argv, .netns = node->netns, .node = node, .wait_ready = true};
	snprintf(spawn->name, sizeof spawn->name, "%s-cdmfs", node->name);
	return lab_spawn_start(lab, spawn, err);
}

static int holder_finish(struct lab *lab, struct lab_node *node, struct lab_spawn *spawn, struct cdm_error *err)
{
	int r = lab_spawn_wait(lab, spawn, LAB_READY_MS, err);
	node->holder = spawn->process;
	return r;
}

static int replicator_finish(struct lab *lab, struct lab_node *node, struct lab_spawn *spawn, struct cdm_error *err)
{
	int r = lab_spawn_wait(lab, spawn, LAB_READY_MS, err);
	node->replicator = spawn->process;
	return r;
}

int lab_nodes_start(struct lab *lab, unsigned from, struct cdm_error *err)
{
	struct lab_spawn holders[LAB_NODES_MAX], replicators[LAB_NODES_MAX];
	unsigned begun_holders = from, begun_replicators = from;
	int r = 0;
	for (unsigned i = from; r == 0 && i < lab->node_count; i++) {
		r = replicator_begin(lab, lab->nodes[i], &replicators[i], err);
		begun_replicators += r == 0;
		if (r == 0)
			r = holder_begin(lab, lab->nodes[i], &holders[i], err);
		begun_holders += r == 0;
	}
	for (unsigned i = from; i < begun_replicators; i++) {
		int e = replicator_finish(lab, lab->nodes[i], &replicators[i], r == 0 ? err : NULL);
		r = r < 0 ? r : e;
	}
	for (unsigned i = from; i < begun_holders; i++) {
		int e = holder_finish(lab, lab->nodes[i], &holders[i], r == 0 ? err : NULL);
		r = r < 0 ? r : e;
	}
	return r < 0 ? r : lab_state_save(lab, err);
}

/* -- which process ----------------------------------------------------------------------------------------------- */

#define EXEC_MS 1000

/* A process that is just becoming another program shows no environment for a moment. */
static bool is_child_of_lab(const struct lab *lab, pid_t pid)
{
	struct lab_process p = {0};
	int64_t deadline = cdm_now_ms() + EXEC_MS;
	while (!lab_process_is_of_lab(lab, pid)) {
		if (lab_process_of(pid, &p) < 0 || cdm_now_ms() >= deadline)
			return false;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return true;
}

/* The server's or watcher's pid as the holder wrote it; the process must be of this lab, for numbers are used again. */
static pid_t child_pid(struct lab *lab, const struct lab_node *node, const char *key)
{
	_cleanup_free_ char *path = lab_format("%s/pids", node->run_set), *text = NULL;
	size_t len;
	if (cdm_read_file(AT_FDCWD, path, 65536, &text, &len, NULL) < 0)
		return 0;
	json_t *j = json_loadb(text, len, 0, NULL);
	struct lab_process p = {0};
	pid_t pid = (pid_t)json_integer_value(json_object_get(j, key));
	json_decref(j);
	return pid > 0 && lab_process_of(pid, &p) == 0 && is_child_of_lab(lab, pid) ? pid : 0;
}

pid_t lab_pid(struct lab *lab, const char *node_name, enum lab_program program)
{
	if (program == LAB_MASTER)
		return lab_process_lives(&lab->master) ? lab->master.pid : 0;
	const struct lab_node *node = lab_node_find(lab, node_name, NULL);
	if (!node)
		return 0;
	switch (program) {
	case LAB_HOLDER:
		return lab_process_lives(&node->holder) ? node->holder.pid : 0;
	case LAB_REPLICATOR:
		return lab_process_lives(&node->replicator) ? node->replicator.pid : 0;
	case LAB_SERVER:
		return child_pid(lab, node, "server");
	default:
		return child_pid(lab, node, "watcher");
	}
}

static bool ends_process(int signal)
{
	return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGQUIT || signal == SIGABRT || signal == SIGSEGV;
}

int lab_kill(struct lab *lab, const char *node, enum lab_program program, int signal, pid_t *ret_pid, struct cdm_error *err)
{
	if (program != LAB_MASTER && !lab_node_find(lab, node, err))
		return -ENOENT;
	pid_t pid = lab_pid(lab, node, program);
	struct lab_process process;
	const char *owner = program == LAB_MASTER ? "" : node, *gap = *owner ? " " : "";
	if (pid == 0 || lab_process_of(pid, &process) < 0)
		return cdm_fail_plain(err, ESRCH, "%s%s%s does not run", owner, gap, lab_program_names[program]);
	if (kill(pid, signal) < 0)
		return cdm_fail(err, errno, "signal %s%s%s", owner, gap, lab_program_names[program]);
	if (ends_process(signal) && !lab_process_wait(&process, LAB_READY_MS))
		return cdm_fail_plain(err, ETIMEDOUT, "%s%s%s (pid %d) does not end", owner, gap, lab_program_names[program], (int)pid);
	if (ret_pid)
		*ret_pid = pid;
	return 0;
}

int lab_kill9(struct lab *lab, const char *node, enum lab_program program, struct cdm_error *err)
{
	return lab_kill(lab, node, program, SIGKILL, NULL, err);
}

int lab_kill9_node(struct lab *lab, const char *node, struct cdm_error *err)
{
	int r = lab_node_find(lab, node, err) ? 0 : -ENOENT;
	for (enum lab_program p = LAB_HOLDER; r == 0 && p <= LAB_REPLICATOR; p++) {
		r = lab_pid(lab, node, p) ? lab_kill9(lab, node, p, err) : 0;
		if (r == -ESRCH) /* it went by itself when the one before was gone */
			r = 0;
	}
	return r;
}

struct child_wait {
	struct lab *lab;
	const char *node;
	enum lab_program program;
};

static bool child_runs(void *arg, char *seen)
{
	struct child_wait *w = arg;
	pid_t pid = lab_pid(w->lab, w->node, w->program);
	snprintf(seen, 512, "%s runs: %s", lab_program_names[w->program], pid ? "yes" : "no");
	return pid != 0;
}

static int start_holder(struct lab *lab, struct lab_node *node, struct cdm_error *err)
{
	struct lab_spawn spawn;
	int r = holder_begin(lab, node, &spawn, err);
	return r < 0 ? r : holder_finish(lab, node, &spawn, err);
}

static int start_replicator(struct lab *lab, struct lab_node *node, struct cdm_error *err)
{
	struct lab_spawn spawn;
	int r = replicator_begin(lab, node, &spawn, err);
	return r < 0 ? r : replicator_finish(lab, node, &spawn, err);
}

int lab_start(struct lab *lab, const char *node_name, enum lab_program program, struct cdm_error *err)
{
	if (program == LAB_MASTER)
		return lab_pid(lab, NULL, LAB_MASTER) ? 0 : lab_master_start(lab, err);
	struct lab_node *node = lab_node_find(lab, node_name, err);
	if (!node)
		return -ENOENT;
	int r = 0;
	if (program == LAB_REPLICATOR) {
		if (!lab_pid(lab, node_name, LAB_REPLICATOR))
			r = start_replicator(lab, node, err);
	} else {
		if (!lab_pid(lab, node_name, LAB_HOLDER))
			r = start_holder(lab, node, err);
		struct child_wait w = {lab, node_name, program};
		if (r == 0 && program != LAB_HOLDER)
			r = lab_wait_for(child_runs, &w, LAB_READY_MS, "the holder starts it again", err);
	}
	return r < 0 ? r : lab_state_save(lab, err);
}

int lab_start_node(struct lab *lab, const char *node, struct cdm_error *err)
{
	int r = 0;
	for (enum lab_program p = LAB_HOLDER; r == 0 && p <= LAB_REPLICATOR; p++)
		r = lab_start(lab, node, p, err);
	return r;
}
