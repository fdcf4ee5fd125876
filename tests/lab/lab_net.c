/* SPDX-License-Identifier: Apache-2.0 */
/* lab_net.c — the network of a lab: a namespace for each node, one for the master, one with the bridge between them.
 *
 *   cdm-<hash>-n1: eth0 ──veth── p1 ┐
 *   cdm-<hash>-n2: eth0 ──veth── p2 ┼ br0 in cdm-<hash>-net          with a delay: eth0 and p1 are TAP devices and
 *   cdm-<hash>-master: eth0 ─veth─ p0 ┘                              lab-wire carries the frames between them
 *
 * The namespaces are files in /run/netns, as `ip netns` makes them, so that its commands work with them. A rate is a tbf on
 * both ends; a cut is the bridge's end taken down, which takes the carrier from the node as a pulled cable does. */
#include "tests/lab/lab_private.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NETNS_DIR "/run/netns"

char *lab_netns_name(const struct lab *lab, const char *who)
{
	return lab_format("%s-%s", lab->tag, who);
}

int lab_net_enter(const char *netns, struct cdm_error *err)
{
	_cleanup_free_ char *path = lab_format(NETNS_DIR "/%s", netns);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		return cdm_fail(err, errno, "enter the network namespace %s", netns);
	return 0;
}

int lab_net_check(struct cdm_error *err)
{
	static const char *const tools[] = {"ip", "tc"};
	static const char *const folders[] = {"/usr/sbin", "/sbin", "/usr/bin", "/bin"};
	for (size_t t = 0; t < 2; t++) {
		bool found = false;
		for (size_t i = 0; i < sizeof folders / sizeof *folders && !found; i++) {
			_cleanup_free_ char *path = lab_format("%s/%s", folders[i], tools[t]);
			found = access(path, X_OK) == 0;
		}
		if (!found) {
			cdm_fail_plain(err, ENOENT, "--netns needs the program %s", tools[t]);
			cdm_hint(err, "install the package iproute2, or run scripts/deps");
			return -ENOENT;
		}
	}
	return 0;
}

/* -- namespaces -------------------------------------------------------------------------------------------------- */

static int loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo"};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return -errno;
	request.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

/* A child makes the namespace and pins it to the file; the mount namespace is shared with us. */
static int netns_new(const char *name, struct cdm_error *err)
{
	_cleanup_free_ char *path = lab_format(NETNS_DIR "/%s", name);
	mkdir(NETNS_DIR, 0755);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
	if (fd < 0)
		return cdm_fail(err, errno, "create the network namespace %s", name);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		int e = unshare(CLONE_NEWNET) < 0 ? errno : 0;
		if (!e && loopback_up() < 0)
			e = EIO;
		if (!e && mount("/proc/self/ns/net", path, "none", MS_BIND, NULL) < 0)
			e = errno;
		_exit(e);
	}
	int status = 0;
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return cdm_fail(err, errno, "create the network namespace %s", name);
	if (status != 0) {
		unlink(path);
		return cdm_fail(err, WIFEXITED(status) ? WEXITSTATUS(status) : EIO, "create the network namespace %s", name);
	}
	return 0;
}

void lab_net_each(const struct lab *lab, void (*fn)(void *arg, const char *name, ino_t ino), void *arg)
{
	_cleanup_free_ char *prefix = lab_format("%s-", lab->tag);
	DIR *dir = opendir(NETNS_DIR);
	if (!dir)
		return;
	for (struct dirent *entry; (entry = readdir(dir));) {
		struct stat st;
		if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && fstatat(dirfd(dir), entry->d_name, &st, 0) == 0)
			fn(arg, entry->d_name, st.st_ino);
	}
	closedir(dir);
}

static void netns_remove(void *arg, const char *name, ino_t ino)
{
	struct cdm_error *err = arg;
	_cleanup_free_ char *path = lab_format(NETNS_DIR "/%s", name);
	if (umount2(path, MNT_DETACH) < 0 && errno != EINVAL) /* EINVAL: the file without a namespace */
		cdm_fail(err, errno, "unmount %s", path);
	if (unlink(path) < 0)
		cdm_fail(err, errno, "remove %s", path);
}

