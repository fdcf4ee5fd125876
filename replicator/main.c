/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif
#include "common/log.h"
#include "replicator/hold_command.h"
#include "replicator/join.h"
#include "replicator/node.h"

#define PROGRAM "cdm-replicator"
#define EXIT_USAGE 2

static const char usage[] =
	"usage: cdm-replicator [--config FILE]\n"
	"       cdm-replicator join HOST[:PORT] --token T [--name N] [--config FILE]\n"
	"       cdm-replicator hold list | approve H | reject H [--config FILE]\n"
	"The first runs in the foreground and replicates all sets of the configuration (default /etc/cdmfs/node.conf);\n"
	"SIGTERM ends it, SIGHUP reads the configuration again. The second makes this machine a node of an installation.\n"
	"The third shows what this node's replicator holds because it would remove much here, and decides it, as cdmctl hold does.\n"
	"Exit codes: 0 good, 1 failure, 2 usage, 4 time-out, 5 the name is taken or this node has joined already.\n";

static void notify(const char *what)
{
#ifdef HAVE_LIBSYSTEMD
	sd_notify(0, what);
#endif
}

struct signals {
	struct node *node;
	int fd;
};

static void signal_ready(void *arg, int result)
{
	struct signals *s = arg;
	struct signalfd_siginfo info;
	if (result < 0 || s->node->stopping)
		return;
	while (read(s->fd, &info, sizeof info) == sizeof info) {
		struct cdm_error err = CDM_ERROR_INIT;
		if (info.ssi_signo != SIGHUP) {
			cdm_log(stop, cdm_str("program", PROGRAM), cdm_str("reason", strsignal((int)info.ssi_signo)));
			notify("STOPPING=1");
			node_stop(s->node);
			return;
		}
		if (node_reload(s->node, &err) < 0)
			cdm_log_err(reload_failed, &err);
	}
	cdm_loop_poll(s->node->loop, s->fd, POLLIN, signal_ready, s);
}

static int signals_open(struct cdm_error *err)
{
	sigset_t wanted;
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGHUP);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	int fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? cdm_fail(err, errno, "make a signalfd") : fd;
}

static void raise_limits(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Pieces of content come and go by the thousand: without this each is mapped, cleared and given back for itself. What one thread has filled another one
 * empties: with an arena for each of them all have holes, and the program takes half as much again. */
static void keep_memory(void)
{
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_MMAP_THRESHOLD, 16 << 20);
	mallopt(M_TRIM_THRESHOLD, 16 << 20);
}

static int run(const char *config)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct signals signals = {.fd = signals_open(&err)};
	raise_limits();
	keep_memory();
	int r = signals.fd < 0 ? signals.fd : node_new(config, &signals.node, &err);
	if (r < 0) {
		cdm_log_err(failed, &err);
		return EXIT_FAILURE;
	}
	cdm_log(start, cdm_str("program", PROGRAM), cdm_str("version", CDM_VERSION));
	cdm_loop_poll(signals.node->loop, signals.fd, POLLIN, signal_ready, &signals);
	node_add_sets(signals.node);
	notify("READY=1");
	r = cdm_loop_run(signals.node->loop);
	if (r < 0) { /* the ring itself is broken: nothing could be taken down in order */
		cdm_fail(&err, -r, "wait for events");
		cdm_log_err(failed, &err);
		_exit(EXIT_FAILURE);
	}
	node_free(&signals.node);
	close(signals.fd);
	return EXIT_SUCCESS;
}

static int fail_usage(const char *what)
{
	fprintf(stderr, PROGRAM ": %s\n%s", what, usage);
	return EXIT_USAGE;
}

static int hold(const char *config, char **words, int count)
{
	struct cdm_error err = CDM_ERROR_INIT;
	bool list = count == 1 && strcmp(words[0], "list") == 0;
	bool decide = count == 2 && (strcmp(words[0], "approve") == 0 || strcmp(words[0], "reject") == 0);
	if (!list && !decide)
		return fail_usage("hold wants list, approve H or reject H");
	int code = hold_command(config, decide ? words[0] : NULL, decide ? words[1] : NULL, &err);
	if (code)
		cdm_error_print(PROGRAM, &err);
	return code;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'}, {"token", required_argument, NULL, 't'}, {"name", required_argument, NULL, 'n'},
		{"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {0},
	};
	const char *config = NULL, *token = NULL, *name = NULL;
	for (int c; (c = getopt_long(argc, argv, "c:t:n:hV", options, NULL)) != -1;) {
		switch (c) {
		case 'c':
			config = optarg;
			break;
		case 't':
			token = optarg;
			break;
		case 'n':
			name = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return EXIT_SUCCESS;
		case 'V':
			puts(PROGRAM " " CDM_VERSION);
			return EXIT_SUCCESS;
		default:
			fputs(usage, stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc && strcmp(argv[optind], "hold") == 0 && !token && !name)
		return hold(config, argv + optind + 1, argc - optind - 1);
	bool join = optind < argc && strcmp(argv[optind], "join") == 0;
	if (!join && optind < argc)
		return fail_usage("unknown command");
	if (!join)
		return token || name ? fail_usage("--token and --name belong to join") : run(config);
	if (optind + 2 != argc)
		return fail_usage("join wants one HOST[:PORT]");
	if (!token)
		return fail_usage("join wants --token");
	struct cdm_error err = CDM_ERROR_INIT;
	signal(SIGPIPE, SIG_IGN);
	int code = join_run(config, argv[optind + 1], token, name, &err);
	if (code)
		cdm_error_print(PROGRAM, &err);
	return code;
}
