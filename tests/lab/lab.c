/* SPDX-License-Identifier: Apache-2.0 */
/* lab.c — a lab as a whole: make, open, bring up, look at. */
#include "tests/lab/lab_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"
#include "common/loop.h"

char *lab_format(const char *fmt, ...)
{
	va_list ap;
	char *text;
	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		abort(); /* no memory for a name: nothing sensible is left to do in a test tool */
	return text;
}

/* -- the parts --------------------------------------------------------------------------------------------------- */

static uint32_t hash_of(const char *text)
{
	uint32_t hash = 2166136261u;
	for (; *text; text++)
		hash = (hash ^ (uint8_t)*text) * 16777619u;
	return hash;
}

/* The build directory this program runs from (…/tests/lab/lab, …/tests/cluster/100_…), or "". */
static char *find_build(void)
{
	const char *given = getenv("CDMFS_BUILD");
	if (given)
		return lab_format("%s", given);
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	for (int up = 0; n > 0 && up < 3; up++)
		while (n > 0 && path[--n] != '/')
			;
	path[n > 0 ? n : 0] = 0;
	_cleanup_free_ char *probe = lab_format("%s/tests/lab", path);
	return lab_format("%s", access(probe, F_OK) == 0 ? path : "");
}

char *lab_program_path(const struct lab *lab, const char *folder, const char *program)
{
	return *lab->build ? lab_format("%s/%s/%s", lab->build, folder, program) : lab_format("%s", program);
}

static struct lab *lab_new(const char *canonical_dir)
{
	struct lab *lab = calloc(1, sizeof *lab);
	if (!lab)
		abort();
	uint32_t hash = hash_of(canonical_dir);
	lab->dir = lab_format("%s", canonical_dir);
	lab->tag = lab_format("cdm-%08x", hash);
	lab->build = find_build();
	lab->dir_fd = -1;
	lab->subnet = hash % 65536;
	return lab;
}

static void node_free(struct lab_node *node)
{
	free(node->name);
	free(node->group);
	free(node->dir);
	free(node->mount);
	free(node->store);
	free(node->run_set);
	free(node->netns);
	free(node->addr);
	free(node->rate);
	free(node);
}

void lab_close(struct lab **lab)
{
	struct lab *l = *lab;
	if (!l)
		return;
	for (unsigned i = 0; i < l->node_count; i++)
		node_free(l->nodes[i]);
	cdm_cleanup_close(&l->dir_fd);
	free(l->dir);
	free(l->tag);
	free(l->build);
	free(l->rate);
	free(l->journal);
	free(l->certificate_life);
	free(l->url);
	free(l->agents);
	free(l);
	*lab = NULL;
}

struct lab_node *lab_node_new(struct lab *lab, unsigned index, const char *group)
{
	struct lab_node *node = calloc(1, sizeof *node);
	if (!node)
		abort();
	node->index = index;
	node->name = lab_format("n%u", index);
	node->group = lab_format("%s", group);
	node->dir = lab_format("%s/%s", lab->dir, node->name);
	node->mount = lab_format("%s/mnt", node->dir);
	node->store = lab_format("%s/store", node->dir);
	node->run_set = lab_format("%s/run/" LAB_SET, node->dir);
	node->rate = lab->rate ? lab_format("%s", lab->rate) : NULL;
	node->netns = lab->netns ? lab_netns_name(lab, node->name) : NULL;
	node->addr = lab->netns ? lab_format("10.%u.%u.%u", lab->subnet >> 8, lab->subnet & 255, index) : lab_format("127.0.0.1");
	lab->nodes[lab->node_count++] = node;
	return node;
}

struct lab_node *lab_node_find(struct lab *lab, const char *name, struct cdm_error *err)
{
	for (unsigned i = 0; i < lab->node_count; i++)
		if (strcmp(lab->nodes[i]->name, name) == 0)
			return lab->nodes[i];
	cdm_fail_plain(err, ENOENT, "no node %s in this lab", name);
	cdm_hint(err, "its nodes are n1 to n%u", lab->node_count);
	return NULL;
}

