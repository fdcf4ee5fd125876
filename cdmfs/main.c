/* SPDX-License-Identifier: Apache-2.0 */
/* main.c — which of the three processes of a mount is this? (holder.h) */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include "cdmfs/holder.h"
#include "cdmfs/server.h"

enum { OPT_ROLE = 256, OPT_FUSE, OPT_WATCH, OPT_READY, OPT_CONFIG, OPT_SET, OPT_RESUME };

static int child_main(int argc, char **argv, const char *name, int (*body)(struct child_options *))
{
	static const struct option longs[] = {
		{"server", no_argument, NULL, OPT_ROLE}, {"watcher", no_argument, NULL, OPT_ROLE},
		{"fuse-fd", required_argument, NULL, OPT_FUSE}, {"watch-fd", required_argument, NULL, OPT_WATCH},
		{"ready-fd", required_argument, NULL, OPT_READY}, {"config", required_argument, NULL, OPT_CONFIG},
		{"set", required_argument, NULL, OPT_SET}, {"resume", no_argument, NULL, OPT_RESUME}, {0}};
	struct child_options o = {.fuse_fd = -1, .watch_fd = -1, .ready_fd = -1};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case OPT_ROLE:
			break;
		case OPT_FUSE:
			o.fuse_fd = atoi(optarg);
			break;
		case OPT_WATCH:
			o.watch_fd = atoi(optarg);
			break;
		case OPT_READY:
			o.ready_fd = atoi(optarg);
			break;
		case OPT_CONFIG:
			o.config = optarg;
			break;
		case OPT_SET:
			o.set = optarg;
			break;
		case OPT_RESUME:
			o.resume = true;
			break;
		default:
			return 2;
		}
	}
	if (!o.set || o.watch_fd < 0) {
		fprintf(stderr, "cdmfs: --server and --watcher are started by the holder, not by hand\n");
		return 2;
	}
	prctl(PR_SET_NAME, name);
	return body(&o);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--server") == 0)
		return child_main(argc, argv, "cdmfs", server_main);
	if (argc > 1 && strcmp(argv[1], "--watcher") == 0)
		return child_main(argc, argv, "cdmfs-watcher", watcher_main);
	return holder_main(argc, argv);
}