int lab_net_down(struct lab *lab, struct cdm_error *err)
{
	struct cdm_error failure = CDM_ERROR_INIT;
	lab_net_each(lab, netns_remove, &failure);
	rmdir(NETNS_DIR); /* only if it is empty and nobody's mount */
	if (failure.number && err)
		*err = failure;
	return -failure.number;
}

/* -- links ------------------------------------------------------------------------------------------------------- */

static int batch(struct lab *lab, const char *tool, const char *netns, const char *commands, struct cdm_error *err)
{
	const char *const argv[] = {tool, "-n", netns, "-batch", "-", NULL};
	return lab_tool_ok(lab, NULL, NULL, argv, commands, NULL, err);
}

int lab_rate_parse(const char *text, uint64_t *ret_bits, struct cdm_error *err)
{
	static const struct {
		const char *unit;
		double bits;
	} units[] = {{"", 1}, {"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}};
	char *end;
	double number = strtod(text, &end);
	for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++)
		if (strcasecmp(end, units[i].unit) == 0 && number * units[i].bits >= 8000 && number * units[i].bits <= 1e12) {
			*ret_bits = (uint64_t)(number * units[i].bits);
			return 0;
		}
	return cdm_fail_plain(err, EINVAL, "'%s' is not a rate: write 100mbit, 512kbit, 1gbit (8kbit to 1000gbit)", text);
}

static int shape(struct lab *lab, const char *netns, const char *device, const char *rate, struct cdm_error *err)
{
	uint64_t bits = 0;
	_cleanup_free_ char *commands = NULL;
	if (rate) {
		int r = lab_rate_parse(rate, &bits, err);
		if (r < 0)
			return r;
		uint64_t burst = bits / 8 / 250; /* what a timer tick lets through */
		commands = lab_format("qdisc replace dev %s root tbf rate %llubit burst %llu latency 100ms\n", device, (unsigned long long)bits,
			(unsigned long long)(burst > 8000 ? burst : 8000));
	} else {
		const char *const argv[] = {"tc", "-n", netns, "qdisc", "del", "dev", device, "root", NULL};
		lab_tool(lab, NULL, NULL, argv, NULL, NULL, NULL); /* there may be none */
		return 0;
	}
	return batch(lab, "tc", netns, commands, err);
}

static int shape_node(struct lab *lab, const struct lab_node *node, const char *rate, struct cdm_error *err)
{
	_cleanup_free_ char *net = lab_netns_name(lab, "net"), *port = lab_format("p%u", node->index);
	int r = shape(lab, node->netns, "eth0", rate, err);
	return r < 0 ? r : shape(lab, net, port, rate, err);
}

static int wire_start(struct lab *lab, struct lab_node *node, struct cdm_error *err)
{
	_cleanup_free_ char *path = lab_program_path(lab, "tests/lab", "lab-wire"), *net = lab_netns_name(lab, "net");
	_cleanup_free_ char *port = lab_format("p%u", node->index);
	_cleanup_free_ char *delay = lab_format("%lld", (long long)lab->delay_us / 2); /* two wires between two nodes */
	const char *const argv[] = {path, node->netns, "eth0", net, port, delay, NULL};
	struct lab_spawn spawn = {.argv = argv, .wait_ready = true};
	snprintf(spawn.name, sizeof spawn.name, "%s-wire", node->name);
	int r = lab_spawn_start(lab, &spawn, err);
	if (r == 0)
		r = lab_spawn_wait(lab, &spawn, LAB_READY_MS, err);
	node->wire = spawn.process;
	return r;
}

static int host_up(struct lab *lab, const char *netns, const char *addr, struct cdm_error *err)
{
	_cleanup_free_ char *commands = lab_format("link set dev eth0 addrgenmode none\nlink set dev eth0 up\naddr add %s/24 dev eth0\n", addr);
	return batch(lab, "ip", netns, commands, err);
}

static int plug(struct lab *lab, const char *netns, unsigned port, bool veth, struct cdm_error *err)
{
	_cleanup_free_ char *net = lab_netns_name(lab, "net");
	_cleanup_free_ char *link = veth ? lab_format("link add name p%u type veth peer name eth0 netns %s\n", port, netns) : lab_format("%s", "");
	_cleanup_free_ char *commands = lab_format("%slink set dev p%u addrgenmode none\nlink set dev p%u master br0\nlink set dev p%u up\n",
		link, port, port, port);
	return batch(lab, "ip", net, commands, err);
}

static int node_plug(struct lab *lab, struct lab_node *node, struct cdm_error *err)
{
	int r = netns_new(node->netns, err);
	if (r == 0 && lab->delay_us > 0)
		r = wire_start(lab, node, err);
	if (r == 0)
		r = plug(lab, node->netns, node->index, lab->delay_us == 0, err);
	if (r == 0)
		r = host_up(lab, node->netns, node->addr, err);
	if (r == 0 && node->rate)
		r = shape_node(lab, node, node->rate, err);
	return r < 0 ? cdm_wrap(err, r, "network of %s", node->name) : 0;
}

int lab_net_add_nodes(struct lab *lab, unsigned from, struct cdm_error *err)
{
	for (unsigned i = from; i < lab->node_count; i++) {
		int r = node_plug(lab, lab->nodes[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

int lab_net_up(struct lab *lab, struct cdm_error *err)
{
	_cleanup_free_ char *net = lab_netns_name(lab, "net"), *master = lab_netns_name(lab, "master");
	_cleanup_free_ char *addr = lab_format("10.%u.%u.254", lab->subnet >> 8, lab->subnet & 255);
	int r = netns_new(net, err);
	if (r == 0)
		r = netns_new(master, err);
	if (r == 0)
		r = batch(lab, "ip", net,
			"link add name br0 type bridge mcast_snooping 0\nlink set dev br0 addrgenmode none\nlink set dev br0 up\n", err);
	if (r == 0)
		r = plug(lab, master, 0, true, err);
	if (r == 0)
		r = host_up(lab, master, addr, err);
	if (r < 0)
		return cdm_wrap(err, r, "network of the lab");
	return lab_net_add_nodes(lab, 0, err);
}

/* -- verbs ------------------------------------------------------------------------------------------------------- */

static struct lab_node *netns_node(struct lab *lab, const char *name, const char *what, struct cdm_error *err)
{
	struct lab_node *node = lab_node_find(lab, name, err);
	if (node && !lab->netns) {
		cdm_fail_plain(err, EOPNOTSUPP, "cannot %s %s: this lab has no network namespaces", what, name);
		cdm_hint(err, "start it with `lab up --netns`");
		return NULL;
	}
	return node;
}

static int set_port(struct lab *lab, const char *name, const char *what, const char *state, struct cdm_error *err)
{
	struct lab_node *node = netns_node(lab, name, what, err);
	if (!node)
		return -EOPNOTSUPP;
	_cleanup_free_ char *net = lab_netns_name(lab, "net"), *commands = lab_format("link set dev p%u %s\n", node->index, state);
	return batch(lab, "ip", net, commands, err);
}

int lab_cut(struct lab *lab, const char *node, struct cdm_error *err)
{
	return set_port(lab, node, "cut", "down", err);
}

int lab_heal(struct lab *lab, const char *node, struct cdm_error *err)
{
	return set_port(lab, node, "heal", "up", err);
}

int lab_slow(struct lab *lab, const char *name, const char *rate, struct cdm_error *err)
{
	struct lab_node *node = netns_node(lab, name, "slow", err);
	if (!node)
		return -EOPNOTSUPP;
	bool off = strcmp(rate, "off") == 0;
	int r = shape_node(lab, node, off ? NULL : rate, err);
	if (r < 0)
		return r;
	free(node->rate);
	node->rate = off ? NULL : lab_format("%s", rate);
	return lab_state_save(lab, err);
}