unsigned lab_node_count(const struct lab *lab)
{
	return lab->node_count;
}

const char *lab_node_name(const struct lab *lab, unsigned index)
{
	return index < lab->node_count ? lab->nodes[index]->name : NULL;
}

const char *lab_dir(const struct lab *lab)
{
	return lab->dir;
}

static const struct lab_node *node_of(const struct lab *lab, const char *name)
{
	return lab_node_find((struct lab *)lab, name, NULL);
}

const char *lab_mount(const struct lab *lab, const char *node)
{
	return node_of(lab, node)->mount;
}

const char *lab_store(const struct lab *lab, const char *node)
{
	return node_of(lab, node)->store;
}

const char *lab_run_dir(const struct lab *lab, const char *node)
{
	return node_of(lab, node)->run_set;
}

char *lab_path(const struct lab *lab, const char *node, const char *rel)
{
	return lab_format("%s/%s", lab_mount(lab, node), rel);
}

char *lab_store_path(const struct lab *lab, const char *node, const char *rel)
{
	return lab_format("%s/%s", lab_store(lab, node), rel);
}

/* -- opening ----------------------------------------------------------------------------------------------------- */

/* Open D and take its lock; a lab object without state yet. */
static int lab_attach(const char *dir, bool change, struct lab **ret, struct cdm_error *err)
{
	char canonical[PATH_MAX];
	if (!realpath(dir, canonical))
		return cdm_fail(err, errno, "open %s", dir);
	struct lab *lab = lab_new(canonical);
	lab->dir_fd = open(canonical, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = lab->dir_fd < 0 ? cdm_fail(err, errno, "open %s", canonical) : 0;
	if (r == 0 && change && flock(lab->dir_fd, LOCK_EX) < 0)
		r = cdm_fail(err, errno, "lock %s", canonical);
	if (r < 0)
		lab_close(&lab);
	*ret = lab;
	return r;
}

int lab_open(const char *dir, bool change, struct lab **ret, struct cdm_error *err)
{
	if (geteuid() != 0)
		return cdm_fail_plain(err, EPERM, "a lab mounts filesystems: run this as root");
	*ret = NULL;
	int r = lab_attach(dir, change, ret, err);
	if (r < 0 && r != -ENOENT)
		return r;
	if (r < 0 || faccessat((*ret)->dir_fd, "lab.json", F_OK, 0) < 0) {
		lab_close(ret);
		cdm_fail_plain(err, ENOENT, "%s holds no lab", dir);
		cdm_hint(err, "`lab up --dir %s` makes one", dir);
		return -ENOENT;
	}
	r = lab_state_load(*ret, err);
	if (r < 0)
		lab_close(ret);
	return r;
}

/* -- bringing up ------------------------------------------------------------------------------------------------- */

int lab_check_filesystem(const char *dir, struct cdm_error *err)
{
	struct {
		struct file_handle handle;
		unsigned char bytes[MAX_HANDLE_SZ];
	} handle = {.handle.handle_bytes = MAX_HANDLE_SZ};
	int mount_id;
	int r = 0;
	if (setxattr(dir, "trusted.cdmfs.probe", "1", 1, 0) < 0 || removexattr(dir, "trusted.cdmfs.probe") < 0)
		r = cdm_fail(err, errno, "the filesystem of %s keeps no trusted extended attributes", dir);
	else if (name_to_handle_at(AT_FDCWD, dir, &handle.handle, &mount_id, 0) < 0)
		r = cdm_fail(err, errno, "the filesystem of %s gives no file handles", dir);
	if (r < 0)
		cdm_hint(err, "choose a directory on ext4, xfs or btrfs");
	return r;
}

static int check_machine(const struct lab_options *o, struct cdm_error *err)
{
	if (geteuid() != 0)
		return cdm_fail_plain(err, EPERM, "a lab mounts filesystems: run this as root");
	if (access("/dev/fuse", R_OK | W_OK) < 0) {
		cdm_fail(err, errno, "/dev/fuse");
		cdm_hint(err, "load the kernel's module fuse (modprobe fuse); in a container it must be passed in");
		return -ENOENT;
	}
	if (o->netns) {
		int r = lab_net_check(err);
		if (r < 0)
			return r;
	}
	if (o->delay_us > 0 && access("/dev/net/tun", R_OK | W_OK) < 0)
		return cdm_fail(err, errno, "--delay needs /dev/net/tun");
	return 0;
}

static int check_options(const struct lab_options *o, struct cdm_error *err)
{
	uint64_t bits;
	if (o->nodes < 1 || o->nodes > LAB_NODES_MAX)
		return cdm_fail_plain(err, EINVAL, "a lab has 1 to %d nodes, not %u", LAB_NODES_MAX, o->nodes);
	if (o->groups > o->nodes || o->regions > (o->groups > 1 ? o->groups : 1))
		return cdm_fail_plain(err, EINVAL, "%u nodes in %u groups in %u regions: no more groups than nodes, no more regions than groups",
			o->nodes, o->groups, o->regions);
	if ((o->rate || o->delay_us) && !o->netns)
		return cdm_fail_plain(err, EINVAL, "--rate and --delay need --netns: only there each node has a link of its own");
	return o->rate ? lab_rate_parse(o->rate, &bits, err) : 0;
}

static bool directory_empty(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	bool empty = dir != NULL;
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		empty &= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || strcmp(entry->d_name, "lost+found") == 0;
	if (dir)
		closedir(dir);
	return empty;
}

static bool port_free(unsigned port)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	return fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
}

static bool port_used_by_us(const struct lab *lab, unsigned port)
{
	bool used = port == lab->api_port || port == lab->agent_port;
	for (unsigned i = 0; i < lab->node_count; i++)
		used |= lab->nodes[i]->port == port;
	return used;
}

/* Below the range that the kernel gives to outgoing connections, so that it is free again at a restart; apart from those of labs that begin at the same time. */
static unsigned choose_port(const struct lab *lab)
{
	for (unsigned i = 0, port = 10000 + hash_of(lab->dir) % 18000; i < 4000; i++, port++)
		if (!port_used_by_us(lab, port) && port_free(port))
			return port;
	return 0;
}

static void choose_ports(struct lab *lab, unsigned from)
{
	if (!lab->api_port)
		lab->api_port = lab->netns ? 7443 : choose_port(lab);
	if (!lab->agent_port)
		lab->agent_port = lab->netns ? 7440 : choose_port(lab);
	for (unsigned i = from; i < lab->node_count; i++)
		lab->nodes[i]->port = lab->netns ? 7441 : choose_port(lab);
}

static void group_of(const struct lab *lab, unsigned index, char ret[16])
{
	snprintf(ret, 16, "g%u", (index - 1) % lab->groups + 1);
}

static int prepare(struct lab *lab, const struct lab_options *o, struct cdm_error *err)
{
	lab->netns = o->netns;
	lab->rate = o->rate ? lab_format("%s", o->rate) : NULL;
	lab->journal = o->journal ? lab_format("%s", o->journal) : NULL;
	lab->certificate_life = o->certificate_life ? lab_format("%s", o->certificate_life) : NULL;
	lab->delay_us = o->delay_us;
	lab->groups = o->groups ?: 1;
	lab->regions = o->regions ?: 1;
	for (unsigned i = 1; i <= o->nodes; i++) {
		char group[16];
		group_of(lab, i, group);
		lab_node_new(lab, i, group);
	}
	choose_ports(lab, 0);
	int r = lab_check_filesystem(lab->dir, err);
	if (r == 0 && mkdirat(lab->dir_fd, "logs", 0755) < 0 && errno != EEXIST)
		r = cdm_fail(err, errno, "create %s/logs", lab->dir);
	return r < 0 ? r : lab_state_save(lab, err);
}

static int bring_up_new(struct lab *lab, const struct lab_options *o, struct cdm_error *err)
{
	int r = lab->netns ? lab_net_up(lab, err) : 0;
	if (r == 0)
		r = lab_master_start(lab, err);
	if (r == 0)
		r = lab_install(lab, err);
	if (r == 0)
		r = lab_nodes_join(lab, 0, err);
	if (r == 0)
		r = lab_install_set(lab, o, err);
	lab->installed = r == 0;
	if (r == 0)
		r = lab_nodes_start(lab, 0, err);
	return r;
}

/* All programs again, with what they kept on disk. */
static int bring_up_again(struct lab *lab, struct cdm_error *err)
{
	int r = lab->netns ? lab_net_up(lab, err) : 0;
	if (r == 0)
		r = lab_master_start(lab, err);
	if (r == 0)
		r = lab_nodes_start(lab, 0, err);
	return r;
}

static int check_same(const struct lab *lab, const struct lab_options *o, struct cdm_error *err)
{
	if ((o->nodes && o->nodes != lab->node_count) || o->netns != lab->netns) {
		cdm_fail_plain(err, EEXIST, "%s holds a lab of %u nodes %s network namespaces that is down", lab->dir, lab->node_count,
			lab->netns ? "with" : "without");
		cdm_hint(err, "start it again with the same options, or remove it with `lab down --purge --dir %s`", lab->dir);
		return -EEXIST;
	}
	return 0;
}

/* D as a directory that may become a lab: new, empty or a lab that is down. */
static int enter_directory(const char *dir, struct lab **ret, bool *ret_again, struct cdm_error *err)
{
	int r = cdm_make_dirs(dir, 0755, err);
	if (r == 0)
		r = lab_attach(dir, true, ret, err);
	if (r < 0)
		return r;
	struct lab *lab = *ret;
	struct sockaddr_un address;
	*ret_again = faccessat(lab->dir_fd, "lab.json", F_OK, 0) == 0;
	if (strlen(lab->dir) + strlen("/n100/run/control.sock") >= sizeof address.sun_path)
		return cdm_fail_plain(err, ENAMETOOLONG, "%s: the name is too long for the sockets below it (at most %zu bytes)", lab->dir,
			sizeof address.sun_path - strlen("/n100/run/control.sock") - 1);
	if (*ret_again) {
		r = lab_state_load(lab, err);
		if (r == 0 && lab_something_runs(lab)) {
			r = cdm_fail_plain(err, EBUSY, "%s holds a lab that runs", lab->dir);
			cdm_hint(err, "end it with `lab down --dir %s`", lab->dir);
		}
	} else if (!directory_empty(lab->dir_fd)) {
		r = cdm_fail_plain(err, ENOTEMPTY, "%s is not empty and holds no lab", lab->dir);
		cdm_hint(err, "choose a new or an empty directory");
	}
	return r;
}

/* One that never came up holds nothing of worth: its parts go, the directory is empty again. */
static int clear_remains(struct lab *lab, struct cdm_error *err)
{
	static const char *const folders[] = {"master", "logs"}, *const files[] = {"admin.token", "lab.json"};
	int r = 0;
	for (unsigned i = 0; r == 0 && i < lab->node_count; i++)
		r = lab_remove_tree(lab->nodes[i]->dir, err);
	for (size_t i = 0; r == 0 && i < sizeof folders / sizeof *folders; i++) {
		_cleanup_free_ char *path = lab_format("%s/%s", lab->dir, folders[i]);
		r = lab_remove_tree(path, err);
	}
	for (size_t i = 0; r == 0 && i < sizeof files / sizeof *files; i++)
		if (unlinkat(lab->dir_fd, files[i], 0) < 0 && errno != ENOENT)
			r = cdm_fail(err, errno, "remove %s/%s", lab->dir, files[i]);
	return r;
}

/* D as a lab to bring up. *ret_again: it was up before. */
static int enter(const struct lab_options *o, struct lab **ret, bool *ret_again, struct cdm_error *err)
{
	int r = enter_directory(o->dir, ret, ret_again, err);
	if (r == 0 && *ret_again && !(*ret)->installed) {
		r = clear_remains(*ret, err);
		lab_close(ret);
		if (r == 0)
			r = enter_directory(o->dir, ret, ret_again, err);
	}
	if (r == 0)
		r = *ret_again ? check_same(*ret, o, err) : check_options(o, err);
	return r;
}

int lab_up(const struct lab_options *options, struct lab **ret, struct cdm_error *err)
{
	struct lab *lab = NULL;
	bool again = false;
	int r = check_machine(options, err);
	if (r == 0)
		r = enter(options, &lab, &again, err);
	if (r < 0) {
		lab_close(&lab);
		return r;
	}
	if (!again)
		r = prepare(lab, options, err);
	if (r == 0)
		r = again ? bring_up_again(lab, err) : bring_up_new(lab, options, err);
	if (r == 0)
		r = lab_wait_ready(lab, LAB_READY_MS, err);
	if (r < 0) {
		lab_end_everything(lab, NULL); /* its lab.json stays, for `down --purge` and the next `up` */
		lab_close(&lab);
		return r;
	}
	*ret = lab;
	return 0;
}

int lab_add_node(struct lab *lab, const char *group, const char **ret_name, struct cdm_error *err)
{
	if (lab->node_count == LAB_NODES_MAX)
		return cdm_fail_plain(err, ENOSPC, "a lab has at most %d nodes", LAB_NODES_MAX);
	unsigned before = lab->node_count;
	char next[16];
	group_of(lab, before + 1, next);
	struct lab_node *node = lab_node_new(lab, before + 1, group ?: next);
	choose_ports(lab, before);
	int r = lab_state_save(lab, err);
	if (r == 0 && lab->netns)
		r = lab_net_add_nodes(lab, before, err);
	if (r == 0)
		r = lab_nodes_join(lab, before, err);
	if (r == 0)
		r = lab_nodes_start(lab, before, err);
	*ret_name = node->name;
	return r;
}

int lab_down(struct lab *lab, struct cdm_error *err)
{
	return lab_end_everything(lab, err);
}

int lab_remove(struct lab *lab, struct cdm_error *err)
{
	if (lab_something_runs(lab))
		return cdm_fail_plain(err, EBUSY, "%s still runs", lab->dir);
	return lab_remove_tree(lab->dir, err);
}

/* -- looking ----------------------------------------------------------------------------------------------------- */

static json_t *pid_json(struct lab *lab, const char *node, enum lab_program program)
{
	pid_t pid = lab_pid(lab, node, program);
	return pid ? json_integer(pid) : json_null();
}

json_t *lab_status(struct lab *lab)
{
	json_t *nodes = json_array();
	for (unsigned i = 0; i < lab->node_count; i++) {
		const struct lab_node *node = lab->nodes[i];
		json_array_append_new(nodes,
			json_pack("{s:s,s:s,s:s,s:s?,s:s,s:s,s:{s:o,s:o,s:o,s:o}}", "name", node->name, "mount", node->mount, "store", node->store,
				"netns", node->netns, "ifname", node->netns ? "eth0" : "lo", "addr", node->addr, "pids", "cdmfs",
				pid_json(lab, node->name, LAB_SERVER), "replicator", pid_json(lab, node->name, LAB_REPLICATOR), "holder",
				pid_json(lab, node->name, LAB_HOLDER), "watcher", pid_json(lab, node->name, LAB_WATCHER)));
	}
	return json_pack("{s:{s:s,s:o},s:o}", "master", "url", lab->url ?: "", "pid", pid_json(lab, NULL, LAB_MASTER), "nodes", nodes);
}
